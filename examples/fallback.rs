//! An outage, watched second by second: who answers, what it costs, when everything is as before.
//!
//! `cargo run --example fallback` always runs on the simulator, and on virtual time: the half minute passes at once.
#![expect(clippy::print_stdout, reason = "the output is the example")]

use std::{collections::BTreeMap, error::Error, sync::Arc, time::Duration};

use together_inference::{
    InferenceRequest, InferenceService, ModelId, Usd,
    service::{self, ServiceHealth},
    testing::{Fault, Together},
    types::SeededRng,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

const FIRST: &str = "zai-org/GLM-5.3";
const SECOND: &str = "deepseek-ai/DeepSeek-V4.1-Flash";
const CALLS_A_SECOND: u32 = 20;

/// What one second brought.
#[derive(Default)]
struct Tally {
    by_model: BTreeMap<ModelId, u32>,
    fell_back: u32,
    failed: u32,
    slowest: Duration,
    cost: Usd,
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    eprintln!("(running on the simulator, nothing is spent)");
    let together = Together::new();
    together.latency(Duration::from_millis(300));
    // Seeded, so that it prints the same every time.
    let service = InferenceService::builder(together.client()).rng(Arc::new(SeededRng::new(7))).build()?;

    println!("second  {FIRST}  {SECOND}  fell back  failed  slowest        cost  {FIRST} is");
    for second in 0..30 {
        match second {
            5 => together.fail_share_of(FIRST, 1.0, Fault::status(500)),
            20 => together.heal(),
            _ => {}
        }
        let tally = one_second(&service).await?;
        print(second, &tally, &service.health());
    }
    let spent = service.costs();
    println!(
        "{} attempts, {} in all; the simulator's own bill: {} nano-dollars",
        spent.attempts,
        spent.known,
        together.bill().nano_usd
    );
    Ok(())
}

/// Calls evenly over a second, and waits for all of them.
async fn one_second(service: &InferenceService) -> Result<Tally, Box<dyn Error>> {
    let (start, mut calls, mut tally) = (Instant::now(), JoinSet::new(), Tally::default());
    for call in 0..CALLS_A_SECOND {
        sleep_until(start + Duration::from_secs(1) / CALLS_A_SECOND * call).await;
        let request = InferenceRequest::chat("Why is the sky blue?").models([FIRST, SECOND]);
        calls.spawn(service.complete(request));
    }
    sleep_until(start + Duration::from_secs(1)).await;
    while let Some(reply) = calls.join_next().await {
        let reply: Result<_, service::Error> = reply?;
        match reply {
            Ok(reply) => {
                *tally.by_model.entry(reply.model().clone()).or_default() += 1;
                tally.fell_back += u32::from(reply.attempts.len() > 1);
                tally.slowest = tally.slowest.max(reply.timings.total);
                tally.cost = [tally.cost, reply.cost().charge()].into_iter().sum();
            }
            Err(_) => tally.failed += 1,
        }
    }
    Ok(tally)
}

fn print(second: u32, tally: &Tally, health: &ServiceHealth) {
    let by = |model: &str| tally.by_model.get(model).copied().unwrap_or_default();
    let state = health.routes.iter().find(|route| route.route.model().as_str() == FIRST);
    let state = state.map_or("unknown", |route| route.availability.as_str());
    let what = match second {
        5 => "  <- it fails from here on",
        20 => "  <- it answers again",
        _ => "",
    };
    let (one, other) = (FIRST.len(), SECOND.len());
    println!(
        "{second:>6}  {:>one$}  {:>other$}  {:>9}  {:>6}  {:>6.1}s  {:>10}  {state}{what}",
        by(FIRST),
        by(SECOND),
        tally.fell_back,
        tally.failed,
        tally.slowest.as_secs_f64(),
        tally.cost.to_string(),
    );
}
