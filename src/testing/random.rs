//! Chance without chance: a small seeded generator, and a hash of JSON that ignores key order.

use serde_json::Value;

/// `SplitMix64` (Steele, Lea, Flood 2014): one u64 of state, every seed is good.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; 0 when the bound is 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or_default()
    }

    /// A number in `0.0..1.0`.
    pub(super) fn unit(&mut self) -> f64 {
        let high = u32::try_from(self.next() >> 32).unwrap_or_default();
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }

    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let index = self.below(items.len());
        items.get(index)
    }

    /// Lower-case letters and digits, as in the ids of the API.
    pub(super) fn id(&mut self, length: usize) -> String {
        const DIGITS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        (0..length).filter_map(|_| self.pick(DIGITS).copied().map(char::from)).collect()
    }

    /// A UUID of version 4.
    pub(super) fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        let (time, mid, last) = (high >> 32, (high >> 16) & 0xffff, high & 0x0fff);
        let (variant, node) = (0x8000 | (low >> 48) & 0x3fff, low & 0xffff_ffff_ffff);
        format!("{time:08x}-{mid:04x}-4{last:03x}-{variant:04x}-{node:012x}")
    }
}

/// A hash of the value that depends neither on key order nor on how a number is written.
pub(super) fn hash(value: &Value) -> u64 {
    hash_without(value, &[])
}

/// [`hash`] of an object without these top-level keys.
pub(super) fn hash_without(value: &Value, skipped: &[&str]) -> u64 {
    let mut fnv = Fnv::default();
    fnv.value(value, skipped);
    fnv.0
}

/// 64-bit FNV-1a.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn text(&mut self, tag: u8, text: &str) {
        self.bytes(&[tag]);
        self.bytes(text.as_bytes());
        self.bytes(&[0xff]);
    }

    fn value(&mut self, value: &Value, skipped: &[&str]) {
        match value {
            Value::Null => self.bytes(b"n"),
            Value::Bool(flag) => self.bytes(if *flag { b"t" } else { b"f" }),
            Value::Number(number) => match number.as_f64() {
                Some(float) if float.abs() < 9e15 => self.bytes(&float.to_bits().to_be_bytes()),
                _ => self.text(b'#', &number.to_string()),
            },
            Value::String(text) => self.text(b's', text),
            Value::Array(items) => {
                self.bytes(b"[");
                for item in items {
                    self.value(item, &[]);
                }
                self.bytes(b"]");
            }
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().filter(|(key, _)| !skipped.contains(&key.as_str())).collect();
                entries.sort_by_key(|(key, _)| *key);
                self.bytes(b"{");
                for (key, value) in entries {
                    self.text(b'k', key);
                    self.value(value, &[]);
                }
                self.bytes(b"}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hash_ignores_key_order_and_the_way_a_number_is_written() {
        let one: Value = serde_json::from_str(r#"{"a":1,"b":[1.0,"x"],"c":null}"#).unwrap();
        let two: Value = serde_json::from_str(r#"{"c":null,"b":[1,"x"],"a":1.0}"#).unwrap();
        assert_eq!(hash(&one), hash(&two));
        assert_ne!(hash(&one), hash(&json!({"a": 1, "b": ["x", 1.0], "c": null})));
        assert_eq!(hash_without(&json!({"a": 1, "stream": true}), &["stream"]), hash(&json!({"a": 1})));
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut one, mut two) = (Random::new(7), Random::new(7));
        assert!((0..100).all(|_| one.next() == two.next()));
        assert!((0..1000).all(|_| one.below(10) < 10 && (0.0..1.0).contains(&one.unit())));
        assert_eq!(one.below(0), 0);
    }
}
