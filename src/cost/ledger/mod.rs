//! A ledger that loses nothing: every attempt is written before it is made and settled after, in a
//! [`Store`].
//!
//! An attempt is written down before it is dispatched. When it ends, its record takes that place, in one transaction with
//! the sums by hour and by day. If the process ends first, the attempt stays open; whoever opens the store next finds
//! that its process is gone, and closes it as [lost](super::Ending::Lost), at its upper bound. A record that comes after all,
//! from a process that was only paused, replaces that bound. An attempt is never counted twice, however often its record
//! comes.
//!
//! # Why both records and sums
//!
//! A month of a million records takes seconds to add up, from the sums of its days milliseconds. Sums alone could not be
//! checked. They are written in one transaction and can be [made anew](Ledger::rebuild) from the records.

mod anew;
mod books;
mod export;
mod keeping;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
mod query;
mod report;
mod rollups;
mod row;
mod source;
#[cfg(feature = "sqlite")]
mod sqlite;
mod sums;
mod zone;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use self::{
    books::Books,
    source::Order,
    zone::{Zone, micros_of},
};
pub use self::{
    export::Format,
    query::{By, ReportQuery},
    report::{Basis, Report, ReportRow},
    sums::Sums,
};
use super::{CostRecord, CostSink, Intent, SinkError};
use crate::{
    store::{Durable, Store, StoreError, reach},
    types::AttemptId,
};

/// When the disk must have what the ledger is told, and so how much may be lost.
///
/// | [`Durability`] | a crash of the process | a loss of power |
/// |---|---|---|
/// | `Strict` | nothing | nothing; a disk that is full or fails stops paid calls |
/// | `Standard` | nothing that was dispatched more than a moment ago | the last second; calls go on where the disk fails, with an alert |
/// | `Memory` | attempts under way, and records of the last moment | the same and the last second |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Before an attempt is dispatched, and before its record counts as taken.
    Strict,
    /// Within a second. An attempt does not wait for it.
    #[default]
    Standard,
    /// Within a second, records alone: attempts are not written before they are made.
    Memory,
}

/// Writes cost records into a [`Store`], and answers what they come to.
///
/// It is a [`CostSink`]: `ServiceBuilder::store` adds one with these defaults, `cost_sink` takes one of your own. Clones
/// share the store.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::{Duration, SystemTime};
/// use together_inference::{
///     InferenceService,
///     cost::{By, Durability, Ledger, ReportQuery},
///     store::Store,
///     testing::Together,
/// };
///
/// # let folder = std::env::temp_dir().join(format!("together-inference-ledger-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let ledger = Ledger::new(&Store::open(folder.join("inference.db")).await?).durability(Durability::Strict);
/// let together = Together::new();
/// let service = InferenceService::builder(together.client()).cost_sink(ledger.clone()).build()?;
/// service.complete("Why is the sky blue?").await?;
/// service.shutdown(Duration::from_secs(10)).await;
///
/// let report = ledger.report(&ReportQuery::last_days(30).by(By::Model)).await?;
/// println!("{report}");
/// assert_eq!(report.total.known.nanos(), together.bill().nano_usd);
/// # drop((service, ledger));
/// # std::fs::remove_dir_all(folder)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Ledger {
    store: Store,
    durability: Durability,
    books: Arc<Books>,
    missed: Arc<AtomicU64>,
}

