//! Processes that end, or stop, in the middle of a batch: whoever comes next ends it, with one job a chunk and one bill.
//!
//! The child is this test binary itself; the simulator is the parent's, on a socket, and keeps the bill. Time of day goes
//! faster for the children, so that the grace of a create whose reply was lost takes seconds: so many that a machine that
//! has much else to do does not let a call take as long.

mod crossed;
#[cfg(target_os = "linux")]
mod flushed;
mod killed;
mod many;
mod spend;
mod stopped;

use std::{
    collections::HashSet,
    env,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::SystemTime,
};

use together_inference::{
    InferenceService, TogetherClient,
    cost::Ledger,
    pipeline::Pipeline,
    service::BatchOptions,
    testing::{Server, Together},
    types::{Clock, SystemClock},
};

use super::{Folder, lines};
#[cfg(feature = "postgres")]
use crate::ledger::crash::shared::{CALLS, OPEN, RESERVED, SPENT, shared};
use crate::{
    ledger::{
        always,
        home::{Home, store},
    },
    world::{ms, secs},
};

const STORE: &str = "TOGETHER_BATCH_TEST_STORE";
const FILES: &str = "TOGETHER_BATCH_TEST_FILES";
const URL: &str = "TOGETHER_BATCH_TEST_URL";
const JOB: &str = "TOGETHER_BATCH_TEST_JOB";
const KILL: &str = "TOGETHER_INFERENCE_KILL_AT";
const FAST: &str = "TOGETHER_BATCH_TEST_SPEED";
const STOP: &str = "TOGETHER_INFERENCE_STOP_AT";

/// How much faster time goes, unless a test has its own speed.
const SPEED: u32 = 12;

/// The same for every process, and so many times as fast.
#[derive(Debug)]
struct Fast(u32);

