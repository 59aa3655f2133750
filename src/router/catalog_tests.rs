use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    InferenceRequest, ModelId, Price, Priority, Task, Tier, Usage, Usd,
    client::ErrorKind,
    inference::{Decision, JsonNeed, ModelRef, Needs, Rejection},
    router::{Candidate, Capabilities, Known, RouteLimits, filter},
    usd,
};

fn chat() -> InferenceRequest {
    InferenceRequest::chat("Why is the sky blue?")
}

fn rank(router: &CatalogRouter, request: &InferenceRequest) -> Result<Ranking, NoRoute> {
    router.rank_now(&RouteAsk::new(request))
}

fn decide(router: &CatalogRouter, request: &InferenceRequest) -> String {
    rank(router, request).unwrap().decision.to_string()
}

fn models(ranking: &Ranking) -> Vec<&str> {
    ranking.candidates.iter().map(|one| one.route.model().as_str()).collect()
}

fn route(model: &str) -> ModelRoute {
    ModelRoute::new("together", model).tier(Tier::Mid).price(Price::per_million(usd!("1"), usd!("1")))
}

fn id(model: &str) -> RouteId {
    RouteId::new("together", model)
}

fn of<const N: usize>(routes: [ModelRoute; N]) -> CatalogRouter {
    routes.into_iter().fold(CatalogRouter::empty(), CatalogRouter::with)
}

#[test]
fn unconfigured_each_priority_gets_its_tier_and_says_so() {
    let router = CatalogRouter::builtin();
    for (request, said) in [
        (chat().priority(Priority::Realtime), "DeepSeek-V4-Pro-0813 (large: realtime; best of 6)"),
        (chat(), "DeepSeek-V4.1-Flash (mid: standard; best of 5)"),
        (chat().priority(Priority::Batch), "Qwen3.5-9B (small: batch; best of 7)"),
        (chat().priority(Priority::Batch).tier(Tier::Small), "Qwen3.5-9B (small: named tier; best of 7)"),
        (chat().tier(Tier::Small), "Qwen3.5-9B (small: named tier; best of 7)"),
        (InferenceRequest::code("fn").priority(Priority::Realtime), "GLM-5.3 (large: realtime; best of 1)"),
        (InferenceRequest::code("fn"), "DeepSeek-V4.1-Flash (mid: standard; best of 1)"),
        (
            InferenceRequest::code("fn").priority(Priority::Batch),
            "DeepSeek-V4.1-Flash (mid: batch; no small one fits; best of 1)",
        ),
        (
            InferenceRequest::new(Task::Embedding),
            "multilingual-e5-large-instruct (embedding: tiers do not apply; best of 1)",
        ),
        (InferenceRequest::new(Task::Image), "FLUX.1.1-pro (mid: standard; best of 2)"),
    ] {
        assert_eq!(decide(&router, &request), said);
    }
}

#[test]
fn other_tiers_stand_behind_the_nearest_dearer_first() {
    // Free, so that nothing but the order of tiers keeps it back.
    let small = route("s").tier(Tier::Small).price(Price::FREE);
    let router = of([small, route("m"), route("l").tier(Tier::Large)]);
    for (tier, order) in [(Tier::Small, ["s", "m", "l"]), (Tier::Mid, ["m", "l", "s"]), (Tier::Large, ["l", "m", "s"])]
    {
        assert_eq!(models(&rank(&router, &chat().tier(tier)).unwrap()), order);
    }
}

#[test]
fn equals_stand_in_the_order_of_their_ids() {
    let tier = |at: usize| [Tier::Large, Tier::Small, Tier::Mid][at % 3];
    let router = CatalogRouter::of((0..90).map(|at| route(&format!("m{at:02}")).tier(tier(at))).collect());
    let ranking = rank(&router, &chat()).unwrap();
    for tier in ranking.candidates.chunks(30) {
        assert!(tier.is_sorted_by(|a, b| a.route < b.route), "{tier:?}");
    }
}

#[test]
fn a_decision_of_the_shipped_catalogue_is_short() {
    let decision = rank(&CatalogRouter::builtin(), &chat()).unwrap().decision;
    assert_eq!(decision.ranked.len() + decision.rejected.len(), 19);
    assert!(format!("{decision:#}").len() <= 2_048, "{decision:#}");
}

