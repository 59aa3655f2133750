//! Three processes that share one batch: each takes the chunks that nobody has, and one of them is killed on the way.
//!
//! `cargo run --features batch,postgres --example batch_workers` uses the PostgreSQL that `DATABASE_URL` names, as many
//! machines would (`batch_folder` must be one that all of them see), and a file of SQLite without it. A create that the
//! killed worker may have sent is waited for: four and a half minutes, in which the provider's list would show its job.
#![expect(clippy::print_stdout, reason = "the output is the example")]

use std::{
    collections::hash_map::RandomState,
    error::Error,
    hash::{BuildHasher, Hasher},
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use futures_util::StreamExt;
use together_inference::{
    InferenceRequest, InferenceService, TogetherClient, pipeline::Pipeline, service::BatchOptions, store::Store,
    testing::Together,
};

const WORKERS: usize = 3;
const LINES: usize = 600;
const CHUNK: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let said: Vec<String> = std::env::args().skip(1).collect();
    match &said[..] {
        [role, url, folder] if role == "worker" => work(url, Path::new(folder)).await,
        _ => share().await,
    }
}

/// Submits a batch, and has others carry it out.
async fn share() -> Result<(), Box<dyn Error>> {
    // A provider names no two jobs alike, and a database remembers those of earlier runs.
    let seed = RandomState::new().build_hasher().finish();
    let together = Together::builder().seed(seed).time_scale(0.1).build();
    together.batch_time(Duration::from_secs(30));
    let server = together.serve().await?;
    let folder = std::env::temp_dir().join(format!("batch-workers-{seed:016x}"));
    std::fs::create_dir_all(&folder)?;
    // It has no worker of its own.
    let service = builder(&server.base_url(), &folder).await?.build()?;
    let lines = (0..LINES).map(|number| InferenceRequest::chat(format!("Summarise report {number}.")).max_tokens(40));
    let ticket = service.batch(lines).name(folder.to_string_lossy()).submit().await?;
    println!("batch {} of {LINES} lines in {} chunks", ticket.id(), LINES / CHUNK);

    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(Worker(worker(&server.base_url(), &folder)?));
    }
    while together.batches().len() < LINES / CHUNK / 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    workers.pop().into_iter().for_each(drop);
    println!("one of {WORKERS} workers was killed with {} jobs out", together.batches().len());

    let (mut progress, mut told) = (std::pin::pin!(ticket.progress()), None);
    while let Some(now) = progress.next().await.transpose()? {
        let jobs = together.batches().len();
        if told != Some((now.done, jobs)) {
            println!("{:>3.0} s: {jobs} jobs, {} lines answered", now.elapsed.as_secs_f64(), now.done.lines());
        }
        told = Some((now.done, jobs));
    }

    let report = ticket.await?;
    println!("{report}");
    let bill = together.bill().nano_usd;
    println!(
        "{} jobs for {} chunks; the simulator's own bill: {bill} nano-dollars",
        together.batches().len(),
        LINES / CHUNK
    );
    drop(workers);
    service.shutdown(Duration::from_secs(5)).await;
    server.shutdown().await;
    drop(service);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// Works on whatever the store holds, until it is killed.
async fn work(url: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    let look = Pipeline::new().poll_every(Duration::from_millis(200));
    let service = builder(url, folder).await?.background(look).build()?;
    // A service starts what works in the background with its first use.
    service.start();
    std::future::pending().await
}

async fn builder(url: &str, folder: &Path) -> Result<together_inference::service::ServiceBuilder, Box<dyn Error>> {
    let client = TogetherClient::builder().base_url(url).api_key("simulated").build()?;
    let store = store(folder).await?;
    let options = BatchOptions::default().chunk_lines(CHUNK as u64).poll(Duration::from_secs(1));
    Ok(InferenceService::builder(client).store(&store).batches_with(options).batch_folder(folder.join("files")))
}

#[cfg(feature = "postgres")]
async fn store(folder: &Path) -> Result<Store, Box<dyn Error>> {
    match std::env::var("DATABASE_URL") {
        Ok(url) => Ok(Store::connect(&url).await?),
        Err(_) => Ok(Store::open(folder.join("inference.db")).await?),
    }
}

#[cfg(not(feature = "postgres"))]
async fn store(folder: &Path) -> Result<Store, Box<dyn Error>> {
    Ok(Store::open(folder.join("inference.db")).await?)
}

/// A process that goes with this one, as if by SIGKILL.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn worker(url: &str, folder: &Path) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?).arg("worker").arg(url).arg(folder).spawn()
}
