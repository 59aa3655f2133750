//! A cost sink of one's own: a file of JSON Lines that holds every attempt exactly once.
//!
//! `cargo run --example custom_cost_sink` runs on the simulator; set `TOGETHER_API_KEY` for the real API.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{collections::HashSet, error::Error, io, path::Path, time::Duration, time::UNIX_EPOCH};

use serde_json::{Value, json};
use together_inference::{
    InferenceRequest, InferenceService, Usd, async_trait,
    cost::{CostRecord, CostSink, MemoryCosts, SinkError},
};
use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt,
    sync::Mutex,
};

/// Appends a line for each record. Reads back at the start what is there, so that a restart writes nothing twice.
#[derive(Debug)]
struct JsonLines(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    written: HashSet<String>,
}

impl JsonLines {
    async fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(path).await?;
        let text = tokio::fs::read_to_string(path).await?;
        if !text.is_empty() && !text.ends_with('\n') {
            // A crash tore the last line. It is no record; the next one starts on a line of its own.
            file.write_all(b"\n").await?;
        }
        let id = |line| serde_json::from_str::<Value>(line).ok()?.get("attempt")?.as_str().map(str::to_owned);
        Ok(Self(Mutex::new(Inner { file, written: text.lines().filter_map(id).collect() })))
    }
}

#[async_trait]
impl CostSink for JsonLines {
    async fn record(&self, page: &[CostRecord]) -> Result<(), SinkError> {
        let mut inner = self.0.lock().await;
        // A page that failed half-way is offered again: the attempt's id tells what is already there.
        let new = || page.iter().filter(|record| !inner.written.contains(&record.attempt.to_string()));
        let lines: String = new().map(|record| line(record) + "\n").collect();
        let ids: Vec<_> = new().map(|record| record.attempt.to_string()).collect();
        inner.file.write_all(lines.as_bytes()).await.map_err(SinkError::new)?;
        inner.file.sync_data().await.map_err(SinkError::new)?;
        inner.written.extend(ids);
        Ok(())
    }
}

/// Amounts are whole nano-dollars: a sum over a million lines is still exact.
fn line(record: &CostRecord) -> String {
    let at = record.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "attempt": record.attempt.to_string(),
        "at_ms": at.as_millis(),
        "tenant": record.tenant,
        "model": record.model(),
        "ending": record.ending.as_str(),
        "tokens": [record.prompt_tokens(), record.completion_tokens()],
        "cost_nano_usd": record.cost_usd().map(Usd::nanos),
        "at_most_nano_usd": record.cost.charge().nanos(),
    })
    .to_string()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (client, simulator) = common::client()?;
    if let Some(together) = &simulator {
        together.on("largest").reply("The blue whale.");
    }
    let path = std::env::temp_dir().join(format!("together-inference-costs-{}.jsonl", std::process::id()));
    let memory = MemoryCosts::default();
    let service =
        InferenceService::builder(client).cost_sink(JsonLines::open(&path).await?).cost_sink(memory.clone()).build()?;

    let acme = service.for_tenant("acme");
    let question = InferenceRequest::chat("What is the largest animal?").temperature(0.0).max_tokens(300);
    let reply = acme.complete(&question).await?;
    println!("asked: {reply} [{}]", reply.cost());
    let again = acme.complete(&question).await?;
    println!("asked again: from {} [{}]", again.source(), again.cost());
    let mut stream = acme.stream(question.allow_cached(false)).await?;
    let first = stream.next().await.transpose()?;
    println!("left a stream after {:?}", first.map(|delta| delta.text().to_owned()).unwrap_or_default());
    drop(stream);
    // Records are written behind the answers; a shutdown hands over the last ones.
    let drained = service.shutdown(Duration::from_secs(5)).await;
    println!("{} records lost at shutdown", drained.records_lost);

    // After a restart the same page comes again, as after a failure.
    JsonLines::open(&path).await?.record(&memory.records()).await?;
    println!("every record was offered twice and written once:");
    print!("{}", tokio::fs::read_to_string(&path).await?);
    tokio::fs::remove_file(&path).await?;
    Ok(())
}
