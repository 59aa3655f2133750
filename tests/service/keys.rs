//! Keys that a provider refuses: when they are tried again, and by whom.

use together_inference::{
    InferenceService, Price, RouteId, Tenant,
    client::RetryPolicy,
    cost::{Budget, Scope},
    router::{Availability, CatalogRouter, ModelRoute},
    service::ErrorKind,
    testing::{Fault, SimModel, Together},
    types::Tier,
    usd,
};
use tokio::time::sleep;

use crate::world::{LARGE, MID, World, ms, muse, route, secs};

const OWN: &str = "acme/own";

/// The provider, and beside it a server of one's own.
struct Two {
    sim: Together,
    own: Together,
    service: InferenceService,
}

impl Two {
    fn new() -> Self {
        let (sim, own) = (Together::new(), Together::builder().models([SimModel::chat(OWN)]).build());
        let router = CatalogRouter::builtin().with(ModelRoute::new("local", OWN).tier(Tier::Large).price(Price::FREE));
        let builder = InferenceService::builder(sim.client()).upstream("local", own.client()).router(router);
        let service = builder.retry(RetryPolicy::none()).build().unwrap();
        Self { sim, own, service }
    }

    async fn eject(&self, of: &Together, route: RouteId) {
        of.fail_next_of(route.model().as_str(), 5, Fault::status(500));
        for _ in 0..5 {
            self.service.complete(muse("why?").model(route.clone())).await.unwrap_err();
            sleep(ms(100)).await;
        }
    }

    /// The provider refuses its key, a minute ago.
    async fn stop_the_key(&self) {
        self.sim.fail_next(1, Fault::status(401));
        let error = self.service.complete(muse("why?").model(MID)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UpstreamAuthentication);
        assert_eq!(self.service.health().stopped_keys.len(), 1);
        sleep(secs(61)).await;
    }
}

fn own() -> RouteId {
    RouteId::new("local", OWN)
}

#[tokio::test(start_paused = true)]
async fn a_route_that_lets_nobody_in_does_not_use_up_the_turn_to_try_a_key() {
    // Scenario: a key was refused a minute ago; the first model is ejected and turns the call away, the second one of
    // the same key is well, a third has a server of its own.
    // Expected: the second one tries the key.
    let two = Two::new();
    two.eject(&two.sim, route(LARGE)).await;
    two.stop_the_key().await;
    let reply = two.service.complete(muse("why?").models([route(LARGE), route(MID), own()])).await.unwrap();
    let health = two.service.health();
    let ejected = health.routes.iter().find(|known| known.route == route(LARGE)).unwrap();
    assert_eq!(ejected.availability, Availability::Ejected);
    assert_eq!(reply.route, route(MID));
    assert!(health.stopped_keys.is_empty(), "the key is taken again");
}

#[tokio::test(start_paused = true)]
async fn a_turn_to_try_a_key_is_given_back_by_a_call_that_sends_nothing() {
    // Scenario: the key was refused a minute ago; a call whose budget refuses it, and another one.
    // Expected: nothing of the first one is sent, and the other one tries the key.
    let poor = Tenant::from("poor");
    let budget = Budget::total(usd!("0.000001")).of(Scope::Tenant(poor.clone()));
    let world = World::with(|builder| builder.budget(budget));
    world.sim.fail_next(1, Fault::status(401));
    world.service.complete(muse("why?").model(LARGE)).await.unwrap_err();
    sleep(secs(61)).await;
    let calls = world.calls();
    let refused = world.service.complete(muse("why?").model(LARGE).tenant(poor)).await.unwrap_err();
    assert_eq!((refused.kind(), world.calls()), (ErrorKind::OverBudget, calls));
    world.service.complete(muse("why?").model(LARGE)).await.unwrap();
    assert!(world.service.health().stopped_keys.is_empty());
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_to_try_a_key_is_given_back_for_a_probe_that_goes_before() {
    // Scenario: the key was refused a minute ago; a call prefers its model, and goes to an ejected one of another server
    // that is due for a probe.
    // Expected: the next call tries the key.
    let two = Two::new();
    two.eject(&two.own, own()).await;
    for _ in 0..20 {
        let reply = two.service.complete(muse("why?").models([own(), route(MID)])).await.unwrap();
        assert_eq!(reply.route, route(MID));
    }
    two.stop_the_key().await;
    let probe = two.service.complete(muse("why?").models([route(MID), own()])).await.unwrap();
    assert_eq!(probe.route, own());
    two.service.complete(muse("why?").model(MID)).await.unwrap();
    assert!(two.service.health().stopped_keys.is_empty());
}
