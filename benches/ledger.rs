//! The ledger in a file: what a caller pays, what all threads pay, what a report takes. `-- ledger`.

use std::{
    fs::File,
    io::Write,
    time::{Duration, Instant, SystemTime},
};

use cpu_time::{ProcessTime, ThreadTime};
use futures_util::future::join_all;
use together_inference::{
    Cost, InferenceRequest, InferenceService, RouteId, TogetherClient, Usage, UsageSource, Usd,
    cost::{Basis, By, CostRecord, CostSink, Durability, Ending, Intent, Ledger, ReportQuery},
    store::Store,
    types::RequestId,
};
use tokio::runtime::Runtime;

use crate::{MODEL, PAIRS, QUESTION, by_hand, many};

const DAY: Duration = Duration::from_secs(86_400);

/// A folder that goes when the benchmark does.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("together-ledger-bench-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn ledger(&self, runtime: &Runtime) -> Ledger {
        Ledger::new(&runtime.block_on(Store::open(self.0.join("inference.db"))).expect("a store"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The record of an ordinary call, one of many tenants and models, somewhere in the last thirty days.
fn record(number: u64) -> CostRecord {
    let call = RequestId::new(u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835) >> 16);
    let now = SystemTime::now();
    let model = ["zai-org/GLM-5.3", MODEL, "openai/gpt-oss-120b", "Qwen/Qwen3-235B"][number as usize % 4];
    let mut record = CostRecord::new(
        call.attempt(0),
        call,
        RouteId::new("together", model),
        now - (DAY * 29 / 1_000_000) * (number as u32 % 1_000_000),
    );
    record.tenant = Some(format!("tenant-{}", number % 25).into());
    record.served = Some(model.into());
    record.usage = Usage { prompt: 812, completion: 145, ..Usage::default() };
    record.usage_source = UsageSource::Reported;
    record.cost = Cost::Known(Usd::from_nanos(213_000 + (number % 997) as i64));
    record.price_version = Some(1);
    record.ending = Ending::Answered;
    record.latency = Duration::from_millis(840);
    record
}

pub fn ledger(runtime: &Runtime) {
    callers_side(runtime);
    writer(runtime);
    strict(runtime);
    reports(runtime);
}

fn line(name: &str, value: f64, bound: f64, unit: &str, is_met: bool) {
    println!("{name:<44} {value:>8.2}{unit} {bound:>6.2}{unit}{}", if is_met { "" } else { "  MISSED" });
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// An intent and a record of each attempt, on the thread that hands them over.
fn callers_side(runtime: &Runtime) {
    const PAGE: u64 = 256;
    let folder = Folder::new("caller");
    let ledger = folder.ledger(runtime);
    let passes = (0..PAIRS as u64).map(|pass| {
        let page: Vec<CostRecord> = (0..PAGE).map(|number| record(pass * PAGE + number)).collect();
        let intents: Vec<Intent> = page
            .iter()
            .map(|record| Intent::new(record.clone(), Cost::Unknown { at_most: Usd::from_nanos(9) }))
            .collect();
        let cpu = ThreadTime::now();
        runtime.block_on(async {
            for intent in &intents {
                ledger.intend(intent).await.expect("taken");
            }
            ledger.record(&page).await.expect("taken");
        });
        cpu.elapsed().as_secs_f64() * 1e6 / PAGE as f64
    });
    let micros = median(passes.collect());
    line("ledger, caller's side, intent and record", micros, 2.0, "us", micros <= 2.0);
}

/// All threads, beside the same columns by hand in batches of 500.
fn writer(runtime: &Runtime) {
    const RECORDS: u64 = 50_000;
    let (ours, theirs) = (Folder::new("ours"), Folder::new("theirs"));
    let ledger = ours.ledger(runtime);
    let mut hand = rusqlite::Connection::open(theirs.0.join("hand.db")).expect("a file");
    hand.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         CREATE TABLE record (attempt BLOB PRIMARY KEY, request BLOB, at INTEGER, tenant TEXT, session TEXT, tags TEXT,
         task TEXT, priority TEXT, upstream TEXT, model TEXT, served TEXT, prompt INTEGER, cached INTEGER,
         completion INTEGER, reasoning INTEGER, usage_source TEXT, cost INTEGER, saved INTEGER, ending TEXT,
         latency INTEGER, first_token INTEGER) STRICT",
    )
    .expect("a table");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let records: Vec<CostRecord> = (0..RECORDS).map(|number| record(round * RECORDS + number)).collect();
        let cpu = ProcessTime::now();
        runtime.block_on(async {
            for page in records.chunks(256) {
                ledger.record(page).await.expect("taken");
            }
        });
        ours.push(cpu.elapsed().as_secs_f64() * 1e6 / RECORDS as f64);
        let cpu = ProcessTime::now();
        for batch in records.chunks(500) {
            by_hand_batch(&mut hand, batch);
        }
        theirs.push(cpu.elapsed().as_secs_f64() * 1e6 / RECORDS as f64);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!("{:<44} {ours:>8.2}us, by hand {theirs:.2}us", "ledger, a record, all threads");
    line("ledger, writer beside batches by hand", ours / theirs, 2.5, "x ", ours / theirs <= 2.5);
}

fn by_hand_batch(hand: &mut rusqlite::Connection, batch: &[CostRecord]) {
    let transaction = hand.transaction().expect("a transaction");
    {
        let places: Vec<String> = (1..=21).map(|place| format!("?{place}")).collect();
        let sql = format!("INSERT INTO record VALUES ({}) ON CONFLICT DO NOTHING", places.join(", "));
        let mut insert = transaction.prepare_cached(&sql).expect("a statement");
        for record in batch {
            let at = record.at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros() as i64;
            insert
                .execute(rusqlite::params![
                    record.attempt.value().to_be_bytes().as_slice(),
                    record.request.value().to_be_bytes().as_slice(),
                    at,
                    record.tenant.as_ref().map(|tenant| tenant.as_str()),
                    None::<&str>,
                    None::<&str>,
                    record.task.as_str(),
                    record.priority.as_str(),
                    record.route.upstream().as_str(),
                    record.route.model().as_str(),
                    record.served.as_ref().map(|served| served.as_str()),
                    record.usage.prompt as i64,
                    0,
                    record.usage.completion as i64,
                    0,
                    "reported",
                    record.cost.charge().nanos(),
                    0,
                    record.ending.as_str(),
                    record.latency.as_micros() as i64,
                    None::<i64>,
                ])
                .expect("inserted");
        }
    }
    transaction.commit().expect("committed");
}

/// Intents that are on the disk before the attempt is made, 64 at a time.
fn strict(runtime: &Runtime) {
    let folder = Folder::new("strict");
    let ledger = folder.ledger(runtime).durability(Durability::Strict);
    let mut file = File::create(folder.0.join("probe")).expect("a file");
    let mut number = 0;
    let (mut waits, mut flushes) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let begun = Instant::now();
        file.write_all(&[0; 4_096]).expect("written");
        file.sync_data().expect("flushed");
        flushes.push(begun.elapsed().as_secs_f64() * 1e3);
        let intents: Vec<Intent> = (0..64)
            .map(|_| {
                number += 1;
                Intent::new(record(number), Cost::Unknown { at_most: Usd::from_nanos(9) })
            })
            .collect();
        let intended = intents.iter().map(|intent| async {
            let begun = Instant::now();
            ledger.intend(intent).await.expect("kept");
            begun.elapsed().as_secs_f64() * 1e3
        });
        waits.extend(runtime.block_on(join_all(intended)));
    }
    let (wait, flush) = (median(waits), median(flushes));
    let bound = 2.0 + 2.0 * flush + 1.0;
    println!("{:<44} {flush:>8.2}ms", "a flush of the disk, p50");
    line("strict intent, 64 at a time, p50", wait, bound, "ms", wait <= bound);
}

