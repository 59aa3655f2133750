//! Policies and transports that misbehave.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use together_inference::{
    TogetherClient, async_trait,
    cache::{CacheEntry, CacheError, CacheLayer, MemoryCache},
    client::{Body, Transport, TransportError},
    cost::{
        Account, Balance, BudgetError, BudgetStore, Charge, CostRecord, CostSink, Hold, Intent, MemoryBudgets, Period,
        SinkError,
    },
    inference::CacheKey,
    notify::{Alert, AlertKind, Notifier, NotifyError},
    router::{CatalogRouter, ModelRouter, NoRoute, Observation, Ranking, RouteAsk},
    testing::Together,
};
use tokio::task::yield_now;

pub(crate) use crate::books::Quarters;

/// A client on a transport of the test's own.
pub(crate) fn client(transport: impl Transport + 'static) -> TogetherClient {
    TogetherClient::builder().api_key("any").transport(transport).build().unwrap()
}

/// Panics while it is told to, after a while.
#[derive(Debug)]
pub(crate) struct PanicsAtTimes {
    pub(crate) sim: Together,
    pub(crate) panics: Arc<AtomicBool>,
}

#[async_trait]
impl Transport for PanicsAtTimes {
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!self.panics.load(Ordering::SeqCst), "the transport panics on purpose");
        self.sim.send(request).await
    }
}

/// Answers every request with the same JSON, and counts.
#[derive(Clone, Debug)]
pub(crate) struct Canned {
    pub(crate) body: String,
    pub(crate) calls: Arc<AtomicU64>,
}

impl Canned {
    /// A completion of this text that ended for this reason.
    pub(crate) fn completion(text: &str, finish: &str) -> Self {
        let body = serde_json::json!({
            "id": "canned", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        });
        Self { body: body.to_string(), calls: Arc::default() }
    }
}

#[async_trait]
impl Transport for Canned {
    async fn send(&self, _: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(http::Response::new(Body::from(self.body.clone())))
    }
}

/// Answers calls, but no question for a list of models; the token is held by each that waits for one.
#[derive(Clone, Debug)]
pub(crate) struct HangingLists(pub(crate) Together, pub(crate) Arc<()>);

#[async_trait]
impl Transport for HangingLists {
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        if request.method() == http::Method::GET {
            let _held = Arc::clone(&self.1);
            std::future::pending::<()>().await;
        }
        self.0.send(request).await
    }
}

/// How a policy misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fails {
    Errs,
    Panics,
    Hangs,
}

impl Fails {
    async fn now(self) -> String {
        match self {
            Self::Errs => "it fails on purpose".into(),
            Self::Panics => panic!("it panics on purpose"),
            Self::Hangs => std::future::pending().await,
        }
    }
}

#[derive(Debug)]
pub(crate) struct BrokenCache(pub(crate) Fails);

#[async_trait]
impl CacheLayer for BrokenCache {
    async fn get(&self, _: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        Err(CacheError::new(self.0.now().await))
    }

    async fn set(&self, _: &CacheKey, _: CacheEntry) -> Result<(), CacheError> {
        Err(CacheError::new(self.0.now().await))
    }

    async fn remove(&self, _: &CacheKey) -> Result<(), CacheError> {
        Err(CacheError::new(self.0.now().await))
    }
}

/// A budget store that fails to reserve, and panics when it settles.
#[derive(Debug)]
pub(crate) struct BrokenBudget(pub(crate) Fails);

#[async_trait]
impl BudgetStore for BrokenBudget {
    async fn reserve(&self, _: &Arc<Hold>) -> Result<(), BudgetError> {
        Err(BudgetError::Store(self.0.now().await.into()))
    }

    fn settle_now(&self, _: &Arc<Hold>, _: Charge) -> Option<Vec<Balance>> {
        panic!("it panics on purpose")
    }

    async fn settle(&self, _: &Arc<Hold>, _: Charge) -> Result<Vec<Balance>, BudgetError> {
        Ok(Vec::new())
    }

