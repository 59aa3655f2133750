//! A service on a simulator, and what must hold when it is at rest.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use together_inference::{
    InferenceRequest, InferenceService, RouteId, Usd,
    cost::{Budget, CostRecord, MemoryBudgets, MemoryCosts, Scope},
    service::ServiceBuilder,
    testing::Together,
    types::SeededRng,
    usd,
};
use tokio::task::JoinHandle;

use crate::books::Books;

pub(crate) const SMALL: &str = "openai/gpt-oss-120b";
pub(crate) const MID: &str = "deepseek-ai/DeepSeek-V4.1-Flash";
pub(crate) const LARGE: &str = "zai-org/GLM-5.3";

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn route(model: &str) -> RouteId {
    RouteId::new("together", model)
}

/// A question whose answer may be cached.
pub(crate) fn ask(question: impl Into<String>) -> InferenceRequest {
    InferenceRequest::chat(question.into()).temperature(0.0)
}

/// One whose answer may not.
pub(crate) fn muse(question: impl Into<String>) -> InferenceRequest {
    InferenceRequest::chat(question.into())
}

/// Answers with these texts by turns: where several answers are asked for, each is another one.
pub(crate) fn in_turn(texts: &'static [&'static str]) -> impl Fn(&serde_json::Value) -> String + Send + Sync {
    let turn = AtomicUsize::new(0);
    move |_| texts[turn.fetch_add(1, Ordering::Relaxed) % texts.len()].to_owned()
}

#[expect(clippy::disallowed_methods, reason = "tests await or abort their tasks")]
pub(crate) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(future)
}

/// Polls a future at most so often, each time when it asks for it, and then drops it.
pub(crate) async fn poll_at_most<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Long enough for what goes on behind an answer.
pub(crate) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// What is spent and what is set aside of the one budget for everything.
pub(crate) async fn used(service: &InferenceService) -> (Usd, Usd) {
    let budgets = service.budgets().remaining(&Scope::Global).await.unwrap();
    (budgets[0].spent, budgets[0].reserved)
}

pub(crate) struct World {
    pub(crate) sim: Together,
    pub(crate) costs: MemoryCosts,
    pub(crate) budgets: Arc<MemoryBudgets>,
    pub(crate) service: InferenceService,
    pub(crate) books: Books,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    pub(crate) fn with(edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> Self {
        let (sim, costs) = (Together::new(), MemoryCosts::new(1_000_000));
        let budgets = Arc::new(MemoryBudgets::new());
        let builder = InferenceService::builder(sim.client())
            .cost_sink(costs.clone())
            .budget(Budget::total(usd!("1000000")).soft())
            .budget_store(Arc::clone(&budgets))
            .rng(Arc::new(SeededRng::new(7)));
        let service = edit(builder).build().unwrap();
        let books = Books::new(&sim, &costs);
        Self { sim, costs, budgets, service, books }
    }

    pub(crate) fn calls(&self) -> u64 {
        self.sim.calls()
    }

    /// Asks in a task of its own.
    pub(crate) fn spawn(
        &self,
        request: InferenceRequest,
    ) -> JoinHandle<Result<together_inference::InferenceResponse, together_inference::service::Error>> {
        spawn(self.service.complete(request))
    }

    /// The records so far, once nothing is under way any more. Fails if anything was leaked, or is not what is billed.
    pub(crate) async fn at_rest(&self) -> Vec<CostRecord> {
        self.nothing_is_left().await;
        self.books.add_up()
    }

    /// The same where the provider's prices are not those of the service.
    pub(crate) async fn at_rest_at_own_prices(&self) -> Vec<CostRecord> {
        self.nothing_is_left().await;
        self.books.add_up_at_own_prices()
    }

    async fn nothing_is_left(&self) {
        settle().await;
        assert!(self.service.flush().await, "the records were not written");
        let health = self.service.health();
        assert_eq!((health.in_flight, health.coalescing), (0, 0), "{health:?}");
        assert_eq!((health.records_waiting, health.records_lost), (0, 0), "{health:?}");
        for route in &health.routes {
            assert_eq!((route.in_flight, route.waiting), (0, 0), "{route:?}");
            assert_eq!(route.dispatched, route.answered + route.failed + route.cancelled, "{route:?}");
        }
        assert_eq!((self.sim.in_flight(), self.sim.open_streams()), (0, 0));
        let records = self.costs.records();
        let (spent, reserved) = used(&self.service).await;
        assert_eq!(reserved, Usd::ZERO, "money is still set aside");
        let charged: Usd = records.iter().map(|record| record.cost.charge()).sum();
        assert_eq!(spent, charged, "the budget and the records do not agree");
        let mut attempts: Vec<_> = records.iter().map(|record| record.attempt).collect();
        attempts.sort_unstable();
        attempts.dedup();
        assert_eq!(attempts.len(), records.len(), "an attempt has two records");
    }
}
