//! Who waits for a turn, in which order.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use crate::types::{Priority, later};

/// A place in the queue. Its order never changes, so that growing old needs no re-sorting: everybody grows old alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// When it came, and how much later its priority lets it seem to have come.
    due: Instant,
    number: u64,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Place, Waiter>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiter {
    tokens: f64,
    turn: Arc<Notify>,
}

/// How many are ahead of somebody, and their tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Ahead {
    pub(super) callers: u32,
    pub(super) tokens: f64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Where somebody would stand who comes now.
    pub(super) fn place(&mut self, now: Instant, priority: Priority) -> Place {
        self.arrivals += 1;
        Place { due: later(now, patience(priority)), number: self.arrivals }
    }

    pub(super) fn enter(&mut self, place: Place, tokens: f64) -> Arc<Notify> {
        let turn = Arc::new(Notify::new());
        self.waiting.insert(place, Waiter { tokens, turn: Arc::clone(&turn) });
        turn
    }

    /// Leaves the queue; the next one learns that it is first now.
    pub(super) fn leave(&mut self, place: Place) {
        let was_first = self.is_first(place);
        if self.waiting.remove(&place).is_some() && was_first {
            self.wake_first();
        }
    }

    /// Whether nobody is ahead.
    pub(super) fn is_first(&self, place: Place) -> bool {
        self.waiting.first_key_value().is_none_or(|(first, _)| *first >= place)
    }

    /// Tells the first one to look again. Only one is woken, however many wait.
    pub(super) fn wake_first(&self) {
        if let Some((_, first)) = self.waiting.first_key_value() {
            first.turn.notify_one();
        }
    }

    /// Who is ahead of this place.
    pub(super) fn ahead(&self, place: Place) -> Ahead {
        ahead(self.waiting.range(..place).map(|(_, waiter)| waiter))
    }

    /// All of them.
    pub(super) fn all(&self) -> Ahead {
        ahead(self.waiting.values())
    }
}

fn ahead<'a>(waiters: impl Iterator<Item = &'a Waiter>) -> Ahead {
    waiters.fold(Ahead::default(), |ahead, waiter| Ahead {
        callers: ahead.callers.saturating_add(1),
        tokens: ahead.tokens + waiter.tokens,
    })
}

/// How much later somebody more urgent may come and still go first.
const fn patience(priority: Priority) -> Duration {
    match priority {
        Priority::Realtime => Duration::ZERO,
        Priority::Standard => Duration::from_secs(2),
        Priority::Batch => Duration::from_secs(10),
    }
}
