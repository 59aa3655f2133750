//! Sinks and notifiers that fail, hang or take their time: they harm themselves alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use together_inference::{
    InferenceService, Price, Usd, async_trait,
    client::RetryPolicy,
    cost::{
        Account, Balance, Budget, BudgetError, BudgetStore, Charge, CostRecord, CostSink, Hold, Intent, MemoryBudgets,
        MemoryCosts, Period, SinkError,
    },
    limit::Limits,
    notify::{Alert, AlertKind, Notifier, NotifyError},
    service::ErrorKind,
    testing::{Fault, Together},
    types::AttemptId,
    usd,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    books::Books,
    doubles::{Fails, Remote},
    world::{LARGE, SMALL, World, ask, ms, muse, route, secs, settle, spawn, used},
};

/// Takes nothing, and counts what it is offered.
#[derive(Debug)]
pub(super) struct BadSink(pub(super) Fails, pub(super) Arc<AtomicU64>);

#[async_trait]
impl CostSink for BadSink {
    async fn record(&self, _: &[CostRecord]) -> Result<(), SinkError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        match self.0 {
            Fails::Errs => Err(SinkError::new("it fails on purpose")),
            Fails::Panics => panic!("it panics on purpose"),
            Fails::Hangs => std::future::pending().await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_sink_takes_nothing_from_a_good_one() {
    // Scenario: a sink that fails, panics or hangs before a good one, and a budget that is settled by the same task.
    // Expected: the good one has every record once and at once, the bad one is offered its page five times and given up;
    // nothing is lost, for one has it.
    for fails in [Fails::Errs, Fails::Panics, Fails::Hangs] {
        let (sim, costs, offers) = (Together::new(), MemoryCosts::new(100), Arc::default());
        let books = Books::new(&sim, &costs);
        let service = InferenceService::builder(sim.client())
            .cost_sink(BadSink(fails, Arc::clone(&offers)))
            .cost_sink(costs.clone())
            .budget(Budget::total(usd!("1000")))
            .budget_store(Remote(Arc::default()))
            .build()
            .unwrap();
        for number in 1..=3 {
            let reply = service.complete(muse("why?")).await.unwrap();
            sleep(ms(1)).await;
            assert_eq!(costs.records().len(), number, "{fails:?}");
            assert!(reply.cost().charge() > Usd::ZERO);
        }
        assert_eq!(used(&service).await.1, Usd::ZERO, "{fails:?}");
        assert!(offers.load(Ordering::SeqCst) == 1, "the good one did not wait for the bad one");
        sleep(secs(200)).await;
        assert!(service.flush().await);
        assert_eq!(offers.load(Ordering::SeqCst), 10, "{fails:?}: one page, and one of the two that came meanwhile");
        let health = service.health();
        assert_eq!((health.records_lost, health.records_waiting, costs.records().len()), (0, 0, 3));
        books.add_up();
    }
}

#[tokio::test(start_paused = true)]
async fn a_hanging_sink_that_falls_far_behind_stops_nothing() {
    // Scenario: 10,000 calls beside a sink that hangs.
    // Expected: the good one has all of them, and what is held for the hanging one is bounded.
    let world = World::with(|builder| builder.cost_sink(BadSink(Fails::Hangs, Arc::default())));
    for number in 0..10_000 {
        world.service.complete(muse("why?").max_tokens(1)).await.unwrap();
        if number % 10 == 0 {
            sleep(ms(10)).await;
        }
    }
    sleep(secs(1)).await;
    let health = world.service.health();
    assert_eq!((world.costs.records().len(), health.records_lost), (10_000, 0));
    assert!(health.records_waiting <= 4_096 + 256, "{}", health.records_waiting);
    world.books.add_up();
}

/// Is told of attempts before they are made, and takes what became of them while it is open. Those of the tenant "unsent"
/// are never made: it does not end to be told of them.
#[derive(Clone, Debug)]
struct Shut {
    open: watch::Sender<bool>,
    told: Arc<std::sync::Mutex<Vec<(AttemptId, bool)>>>,
    records: Arc<AtomicU64>,
}

impl Shut {
    fn new(open: bool) -> Self {
        Self { open: watch::Sender::new(open), told: Arc::default(), records: Arc::default() }
    }

    async fn opened(&self) {
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
    }

    fn forget(&self, done: impl Fn(AttemptId) -> bool) {
        self.told.lock().unwrap().retain(|(attempt, _)| !done(*attempt));
    }

    /// Attempts that were never made, and that it was not told to forget.
    fn unsent(&self) -> usize {
        self.told.lock().unwrap().iter().filter(|(_, unsent)| *unsent).count()
    }
}

#[async_trait]
impl CostSink for Shut {
    async fn intend(&self, intent: &Intent) -> Result<(), SinkError> {
        let unsent = intent.record.tenant.as_ref().is_some_and(|tenant| tenant.as_str() == "unsent");
        self.told.lock().unwrap().push((intent.record.attempt, unsent));
        if unsent { std::future::pending().await } else { Ok(()) }
    }

    async fn record(&self, page: &[CostRecord]) -> Result<(), SinkError> {
        self.opened().await;
        self.records.fetch_add(page.len() as u64, Ordering::SeqCst);
        self.forget(|attempt| page.iter().any(|record| record.attempt == attempt));
        Ok(())
    }

    async fn withdraw(&self, attempts: &[AttemptId]) -> Result<(), SinkError> {
        self.opened().await;
        self.forget(|attempt| attempts.contains(&attempt));
        Ok(())
    }

    fn wants_intents(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_never_made_is_withdrawn_however_full_the_recorder_is() {
    // Scenario: the ledger is told of an attempt and hangs; others fill the recorder until a record is lost; only then is
    // the attempt given up, before anything was sent; the ledger works again.
    // Expected: the ledger is told that it was never made. A withdrawal that was left out would end as money spent.
    let sink = Shut::new(false);
    let sim = Together::new();
    let service = InferenceService::builder(sim.client()).cost_sink(sink.clone()).build().unwrap();
    let unsent = spawn(service.complete(muse("why?").tenant("unsent")));
    settle().await;
    assert_eq!(sink.unsent(), 1);
    while service.health().records_lost == 0 {
        service.complete(muse("why?").max_tokens(1)).await.unwrap();
    }
    unsent.abort();
    settle().await;
    sink.open.send_replace(true);
    sleep(secs(60)).await;
    assert!(service.flush().await);
    assert_eq!((sink.unsent(), service.health().records_lost), (0, 1));
}

/// Must not miss a record.
#[derive(Debug)]
struct Strict;

#[async_trait]
impl CostSink for Strict {
    async fn record(&self, _: &[CostRecord]) -> Result<(), SinkError> {
        Ok(())
    }

    fn is_strict(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_or_in_line_take_no_place_from_others() {
    // Scenario: more calls under way and in line than the recorder holds records, sinks that are idle; then one more call on
    // another route, and a hit.
    // Expected: it neither waits nor is refused, and every record is written; so is each of the first, which all end at once.
    for strict in [false, true] {
        let world = World::with(|builder| {
            let limits = Limits::default().concurrency(4_000).max_waiting(1_000);
            let builder = builder.limits_of(route(SMALL), limits);
            if strict { builder.cost_sink(Strict) } else { builder }
        });
        world.service.complete(ask("known").model(LARGE)).await.unwrap();
        world.sim.latency_of(SMALL, secs(10));
        let under_way: Vec<_> =
            (0..4_500).map(|_| world.spawn(muse("why?").model(SMALL).max_tokens(1).deadline(secs(60)))).collect();
        sleep(secs(1)).await;
        let start = Instant::now();
        world.service.complete(muse("why?").model(LARGE).deadline(secs(1))).await.unwrap();
        world.service.complete(ask("known").model(LARGE)).await.unwrap();
        assert_eq!(start.elapsed(), ms(0), "strict: {strict}");
        for call in under_way {
            call.await.unwrap().unwrap();
        }
        assert_eq!(world.at_rest().await.len(), 4_503, "strict: {strict}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_without_a_place_is_written_where_there_is_room_by_its_end() {
    // Scenario: the recorder is full when a call of ten seconds begins, and has been empty for long when it ends.
    // Expected: its record is written; lost is the one alone that found no room at its end.
    let sink = Shut::new(false);
    let sim = Together::new();
    let service = InferenceService::builder(sim.client()).cost_sink(sink.clone()).build().unwrap();
    let mut calls = 0;
    while service.health().records_lost == 0 {
        service.complete(muse("why?").max_tokens(1)).await.unwrap();
        calls += 1;
    }
    sim.latency(secs(10));
    let slow = spawn(service.complete(muse("why?").max_tokens(1)));
    sleep(secs(1)).await;
    sink.open.send_replace(true);
    slow.await.unwrap().unwrap();
    assert!(service.flush().await);
    assert_eq!((sink.records.load(Ordering::SeqCst), service.health().records_lost), (calls, 1));
}

/// Is told of attempts before they are made, and cannot be told that they were not.
#[derive(Debug)]
struct NeverForgets;

#[async_trait]
impl CostSink for NeverForgets {
    async fn record(&self, _: &[CostRecord]) -> Result<(), SinkError> {
        Ok(())
    }

    async fn withdraw(&self, _: &[AttemptId]) -> Result<(), SinkError> {
        Err(SinkError::new("it fails on purpose"))
    }

    fn wants_intents(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_that_a_sink_does_not_take_is_counted_and_told() {
    // Scenario: the provider refuses the connection; the sink that was told of the attempt is never told that it was not
    // made, another one that need not know is.
    // Expected: counted and told like a record that is lost, though its own record the other one would have taken.
    let alerts = Arc::default();
    let world = World::with(|builder| {
        builder.cost_sink(NeverForgets).notifier(SlowNotifier(ms(0), Arc::clone(&alerts))).retry(RetryPolicy::none())
    });
    world.sim.fail_next(1, Fault::refuse());
    world.service.complete(muse("why?")).await.unwrap_err();
    sleep(secs(60)).await;
    assert!(world.service.flush().await);
    assert_eq!((world.costs.records().len(), world.service.health().records_lost), (0, 1));
    assert_eq!(*alerts.lock().unwrap(), [AlertKind::LedgerGap]);
}

/// Keeps the kinds of alerts, each after a while.
#[derive(Debug)]
struct SlowNotifier(Duration, Arc<std::sync::Mutex<Vec<AlertKind>>>);

#[async_trait]
impl Notifier for SlowNotifier {
    async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
        sleep(self.0).await;
        self.1.lock().unwrap().push(alert.kind());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_for_a_full_recorder_beyond_its_deadline_and_one_alert_is_raised() {
    // Scenario: the only sink hangs; calls until the queue is full and longer.
    // Expected: a call of 10 ms is over after 10 ms; the first gap raises one alert, the others none.
    let (sim, alerts) = (Together::new(), Arc::default());
    let service = InferenceService::builder(sim.client())
        .cost_sink(BadSink(Fails::Hangs, Arc::default()))
        .notifier(SlowNotifier(secs(1), Arc::clone(&alerts)))
        .build()
        .unwrap();
    let mut calls = 0;
    while service.health().records_lost == 0 {
        service.complete(muse("why?").max_tokens(1)).await.unwrap();
        calls += 1;
        assert!(calls < 6_000, "nothing was lost");
    }
    let start = Instant::now();
    let late = service.complete(muse("why?").deadline(ms(10))).await.unwrap_err();
    assert_eq!((late.kind(), start.elapsed()), (ErrorKind::DeadlineExceeded, ms(10)));
    assert_eq!(service.health().records_lost, 1, "an attempt that was not made has no record");
    service.complete(muse("why?")).await.unwrap();
    assert_eq!(service.health().records_lost, 2);
    sleep(secs(2)).await;
    assert_eq!(*alerts.lock().unwrap(), [AlertKind::LedgerGap]);
    assert_eq!(service.costs().known.nanos(), sim.bill().nano_usd, "what has no record is counted");
}

#[tokio::test(start_paused = true)]
async fn a_notifier_may_take_fifteen_seconds() {
    for (takes, told) in [(ms(400), 1), (secs(14), 1), (secs(16), 0)] {
        let alerts = Arc::default();
        let world = World::with(|builder| builder.notifier(SlowNotifier(takes, Arc::clone(&alerts))));
        world.sim.fail_next(3, Fault::status(401));
        for _ in 0..3 {
            world.service.complete(muse("why?")).await.unwrap_err();
        }
        sleep(secs(20)).await;
        assert_eq!(alerts.lock().unwrap().len(), told, "{takes:?}");
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn alerts_on_their_way_are_bounded_and_given_up_at_a_shutdown() {
    let alerts = Arc::default();
    let notifier = SlowNotifier(secs(14), Arc::clone(&alerts));
    let model = |number: u32| format!("acme/m{number}");
    let world = World::with(|builder| {
        let builder = builder.notifier(notifier).retry(RetryPolicy::none());
        (0..100).fold(builder, |builder, number| builder.price(&route(&model(number)), Price::FREE))
    });
    world.sim.fail_next(1_000, Fault::status(500));
    // Each model fails ten times, and somebody is told of each.
    for number in 0..100 {
        for _ in 0..10 {
            world.service.complete(muse("why?").model(model(number))).await.unwrap_err();
        }
    }
    let health = world.service.health();
    assert_eq!((health.in_flight, health.alerts_lost), (64, 36), "those that found no room are counted");
    sleep(secs(15)).await;
    assert_eq!(alerts.lock().unwrap().len(), 64);
    world.sim.fail_next(1, Fault::status(401));
    world.service.complete(muse("why?")).await.unwrap_err();
    let start = Instant::now();
    let drained = world.service.shutdown(secs(1)).await;
    assert_eq!((drained.cancelled, start.elapsed()), (0, secs(1)));
    world.at_rest().await;
}

/// Reserves like any other, and never ends to settle.
#[derive(Debug)]
struct NeverSettles(MemoryBudgets, Arc<AtomicU64>);

#[async_trait]
impl BudgetStore for NeverSettles {
    async fn reserve(&self, hold: &Arc<Hold>) -> Result<(), BudgetError> {
        self.0.reserve(hold).await
    }

    async fn read(&self, accounts: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError> {
        self.0.read(accounts).await
    }

    async fn settle(&self, _: &Arc<Hold>, _: Charge) -> Result<Vec<Balance>, BudgetError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_store_that_hangs_while_it_settles_takes_no_records() {
    let tries = Arc::default();
    let store = NeverSettles(MemoryBudgets::new(), Arc::clone(&tries));
    let world = World::with(|builder| builder.budget_store(store));
    world.service.complete(muse("why?")).await.unwrap();
    sleep(ms(1)).await;
    assert_eq!(world.costs.records().len(), 1);
    assert!(!world.service.flush().await, "the budget is not settled");
    sleep(secs(100)).await;
    let so_far = tries.load(Ordering::SeqCst);
    assert!(so_far > 5, "{so_far}");
    sleep(secs(3_600)).await;
    let rest = tries.load(Ordering::SeqCst) - so_far;
    assert!((85..=95).contains(&rest), "once in 40 seconds, half a minute after each offer: {rest}");
    sleep(secs(2 * 86_400)).await;
    assert!(world.service.flush().await, "it was given up, long after it expired");
    world.books.add_up();
}
