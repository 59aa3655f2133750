//! The one task that hands records to the sinks, and settles and renews what is set aside in budgets.
//!
//! A place in its queue is asked for before money is spent, so that a slow sink slows admission down instead of losing
//! records. Each sink has a desk of its own: the fastest one sets the pace, the others may fall a whole queue behind, and
//! one that fails or hangs holds up neither the others nor the budgets.
//!
//! The task lives on the runtime of the call that started it. The queue outlives it: if that runtime is dropped, the next
//! call starts another task on its own, and nothing is lost. A runtime that is kept but not driven keeps the task as
//! well: records then wait until it is driven again or dropped.

mod alive;
mod desk;
mod dues;
mod queue;

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};

pub(super) use self::queue::Place;
use self::{
    alive::Alive,
    desk::{Desk, Entry, Mark, Page},
    dues::Dues,
    queue::Queue,
};
use super::state::State;
use crate::{
    cost::{Budgets, Charge, CostRecord, CostSink, FanOut, Held},
    notify::AlertKind,
    types::AttemptId,
};

/// Records that may wait for the sinks, and for one sink that has fallen behind the others.
const QUEUE: usize = 4_096;
/// Records that a sink gets at a time, at most.
const PAGE: usize = 256;
/// How long a call waits for a place before it goes on without one.
const PLACE_WAIT: Duration = Duration::from_millis(100);
/// How often a page is offered to a sink before it is given up, and the first pause between.
const OFFERS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) enum Item {
    Record(Box<Settled>),
    /// An attempt that the sinks were told of, and that was never made.
    Withdraw(AttemptId),
    /// Answered when everything before it was handed over.
    Flush(oneshot::Sender<()>),
}

/// A settled attempt on its way to the sinks.
pub(super) struct Settled {
    pub(super) record: CostRecord,
    /// Set where the budget store could not settle at once.
    pub(super) budget: Option<(Arc<Held>, Charge)>,
}

pub(super) struct Recorder {
    shared: Arc<Shared>,
    /// Whether nothing is sent without a place for its record.
    is_strict: bool,
}

struct Shared {
    queue: Queue,
    desks: Vec<Desk>,
    budgets: Arc<Budgets>,
    /// What the budget store has still to settle.
    dues: Dues,
    /// What it must not give back.
    alive: Alive,
    /// Told when a desk made room.
    moved: Notify,
    running: AtomicBool,
    losses: Arc<Losses>,
}

/// Records that no sink took, and withdrawals: an attempt that was never made ends in the ledger as money spent where it is
/// not told.
#[derive(Default)]
struct Losses {
    records: AtomicU64,
    /// Who raises the alert.
    state: OnceLock<Weak<State>>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("waiting", &self.waiting()).field("lost", &self.lost()).finish_non_exhaustive()
    }
}

impl Recorder {
    pub(super) fn new(sinks: &FanOut, budgets: Arc<Budgets>) -> Self {
        let losses = Arc::<Losses>::default();
        let told = Arc::clone(&losses);
        let shared = Shared {
            queue: Queue::default(),
            desks: sinks.sinks().iter().map(|sink| Desk::new(Arc::clone(sink))).collect(),
            budgets,
            dues: Dues::new(move |held, charge| told.unsettled(held, charge)),
            alive: Alive::default(),
            moved: Notify::new(),
            running: AtomicBool::new(false),
            losses,
        };
        Self { shared: Arc::new(shared), is_strict: sinks.is_strict() }
    }

    /// Starts the task on this runtime unless one runs.
    pub(super) fn ensure_running(&self, state: &Arc<State>) {
        if self.shared.running.load(Ordering::Acquire) || self.shared.running.swap(true, Ordering::AcqRel) {
            return;
        }
        self.shared.losses.state.get_or_init(|| Arc::downgrade(state));
        let running = Running(Arc::clone(&self.shared));
        // Not counted among the calls that a shutdown waits for.
        let task = async move { running.0.run().await };
        #[expect(clippy::disallowed_methods, reason = "the recorder ends with its queue; shutdown flushes it")]
        drop(tokio::spawn(task));
    }

    /// Whether an attempt without a place must not be made.
    pub(super) const fn is_strict(&self) -> bool {
        self.is_strict
    }

    /// A place for what an attempt leaves, waiting for room at most 100 ms (until `by` where a sink is strict) and never
    /// beyond `by`. `None`: the call goes on without, or it is too late for an attempt anyway.
    pub(super) async fn place(&self, by: Instant) -> Option<Place> {
        let queue = &self.shared.queue;
        if let Some(place) = queue.place() {
            return Some(place);
        }
        let until = if self.is_strict { by } else { by.min(Instant::now() + PLACE_WAIT) };
        timeout_at(until, queue.place_in_time()).await.ok()
    }

    /// Keeps what is set aside from returning until it is dropped.
    pub(super) fn watch(&self, held: &Arc<Held>) {
        self.shared.alive.watch(held);
    }

    /// Settles what was set aside where the budget store could not at once. It waits for no place, being bounded apart.
    pub(super) fn settle(&self, held: Arc<Held>, charge: Charge) {
        self.shared.due(Some((held, charge)));
    }

    /// Hands over what an attempt left.
    pub(super) fn take(&self, item: Item, place: Option<Place>) {
        match place {
            Some(place) => self.shared.queue.put(item, place),
            None => self.offer(item),
        }
    }