#[test]
fn a_preview_a_retired_and_a_new_route_are_never_a_default_and_are_named() {
    let mut preview = route("preview");
    preview.state = RouteState::Preview;
    let router = of([route("a"), preview, route("new").weight(0.0), route("old")]);
    router.retire(&id("old"), None).unwrap();
    let ranking = rank(&router, &chat()).unwrap();
    assert_eq!(models(&ranking), ["a"]);
    let left_out =
        [(id("new"), Rejection::NotInUse), (id("old"), Rejection::Retired), (id("preview"), Rejection::Preview)];
    assert_eq!(ranking.decision.rejected, left_out);
    for named in ["preview", "new"] {
        assert_eq!(models(&rank(&router, &chat().model(named)).unwrap()), [named]);
    }
}

#[test]
fn what_can_stands_before_what_may() {
    let can = route("z-can").capabilities(Capabilities::all()).price(Price::per_million(usd!("9"), usd!("9")));
    let cannot = route("cannot").capabilities(Capabilities::all().tools(Known::No));
    let router = of([route("may"), can, cannot]);
    let ranking = rank(&router, &chat().needs(Needs::none().tools())).unwrap();
    assert_eq!(models(&ranking), ["z-can", "may"]);
    assert_eq!(ranking.decision.rejected, [(id("cannot"), Rejection::NoTools)]);
    assert_eq!(models(&rank(&router, &chat()).unwrap())[0], "cannot");
}

#[test]
fn an_impossible_need_names_itself() {
    let blind = Capabilities::all().vision(Known::No);
    let dumb = Capabilities::all().tools(Known::No);
    let router = of([route("a").capabilities(blind), route("b").capabilities(dumb).context(100)]);
    let needs = |needs| rank(&router, &chat().needs(needs)).unwrap_err();
    let both = needs(Needs::none().vision().tools());
    assert_eq!(both.to_string(), "no chat model calls tools and reads pictures; 2 routes were left out");
    assert_eq!(both.rejected, [(id("a"), Rejection::NoVision), (id("b"), Rejection::NoTools)]);

    let none = rank(&of([route("a").capabilities(blind)]), &chat().needs(Needs::none().vision().tools()));
    assert_eq!(none.unwrap_err().to_string(), "no chat model reads pictures; 1 route was left out");
    let cheap = rank(&router, &chat().max_cost(usd!("0.000001"))).unwrap_err();
    assert_eq!(cheap.to_string(), "no chat model is known to cost at most $0.000001; 2 routes were left out");
    let far = rank(&router, &chat().upstream("moon")).unwrap_err();
    assert_eq!(far.to_string(), "no chat model is on upstream moon; 2 routes were left out");
    let empty = rank(&CatalogRouter::empty(), &chat()).unwrap_err();
    assert_eq!(empty.to_string(), "no chat model is known; register a route for it");
    let idle = rank(&of([route("a").weight(0.0)]), &chat()).unwrap_err();
    assert_eq!(idle.to_string(), "no chat model is in use; 1 route was left out");
}

#[test]
fn a_schema_needs_schemas_and_an_object_does_not() {
    let router = of([route("a").capabilities(Capabilities::all().json_schema(Known::No))]);
    assert!(rank(&router, &chat().needs(Needs::none().json(JsonNeed::Object))).is_ok());
    assert!(rank(&router, &chat().needs(Needs::none().json(JsonNeed::Schema))).is_err());
}

#[test]
fn a_ceiling_is_held_against_the_most_that_it_may_cost() {
    let router = of([route("priced"), ModelRoute::new("together", "unpriced").tier(Tier::Mid)]);
    // 20 bytes + 16 for the message + 4,096 tokens of answer at $1 a million.
    let at_most = usd!("0.004132");
    let ranking = rank(&router, &chat().max_cost(at_most)).unwrap();
    assert_eq!(ranking.decision.rejected, [(id("unpriced"), Rejection::Unpriced)]);
    let under = rank(&router, &chat().max_cost(at_most - Usd::from_nanos(1))).unwrap_err();
    assert_eq!(under.rejected[0], (id("priced"), Rejection::Cost { at_most }));
    assert!(rank(&router, &chat().max_tokens(10).max_cost(usd!("0.000046"))).is_ok());
    assert!(rank(&router, &chat().max_tokens(10).n(2).max_cost(usd!("0.000046"))).is_err());
}

