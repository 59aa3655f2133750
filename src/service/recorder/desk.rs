//! One sink's side of the recorder: its own pages, its own time-outs, its own repeats.
//!
//! Sinks are independent: one that fails or hangs falls behind alone, up to a bound, while the others go on.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

use super::{OFFERS, PAGE, PAUSE, QUEUE};
use crate::{
    cost::{CostRecord, CostSink, SinkError, offer},
    types::AttemptId,
};

/// After this the others do not wait for a sink any more.
const SLOW: Duration = Duration::from_secs(1);

/// Records on their way to every sink.
pub(super) struct Page {
    records: Vec<CostRecord>,
    /// Attempts that were not made after all.
    withdrawn: Vec<AttemptId>,
    /// Whether a sink took them.
    taken: AtomicBool,
    /// Whether one did not that nobody stands in for.
    missed: AtomicBool,
    /// Whether one that was told of attempts was not told that they were not made.
    untold: AtomicBool,
    lost: Box<dyn Fn(u64) + Send + Sync>,
}

impl Page {
    pub(super) fn new(
        records: Vec<CostRecord>,
        withdrawn: Vec<AttemptId>,
        lost: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        let [taken, missed, untold] = [const { AtomicBool::new(false) }; 3];
        Self { records, withdrawn, taken, missed, untold, lost: Box::new(lost) }
    }

    /// Records that are nobody's loss where a sink does not take them.
    #[cfg(feature = "batch")]
    pub(super) fn taken_elsewhere(records: Vec<CostRecord>) -> Self {
        let page = Self::new(records, Vec::new(), |_| {});
        page.taken.store(true, Ordering::Release);
        page
    }

    /// How much of a sink's backlog it is.
    fn len(&self) -> usize {
        self.records.len() + self.withdrawn.len()
    }
}

impl Drop for Page {
    /// Every sink is done with it.
    fn drop(&mut self) {
        let is_lost = !self.taken.load(Ordering::Acquire) || self.missed.load(Ordering::Acquire);
        let records = if is_lost { self.records.len() } else { 0 };
        let withdrawn = if self.untold.load(Ordering::Acquire) { self.withdrawn.len() } else { 0 };
        if records + withdrawn > 0 {
            (self.lost)((records + withdrawn) as u64);
        }
    }
}

/// Answers once everybody has let go of it.
pub(super) struct Mark(Option<oneshot::Sender<()>>);

impl Mark {
    pub(super) const fn new(done: oneshot::Sender<()>) -> Self {
        Self(Some(done))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // Whoever asked may have given up waiting.
        let _ = self.0.take().map(|done| done.send(()));
    }
}

