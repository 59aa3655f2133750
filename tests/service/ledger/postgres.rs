//! A server instead of a file: what it may be, that it goes away and comes back, and that many share it.

use std::{sync::Arc, time::Duration};

use together_inference::{
    Cost, RouteId, Usd,
    cost::{
        Account, BudgetStore, CostRecord, CostSink, Durability, Ending, Hold, Intent, Ledger, Line, Period,
        PostgresBudgets,
    },
    store::{Store, StoreError, StoreErrorKind},
    testing::Together,
    types::{AttemptId, SeededRng},
    usd,
};

use super::{
    audit, muse, open, secs,
    server::{Database, Server},
    service, sums,
    sums::record,
};

async fn refused(database: &Database) -> StoreError {
    Store::connect(&database.url()).await.unwrap_err()
}

#[tokio::test]
async fn what_is_not_a_store_is_refused_by_name_and_without_its_password() {
    let database = Database::new().await;
    let client = database.client().await;
    client.batch_execute("CREATE SCHEMA together_inference; CREATE TABLE cost_record (mine TEXT)").await.unwrap();
    let error = refused(&database).await;
    assert_eq!(error.kind(), StoreErrorKind::Foreign, "{error}");
    client.batch_execute("CREATE TABLE setting (mine TEXT)").await.unwrap();
    assert_eq!(refused(&database).await.kind(), StoreErrorKind::Foreign);
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");

    let nowhere = Store::connect(&format!("{}_none", database.url())).await.unwrap_err();
    assert_eq!(nowhere.kind(), StoreErrorKind::Unreachable, "{nowhere}");
    let url = "postgres://me:secret@127.0.0.1:1/costs";
    let error = Store::connect(url).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unreachable);
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn a_store_of_a_newer_crate_is_refused_and_one_of_an_older_crate_is_brought_up_to_date() {
    let database = Database::new().await;
    let ledger = open(&database.url()).await;
    let client = database.client().await;
    client.batch_execute("UPDATE setting SET value = '99' WHERE name = 'version'").await.unwrap();
    let error = refused(&database).await;
    assert_eq!(error.kind(), StoreErrorKind::Newer);
    assert!(error.to_string().contains("its version is 99"), "{error}");
    let error = CostSink::record(&ledger, &[record(1)]).await.unwrap_err();
    assert!(error.to_string().contains("newer version of this crate"), "{error}");
    assert_eq!(ledger.rebuild("UTC").await.unwrap_err().kind(), StoreErrorKind::Newer);

    // As the first version left it: without a ledger.
    let database = Database::new().await;
    let client = database.client().await;
    client.batch_execute("CREATE SCHEMA together_inference").await.unwrap();
    client.batch_execute(include_str!("../../../src/store/migrations/postgres/001_processes.sql")).await.unwrap();
    client.batch_execute("INSERT INTO setting VALUES ('version', '1')").await.unwrap();
    assert!(audit(&open(&database.url()).await).await.is_empty());
}

#[tokio::test]
async fn a_server_that_can_only_be_read_says_so() {
    let database = Database::new().await;
    drop(open(&database.url()).await);
    let url = format!("{}?options=-c%20default_transaction_read_only=on", database.url());
    let error = Store::connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::ReadOnly);
    assert!(error.to_string().contains("cannot be written"), "{error}");
}

