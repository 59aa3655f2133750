//! Who stands first, seen from outside.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    InferenceRequest, Price, Priority, RouteId, Tier, Usage, Usd,
    router::{CatalogRouter, ModelRoute, ModelRouter, Observation, Outcome, Ranking, RouteAsk, RouteLimits},
    usd,
};

fn route(model: &str, price: Usd) -> ModelRoute {
    let mut route = ModelRoute::new("together", model).tier(Tier::Large).price(Price::per_million(price, price));
    route.latency_p50 = Some(Duration::from_secs(1));
    route
}

/// A router of routes that are equals but for what is said here, on a clock of its own.
struct World {
    router: CatalogRouter,
    now: Instant,
}

impl World {
    fn new(routes: impl IntoIterator<Item = ModelRoute>) -> Self {
        Self { router: routes.into_iter().fold(CatalogRouter::empty(), CatalogRouter::with), now: Instant::now() }
    }

    fn equals() -> Self {
        Self::new(["a", "b"].map(|model| route(model, usd!("1"))))
    }

    fn ask(&self, request: &InferenceRequest, limits: RouteLimits) -> Ranking {
        let ask = RouteAsk { now: self.now, ..RouteAsk::new(request) }.with_limits(limits);
        self.router.rank_now(&ask).unwrap()
    }

    /// The first choice of an ordinary request, and who goes first.
    fn first(&self) -> (String, String) {
        self.first_of(&chat(), RouteLimits::default())
    }

    fn first_of(&self, request: &InferenceRequest, limits: RouteLimits) -> (String, String) {
        let ranking = self.ask(request, limits);
        let name = |at: usize| ranking.candidates[at].route.model().to_string();
        (name(usize::from(ranking.candidates[0].trial)), name(0))
    }

    /// An answer that took so long begins and ends at once.
    fn answers(&mut self, model: &str, seconds: f64) {
        let took = Duration::from_secs_f64(seconds);
        let usage = Usage { prompt: 100, completion: 256, ..Usage::default() };
        let dispatched = self.now;
        self.now += took;
        self.router.observe(&Observation::new(id(model), dispatched, took, Outcome::Answered(usage)));
    }

    /// Calls of a class for a while, four a second; each takes as long as its route does.
    fn runs(&mut self, time: f64, request: &InferenceRequest, limits: &RouteLimits, takes: [f64; 3]) {
        let until = self.now + Duration::from_secs_f64(time);
        while self.now < until {
            let first = self.ask(request, limits.clone()).candidates[0].clone();
            let goes = !first.trial || self.router.try_out(&first.route, self.now);
            let at = ["a", "b", "c"].iter().position(|name| *name == first.route.model().as_str()).unwrap();
            let before = self.now;
            if goes {
                self.answers(first.route.model().as_str(), takes[at]);
            }
            self.now = before + Duration::from_millis(250);
        }
    }
}

fn id(model: &str) -> RouteId {
    RouteId::new("together", model)
}

fn chat() -> InferenceRequest {
    InferenceRequest::chat("why?").priority(Priority::Realtime).max_tokens(100)
}

/// Ways to be left with two of three routes, of which the third is the first choice of all others.
fn bounds() -> [(InferenceRequest, RouteLimits); 3] {
    [
        (chat(), RouteLimits::default().deny(["c"])),
        (chat(), RouteLimits::default().allow(["a", "b"])),
        (chat().max_cost(usd!("0.0005")), RouteLimits::default()),
    ]
}

fn with_a_dear_one() -> World {
    World::new([route("a", usd!("1")), route("b", usd!("1")), route("c", usd!("10")).quality_score(1.0)])
}

#[test]
fn a_class_with_bounds_keeps_its_first_choice_within_the_margin() {
    for (request, limits) in bounds() {
        let mut world = with_a_dear_one();
        assert_eq!(world.first().0, "c");
        assert_eq!(world.first_of(&request, limits.clone()).0, "a");
        // A tenth slower: worse than the other one, but not by the margin.
        (0..20).for_each(|_| world.answers("a", 1.1));
        let order = world.ask(&request, limits).candidates.iter().map(|one| one.route.to_string()).collect::<Vec<_>>();
        assert_eq!(order[..2], ["together/a", "together/b"], "{request:?}");
        assert_eq!(world.first().0, "c");
    }
}