#[test]
fn a_long_prompt_leaves_out_what_is_too_small_also_after_short_ones() {
    let router = of([route("tight").context(1_000), route("wide").context(100_000)]);
    let prompt = |bytes: usize| InferenceRequest::chat("x".repeat(bytes));
    for _ in 0..2 {
        assert_eq!(rank(&router, &prompt(40)).unwrap().candidates.len(), 2);
        // 3,900 bytes are 979 tokens with the message's own: it fits, though its bound of 3,916 would not.
        assert_eq!(rank(&router, &prompt(3_900)).unwrap().candidates.len(), 2);
        let long = rank(&router, &prompt(4_000)).unwrap();
        assert_eq!(models(&long), ["wide"]);
        let needed = Rejection::Context { needed: 1_004, available: 1_000 };
        assert_eq!(long.decision.rejected, [(id("tight"), needed)]);
        assert_eq!(models(&rank(&router, &chat().max_tokens(1_000)).unwrap()), ["wide"]);
    }
    let pinned = rank(&router, &prompt(40_000).model("tight")).unwrap();
    assert_eq!(models(&pinned), ["tight"]);
    assert!(rank(&router, &chat().model("tight").needs(Needs::none().context(1_000))).is_ok());
    assert!(rank(&router, &chat().model("tight").needs(Needs::none().context(1_001))).is_err());
}

#[test]
fn repeated_questions_share_one_ranking_until_the_routes_change() {
    let router = CatalogRouter::builtin();
    let (first, second) = (rank(&router, &chat()).unwrap(), rank(&router, &chat().temperature(0.1)).unwrap());
    assert!(Arc::ptr_eq(&first.candidates, &second.candidates));
    assert_eq!(router.register(route("free").price(Price::FREE)).unwrap(), Registered::New);
    assert_eq!(models(&rank(&router, &chat()).unwrap())[0], "free");
    let urgent = rank(&router, &chat().priority(Priority::Realtime)).unwrap();
    assert_ne!(models(&urgent)[0], "free");
}

#[test]
fn a_pin_is_served_by_its_routes_alone() {
    let router = of([route("a"), route("b")]).with(ModelRoute::new("local", "a"));
    let upstreams = |request: &InferenceRequest| -> Vec<String> {
        rank(&router, request).unwrap().candidates.iter().map(|one| one.route.to_string()).collect()
    };
    assert_eq!(upstreams(&chat().model("a")), ["local/a", "together/a"]);
    assert_eq!(upstreams(&chat().model("a").upstream("local")), ["local/a"]);
    assert_eq!(upstreams(&chat().model(id("a"))), ["together/a"]);
    assert_eq!(upstreams(&chat().model("unheard/of")), ["together/unheard/of"]);
    assert_eq!(upstreams(&chat().model("b").upstream("local")), ["local/b"]);
    assert_eq!(decide(&router, &chat().model("b")), "b (pin; best of 1)");
    let unknown = rank(&router, &chat().model("unheard/of")).unwrap();
    assert_eq!(unknown.candidates[0], Candidate::new(id("unheard/of")));
    assert!(rank(&router, &chat().model(id("a")).upstream("local")).is_err());
}

#[test]
fn a_pin_on_a_model_that_cannot_is_refused_by_name() {
    let router = of([route("a").capabilities(Capabilities::all().vision(Known::No))]);
    let refused = rank(&router, &chat().model("a").needs(Needs::none().vision())).unwrap_err();
    assert_eq!(refused.to_string(), "the pinned model cannot serve this request: together/a: does not read pictures");
    let ask = chat().model("a");
    let limited = RouteAsk::new(&ask).with_limits(RouteLimits::default().deny(["a"]));
    assert_eq!(router.rank_now(&limited).unwrap_err().rejected, [(id("a"), Rejection::Excluded)]);
}

