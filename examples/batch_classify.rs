//! Many texts sorted by a typed answer, as one batch: what each costs, what failed and why.
//!
//! `cargo run --features batch --example batch_classify` runs on the simulator; set `TOGETHER_API_KEY` for the real API.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{collections::BTreeMap, error::Error, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use together_inference::{
    InferenceRequest, InferenceService, RouteId, pipeline::Pipeline, schemars, service::BatchOptions, store::Store,
};

const MODEL: &str = "zai-org/GLM-5.3";
/// The real API has a discount on few models; the simulator is told of one on this.
const PERCENT_OFF: u8 = 50;

#[derive(Debug, Deserialize, JsonSchema)]
struct Verdict {
    /// praise, complaint or question
    kind: String,
    /// 1 (calm) to 5 (furious)
    heat: u8,
}

const REVIEWS: [&str; 6] = [
    "Works as promised, and quickly.",
    "It broke after a day. I want my money back!",
    "Does it fit a 2019 model?",
    "Works as promised, and quickly.",
    "Never again!!!",
    "My daughter loves it.",
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (client, simulator) = common::client()?;
    let mut options = BatchOptions::default();
    if let Some(together) = &simulator {
        together.batch_time(Duration::from_secs(1));
        together.batch_discount(MODEL, PERCENT_OFF);
        together.on("broke").reply(r#"{"kind":"complaint","heat":4}"#);
        together.on("fit").reply(r#"{"kind":"question","heat":1}"#);
        together.on("Never").reply(r#"{"kind":"complaint","heat":5}"#);
        together.on("promised").reply(r#"{"kind":"praise","heat":1}"#);
        together.on("loves").reply(r#"{"kind":"praise","heat":1}"#);
        options = options.poll(Duration::from_millis(200));
    }
    let folder = std::env::temp_dir().join(format!("batch-classify-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut builder = InferenceService::builder(client);
    if simulator.is_some() {
        builder = builder.batch_percent_off(&RouteId::new("together", MODEL), PERCENT_OFF);
    }
    let service = builder
        .store(&Store::open(folder.join("inference.db")).await?)
        .batches_with(options)
        .background(Pipeline::new().poll_every(Duration::from_millis(100)))
        .build()?;

    let ask = |review| {
        InferenceRequest::chat(review).system("Sort this review.").model(MODEL).temperature(0.0).max_tokens(60)
    };
    let mut job = service.batch(REVIEWS.map(ask)).output::<Verdict>();
    println!("{}\n", job.estimate().await?);

    let ticket = job.submit().await?;
    let mut rows = ticket.results_as::<Verdict>();
    let mut kinds: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        match row.result {
            Ok(verdict) => kinds.entry(verdict.kind).or_default().push(verdict.heat),
            Err(error) => println!("line {}: {error}", row.index),
        }
    }
    for (kind, heats) in &kinds {
        println!("{kind:<10} {} (at most {} of 5 hot)", heats.len(), heats.iter().max().unwrap_or(&0));
    }
    let report = ticket.await?;
    println!("\nanswered {} of {}, {} as duplicates", report.succeeded, report.total, report.deduplicated);
    println!("paid {} for {} tokens", report.cost, report.usage.total());
    if let Some(together) = simulator {
        println!("the simulator's own bill: {} nano-dollars", together.bill().nano_usd);
    }
    service.shutdown(Duration::from_secs(5)).await;
    drop(service);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
