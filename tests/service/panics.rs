//! Policies that panic or fail: a typed error or no effect, and everything settled.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use together_inference::{
    Cost, InferenceRequest, InferenceService, Price, async_trait,
    cache::{CacheEntry, CacheError, CacheLayer},
    cost::{Budget, CostRecord, CostSink, Intent, MemoryCosts, SinkError},
    inference::CacheKey,
    notify::{Alert, Notifier, NotifyError},
    router::CatalogRouter,
    service::{ErrorKind, ServiceBuilder},
    testing::{Fault, Together},
    types::Tenant,
    usd,
};
use tokio::time::Instant;

use crate::{
    doubles::{BrokenBudget, BrokenCache, Fails, PanickingRouter, PanicsAtTimes, client},
    world::{LARGE, World, ask, ms, muse, route, secs},
};

/// A service that keeps its records, without a budget.
fn built(edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> (InferenceService, Together, MemoryCosts) {
    let (sim, costs) = (Together::new(), MemoryCosts::default());
    let service = edit(InferenceService::builder(sim.client()).cost_sink(costs.clone())).build().unwrap();
    (service, sim, costs)
}

async fn nothing_is_left(service: &InferenceService, sim: &Together) {
    tokio::time::sleep(secs(10)).await;
    let health = service.health();
    assert_eq!((health.in_flight, health.coalescing, sim.in_flight(), sim.open_streams()), (0, 0, 0, 0), "{health:?}");
    assert!(health.routes.iter().all(|route| route.in_flight == 0 && route.waiting == 0));
}

#[tokio::test(start_paused = true)]
async fn a_router_that_panics_is_a_typed_error_and_nothing_is_sent() {
    let (service, sim, _) =
        built(|builder| builder.router(PanickingRouter { inner: CatalogRouter::builtin(), in_rank: true }));
    for request in [ask("why?"), muse("why?")] {
        assert_eq!(service.complete(request.clone()).await.unwrap_err().kind(), ErrorKind::Policy);
        assert_eq!(service.stream(request.clone()).await.unwrap_err().kind(), ErrorKind::Policy);
        assert_eq!(service.explain(&request).await.unwrap_err().kind(), ErrorKind::Policy);
    }
    assert_eq!(sim.calls(), 0);
    nothing_is_left(&service, &sim).await;
}

#[tokio::test(start_paused = true)]
async fn a_router_that_panics_while_it_learns_harms_no_call() {
    let (service, sim, costs) =
        built(|builder| builder.router(PanickingRouter { inner: CatalogRouter::builtin(), in_rank: false }));
    service.complete(muse("why?")).await.unwrap();
    service.complete(ask("why?")).await.unwrap();
    service.stream(muse("why?")).await.unwrap().finish().await.unwrap();
    drop(service.stream(muse("why?")).await.unwrap());
    sim.fail_next(1, Fault::status(503));
    service.complete(muse("why?")).await.unwrap();
    nothing_is_left(&service, &sim).await;
    assert_eq!(costs.records().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_broken_cache_fails_no_call() {
    for fails in [Fails::Errs, Fails::Panics, Fails::Hangs] {
        let (service, sim, costs) = built(|builder| builder.cache(BrokenCache(fails)));
        service.complete(ask("why?")).await.unwrap();
        nothing_is_left(&service, &sim).await;
        assert_eq!(costs.records().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_budget_store_refuses_with_a_typed_error_by_the_deadline() {
    // Scenario: a store that fails, panics or never answers; it panics as well when it is told to give back.
    // Expected: an error of the application's policy, or the deadline's; nothing sent.
    for fails in [Fails::Errs, Fails::Panics, Fails::Hangs] {
        let (service, sim, _) =
            built(|builder| builder.budget(Budget::total(usd!("5"))).budget_store(BrokenBudget(fails)));
        let start = Instant::now();
        let error = service.complete(muse("why?").deadline(secs(2))).await.unwrap_err();
        let kind = if fails == Fails::Hangs { ErrorKind::DeadlineExceeded } else { ErrorKind::Policy };
        assert_eq!((error.kind(), sim.calls()), (kind, 0), "{error}");
        assert!(start.elapsed() <= ms(2_002));
        assert_eq!(service.stream(muse("why?").deadline(secs(2))).await.unwrap_err().kind(), kind);
        nothing_is_left(&service, &sim).await;
    }
}

/// Panics whatever it is told.
#[derive(Debug)]
struct PanickingSink {
    before: bool,
}

#[async_trait]
impl CostSink for PanickingSink {
    async fn intend(&self, _: &Intent) -> Result<(), SinkError> {
        panic!("it panics on purpose")
    }

    async fn record(&self, _: &[CostRecord]) -> Result<(), SinkError> {
        panic!("it panics on purpose")
    }

    fn wants_intents(&self) -> bool {
        self.before
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_panics_fails_no_answer_and_its_loss_is_counted() {
    let sim = Together::new();
    let service = InferenceService::builder(sim.client()).cost_sink(PanickingSink { before: false }).build().unwrap();
    for number in 0..3 {
        service.complete(muse(number.to_string())).await.unwrap();
    }
    nothing_is_left(&service, &sim).await;
    assert!(service.flush().await);
    assert_eq!((service.health().records_lost, service.health().records_waiting), (3, 0));
    let drained = service.shutdown(secs(1)).await;
    assert_eq!(drained.records_lost, 3);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_must_know_before_and_panics_stops_the_attempt() {
    let world = World::with(|builder| builder.cost_sink(PanickingSink { before: true }));
    let error = world.service.complete(muse("why?")).await.unwrap_err();
    assert_eq!((error.kind(), world.calls()), (ErrorKind::Policy, 0));
    let error = world.service.complete(ask("why?")).await.unwrap_err();
    assert_eq!((error.kind(), world.calls()), (ErrorKind::Policy, 0));
    world.at_rest().await;
}

/// Counts what it is told, and panics.
#[derive(Debug)]
struct PanickingNotifier(Arc<AtomicU64>);

#[async_trait]
impl Notifier for PanickingNotifier {
    async fn notify(&self, _: &Alert) -> Result<(), NotifyError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("it panics on purpose")
    }
}

#[tokio::test(start_paused = true)]
async fn a_notifier_that_panics_harms_no_call() {
    let told = Arc::new(AtomicU64::new(0));
    let (service, sim, _) = built(|builder| builder.notifier(PanickingNotifier(Arc::clone(&told))));
    sim.fail_next(1, Fault::status(402));
    let error = service.complete(muse("why?").model(LARGE)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UpstreamPayment);
    // The key rests for a minute.
    tokio::time::sleep(secs(61)).await;
    service.complete(muse("why?").model(LARGE)).await.unwrap();
    nothing_is_left(&service, &sim).await;
    assert_eq!(told.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_panics_is_a_typed_error_with_a_record() {
    let (sim, panics, costs) = (Together::new(), Arc::new(AtomicBool::new(true)), MemoryCosts::default());
    let transport = PanicsAtTimes { sim: sim.clone(), panics: Arc::clone(&panics) };
    let service = InferenceService::builder(client(transport)).cost_sink(costs.clone()).build().unwrap();
    for request in [muse("why?"), ask("why?")] {
        assert_eq!(service.complete(request).await.unwrap_err().kind(), ErrorKind::Policy);
    }
    assert_eq!(service.stream(muse("why?")).await.unwrap_err().kind(), ErrorKind::Policy);
    nothing_is_left(&service, &sim).await;
    let records = costs.records();
    assert_eq!(records.len(), 3);
    assert!(records.iter().all(|record| matches!(record.cost, Cost::Unknown { .. })), "it may have left");
    panics.store(false, Ordering::SeqCst);
    service.complete(ask("why?")).await.unwrap();
}

/// Panics before there is a future, as a layer may that is not written with `async_trait`.
#[derive(Debug)]
struct PanicsAtOnce;

type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, CacheError>> + Send + 'a>>;

impl CacheLayer for PanicsAtOnce {
    fn get<'a: 'c, 'b: 'c, 'c>(&'a self, _: &'b CacheKey) -> Asked<'c, Option<CacheEntry>> {
        panic!("it panics on purpose")
    }

    fn set<'a: 'c, 'b: 'c, 'c>(&'a self, _: &'b CacheKey, _: CacheEntry) -> Asked<'c, ()> {
        panic!("it panics on purpose")
    }

    fn remove<'a: 'c, 'b: 'c, 'c>(&'a self, _: &'b CacheKey) -> Asked<'c, ()> {
        panic!("it panics on purpose")
    }

    fn get_many<'a: 'c, 'b: 'c, 'c>(&'a self, _: &'b [CacheKey]) -> Asked<'c, Vec<Option<CacheEntry>>> {
        panic!("it panics on purpose")
    }

    fn set_many<'a: 'c, 'c>(&'a self, _: Vec<(CacheKey, CacheEntry)>) -> Asked<'c, ()> {
        panic!("it panics on purpose")
    }

    fn forget_tenant<'a: 'c, 'b: 'c, 'c>(&'a self, _: &'b Tenant) -> Asked<'c, ()> {
        panic!("it panics on purpose")
    }

    fn flush<'a: 'c, 'c>(&'a self) -> Asked<'c, ()> {
        panic!("it panics on purpose")
    }
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_panics_before_it_has_begun_fails_no_call_and_no_shutdown() {
    let embedder = "intfloat/multilingual-e5-large-instruct";
    let (service, sim, _) =
        built(|builder| builder.cache(PanicsAtOnce).embedding_model(embedder).price(&route(embedder), Price::FREE));
    service.complete(ask("why?")).await.unwrap();
    service.stream(ask("how?")).await.unwrap().finish().await.unwrap();
    service.complete(InferenceRequest::embedding(["a"])).await.unwrap();
    assert!(service.refresh_catalogue().await.failures.is_empty());
    assert_eq!(service.invalidate(&ask("why?")).await.unwrap_err().kind(), ErrorKind::Policy);
    assert_eq!(service.invalidate_tenant(&"acme".into()).await.unwrap_err().kind(), ErrorKind::Policy);
    nothing_is_left(&service, &sim).await;
    assert_eq!(service.shutdown(secs(1)).await.records_lost, 0);
}
