//! Processes that end in the middle of it, and several that share a file.
//!
//! The child is this test binary itself: it makes calls against the parent's simulator, which keeps the bill, and ends
//! at a place that it passes, or is killed with SIGKILL at any time. The places are those that a first child prints.

use std::{
    collections::BTreeSet,
    env,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use together_inference::{
    Cost, InferenceService, TogetherClient,
    cost::{Durability, Ending, Ledger},
    store::Store,
    testing::{Server, Together},
    types::{Rng, SeededRng},
};

use super::{Folder, audit, muse, open, secs, sums};

const STORE: &str = "TOGETHER_LEDGER_TEST_STORE";
const URL: &str = "TOGETHER_LEDGER_TEST_URL";
const MODE: &str = "TOGETHER_LEDGER_TEST_MODE";
const CALLS: &str = "TOGETHER_LEDGER_TEST_CALLS";
const KILL: &str = "TOGETHER_INFERENCE_KILL_AT";

/// What a child does; nothing where there is no parent.
#[tokio::test]
async fn child() {
    let Ok(path) = env::var(STORE) else { return };
    let client = TogetherClient::builder().base_url(env::var(URL).unwrap()).api_key("key").build().unwrap();
    let durability = if env::var(MODE).unwrap() == "strict" { Durability::Strict } else { Durability::Standard };
    let ledger = Ledger::new(&Store::open(path).await.unwrap()).durability(durability);
    let service = InferenceService::builder(client).cost_sink(ledger).build().unwrap();
    let calls: usize = env::var(CALLS).unwrap().parse().unwrap();
    for call in 0..calls {
        service.complete(muse(format!("question {call}")).tenant("acme")).await.unwrap();
        if call % 3 == 2 {
            assert!(service.flush().await);
        }
    }
    service.shutdown(secs(10)).await;
}

fn start(path: &Path, url: &str, mode: &str, calls: usize, kill: &str) -> std::process::Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "ledger::crash::child", "--nocapture", "--test-threads", "1"])
        .env(STORE, path)
        .env(URL, url)
        .env(MODE, mode)
        .env(CALLS, calls.to_string())
        .env(KILL, kill)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn run(path: &Path, served: &Server, mode: &str, kill: &str) -> Output {
    let child = start(path, &served.base_url(), mode, 12, kill);
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

/// The places that a child passes.
async fn places(mode: &str) -> BTreeSet<String> {
    let (folder, served) = (Folder::new(), Together::new().serve().await.unwrap());
    let listed = run(&folder.path(), &served, mode, "list").await;
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stderr).unwrap();
    listed.lines().filter_map(|line| line.strip_prefix("kill point ")).map(str::to_owned).collect()
}

/// What a store must be after a child was killed at this place.
async fn survives(mode: &str, place: &str, times: u32) {
    let (folder, together) = (Folder::new(), Together::new());
    let served = together.serve().await.unwrap();
    let child = run(&folder.path(), &served, mode, &format!("{place}:{times}")).await;
    let killed = !child.status.success();
    assert!(killed || times > 1, "{mode}, {place}: it was not killed");
    let case = format!("{mode}, {place}, time {times}, killed: {killed}");
    let ledger = open(&folder.path()).await;
    let bill = together.bill();
    // What the child left open is closed by the first chore, which the next read may come before.
    let records = loop {
        let records = audit(&ledger).await;
        let open = rusqlite::Connection::open(folder.path()).unwrap();
        let open: i64 =
            open.query_row("SELECT count(*) FROM cost_record WHERE open_by IS NOT NULL", [], |row| row.get(0)).unwrap();
        if open == 0 {
            break records;
        }
        tokio::task::yield_now().await;
    };
    let total = sums(&records);
    let bound = total.known + total.unknown;
    assert!(total.known.nanos() <= bill.nano_usd, "{case}: more than the bill");
    // Standard: what was sent since the last flush may not be written yet.
    let unwritten = bill.calls.saturating_sub(total.attempts);
    match mode {
        "strict" => {
            assert_eq!(unwritten, 0, "{case}: an attempt is nowhere");
            assert!(bound.nanos() >= bill.nano_usd, "{case}: {total:?} is less than the bill");
        }
        _ => assert!(unwritten <= 3, "{case}: {unwritten} attempts are nowhere"),
    }
    assert!(total.attempts <= bill.calls + 1, "{case}: at most one was written down and not made");
    let lost = records.iter().filter(|record| record.ending == Ending::Lost).count();
    if !killed {
        assert_eq!((total.known.nanos(), lost), (bill.nano_usd, 0), "{case}");
    }
    println!(
        "{case}: billed {}, known {}, lost {lost}, unwritten {unwritten}",
        bill.calls,
        total.attempts as usize - lost
    );
    assert!(records.iter().all(|record| record.ending != Ending::Lost || matches!(record.cost, Cost::Unknown { .. })));
}

#[tokio::test]
async fn killed_anywhere_it_loses_and_doubles_nothing() {
    for mode in ["strict", "standard"] {
        let places = places(mode).await;
        assert!(places.len() >= 6, "{places:?}");
        for place in &places {
            for times in [1, 2, 3, 5] {
                survives(mode, place, times).await;
            }
        }
    }
}

#[tokio::test]
async fn killed_at_any_time_it_loses_and_doubles_nothing() {
    let rng = SeededRng::new(7);
    for round in 0..30 {
        let (folder, together) = (Folder::new(), Together::new());
        let served = together.serve().await.unwrap();
        let mut child = start(&folder.path(), &served.base_url(), "strict", 1_000_000, "nowhere");
        let calls = 1 + rng.next_u128() % 40;
        while u128::from(together.calls()) < calls {
            tokio::time::sleep(Duration::from_micros(rng.next_u128() as u64 % 500)).await;
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        while together.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
        let total = sums(&audit(&open(&folder.path()).await).await);
        let bill = together.bill();
        let bound = total.known + total.unknown;
        let made = bill.calls..=bill.calls + 1;
        assert!(made.contains(&total.attempts), "round {round}: {} of {}", total.attempts, bill.calls);
        assert!(total.known.nanos() <= bill.nano_usd && bill.nano_usd <= bound.nanos(), "round {round}: {total:?}");
    }
}

#[tokio::test]
async fn two_processes_on_one_file_lose_and_double_nothing() {
    let (folder, together) = (Folder::new(), Together::new());
    let served = together.serve().await.unwrap();
    let children: Vec<_> =
        (0..2).map(|_| start(&folder.path(), &served.base_url(), "standard", 150, "nowhere")).collect();
    for child in children {
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let records = audit(&open(&folder.path()).await).await;
    assert_eq!(records.len(), 300);
    assert_eq!(sums(&records).known.nanos(), together.bill().nano_usd);
}