/// A month of a million records.
fn reports(runtime: &Runtime) {
    const RECORDS: u64 = 1_000_000;
    let folder = Folder::new("reports");
    let ledger = folder.ledger(runtime);
    runtime.block_on(async {
        for page in 0..RECORDS / 1_000 {
            let records: Vec<CostRecord> = (0..1_000).map(|number| record(page * 1_000 + number)).collect();
            ledger.record(&records).await.expect("taken");
        }
        ledger.flush().await.expect("flushed");
    });
    let bytes: u64 = std::fs::read_dir(&folder.0)
        .expect("there")
        .map(|file| file.expect("there").metadata().expect("there").len())
        .sum();
    let megabytes = bytes as f64 / 1e6;
    line("ledger of a million records", megabytes, 300.0, "MB", megabytes <= 300.0);
    let by_days = ReportQuery::last_days(31).by(By::Day).by(By::Model).by(By::Tenant);
    let took = |query: &ReportQuery, basis: Basis, times: usize| {
        let passes = (0..times).map(|_| {
            let begun = Instant::now();
            let report = runtime.block_on(ledger.report(query)).expect("a report");
            assert_eq!((report.basis, report.total.attempts), (basis, RECORDS));
            begun.elapsed().as_secs_f64() * 1e3
        });
        median(passes.collect())
    };
    let days = took(&by_days, Basis::Days, 9);
    let hours = took(&by_days.clone().zone("Europe/Berlin"), Basis::Hours, 3);
    let records = took(&by_days.clone().zone("Asia/Kolkata"), Basis::Records, 1);
    line("30-day report from sums of days", days, 50.0, "ms", days <= 50.0);
    line("30-day report from sums of hours", hours, 500.0, "ms", hours <= 500.0);
    println!("{:<44} {records:>8.0}ms", "30-day report from records");
    let ratio = records / days;
    line("... days quicker than records", ratio, 50.0, "x ", ratio >= 50.0);
}

