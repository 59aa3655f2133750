//! Which alerts were told of late: repeats are counted, not told.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::types::later;

/// For how long repeats of an alert are left out.
const QUIET: Duration = Duration::from_secs(600);
/// How many keys are remembered.
pub(super) const MAX_KEYS: usize = 1_024;

/// The alerts of late, by their keys.
#[derive(Default)]
pub(super) struct Seen {
    events: HashMap<Box<str>, Event>,
    written: u64,
    pub(super) suppressed: u64,
}

/// The last event of a key.
struct Event {
    quiet_until: Instant,
    number: u64,
    left_out: u64,
}

impl Seen {
    /// Whether an alert of this key is to be told, and how many were left out before it.
    pub(super) fn admit(&mut self, key: &str, now: Instant) -> Option<u64> {
        if let Some(event) = self.events.get_mut(key)
            && now < event.quiet_until
        {
            event.left_out += 1;
            self.suppressed += 1;
            return None;
        }
        let left_out = self.events.remove(key).map_or(0, |event| event.left_out);
        self.make_room();
        self.written += 1;
        self.events.insert(key.into(), Event { quiet_until: later(now, QUIET), number: self.written, left_out: 0 });
        Some(left_out)
    }

    /// It was not told after all, nor how many were left out before it: the next one of this key is, and says so.
    pub(super) fn failed(&mut self, key: &str, left_out: u64, now: Instant) {
        if let Some(event) = self.events.get_mut(key) {
            event.quiet_until = now;
            event.left_out += left_out;
        }
    }

    /// How many keys are remembered.
    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        self.events.len()
    }

    /// Forgets the key whose event is longest ago, if there are as many as may be.
    fn make_room(&mut self) {
        if self.events.len() < MAX_KEYS {
            return;
        }
        let oldest = self.events.iter().min_by_key(|(_, event)| event.number).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            self.events.remove(&oldest);
        }
    }
}
