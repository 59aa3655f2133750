//! The ledger on real files and servers: nothing lost, nothing counted twice, whatever happens to the process or the disk.
//!
//! A file's time is real, so these tests run without a paused clock; none of them waits for a certain time. They run on
//! each kind of store that is compiled in.

#[cfg(feature = "postgres")]
mod budgets;
pub(crate) mod crash;
#[cfg(feature = "sqlite")]
mod files;
#[cfg(all(target_os = "linux", feature = "sqlite"))]
mod flushes;
#[cfg(feature = "postgres")]
mod full;
pub(crate) mod home;
mod keeping;
#[cfg(feature = "postgres")]
mod postgres;
mod seeds;
#[cfg(feature = "postgres")]
pub(crate) mod server;
mod sums;
mod zones;

use std::time::SystemTime;

use together_inference::{
    InferenceService, TogetherClient, Usd,
    cost::{CostRecord, CostSink, Durability, Ledger, ReportQuery, Sums},
    service::ServiceBuilder,
    testing::{Fault, Together, conformance},
};

use self::home::{Home, open};
use super::{
    doubles::Quarters,
    world::{ask, muse, secs, spawn},
};

/// All of time.
pub(crate) fn always() -> std::ops::Range<SystemTime> {
    SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH + secs(100 * 365 * 86_400)
}

pub(super) fn sums(records: &[CostRecord]) -> Sums {
    let mut sums = Sums::default();
    records.iter().for_each(|record| sums.add(record));
    (sums.usage.pixels, sums.usage.seconds) = (0, 0);
    sums
}

/// That records, both kinds of roll-ups and the table are the same money; the records, then.
pub(super) async fn audit(ledger: &Ledger) -> Vec<CostRecord> {
    // Chores that were begun when it was opened are done before.
    CostSink::flush(ledger).await.unwrap();
    let records = ledger.records(always()).await.unwrap();
    let counted = sums(&records);
    let by_days = ledger.report(&ReportQuery::new(always())).await.unwrap();
    let by_hours = ledger.report(&ReportQuery::new(always()).by(together_inference::cost::By::Hour)).await.unwrap();
    assert_eq!((by_days.total, by_hours.total), (counted, counted), "the sums are not those of the records");
    let mut attempts: Vec<_> = records.iter().map(|record| record.attempt).collect();
    attempts.sort_unstable();
    attempts.dedup();
    assert_eq!(attempts.len(), records.len(), "an attempt has two records");
    records
}

pub(super) fn service(together: &Together, edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> InferenceService {
    edit(InferenceService::builder(together.client())).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_a_sink_promises() {
    for durability in [Durability::Strict, Durability::Standard, Durability::Memory] {
        for home in Home::each().await {
            let ledger = home.ledger().await.durability(durability);
            let kept = ledger.clone();
            let recorded = move || {
                let read = kept.records(always());
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(read)).unwrap()
            };
            conformance::cost_sink(&ledger, &recorded).await.unwrap();
        }
    }
}

#[tokio::test]
async fn it_is_the_providers_bill_to_the_nano_dollar() {
    for home in Home::each().await {
        let together = Together::new();
        let ledger = home.ledger().await;
        let service = service(&together, |builder| builder.cost_sink(ledger.clone()).tokenizer(Quarters));
        service.refresh_catalogue().await; // some prices are in the lists alone
        together.fail_next(2, Fault::status(503));
        for round in 0..20 {
            service.complete(ask(format!("question {}", round % 7)).tenant("acme").tag("round", "a")).await.unwrap();
            service.complete(muse(format!("muse {round}"))).await.unwrap();
            service.embed(format!("text {}", round % 5)).await.unwrap();
        }
        service.shutdown(secs(10)).await;
        let (records, bill) = (audit(&ledger).await, together.bill());
        let known: Usd = records.iter().filter_map(|record| record.cost.known()).sum();
        assert_eq!(known.nanos(), bill.nano_usd);
        let spend = ledger.report(&ReportQuery::new(always())).await.unwrap().total;
        assert_eq!((spend.known.nanos(), spend.unknown), (bill.nano_usd, Usd::ZERO));
        assert_eq!(
            (spend.failed, spend.hits),
            (2, 13 + 15),
            "the rest of the questions and texts came out of the cache"
        );
        assert!(spend.saved > Usd::ZERO);
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_the_service_is_gone() {
    for home in Home::each().await {
        let together = Together::new();
        {
            let store = home.store().await;
            let service = service(&together, |builder| builder.store(&store));
            service.complete(muse("why?").tenant("acme").session("s")).await.unwrap();
            service.shutdown(secs(10)).await;
        }
        let records = audit(&home.ledger().await).await;
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].tenant.clone(), records[0].price_version), (Some("acme".into()), Some(1)));
        assert_eq!(records[0].cost.charge().nanos(), together.bill().nano_usd);
    }
}

#[tokio::test]
async fn what_was_never_sent_is_nowhere_in_the_ledger() {
    for home in Home::each().await {
        for durability in [Durability::Strict, Durability::Standard] {
            let ledger = home.ledger().await.durability(durability);
            // Nobody listens there.
            let client = TogetherClient::builder().base_url("http://127.0.0.1:1").api_key("key").build().unwrap();
            let service = InferenceService::builder(client).cost_sink(ledger.clone()).build().unwrap();
            for _ in 0..5 {
                service.complete(muse("why?")).await.unwrap_err();
            }
            service.shutdown(secs(10)).await;
        }
        // Whoever opens it next takes over what is open.
        let ledger = home.ledger().await;
        assert!(audit(&ledger).await.is_empty());
        assert_eq!(ledger.report(&ReportQuery::new(always())).await.unwrap().total, Sums::default());
    }
}

#[tokio::test]
async fn a_cancelled_call_is_at_its_upper_bound_until_more_is_known() {
    for home in Home::each().await {
        let together = Together::new();
        let ledger = home.ledger().await;
        let service = service(&together, |builder| builder.cost_sink(ledger.clone()));
        together.hang();
        let call = spawn(service.complete(muse("why?")));
        while together.calls() == 0 {
            tokio::task::yield_now().await;
        }
        call.abort();
        let _ = call.await;
        service.shutdown(secs(10)).await;
        let total = sums(&audit(&ledger).await);
        assert_eq!((total.attempts, total.cancelled, total.unknowns), (1, 1, 1));
        assert!(total.unknown > Usd::ZERO);
    }
}