impl Ledger {
    /// Keeps records for 90 days and the sums of hours for 400, unless [`keep_records`](Self::keep_records) says or has
    /// said otherwise, here or in another process; those of days for good.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        Self::kept(store, None)
    }

    /// The same, and has the store keep records for another time, rounded up to whole days (UTC): for good, whoever uses
    /// it, until somebody says otherwise. While several ledgers of a process ask for one, the longest holds.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use together_inference::{cost::Ledger, store::Store};
    ///
    /// # let folder = std::env::temp_dir().join(format!("together-inference-kept-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// let year = Duration::from_secs(365 * 86_400);
    /// let ledger = Ledger::keep_records(&Store::open(folder.join("inference.db")).await?, year);
    /// # drop(ledger);
    /// # std::fs::remove_dir_all(folder)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn keep_records(store: &Store, time: Duration) -> Self {
        Self::kept(store, Some(time))
    }

    fn kept(store: &Store, keep: Option<Duration>) -> Self {
        let books = Arc::new(Books::open(store, keep));
        Self { store: store.clone(), durability: Durability::default(), books, missed: Arc::default() }
    }

    /// Sets when the disk must have what the ledger is told.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Attempts that were dispatched without being written first, because too much waited to be written or the store
    /// refused: only where the durability is [`Standard`](Durability::Standard). Their records follow; a crash before that loses them.
    #[must_use]
    pub fn missed_intents(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// What records come to, from the quickest source that is exact.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the store cannot be read, or the query's time zone is not known.
    pub async fn report(&self, query: &ReportQuery) -> Result<Report, StoreError> {
        let query = query.clone();
        self.books.read(move |source| report::of(source, &query)).await
    }

    /// Every record of that time that has ended, in the order in which they were written, all in memory: for the tests of
    /// an application. See [`export`](Self::export) for many.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the store cannot be read.
    pub async fn records(&self, range: Range<SystemTime>) -> Result<Vec<CostRecord>, StoreError> {
        let range = (micros_of(range.start), micros_of(range.end));
        self.books
            .read(move |source| {
                let mut records = Vec::new();
                source.each(Order::Written, range, &mut |record| {
                    records.push(record);
                    Ok(())
                })?;
                Ok(records)
            })
            .await
    }

    /// Makes the sums of hours and days anew from the records, with days that begin in this time zone (its name in the
    /// IANA's database; UTC is a new store's). Where the records are gone, days come from the sums of hours; where those are
    /// gone too, they stay as they are, and a report that reaches back to them [says so](Report::complete_since). Nothing
    /// is written meanwhile, which takes about five seconds for a million records.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the store cannot be written, or the time zone is not known.
    pub async fn rebuild(&self, zone: &str) -> Result<(), StoreError> {
        let zone = Zone::named(zone).ok_or_else(|| report::no_such_zone(self.books.name(), zone))?;
        self.books.rebuild(zone).await
    }

    async fn write_intent(&self, intent: &Intent) -> Result<(), SinkError> {
        match self.durability {
            Durability::Memory => Ok(()),
            Durability::Strict => self.books.intend(&intent.record).await.map_err(SinkError::new),
            Durability::Standard => {
                self.books.intend_later(&intent.record, &self.missed);
                Ok(())
            }
        }
    }

    const fn when(&self) -> Durable {
        match self.durability {
            Durability::Strict => Durable::Now,
            Durability::Standard | Durability::Memory => Durable::Soon,
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl CostSink for Ledger {
    async fn intend(&self, intent: &Intent) -> Result<(), SinkError> {
        reach("ledger: an attempt is about to be made");
        let intended = self.write_intent(intent).await;
        reach("ledger: an attempt may be made");
        intended
    }

    async fn record(&self, page: &[CostRecord]) -> Result<(), SinkError> {
        if page.is_empty() {
            return Ok(());
        }
        reach("ledger: attempts have ended");
        let written = self.books.settle(page, self.when()).await.map_err(SinkError::new);
        reach("ledger: records were taken");
        written
    }

    async fn withdraw(&self, attempts: &[AttemptId]) -> Result<(), SinkError> {
        self.books.withdraw(attempts).await.map_err(SinkError::new)
    }

    async fn flush(&self) -> Result<(), SinkError> {
        self.store.sync().await.map_err(SinkError::new)
    }

    fn wants_intents(&self) -> bool {
        self.durability != Durability::Memory
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn is_strict(&self) -> bool {
        self.durability == Durability::Strict
    }
}
