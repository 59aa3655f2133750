//! Budgets that processes share in Redis: alone and as a cluster, over four processes, and while it is away.

use std::{
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use together_inference::{
    InferenceRequest, InferenceService, Price, RouteId, Usd, async_trait,
    cost::{
        Account, Balance, Budget, BudgetError, BudgetStore, Charge, Hold, Line, MemoryCosts, Period, RedisBudgets,
        Scope,
    },
    notify::{Alert, AlertKind, Notifier, NotifyError},
    service::{BuildError, ErrorKind, ServiceBuilder},
    store::RedisServer,
    testing::{SimModel, Together, conformance},
    types::{AttemptId, ManualClock},
    usd,
};

use crate::{
    books::Books,
    budgets_everywhere::{alerts_survive_a_lost_answer, windows_hold},
    server::{Cluster, Server},
    support::{MINUTE, SOON, eventually},
};

const MODEL: &str = "zai-org/GLM-5.3";
const DIME: Usd = usd!("0.10");
/// Where a child process of these tests finds its server, and how many calls it makes.
const CHILD: &str = "TOGETHER_TEST_BUDGET_CHILD";

/// A store that waits for its server also on a busy machine.
async fn patient(server: &Server) -> RedisBudgets {
    let budgets = RedisBudgets::on(RedisServer::new(server.url()).operation_timeout(SOON)).connect().await.unwrap();
    is_up(&budgets).await;
    budgets
}

async fn is_up(budgets: &RedisBudgets) {
    assert!(eventually(SOON, async || budgets.is_connected()).await, "no connection");
}

/// A service whose every answer costs a dime, on a day that does not end.
struct Shop {
    service: InferenceService,
    books: Books,
}

/// A provider of answers that are longer than anybody asks for, at a dime for ten tokens.
fn provider() -> Together {
    let sim = Together::new();
    sim.add_model(SimModel::chat(MODEL).price(0, 10_000_000_000));
    sim.on("").reply("word ".repeat(100));
    sim
}

fn at_noon(builder: ServiceBuilder) -> ServiceBuilder {
    builder.clock(Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_824_000))))
}

fn shop(budget: Budget, store: impl BudgetStore + 'static) -> Shop {
    shop_on(&provider(), |builder| at_noon(builder).budget(budget).budget_store(store))
}

fn shop_on(sim: &Together, edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> Shop {
    let costs = MemoryCosts::new(10_000);
    let builder = InferenceService::builder(sim.client())
        .price(&RouteId::new("together", MODEL), Price::per_million(Usd::ZERO, usd!("10000")))
        .cost_sink(costs.clone());
    Shop { service: edit(builder).build().unwrap(), books: Books::new(sim, &costs) }
}

impl Shop {
    /// Closes when everything is settled, and holds the records against the bill.
    async fn adds_up(self) {
        assert_eq!(self.service.shutdown(MINUTE).await.cancelled, 0);
        self.books.add_up();
    }
}

fn dime() -> InferenceRequest {
    InferenceRequest::chat("why?").model(MODEL).max_tokens(10).session("run-7").deadline(MINUTE)
}

/// How many of so many calls at the same time were let through, and what refused the others.
async fn admitted(shop: &Shop, calls: usize) -> (usize, Vec<ErrorKind>) {
    let replies = join_all((0..calls).map(|_| shop.service.complete(dime()))).await;
    let refused: Vec<_> = replies.iter().filter_map(|reply| Some(reply.as_ref().err()?.kind())).collect();
    (calls - refused.len(), refused)
}

fn hold(id: u128, amount: Usd, line: &Line) -> Arc<Hold> {
    Arc::new(Hold::new(AttemptId::new(id), amount, vec![line.clone()], MINUTE))
}

async fn read(store: &RedisBudgets, line: &Line) -> Balance {
    store.read(&[(line.account.clone(), line.period)]).await.unwrap()[0]
}

fn line(name: &str, limit: Usd) -> Line {
    Line::new(Account::new(name), Period::new(0), limit)
}

#[tokio::test]
async fn redis_keeps_every_promise_of_a_budget_store() {
    let server = Server::start(&[]).await;
    let store = patient(&server).await;
    conformance::budget_store(&store, &|time| Box::pin(tokio::time::sleep(time))).await.unwrap();
}

#[tokio::test]
async fn a_cluster_keeps_them_too_for_a_store_lies_on_one_node() {
    let cluster = Cluster::start(0).await;
    let server = RedisServer::cluster([cluster.nodes[1].url()]).operation_timeout(SOON);
    let store = RedisBudgets::on(server).connect().await.unwrap();
    is_up(&store).await;
    conformance::budget_store(&store, &|time| Box::pin(tokio::time::sleep(time))).await.unwrap();
    let sizes: Vec<_> = cluster.nodes.iter().map(|node| node.cli(&["DBSIZE"])).collect();
    assert_eq!(sizes.iter().filter(|size| *size == "0").count(), 2, "{sizes:?}");
}

/// Not a test of its own: a process among several. It prints what it was let through.
#[tokio::test]
async fn a_child_process() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let server = RedisServer::new(url).operation_timeout(SOON);
    let store = RedisBudgets::on(server).connect().await.unwrap();
    is_up(&store).await;
    let day = shop(Budget::daily(usd!("5")).hard(), store.clone());
    let (of_all, refused) = admitted(&day, 250).await;
    assert!(refused.iter().all(|kind| *kind == ErrorKind::OverBudget), "{refused:?}");
    day.adds_up().await;
    let session = shop(Budget::per_session(usd!("1")).max_calls(80).hard(), store);
    let (of_session, refused) = admitted(&session, 250).await;
    assert!(refused.iter().all(|kind| *kind == ErrorKind::OverBudget), "{refused:?}");
    session.adds_up().await;
    println!("admitted={of_all},{of_session};");
}

