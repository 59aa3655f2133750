use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use super::*;
use crate::cost::{FanOut, MemoryCosts, SinkError, TracingCosts};

#[tokio::test(start_paused = true)]
async fn the_shipped_sinks_keep_every_promise_behind_every_pointer() {
    let costs = MemoryCosts::default();
    cost_sink(&costs, &|| costs.records()).await.unwrap();
    let costs = MemoryCosts::default();
    let shared: Arc<dyn CostSink> = Arc::new(costs.clone());
    cost_sink(&shared, &|| costs.records()).await.unwrap();
    let (costs, other) = (MemoryCosts::default(), MemoryCosts::default());
    let sinks: Vec<Arc<dyn CostSink>> = vec![Arc::new(TracingCosts), Arc::new(costs.clone()), Arc::new(other.clone())];
    let boxed: Box<dyn CostSink> = Box::new(FanOut::new(sinks));
    cost_sink(&*boxed, &|| costs.records()).await.unwrap();
    assert_eq!(costs.records(), other.records());
}

#[tokio::test]
async fn the_memory_sink_keeps_the_latest_and_no_more() {
    let mut on = On { sink: &TracingCosts, recorded: &Vec::new, promise: Promise(""), wanted: Vec::new(), requests: 0 };
    let page = on.page(7);
    for (most, kept) in [(0, 0), (1, 1), (5, 5), (9, 7)] {
        let costs = MemoryCosts::new(most);
        costs.record(&page[..4]).await.unwrap();
        costs.record(&page[4..]).await.unwrap();
        assert_eq!(costs.records(), page[7 - kept..]);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    Reverses,
    ForgetsTags,
    RoundsCosts,
    RefusesNothing,
    MarksEmptyPages,
    CountsTwice,
    KnowsTheLastPageAlone,
    RefusesWhatItHas,
    OneARequest,
    RefusesIntents,
    RecordsIntents,
    CutsPages,
    LosesUpdates,
    HalfIsWhole,
    Hangs,
    Panics,
}

/// Keeps records, with one fault.
#[derive(Debug)]
struct Broken {
    fault: Fault,
    records: Mutex<Vec<CostRecord>>,
    seen: Mutex<HashSet<AttemptId>>,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        Self { fault, records: Mutex::default(), seen: Mutex::default() }
    }

    fn records(&self) -> Vec<CostRecord> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_new(&self, kept: &[CostRecord], record: &CostRecord, page: usize) -> bool {
        match self.fault {
            Fault::CountsTwice => true,
            Fault::OneARequest => kept.iter().all(|other| other.request != record.request),
            Fault::KnowsTheLastPageAlone => kept.iter().rev().take(page).all(|other| other.attempt != record.attempt),
            Fault::HalfIsWhole => self.seen.lock().unwrap().insert(record.attempt),
            _ => kept.iter().all(|other| other.attempt != record.attempt),
        }
    }

    fn spoiled(&self, mut record: CostRecord) -> CostRecord {
        match self.fault {
            Fault::ForgetsTags => record.tags.truncate(2),
            Fault::RoundsCosts => {
                record.cost = record
                    .cost
                    .known()
                    .map_or(record.cost, |usd| Cost::Known(Usd::from_nanos(usd.nanos() / 1_000 * 1_000)));
            }
            _ => {}
        }
        record
    }
}

#[async_trait]
impl CostSink for Broken {
    async fn intend(&self, intent: &Intent) -> Result<(), SinkError> {
        match self.fault {
            Fault::RefusesIntents => Err(SinkError::new("not here")),
            Fault::RecordsIntents => self.record(std::slice::from_ref(&intent.record)).await,
            _ => Ok(()),
        }
    }

    async fn record(&self, page: &[CostRecord]) -> Result<(), SinkError> {
        let mut kept = self.records();
        let page = if self.fault == Fault::CutsPages { &page[..page.len().min(500)] } else { page };
        let mut new = Vec::new();
        for record in page {
            if self.is_new(&[&*kept, &*new].concat(), record, page.len()) {
                new.push(self.spoiled(record.clone()));
            }
        }
        match self.fault {
            Fault::RefusesNothing if page.is_empty() => return Err(SinkError::new("an empty page")),
            Fault::MarksEmptyPages if page.is_empty() => new.extend(kept.last().cloned()),
            Fault::RefusesWhatItHas if new.is_empty() && !page.is_empty() => return Err(SinkError::new("a duplicate")),
            Fault::Hangs => std::future::pending().await,
            Fault::Panics if page.iter().any(|record| record.cost == Cost::Unpriced) => panic!("no price"),
            Fault::Reverses => new.reverse(),
            _ => {}
        }
        if matches!(self.fault, Fault::LosesUpdates | Fault::HalfIsWhole) {
            tokio::task::yield_now().await;
        }
        if self.fault == Fault::LosesUpdates {
            kept.extend(new);
            *self.records.lock().unwrap() = kept;
        } else {
            self.records.lock().unwrap().extend(new);
        }
        Ok(())
    }
}

async fn check(sink: &Broken) -> Result<(), Failure> {
    cost_sink(sink, &|| sink.records()).await
}

#[tokio::test(start_paused = true)]
async fn the_base_of_the_broken_ones_is_whole_itself() {
    check(&Broken::new(Fault::None)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_broken_sink_fails_at_the_promise_that_it_breaks() {
    for (fault, promise) in [
        (Fault::Reverses, "a page is taken whole"),
        (Fault::ForgetsTags, "a page is taken whole"),
        (Fault::RoundsCosts, "a page is taken whole"),
        (Fault::Hangs, "a page is taken whole"),
        (Fault::Panics, "a page is taken whole"),
        (Fault::RefusesNothing, "an empty page"),
        (Fault::MarksEmptyPages, "an empty page"),
        (Fault::CountsTwice, "a record that comes again"),
        (Fault::KnowsTheLastPageAlone, "a record that comes again"),
        (Fault::RefusesWhatItHas, "a record that comes again"),
        (Fault::OneARequest, "each attempt"),
        (Fault::RefusesIntents, "an intent"),
        (Fault::RecordsIntents, "an intent"),
        (Fault::CutsPages, "a page of any size"),
        (Fault::HalfIsWhole, "a page that was given up"),
        (Fault::LosesUpdates, "pages at the same time"),
    ] {
        let failure = check(&Broken::new(fault)).await.expect_err(&format!("{fault:?}"));
        assert!(failure.promise.starts_with(promise), "{fault:?}: {failure}");
    }
}
