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
mod hostile;
mod late;
mod limits;
mod load;
mod names;
mod progress;
mod rescues;
mod rounds;
mod stuck;
mod torn;
mod whole;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use together_inference::{
    InferenceRequest, InferenceService, Usd,
    batch::{BatchId, BatchReport, BatchRow},
    client::Transport,
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
    world::{ms, secs, settle, spawn},
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

    /// The time of day at its beginning.
    pub(crate) fn start(&self) -> SystemTime {
        self.now() - self.0.elapsed()
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
        // In memory where there is such a place: no test pulls the plug, and a disk takes its time over every write.
        let memory = PathBuf::from("/dev/shm");
        let home = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let path = home.join(format!("together-inference-batches-{}-{number}", std::process::id()));
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
    pace: Arc<Mutex<Pace>>,
    _driver: Driver,
}

/// The most time that passes at once while no job runs: it is shorter than a lease, and than what a submission may take.
const BRIEF: Duration = secs(10);

/// How much time passes at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// While the provider answers a call.
    pub(crate) busy: Duration,
    pub(crate) idle: Duration,
}

impl From<Duration> for Pace {
    fn from(step: Duration) -> Self {
        Self { busy: step.min(secs(1)), idle: step }
    }
}

/// Lets time pass.
struct Driver {
    task: tokio::task::JoinHandle<()>,
    /// As long as it is held, the runtime lets no time pass by itself.
    _held: std::sync::mpsc::Sender<()>,
}

impl Driver {
    fn start(sim: &Together, store: &Store, service: &InferenceService, pace: &Arc<Mutex<Pace>>) -> Self {
        let (held, holds) = std::sync::mpsc::channel::<()>();
        drop(tokio::task::spawn_blocking(move || holds.recv()));
        let (sim, store, service, pace) = (sim.clone(), store.clone(), service.clone(), Arc::clone(pace));
        let task = spawn(async move {
            loop {
                // Whoever works writes and reads as slowly as this does.
                for _ in 0..3 {
                    let _ = store.sync().await;
                    let _ = service.find_batch(BatchId::new(0)).await;
                    settle().await;
                }
                let pace = *pace.lock().unwrap();
                let waits = sim.batches().iter().any(|job| matches!(&*job.status, "VALIDATING" | "IN_PROGRESS"));
                let idle = if waits { pace.idle } else { pace.idle.min(BRIEF) };
                tokio::time::advance(if sim.in_flight() > 0 { pace.busy } else { idle }).await;
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
        pace: impl Into<Pace>,
        options: BatchOptions,
        edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder,
    ) -> Self {
        Self::on(Together::new(), pace, options, edit).await
    }

    /// The same on a simulator of the test's own.
    pub(crate) async fn on(
        sim: Together,
        pace: impl Into<Pace>,
        options: BatchOptions,
        edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder,
    ) -> Self {
        Self::through(sim, |sim| sim, pace, options, edit).await
    }

    /// The same that reaches the simulator by such a way.
    pub(crate) async fn through<T: Transport + 'static>(
        sim: Together,
        way: impl FnOnce(Together) -> T,
        pace: impl Into<Pace>,
        options: BatchOptions,
        edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder,
    ) -> Self {
        let (folder, clock) = (Folder::new(), Arc::new(PausedClock::new()));
        let store = Store::open(folder.0.join("inference.db")).await.unwrap();
        let costs = MemoryCosts::new(1_000_000);
        let service = edit(builder(way(sim.clone()), &store, &clock).cost_sink(costs.clone()).batches_with(options))
            .build()
            .unwrap();
        let pace = Arc::new(Mutex::new(pace.into()));
        let driver = Driver::start(&sim, &store, &service, &pace);
        Self { sim, costs, store, service, clock, folder, pace, _driver: driver }
    }

    /// Lets time pass at another pace from now on.
    pub(crate) fn set_pace(&self, pace: impl Into<Pace>) {
        *self.pace.lock().unwrap() = pace.into();
    }

    /// Waits until so many jobs are out; from then on time passes at this pace. Before, it may not pass faster than a lease
    /// holds: a create that takes longer is another's to repeat.
    pub(crate) async fn hurry_after(&self, jobs: usize, pace: impl Into<Pace>) {
        while self.sim.batches().len() < jobs {
            tokio::time::sleep(secs(5)).await;
        }
        tokio::time::sleep(secs(30)).await;
        self.set_pace(pace);
    }

    /// Another service on the same store and simulator.
    pub(crate) fn another(&self, options: BatchOptions) -> InferenceService {
        self.another_with(options, |builder| builder)
    }

    pub(crate) fn another_with(
        &self,
        options: BatchOptions,
        edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder,
    ) -> InferenceService {
        edit(builder(self.sim.clone(), &self.store, &self.clock).batches_with(options)).build().unwrap()
    }

    /// The same over another transport.
    pub(crate) fn over(&self, transport: impl Transport + 'static) -> InferenceService {
        let service = builder(transport, &self.store, &self.clock).cost_sink(self.costs.clone()).batches();
        service.build().unwrap()
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
        self.judge_where(false).await;
    }

    /// The same where calls may have been given up at their deadline: what those came to only the provider knows.
    pub(crate) async fn judge_where(&self, some_given_up: bool) {
        self.set_pace(ms(50));
        // A busy disk is slower than the time that passes here.
        let mut flushes = 0;
        while !self.service.flush().await {
            flushes += 1;
            assert!(flushes < 100, "the records were not written");
        }
        let billed = self.sim.bill().nano_usd;
        let recorded: i64 = self.costs.records().iter().map(|record| record.cost.charge().nanos()).sum();
        let ledger = Ledger::new(&self.store).records(always()).await.unwrap();
        let kept: i64 = ledger.iter().map(|record| record.cost.charge().nanos()).sum();
        let known: i64 = ledger.iter().filter_map(|record| record.cost.known()).map(Usd::nanos).sum();
        assert_eq!(recorded, kept, "the ledger has not what was recorded");
        if some_given_up {
            assert!((known..=kept).contains(&billed), "records of {known} to {kept} are not the bill of {billed}");
        } else {
            assert_eq!(kept, billed, "records and ledger are not the bill");
        }
        let mut attempts: Vec<_> = ledger.iter().map(|record| record.attempt).collect();
        attempts.sort_unstable();
        attempts.dedup();
        assert_eq!(attempts.len(), ledger.len(), "an attempt has two records");
    }
}

fn builder(transport: impl Transport + 'static, store: &Store, clock: &Arc<PausedClock>) -> ServiceBuilder {
    let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
    let client = together_inference::TogetherClient::builder()
        .api_key("simulated")
        .transport(transport)
        .clock(Arc::clone(&clock))
        .build()
        .unwrap();
    InferenceService::builder(client).store(store).clock(clock).background(Pipeline::new())
}

/// How many random cases a test is to run: more by hand than in the gate.
pub(crate) fn cases(usual: u64) -> u64 {
    std::env::var("BATCH_TEST_SEEDS").map_or(usual, |cases| cases.parse().unwrap())
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
