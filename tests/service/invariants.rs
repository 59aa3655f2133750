//! What holds of money at every moment, whatever happens and wherever it is kept.
//!
//! Nothing may go on between the looks at two places, so each check first waits until nothing is on its way from one to
//! the other, and then looks at all of them without letting anybody else run, where they are in this process.

use std::collections::HashSet;

use together_inference::{
    InferenceService, Usd,
    cost::{CostRecord, MemoryCosts, Scope},
    testing::Together,
    types::{Task, UsageSource},
};

/// Whose budgets are hard, and which are there for counting alone.
pub(crate) struct Money<'a> {
    pub(crate) sim: &'a Together,
    pub(crate) costs: &'a MemoryCosts,
    pub(crate) service: &'a InferenceService,
    /// Those of hard budgets. The one for everything is soft and larger than all that is spent.
    pub(crate) hard: &'a [Scope],
}

/// Whether the tokens are the provider's word: those of texts for vectors are counted as the simulator does.
fn is_told(record: &CostRecord) -> bool {
    record.usage_source == UsageSource::Reported || record.task == Task::Embedding
}

impl Money<'_> {
    /// Fails if money is anywhere that it may not be; the records so far.
    pub(crate) async fn check(&self) -> Vec<CostRecord> {
        let records = self.is_handed_over().await;
        let totals = self.service.costs();
        let health = self.service.health();
        let bill = self.sim.bill();
        let all = self.service.budgets().remaining(&Scope::Global).await.unwrap().remove(0);

        // Every attempt that was sent has one record, or will have it.
        let attempts = records.iter().filter(|record| record.ending.is_attempt());
        let names: HashSet<_> = attempts.clone().map(|record| record.attempt).collect();
        assert_eq!(names.len(), attempts.clone().count(), "an attempt is recorded twice");
        let sent: u64 = health.routes.iter().map(|route| route.dispatched).sum();
        let under_way: u64 = health.routes.iter().map(|route| route.in_flight as u64).sum();
        let ended: u64 = health.routes.iter().map(|route| route.answered + route.failed + route.cancelled).sum();
        let recorded = names.len() as u64;
        // One that never left this machine ends without a record.
        assert!(recorded <= ended && ended <= sent, "{recorded} recorded and {ended} ended of {sent}");
        assert!(sent <= ended + under_way, "{ended} of {sent} ended, {under_way} are under way");
        assert!(bill.calls <= recorded + under_way, "{} billed, {recorded} recorded", bill.calls);

        // The same money by records, by counters, by the budget for everything, to the nano-dollar.
        let sum = |of: fn(&CostRecord) -> bool| -> Usd {
            records.iter().filter(|record| of(record)).map(|record| record.cost.charge()).sum()
        };
        let (known, charged) = (sum(|record| record.cost.known().is_some()), sum(|_| true));
        assert_eq!((totals.known, totals.unknown_at_most), (known, charged - known));
        assert_eq!(all.spent, charged, "the budget and the records do not agree");

        // No more than the provider bills, by what it told; no less, together with what may still come.
        let told = sum(|record| record.cost.known().is_some() && is_told(record));
        let billed = bill.nano_usd;
        assert!(told.nanos() <= billed, "{told} are recorded, and {billed} nano-dollars billed");
        let is_counted = |record: &CostRecord| record.usage_source == UsageSource::Counted && !is_told(record);
        if !records.iter().any(is_counted) {
            let at_most = (all.spent + all.reserved).nanos();
            assert!(billed <= at_most, "{billed} nano-dollars are billed, and {at_most} spent or set aside");
        }

        assert!(all.spent >= Usd::ZERO && all.reserved >= Usd::ZERO, "{all:?}");
        for scope in self.hard {
            for budget in self.service.budgets().remaining(scope).await.unwrap() {
                assert!(budget.spent >= Usd::ZERO && budget.reserved >= Usd::ZERO, "{budget:?}");
                assert!(!budget.hard || budget.left() >= Usd::ZERO, "overdrawn: {budget:?}");
                let is_within = budget.max_calls.is_none_or(|most| budget.calls <= most);
                assert!(!budget.hard || is_within, "one call too many: {budget:?}");
            }
        }
        records
    }

    /// Waits until no record is on its way: what the counters have, the records have as well.
    async fn is_handed_over(&self) -> Vec<CostRecord> {
        let mut records = Vec::new();
        for _ in 0..100 {
            assert!(self.service.flush().await, "the records were not written");
            records = self.costs.records();
            let attempts = records.iter().filter(|record| record.ending.is_attempt()).count();
            if attempts as u64 == self.service.costs().attempts {
                return records;
            }
        }
        panic!("the counters and the records do not agree: {:?} {records:?}", self.service.costs());
    }
}
