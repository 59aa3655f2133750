//! What is broken about one batch holds up no other, and costs nothing twice.

use std::{
    fs,
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use together_inference::{
    InferenceRequest, TogetherClient, Usd, async_trait,
    batch::{BatchError, BatchSubmitter, Chunk, LineErrorKind, RemoteId, RemoteStatus, Row, TogetherBatches},
    cost::{Account, Balance, Budget, BudgetError, BudgetStore, Charge, Hold, Period, PostgresBudgets},
    notify::AlertKind,
    service::{BatchOptions, BatchTicket, ErrorKind},
    store::Store,
    testing::Fault,
    usd,
};

use futures_core::stream::BoxStream;

use super::{MODEL, Shop, builder, check, line, lines};
use crate::{
    doubles::Alerts,
    ledger::server::Database,
    world::{MID, secs, used},
};

fn jobs_alone() -> BatchOptions {
    BatchOptions::default().singly_below(0)
}

/// Lines that are answered without a job.
fn raw(word: &str) -> Vec<InferenceRequest> {
    (0..3).map(|number| InferenceRequest::raw_prompt(format!("{word} {number}")).model(MODEL)).collect()
}

impl Shop {
    fn requests_of(&self, ticket: &BatchTicket) -> std::path::PathBuf {
        self.folder.0.join("inference.db.batches").join(ticket.id().as_str()).join("requests.jsonl")
    }

    fn tables(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.0.join("inference.db")).unwrap()
    }

    fn count(&self, select: &str) -> i64 {
        self.tables().query_row(select, [], |row| row.get(0)).unwrap()
    }

    async fn wait_for_jobs(&self, jobs: usize) {
        while self.sim.batches().len() < jobs {
            tokio::time::sleep(secs(1)).await;
        }
    }

    /// Whether a batch ends within so many seconds.
    async fn ends(&self, ticket: &BatchTicket, within: u64) -> bool {
        let ended = tokio::time::timeout(secs(within), ticket.clone().into_future()).await;
        ended.is_ok_and(|report| report.unwrap().is_complete())
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_requests_cannot_be_read_holds_up_no_other() {
    let shop = Shop::new().await;
    shop.sim.refuse_batches(MODEL);
    let broken = shop.submit(lines(3)).await;
    shop.wait_for_jobs(1).await;
    let (path, aside) = (shop.requests_of(&broken), shop.folder.0.join("aside"));
    fs::rename(&path, &aside).unwrap();
    // Its job is refused: it comes to a round that cannot be placed.
    tokio::time::sleep(secs(600)).await;
    let other = shop.submit(raw("one")).await;
    assert!(shop.ends(&other, 600).await, "another batch waits for the broken one");
    assert!(!shop.ends(&broken, 60).await);
    fs::rename(&aside, &path).unwrap();
    assert!(shop.ends(&broken, 3_600).await, "nothing of it was lost");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_cannot_be_read_is_an_error_of_its_batch_alone() {
    for garbage in [
        "UPDATE chunk SET state = 'melted' WHERE batch = ?1",
        "UPDATE chunk SET lines = -7 WHERE batch = ?1",
        "UPDATE chunk SET progress = 10000000000000 WHERE batch = ?1",
        "UPDATE batch SET state = 'cancelling', round = -1 WHERE id = ?1",
        "UPDATE batch SET policy = 'x', id = 'no id' || id WHERE id = ?1",
        "INSERT INTO planning VALUES (?1 || 'no id', -1)",
    ] {
        let shop = Shop::new().await;
        let mut broken = Vec::new();
        // As many as steps are taken at a time.
        for number in 0..9 {
            broken.push(shop.submit(raw(&format!("broken {number}"))).await);
        }
        let tables = shop.tables();
        tables.busy_timeout(secs(5)).unwrap();
        for ticket in &broken {
            tables.execute(garbage, [ticket.id().as_str()]).unwrap();
        }
        let other = shop.submit(raw("good")).await;
        assert!(shop.ends(&other, 600).await, "{garbage}: another batch waits for the broken ones");
        if let Err(told) = broken[0].status().await {
            assert!(matches!(told.kind(), ErrorKind::Store | ErrorKind::NoBatch), "{garbage}: {told}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunk_whose_lines_went_another_way_is_never_submitted() {
    let shop = Shop::at_pace(secs(5), BatchOptions::default(), |builder| builder).await;
    shop.sim.fail_next_at("POST /v1/files", 1_000_000, Fault::status(503));
    let ticket = shop.service.batch(lines(20)).deadline(secs(3_600)).submit().await.unwrap();
    let report = ticket.await.unwrap();
    check(&report);
    assert_eq!((report.succeeded, report.rescued), (20, 20), "{report}");
    shop.sim.heal();
    tokio::time::sleep(secs(3_600)).await;
    assert_eq!(shop.sim.batches().len(), 0, "a job was made that nobody needs");
    let open = "SELECT count(*) FROM chunk WHERE state NOT IN ('settled', 'refused', 'rescued', 'dropped')";
    assert_eq!(shop.count(open), 0, "a chunk is looked at for ever");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_batch_is_open_that_is_over() {
    let shop = Shop::at_pace(secs(1), BatchOptions::default(), |builder| builder).await;
    let report = shop.service.batch(lines(5)).deadline(secs(60)).submit().await.unwrap().await.unwrap();
    assert_eq!(report.rescued, 5, "{report}");
    tokio::time::sleep(secs(120)).await;
    let open = "SELECT count(*) FROM chunk WHERE state NOT IN ('settled', 'refused', 'rescued', 'dropped')";
    assert_eq!(shop.count(open), 0);
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_read_more_than_once_are_charged_once() {
    let shop = Shop::with(jobs_alone(), |builder| builder.budget(Budget::total(usd!("100")).hard())).await;
    shop.sim.error_file_late(secs(600));
    shop.sim.on_batch_row("line 000003.").times(1).fails();
    // More than are worked on at once.
    let report = shop.submit(lines(300)).await.await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(used(&shop.service).await, (report.cost, Usd::ZERO), "{report}");
    assert_eq!(shop.service.costs().known, report.cost);
    shop.judge().await;
}

/// Budgets on a server whose first answers are lost.
#[derive(Debug)]
struct Lossy {
    store: PostgresBudgets,
    left: AtomicU32,
}

#[async_trait]
impl BudgetStore for Lossy {
    async fn reserve(&self, hold: &Arc<Hold>) -> Result<(), BudgetError> {
        self.store.reserve(hold).await
    }

    async fn settle(&self, hold: &Arc<Hold>, charge: Charge) -> Result<Vec<Balance>, BudgetError> {
        let settled = self.store.settle(hold, charge).await;
        let is_lost = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        if is_lost { Err(BudgetError::Store("the answer is lost".into())) } else { settled }
    }

    async fn read(&self, accounts: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError> {
        self.store.read(accounts).await
    }

    fn keeps_holds(&self) -> bool {
        self.store.keeps_holds()
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_shared_budget_was_charged_is_not_charged_again_when_the_answer_is_lost() {
    let database = Database::new().await;
    let store = PostgresBudgets::new(&Store::connect(&database.url()).await.unwrap()).unwrap();
    let lossy = Lossy { store, left: AtomicU32::new(3) };
    let budget = Budget::total(usd!("100")).hard();
    let shop = Shop::with(jobs_alone(), |builder| builder.budget(budget).budget_store(lossy)).await;
    let report = shop.submit(lines(40)).await.await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(used(&shop.service).await, (report.cost, Usd::ZERO), "{report}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_read_of_a_job_is_kept_when_the_rest_is_given_up() {
    let shop = Shop::at_pace(secs(60), jobs_alone(), |builder| builder).await;
    shop.sim.error_file_late(secs(48 * 3_600));
    shop.sim.on_batch_row("line 000003.").times(1).fails();
    let report = shop.submit(lines(10)).await.await.unwrap();
    check(&report);
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.jobs.iter().map(|job| job.lines).collect::<Vec<_>>(), [10, 1], "{report}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_not_found_once_is_not_lost() {
    let shop = Shop::at_pace(secs(5), BatchOptions::default(), |builder| builder).await;
    shop.sim.batch_time(secs(3_600));
    shop.sim.batch_list_lag(secs(100_000));
    let (one, other) = (shop.submit(lines(3)).await, shop.submit(lines(4).split_off(3)).await);
    shop.wait_for_jobs(2).await;
    tokio::time::sleep(secs(1_200)).await;
    shop.sim.fail_next_at("GET /v1/batches/*", 1, Fault::status(404));
    for ticket in [one, other] {
        let report = ticket.await.unwrap();
        assert!(report.is_complete(), "{report}");
    }
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_nobody_finds_any_more_is_told_of_and_given_up_after_a_day() {
    for is_found_again in [true, false] {
        let alerts = Alerts::default();
        let taken = alerts.clone();
        let shop = Shop::at_pace(secs(60), BatchOptions::default(), |builder| builder.notifier(taken)).await;
        shop.set_pace(secs(5));
        shop.sim.batch_time(secs(200_000));
        shop.sim.batch_list_lag(secs(1_000_000));
        let ticket = shop.submit(lines(3)).await;
        shop.wait_for_jobs(1).await;
        shop.set_pace(secs(60));
        shop.sim.fail_next_at("GET /v1/batches/*", 1_000_000, Fault::status(404));
        tokio::time::sleep(secs(3_600)).await;
        let told: Vec<_> = alerts.taken().iter().map(|alert| alert.title().to_owned()).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("is the key that of its project?"), "{told:?}");
        if is_found_again {
            shop.sim.heal();
        }
        let report = tokio::time::timeout(secs(300_000), ticket.into_future()).await.expect("for ever").unwrap();
        let took = report.finished.duration_since(report.started).unwrap();
        if is_found_again {
            assert!(report.is_complete(), "{report}");
            shop.judge().await;
        } else {
            assert!((secs(86_400)..secs(90_000)).contains(&took), "after {took:?}: {report}");
            assert!(report.failed.iter().all(|line| line.error.kind == LineErrorKind::JobFailed), "{report}");
            assert_eq!(report.failed.len(), 3, "{report}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_submission_that_failed_at_first_is_no_error_of_the_job() {
    let shop = Shop::new().await;
    shop.sim.fail_next_at("POST /v1/files", 20, Fault::status(503));
    let report = shop.submit(lines(3)).await.await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.jobs[0].error, None, "{report}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_beyond_all_time_is_none() {
    let shop = Shop::new().await;
    let ticket = shop.service.batch(lines(3)).deadline(std::time::Duration::MAX).submit().await.unwrap();
    let report = ticket.await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!((report.rescued, report.jobs.len()), (0, 1), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_damaged_fails_its_line_alone() {
    for way in ["job", "one by one"] {
        let shop = Shop::with(jobs_alone(), |builder| builder).await;
        // So that nobody has begun before the damage is done.
        shop.sim.fail_next_at("POST /v1/files", 10, Fault::status(503));
        let ticket = shop.submit(if way == "job" { lines(3) } else { raw("a canary") }).await;
        let path = shop.requests_of(&ticket);
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        bytes[..end].fill(b'x');
        fs::write(&path, bytes).unwrap();
        let report = tokio::time::timeout(secs(7_200), ticket.into_future()).await.expect("it waits for ever").unwrap();
        check(&report);
        assert_eq!((report.succeeded, report.failed.len()), (2, 1), "{way}: {report}");
        assert_eq!(report.failed[0].index, 0, "{way}: {report}");
        shop.judge().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_minutes_costs_no_line_that_is_answered_one_by_one_its_answer() {
    let shop = Shop::new().await;
    shop.sim.fail_next(1_000_000, Fault::status(503));
    let ticket = shop.submit(raw("one")).await;
    tokio::time::sleep(secs(300)).await;
    shop.sim.heal();
    let report = ticket.await.unwrap();
    assert!(report.is_complete(), "{report}");
    shop.judge().await;
}

/// Another program has the file for minutes, longer than a claim holds.
#[tokio::test(start_paused = true)]
async fn a_store_that_pauses_for_minutes_loses_nothing_and_pays_nothing_twice() {
    // A minute at a time: every write waits for seconds, of the real ones, before it fails.
    let alerts = Alerts::default();
    let shop = Shop::at_pace(secs(60), jobs_alone(), |builder| builder.notifier(alerts.clone())).await;
    shop.sim.batch_time(secs(120));
    shop.sim.on_batch_row("line 000003.").times(1).fails();
    let ticket = shop.submit(lines(20)).await;
    shop.wait_for_jobs(1).await;
    let tables = shop.tables();
    tables.busy_timeout(secs(60)).unwrap();
    tables.execute_batch("BEGIN EXCLUSIVE").unwrap();
    // Its job ends meanwhile, and nobody can write that down.
    tokio::time::sleep(secs(180)).await;
    let told: Vec<_> = alerts.taken().iter().map(|alert| (alert.kind(), alert.title().to_owned())).collect();
    let is_told =
        |(kind, title): &(AlertKind, String)| *kind == AlertKind::StoreError && title.contains("no batch moves");
    assert_eq!(told.iter().filter(|told| is_told(told)).count(), 1, "{told:?}");
    tables.execute_batch("ROLLBACK").unwrap();
    let report = ticket.await.unwrap();
    check(&report);
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.jobs.iter().map(|job| job.lines).collect::<Vec<_>>(), [20, 1], "{report}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_many_slow_calls_leaves_others_their_turn() {
    let mut options = BatchOptions::default().chunk_lines(10);
    options.calls = 1;
    let shop = Shop::at_pace(secs(5), options, |builder| builder).await;
    shop.sim.latency_of(MODEL, secs(50));
    // More chunks than steps are taken at a time, each of eight minutes.
    let slow: Vec<_> = (0..100).map(|number| raw("slow")[0].clone().session(number.to_string())).collect();
    let slow = shop.submit(slow).await;
    tokio::time::sleep(secs(20)).await;
    let other = InferenceRequest::raw_prompt("quick").model(MID);
    assert!(shop.ends(&shop.submit(vec![other]).await, 280).await, "it waits for the slow one");
    drop(slow);
}

/// The provider, and it takes its time to tell of jobs.
#[derive(Debug)]
struct Slow(TogetherBatches);

#[async_trait]
impl BatchSubmitter for Slow {
    async fn submit(&self, chunk: &Chunk) -> Result<RemoteId, BatchError> {
        self.0.submit(chunk).await
    }

    async fn status(&self, ids: &[RemoteId]) -> Result<Vec<RemoteStatus>, BatchError> {
        tokio::time::sleep(secs(45)).await;
        self.0.status(ids).await
    }

    async fn results(&self, job: &RemoteStatus) -> Result<BoxStream<'static, Result<Row, BatchError>>, BatchError> {
        self.0.results(job).await
    }

    async fn cancel(&self, id: &RemoteId) -> Result<RemoteStatus, BatchError> {
        self.0.cancel(id).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_takes_longer_to_tell_than_a_claim_holds_is_heard() {
    let shop = Shop::new().await;
    shop.sim.batch_time(secs(120));
    let client = TogetherClient::builder().api_key("simulated").transport(shop.sim.clone()).build().unwrap();
    let service = builder(shop.sim.clone(), &shop.store, &shop.clock)
        .batches_with(jobs_alone())
        .batch_submitter("together", Slow(TogetherBatches::new(client)))
        .build()
        .unwrap();
    let ticket = service.submit_batch(vec![line(0)]).await.unwrap();
    let report = tokio::time::timeout(secs(900), ticket.into_future()).await.expect("nobody hears it").unwrap();
    assert!(report.is_complete(), "{report}");
}
