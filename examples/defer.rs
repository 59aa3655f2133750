//! Requests that may wait: answered now while the provider has room, handed to a batch when it has none.
//!
//! `cargo run --features batch --example defer` runs on the simulator.
#![expect(clippy::print_stdout, reason = "the output is the example")]

use std::{error::Error, time::Duration};

use together_inference::{
    InferenceRequest, InferenceService,
    pipeline::Pipeline,
    service::{BatchOptions, Completion},
    store::Store,
    testing::{Fault, Together},
};

const MODEL: &str = "zai-org/GLM-5.3";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let together = Together::new();
    together.batch_time(Duration::from_secs(1));
    let folder = std::env::temp_dir().join(format!("defer-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let service = InferenceService::builder(together.client())
        .store(&Store::open(folder.join("inference.db")).await?)
        .batches_with(BatchOptions::default().poll(Duration::from_millis(200)).gather(Duration::from_secs(1)))
        .background(Pipeline::new().poll_every(Duration::from_millis(100)))
        .build()?;
    let ask = |number: u32| {
        InferenceRequest::chat(format!("Summarise report {number}."))
            .model(MODEL)
            .deferrable()
            .deadline(Duration::from_secs(6 * 3_600))
    };

    let mut tickets = Vec::new();
    for number in 1..=4 {
        if number == 3 {
            println!("-- the provider's rate is exceeded for the next hour");
            together.fail_next(50, Fault::status(429).retry_after(Duration::from_secs(3_600)));
        }
        match service.complete_or_defer(ask(number)).await? {
            Completion::Answered(reply) => println!("report {number}: {reply} [{}]", reply.cost()),
            Completion::Deferred(later) => {
                println!("report {number}: deferred ({})", later.why.as_str());
                tickets.push((number, later.ticket));
            }
            _ => {}
        }
    }
    // The ticket is a text: it can be kept anywhere, and waited for by another process.
    for (number, ticket) in tickets {
        let row = service.deferred(&ticket).await?.await?;
        match row.result {
            Ok(answer) => println!("report {number}, later: {} [{}]", answer.text(), answer.cost),
            Err(error) => println!("report {number}, later: {error}"),
        }
    }
    println!("{} batch, {} calls", together.batches().len(), together.calls());
    service.shutdown(Duration::from_secs(5)).await;
    drop(service);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