    /// Hands over what has no place, if there is room by now. Without, its record is lost; its money is settled all the same.
    fn offer(&self, item: Item) {
        let Err(item) = self.shared.queue.offer(item) else { return };
        self.shared.losses.add(1);
        if let Item::Record(settled) = item {
            self.shared.due(settled.budget);
        }
    }

    /// Hands over a record that costs nothing, if there is room.
    pub(super) fn record(&self, record: CostRecord) {
        self.offer(Item::Record(Box::new(Settled { record, budget: None })));
    }

    /// Offers records to one of the sinks alone, as it is offered those of calls: others have them.
    #[cfg(feature = "batch")]
    pub(super) fn offer_again(&self, sink: usize, records: Vec<CostRecord>) {
        if let Some(desk) = self.shared.desks.get(sink) {
            desk.push(Entry::Page(Arc::new(Page::taken_elsewhere(records))));
        }
    }

    /// Waits until every record so far was handed to every sink, or given up, or until `by`.
    pub(super) async fn flush(&self, by: Instant) -> bool {
        let flushing = async {
            let (done, flushed) = oneshot::channel();
            let place = self.shared.queue.place_in_time().await;
            self.shared.queue.put(Item::Flush(done), place);
            flushed.await.is_ok()
        };
        timeout_at(by, flushing).await.unwrap_or(false)
    }

    /// Records that wait for the sinks.
    pub(super) fn waiting(&self) -> usize {
        self.shared.queue.len() + self.shared.desks.iter().map(Desk::waiting).max().unwrap_or_default()
    }

    /// Records and withdrawals that no sink took, or that found no room.
    pub(super) fn lost(&self) -> u64 {
        self.shared.losses.records.load(Ordering::Acquire)
    }
}

impl Drop for Recorder {
    /// The task ends once it has handed over what is there.
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl Losses {
    /// Raises an alert, once a day.
    fn add(&self, records: u64) {
        if self.records.fetch_add(records, Ordering::AcqRel) == 0 {
            tracing::error!("cost records are lost: no sink took them, or the sinks do not keep up");
        }
        if let Some(state) = self.state.get().and_then(Weak::upgrade) {
            let title = || "cost records are lost: the sinks fail or do not keep up".into();
            state.tell_once(AlertKind::LedgerGap, "cost records", title);
        }
    }
}

impl Losses {
    /// Says what becomes of money that the store did not settle; an alert once a day.
    fn unsettled(&self, held: &Held, charge: Charge) {
        let (id, spent, reserved) = (held.hold.id, charge.spent(), held.hold.amount);
        tracing::error!(%id, %spent, %reserved, "a budget was not settled: what was set aside ends as its budgets say");
        if let Some(state) = self.state.get().and_then(Weak::upgrade) {
            let title = || {
                format!(
                    "a budget store did not settle {spent}: the {reserved} set aside for it stay spent, or return where \
                     budgets say so, which may be overdrawn by it"
                )
            };
            state.tell_once(AlertKind::StoreError, "budgets not settled", title);
        }
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
    /// Everything at the same time, within one task.
    async fn run(&self) {
        let desks = join_all(self.desks.iter().map(|desk| desk.run(&self.moved)));
        tokio::select! {
            () = self.hand_out() => {}
            _ = desks => {}
            () = self.dues.run(&self.budgets) => {}
            () = self.alive.run(&self.budgets) => {}
        }
    }

    /// Hands what comes to every desk until there will be nothing more.
    async fn hand_out(&self) {
        let mut items = Vec::with_capacity(PAGE);
        loop {
            while !self.has_room() {
                self.moved.notified().await;
            }
            if !self.queue.take(PAGE, &mut items).await {
                break;
            }
            // No more waiting from here on: if the task ended in between, these would be gone.
            let (mut records, mut withdrawn) = (Vec::new(), Vec::new());
            for item in items.drain(..) {
                match item {
                    Item::Record(settled) => {
                        records.push(settled.record);
                        self.due(settled.budget);
                    }
                    Item::Withdraw(attempt) => withdrawn.push(attempt),
                    Item::Flush(done) => {
                        self.page(std::mem::take(&mut records), std::mem::take(&mut withdrawn));
                        self.mark(done);
                    }
                }
            }
            self.page(records, withdrawn);
        }
        let (done, over) = oneshot::channel();
        self.mark(done);
        let _ = over.await;
    }

    /// Whether a desk keeps up, and none that does not fail is far behind. Budgets hold up no record.
    fn has_room(&self) -> bool {
        (self.desks.is_empty() || self.desks.iter().any(Desk::keeps_up)) && self.desks.iter().all(Desk::holds_up_nobody)
    }

    fn page(&self, records: Vec<CostRecord>, withdrawn: Vec<AttemptId>) {
        if records.is_empty() && withdrawn.is_empty() {
            return;
        }
        let losses = Arc::clone(&self.losses);
        let page = Arc::new(Page::new(records, withdrawn, move |lost| losses.add(lost)));
        self.desks.iter().for_each(|desk| desk.push(Entry::Page(Arc::clone(&page))));
    }

    fn mark(&self, done: oneshot::Sender<()>) {
        let mark = Arc::new(Mark::new(done));
        self.desks.iter().for_each(|desk| desk.push(Entry::Mark(Arc::clone(&mark))));
        self.dues.mark(mark);
    }

    fn due(&self, due: Option<(Arc<Held>, Charge)>) {
        if let Some((held, charge)) = due {
            self.dues.push(held, charge);
        }
    }
}
