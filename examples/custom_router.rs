//! A router of one's own: customers on the free plan never get a large model.
//!
//! `cargo run --example custom_router` runs on the simulator; set `TOGETHER_API_KEY` for the real API.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{error::Error, sync::Arc};

use together_inference::{
    InferenceRequest, InferenceService, Price, Priority, Tier, async_trait,
    router::{CatalogRouter, ModelRoute, ModelRouter, NoRoute, Ranking, RouteAsk, RouteLimits},
    usd,
};

/// Narrows what the catalogue may choose by the request's `plan` tag, and leaves the choice to it.
#[derive(Debug)]
struct ByPlan(CatalogRouter);

#[async_trait]
impl ModelRouter for ByPlan {
    async fn rank(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
        let plan = ask.request.tags_of().find_map(|(name, value)| (name == "plan").then_some(value));
        let limits = match plan {
            Some("pro") => RouteLimits::default(),
            Some("free") => RouteLimits::default().tier(Tier::Small).max_cost(usd!("0.002")),
            // A tag that was forgotten must not cost more than one that was not.
            _ => return Err(NoRoute::new("tag the request with plan=free or plan=pro", Vec::new())),
        };
        self.0.rank(&ask.with_limits(limits)).await
    }

    // Everything else goes to the catalogue: it learns from every call and takes new routes.
    fn inner(&self) -> Option<&dyn ModelRouter> {
        Some(&self.0)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (client, simulator) = common::client()?;
    if let Some(together) = &simulator {
        together.on("poem").reply("Roses are red, and so is this terminal.");
    }
    // Shared, so that routes can be added while the service runs.
    let router = Arc::new(ByPlan(CatalogRouter::builtin()));
    let service = InferenceService::builder(client).router(Arc::clone(&router)).build()?;

    let poem = || InferenceRequest::chat("Write a short poem.").priority(Priority::Realtime).max_tokens(400);
    for plan in ["pro", "free"] {
        let reply = service.complete(poem().tag("plan", plan)).await?;
        println!("{plan}: {} for {}", reply.model(), reply.cost());
        println!("  why: {}", reply.decision());
    }

    let refused = service.complete(poem()).await.err().ok_or("a request without a plan was answered")?;
    println!("no plan: {refused}\n");

    // `explain` ranks without a call; `{:#}` is the whole table: what is best, what it costs, what is left out and why.
    let cheap = Price::per_million(usd!("0.01"), usd!("0.02"));
    let added = router.register(ModelRoute::new("together", "acme/tiny-1b").tier(Tier::Small).price(cheap))?;
    println!("acme/tiny-1b registered through the wrapper: {added:?}");
    println!("{:#}", service.explain(&poem().tag("plan", "free")).await?);
    Ok(())
}
