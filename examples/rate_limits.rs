//! Keeping within a provider's rate limit that nobody told us: 200 calls at once, ten answered a second.
//!
//! `cargo run --example rate_limits` always runs on the simulator, and on virtual time: half a minute passes at once.
#![expect(clippy::print_stdout, reason = "the output is the example")]

use std::{error::Error, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use together_inference::{InferenceRequest, InferenceService, service::RouteHealth, testing::Together};
use tokio::time::{Instant, interval};

const MODEL: &str = "deepseek-ai/DeepSeek-V4.1-Flash";
const CALLS: usize = 200;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    eprintln!("(running on the simulator, nothing is spent)");
    let together = Together::new();
    together.limit(MODEL, 10);
    together.latency(Duration::from_millis(200));
    let service = InferenceService::builder(together.client()).build()?;

    // Nobody is told to slow down: the calls wait for their turn, each until its deadline at most.
    let ask = |n| InferenceRequest::chat(format!("Question {n}")).model(MODEL).deadline(Duration::from_secs(60));
    let mut calls: FuturesUnordered<_> = (0..CALLS).map(|n| service.complete(ask(n))).collect();

    println!("second   sent  answered  refused  waiting  limit");
    let (start, mut before) = (Instant::now(), (0, 0, 0));
    let mut seconds = interval(Duration::from_secs(1));
    seconds.tick().await;
    let mut answered = 0;
    while answered < CALLS {
        tokio::select! {
            biased;
            Some(reply) = calls.next() => {
                reply?;
                answered += 1;
            }
            _ = seconds.tick() => print_second(&service, start, &mut before),
        }
    }
    print_second(&service, start, &mut before);
    let refused = before.2;
    println!("{answered} answered in {:.1} seconds, {refused} refused on the way", start.elapsed().as_secs_f64());
    Ok(())
}

/// What happened since the last line.
fn print_second(service: &InferenceService, start: Instant, before: &mut (u64, u64, u64)) {
    let health = service.health();
    let Some(RouteHealth { dispatched, answered, throttled, waiting, requests_per_second, .. }) = health.routes.first()
    else {
        return;
    };
    let limit = requests_per_second.map_or("unknown".into(), |limit| format!("{limit:.1}"));
    println!(
        "{:>6} {:>6} {:>9} {:>8} {waiting:>8}  {limit}",
        start.elapsed().as_millis().div_ceil(1_000),
        dispatched - before.0,
        answered - before.1,
        throttled - before.2
    );
    *before = (*dispatched, *answered, *throttled);
}
