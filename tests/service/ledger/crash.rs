//! Processes that end in the middle of it, and several that share a store.
//!
//! The child is this test binary itself: it makes calls against the parent's simulator, which keeps the bill, and ends
//! at a place that it passes, or is killed with SIGKILL at any time. The places are those that a first child prints.
//! Where the store is a server, children share a budget there.

#[cfg(feature = "postgres")]
pub(crate) mod shared;

use std::{
    collections::BTreeSet,
    env,
    process::{Command, Output, Stdio},
    time::Duration,
};

use together_inference::{
    Cost, InferenceService, TogetherClient,
    cost::{CostRecord, Durability, Ending, Ledger},
    testing::{Server, Together},
    types::{Rng, SeededRng},
};
use tokio::time::Instant;

use super::{Home, audit, home::store, muse, secs, sums};

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
    let store = store(&path).await;
    let builder = InferenceService::builder(client).cost_sink(Ledger::new(&store).durability(durability));
    #[cfg(feature = "postgres")]
    let builder = shared::shared(&store, builder);
    let service = builder.build().unwrap();
    let calls: usize = env::var(CALLS).unwrap().parse().unwrap();
    for call in 0..calls {
        service.complete(muse(format!("question {call}")).tenant("acme")).await.unwrap();
        if call % 3 == 2 {
            assert!(service.flush().await);
        }
    }
    service.shutdown(secs(10)).await;
}

pub(super) fn start(home: &Home, url: &str, mode: &str, calls: usize, kill: &str) -> std::process::Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "ledger::crash::child", "--nocapture", "--test-threads", "1"])
        .env(STORE, home.address())
        .env(URL, url)
        .env(MODE, mode)
        .env(CALLS, calls.to_string())
        .env(KILL, kill)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn run(home: &Home, served: &Server, mode: &str, kill: &str) -> Output {
    let child = start(home, &served.base_url(), mode, 12, kill);
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

/// The places that a child passes.
async fn places(home: &Home, mode: &str) -> BTreeSet<String> {
    let served = Together::new().serve().await.unwrap();
    let listed = run(home, &served, mode, "list").await;
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stderr).unwrap();
    listed.lines().filter_map(|line| line.strip_prefix("kill point ")).map(str::to_owned).collect()
}

/// What a store must be after a child was killed at this place.
async fn survives(home: &Home, mode: &str, place: &str, times: u32) {
    let together = Together::new();
    let served = together.serve().await.unwrap();
    let child = run(home, &served, mode, &format!("{place}:{times}")).await;
    let killed = !child.status.success();
    assert!(killed || times > 1, "{mode}, {place}: it was not killed");
    let case = format!("{}, {mode}, {place}, time {times}, killed: {killed}", home.kind());
    let (bill, records) = (together.bill(), left_in(home).await);
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
    #[cfg(feature = "postgres")]
    shared::is_charged_once(home, &together, unwritten == 0, &case).await;
}

/// The records when nothing is open any more.
async fn left_in(home: &Home) -> Vec<CostRecord> {
    // What a child left open is closed by the first chore, which the next read may come before; the server may notice a
    // little later that a connection is gone, so that it takes another ledger with chores of its own.
    let until = Instant::now() + secs(60);
    loop {
        assert!(Instant::now() < until, "attempts of a child stay open");
        let records = audit(&home.ledger().await).await;
        if home.count("SELECT count(*) FROM cost_record WHERE open_by IS NOT NULL").await == 0 {
            break records;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn killed_anywhere_it_loses_and_doubles_nothing() {
    for mode in ["strict", "standard"] {
        for home in Home::each().await {
            let places = places(&home, mode).await;
            assert!(places.len() >= 6, "{places:?}");
            for place in &places {
                for times in [1, 2, 3, 5] {
                    survives(&home.another().await, mode, place, times).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn killed_at_any_time_it_loses_and_doubles_nothing() {
    let rng = SeededRng::new(7);
    for (round, home) in Home::many(30).await.into_iter().enumerate() {
        let together = Together::new();
        let served = together.serve().await.unwrap();
        let mut child = start(&home, &served.base_url(), "strict", 1_000_000, "nowhere");
        let calls = 1 + rng.next_u128() % 40;
        let until = Instant::now() + secs(60);
        while u128::from(together.calls()) < calls {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "round {round}: {ended:?} after {}", together.calls());
            tokio::time::sleep(Duration::from_micros(rng.next_u128() as u64 % 500)).await;
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let settled = async {
            while together.in_flight() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(secs(60), settled).await.expect("the simulator still answers a child that is gone");
        let total = sums(&left_in(&home).await);
        let bill = together.bill();
        let bound = total.known + total.unknown;
        let made = bill.calls..=bill.calls + 1;
        assert!(made.contains(&total.attempts), "round {round}: {} of {}", total.attempts, bill.calls);
        assert!(total.known.nanos() <= bill.nano_usd && bill.nano_usd <= bound.nanos(), "round {round}: {total:?}");
        #[cfg(feature = "postgres")]
        shared::is_charged_once(&home, &together, true, &format!("round {round}")).await;
    }
}

#[tokio::test]
async fn processes_that_share_a_store_lose_and_double_nothing() {
    for home in Home::each().await {
        let together = Together::new();
        let served = together.serve().await.unwrap();
        let children: Vec<_> =
            (0..home.processes()).map(|_| start(&home, &served.base_url(), "standard", 150, "nowhere")).collect();
        let calls = 150 * children.len();
        for child in children {
            let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let records = audit(&home.ledger().await).await;
        assert_eq!(records.len(), calls, "{}", home.kind());
        assert_eq!(sums(&records).known.nanos(), together.bill().nano_usd);
        #[cfg(feature = "postgres")]
        shared::is_charged_once(&home, &together, true, "several processes").await;
    }
}
