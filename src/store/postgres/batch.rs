//! What waits to be written: things of one kind are written together.

use std::{any::Any, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::oneshot, time::Instant};

use super::{
    super::{Durable, StoreError},
    session::Session,
};

/// Writes things of one kind, many at once.
#[async_trait]
pub(crate) trait Writes: fmt::Debug + Send + Sync + 'static {
    /// What is written.
    type Item: Send + Sync + 'static;

    /// Writes all of it, in a transaction that others may share. May be repeated after a failure, even one that came
    /// after the commit: what is written already must change nothing.
    async fn write(&self, session: &Session, items: &[&Self::Item]) -> Result<(), StoreError>;

    /// A transaction was undone: what it wrote is not there.
    fn forget(&self);

    /// Whether whoever waits for it may do something else instead: what has happened already must be written.
    fn may_expire(item: &Self::Item) -> bool;
}

/// Whoever waits for it.
pub(super) type Answer = oneshot::Sender<Result<(), StoreError>>;

/// Who learns how it ended.
pub(super) enum Told {
    Answer(Answer),
    /// Nobody waits; this is told if it could not be written.
    Failed(Box<dyn FnOnce() + Send + Sync>),
}

struct Entry<T> {
    item: T,
    durable: Durable,
    since: Instant,
    told: Told,
}

struct Page<W: Writes> {
    writes: Arc<W>,
    entries: Vec<Entry<W::Item>>,
}

/// Things of one kind that wait.
#[async_trait]
pub(super) trait Batch: Any + Send + Sync {
    fn len(&self) -> usize;

    /// Takes another in, if it is of this kind.
    fn absorb(&mut self, other: Box<dyn Batch>) -> Option<Box<dyn Batch>>;

    /// One batch a thing.
    fn split(self: Box<Self>) -> Vec<Box<dyn Batch>>;

    async fn write(&self, session: &Session) -> Result<(), StoreError>;

    fn forget(&self);

    /// Gives up what must be durable before something else may happen, and has waited for so long.
    fn expire(&mut self, patience: Duration, error: &StoreError);

    fn end(self: Box<Self>, failed: Option<&StoreError>);
}

/// One thing that waits.
pub(super) fn one<W: Writes>(writes: &Arc<W>, item: W::Item, durable: Durable, told: Told) -> Box<dyn Batch> {
    let entry = Entry { item, durable, since: Instant::now(), told };
    Box::new(Page { writes: Arc::clone(writes), entries: vec![entry] })
}

#[async_trait]
impl<W: Writes> Batch for Page<W> {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn absorb(&mut self, other: Box<dyn Batch>) -> Option<Box<dyn Batch>> {
        let is_same = |page: &Self| Arc::ptr_eq(&page.writes, &self.writes);
        if !(&*other as &dyn Any).downcast_ref().is_some_and(is_same) {
            return Some(other);
        }
        if let Ok(page) = (other as Box<dyn Any>).downcast::<Self>() {
            self.entries.extend(page.entries);
        }
        None
    }

    fn split(self: Box<Self>) -> Vec<Box<dyn Batch>> {
        let alone = |entry| Box::new(Self { writes: Arc::clone(&self.writes), entries: vec![entry] });
        self.entries.into_iter().map(|entry| alone(entry) as Box<dyn Batch>).collect()
    }

    async fn write(&self, session: &Session) -> Result<(), StoreError> {
        let items: Vec<&W::Item> = self.entries.iter().map(|entry| &entry.item).collect();
        self.writes.write(session, &items).await
    }

    fn forget(&self) {
        self.writes.forget();
    }

    fn expire(&mut self, patience: Duration, error: &StoreError) {
        let is_late = |entry: &mut Entry<W::Item>| {
            let may_expire = entry.durable == Durable::Now && W::may_expire(&entry.item);
            may_expire && entry.since.elapsed() >= patience
        };
        self.entries.extract_if(.., is_late).for_each(|entry| answer(entry, Some(error)));
    }

    fn end(self: Box<Self>, failed: Option<&StoreError>) {
        self.entries.into_iter().for_each(|entry| answer(entry, failed));
    }
}

fn answer<T>(entry: Entry<T>, failed: Option<&StoreError>) {
    match (entry.told, failed) {
        // Whoever asked may have given up waiting.
        (Told::Answer(answer), failed) => drop(answer.send(failed.map_or(Ok(()), |error| Err(error.clone())))),
        (Told::Failed(told), Some(error)) => {
            tracing::warn!(%error, "a write that nobody waits for failed");
            told();
        }
        (Told::Failed(_), None) => {}
    }
}
