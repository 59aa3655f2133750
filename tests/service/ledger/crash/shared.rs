//! The budget that children share, where their store is a server: what they spent is charged once, and what they had set
//! aside when they were killed is spent at its bound when its time is over.

use together_inference::{
    cost::{Budget, PostgresBudgets},
    service::ServiceBuilder,
    store::Store,
    testing::Together,
    usd,
};
use tokio::time::Instant;

use super::super::{Home, muse, secs, service};

/// Of all budgets on the server.
pub(crate) const SPENT: &str = "SELECT coalesce(sum(spent), 0)::BIGINT FROM budget_slot";
pub(crate) const RESERVED: &str = "SELECT coalesce(sum(reserved), 0)::BIGINT FROM budget_slot";
pub(crate) const CALLS: &str = "SELECT coalesce(sum(calls), 0)::BIGINT FROM budget_slot";
pub(crate) const OPEN: &str = "SELECT coalesce(sum(amount), 0)::BIGINT FROM budget_hold WHERE NOT expired";

/// Adds the budget; none in a file, where no other process could share it.
pub(crate) fn shared(store: &Store, builder: ServiceBuilder) -> ServiceBuilder {
    let Ok(budgets) = PostgresBudgets::new(store) else { return builder };
    builder.budget(Budget::total(usd!("1000")).hard()).budget_store(budgets)
}

/// What holds of the budget when all who spent are gone, killed or not, and of the ledger beside it, which may be without
/// some of the attempts unless it is whole.
pub(super) async fn is_charged_once(home: &Home, together: &Together, is_whole: bool, case: &str) {
    if !matches!(home, Home::Database(_)) {
        return;
    }
    are_gone(home).await;
    let (bill, spent, open) = (together.bill(), home.count(SPENT).await, home.count(OPEN).await);
    assert_eq!(home.count(RESERVED).await, open, "{case}: more is set aside than is under way, or less");
    assert!(spent <= bill.nano_usd, "{case}: {spent} are charged, and {} billed", bill.nano_usd);
    assert!(bill.nano_usd <= spent + open, "{case}: {spent} and {open} do not cover {}", bill.nano_usd);
    let calls = home.count(CALLS).await;
    let most = bill.calls as i64 + i64::from(open > 0);
    assert!((bill.calls as i64..=most).contains(&calls), "{case}: {calls} of {}", bill.calls);

    // Attempt by attempt: what is settled in both is the same, and so is the bound of what is in neither.
    let elsewhere = "attempt NOT IN (SELECT attempt FROM budget_hold)";
    let known = format!("SELECT coalesce(sum(cost), 0)::BIGINT FROM cost_record WHERE cost_exact AND {elsewhere}");
    let lost = format!("SELECT count(*) FROM cost_record WHERE NOT cost_exact AND {elsewhere}");
    let (known, lost) = (home.count(&known).await, home.count(&lost).await);
    assert!(known <= spent, "{case}: {known} are recorded, and {spent} charged");
    assert!(known == spent || lost > 0 || !is_whole, "{case}: {spent} are charged, and {known} recorded");
    let apart =
        "SELECT count(*) FROM cost_record JOIN budget_hold USING (attempt) WHERE NOT cost_exact AND cost <> amount";
    assert_eq!(home.count(apart).await, 0, "{case}: ledger and budget bound an attempt differently");

    // Time passes, and another process goes on.
    home.execute("UPDATE budget_hold SET ends = clock_timestamp()").await;
    let store = home.store().await;
    let next = service(together, |builder| shared(&store, builder));
    next.complete(muse("and then?")).await.unwrap();
    assert_eq!(next.shutdown(secs(10)).await.cancelled, 0);
    let cost = together.bill().nano_usd - bill.nano_usd;
    assert_eq!(home.count(SPENT).await, spent + open + cost, "{case}: what nobody settled is not spent at its bound");
    assert_eq!((home.count(RESERVED).await, home.count(OPEN).await), (0, 0), "{case}: it stays set aside");
}

/// Waits until the server has seen that those are gone who were killed: it may still do what they asked last.
async fn are_gone(home: &Home) {
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let until = Instant::now() + secs(60);
    while home.count(others).await > 0 {
        assert!(Instant::now() < until, "somebody is still connected");
        tokio::task::yield_now().await;
    }
}