#[tokio::test]
async fn a_connection_is_encrypted_and_its_server_is_known() {
    let server = Server::start().await;
    let (roots, database) = (server.secure().await, server.database().await);
    let url = database.url().replace("127.0.0.1", "localhost");
    let ledger = open(&format!("{url}?sslmode=verify-full&sslrootcert={roots}")).await;
    CostSink::record(&ledger, &[record(1)]).await.unwrap();
    assert_eq!(audit(&ledger).await, [record(1)]);
    let client = database.client().await;
    let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
         WHERE ssl AND application_name = 'together-inference'";
    assert!(client.query_one(encrypted, &[]).await.unwrap().get::<_, i64>(0) >= 1);
    for distrusted in
        [format!("{url}?sslmode=require"), format!("{}?sslmode=require&sslrootcert={roots}", database.url())]
    {
        let error = Store::connect(&distrusted).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unreachable, "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn many_may_make_the_store_at_the_same_time() {
    let database = Database::new().await;
    let url = database.url();
    let opened = futures_util::future::join_all((0..8).map(|_| open(&url))).await;
    assert!(audit(&opened[7]).await.is_empty());
}

#[tokio::test]
async fn what_a_text_has_no_room_for_is_replaced_and_nothing_else_is_lost() {
    let database = Database::new().await;
    let ledger = open(&database.url()).await;
    let mut odd = record(1);
    (odd.tenant, odd.session) = (Some("a\0b".into()), Some("s\0".into()));
    odd.tags = vec![("t\0".into(), "v\0".into())];
    CostSink::record(&ledger, &[odd.clone(), record(2)]).await.unwrap();
    let kept = audit(&ledger).await;
    (odd.tenant, odd.session) = (Some("a\u{fffd}b".into()), Some("s\u{fffd}".into()));
    assert_eq!(kept, [odd, record(2)]);
}

fn intent(number: u128) -> Intent {
    Intent::new(record(number), Cost::Unknown { at_most: Usd::from_nanos(9_000_000) })
}

#[tokio::test]
async fn what_a_process_left_is_taken_over_once_by_many_at_the_same_time() {
    let database = Database::new().await;
    let client = database.client().await;
    {
        let ledger = open(&database.url()).await.durability(Durability::Strict);
        let intents: Vec<Intent> = (1..=1_300).map(intent).collect();
        futures_util::future::join_all(intents.iter().map(|intent| CostSink::intend(&ledger, intent))).await;
        assert!(audit(&ledger).await.is_empty(), "what is open is no record");
    }
    let others = futures_util::future::join_all((0..8).map(|_| async { open(&database.url()).await })).await;
    let open = "SELECT count(*) FROM cost_record WHERE open_by IS NOT NULL";
    while client.query_one(open, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::task::yield_now().await;
    }
    let lost = audit(&others[3]).await;
    assert_eq!(lost.len(), 1_300);
    assert!(lost.iter().all(|lost| lost.ending == Ending::Lost));
    assert_eq!(sums(&lost).unknown, Usd::from_nanos(1_300 * 9_000_000));
}

#[tokio::test]
async fn a_process_that_lives_keeps_what_is_open_even_after_a_restart() {
    let server = Server::start().await;
    let database = server.database().await;
    let ledger = open(&database.url()).await;
    CostSink::intend(&ledger, &intent(1)).await.unwrap();
    CostSink::flush(&ledger).await.unwrap();
    server.crash();
    // Nobody holds a lock now; another one that comes first must not take that for an end.
    let other = open(&database.url()).await;
    assert!(audit(&other).await.is_empty());
    CostSink::record(&ledger, &[record(1)]).await.unwrap();
    assert_eq!(audit(&other).await, [record(1)]);
}

#[tokio::test]
async fn a_lock_that_is_free_is_an_end_at_once() {
    let database = Database::new().await;
    let ledger = open(&database.url()).await;
    CostSink::intend(&ledger, &intent(1)).await.unwrap();
    CostSink::flush(&ledger).await.unwrap();
    let other = open(&database.url()).await;
    assert!(audit(&other).await.is_empty(), "its lock is held");
    // As if it had ended a moment ago: its row is fresh, its connection gone.
    let client = database.client().await;
    client.batch_execute("UPDATE process SET id = -id").await.unwrap();
    client.batch_execute("UPDATE cost_record SET open_by = -open_by").await.unwrap();
    let third = open(&database.url()).await;
    assert_eq!(audit(&third).await[0].ending, Ending::Lost);
}

#[tokio::test]
async fn a_server_that_crashes_in_the_middle_of_it_loses_and_doubles_nothing() {
    let server = Arc::new(Server::start().await);
    let database = server.database().await;
    let (ledger, together) = (open(&database.url()).await, Together::new());
    let service = service(&together, |builder| builder.cost_sink(ledger.clone()));
    let mut made = 0;
    for _ in 0..5 {
        let crashing = Arc::clone(&server);
        let crash = tokio::task::spawn_blocking(move || crashing.crash());
        while !crash.is_finished() {
            service.complete(muse(format!("question {made}"))).await.unwrap();
            made += 1;
            // The recorder and the connection want their turn, too.
            tokio::task::yield_now().await;
        }
        crash.await.unwrap();
    }
    service.shutdown(secs(30)).await;
    let records = audit(&ledger).await;
    assert!(made > 50, "{made} calls were made meanwhile");
    assert_eq!(records.len(), made);
    assert_eq!(sums(&records).known.nanos(), together.bill().nano_usd);
    assert_eq!(service.health().records_lost, 0);
}

#[tokio::test]
async fn while_the_server_is_away_only_what_is_strict_is_refused() {
    let server = Server::start().await;
    let database = server.database().await;
    let store = Store::connect(&database.url()).await.unwrap();
    let (standard, strict) = (Ledger::new(&store), Ledger::new(&store).durability(Durability::Strict));
    server.stop();
    CostSink::intend(&standard, &intent(1)).await.unwrap();
    let waiting = tokio::spawn({
        let standard = standard.clone();
        async move { CostSink::record(&standard, &[record(1), record(2)]).await }
    });
    let ended = tokio::spawn({
        let strict = strict.clone();
        async move { CostSink::record(&strict, &[record(4)]).await }
    });
    tokio::task::yield_now().await;
    let error = CostSink::intend(&strict, &intent(3)).await.unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    // What has ended was paid for, and must be written.
    assert!(!waiting.is_finished() && !ended.is_finished());
    server.run();
    waiting.await.unwrap().unwrap();
    ended.await.unwrap().unwrap();
    let mut attempts: Vec<_> = audit(&standard).await.iter().map(|record| record.attempt).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [record(1), record(2), record(4)].map(|record| record.attempt));
}