#[tokio::test]
async fn four_processes_share_five_dollars_to_the_cent() {
    // Scenario: four processes make 250 calls of $0.10 each at the same time against $5 a day, and then as many of one
    // session against $1.
    // Expected: exactly 50 and 10 are let through, all of it is spent, and nothing stays set aside.
    let server = Server::start(&[]).await;
    let child = |_| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "budgets::a_child_process", "--nocapture"]).env(CHILD, server.url());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(child).collect();
    let mut sums = [0, 0];
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let (_, rest) = text.split_once("admitted=").unwrap();
        let counts = rest.split_once(';').unwrap().0.split(',').map(|count| count.parse::<i32>().unwrap());
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    assert_eq!(sums, [50, 10]);
    let shop = shop(Budget::daily(usd!("5")), patient(&server).await);
    let all = shop.service.budgets().remaining(&Scope::Global).await.unwrap().remove(0);
    assert_eq!((all.spent, all.reserved, all.calls), (usd!("5"), Usd::ZERO, 50));
}

/// Takes every alert.
#[derive(Clone, Debug, Default)]
struct Alerts(Arc<Mutex<Vec<AlertKind>>>);

#[async_trait]
impl Notifier for Alerts {
    async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
        self.0.lock().unwrap().push(alert.kind());
        Ok(())
    }
}

#[tokio::test]
async fn what_two_services_spend_of_one_budget_is_told_once_for_both() {
    // Scenario: fifty dimes at once from each of two services, soft and hard, against five dollars that they share.
    // Expected: of 50, 80 and 100 % one alert each, whoever passes it or is refused first.
    let server = Server::start(&[]).await;
    for budget in [Budget::daily(usd!("5")).soft(), Budget::daily(usd!("5")).hard()] {
        let alerts = Alerts::default();
        let told = |builder| at_noon(builder).budget(budget.clone()).notifier(alerts.clone());
        let shop = |store| shop_on(&provider(), |builder| told(builder).budget_store(store));
        let (one, other) = (shop(patient(&server).await), shop(patient(&server).await));
        tokio::join!(admitted(&one, 50), admitted(&other, 50));
        // Each was refused, or spends beyond the limit.
        tokio::join!(admitted(&one, 2), admitted(&other, 2));
        for shop in [one, other] {
            shop.adds_up().await;
        }
        let mut kinds = alerts.0.lock().unwrap().clone();
        kinds.sort_by_key(|kind| kind.as_str());
        assert_eq!(kinds, [AlertKind::Budget100, AlertKind::Budget50, AlertKind::Budget80], "{budget:?}");
    }
}

