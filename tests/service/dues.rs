//! Money that was spent is settled, however long the budget store is away and however full the recorder is.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use together_inference::{
    InferenceService, SessionId, Usd,
    cost::{
        Account, Balance, Budget, BudgetError, BudgetStore, Charge, Hold, MemoryBudgets, MemoryCosts, Period, Scope,
    },
    testing::Together,
    usd,
};
use tokio::time::sleep;

use super::{
    books::Books,
    doubles::{Fails, Remote},
    sinks::BadSink,
    world::{muse, secs, settle},
};

/// A store outside the process, and whether what it is asked for fails.
#[derive(Clone, Debug, Default)]
struct Away {
    store: Arc<MemoryBudgets>,
    reserves: Arc<AtomicBool>,
    settles: Arc<AtomicBool>,
}

fn unless(fails: &AtomicBool) -> Result<(), BudgetError> {
    if fails.load(Ordering::SeqCst) { Err(BudgetError::Store("away".into())) } else { Ok(()) }
}

#[async_trait]
impl BudgetStore for Away {
    async fn reserve(&self, hold: &Arc<Hold>) -> Result<(), BudgetError> {
        unless(&self.reserves)?;
        self.store.reserve(hold).await
    }

    async fn settle(&self, hold: &Arc<Hold>, charge: Charge) -> Result<Vec<Balance>, BudgetError> {
        unless(&self.settles)?;
        self.store.settle(hold, charge).await
    }

    async fn read(&self, accounts: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError> {
        self.store.read(accounts).await
    }
}

async fn used(service: &InferenceService, scope: &Scope) -> (Usd, Usd) {
    let budgets = service.budgets().remaining(scope).await.unwrap();
    (budgets[0].spent, budgets[0].reserved)
}

#[tokio::test(start_paused = true)]
async fn what_a_session_has_spent_is_counted_when_the_store_is_back_long_after_the_reservation_ended() {
    let (sim, away, costs) = (Together::new(), Away::default(), MemoryCosts::new(10));
    let books = Books::new(&sim, &costs);
    let service = InferenceService::builder(sim.client())
        .budget(Budget::per_session(usd!("1")).hard())
        .cost_sink(costs)
        .budget_store(away.clone())
        .build()
        .unwrap();
    let session = Scope::Session(SessionId::from("run-1"));
    away.settles.store(true, Ordering::SeqCst);
    let reply = service.complete(muse("why?").session("run-1")).await.unwrap();
    sleep(secs(3_600)).await;
    assert_eq!(used(&service, &session).await.0, Usd::ZERO, "it has returned meanwhile");
    away.settles.store(false, Ordering::SeqCst);
    sleep(secs(31)).await;
    assert_eq!(used(&service, &session).await, (reply.cost().known().unwrap(), Usd::ZERO));
    assert!(service.flush().await);
    books.add_up();
}

#[tokio::test(start_paused = true)]
async fn records_do_not_wait_for_a_store_that_is_away() {
    // Scenario: more calls than the recorder has places, first under a soft budget whose store is away altogether, then
    // under a hard one whose store takes reservations and settles none.
    // Expected: every record is taken.
    for (soft, reserves) in [(true, true), (false, false)] {
        let (sim, away, costs) = (Together::new(), Away::default(), MemoryCosts::new(10_000));
        away.settles.store(true, Ordering::SeqCst);
        away.reserves.store(reserves, Ordering::SeqCst);
        let (books, budget) = (Books::new(&sim, &costs), Budget::daily(usd!("1000000")));
        let service = InferenceService::builder(sim.client())
            .budget(if soft { budget.soft() } else { budget.hard() })
            .budget_store(away.clone())
            .cost_sink(costs.clone())
            .build()
            .unwrap();
        for _ in 0..5_000 {
            service.complete(muse("why?").max_tokens(1)).await.unwrap();
        }
        settle().await;
        assert_eq!((costs.records().len(), service.health().records_lost), (5_000, 0));
        if soft {
            assert!(service.flush().await, "what was not set aside is not to be settled");
        } else {
            away.settles.store(false, Ordering::SeqCst);
            // Sixteen at a time, each half a minute after its last offer.
            sleep(secs(60)).await;
            assert!(service.flush().await);
            let spent: Usd = costs.records().iter().map(|record| record.cost.charge()).sum();
            assert_eq!(used(&service, &Scope::Global).await, (spent, Usd::ZERO));
        }
        books.add_up();
    }
}

#[tokio::test(start_paused = true)]
async fn money_is_settled_where_the_recorder_has_no_place_for_its_record() {
    let (sim, store) = (Together::new(), Arc::new(MemoryBudgets::new()));
    let service = InferenceService::builder(sim.client())
        .cost_sink(BadSink(Fails::Hangs, Arc::default()))
        .budget(Budget::daily(usd!("1000000")).per_tenant().hard())
        .budget_store(Remote(store))
        .build()
        .unwrap();
    while service.health().records_lost == 0 {
        service.complete(muse("why?").tenant("first").max_tokens(1)).await.unwrap();
    }
    let reply = service.complete(muse("why?").tenant("late").max_tokens(1)).await.unwrap();
    settle().await;
    assert_eq!(service.costs().known.nanos(), sim.bill().nano_usd, "what has no record is counted");
    assert_eq!(service.health().records_lost, 2, "its record found no place");
    assert_eq!(used(&service, &Scope::tenant("late")).await, (reply.cost().known().unwrap(), Usd::ZERO));
}