#[test]
fn preferred_models_stand_in_the_order_given() {
    let router = of([route("a"), route("b"), route("c").capabilities(Capabilities::all().tools(Known::No))]);
    let request = chat().models(["unheard", "c", "b", "a", "b"]).needs(Needs::none().tools());
    let ranking = rank(&router, &request).unwrap();
    assert_eq!(models(&ranking), ["unheard", "b", "a"]);
    assert_eq!(ranking.decision.rejected, [(id("c"), Rejection::NoTools)]);
    assert_eq!(&*ranking.decision.reason, "preferred");
}

#[test]
fn pins_on_retired_routes_follow_to_the_replacement() {
    let router = of(["a", "b", "c", "d", "e", "f"].map(route));
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")] {
        assert_eq!(router.retire(&id(from), Some(&id(to))), Ok(Retired::Now));
    }
    assert_eq!(decide(&router, &chat().model("a")), "e (retired → e; best of 1)");
    assert_eq!(decide(&router, &chat().models(["d", "f"])), "e (preferred; retired → e; best of 2)");
    let cycle = |route, to| Err(RouterError::Cycle { route: id(route), to: id(to) });
    assert_eq!(router.retire(&id("e"), Some(&id("a"))), cycle("e", "a"));
    assert_eq!(router.retire(&id("f"), Some(&id("f"))), cycle("f", "f"));
    assert_eq!(router.retire(&id("e"), Some(&id("f"))), cycle("e", "f"), "five steps from a");
    assert_eq!(decide(&router, &chat().model("a")), "e (retired → e; best of 1)", "a refusal changes nothing");
    assert_eq!(router.retire(&id("e"), None), Ok(Retired::Now));
    assert_eq!(rank(&router, &chat().model("a")).unwrap_err().rejected, [(id("a"), Rejection::Retired)]);
}

#[test]
fn retiring_again_changes_nothing_and_a_new_replacement_corrects_the_old() {
    let router = of(["a", "b", "c"].map(route));
    assert_eq!(router.retire(&id("a"), Some(&id("b"))), Ok(Retired::Now));
    assert_eq!(router.retire(&id("a"), Some(&id("b"))), Ok(Retired::Already));
    assert_eq!(router.retire(&id("a"), None), Ok(Retired::Already));
    assert_eq!(router.retire(&id("unheard"), None), Ok(Retired::Already));
    assert_eq!(models(&rank(&router, &chat().model("a")).unwrap()), ["b"]);
    assert_eq!(router.retire(&id("a"), Some(&id("c"))), Ok(Retired::Already));
    assert_eq!(models(&rank(&router, &chat().model("a")).unwrap()), ["c"]);
}

#[test]
fn registering_is_idempotent_and_refuses_what_cannot_be() {
    let router = CatalogRouter::empty();
    assert_eq!(router.register(route("a")), Ok(Registered::New));
    assert_eq!(router.register(route("a")), Ok(Registered::Replaced(Box::new(route("a")))));
    assert_eq!(router.register(route("a").context(5)), Ok(Registered::Replaced(Box::new(route("a")))));
    assert_eq!(router.routes(), [route("a").context(5)]);
    for bad in [
        route("b").tasks([]),
        route("b").weight(f32::NAN),
        route("b").weight(1.5),
        route("b").quality_score(-0.1),
        route("b").context(0),
        route(""),
    ] {
        assert!(matches!(router.register(bad), Err(RouterError::Invalid { .. })));
    }
    assert_eq!(router.routes().len(), 1);
}

#[test]
fn attempts_are_counted_and_outlive_a_replacement() {
    let router = of([route("a")]);
    let at = Instant::now();
    let outcomes =
        [Outcome::Answered(Usage::default()), Outcome::Answered(Usage::default()), Outcome::Failed(ErrorKind::Timeout)];
    for outcome in outcomes.into_iter().chain([Outcome::Cancelled]) {
        router.observe(&Observation::new(id("a"), at, Duration::ZERO, outcome));
        router.observe(&Observation::new(id("unheard"), at, Duration::ZERO, outcome));
    }
    router.register(route("a").context(5)).unwrap();
    assert_eq!(router.seen(&id("a")), Some(Seen { answered: 2, failed: 1, cancelled: 1 }));
    assert_eq!(router.seen(&id("unheard")), None);
}