    async fn read(&self, _: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError> {
        Err(BudgetError::Store(self.0.now().await.into()))
    }
}

/// A store outside the process: it takes turns to answer, and cannot settle at once.
#[derive(Debug)]
pub(crate) struct Remote(pub(crate) Arc<MemoryBudgets>);

#[async_trait]
impl BudgetStore for Remote {
    async fn reserve(&self, hold: &Arc<Hold>) -> Result<(), BudgetError> {
        yield_now().await;
        let reserved = self.0.reserve(hold).await;
        yield_now().await;
        reserved
    }

    async fn renew(&self, holds: &[Arc<Hold>]) -> Result<(), BudgetError> {
        yield_now().await;
        self.0.renew(holds).await
    }

    async fn settle(&self, hold: &Arc<Hold>, charge: Charge) -> Result<Vec<Balance>, BudgetError> {
        yield_now().await;
        self.0.settle(hold, charge).await
    }

    async fn read(&self, accounts: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError> {
        self.0.read(accounts).await
    }
}

/// Takes turns to answer.
#[derive(Debug, Default)]
pub(crate) struct SlowCache(MemoryCache);

#[async_trait]
impl CacheLayer for SlowCache {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        yield_now().await;
        let found = self.0.get(key).await;
        yield_now().await;
        found
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        yield_now().await;
        self.0.set(key, entry).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        self.0.remove(key).await
    }
}

/// Takes turns to rank.
#[derive(Debug)]
pub(crate) struct SlowRouter(pub(crate) CatalogRouter);

#[async_trait]
impl ModelRouter for SlowRouter {
    async fn rank(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
        yield_now().await;
        self.0.rank(ask).await
    }

    fn inner(&self) -> Option<&dyn ModelRouter> {
        Some(&self.0)
    }
}

/// Where a router panics.
#[derive(Debug)]
pub(crate) struct PanickingRouter {
    pub(crate) inner: CatalogRouter,
    pub(crate) in_rank: bool,
}

#[async_trait]
impl ModelRouter for PanickingRouter {
    async fn rank(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
        assert!(!self.in_rank, "it panics on purpose");
        self.inner.rank(ask).await
    }

    fn observe(&self, _: &Observation) {
        panic!("it panics on purpose")
    }

    fn inner(&self) -> Option<&dyn ModelRouter> {
        Some(&self.inner)
    }
}

/// Wants to be told before, and takes turns for it.
#[derive(Debug, Default)]
pub(crate) struct SlowIntents(pub(crate) AtomicU64);

#[async_trait]
impl CostSink for SlowIntents {
    async fn intend(&self, _: &Intent) -> Result<(), SinkError> {
        yield_now().await;
        self.0.fetch_add(1, Ordering::SeqCst);
        yield_now().await;
        Ok(())
    }

    async fn record(&self, _: &[CostRecord]) -> Result<(), SinkError> {
        yield_now().await;
        Ok(())
    }

    fn wants_intents(&self) -> bool {
        true
    }
}

/// Keeps the alerts that it is given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alerts(Arc<std::sync::Mutex<Vec<Alert>>>);

impl Alerts {
    pub(crate) fn taken(&self) -> Vec<Alert> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn kinds(&self) -> Vec<AlertKind> {
        self.0.lock().unwrap().iter().map(Alert::kind).collect()
    }
}

#[async_trait]
impl Notifier for Alerts {
    async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
        self.0.lock().unwrap().push(alert.clone());
        Ok(())
    }
}

/// Takes alerts while it is well, and counts those that it is offered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flaky {
    pub(crate) ill: Arc<AtomicBool>,
    pub(crate) offered: Arc<AtomicU64>,
    pub(crate) taken: Alerts,
}

#[async_trait]
impl Notifier for Flaky {
    async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
        self.offered.fetch_add(1, Ordering::SeqCst);
        if self.ill.load(Ordering::SeqCst) {
            return Err(NotifyError::Busy { retry_after: None });
        }
        self.taken.notify(alert).await
    }
}
