//! Policies that a stranger could have written, from public items alone: each keeps its trait's promises, and a service
//! made of all of them answers.

mod budget;
mod cache;
mod notify;
mod queue;
mod router;
mod sink;

use std::{sync::Arc, time::Duration};

use together_inference::{
    InferenceRequest, InferenceResponse, InferenceService, RouteId, Tier,
    cost::{Budget, BudgetStore, Scope},
    inference::Infer,
    router::CatalogRouter,
    testing::{
        self, Together,
        conformance::{self, CacheProfile, Failure, Pace},
    },
    types::{BoxError, Clock, ManualClock},
    usd,
};

use crate::{
    budget::Accounts, cache::Bytes, notify::Inbox, queue::ListQueue, router::ByPlan, router::OnlyOne, sink::Lines,
};

const TOKIO: Pace<'static> = &|time| Box::pin(tokio::time::advance(time));

#[tokio::test(start_paused = true)]
async fn a_wrapper_and_a_router_from_scratch_keep_the_promises() -> Result<(), Failure> {
    conformance::model_router(&ByPlan(CatalogRouter::builtin())).await?;
    conformance::model_router(&OnlyOne(RouteId::new("together", "zai-org/GLM-5.3"))).await
}

#[tokio::test(start_paused = true)]
async fn a_cache_of_bytes_keeps_the_promises() -> Result<(), Failure> {
    let clock = Arc::new(ManualClock::new(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
    let moved = Arc::clone(&clock);
    // Bytes carry wall time: both clocks move.
    let pace = move |time| -> _ {
        moved.advance(time);
        Box::pin(tokio::time::advance(time)) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
    };
    conformance::cache_layer(&Bytes::new(clock), CacheProfile::Keeps, &pace).await
}

#[tokio::test(start_paused = true)]
async fn a_sink_of_lines_keeps_the_promises() -> Result<(), Failure> {
    let lines = Lines::default();
    conformance::cost_sink(&lines, &|| lines.records()).await
}

#[tokio::test(start_paused = true)]
async fn an_inbox_keeps_the_promises_of_a_notifier() -> Result<(), Failure> {
    let inbox = Inbox::default();
    conformance::notifier(&inbox, &|| inbox.texts()).await
}

#[tokio::test(start_paused = true)]
async fn a_store_of_accounts_keeps_the_promises_of_budgets() -> Result<(), Failure> {
    conformance::budget_store(&Accounts::default(), TOKIO).await
}

#[tokio::test(start_paused = true)]
async fn a_list_keeps_the_promises_of_a_queue() -> Result<(), Failure> {
    conformance::event_queue(&ListQueue::default(), TOKIO).await
}

#[tokio::test(start_paused = true)]
async fn a_service_of_nothing_but_strangers_policies_answers() {
    let together = Together::new();
    together.on("refund").reply("5 days");
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(std::time::SystemTime::UNIX_EPOCH));
    let (lines, accounts) = (Arc::new(Lines::default()), Arc::new(Accounts::default()));
    let service = InferenceService::builder(together.client())
        .router(ByPlan(CatalogRouter::builtin()))
        .cache(Bytes::new(Arc::clone(&clock)))
        .cost_sink(Arc::clone(&lines))
        .budget(Budget::total(usd!("1")))
        .budget_store(Arc::clone(&accounts) as Arc<dyn BudgetStore>)
        .notifier(Inbox::default())
        .clock(clock)
        .build()
        .unwrap();

    let question = || InferenceRequest::chat("How long does a refund take?").temperature(0.0).tag("plan", "free");
    let (first, second) = (service.complete(question()).await.unwrap(), service.complete(question()).await.unwrap());
    assert_eq!((first.text(), second.text()), ("5 days", "5 days"));
    assert!(first.source().is_upstream() && !second.source().is_upstream());
    assert_eq!(first.decision().tier, Tier::Small);
    assert_eq!(together.calls(), 1);

    service.shutdown(Duration::from_secs(5)).await;
    let spent = first.cost().known().unwrap();
    assert_eq!(lines.records().iter().filter_map(|record| record.cost_usd()).sum::<together_inference::Usd>(), spent);
    assert_eq!(service.budgets().remaining(&Scope::Global).await.unwrap()[0].spent, spent);
    assert_eq!(spent.nanos(), together.bill().nano_usd);
}

/// Asks nobody.
#[derive(Debug)]
struct Kind;

#[together_inference::async_trait]
impl Infer for Kind {
    async fn infer(&self, _: InferenceRequest) -> Result<InferenceResponse, BoxError> {
        Ok(testing::reply("5/5"))
    }
}

#[tokio::test]
async fn a_stand_in_for_the_service_answers() {
    let judge: Arc<dyn Infer> = Arc::new(Kind);
    assert_eq!(judge.infer(InferenceRequest::chat("How good is this?")).await.unwrap().text(), "5/5");
}