#[tokio::test]
async fn what_cannot_be_written_before_it_happens_is_counted() {
    let database = Database::new().await;
    let ledger = open(&database.url()).await;
    let client = database.client().await;
    client.batch_execute("ALTER TABLE cost_record ADD CHECK (model <> 'refused')").await.unwrap();
    let mut refused = record(1);
    refused.route = RouteId::new("together", "refused");
    CostSink::intend(&ledger, &Intent::new(refused, Cost::Unpriced)).await.unwrap();
    CostSink::intend(&ledger, &intent(2)).await.unwrap();
    CostSink::flush(&ledger).await.unwrap();
    assert_eq!(ledger.missed_intents(), 1);
}

#[tokio::test]
async fn a_server_without_a_free_place_is_waited_for() {
    let database = Database::new().await;
    let client = database.client().await;
    let role = format!("one_{}", std::process::id());
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN SUPERUSER")).await.unwrap();
    let url = database.url().replace("me:secret", &role);
    let ledger = open(&url).await;
    // Its connection ends, and others are quicker to take all places.
    client.batch_execute(&format!("ALTER ROLE {role} NOSUPERUSER CONNECTION LIMIT 0")).await.unwrap();
    let all = format!(
        "GRANT ALL ON ALL TABLES IN SCHEMA together_inference TO {role};
         GRANT ALL ON SCHEMA together_inference TO {role}"
    );
    client.batch_execute(&all).await.unwrap();
    client
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", &[&role])
        .await
        .unwrap();
    let waiting = tokio::spawn(async move { CostSink::record(&ledger, &[record(1)]).await.map(|()| ledger) });
    for _ in 0..200 {
        client.batch_execute("SELECT pg_sleep(0.001)").await.unwrap();
    }
    assert!(!waiting.is_finished());
    client.batch_execute(&format!("ALTER ROLE {role} CONNECTION LIMIT -1")).await.unwrap();
    assert_eq!(audit(&waiting.await.unwrap().unwrap()).await, [record(1)]);
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn what_another_process_says_is_gone_stays_gone() {
    let database = Database::new().await;
    let (ledger, client) = (open(&database.url()).await, database.client().await);
    let mut old = record(1);
    old.at = std::time::SystemTime::UNIX_EPOCH;
    CostSink::record(&ledger, &[old]).await.unwrap();
    // Another process has deleted more, and has not told it yet.
    const GONE: &str = "name = 'ledger: pruned before'";
    client.batch_execute("INSERT INTO setting VALUES ('ledger: pruned before', '1')").await.unwrap();
    client.batch_execute(&format!("BEGIN; UPDATE setting SET value = '{}' WHERE {GONE}", i64::MAX)).await.unwrap();
    let other = open(&database.url()).await;
    let watch = database.client().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while watch.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    client.batch_execute("COMMIT").await.unwrap();
    CostSink::flush(&other).await.unwrap();
    while watch.query_one("SELECT count(*) FROM cost_record", &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::task::yield_now().await;
    }
    let gone = watch.query_one(&format!("SELECT value FROM setting WHERE {GONE}"), &[]).await.unwrap();
    assert_eq!(gone.get::<_, String>(0), i64::MAX.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_of_the_same_sums_do_not_stop_each_other() {
    let database = Database::new().await;
    // Whatever the server's transactions are unless they say so.
    let url: Arc<str> = format!("{}?options=-c%20default_transaction_isolation=serializable", database.url()).into();
    let tasks: Vec<_> = (0..8_u128)
        .map(|writer| {
            let url = Arc::clone(&url);
            tokio::spawn(async move {
                let (ledger, rng) = (open(&url).await, SeededRng::new(writer as u64));
                for page in 0..25 {
                    let first = 1 + writer * 1_000_000 + page * 40;
                    let mut records: Vec<CostRecord> =
                        (0..40).map(|number| sums::random(&rng, first + number)).collect();
                    // All of them write some of the same.
                    records.extend((0..5).map(|number| record(99_000_000 + page * 5 + number)));
                    CostSink::record(&ledger, &records).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(audit(&open(&url).await).await.len(), 8 * 25 * 40 + 25 * 5);
}

/// What things cost, for the closing note: `cargo test --release ... -- --ignored figures --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn figures() {
    let server = Server::start().await;
    server.durable().await;
    let database = server.database().await;
    let ledger = open(&database.url()).await;
    let rng = SeededRng::new(1);
    let mut next = 1;
    let mut page = |size: u128| -> Vec<CostRecord> {
        next += size;
        (next - size..next).map(|number| sums::random(&rng, number)).collect()
    };
    CostSink::record(&ledger, &page(1_000)).await.unwrap();
    for _ in 0..3 {
        let (records, cpu, start) = (page(1_000), cpu_time::ProcessTime::now(), std::time::Instant::now());
        CostSink::record(&ledger, &records).await.unwrap();
        println!("1,000 records: {:?} wall, {:?} CPU of the client", start.elapsed(), cpu.elapsed());
    }
    let strict = ledger.clone().durability(Durability::Strict);
    let mut waits = Vec::new();
    for _ in 0..60 {
        let intents: Vec<Intent> = page(64).into_iter().map(|record| Intent::new(record, Cost::Unpriced)).collect();
        let timed = intents.iter().map(|intent| async {
            let start = std::time::Instant::now();
            CostSink::intend(&strict, intent).await.unwrap();
            start.elapsed()
        });
        waits.extend(futures_util::future::join_all(timed).await);
    }
    waits.sort();
    println!("strict intents x64: p50 {:?}, p99 {:?}", waits[waits.len() / 2], waits[waits.len() * 99 / 100]);
    let many = std::env::var("RECORDS").map_or(100_000, |many| many.parse().unwrap());
    let start = std::time::Instant::now();
    for _ in 0..many / 1_000 {
        CostSink::record(&ledger, &page(1_000)).await.unwrap();
    }
    println!("{many} records: {:?}", start.elapsed());
    for (name, query) in [
        ("days", sums::query_by_days()),
        ("hours", sums::query_by_days().zone("Europe/Berlin")),
        ("records", sums::query_by_days().zone("Asia/Kolkata")),
    ] {
        let start = std::time::Instant::now();
        let report = ledger.report(&query).await.unwrap();
        println!("report by {name} ({:?}): {:?}, {} rows", report.basis, start.elapsed(), report.rows.len());
    }
    println!("{} bytes", ledger_size(&database).await);
}

async fn ledger_size(database: &Database) -> i64 {
    database.client().await.query_one("SELECT pg_total_relation_size('cost_record')", &[]).await.unwrap().get(0)
}

/// Scenario: a chore of the store fails, another one panics, again and again, before a third.
/// Expected: the third is done all the same, and what is handed to the store is written.
#[tokio::test]
async fn chores_that_fail_or_panic_stop_neither_the_others_nor_the_store() {
    let database = Database::new().await;
    let store = Store::connect(&database.url()).await.unwrap();
    let client = database.client().await;
    let ledger = Ledger::new(&store);
    CostSink::record(&ledger, &[record(1)]).await.unwrap();
    // What a ledger takes over cannot be read; what sweeps answers with a number, which its chore takes for a yes or no.
    client.batch_execute("UPDATE cost_record SET ending = 'nobody knows this', open_by = 7").await.unwrap();
    client
        .batch_execute(
            "ALTER FUNCTION budget_sweep RENAME TO sweep;
             CREATE FUNCTION budget_sweep(INT, BOOLEAN) RETURNS INT LANGUAGE sql AS 'SELECT 1'",
        )
        .await
        .unwrap();
    let chores = [Ledger::new(&store), ledger];
    let budgets = PostgresBudgets::new(&store).unwrap();
    for number in 2..6 {
        CostSink::record(&chores[0], &[record(number)]).await.unwrap();
        CostSink::flush(&chores[0]).await.unwrap();
    }
    client
        .batch_execute(
            "DROP FUNCTION budget_sweep; ALTER FUNCTION sweep RENAME TO budget_sweep;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await
        .unwrap();
    let line = Line::new(Account::new("all"), Period::new(0), usd!("5"));
    let lost = Hold::new(AttemptId::new(1), usd!("1"), vec![line], Duration::from_millis(1));
    budgets.reserve(&Arc::new(lost)).await.unwrap();
    let expired = "SELECT count(*) FROM budget_hold WHERE expired";
    let is_swept = async {
        // Another one comes with a turn of all that are there, the one that fails before it among them.
        while client.query_one(expired, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            drop(PostgresBudgets::new(&store).unwrap());
            CostSink::flush(&chores[1]).await.unwrap();
        }
    };
    tokio::time::timeout(secs(60), is_swept).await.expect("the chore after the one that fails is not done");
}

/// Scenario: the connection is lost in the middle of what makes the store.
/// Expected: the error says so, and not that what was begun could not be undone after that.
#[tokio::test]
async fn a_store_that_cannot_be_made_says_what_was_wrong_first() {
    let database = Database::new().await;
    let client = database.client().await;
    client
        .batch_execute(
            "CREATE FUNCTION public.leave() RETURNS event_trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); END';
             CREATE EVENT TRIGGER leave ON ddl_command_start WHEN TAG IN ('CREATE INDEX')
             EXECUTE FUNCTION public.leave()",
        )
        .await
        .unwrap();
    let error = refused(&database).await;
    assert_eq!(error.kind(), StoreErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("terminating connection"), "{error}");
}
