//! What waits to be handed out.
//!
//! It bounds what waits, and not the calls under way: a place is the word that an item is taken, whenever its call ends,
//! and is given as long as there is room. So a stream of an hour takes nothing from anybody, and nor does a call that
//! waits in line. What waits is a queue at most, and one item of each call that was under way when it filled up: the
//! record of such a call is in memory before as well, and calls are bounded by their lanes.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{Item, QUEUE};

/// The word that one item is taken.
#[derive(Debug)]
pub(in crate::service) struct Place(());

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Told of each item, and of the end.
    came: Notify,
    /// Told when there is room again.
    room: Notify,
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// A place, if there is room.
    pub(super) fn place(&self) -> Option<Place> {
        (self.len() < QUEUE).then_some(Place(()))
    }

    /// A place, once there is room.
    pub(super) async fn place_in_time(&self) -> Place {
        loop {
            // Before the look: what makes room in between is heard.
            let room = self.room.notified();
            if let Some(place) = self.place() {
                return place;
            }
            room.await;
        }
    }

    /// Takes what has a place, however full it is by now.
    pub(super) fn put(&self, item: Item, _: Place) {
        self.lock().items.push_back(item);
        self.came.notify_one();
    }

    /// Takes what has none, if there is room.
    pub(super) fn offer(&self, item: Item) -> Result<(), Item> {
        let mut waiting = self.lock();
        if waiting.items.len() >= QUEUE {
            return Err(item);
        }
        waiting.items.push_back(item);
        drop(waiting);
        self.came.notify_one();
        Ok(())
    }

    /// Waits until something is there, and moves so many of it at most; `false`: nothing will come any more. Whoever gives
    /// up waiting has moved nothing.
    pub(super) async fn take(&self, most: usize, items: &mut Vec<Item>) -> bool {
        loop {
            match self.take_now(most, items) {
                Some(is_there) => return is_there,
                None => self.came.notified().await,
            }
        }
    }

    /// `None`: nothing is there yet.
    fn take_now(&self, most: usize, items: &mut Vec<Item>) -> Option<bool> {
        let mut waiting = self.lock();
        let before = waiting.items.len();
        if before == 0 {
            return waiting.closed.then_some(false);
        }
        items.extend(waiting.items.drain(..most.min(before)));
        let has_room_again = before >= QUEUE && waiting.items.len() < QUEUE;
        drop(waiting);
        if has_room_again {
            self.room.notify_waiters();
        }
        Some(true)
    }

    /// Nobody puts anything in any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.came.notify_one();
    }
}
