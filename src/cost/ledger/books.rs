//! A ledger's side of a store, whichever it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

#[cfg(feature = "postgres")]
use super::postgres;
use super::{keeping::Keeping, source::Source, zone::Zone};
#[cfg(feature = "sqlite")]
use super::{memory::Memory, sqlite};
#[cfg(feature = "postgres")]
use crate::store::Postgres;
#[cfg(feature = "sqlite")]
use crate::store::Sqlite;
use crate::{
    cost::CostRecord,
    store::{Backend, Durable, Store, StoreError},
    types::AttemptId,
};

#[derive(Debug)]
pub(super) enum Books {
    #[cfg(feature = "postgres")]
    Postgres { postgres: Arc<Postgres>, entries: Arc<postgres::Entries>, _keeping: Arc<Keeping> },
    #[cfg(feature = "sqlite")]
    Sqlite { sqlite: Arc<Sqlite>, memory: Arc<Memory>, _keeping: Arc<Keeping> },
}

impl Books {
    /// Starts the chores of a store, unless another ledger of it has.
    pub(super) fn open(store: &Store, keep: Option<Duration>) -> Self {
        match store.backend() {
            #[cfg(feature = "postgres")]
            Backend::Postgres(postgres) => {
                let (postgres, entries) = (Arc::clone(postgres), Arc::new(postgres::Entries::of(postgres.process())));
                let (keeping, is_first) = postgres.slot().get(Keeping::default);
                keeping.ask(keep);
                if is_first {
                    postgres.every_ten_seconds(postgres::chore(&entries, &keeping));
                }
                Self::Postgres { postgres, entries, _keeping: keeping }
            }
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(sqlite) => {
                let (sqlite, memory) = (Arc::clone(sqlite), Arc::<Memory>::default());
                let (keeping, is_first) = sqlite.slot().get(Keeping::default);
                keeping.ask(keep);
                if is_first {
                    sqlite.every_ten_seconds(sqlite::chore(&memory, &keeping));
                }
                Self::Sqlite { sqlite, memory, _keeping: keeping }
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres { postgres, .. } => postgres.name(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite { sqlite, .. } => sqlite.name(),
        }
    }

    /// Writes that an attempt is about to be made, on the disk.
    pub(super) async fn intend(&self, record: &CostRecord) -> Result<(), StoreError> {
        let record = record.clone();
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres { postgres, entries, .. } => {
                postgres.write(entries, postgres::Entry::intent(record), Durable::Now).await
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite { sqlite, memory, .. } => {
                let (known, process) = (Arc::clone(memory), sqlite.process());
                let job = move |connection: &_| sqlite::intend(connection, &record, &known, process);
                let memory = Arc::clone(memory);
                sqlite.write(Durable::Now, job, move || memory.forget()).await
            }
        }
    }

    /// Hands the same over without waiting. `missed` counts those that found no room or could not be written.
    pub(super) fn intend_later(&self, record: &CostRecord, missed: &Arc<AtomicU64>) {
        let record = record.clone();
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres { postgres, entries, .. } => {
                let missed = Arc::clone(missed);
                postgres.write_later(entries, postgres::Entry::intent(record), move || {
                    missed.fetch_add(1, Ordering::Relaxed);
                });
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite { sqlite, memory, .. } => {
                let (known, process) = (Arc::clone(memory), sqlite.process());
                let job = move |connection: &_| sqlite::intend(connection, &record, &known, process);
                let (memory, missed) = (Arc::clone(memory), Arc::clone(missed));
                sqlite.write_later(Durable::Soon, job, move || {
                    memory.forget();
                    missed.fetch_add(1, Ordering::Relaxed);
                });
            }
        }
    }

    /// Writes records that ended, each once.
    pub(super) async fn settle(&self, page: &[CostRecord], durable: Durable) -> Result<(), StoreError> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres { postgres, entries, .. } => {
                postgres.write(entries, postgres::Entry::page(page), durable).await
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite { sqlite, memory, .. } => {
                let (page, known) = (page.to_vec(), Arc::clone(memory));
                let (job, memory) =
                    (move |connection: &_| sqlite::settle(connection, &page, &known), Arc::clone(memory));
                sqlite.write(durable, job, move || memory.forget()).await
            }
        }
    }

    /// Takes attempts out again that were not made.
    pub(super) async fn withdraw(&self, attempts: &[AttemptId]) -> Result<(), StoreError> {
        let attempts = attempts.to_vec();
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres { postgres, entries, .. } => {
                postgres.write(entries, postgres::Entry::Withdrawn(attempts), Durable::Soon).await
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite { sqlite, memory, .. } => {
                let known = Arc::clone(memory);
                let job = move |connection: &_| sqlite::withdraw(connection, &attempts, &known);
                let memory = Arc::clone(memory);
                sqlite.write(Durable::Soon, job, move || memory.forget()).await
            }
        }
    }

    pub(super) async fn rebuild(&self, zone: Zone) -> Result<(), StoreError> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres { postgres, .. } => {
                postgres.write_apart(move |connection| postgres::rebuild(connection, zone)).await
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite { sqlite, .. } => {
                sqlite.write(Durable::Now, move |connection| sqlite::rebuild(connection, zone), || {}).await
            }
        }
    }

    /// Reads on a thread for blocking work.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Source) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres { postgres, .. } => {
                let name: Box<str> = postgres.name().into();
                postgres.read(move |connection| job(&postgres::Reader { connection, name: &name })).await
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite { sqlite, .. } => {
                let name: Box<str> = sqlite.name().into();
                sqlite.read(move |connection| job(&sqlite::Reader { connection, name: &name })).await
            }
        }
    }
}
