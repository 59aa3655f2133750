//! What a cache counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::store::redis::Link;

/// What a [`RedisCache`](super::RedisCache) has done since it was made, and whether Redis is in reach now.
///
/// Every look-up of a key is one of `hits`, `misses`, `skipped`, `failed`, `refused` and `forged`; every value that was to
/// be kept becomes one of `written`, `unwritten` and `dropped`, or is replaced by a later one before it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisStats {
    /// Look-ups that found a value.
    pub hits: u64,
    /// Look-ups that found none, or one past its time.
    pub misses: u64,
    /// Look-ups that were a miss at once, because Redis was out of reach.
    pub skipped: u64,
    /// Look-ups that Redis did not answer in time, or with an error.
    pub failed: u64,
    /// Stored values that are not what they should be: of another version or key, cut, too long.
    pub refused: u64,
    /// Stored values whose tag is not that of the MAC key. Somebody else writes to this Redis.
    pub forged: u64,
    /// Values that were written, and removals.
    pub written: u64,
    /// Values that Redis did not take in time, or answered with an error.
    pub unwritten: u64,
    /// Values that were not kept because too many waited to be written, or Redis was out of reach.
    pub dropped: u64,
    /// Times that Redis failed too often and was left alone for a while.
    pub pauses: u64,
    /// Connections that came about.
    pub connections: u64,
    /// Writes that wait now.
    pub waiting: usize,
    /// Whether Redis is in reach now.
    pub is_connected: bool,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) forged: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) unwritten: AtomicU64,
    pub(super) dropped: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self, waiting: usize, link: &Link) -> RedisStats {
        RedisStats {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
            failed: self.failed.load(Relaxed),
            refused: self.refused.load(Relaxed),
            forged: self.forged.load(Relaxed),
            written: self.written.load(Relaxed),
            unwritten: self.unwritten.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            pauses: link.pauses.load(Relaxed),
            connections: link.connections.load(Relaxed),
            waiting,
            is_connected: link.is_up(),
        }
    }
}
