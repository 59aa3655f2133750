//! Processes that end in the middle of a batch: whoever comes next ends it, with one job a chunk and one bill.
//!
//! The child is this test binary itself; the simulator is the parent's, on a socket, and keeps the bill. Time of day goes
//! twenty times as fast for the children, so that the grace of a create whose reply was lost takes seconds.

use std::{
    collections::BTreeSet,
    env,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};
use together_inference::{
    InferenceService, TogetherClient,
    cost::Ledger,
    pipeline::Pipeline,
    service::BatchOptions,
    store::Store,
    testing::{Server, Together},
    types::{Clock, Rng, SeededRng, SystemClock},
};

use super::{Folder, lines};
use crate::{ledger::always, world::secs};

const STORE: &str = "TOGETHER_BATCH_TEST_STORE";
const URL: &str = "TOGETHER_BATCH_TEST_URL";
const KILL: &str = "TOGETHER_INFERENCE_KILL_AT";

const LINES: usize = 12;
const CHUNK: usize = 4;

/// The same for every process, and fast.
#[derive(Debug)]
struct Fast;

impl Clock for Fast {
    fn now(&self) -> SystemTime {
        let start = SystemTime::UNIX_EPOCH + secs(1_790_000_000);
        start + SystemClock.now().duration_since(start).unwrap_or_default() * 20
    }
}

/// What a child does; nothing where there is no parent.
#[tokio::test]
async fn child() {
    let Ok(path) = env::var(STORE) else { return };
    let clock: Arc<dyn Clock> = Arc::new(Fast);
    let client = TogetherClient::builder().base_url(env::var(URL).unwrap()).api_key("key");
    let client = client.clock(Arc::clone(&clock)).build().unwrap();
    let options = BatchOptions::default().chunk_lines(CHUNK as u64).poll(secs(1)).singly_below(0);
    let service = InferenceService::builder(client)
        .store(&Store::open(path).await.unwrap())
        .clock(clock)
        .batches_with(options)
        .background(Pipeline::new().poll_every(Duration::from_millis(20)))
        .build()
        .unwrap();
    let report = service.batch(lines(LINES)).name("labels").submit().await.unwrap().await.unwrap();
    assert!(report.is_complete(), "{report}");
    service.shutdown(secs(10)).await;
}

fn start(folder: &Path, url: &str, kill: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "batches::crash::child", "--nocapture", "--test-threads", "1"])
        .env(STORE, folder.join("inference.db"))
        .env(URL, url)
        .env(KILL, kill)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a child to its end; whether it ended well, and what it said.
async fn run(folder: &Path, served: &Server, kill: &str) -> (bool, String) {
    let child = start(folder, &served.base_url(), kill);
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    (ended.status.success(), said)
}

fn simulator() -> Together {
    let together = Together::builder().time_scale(0.01).build();
    together.batch_time(secs(20));
    together
}

/// What holds when a batch is over, whatever happened to those who worked on it.
async fn judge(case: &str, folder: &Folder, together: &Together, full: i64) {
    let (jobs, bill) = (together.batches(), together.bill());
    assert_eq!(jobs.len(), LINES / CHUNK, "{case}: one job a chunk");
    assert_eq!(bill.nano_usd, full, "{case}: the bill is not that of one pass");
    let store = Store::open(folder.0.join("inference.db")).await.unwrap();
    let records = Ledger::new(&store).records(always()).await.unwrap();
    let kept: i64 = records.iter().map(|record| record.cost.charge().nanos()).sum();
    assert_eq!((records.len(), kept), (LINES, full), "{case}: the ledger is not the bill");
}

/// What one pass costs, and the places that a child passes on it.
async fn one_pass() -> (i64, BTreeSet<String>) {
    let (together, folder) = (simulator(), Folder::new());
    let served = together.serve().await.unwrap();
    let (ended_well, said) = run(&folder.0, &served, "list").await;
    assert!(ended_well, "{said}");
    let full = together.bill().nano_usd;
    judge("undisturbed", &folder, &together, full).await;
    (full, said.lines().filter_map(|line| line.strip_prefix("kill point ")).map(str::to_owned).collect())
}

#[tokio::test]
async fn killed_anywhere_a_batch_is_ended_by_the_next_process_at_one_price() {
    let (full, places) = one_pass().await;
    let places: Vec<_> = places.into_iter().filter(|place| place.starts_with("batch")).collect();
    assert!(places.len() >= 24, "{places:?}");
    let cases = places.iter().flat_map(|place| [1, 2].map(|times| format!("{place}:{times}")));
    let survived = stream::iter(cases).map(|case| async move {
        let (together, folder) = (simulator(), Folder::new());
        let served = together.serve().await.unwrap();
        let (ended_well, _) = run(&folder.0, &served, &case).await;
        let jobs = together.batches().len();
        if !ended_well {
            let (ended_well, said) = run(&folder.0, &served, "nowhere").await;
            assert!(ended_well, "{case}: {said}");
        }
        judge(&case, &folder, &together, full).await;
        println!("{case}: killed: {}, jobs by then: {jobs}, in the end: {}", !ended_well, together.batches().len());
        !ended_well
    });
    let killed = survived.buffer_unordered(4).filter(|killed| std::future::ready(*killed)).count().await;
    assert!(killed >= places.len(), "{killed} were killed at {} places", places.len());
}

#[tokio::test]
async fn killed_at_any_time_and_again_it_is_paid_once() {
    let (full, _) = one_pass().await;
    let rng = SeededRng::new(7);
    for round in 0..8 {
        let (together, folder) = (simulator(), Folder::new());
        let served = together.serve().await.unwrap();
        for _ in 0..2 {
            let mut child = start(&folder.0, &served.base_url(), "nowhere");
            // It ends by what the child has asked for, not by a time.
            let requests = together.requests().len() + usize::try_from(1 + rng.next_u64() % 30).unwrap();
            while together.requests().len() < requests && child.try_wait().unwrap().is_none() {
                tokio::task::yield_now().await;
            }
            child.kill().unwrap(); // SIGKILL
            child.wait().unwrap();
        }
        let (ended_well, said) = run(&folder.0, &served, "nowhere").await;
        assert!(ended_well, "round {round}: {said}");
        judge(&format!("round {round}"), &folder, &together, full).await;
    }
}
