//! Budgets that processes share in PostgreSQL: alone, over several connections and four processes, and over a restart.

use std::{
    env,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use together_inference::{
    InferenceRequest, InferenceService, Price, RouteId, Usd,
    cost::{
        Account, Balance, Budget, BudgetError, BudgetStore, Charge, Expired, Hold, Line, Period, PostgresBudgets, Scope,
    },
    notify::AlertKind,
    service::{ErrorKind, ServiceBuilder},
    store::{Store, StoreError, StoreErrorKind},
    testing::{Together, conformance},
    types::{AttemptId, ManualClock},
    usd,
};

use super::{
    super::{
        budgets_everywhere::{alerts_survive_a_lost_answer, windows_hold},
        doubles::Alerts,
    },
    secs,
    server::{Database, Server},
};

const MODEL: &str = "zai-org/GLM-5.3";
const DIME: Usd = usd!("0.10");
/// Where a child process of these tests finds its store.
const CHILD: &str = "TOGETHER_BUDGET_TEST_STORE";

async fn budgets(database: &Database) -> PostgresBudgets {
    PostgresBudgets::new(&Store::connect(&database.url()).await.unwrap()).unwrap()
}

/// A service whose every answer costs a dime, on a day that does not end.
fn shop(budget: Budget, store: &PostgresBudgets) -> InferenceService {
    shop_of(budget, store).build().unwrap()
}

fn shop_of(budget: Budget, store: &PostgresBudgets) -> ServiceBuilder {
    let sim = Together::new();
    sim.on("").reply("word ".repeat(100));
    let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_824_000);
    InferenceService::builder(sim.client())
        .price(&RouteId::new("together", MODEL), Price::per_million(Usd::ZERO, usd!("10000")))
        .budget(budget)
        .budget_store(store.clone())
        .clock(Arc::new(ManualClock::new(noon)))
}

/// How many of so many calls at the same time were let through, and what refused the others.
async fn admitted(service: &InferenceService, calls: usize) -> (usize, Vec<ErrorKind>) {
    let ask = || InferenceRequest::chat("why?").model(MODEL).max_tokens(10).session("run-7").deadline(secs(60));
    let replies = join_all((0..calls).map(|_| service.complete(ask()))).await;
    let refused: Vec<_> = replies.iter().filter_map(|reply| Some(reply.as_ref().err()?.kind())).collect();
    (calls - refused.len(), refused)
}

fn line(name: &str, limit: Usd) -> Line {
    Line::new(Account::new(name), Period::new(0), limit)
}

fn hold(id: u128, amount: Usd, lines: &[&Line]) -> Arc<Hold> {
    Arc::new(Hold::new(AttemptId::new(id), amount, lines.iter().copied().cloned().collect(), secs(60)))
}

fn is_refused(reserved: &Result<(), BudgetError>) -> bool {
    matches!(reserved, Err(BudgetError::Refused(_)))
}

async fn read(store: &PostgresBudgets, line: &Line) -> Balance {
    store.read(&[(line.account.clone(), line.period)]).await.unwrap()[0]
}

/// What kind of failure the store's is.
fn kind_of(error: &BudgetError) -> StoreErrorKind {
    let BudgetError::Store(error) = error else { panic!("{error}") };
    error.downcast_ref::<StoreError>().unwrap().kind()
}