#[test]
fn a_class_with_bounds_changes_its_first_choice_for_a_better_one() {
    for (request, limits) in bounds() {
        let mut world = with_a_dear_one();
        assert_eq!((world.first().0.as_str(), world.first_of(&request, limits.clone()).0.as_str()), ("c", "a"));
        world.runs(30.0, &request, &limits, [3.0, 1.0, 1.0]);
        assert_eq!(world.first_of(&request, limits).0, "b", "{request:?}");
        assert_eq!(world.first().0, "c", "that of the others is their own");
    }
}

#[test]
fn bounds_that_callers_make_up_push_nobody_else_out() {
    let mut world = World::equals();
    world.first();
    (0..20).for_each(|_| world.answers("a", 1.1));
    for number in 0..1_000 {
        world.first_of(&chat(), RouteLimits::default().deny([format!("m{number}")]));
    }
    assert_eq!(world.first().0, "a");
}

#[test]
fn a_change_of_the_table_does_not_move_the_first_choice_by_itself() {
    // Scenario: the first choice is worse than the other one by less than the margin when the routes change.
    // Expected: a new route that is worse, a changed context and one that is taken out of use leave it where it is.
    let mut world = World::equals();
    world.first();
    (0..20).for_each(|_| world.answers("a", 1.1));
    world.router.register(route("z", usd!("20"))).unwrap();
    assert_eq!(world.first().0, "a");
    world.router.register(route("b", usd!("1")).context(64_000)).unwrap();
    assert_eq!(world.first().0, "a");
    world.router.retire(&id("z"), None).unwrap();
    assert_eq!(world.first().0, "a");
    // One that cannot be chosen any more is replaced at once.
    world.router.retire(&id("a"), None).unwrap();
    assert_eq!(world.first().0, "b");
}

#[test]
fn a_price_and_a_new_route_count_at_once() {
    let world = World::equals();
    world.first();
    world.router.register(route("b", usd!("0.90"))).unwrap();
    assert_eq!(world.first().0, "b", "though by less than the margin");
    world.router.register(route("b", usd!("1.10"))).unwrap();
    assert_eq!(world.first().0, "a");
    world.router.register(route("c", usd!("0.10"))).unwrap();
    assert_eq!(world.first().0, "c");
}

#[test]
fn one_that_lost_its_place_returns_without_a_margin_for_a_while_only() {
    // Scenario: the first choice is slow for half a minute, then as before; the one that took over answers as fast for
    // some time, and then takes a tenth longer.
    // Expected: the old one returns where that comes soon, and not when it has long been a route like any other.
    for (steady, first) in [(20.0, "a"), (200.0, "b")] {
        let mut world = World::equals();
        let (request, limits) = (chat(), RouteLimits::default());
        world.first();
        world.runs(30.0, &request, &limits, [3.0, 1.0, 1.0]);
        assert_eq!(world.first().0, "b");
        world.runs(steady, &request, &limits, [1.02, 1.0, 1.0]);
        assert_eq!(world.first().0, "b");
        world.runs(20.0, &request, &limits, [1.02, 1.1, 1.0]);
        assert_eq!(world.first().0, first, "after {steady} s");
    }
}

#[test]
fn a_turn_is_there_until_a_call_goes_out_and_then_for_one() {
    let mut world = World::equals();
    let (request, limits) = (chat(), RouteLimits::default());
    world.first();
    world.runs(30.0, &request, &limits, [3.0, 1.0, 1.0]);
    world.now += Duration::from_secs(3);
    let due = (0..100).filter(|_| world.first().1 == "a").count();
    assert!(due > 70, "{due}: rankings that nothing comes of use up nothing");
    assert!(world.router.try_out(&id("a"), world.now));
    assert!(!world.router.try_out(&id("a"), world.now), "the next one is late");
    assert_eq!(world.first().1, "b");
}
