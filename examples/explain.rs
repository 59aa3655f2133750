//! One request in four situations: which model, why, and how it went.
//!
//! `cargo run --example explain` always runs on the simulator, and on virtual time.
#![expect(clippy::print_stdout, reason = "the output is the example")]

use std::{error::Error, sync::Arc, time::Duration, time::SystemTime};

use together_inference::{
    InferenceRequest, InferenceService, Priority, RouteId,
    inference::Needs,
    router::{CatalogRouter, ModelRouter},
    testing::{Fault, Together},
    types::{ManualClock, SeededRng},
};
use tokio::time::sleep;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    eprintln!("(running on the simulator, nothing is spent)");
    let together = Together::new();
    together.latency(Duration::from_secs(1));
    let router = Arc::new(CatalogRouter::builtin());
    let service = InferenceService::builder(together.client())
        .router(Arc::clone(&router))
        .rng(Arc::new(SeededRng::new(7)))
        .clock(Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_608_000))))
        .build()?;
    let request = || InferenceRequest::chat("Why is the sky blue?").priority(Priority::Realtime);

    show(&service, "An ordinary day", request()).await?;

    let picture = request().needs(Needs::none().vision()).max_tokens(500);
    show(&service, "A picture has to be read", picture).await?;

    // The first choice slows down to a third of its pace; half a minute of calls shows it.
    let first = service.explain(&request()).await?.ranked.first().map(|one| one.route.clone()).ok_or("no model")?;
    for second in 0..40 {
        if second == 10 {
            together.latency_of(first.model().as_str(), Duration::from_secs(3));
        }
        sleep(Duration::from_secs(1)).await;
        service.complete(request()).await?;
    }
    show(&service, "The first choice has become slow", request()).await?;

    let glm = RouteId::new("together", "zai-org/GLM-5.3");
    router.retire(&glm, Some(&RouteId::new("together", "zai-org/GLM-5.3-Flash")))?;
    together.fail_next(1, Fault::status(500));
    show(&service, "A pinned model is retired, and its replacement fails once", request().model("zai-org/GLM-5.3"))
        .await
}

async fn show(service: &InferenceService, when: &str, request: InferenceRequest) -> Result<(), Box<dyn Error>> {
    println!("== {when}");
    println!("{:#}", service.explain(&request).await?);
    let reply = service.complete(request).await?;
    println!("answered by {} in {:.1} s for {}", reply.route, reply.timings.total.as_secs_f64(), reply.cost());
    let line = serde_json::to_string(&reply.trace())?;
    println!("trace ({} bytes): {}\n", line.len(), &line[..line.find(r#""candidates""#).unwrap_or(line.len())]);
    Ok(())
}
