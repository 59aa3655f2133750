//! Batches on the simulator: nothing lost, nothing paid twice, and its own bill is the judge.
//!
//! Time is paused, and does not go on by itself: that would be whenever a task waits for the store's thread. A driver lets
//! a second pass when the store has done all that it was asked for.

mod broken;
mod cache;
mod cost;
mod crash;
mod deadline;
mod deferred;
mod files;
mod full;
mod limits;
mod names;
mod rounds;
mod whole;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use together_inference::{
    InferenceRequest, InferenceService,
    batch::{BatchId, BatchReport, BatchRow},
    cost::{Ledger, MemoryCosts},
    pipeline::Pipeline,
    service::{BatchOptions, BatchTicket, ServiceBuilder},
    store::Store,
    testing::Together,
    types::Clock,
};
use tokio::time::Instant;

use super::{
    ledger::always,
    world::{secs, settle, spawn},
};

/// A model of the simulator, at full price in batches.
pub(crate) const MODEL: &str = "zai-org/GLM-5.3";

/// The time of day goes as the paused time does.
#[derive(Debug)]
pub(crate) struct PausedClock(Instant);

impl PausedClock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for PausedClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + secs(1_790_000_000) + self.0.elapsed()
    }
}

/// A folder that goes with its test.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("together-inference-batches-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A service with batches on a simulator.
pub(crate) struct Shop {
    pub(crate) sim: Together,
    pub(crate) costs: MemoryCosts,
    pub(crate) store: Store,
    pub(crate) service: InferenceService,
    pub(crate) clock: Arc<PausedClock>,
    pub(crate) folder: Folder,
    _driver: Driver,
}

/// Lets time pass.
struct Driver {
    task: tokio::task::JoinHandle<()>,
    /// As long as it is held, the runtime lets no time pass by itself.
    _held: std::sync::mpsc::Sender<()>,
}

impl Driver {
    fn start(store: &Store, service: &InferenceService, step: Duration) -> Self {
        let (held, holds) = std::sync::mpsc::channel::<()>();
        drop(tokio::task::spawn_blocking(move || holds.recv()));
        let (store, service) = (store.clone(), service.clone());
        let task = spawn(async move {
            loop {
                // Whoever works writes and reads as slowly as this does.
                for _ in 0..3 {
                    let _ = store.sync().await;
                    let _ = service.find_batch(BatchId::new(0)).await;
                    settle().await;
                }
                tokio::time::advance(step).await;
            }
        });
        Self { task, _held: held }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shop {
    pub(crate) async fn new() -> Self {
        Self::with(BatchOptions::default(), |builder| builder).await
    }

    pub(crate) async fn with(options: BatchOptions, edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> Self {
        Self::at_pace(secs(1), options, edit).await
    }

    /// One in whose world so much time passes at once.
    pub(crate) async fn at_pace(
        step: Duration,
        options: BatchOptions,
        edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder,
    ) -> Self {
        let (sim, folder, clock) = (Together::new(), Folder::new(), Arc::new(PausedClock::new()));
        let store = Store::open(folder.0.join("inference.db")).await.unwrap();
        let costs = MemoryCosts::new(1_000_000);
        let service =
            edit(builder(&sim, &store, &clock).cost_sink(costs.clone()).batches_with(options)).build().unwrap();
        let driver = Driver::start(&store, &service, step);
        Self { sim, costs, store, service, clock, folder, _driver: driver }
    }

    /// Another service on the same store and simulator.
    pub(crate) fn another(&self, options: BatchOptions) -> InferenceService {
        builder(&self.sim, &self.store, &self.clock).batches_with(options).build().unwrap()
    }

    pub(crate) async fn submit(&self, lines: Vec<InferenceRequest>) -> BatchTicket {
        self.service.submit_batch(lines).await.unwrap()
    }

    /// How often the provider was asked for this.
    pub(crate) fn asked(&self, method: &str, path: &str) -> usize {
        let requests = self.sim.requests();
        requests.iter().filter(|request| request.method == method && request.path.starts_with(path)).count()
    }

    /// What is written in records and ledger is what the simulator bills; nothing is left behind.
    pub(crate) async fn judge(&self) {
        assert!(self.service.flush().await, "the records were not written");
        let billed = self.sim.bill().nano_usd;
        let recorded: i64 = self.costs.records().iter().map(|record| record.cost.charge().nanos()).sum();
        let ledger = Ledger::new(&self.store).records(always()).await.unwrap();
        let kept: i64 = ledger.iter().map(|record| record.cost.charge().nanos()).sum();
        assert_eq!((recorded, kept), (billed, billed), "records and ledger are not the bill");
        let mut attempts: Vec<_> = ledger.iter().map(|record| record.attempt).collect();
        attempts.sort_unstable();
        attempts.dedup();
        assert_eq!(attempts.len(), ledger.len(), "an attempt has two records");
    }
}

fn builder(sim: &Together, store: &Store, clock: &Arc<PausedClock>) -> ServiceBuilder {
    let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
    let client = together_inference::TogetherClient::builder()
        .api_key("simulated")
        .transport(sim.clone())
        .clock(Arc::clone(&clock))
        .build()
        .unwrap();
    InferenceService::builder(client).store(store).clock(clock).background(Pipeline::new())
}

/// Lines that ask one thing each, of a model that answers the same every time.
pub(crate) fn lines(count: usize) -> Vec<InferenceRequest> {
    (0..count).map(line).collect()
}

pub(crate) fn line(number: usize) -> InferenceRequest {
    InferenceRequest::chat(format!("line {number:06}.")).model(MODEL).temperature(0.0).max_tokens(40)
}

/// All rows, in the order of the lines.
pub(crate) async fn rows(ticket: &BatchTicket) -> Vec<BatchRow> {
    let (mut rows, mut all) = (ticket.results_in_order(), Vec::new());
    while let Some(row) = rows.next().await.unwrap() {
        all.push(row);
    }
    all
}

/// What holds of every report.
pub(crate) fn check(report: &BatchReport) {
    let ended = report.succeeded + report.failed.len() as u64 + report.cancelled;
    assert_eq!(ended, report.total, "{report}");
    assert!(report.from_cache + report.deduplicated <= report.succeeded, "{report}");
}