#[tokio::test]
async fn postgres_keeps_every_promise_of_a_budget_store() {
    let database = Database::new().await;
    let store = budgets(&database).await;
    conformance::budget_store(&store, &|time| Box::pin(tokio::time::sleep(time))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_over_several_connections_fifty_share_five_dollars() {
    // Scenario: four stores, 250 calls of $0.10 each at the same time, in two accounts whose order differs by store.
    // Expected: 50 are let through whoever asks, and what is settled meanwhile makes no room beyond what it returns.
    let database = Database::new().await;
    let stores = join_all((0..4).map(|_| budgets(&database))).await;
    let (one, other) = (line("one", usd!("5")), line("other", usd!("1000")));
    let ask = async |n: usize| {
        let lines = if n.is_multiple_of(2) { [&one, &other] } else { [&other, &one] };
        let hold = hold(n as u128, DIME, &lines);
        let reserved = stores[n % 4].reserve(&hold).await;
        assert!(reserved.is_ok() || is_refused(&reserved), "{reserved:?}");
        reserved.ok().map(|()| hold)
    };
    let held: Vec<_> = join_all((0..1_000).map(ask)).await.into_iter().flatten().collect();
    assert_eq!(held.len(), 50);
    assert_eq!(read(&stores[0], &one).await, Balance::new(Usd::ZERO, usd!("5"), 50));
    join_all(held.iter().zip(0..).map(|(hold, n)| stores[n % 4].settle(hold, Charge::Spent(usd!("0.04"))))).await;
    for account in [&one, &other] {
        assert_eq!(read(&stores[1], account).await, Balance::new(usd!("2"), Usd::ZERO, 50));
    }
    let held: Vec<_> = join_all((1_000..2_000).map(ask)).await.into_iter().flatten().collect();
    assert_eq!(held.len(), 30);
}

/// Not a test of its own: a process among several. It prints what it was let through.
#[tokio::test]
async fn child() {
    let Ok(url) = env::var(CHILD) else { return };
    let store = PostgresBudgets::new(&Store::connect(&url).await.unwrap()).unwrap();
    let service = shop(Budget::per_session(usd!("1")).max_calls(80).hard(), &store);
    let (through, refused) = admitted(&service, 250).await;
    assert!(refused.iter().all(|kind| *kind == ErrorKind::OverBudget), "{refused:?}");
    assert_eq!(service.shutdown(secs(60)).await.cancelled, 0);
    println!("admitted={through};");
}

#[tokio::test]
async fn four_processes_share_a_sessions_dollar_to_the_cent() {
    let database = Database::new().await;
    let child = |_| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "ledger::budgets::child", "--nocapture", "--test-threads", "1"]);
        command.env(CHILD, database.url()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut sum = 0;
    for child in (0..4).map(child).collect::<Vec<_>>() {
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let (_, rest) = text.split_once("admitted=").unwrap();
        sum += rest.split_once(';').unwrap().0.parse::<usize>().unwrap();
    }
    assert_eq!(sum, 10);
    let service = shop(Budget::per_session(usd!("1")), &budgets(&database).await);
    let session = service.budgets().remaining(&Scope::Session("run-7".into())).await.unwrap().remove(0);
    assert_eq!((session.spent, session.reserved, session.calls), (usd!("1"), Usd::ZERO, 10));
}

#[tokio::test]
async fn what_two_services_spend_of_one_budget_is_told_once_for_both() {
    // Scenario: fifty dimes at once from each of two services, soft and hard, against five dollars that they share.
    // Expected: of 50, 80 and 100 % one alert each, whoever passes it or is refused first.
    for hard in [false, true] {
        let database = Database::new().await;
        let alerts = Alerts::default();
        let budget = || if hard { Budget::daily(usd!("5")).hard() } else { Budget::daily(usd!("5")).soft() };
        let shop = |store: &PostgresBudgets| {
            let told = shop_of(budget(), store).notifier(alerts.clone());
            told.build().unwrap()
        };
        let (one, other) = (shop(&budgets(&database).await), shop(&budgets(&database).await));
        let ((all, _), (others, _)) = tokio::join!(admitted(&one, 50), admitted(&other, 50));
        assert_eq!(all + others, if hard { 50 } else { 100 });
        // Each was refused, or spends beyond the limit.
        tokio::join!(admitted(&one, 2), admitted(&other, 2));
        for service in [one, other] {
            assert_eq!(service.shutdown(secs(60)).await.cancelled, 0);
        }
        let mut kinds = alerts.kinds();
        kinds.sort_by_key(|kind| kind.as_str());
        assert_eq!(kinds, [AlertKind::Budget100, AlertKind::Budget50, AlertKind::Budget80], "hard {hard}");
    }
}

/// A window is the one that the service's clock shows, on days of 23 and 25 hours and over every jump of the clock.
#[tokio::test]
async fn windows_hold_whatever_the_clock_does() {
    let database = Database::new().await;
    windows_hold(Arc::new(budgets(&database).await)).await;
}

#[tokio::test]
async fn an_alert_is_not_lost_with_the_answer_that_carries_it() {
    let database = Database::new().await;
    let client = database.client().await;
    let late = async || {
        client.execute("UPDATE budget_untold SET until = 'epoch'", &[]).await.unwrap();
    };
    alerts_survive_a_lost_answer(Arc::new(budgets(&database).await), late).await;
}

#[tokio::test]
async fn a_restart_of_the_server_forgets_nothing() {
    let server = Server::start().await;
    let database = server.database().await;
    let (store, all) = (budgets(&database).await, line("all", usd!("1")));
    let held = hold(1, usd!("0.70"), &[&all]);
    store.reserve(&held).await.unwrap();
    server.crash();
    // The connection is gone: a new one answers.
    assert!(is_refused(&store.reserve(&hold(2, usd!("0.40"), &[&all])).await));
    store.reserve(&held).await.unwrap();
    assert_eq!(read(&store, &all).await, Balance::new(Usd::ZERO, usd!("0.70"), 1));
    store.settle(&held, Charge::Spent(usd!("0.50"))).await.unwrap();
    server.crash();
    assert_eq!(store.settle(&held, Charge::Spent(usd!("0.60"))).await.unwrap(), []);
    assert_eq!(read(&budgets(&database).await, &all).await, Balance::new(usd!("0.50"), Usd::ZERO, 1));
}

#[tokio::test]
async fn while_the_server_is_away_nothing_hard_is_let_through_and_it_goes_on_when_it_is_back() {
    let server = Server::start().await;
    let database = server.database().await;
    let (store, all) = (budgets(&database).await, line("all", usd!("5")));
    let (hard, soft) = (shop(Budget::daily(usd!("5")).hard(), &store), shop(Budget::total(usd!("5")).soft(), &store));
    assert_eq!(admitted(&hard, 3).await.0, 3);
    server.stop();
    let begun = Instant::now();
    let error = store.reserve(&hold(1, DIME, &[&all])).await.unwrap_err();
    assert_eq!(kind_of(&error), StoreErrorKind::Unreachable, "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    assert_eq!(admitted(&hard, 20).await, (0, vec![ErrorKind::Policy; 20]));
    assert_eq!(admitted(&soft, 20).await.0, 20);
    assert!(begun.elapsed() < secs(5), "it refuses at once");
    server.run();
    assert_eq!(admitted(&hard, 3).await.0, 3);
    store.reserve(&hold(1, DIME, &[&all])).await.unwrap();
}

#[tokio::test]
async fn while_the_server_is_away_a_share_is_let_through_where_one_was_asked_for() {
    let server = Server::start().await;
    let database = server.database().await;
    assert!(budgets(&database).await.fail_local(0).is_err());
    let sharing = budgets(&database).await.fail_local(4).unwrap();
    let service = shop(Budget::total(usd!("5")).hard(), &sharing);
    assert_eq!(admitted(&service, 3).await.0, 3);
    server.stop();
    // A quarter of $5.00, however often it is asked.
    assert_eq!(admitted(&service, 9).await.0 + admitted(&service, 20).await.0, 12);
    server.run();
    assert_eq!(admitted(&service, 3).await.0, 3, "it goes on when it is back");
}

#[tokio::test]
async fn an_account_that_somebody_keeps_locked_is_waited_for_a_while_and_is_as_before() {
    let database = Database::new().await;
    let (store, all) = (budgets(&database).await, line("all", usd!("5")));
    store.reserve(&hold(1, DIME, &[&all])).await.unwrap();
    let client = database.client().await;
    client.batch_execute("BEGIN; SELECT FROM budget_account FOR UPDATE").await.unwrap();
    let asked = [hold(2, DIME, &[&all]), hold(3, DIME, &[&all])];
    for refused in join_all(asked.iter().map(|hold| store.reserve(hold))).await {
        assert_eq!(kind_of(&refused.unwrap_err()), StoreErrorKind::Busy);
    }
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(read(&store, &all).await, Balance::new(Usd::ZERO, DIME, 1));
    store.reserve(&asked[0]).await.unwrap();
}

#[tokio::test]
async fn whoever_gives_up_at_once_leaves_nothing_set_aside() {
    // Scenario: a question waits for a lock; one after it is given up before it goes out, and says so at once.
    // Expected: both go to the server together, and in this order.
    let database = Database::new().await;
    let (store, all) = (budgets(&database).await, line("all", usd!("5")));
    store.reserve(&hold(1, DIME, &[&all])).await.unwrap();
    let client = database.client().await;
    client.batch_execute("BEGIN; SELECT FROM budget_account FOR UPDATE").await.unwrap();
    let waits = tokio::spawn({
        let (store, hold) = (store.clone(), hold(2, DIME, &[&all]));
        async move { store.reserve(&hold).await }
    });
    let locked =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let is_locked = async || client.query_one(locked, &[]).await.unwrap().get::<_, i64>(0) > 0;
    let wait = async {
        while !is_locked().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(secs(30), wait).await.unwrap();
    let given_up = hold(3, DIME, &[&all]);
    assert!(futures_util::FutureExt::now_or_never(store.reserve(&given_up)).is_none());
    let settles = store.settle(&given_up, Charge::NotSent);
    let (settled, unlocked) = tokio::join!(settles, client.batch_execute("ROLLBACK"));
    unlocked.unwrap();
    assert_eq!(settled.unwrap().len(), 1, "it was set aside before");
    waits.await.unwrap().unwrap();
    assert_eq!(read(&store, &all).await, Balance::new(Usd::ZERO, DIME + DIME, 2));
}

#[tokio::test]
async fn amounts_are_exact_up_to_the_largest_and_sums_beyond_it_refuse() {
    let database = Database::new().await;
    let store = budgets(&database).await;
    let (largest, nano) = (store.largest_limit(), Usd::from_nanos(1));
    let all = line("all", largest);
    store.reserve(&hold(1, largest - nano, &[&all])).await.unwrap();
    store.reserve(&hold(2, nano, &[&all])).await.unwrap();
    assert!(is_refused(&store.reserve(&hold(3, nano, &[&all])).await));
    assert!(is_refused(&store.reserve(&hold(3, largest, &[&all])).await));
    store.reserve(&hold(4, largest, &[&all.clone().soft()])).await.unwrap();
    assert_eq!(read(&store, &all).await.reserved, largest, "the largest number that there is");
    store.settle(&hold(4, largest, &[&all]), Charge::NotSent).await.unwrap();
    store.settle(&hold(1, largest - nano, &[&all]), Charge::Spent(largest - nano - nano)).await.unwrap();
    assert_eq!(read(&store, &all).await, Balance::new(largest - nano - nano, nano, 2));
}

#[tokio::test]
async fn a_name_may_be_anything_and_is_read_by_people() {
    let database = Database::new().await;
    let store = budgets(&database).await;
    let names = ["a\0b", "a\u{fffd}b", "", &"long ".repeat(5_000), "it's \"é\"; DROP TABLE budget_slot"];
    for (n, name) in (1..).zip(names) {
        store.reserve(&hold(n, usd!("1.5"), &[&line(name, usd!("2"))])).await.unwrap();
        assert!(is_refused(&store.reserve(&hold(100 + n, usd!("1"), &[&line(name, usd!("2"))])).await), "{name}");
    }
    let client = database.client().await;
    let sql = "SELECT count(*) FROM budget WHERE reserved_usd = 1.5 AND calls = 1";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 5);
}

#[tokio::test]
async fn what_is_over_does_not_stay() {
    let database = Database::new().await;
    let (store, client) = (budgets(&database).await, database.client().await);
    let count = async |table: &str| {
        client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get::<_, i64>(0)
    };
    // A rolling window of an hour, in slots of a minute.
    for n in 0..200_i64 {
        let rolling = Line::new(Account::new("rolling"), Period::rolling(n * 60, n * 60 - 3_600), usd!("100"));
        let hold = hold(n.unsigned_abs().into(), DIME, &[&rolling.keep(secs(600))]);
        store.reserve(&hold).await.unwrap();
        store.settle(&hold, Charge::Spent(DIME)).await.unwrap();
    }
    let slots = count("budget_slot").await;
    assert!((61..70).contains(&slots), "{slots} slots");
    assert_eq!(count("budget_hold").await, 0);

    // One that is open, one that nobody settled in a day, and a session that nobody has used for long.
    let forever = line("for ever", usd!("5"));
    store.reserve(&hold(1, DIME, &[&forever])).await.unwrap();
    store.reserve(&hold(2, DIME, &[&forever, &line("returns", usd!("5")).expired(Expired::Return)])).await.unwrap();
    let sweep = async |all: bool| client.query("SELECT budget_sweep(1000, $1)", &[&all]).await.unwrap();
    client
        .batch_execute("UPDATE budget_hold SET ends = 'epoch' WHERE attempt = decode(lpad('2', 32, '0'), 'hex')")
        .await
        .unwrap();
    client.batch_execute("UPDATE budget_account SET until = 'epoch' WHERE until <> 'infinity'").await.unwrap();
    sweep(true).await;
    assert_eq!((count("budget_hold").await, count("budget_account").await, count("budget_slot").await), (1, 2, 2));
    let late = store.settle(&hold(2, DIME, &[&forever]), Charge::Spent(usd!("0.01"))).await.unwrap();
    assert_eq!(late, [], "after a day nobody remembers it");
    assert_eq!(read(&store, &forever).await, Balance::new(DIME, DIME, 2));
    assert_eq!(read(&store, &line("returns", usd!("5"))).await, Balance::default());
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_file_is_refused_by_name() {
    let folder = super::home::Folder::new();
    let error = PostgresBudgets::new(&Store::open(folder.path()).await.unwrap()).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unsupported);
    assert!(error.to_string().contains("MemoryBudgets"), "{error}");
}
