//! What little is left of a budget changes about a choice.

use super::RouteAsk;
use crate::types::{Task, Tier};

/// How much a choice saves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Thrift {
    /// There is enough.
    #[default]
    None,
    /// Less is left than what was set.
    Short,
    /// Less than half of that.
    Scarce,
}

impl Thrift {
    /// What a question calls for, where it starts below this many thousandths.
    pub(super) fn of(ask: &RouteAsk<'_>, below: u16) -> Self {
        match ask.health.budget_left {
            // Vectors of two models cannot be compared: there is nothing to downgrade to.
            _ if ask.task() == Task::Embedding => Self::None,
            Some(left) if left < below / 2 => Self::Scarce,
            Some(left) if left < below => Self::Short,
            _ => Self::None,
        }
    }

    /// The tier to look in, instead of this one.
    pub(super) const fn tier(self, asked: Tier) -> Tier {
        match (self, asked) {
            (Self::None, asked) => asked,
            (Self::Short, Tier::Large) => Tier::Mid,
            (Self::Short, Tier::Mid | Tier::Small) | (Self::Scarce, _) => Tier::Small,
        }
    }

    /// How many times as much the cost counts.
    pub(super) const fn cost(self) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Short => 2.0,
            Self::Scarce => 4.0,
        }
    }

    /// As a decision's reason ends.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Short => "; little of the budget is left",
            Self::Scarce => "; next to nothing of the budget is left",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        InferenceRequest, Price, Priority, Usd,
        router::{CatalogRouter, Health, ModelRoute, ModelRouter, Ranking},
        types::RouteId,
        usd,
    };

    fn route(model: &str, tier: Tier, dollars: Usd) -> ModelRoute {
        ModelRoute::new("together", model).tier(tier).price(Price::per_million(dollars, dollars))
    }

    /// A model a tier, and a better, dearer one beside the small.
    fn router() -> CatalogRouter {
        CatalogRouter::empty()
            .with(route("large", Tier::Large, usd!("4")))
            .with(route("mid", Tier::Mid, usd!("1")))
            .with(route("small", Tier::Small, usd!("0.10")))
            .with(route("fine", Tier::Small, usd!("0.15")).quality_score(0.9))
    }

    fn rank(router: &CatalogRouter, request: &InferenceRequest, left: Option<u16>) -> Ranking {
        let health = Health { budget_left: left };
        router.rank_now(&RouteAsk::new(request).with_health(health)).unwrap()
    }

    fn first(router: &CatalogRouter, request: &InferenceRequest, left: Option<u16>) -> String {
        rank(router, request, left).candidates[0].route.model().to_string()
    }

    #[test]
    fn little_money_steps_down_a_tier_and_next_to_none_to_the_small_one() {
        let router = router().downgrade_below(20);
        let urgent = InferenceRequest::chat("hi").priority(Priority::Realtime);
        let models = [None, Some(1_000), Some(200), Some(199), Some(100), Some(99), Some(0)];
        let firsts = models.map(|left| first(&router, &urgent, left));
        assert_eq!(firsts, ["large", "large", "large", "mid", "mid", "fine", "fine"]);
        // With money, twice the quality is worth half as much again in price; without, it is not.
        let small = InferenceRequest::chat("hi").tier(Tier::Small);
        let firsts = [Some(999), Some(150), Some(50)].map(|left| first(&router, &small, left));
        assert_eq!(firsts, ["fine", "small", "small"]);
    }

    #[test]
    fn it_says_so_and_leaves_the_others_to_fall_back_to() {
        let router = router().downgrade_below(20);
        let ranking = rank(&router, &InferenceRequest::chat("hi").priority(Priority::Realtime), Some(50));
        assert!(ranking.decision.reason.ends_with("next to nothing of the budget is left"), "{}", ranking.decision);
        assert_eq!(ranking.candidates.len(), 4, "availability comes before thrift");
        let plenty = rank(&router, &InferenceRequest::chat("hi").priority(Priority::Realtime), Some(900));
        assert_ne!(plenty.decision.settings, ranking.decision.settings, "a replay must know");
    }

    #[test]
    fn what_a_request_names_is_kept_and_nothing_changes_unless_asked_for() {
        let thrifty = router().downgrade_below(20);
        let named = InferenceRequest::chat("hi").tier(Tier::Large);
        assert_eq!(first(&thrifty, &named, Some(1)), "large");
        assert_eq!(first(&thrifty, &InferenceRequest::chat("hi").model("mid"), Some(1)), "mid");
        let urgent = InferenceRequest::chat("hi").priority(Priority::Realtime);
        assert_eq!(first(&router(), &urgent, Some(1)), "large");
    }

    #[test]
    fn a_price_that_is_told_counts_at_the_next_ranking() {
        let router = router();
        let batch = InferenceRequest::chat("hi").priority(Priority::Batch);
        let before = first(&router, &batch, None);
        let free: Vec<_> = ["small", "fine"]
            .into_iter()
            .filter(|model| *model != before)
            .map(|model| (RouteId::new("together", model), Price::FREE))
            .collect();
        router.reprice(&free);
        assert_eq!(first(&router, &batch, None), free[0].0.model().to_string());
        router.reprice(&[(RouteId::new("together", "unheard-of"), Price::FREE)]);
        assert_eq!(router.routes().len(), 4);
    }
}
