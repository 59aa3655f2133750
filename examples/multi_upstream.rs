//! Two servers in one ranking: a model of one's own first, Together's when it fails, and back.
//!
//! `cargo run --example multi_upstream` always runs on two simulators, and on virtual time.
#![expect(clippy::print_stdout, reason = "the output is the example")]

use std::{error::Error, sync::Arc, time::Duration};

use together_inference::{
    InferenceRequest, InferenceService, Price, Tier, UpstreamId,
    limit::Limits,
    router::{CatalogRouter, ModelRoute},
    testing::{Fault, SimModel, Together},
    types::SeededRng,
};
use tokio::time::sleep;

const OURS: &str = "qwen3-8b";

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    eprintln!("(running on the simulator, nothing is spent)");
    let (together, local) = (Together::new(), Together::builder().models([SimModel::chat(OURS)]).build());
    together.latency(Duration::from_millis(400));
    local.latency(Duration::from_millis(150));

    // A machine of one's own: free, and no more than two calls at a time.
    let route = ModelRoute::new("local", OURS).tier(Tier::Small).price(Price::FREE);
    let id = route.id().clone();
    let service = InferenceService::builder(together.client())
        .upstream("local", local.client()) // TogetherClient::builder().base_url(..).no_api_key().dialect(Dialect::vllm())
        .router(CatalogRouter::builtin().with(route))
        .limits_of(id.clone(), Limits::default().concurrency(2).max_waiting(0))
        .rng(Arc::new(SeededRng::new(7)))
        .build()?;

    ask(&service, "all is well").await?;
    local.fail_share_of(OURS, 1.0, Fault::status(503));
    for _ in 0..6 {
        ask(&service, "ours is down").await?;
    }
    println!("{:>24}: {} is {}", "", id, availability(&service));
    local.heal();
    for _ in 0..80 {
        sleep(Duration::from_millis(500)).await;
        service.complete(request()).await?;
    }
    println!("{:>24}: {} is {}", "forty seconds later", id, availability(&service));
    ask(&service, "ours is back").await?;

    // Three at a time where two have room: one goes elsewhere instead of waiting.
    let (one, two, three) =
        tokio::join!(service.complete(request()), service.complete(request()), service.complete(request()));
    for reply in [one?, two?, three?] {
        println!("{:>24}: {} [{}]", "three at a time", reply.route, reply.cost());
    }

    // What must not leave the house is an error when the house is closed.
    local.fail_share_of(OURS, 1.0, Fault::status(503));
    let at_home = request().upstream(UpstreamId::from("local"));
    let refused = service.complete(at_home).await.err().map(|error| error.kind().as_str());
    println!("{:>24}: {}", "ours alone, and it fails", refused.unwrap_or("answered"));
    Ok(())
}

fn request() -> InferenceRequest {
    InferenceRequest::chat("Why is the sky blue?").tier(Tier::Small)
}

async fn ask(service: &InferenceService, when: &str) -> Result<(), Box<dyn Error>> {
    let reply = service.complete(request()).await?;
    let tried: Vec<_> = reply.attempts.iter().map(ToString::to_string).collect();
    println!("{when:>24}: {} [{} {}]  {}", reply.route, reply.cost(), reply.source(), tried.join(", "));
    Ok(())
}

fn availability(service: &InferenceService) -> &'static str {
    let routes = service.health().routes;
    routes
        .iter()
        .find(|route| route.route.upstream().as_str() == "local")
        .map_or("unknown", |route| route.availability.as_str())
}
