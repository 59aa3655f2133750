//! What is in memory while a long list of jobs is read.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream;
use stats_alloc::Region;
use together_inference::{
    TogetherClient, async_trait,
    batch::{BatchSubmitter, RemoteId, TogetherBatches},
    client::{BatchJob, Body, Transport, TransportError},
};
use tokio::runtime::Runtime;

use crate::ALLOCATOR;

const JOBS: usize = 20_000;
/// Jobs whose status this version does not know.
const PAUSED: usize = 20;
const MOST: u64 = 16 << 20;

/// A row of half a kilobyte.
fn row(number: usize) -> Bytes {
    let status = if number % (JOBS / PAUSED) == 7 { "PAUSED" } else { "COMPLETED" };
    let first = if number == 0 { '[' } else { ',' };
    format!(
        r#"{first}{{"id":"{number:036}","user_id":"user_789xyz012","project_id":"proj_{number:024}","organization_id":"org_456","input_file_id":"file-{number:036}","file_size_bytes":1048576,"status":"{status}","job_deadline":"2026-01-15T15:30:00.123456Z","created_at":"2026-01-15T14:30:00.123456Z","endpoint":"/v1/chat/completions","progress":100,"model_id":"Qwen/Qwen3.5-9B","output_file_id":"file-output-{number:036}","completed_at":"2026-01-15T15:45:30.123456Z"}}"#
    )
    .into()
}

#[derive(Debug)]
struct Listing;

#[async_trait]
impl Transport for Listing {
    async fn send(&self, _: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        let rows = (0..JOBS).map(row).chain([Bytes::from("]")]);
        Ok(http::Response::new(Body::stream(stream::iter(rows.map(Ok)))))
    }
}

/// 20,000 jobs, ten megabytes: read for those of unknown status, and for one of the batches' own.
pub fn jobs(runtime: &Runtime) {
    let client = TogetherClient::builder().api_key("bench").transport(Listing).build().expect("a client");
    let bytes: usize = (0..JOBS).map(|number| row(number).len()).sum();
    println!("a list of {JOBS} jobs, {:.1} MB", bytes as f64 / 1e6);
    let (region, most) = (Region::new(ALLOCATOR), AtomicU64::new(0));
    let live = || {
        let change = region.change();
        let held = change.bytes_allocated as i64 + change.bytes_reallocated as i64 - change.bytes_deallocated as i64;
        most.fetch_max(held.max(0) as u64, Ordering::Relaxed);
    };
    let report = |what: &str, bound: u64| {
        let most = most.swap(0, Ordering::Relaxed);
        let verdict = if most <= bound { "" } else { "  MISSED" };
        println!("  {what:<42} {:>8.1} KiB at most (bound {} KiB){verdict}", most as f64 / 1024.0, bound >> 10);
    };
    let is_unknown = |job: &BatchJob| {
        live();
        job.status.as_str() == "PAUSED"
    };
    let paused = runtime.block_on(client.batches().list_where(is_unknown)).expect("a list");
    assert_eq!(paused.len(), PAUSED, "a status that is not known is kept");
    report("those of unknown status", MOST);

    let id = RemoteId::from(format!("{:036}", 11_111));
    let told = runtime.block_on(TogetherBatches::new(client.clone()).status(&[id])).expect("a status");
    assert_eq!(told.len(), 1);
    live();
    report("how one of them stands, afterwards", MOST);
}