#[test]
fn limits_lower_the_tier_and_say_so() {
    let router = CatalogRouter::builtin();
    let request = chat().priority(Priority::Realtime);
    let ask = RouteAsk::new(&request).with_limits(RouteLimits::default().tier(Tier::Small));
    let ranking = router.rank_now(&ask).unwrap();
    assert_eq!(&*ranking.decision.reason, "small: realtime; limited to small");
    assert!(ranking.decision.ranked.iter().all(|one| one.tier == Tier::Small));
}

#[tokio::test]
async fn it_is_a_router_also_behind_a_pointer() {
    let router: Arc<dyn ModelRouter> = Arc::new(CatalogRouter::builtin());
    let request = chat();
    assert!(router.rank(&RouteAsk::new(&request)).await.is_ok());
    assert_eq!(router.routes().len(), 24);
    assert_eq!(CatalogRouter::snapshot_date(), "2026-11-24");
}

fn known() -> impl Strategy<Value = Known> {
    prop_oneof![Just(Known::No), Just(Known::Unknown), Just(Known::Yes)]
}

prop_compose! {
    fn a_route()(
        name in 0..12_u8,
        upstream in prop_oneof![Just("together"), Just("local")],
        tier in prop::option::of(prop_oneof![Just(Tier::Small), Just(Tier::Mid), Just(Tier::Large)]),
        price in prop::option::of((0..5_i64, 0..5_i64)),
        context in prop::option::of(1..5_000_u32),
        (tools, vision) in (known(), known()),
        code in any::<bool>(),
        state in 0..5_u8,
        weight in prop_oneof![Just(0.0_f32), Just(1.0)],
    ) -> ModelRoute {
        let dollars = |amount: i64| Usd::from_nanos(amount * 1_000_000_000);
        let mut route = ModelRoute::new(upstream, format!("m{name}")).weight(weight);
        route.capabilities = Capabilities::default().tools(tools).vision(vision);
        route.tasks = if code { vec![Task::Chat, Task::Code] } else { vec![Task::Chat] };
        (route.tier, route.context) = (tier, context);
        route.price = price.map(|(input, output)| Price::per_million(dollars(input), dollars(output)));
        route.state = match state {
            0 => RouteState::Preview,
            1 => RouteState::Retired { to: None },
            _ => RouteState::Live,
        };
        route
    }
}

prop_compose! {
    fn a_request()(
        bytes in 0..30_000_usize,
        (tools, vision, code) in any::<(bool, bool, bool)>(),
        priority in prop_oneof![Just(Priority::Realtime), Just(Priority::Standard), Just(Priority::Batch)],
        max_tokens in prop::option::of(1..3_000_u32),
    ) -> InferenceRequest {
        let needs = Needs { tools, vision, ..Needs::none() };
        let request = InferenceRequest::chat("x".repeat(bytes)).priority(priority).needs(needs);
        let request = if code { request.task(Task::Code) } else { request };
        max_tokens.map_or(request.clone(), |most| request.max_tokens(most))
    }
}

prop_compose! {
    fn a_limit()(
        tier in prop::option::of(prop_oneof![Just(Tier::Small), Just(Tier::Mid), Just(Tier::Large)]),
        max_cost in prop::option::of(0..40_000_000_i64),
        deny in prop::collection::vec(0..12_u8, 0..4),
        allow in prop::collection::vec(0..12_u8, 0..8),
    ) -> RouteLimits {
        let names = |list: Vec<u8>| list.into_iter().map(|at| ModelId::from(format!("m{at}")));
        let mut limits = RouteLimits::default().deny(names(deny)).allow(names(allow));
        (limits.tier, limits.max_cost) = (tier, max_cost.map(Usd::from_nanos));
        limits
    }
}

