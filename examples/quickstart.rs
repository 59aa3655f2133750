//! One call, the same call from the cache, a stream, and what it all cost.
//!
//! `cargo run --example quickstart` runs on the simulator; set `TOGETHER_API_KEY` for the real API.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{error::Error, io::Write, time::Duration};

use together_inference::{InferenceRequest, InferenceService, Priority, cost::MemoryCosts};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (client, simulator) = common::client()?;
    if let Some(together) = &simulator {
        together.on("sky").reply("Air scatters blue light more than red, so blue reaches us from every direction.");
        together.on("haiku").reply("Rust guards memory\nThe borrow checker watches\nNo leak disturbs sleep");
    }
    let costs = MemoryCosts::default();
    let service = InferenceService::builder(client).cost_sink(costs.clone()).build()?;

    // Temperature 0: the answer is the same every time, so it may be cached.
    let question = || InferenceRequest::chat("Why is the sky blue?").temperature(0.0);
    let reply = service.complete(question()).await?;
    println!("{reply}\n  [{} {} {}]", reply.model(), reply.cost(), reply.source());
    println!("  why: {}", reply.decision());

    let again = service.complete(question()).await?;
    println!("Asked again: [{} {}, saved {}]", again.cost(), again.source(), again.saved);

    let mut stream =
        service.stream(InferenceRequest::chat("Write a haiku about Rust.").priority(Priority::Realtime)).await?;
    println!("Streamed by {}:", stream.model());
    while let Some(delta) = stream.next().await {
        print!("{}", delta?.text());
        std::io::stdout().flush()?;
    }
    let reply = stream.finish().await?;
    println!("\n  [{} {}]", reply.model(), reply.cost());

    service.shutdown(Duration::from_secs(5)).await;
    println!("\n{:<10} {:<34} {:>7} {:>7} {:>14} {:>14}", "ending", "model", "prompt", "answer", "cost", "saved");
    for record in costs.records() {
        println!(
            "{:<10} {:<34} {:>7} {:>7} {:>14} {:>14}",
            record.ending.as_str(),
            record.model(),
            record.prompt_tokens(),
            record.completion_tokens(),
            record.cost,
            record.saved,
        );
    }
    let totals = service.costs();
    println!("spent {}, saved {}", totals.known, totals.saved);
    if let Some(together) = simulator {
        println!("the simulator's own bill: {} nano-dollars for {} calls", together.bill().nano_usd, together.calls());
    }
    Ok(())
}
