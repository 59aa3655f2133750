//! A disk that is full: nothing is bought that cannot be kept, what was bought is kept, and nothing is marked as read that
//! is not on the disk.
//!
//! The child is this test binary itself, in a shell that bounds how large a file may become; the simulator is the parent's.

use std::{
    env,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use together_inference::{
    InferenceRequest, InferenceService, TogetherClient,
    batch::BatchReport,
    cost::Ledger,
    pipeline::Pipeline,
    service::{BatchOptions, Error, ErrorKind},
    store::Store,
    testing::{Server, Together},
};

use super::{Folder, MODEL, check};
use crate::{ledger::always, world::secs};

const STORE: &str = "TOGETHER_FULL_TEST_STORE";
const URL: &str = "TOGETHER_FULL_TEST_URL";
const WAY: &str = "TOGETHER_FULL_TEST_WAY";

/// All answers together have more than a file may; a file may have more than what must be free.
const LINES: usize = 40;
const ANSWER: usize = 300_000;
/// In blocks of 512 bytes, or of 1,024 in some shells: more than the log of the database has before it begins anew.
const BOUND: u32 = 10_240;
/// Less than the requests of a batch.
const TIGHT: u32 = 700;

/// Lines that are answered differently every time, so that no cache has an answer that was lost.
fn lines(way: &str) -> Vec<InferenceRequest> {
    let padding = "x".repeat(if way == "plan" { 40_000 } else { 1 });
    let line = |number| {
        let text = format!("line {number:06}. {padding}");
        let asked = if way == "job" { InferenceRequest::chat(text) } else { InferenceRequest::raw_prompt(text) };
        asked.model(MODEL).temperature(1.0).max_tokens(90_000)
    };
    (0..LINES).map(line).collect()
}

async fn run_batch(store: &Path, url: &str, way: &str) -> Result<BatchReport, Error> {
    let client = TogetherClient::builder().base_url(url).api_key("key").build().unwrap();
    let service = InferenceService::builder(client)
        .store(&Store::open(store).await.unwrap())
        .batches_with(BatchOptions::default().poll(Duration::from_millis(200)))
        .background(Pipeline::new().poll_every(Duration::from_millis(20)))
        .build()
        .unwrap();
    let report = match service.batch(lines(way)).name("labels").submit().await {
        Ok(ticket) => ticket.await,
        Err(error) => Err(error),
    };
    service.shutdown(secs(10)).await;
    report
}

/// What a child does; nothing where there is no parent.
#[tokio::test]
async fn child() {
    let Ok(store) = env::var(STORE) else { return };
    let way = env::var(WAY).unwrap();
    let report = run_batch(Path::new(&store), &env::var(URL).unwrap(), &way).await;
    if way == "plan" {
        assert_eq!(report.unwrap_err().kind(), ErrorKind::Store);
        return;
    }
    let report = report.unwrap();
    check(&report);
    assert!(report.is_complete(), "{report}");
}

/// A child whose files may have so many blocks. What goes beyond is an error to it, and no signal.
fn start(folder: &Folder, served: &Server, way: &str, blocks: u32) -> Child {
    Command::new("sh")
        .args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "batches::full::child", "--nocapture", "--test-threads", "1"])
        .env(STORE, folder.0.join("inference.db"))
        .env(URL, served.base_url())
        .env(WAY, way)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn ended(child: Child) -> (bool, String) {
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    (ended.status.success(), said)
}

fn simulator() -> Together {
    let together = Together::builder().time_scale(0.001).build();
    together.on("line").reply("y".repeat(ANSWER));
    together
}

async fn judge(folder: &Folder, together: &Together) {
    let store = Store::open(folder.0.join("inference.db")).await.unwrap();
    let records = Ledger::new(&store).records(always()).await.unwrap();
    let kept: i64 = records.iter().map(|record| record.cost.charge().nanos()).sum();
    assert_eq!((records.len(), kept), (LINES, together.bill().nano_usd), "the ledger is not the bill of one pass");
}

#[tokio::test]
async fn answers_that_the_disk_does_not_take_are_kept_and_not_bought_again() {
    let (together, folder) = (simulator(), Folder::new());
    let served = together.serve().await.unwrap();
    let (ended_well, said) = ended(start(&folder, &served, "one by one", BOUND)).await;
    assert!(ended_well, "{said}");
    assert_eq!(together.calls(), LINES as u64, "answers were bought again");
    judge(&folder, &together).await;
}

#[tokio::test]
async fn rows_that_the_disk_does_not_take_are_read_again_and_nothing_is_settled_before() {
    let (together, folder) = (simulator(), Folder::new());
    let served = together.serve().await.unwrap();
    let mut child = start(&folder, &served, "job", BOUND);
    let downloads = || together.requests().iter().filter(|asked| asked.path.ends_with("/content")).count();
    while downloads() < 2 {
        assert_eq!(child.try_wait().unwrap(), None, "it ended with rows that nobody has");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let tables = rusqlite::Connection::open(folder.0.join("inference.db")).unwrap();
    let state: String = tables.query_row("SELECT state FROM chunk", [], |row| row.get(0)).unwrap();
    assert_eq!(state, "ended");
    // There is room again.
    let report = run_batch(&folder.0.join("inference.db"), &served.base_url(), "job").await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(together.batches().len(), 1);
    judge(&folder, &together).await;
}

#[tokio::test]
async fn a_batch_that_the_disk_does_not_take_is_refused_and_nothing_is_sent() {
    let (together, folder) = (simulator(), Folder::new());
    let served = together.serve().await.unwrap();
    let (ended_well, said) = ended(start(&folder, &served, "plan", TIGHT)).await;
    assert!(ended_well, "{said}");
    assert_eq!(together.requests().len(), 0);
    let tables = rusqlite::Connection::open(folder.0.join("inference.db")).unwrap();
    let batches: i64 = tables.query_row("SELECT count(*) FROM batch", [], |row| row.get(0)).unwrap();
    assert_eq!(batches, 0);
}
