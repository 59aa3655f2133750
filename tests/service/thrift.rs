//! A router that saves near the end of a budget is told what is left of it.

use together_inference::{
    InferenceRequest, Priority, Tier,
    cost::{Budget, Scope},
    router::CatalogRouter,
    usd,
};

use super::world::World;

fn question(tenant: &str) -> InferenceRequest {
    InferenceRequest::chat("Why is the sky blue?").priority(Priority::Realtime).tenant(tenant).max_tokens(1_000)
}

#[tokio::test(start_paused = true)]
async fn near_the_end_of_a_budget_a_smaller_model_answers() {
    let world = World::with(|builder| {
        builder
            .router(CatalogRouter::builtin().downgrade_below(50))
            .budget(Budget::daily(usd!("0.02")).per_tenant())
            .budget(Budget::daily(usd!("1000")))
    });
    let first = world.service.complete(question("acme")).await.unwrap();
    assert_eq!(first.decision().tier, Tier::Large, "there is enough");
    let left = async || world.service.budgets().remaining(&Scope::tenant("acme")).await.unwrap()[0].left();
    while left().await > usd!("0.0099") {
        world.service.complete(question("acme").model(super::world::LARGE)).await.unwrap();
    }
    let late = world.service.complete(question("acme")).await.unwrap();
    assert_eq!(late.decision().tier, Tier::Mid, "{}", late.decision());
    let other = world.service.complete(question("bcme")).await.unwrap();
    assert_eq!(other.decision().tier, Tier::Large, "another tenant's budget is its own");
    world.at_rest().await;
}
