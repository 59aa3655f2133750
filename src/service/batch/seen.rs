//! Which lines of a batch were asked already: a million of them in thirty megabytes.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::inference::CacheKey;

/// Lines by what they ask.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Half of each key: that two different ones share it does not happen.
    keys: Vec<u128>,
    /// The line of each.
    lines: Vec<u32>,
    table: HashTable<u32>,
    state: RandomState,
}

impl Seen {
    /// The line that asked the same before; if there is none, it is this one from now on.
    pub(super) fn first(&mut self, key: &CacheKey, index: u64) -> Option<u64> {
        let key = u128::from_le_bytes(key.hash().first_chunk().copied().unwrap_or_default());
        let Self { keys, lines, table, state } = self;
        let key_at = |at: &u32| keys.get(*at as usize).copied().unwrap_or_default();
        let hash = state.hash_one(key);
        if let Some(at) = table.find(hash, |at| key_at(at) == key) {
            return lines.get(*at as usize).copied().map(u64::from);
        }
        // Past four thousand million lines nothing is recognised any more.
        let (Ok(at), Ok(line)) = (u32::try_from(keys.len()), u32::try_from(index)) else { return None };
        table.insert_unique(hash, at, |at| state.hash_one(key_at(at)));
        keys.push(key);
        lines.push(line);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::Kind;

    #[test]
    fn the_first_of_equal_lines_is_found_among_many() {
        let mut seen = Seen::default();
        let key = |number: u64| CacheKey::of_bytes(Kind::Inference, None, &number.to_le_bytes());
        for number in 0..10_000 {
            assert_eq!(seen.first(&key(number), number), None);
        }
        for number in 0..10_000 {
            assert_eq!(seen.first(&key(number), 10_000 + number), Some(number));
        }
    }
}
