//! A wrapper of a dozen lines, and a router from scratch.

use together_inference::{
    RouteId, Tier, async_trait,
    inference::{Decision, ModelRef, Rejection, Selection},
    router::{Candidate, CatalogRouter, ModelRouter, NoRoute, Ranking, RouteAsk, RouteLimits},
};

/// Free users never get a large model.
#[derive(Debug)]
pub struct ByPlan(pub CatalogRouter);

#[async_trait]
impl ModelRouter for ByPlan {
    async fn rank(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
        let free = ask.request.tags_of().any(|tag| tag == ("plan", "free"));
        let limits = if free { RouteLimits::default().tier(Tier::Small) } else { RouteLimits::default() };
        self.0.rank(&ask.with_limits(limits)).await
    }

    fn inner(&self) -> Option<&dyn ModelRouter> {
        Some(&self.0)
    }
}

/// One route for everything.
#[derive(Debug)]
pub struct OnlyOne(pub RouteId);

#[async_trait]
impl ModelRouter for OnlyOne {
    async fn rank(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
        let named = |models: &[ModelRef]| models.iter().any(|model| model.matches(&self.0));
        let wanted = match ask.request.selection() {
            Selection::Any => true,
            selection => named(selection.named()),
        };
        let there = ask.request.upstream_of().is_none_or(|upstream| upstream == self.0.upstream());
        if !wanted || !there || !ask.limits.admits(self.0.model()) {
            return Err(NoRoute::new("there is one model only", vec![(self.0.clone(), Rejection::Excluded)]));
        }
        let decision = Decision::new("only-one", ask.task(), ask.priority(), ask.tier(), "there is no other");
        Ok(Ranking::new([Candidate::new(self.0.clone())], decision))
    }
}
