//! How a request uses the cache: who may share its answer, how old it may be, what is served in an outage.
//!
//! `cargo run --example cache_controls` always runs on the simulator, and on virtual time.
#![expect(clippy::print_stdout, reason = "the output is the example")]

use std::{error::Error, time::Duration};

use together_inference::{
    InferenceRequest, InferenceService, Task,
    inference::CacheControl,
    testing::{Fault, Together},
};
use tokio::time::advance;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    eprintln!("(running on the simulator, nothing is spent)");
    let together = Together::new();
    let service = InferenceService::builder(together.client())
        // The house rule, for requests that do not say: reviews of the same code are kept for a day.
        .cache_policy(|request| {
            let review = CacheControl::new().stochastic().ttl(24 * 60 * MINUTE);
            (request.task_of() == Task::Code).then_some(review)
        })
        .build()?;
    let ask = || InferenceRequest::chat("Who leads the league?").temperature(0.0);
    let say = async |what: &str, request: InferenceRequest| -> Result<(), Box<dyn Error>> {
        let reply = service.complete(request).await?;
        println!("{what:<58} {:<22} {}", reply.source().to_string(), reply.cost());
        Ok(())
    };

    say("asked", ask()).await?;
    say("asked again", ask()).await?;
    say("by another tenant", ask().tenant("acme")).await?;
    let shared = CacheControl::new().shared();
    say("by a tenant that shares", ask().tenant("umbrella").cache(shared)).await?;
    say("by another one that shares", ask().tenant("hooli").cache(shared)).await?;
    say("asked anew, and kept for everybody", ask().cache(CacheControl::refresh())).await?;
    say("read without the cache", ask().cache(CacheControl::off())).await?;
    say("at random: not kept", InferenceRequest::chat("A joke?")).await?;
    say("a review, by the house rule", InferenceRequest::code("let x = 1;")).await?;
    say("the same review", InferenceRequest::code("let x = 1;")).await?;

    println!();
    advance(30 * MINUTE).await;
    say("30 min later, no older than 10 min", ask().cache(CacheControl::new().max_age(10 * MINUTE))).await?;
    advance(62 * MINUTE).await;
    say("an hour and 2 min later: served at once, renewed behind it", ask()).await?;
    // Time for the renewal.
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
    say("a moment later", ask()).await?;

    println!();
    let usual = || InferenceRequest::chat("Who won in 1966?").temperature(0.0);
    let patient = || usual().cache(CacheControl::new().stale_if_error(3 * 60 * MINUTE));
    say("kept for an outage", patient()).await?;
    advance(120 * MINUTE).await;
    together.fail_next(100, Fault::status(500));
    say("two hours later, in an outage", patient()).await?;
    if let Err(error) = service.complete(usual()).await {
        println!(
            "{:<58} {}: {}",
            "where nobody said that it may be old",
            error.kind().as_str(),
            error.public_message()
        );
    }
    Ok(())
}
