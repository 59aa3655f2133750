//! Hashing fields so that no two different sequences of them give the same bytes.

use serde_json::{Map, Number, Value};

/// Fields are gathered here before they are hashed: BLAKE3 works in blocks, and most fields are a byte.
const BUFFER: usize = 512;
/// A text of at least this many bytes is hashed by itself and its digest is written instead: a hash that starts at the
/// text's first byte uses all of the processor's lanes.
const LONG: usize = 1_024;

/// A decimal number of so many digits is one float and no other.
const FLOAT_DIGITS: usize = 17;

/// Writes fields, each with a tag or its length before it.
pub(super) struct FieldHasher {
    hash: blake3::Hasher,
    buffer: [u8; BUFFER],
    used: usize,
}

impl FieldHasher {
    pub(super) fn new() -> Self {
        Self { hash: blake3::Hasher::new(), buffer: [0; BUFFER], used: 0 }
    }

    pub(super) fn finish(mut self) -> [u8; 32] {
        self.flush();
        *self.hash.finalize().as_bytes()
    }

    fn flush(&mut self) {
        self.hash.update(self.buffer.get(..self.used).unwrap_or_default());
        self.used = 0;
    }

    fn raw(&mut self, bytes: &[u8]) {
        if self.used + bytes.len() > BUFFER {
            self.flush();
        }
        match self.buffer.get_mut(self.used..self.used + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.used += bytes.len();
            }
            None => {
                self.hash.update(bytes);
            }
        }
    }

    pub(super) fn tag(&mut self, tag: u8) {
        self.raw(&[tag]);
    }

    /// Seven bits a byte, the last one without the high bit: prefix-free, and one byte for most numbers.
    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.tag(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.tag(number.to_le_bytes()[0]);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        if bytes.len() < LONG {
            self.raw(bytes);
        } else {
            self.raw(blake3::hash(bytes).as_bytes());
        }
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn tagged(&mut self, tag: u8, text: &str) {
        self.tag(tag);
        self.text(text);
    }

    pub(super) fn some<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.tag(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn some_text(&mut self, text: Option<&str>) {
        self.some(text, Self::text);
    }

    /// −0 and 0 mean the same.
    pub(super) fn float(&mut self, value: f64) {
        self.raw(&(value + 0.0).to_bits().to_le_bytes());
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| write(self, item));
    }

    /// Sorted, since another crate may switch on `serde_json/preserve_order`.
    pub(super) fn object(&mut self, map: &Map<String, Value>) {
        let mut fields: Vec<_> = map.iter().collect();
        fields.sort_unstable_by_key(|(name, _)| *name);
        self.list(&fields, |hash, (name, value)| {
            hash.text(name);
            hash.json(value);
        });
    }

    /// By value: `1`, `1.0` and `1e0` are one number, whatever `serde_json/arbitrary_precision` keeps of their text.
    pub(super) fn json(&mut self, value: &Value) {
        match value {
            Value::Null => self.tag(0),
            Value::Bool(value) => self.tag(1 + u8::from(*value)),
            Value::Number(number) => self.json_number(number),
            Value::String(text) => self.tagged(5, text),
            Value::Array(items) => {
                self.tag(6);
                self.list(items, Self::json);
            }
            Value::Object(map) => {
                self.tag(7);
                self.object(map);
            }
        }
    }

    fn json_number(&mut self, number: &Number) {
        let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        let float = number.as_f64().unwrap_or(f64::NAN);
        // A float that is whole is exactly one whole number, however it is spelled.
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^126")]
        let whole = whole.or_else(|| (float.fract() == 0.0 && float.abs() <= 8.0e37).then_some(float as i128));
        // More digits than a float holds: another crate has switched on `serde_json/arbitrary_precision`, and they are
        // sent as they stand.
        if number.is_f64() {
            let text = number.to_string();
            if digits(&text) > FLOAT_DIGITS {
                return self.tagged(8, &text);
            }
        }
        match whole {
            Some(whole) => {
                self.tag(3);
                self.raw(&whole.to_le_bytes());
            }
            None => {
                self.tag(4);
                self.float(float);
            }
        }
    }
}

/// Digits of a number but for zeros at its ends, and without its exponent.
fn digits(number: &str) -> usize {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(write: impl FnOnce(&mut FieldHasher)) -> [u8; 32] {
        let mut hasher = FieldHasher::new();
        write(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn where_the_buffer_ends_does_not_matter_and_what_is_long_is_told_apart() {
        for length in [0, 1, BUFFER - 2, BUFFER - 1, BUFFER, LONG - 1, LONG, LONG + 1, 10_000] {
            let text = "x".repeat(length);
            let once = hash(|hasher| hasher.text(&text));
            let other = hash(|hasher| hasher.text(&format!("{text}y")));
            let split = hash(|hasher| {
                let (a, b) = text.split_at(length / 2);
                hasher.text(a);
                hasher.text(b);
            });
            assert!(once != other && once != split, "{length}");
            assert_eq!(once, hash(|hasher| hasher.text(&text)), "{length}");
        }
        let digest = *blake3::hash(&[b'x'; LONG]).as_bytes();
        assert_ne!(hash(|hasher| hasher.bytes(&[b'x'; LONG])), hash(|hasher| hasher.bytes(&digest)));
    }

    #[test]
    fn a_number_is_its_value_however_it_is_spelled() {
        let of = |text: &str| hash(|hasher| hasher.json(&serde_json::from_str(text).unwrap()));
        for same in [
            ["1", "1.0", "1e0"],
            ["10000000000000000", "1e16", "10000000000000000.0"],
            ["-0.5", "-5e-1", "-0.50"],
            ["18446744073709551615", "18446744073709551615", "18446744073709551615"],
        ] {
            assert!(same.iter().all(|text| of(text) == of(same[0])), "{same:?}");
        }
        for (one, other) in [("9007199254740993", "9007199254740992"), ("0.1", "0.10000000000000002"), ("1", "-1")] {
            assert_ne!(of(one), of(other), "{one} {other}");
        }
    }

    #[test]
    fn digits_are_counted_without_zeros_at_the_ends() {
        for (number, count) in [("0.1", 1), ("-120e5", 2), ("1.000", 1), ("0.10000000000000002", 17), ("0", 0)] {
            assert_eq!(digits(number), count, "{number}");
        }
    }
}
