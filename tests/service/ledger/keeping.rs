//! How long records are kept, whoever uses the store.

use std::time::SystemTime;

use together_inference::cost::{CostSink, Ledger};

use super::{Home, audit, secs, sums::record};

const DAY: u64 = 86_400;

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the ledger prunes by the machine's clock")]
async fn what_a_store_is_to_keep_is_kept_by_those_who_ask_for_nothing_until_somebody_says_otherwise() {
    for home in Home::each().await {
        let mut old = record(1);
        old.at = SystemTime::now() - secs(200 * DAY);
        {
            let ledger = Ledger::keep_records(&home.store().await, secs(365 * DAY));
            CostSink::record(&ledger, std::slice::from_ref(&old)).await.unwrap();
        }
        // Processes that know of no year, and a report beside one that does.
        for _ in 0..2 {
            let store = home.store().await;
            let (ledger, _beside) = (Ledger::new(&store), Ledger::new(&store));
            assert_eq!(audit(&ledger).await.len(), 1, "{}", home.kind());
        }
        let ledger = Ledger::keep_records(&home.store().await, secs(30 * DAY));
        let all = super::always();
        while !ledger.records(all.clone()).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