/// A call through a service with a ledger, beside the same by hand.
pub fn calls(runtime: &Runtime, client: &TogetherClient, hand: &by_hand::Client) {
    const CALLS: u32 = 2_000;
    let folder = Folder::new("calls");
    let ledger = folder.ledger(runtime);
    let service = InferenceService::builder(client.clone()).cost_sink(ledger).build().expect("a service");
    let request = || InferenceRequest::chat(QUESTION).temperature(0.7).max_tokens(200);
    let measure = |work: &dyn Fn()| {
        let (thread, process) = (ThreadTime::now(), ProcessTime::now());
        work();
        (thread.elapsed().as_secs_f64(), process.elapsed().as_secs_f64())
    };
    let ours = || {
        runtime.block_on(many(CALLS, |_| async {
            assert!(!service.complete(request()).await.expect("answer").text().is_empty());
        }));
    };
    let theirs =
        || runtime.block_on(many(CALLS, |_| async { assert!(!hand.chat(MODEL, QUESTION, 0.7).await.is_empty()) }));
    let (mut caller, mut all) = (Vec::new(), Vec::new());
    ours();
    theirs();
    for _ in 0..PAIRS {
        let (ours, theirs) = (measure(&ours), measure(&theirs));
        caller.push(ours.0 / theirs.0);
        // The upstream's thread costs both the same.
        all.push((ours.1 - theirs.1 + theirs.0) / theirs.0);
    }
    let (caller, all) = (median(caller), median(all));
    line("service with a ledger, caller's thread", caller, 1.2, "x ", caller <= 1.2);
    line("service with a ledger, all threads", all, 1.6, "x ", all <= 1.6);
    runtime.block_on(service.shutdown(Duration::from_secs(10)));
}