fn outcome(router: &CatalogRouter, ask: &RouteAsk<'_>) -> (Vec<RouteId>, Vec<RouteId>, Option<Arc<Decision>>) {
    let left_out = |list: &[(RouteId, Rejection)]| list.iter().map(|(route, _)| route.clone()).collect();
    match router.rank_now(ask) {
        Ok(ranking) => (
            ranking.candidates.iter().map(|one| one.route.clone()).collect(),
            left_out(&ranking.decision.rejected),
            Some(ranking.decision),
        ),
        Err(none) => (Vec::new(), left_out(&none.rejected), None),
    }
}

proptest! {
    #[test]
    fn the_same_routes_rank_alike_whatever_their_order(
        mut routes in prop::collection::vec(a_route(), 0..20), requests in prop::collection::vec(a_request(), 1..5),
    ) {
        routes.sort_by(|a, b| a.id().cmp(b.id()));
        routes.dedup_by(|a, b| a.id() == b.id());
        let forward = CatalogRouter::of(routes.iter().cloned().collect());
        let backward = routes.iter().rev().cloned().fold(CatalogRouter::empty(), CatalogRouter::with);
        for request in &requests {
            // A fresh router has nothing finished: what is kept must not show.
            let fresh = CatalogRouter::of(routes.iter().cloned().collect());
            let ask = RouteAsk::new(request);
            prop_assert_eq!(outcome(&forward, &ask), outcome(&backward, &ask));
            prop_assert_eq!(outcome(&forward, &ask), outcome(&fresh, &ask));
        }
    }

    #[test]
    fn no_unfit_route_is_ranked_and_none_is_forgotten(
        routes in prop::collection::vec(a_route(), 0..20), request in a_request(), limits in a_limit(),
    ) {
        let router = CatalogRouter::of(routes.into_iter().collect());
        let ask = RouteAsk::new(&request).with_limits(limits);
        let (ranked, rejected, decision) = outcome(&router, &ask);
        let known = router.routes();
        for id in &ranked {
            let route = known.iter().find(|route| route.id() == id).unwrap();
            prop_assert!(route.state == RouteState::Live && route.weight > 0.0 && route.tasks.contains(&ask.task()));
            prop_assert!(!(ask.needs.tools && route.capabilities.tools == Known::No));
            prop_assert!(!(ask.needs.vision && route.capabilities.vision == Known::No));
            prop_assert!(route.context.is_none_or(|context| filter::realistic_tokens(&ask) <= u64::from(context)));
            prop_assert!(ask.limits.admits(id.model()));
            prop_assert!(ask.limits.max_cost.is_none() || route.price.is_some());
        }
        if let (Some(decision), Some(most)) = (decision, ask.limits.tier) {
            prop_assert!(decision.ranked.iter().all(|one| one.tier <= most));
        }
        let mut all: Vec<RouteId> = ranked.into_iter().chain(rejected).collect();
        all.sort();
        let of_task = known.iter().filter(|route| route.tasks.contains(&ask.task()));
        prop_assert_eq!(all, of_task.map(|route| route.id().clone()).collect::<Vec<_>>());
    }

    #[test]
    fn narrower_limits_never_add_a_route(
        routes in prop::collection::vec(a_route(), 0..20), request in a_request(),
        limits in a_limit(), narrower in a_limit(), pin in prop::option::of(0..12_u8),
    ) {
        let router = CatalogRouter::of(routes.into_iter().collect());
        let request = pin.map_or(request.clone(), |at| request.model(ModelRef::from(format!("m{at}"))));
        let wide = RouteAsk::new(&request).with_limits(limits);
        let (before, ..) = outcome(&router, &wide);
        let (after, ..) = outcome(&router, &wide.with_limits(narrower));
        prop_assert!(after.iter().all(|route| before.contains(route)), "{:?} before, {:?} after", before, after);
    }

    #[test]
    fn retirements_never_run_in_a_circle(steps in prop::collection::vec((0..6_u8, 0..6_u8), 0..30)) {
        let router = CatalogRouter::of((0..6).map(|at| route(&format!("m{at}"))).collect());
        let name = |at: u8| id(&format!("m{at}"));
        for (from, to) in steps {
            let _ = router.retire(&name(from), Some(&name(to)));
            prop_assert!(router.table().chains_end());
        }
        for at in 0..6 {
            prop_assert!(rank(&router, &chat().model(ModelRef::from(name(at)))).is_ok());
        }
    }
}
