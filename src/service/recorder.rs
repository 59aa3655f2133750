//! The one task that hands records to the sinks and settles remote budgets.
//!
//! A slot in its queue is taken before money is spent, so that a slow sink slows admission down instead of losing
//! records. The queue outlives the task: if the task's runtime ends, the next call starts another on its own.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, timeout},
};

use crate::{
    cost::{BudgetStore, CostRecord, CostSink, FanOut},
    types::{AttemptId, Usd},
};

/// Records that may wait for the sinks.
const QUEUE: usize = 4_096;
/// Records that a sink gets at a time, at most.
const PAGE: usize = 256;
/// How long a call waits for a slot before it goes on without a record.
const SLOT_WAIT: Duration = Duration::from_millis(100);
/// How often a page is offered before it is given up, and the first pause between.
const OFFERS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// A place in the queue for one record.
pub(super) type RecordSlot = mpsc::OwnedPermit<Item>;

pub(super) enum Item {
    Record(Box<Settled>),
    /// A reservation of an attempt that was never made.
    Settle(AttemptId, Usd),
    /// Answered when everything before it was handed over.
    Flush(oneshot::Sender<()>),
}

/// A settled attempt on its way to the sinks.
pub(super) struct Settled {
    pub(super) record: CostRecord,
    /// Set where the budget store could not settle at once.
    pub(super) budget: Option<(AttemptId, Usd)>,
}

pub(super) struct Recorder {
    queue: mpsc::Sender<Item>,
    shared: Arc<Shared>,
}

struct Shared {
    inbox: Mutex<Inbox>,
    sinks: FanOut,
    budget: Option<Arc<dyn BudgetStore>>,
    running: AtomicBool,
    /// Records that no sink took.
    lost: AtomicU64,
}

/// The queue's end, with what was taken from it. It is not the task's own: what the sinks had not taken when the task's
/// runtime ended is for the next task.
struct Inbox {
    queue: mpsc::Receiver<Item>,
    budgets: VecDeque<(AttemptId, Usd)>,
    records: Vec<CostRecord>,
    flushed: Vec<oneshot::Sender<()>>,
}

impl Inbox {
    /// Takes what is there, at most a page, or waits for it: `false` when there will be nothing more.
    async fn fill(&mut self) -> bool {
        if !(self.budgets.is_empty() && self.records.is_empty() && self.flushed.is_empty()) {
            return true;
        }
        let mut items = Vec::with_capacity(PAGE);
        let taken = self.queue.recv_many(&mut items, PAGE).await;
        for item in items {
            match item {
                Item::Record(settled) => {
                    self.budgets.extend(settled.budget);
                    self.records.push(settled.record);
                }
                Item::Settle(id, actual) => self.budgets.push_back((id, actual)),
                Item::Flush(done) => self.flushed.push(done),
            }
        }
        taken > 0
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("waiting", &self.waiting()).field("lost", &self.lost()).finish_non_exhaustive()
    }
}

impl Recorder {
    pub(super) fn new(sinks: FanOut, budget: Option<Arc<dyn BudgetStore>>) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let inbox = Inbox { queue: receiver, budgets: VecDeque::new(), records: Vec::new(), flushed: Vec::new() };
        let (running, lost) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { queue, shared: Arc::new(Shared { inbox: Mutex::new(inbox), sinks, budget, running, lost }) }
    }

    /// Starts the task on this runtime unless one runs.
    pub(super) fn ensure_running(&self) {
        if self.shared.running.load(Ordering::Acquire) || self.shared.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let running = Running(Arc::clone(&self.shared));
        // Not counted among the calls that a shutdown waits for.
        let task = async move { running.0.run().await };
        #[expect(clippy::disallowed_methods, reason = "the recorder ends with its queue; shutdown flushes it")]
        drop(tokio::spawn(task));
    }

    /// Takes a slot, waiting at most 100 ms. `None`: the call goes on without a record, which is counted.
    pub(super) async fn slot(&self) -> Option<RecordSlot> {
        if let Ok(slot) = self.queue.clone().try_reserve_owned() {
            return Some(slot);
        }
        let slot = timeout(SLOT_WAIT, self.queue.clone().reserve_owned()).await.ok().and_then(Result::ok);
        if slot.is_none() {
            self.lose(1);
        }
        slot
    }

    /// Hands over a record that costs nothing, if there is room.
    pub(super) fn offer(&self, record: CostRecord) {
        let item = Item::Record(Box::new(Settled { record, budget: None }));
        if self.queue.try_send(item).is_err() {
            self.lose(1);
        }
    }

    fn lose(&self, records: u64) {
        if self.shared.lost.fetch_add(records, Ordering::AcqRel) == 0 {
            tracing::warn!("cost records are lost: the sinks do not keep up");
        }
    }

    /// Waits until every record so far was handed to the sinks, or until `by`.
    pub(super) async fn flush(&self, by: Instant) -> bool {
        let (done, flushed) = oneshot::channel();
        let flushing = async { self.queue.send(Item::Flush(done)).await.is_ok() && flushed.await.is_ok() };
        tokio::time::timeout_at(by, flushing).await.unwrap_or(false)
    }

    /// Records that wait for the sinks.
    pub(super) fn waiting(&self) -> usize {
        QUEUE - self.queue.capacity()
    }

    /// Records that no sink took, or that found no room.
    pub(super) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Acquire)
    }
}

/// Says that no task runs when it ends, however it ends.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}

impl Shared {
    async fn run(&self) {
        let mut inbox = self.inbox.lock().await;
        while inbox.fill().await {
            // Each is taken out once it is done: doing one twice changes nothing, leaving one out would.
            while let Some((id, actual)) = inbox.budgets.front().copied() {
                self.settle(id, actual).await;
                inbox.budgets.pop_front();
            }
            self.hand_over(&inbox.records).await;
            inbox.records.clear();
            for done in inbox.flushed.drain(..) {
                // Whoever asked may have given up waiting.
                let _ = done.send(());
            }
        }
    }

    async fn settle(&self, id: AttemptId, actual: Usd) {
        let Some(store) = &self.budget else { return };
        let mut pause = PAUSE;
        for _ in 0..OFFERS {
            match AssertUnwindSafe(store.settle(id, actual)).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::warn!(%error, "a budget could not be settled, trying again"),
                Err(_) => tracing::warn!("the budget store panicked while settling"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Offers a page until it is taken, with pauses, and gives it up after the last offer.
    async fn hand_over(&self, page: &[CostRecord]) {
        if page.is_empty() {
            return;
        }
        let mut pause = PAUSE;
        for offer in 1..=OFFERS {
            match AssertUnwindSafe(self.sinks.record(page)).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::warn!(%error, offer, "cost records were refused"),
                Err(_) => tracing::warn!(offer, "a cost sink panicked"),
            }
            if offer < OFFERS {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
        self.lost.fetch_add(page.len() as u64, Ordering::AcqRel);
        tracing::error!(records = page.len(), "cost records were given up: no sink took them");
    }
}