impl Clock for Fast {
    fn now(&self) -> SystemTime {
        let start = SystemTime::UNIX_EPOCH + secs(1_790_000_000);
        start + SystemClock.now().duration_since(start).unwrap_or_default() * self.0
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
struct Job {
    lines: usize,
    chunk: usize,
    /// Jobs that are out at a time.
    jobs: usize,
    /// How often a worker looks into the store, in milliseconds.
    look: usize,
    /// For how long a chunk is one worker's, in seconds that do not go faster.
    lease: usize,
    /// The processes share a budget, if 1 and where the store can keep one.
    budget: usize,
}

/// Three chunks.
const SMALL: Job = Job { lines: 12, chunk: 4, jobs: 50, look: 20, lease: 30, budget: 1 };

impl Job {
    fn told(self) -> String {
        let numbers = [self.lines, self.chunk, self.jobs, self.look, self.lease, self.budget];
        numbers.map(|number| number.to_string()).join(",")
    }

    fn read(told: &str) -> Self {
        let numbers: Vec<usize> = told.split(',').map(|number| number.parse().unwrap()).collect();
        let [lines, chunk, jobs, look, lease, budget] = numbers[..] else { panic!("{told}") };
        Self { lines, chunk, jobs, look, lease, budget }
    }
}

/// What a child does; nothing where there is no parent.
#[tokio::test]
async fn child() {
    let Ok(address) = env::var(STORE) else { return };
    let job = Job::read(&env::var(JOB).unwrap());
    let speed = env::var(FAST).unwrap().parse().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(Fast(speed));
    let client = TogetherClient::builder().base_url(env::var(URL).unwrap()).api_key("key");
    let client = client.clock(Arc::clone(&clock)).build().unwrap();
    // Leases are by the time of the server where there is one, which is not fast.
    let lease = secs(job.lease as u64) * if address.starts_with("postgres://") { 1 } else { speed };
    let options = BatchOptions::default().chunk_lines(job.chunk as u64).jobs(job.jobs).lease(lease);
    let store = store(&address).await;
    let builder = InferenceService::builder(client).store(&store);
    #[cfg(feature = "postgres")]
    let builder = if job.budget == 1 { shared(&store, builder) } else { builder };
    let service = builder
        .clock(clock)
        .batches_with(options.poll(secs(1)).singly_below(0))
        .batch_folder(env::var(FILES).unwrap())
        .background(Pipeline::new().poll_every(ms(job.look as u64)))
        .build()
        .unwrap();
    let report = service.batch(lines(job.lines)).name("labels").submit().await.unwrap().await.unwrap();
    assert!(report.is_complete(), "{report}");
    service.shutdown(secs(10)).await;
}

/// A store, the files of its batches, and the provider.
struct Site {
    home: Home,
    files: Folder,
    together: Together,
    served: Server,
    speed: u32,
}

impl Site {
    /// One on each kind of store.
    async fn each() -> Vec<Self> {
        let mut sites = Vec::new();
        for home in Home::each().await {
            sites.push(Self::on(home).await);
        }
        sites
    }

    async fn on(home: Home) -> Self {
        let together = Together::builder().time_scale(0.01).build();
        together.batch_time(secs(20));
        Self::with(home, together, SPEED).await
    }

    async fn with(home: Home, together: Together, speed: u32) -> Self {
        let served = together.serve().await.unwrap();
        Self { home, files: Folder::new(), together, served, speed }
    }

    /// Another on the same kind of store.
    async fn another(&self) -> Self {
        Self::on(self.home.another().await).await
    }

    fn start(&self, job: Job, at: (&str, &str)) -> Child {
        self.command(job, at).spawn().unwrap()
    }

    fn command(&self, job: Job, (variable, place): (&str, &str)) -> Command {
        let mut child = Command::new(env::current_exe().unwrap());
        child
            .args(["--exact", "batches::crash::child", "--nocapture", "--test-threads", "1"])
            .env(STORE, self.home.address())
            .env(FILES, &self.files.0)
            .env(URL, self.served.base_url())
            .env(JOB, job.told())
            .env(FAST, self.speed.to_string())
            .env(variable, place)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        child
    }

    /// Runs a child to its end; whether it ended well, and what it said.
    async fn run(&self, job: Job, kill: &str) -> (bool, String) {
        ended(self.start(job, (KILL, kill))).await
    }

    /// Kills a child, as the machine might, when this holds. `false`: it was over before.
    async fn kill_when(&self, job: Job, is_time: impl Fn(&Together) -> bool) -> bool {
        let mut child = self.start(job, (KILL, "nowhere"));
        let mut lived = true;
        while lived && !is_time(&self.together) {
            tokio::time::sleep(ms(1)).await;
            lived = child.try_wait().unwrap().is_none();
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        lived
    }

    /// What holds when a batch is over, whatever happened to those who worked on it.
    async fn judge(&self, case: &str, job: Job) {
        let case = format!("{}, {case}", self.home.kind());
        let (jobs, bill) = (self.together.batches(), self.together.bill());
        assert_eq!(jobs.len(), job.lines.div_ceil(job.chunk), "{case}: one job a chunk");
        let billed: HashSet<_> = bill.lines.iter().map(|line| line.custom_id.as_deref()).collect();
        assert_eq!((bill.lines.len(), billed.len()), (job.lines, job.lines), "{case}: every line is billed once");
        let store = self.home.store().await;
        let records = Ledger::new(&store).records(always()).await.unwrap();
        let kept: i64 = records.iter().map(|record| record.cost.charge().nanos()).sum();
        assert_eq!((records.len(), kept), (job.lines, bill.nano_usd), "{case}: the ledger is not the bill");
        // What a process had planned before it found the batch is swept later.
        let ended =
            "SELECT count(*) FROM line WHERE state = 1 AND file IS NOT NULL AND batch IN (SELECT id FROM batch)";
        assert_eq!(self.home.count(ended).await, job.lines as i64, "{case}: a line has no answer");
        #[cfg(feature = "postgres")]
        if let (Home::Database(_), 1) = (&self.home, job.budget) {
            let (spent, calls) = (self.home.count(SPENT).await, self.home.count(CALLS).await);
            assert_eq!((spent, calls), (bill.nano_usd, job.lines as i64), "{case}: the budget is not the bill");
            let left = (self.home.count(RESERVED).await, self.home.count(OPEN).await);
            assert_eq!(left, (0, 0), "{case}: something stays set aside");
        }
    }
}

/// Waits for a child; whether it ended well, and what it said.
async fn ended(child: Child) -> (bool, String) {
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    (ended.status.success(), said)
}