/// A window is the one that the service's clock shows, on days of 23 and 25 hours and over every jump of the clock.
#[tokio::test]
async fn windows_hold_whatever_the_clock_does() {
    let server = Server::start(&[]).await;
    windows_hold(Arc::new(patient(&server).await)).await;
}

#[tokio::test]
async fn an_alert_is_not_lost_with_the_answer_that_carries_it() {
    let server = Server::start(&[]).await;
    let late = async || {
        let all = "for _, key in ipairs(redis.call('KEYS', 'ti:budget:*:a:*')) do
                       local untold = redis.call('HGET', key, 'w')
                       if untold then redis.call('HSET', key, 'w', (string.gsub(untold, ':%d+', ':0'))) end
                   end";
        server.cli(&["EVAL", all, "0"]);
    };
    alerts_survive_a_lost_answer(Arc::new(patient(&server).await), late).await;
}

#[tokio::test]
async fn a_settlement_during_an_outage_is_made_after_it_and_nothing_stays_set_aside() {
    // Scenario: two calls are under way when Redis stops, once frozen and once killed; both are answered meanwhile.
    // Expected: the calls succeed, and when Redis is back what they cost is spent and nothing is set aside.
    for is_killed in [false, true] {
        let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
        let url = RedisServer::new(server.url()).operation_timeout(Duration::from_secs(1));
        let store = RedisBudgets::on(url).connect().await.unwrap();
        is_up(&store).await;
        let sim = provider();
        sim.latency(Duration::from_secs(2));
        let shop = shop_on(&sim, |builder| builder.budget(Budget::total(usd!("5")).hard()).budget_store(store.clone()));
        let service = &shop.service;
        let all = async || service.budgets().remaining(&Scope::Global).await;
        let calls = async { tokio::join!(service.complete(dime()), service.complete(dime())) };
        let outage = async {
            let is_under_way = async || all().await.is_ok_and(|all| all[0].reserved > Usd::ZERO && all[0].calls == 2);
            assert!(eventually(SOON, is_under_way).await, "nothing is set aside");
            if is_killed { server.kill() } else { server.freeze() }
        };
        let ((one, other), ()) = tokio::join!(calls, outage);
        assert!(all().await.is_err(), "it cannot be settled meanwhile");
        let spent = one.unwrap().cost().known().unwrap() + other.unwrap().cost().known().unwrap();
        if is_killed {
            server.run().await
        } else {
            server.thaw()
        }
        let is_settled = async || all().await.is_ok_and(|all| (all[0].spent, all[0].reserved) == (spent, Usd::ZERO));
        assert!(eventually(MINUTE, is_settled).await, "killed {is_killed}: {:?}", all().await);
        assert_eq!(all().await.unwrap()[0].calls, 2);
        shop.adds_up().await;
    }
}