pub(super) enum Entry {
    Page(Arc<Page>),
    Mark(#[expect(dead_code, reason = "its drop is what it is for")] Arc<Mark>),
}

/// What a sink has not taken yet. It is not the task's own: what was not taken when the task's runtime ended is for the
/// next task.
pub(super) struct Desk {
    sink: Arc<dyn CostSink>,
    backlog: Mutex<Backlog>,
    came: Notify,
    /// Whether the last offer was refused or takes too long.
    failing: AtomicBool,
}

#[derive(Default)]
struct Backlog {
    entries: VecDeque<Entry>,
    /// Withdrawals too: they wait as long.
    records: usize,
}

impl Desk {
    pub(super) fn new(sink: Arc<dyn CostSink>) -> Self {
        Self { sink, backlog: Mutex::default(), came: Notify::new(), failing: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the sink has not taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.lock().records
    }

    /// Whether it keeps up: it has less than a page before it.
    pub(super) fn keeps_up(&self) -> bool {
        self.waiting() < PAGE
    }

    /// Whether the others need not wait for it: it is less than a whole queue behind, or fails.
    pub(super) fn holds_up_nobody(&self) -> bool {
        self.waiting() < QUEUE || self.failing.load(Ordering::Acquire)
    }

    /// Puts a page or a mark behind what is there. A sink that is a whole queue behind does not get the page.
    pub(super) fn push(&self, entry: Entry) {
        let mut backlog = self.lock();
        if let Entry::Page(page) = &entry {
            if backlog.records >= QUEUE {
                tracing::warn!(sink = ?self.sink, records = page.len(), "a cost sink is too far behind for more");
                self.misses(page);
                return;
            }
            backlog.records += page.len();
        }
        backlog.entries.push_back(entry);
        drop(backlog);
        self.came.notify_one();
    }

    /// Hands over whatever comes. `moved` is told after each page and at each change for the worse.
    pub(super) async fn run(&self, moved: &Notify) {
        loop {
            let pages = self.next().await;
            let taken = match pages.as_slice() {
                [page] => self.hand_over(&page.records, &page.withdrawn, moved).await,
                pages => {
                    let records: Vec<_> = pages.iter().flat_map(|page| &page.records).cloned().collect();
                    let withdrawn: Vec<_> = pages.iter().flat_map(|page| &page.withdrawn).copied().collect();
                    self.hand_over(&records, &withdrawn, moved).await
                }
            };
            // Taken out once they are done: taking one twice has the effect of once, leaving one out has not.
            for page in &pages {
                if taken { page.taken.store(true, Ordering::Release) } else { self.misses(page) }
            }
            let mut done = Vec::with_capacity(pages.len());
            let mut backlog = self.lock();
            for page in &pages {
                backlog.records = backlog.records.saturating_sub(page.len());
                done.extend(backlog.entries.pop_front());
            }
            drop(backlog);
            // Outside the lock, for it may be the last to let go of one.
            drop((done, pages));
            moved.notify_one();
        }
    }

    async fn next(&self) -> Vec<Arc<Page>> {
        loop {
            let pages = self.front();
            if !pages.is_empty() {
                return pages;
            }
            self.came.notified().await;
        }
    }

    /// The pages at the front, several small ones as one; marks before them are let go of.
    fn front(&self) -> Vec<Arc<Page>> {
        let (mut pages, mut marks, mut records) = (Vec::new(), Vec::new(), 0);
        let mut backlog = self.lock();
        while let Some(Entry::Mark(_)) = backlog.entries.front() {
            marks.extend(backlog.entries.pop_front());
        }
        for entry in &backlog.entries {
            match entry {
                Entry::Page(page) if pages.is_empty() || records + page.len() <= PAGE => {
                    records += page.len();
                    pages.push(Arc::clone(page));
                }
                _ => break,
            }
        }
        // Outside the lock, for it may answer a flush.
        drop(backlog);
        drop(marks);
        pages
    }

    /// A sink will never have a page. Where it is a ledger, no other stands in for it, and none for one that was told of
    /// what was then not made.
    fn misses(&self, page: &Page) {
        if self.sink.wants_intents() {
            page.untold.store(true, Ordering::Release);
        }
        if self.sink.is_durable() {
            page.missed.store(true, Ordering::Release);
        }
    }

    /// One offer. Whoever waits for the sink knows after a second that it hangs.
    async fn offer(&self, records: &[CostRecord], withdrawn: &[AttemptId], moved: &Notify) -> Result<(), SinkError> {
        let mut offered = pin!(offer(&*self.sink, records, withdrawn));
        if let Ok(taken) = timeout(SLOW, &mut offered).await {
            return taken;
        }
        self.falls_behind(moved);
        offered.await
    }

    fn falls_behind(&self, moved: &Notify) {
        self.failing.store(true, Ordering::Release);
        moved.notify_one();
    }

    /// Offers records until they are taken, with pauses, and gives them up after the last offer.
    async fn hand_over(&self, records: &[CostRecord], withdrawn: &[AttemptId], moved: &Notify) -> bool {
        let mut pause = PAUSE;
        for number in 1..=OFFERS {
            match self.offer(records, withdrawn, moved).await {
                Ok(()) => {
                    self.failing.store(false, Ordering::Release);
                    return true;
                }
                Err(error) => tracing::warn!(sink = ?self.sink, %error, offer = number, "cost records were refused"),
            }
            self.falls_behind(moved);
            if number < OFFERS {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
        tracing::error!(sink = ?self.sink, records = records.len(), "a cost sink did not take records; they were given up");
        false
    }
}
