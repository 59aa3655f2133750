//! What holds of budgets over time and over a bad line, whatever keeps them: checked on each store by its own tests.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use together_inference::{
    InferenceRequest, InferenceService, Price, RouteId, Usd, async_trait,
    cost::{
        Account, Balance, Budget, BudgetError, BudgetStore, Charge, Hold, MemoryCosts, Period, Remaining, Scope, Told,
    },
    notify::{Alert, AlertKind, Notifier, NotifyError},
    service::ErrorKind,
    testing::{SimModel, Together},
    types::ManualClock,
    usd,
};

use crate::books::Books;

const MODEL: &str = "zai-org/GLM-5.3";
const HOUR: u64 = 3_600;

/// A question whose answer costs a dime: it is cut after ten tokens.
fn dime() -> InferenceRequest {
    InferenceRequest::chat("why?").model(MODEL).max_tokens(10).deadline(Duration::from_secs(60))
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

/// A service whose every answer costs a dime, on a clock that is set by hand.
struct Shop {
    service: InferenceService,
    clock: Arc<ManualClock>,
    alerts: Alerts,
    books: Books,
}

/// 2026-01-01 00:00 UTC.
const NEW_YEAR: u64 = 1_767_225_600;

/// The second of a moment of 2026 in UTC, by its day of the year, from 0.
const fn on(day: u64, hour: u64) -> u64 {
    NEW_YEAR + (day * 24 + hour) * HOUR
}

impl Shop {
    fn new(budget: Budget, store: Arc<dyn BudgetStore>, latency: Duration) -> Self {
        let (sim, alerts, costs) = (Together::new(), Alerts::default(), MemoryCosts::new(10_000));
        sim.add_model(SimModel::chat(MODEL).price(0, 10_000_000_000));
        sim.on("").reply("word ".repeat(100));
        sim.latency(latency);
        let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
        let service = InferenceService::builder(sim.client())
            .price(&RouteId::new("together", MODEL), Price::per_million(Usd::ZERO, usd!("10000")))
            .budget(budget)
            .budget_store(store)
            .cost_sink(costs.clone())
            .notifier(alerts.clone())
            .clock(Arc::clone(&clock) as _)
            .build()
            .unwrap();
        Self { service, clock, alerts, books: Books::new(&sim, &costs) }
    }

    fn set(&self, second: u64) {
        self.clock.set(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
    }

    /// How many of so many dimes at the same time are let through, when all of them are settled.
    async fn buys(&self, dimes: usize) -> usize {
        let replies = join_all((0..dimes).map(|_| self.service.complete(dime()))).await;
        for refused in replies.iter().filter_map(|reply| reply.as_ref().err()) {
            assert_eq!(refused.kind(), ErrorKind::OverBudget, "{refused}");
        }
        self.adds_up().await;
        replies.iter().filter(|reply| reply.is_ok()).count()
    }

    /// Waits until everything is settled, and holds the records against the bill.
    async fn adds_up(&self) {
        assert!(self.service.flush().await);
        self.books.add_up();
    }

    async fn left(&self) -> Remaining {
        self.service.budgets().remaining(&Scope::Global).await.unwrap().remove(0)
    }

    /// What is spent and set aside in this window.
    async fn used(&self) -> Usd {
        let left = self.left().await;
        left.spent + left.reserved
    }

    /// What is spent in this window, with nothing set aside.
    async fn spent(&self) -> Usd {
        let left = self.left().await;
        assert_eq!(left.reserved, Usd::ZERO);
        left.spent
    }

    /// What was told since the last look, in an order.
    async fn told(&self) -> Vec<AlertKind> {
        self.adds_up().await;
        // Alerts go out by a task of the service.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        let mut told = std::mem::take(&mut *self.alerts.0.lock().unwrap());
        told.sort_by_key(|kind| kind.as_str());
        told
    }
}

/// That a window is the one that the service's clock shows when money is set aside, whatever the clock does: over
/// midnight with calls under way, over jumps of the clock in both directions, and on the days that have 23 and 25 hours.
pub async fn windows_hold(store: Arc<dyn BudgetStore>) {
    calls_over_midnight_are_of_the_day_that_they_began_on(Arc::clone(&store)).await;
    a_clock_that_jumps_finds_the_window_that_it_shows(Arc::clone(&store)).await;
    a_day_is_one_window_however_many_hours_it_has(Arc::clone(&store)).await;
    what_was_spent_of_late_counts_after_a_jump_back(store).await;
}

/// Scenario: forty dimes of $5 a day are under way when midnight passes; then a hundred more are asked for.
/// Expected: the forty are the old day's whenever they are settled, fifty are let through on the new one, and on a clock
/// that is set back to the old day ten are.
async fn calls_over_midnight_are_of_the_day_that_they_began_on(store: Arc<dyn BudgetStore>) {
    let budget = Budget::daily(usd!("5")).zone("America/New_York").alert_at([]);
    let shop = Shop::new(budget, store, Duration::from_millis(300));
    // Midnight in New York is five in the morning in UTC.
    let midnight = on(10, 5);
    shop.set(midnight - 1);
    let old = join_all((0..40).map(|_| shop.service.complete(dime())));
    let pass = async {
        while shop.used().await < usd!("4") {
            tokio::task::yield_now().await;
        }
        shop.set(midnight);
        assert_eq!(shop.left().await.reserved, Usd::ZERO, "nothing is set aside of the new day");
        join_all((0..100).map(|_| shop.service.complete(dime()))).await
    };
    let (old, new) = tokio::join!(old, pass);
    assert!(shop.service.flush().await);
    assert_eq!(old.iter().filter(|reply| reply.is_ok()).count(), 40);
    assert_eq!(new.iter().filter(|reply| reply.is_ok()).count(), 50, "no more than a day's allowance at the edge");
    assert_eq!(shop.spent().await, usd!("5"));
    shop.set(midnight - 1);
    assert_eq!(shop.spent().await, usd!("4"));
    assert_eq!(shop.buys(20).await, 10);
    shop.set(midnight);
    assert_eq!(shop.buys(1).await, 0);
}

/// Scenario: the clock jumps a day, a month and a year forward and back again, with calls before and after each.
/// Expected: each day has its allowance once, and it is used up again when the clock is back on it.
async fn a_clock_that_jumps_finds_the_window_that_it_shows(store: Arc<dyn BudgetStore>) {
    let shop = Shop::new(Budget::daily(usd!("1")).zone("UTC").alert_at([]), store, Duration::ZERO);
    let today = on(100, 12);
    shop.set(today);
    assert_eq!(shop.buys(7).await, 7);
    for (n, days) in [1, 31, 365].into_iter().enumerate() {
        shop.set(today + days * 24 * HOUR);
        assert_eq!(shop.buys(12).await, 10, "{days} days later");
        shop.set(today);
        assert_eq!(shop.buys(1).await, 1, "today, {n} dimes after the first");
        shop.set(today + days * 24 * HOUR);
        assert_eq!(shop.buys(1).await, 0, "{days} days later, again");
    }
    shop.set(today);
    assert_eq!((shop.buys(1).await, shop.spent().await), (0, usd!("1")));
}

/// Scenario: the two days of Berlin that have 23 and 25 hours; all is spent in the first minute, and each hour asks again.
/// Expected: not a dime more until the next midnight there, both hours of the name two o'clock included, and a whole
/// allowance from then on.
async fn a_day_is_one_window_however_many_hours_it_has(store: Arc<dyn BudgetStore>) {
    let shop = Shop::new(Budget::daily(usd!("1")).zone("Europe/Berlin").alert_at([]), store, Duration::ZERO);
    // 2026-03-28 23:00 and 2026-10-24 22:00 in UTC.
    for (midnight, hours) in [(on(86, 23), 23), (on(296, 22), 25)] {
        shop.set(midnight - 1);
        assert_eq!(shop.buys(1).await, 1, "the day before is another one");
        shop.set(midnight);
        assert_eq!(shop.buys(12).await, 10);
        for hour in 1..hours {
            shop.set(midnight + hour * HOUR);
            assert_eq!(shop.buys(1).await, 0, "{hour} hours into the day of {hours}");
        }
        shop.set(midnight + hours * HOUR - 1);
        assert_eq!((shop.buys(1).await, shop.spent().await), (0, usd!("1")));
        let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(midnight + hours * HOUR);
        assert_eq!(shop.left().await.resets_at, Some(ends));
        shop.set(midnight + hours * HOUR);
        assert_eq!(shop.buys(12).await, 10, "the day after the one of {hours} hours");
    }
}

/// Scenario: a dollar an hour is spent; the clock jumps an hour and a half forward, and back again.
/// Expected: a dollar more after the jump; none after the jump back, where both were spent within the hour.
async fn what_was_spent_of_late_counts_after_a_jump_back(store: Arc<dyn BudgetStore>) {
    let budget = Budget::rolling(usd!("1"), Duration::from_secs(HOUR)).alert_at([]);
    let shop = Shop::new(budget, store, Duration::ZERO);
    let now = on(200, 9);
    shop.set(now);
    assert_eq!(shop.buys(11).await, 10);
    shop.set(now + HOUR - 1);
    assert_eq!(shop.buys(1).await, 0);
    shop.set(now + HOUR * 3 / 2);
    assert_eq!(shop.buys(11).await, 10);
    shop.set(now);
    assert_eq!((shop.buys(1).await, shop.spent().await), (0, usd!("2")));
}

/// A store whose answers are lost on their way while it is told so: what they are of is done.
#[derive(Debug)]
struct Lossy {
    store: Arc<dyn BudgetStore>,
    is_lost: AtomicBool,
}

impl Lossy {
    fn answer<T>(&self, answer: Result<T, BudgetError>) -> Result<T, BudgetError> {
        if self.is_lost.load(Ordering::Relaxed) { Err(BudgetError::Store("the answer is lost".into())) } else { answer }
    }
}

#[async_trait]
impl BudgetStore for Lossy {
    async fn reserve(&self, hold: &Arc<Hold>) -> Result<(), BudgetError> {
        match self.store.reserve(hold).await {
            Ok(()) => Ok(()),
            refused => self.answer(refused),
        }
    }

    async fn settle(&self, hold: &Arc<Hold>, charge: Charge) -> Result<Vec<Balance>, BudgetError> {
        self.answer(self.store.settle(hold, charge).await)
    }

    async fn told(&self, told: &[Told]) -> Result<(), BudgetError> {
        self.answer(self.store.told(told).await)
    }

    async fn read(&self, accounts: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError> {
        self.store.read(accounts).await
    }

    fn largest_limit(&self) -> Usd {
        self.store.largest_limit()
    }
}

/// That no alert is lost with the answer that carries it: whoever asks next tells, and nobody once it is told.
///
/// `late` makes the store believe that whoever was answered has had time enough to tell.
pub async fn alerts_survive_a_lost_answer(store: Arc<dyn BudgetStore>, late: impl AsyncFn()) {
    a_mark_is_told_again(Arc::clone(&store), &late).await;
    a_budget_that_is_used_up_is_told_again(store, &late).await;
}

fn two(budget: &Budget, store: &Arc<dyn BudgetStore>) -> (Arc<Lossy>, Shop, Shop) {
    let lossy = Arc::new(Lossy { store: Arc::clone(store), is_lost: AtomicBool::new(false) });
    let shops = [Arc::clone(&lossy) as Arc<dyn BudgetStore>, Arc::clone(store)].map(|store| {
        let shop = Shop::new(budget.clone(), store, Duration::ZERO);
        shop.set(on(42, 12));
        shop
    });
    let [one, other] = shops;
    (lossy, one, other)
}

/// Scenario: one process passes half of a budget, and the answer that says so is lost; another one spends a dime, at once
/// and when the first has had time enough to tell.
/// Expected: at once it tells nothing, for the first may yet; later it tells, and then nobody does any more. The next mark
/// is told by whoever passes it, once.
async fn a_mark_is_told_again(store: Arc<dyn BudgetStore>, late: &impl AsyncFn()) {
    let (lossy, one, other) = two(&Budget::daily(usd!("1")).soft(), &store);
    assert_eq!(one.buys(4).await, 4);
    lossy.is_lost.store(true, Ordering::Relaxed);
    one.service.complete(dime()).await.unwrap();
    while other.left().await.spent < usd!("0.50") {
        tokio::task::yield_now().await;
    }
    assert_eq!(other.buys(1).await, 1);
    assert_eq!(other.told().await, []);
    late().await;
    assert_eq!(other.buys(1).await, 1);
    assert_eq!(other.told().await, [AlertKind::Budget50]);
    lossy.is_lost.store(false, Ordering::Relaxed);
    late().await;
    assert_eq!(one.buys(1).await, 1);
    assert_eq!((one.told().await, other.told().await), (vec![AlertKind::Budget80], vec![]));
    late().await;
    assert_eq!(one.buys(1).await + other.buys(1).await, 2);
    let mut told = one.told().await;
    told.extend(other.told().await);
    assert_eq!(told, [AlertKind::Budget100]);
}

/// Scenario: a hard budget has too little left for one more; the answer with the first refusal is lost, and with it the
/// half of the budget. Another process asks, at once and later.
/// Expected: at once it tells nothing, later both, and then nobody does any more.
async fn a_budget_that_is_used_up_is_told_again(store: Arc<dyn BudgetStore>, late: &impl AsyncFn()) {
    let (lossy, one, other) = two(&Budget::daily(usd!("0.55")).alert_at([50, 100]), &store);
    assert_eq!(one.buys(2).await, 2);
    lossy.is_lost.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        one.service.complete(dime()).await.unwrap();
    }
    while other.left().await.spent < usd!("0.50") {
        tokio::task::yield_now().await;
    }
    assert_eq!(one.service.complete(dime()).await.unwrap_err().kind(), ErrorKind::Policy);
    assert_eq!(other.buys(1).await, 0);
    assert_eq!(other.told().await, []);
    late().await;
    assert_eq!(other.buys(1).await, 0);
    assert_eq!(other.told().await, [AlertKind::Budget100, AlertKind::Budget50]);
    late().await;
    assert_eq!(other.buys(1).await, 0);
    assert_eq!(other.told().await, []);
    lossy.is_lost.store(false, Ordering::Relaxed);
    one.adds_up().await;
}