#[tokio::test]
async fn while_redis_is_lost_nothing_hard_is_let_through_unless_a_share_is() {
    let mut server = Server::start(&[]).await;
    let stores = [patient(&server).await, patient(&server).await];
    let (hard, soft) =
        (shop(Budget::daily(usd!("5")), stores[0].clone()), shop(Budget::daily(usd!("5")).soft(), stores[1].clone()));
    let url = RedisServer::new(server.url()).operation_timeout(SOON);
    let sharing = RedisBudgets::on(url).fail_local(4).connect().await.unwrap();
    is_up(&sharing).await;
    let sharing_shop = shop(Budget::total(usd!("5")), sharing.clone());
    assert_eq!(admitted(&hard, 3).await.0, 3);
    assert_eq!(admitted(&sharing_shop, 3).await.0, 3);

    server.kill();
    // The first one to ask finds out.
    for store in [&stores[0], &sharing] {
        let is_lost = async || store.read(&[]).await.is_err() && !store.is_connected();
        assert!(eventually(SOON, is_lost).await, "it is still up");
    }
    let (through, refused) = admitted(&hard, 20).await;
    assert_eq!((through, refused), (0, vec![ErrorKind::Policy; 20]));
    assert_eq!(admitted(&soft, 20).await.0, 20);
    // A quarter of $5.00, however often it is asked.
    assert_eq!(admitted(&sharing_shop, 9).await.0 + admitted(&sharing_shop, 20).await.0, 12);

    server.run().await;
    is_up(&stores[0]).await;
    assert_eq!(admitted(&hard, 3).await.0, 3, "it goes on when it is back");
    for shop in [hard, soft, sharing_shop] {
        shop.adds_up().await;
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_waited_for_a_moment_and_no_longer() {
    let server = Server::start(&[]).await;
    let store = RedisBudgets::connect(server.url()).await.unwrap();
    is_up(&store).await;
    let line = line("all", usd!("5"));
    server.freeze();
    let begun = std::time::Instant::now();
    let refused = store.reserve(&hold(1, DIME, &line)).await;
    assert!(matches!(refused, Err(BudgetError::Store(_))) && begun.elapsed() < SOON);
    server.thaw();
    // It may have been set aside meanwhile: whoever was refused says that nothing was sent.
    assert!(eventually(SOON, async || store.settle(&hold(1, DIME, &line), Charge::NotSent).await.is_ok()).await);
    let is_back = async || store.read(&[(line.account.clone(), line.period)]).await.is_ok();
    assert!(eventually(SOON, is_back).await);
    assert_eq!(read(&store, &line).await, Balance::default());
}

#[tokio::test]
async fn amounts_are_exact_up_to_the_largest_limit_and_none_is_larger() {
    let server = Server::start(&[]).await;
    let store = patient(&server).await;
    let (largest, nano) = (store.largest_limit(), Usd::from_nanos(1));
    let all = line("all", largest);
    store.reserve(&hold(1, largest - nano, &all)).await.unwrap();
    store.reserve(&hold(2, nano, &all)).await.unwrap();
    assert!(matches!(store.reserve(&hold(3, nano, &all)).await, Err(BudgetError::Refused(_))));
    store.settle(&hold(1, largest - nano, &all), Charge::Spent(largest - nano - nano)).await.unwrap();
    assert_eq!(read(&store, &all).await, Balance::new(largest - nano - nano, nano, 2));
    store.reserve(&hold(4, nano, &all)).await.unwrap();
    assert!(store.reserve(&hold(5, nano, &all)).await.is_err());

    let builder = InferenceService::builder(Together::new().client()).budget(Budget::total(largest + nano));
    let error = builder.budget_store(store).build().unwrap_err();
    assert!(matches!(error, BuildError::Budget(_)), "{error}");
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again_and_names_are_apart() {
    let server = Server::start(&[]).await;
    let (one, all) = (patient(&server).await, line("all", usd!("5")));
    one.reserve(&hold(1, usd!("5"), &all)).await.unwrap();
    assert_eq!(server.cli(&["SCRIPT", "FLUSH"]), "OK");
    assert!(matches!(one.reserve(&hold(2, DIME, &all)).await, Err(BudgetError::Refused(_))));
    let server_of = RedisServer::new(server.url()).operation_timeout(SOON);
    let other = RedisBudgets::on(server_of).name("other").connect().await.unwrap();
    is_up(&other).await;
    other.reserve(&hold(1, usd!("5"), &all)).await.unwrap();
    let same = patient(&server).await;
    same.settle(&hold(1, usd!("5"), &all), Charge::Spent(DIME)).await.unwrap();
    assert_eq!((read(&one, &all).await.spent, read(&other, &all).await.spent), (DIME, Usd::ZERO));
}

#[tokio::test]
async fn what_is_over_does_not_stay_in_redis() {
    let server = Server::start(&[]).await;
    let store = patient(&server).await;
    for n in 0..300_i64 {
        let rolling = Line::new(Account::new("rolling"), Period::rolling(n * 60, n * 60 - 3_600), usd!("5"));
        let hold = hold(n.unsigned_abs().into(), DIME, &rolling.keep(MINUTE * 10));
        store.reserve(&hold).await.ok();
        store.settle(&hold, Charge::Spent(Usd::from_nanos(1))).await.unwrap();
    }
    let fields: usize = server.cli(&["HLEN", "ti:budget:{default}:a:rolling"]).parse().unwrap();
    assert!((4 * 60..4 * 125).contains(&fields), "{fields} fields");
    let left: i64 = server.cli(&["PTTL", "ti:budget:{default}:a:rolling"]).parse().unwrap();
    assert!(left > 0 && left <= 600_000, "{left} ms");
    assert_eq!(server.cli(&["HLEN", "ti:budget:{default}:holds"]), "0");
    assert_eq!(server.cli(&["ZCARD", "ti:budget:{default}:ends"]), "0");
}
