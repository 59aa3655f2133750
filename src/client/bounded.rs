//! JSON of any shape within a bound: two bytes of an array become thirty-two in memory.

use std::{cell::Cell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// The most values in one body: 4 to 8 MiB in memory, and the log probabilities of some fifteen thousand tokens with
/// five alternatives each.
const MAX_VALUES: usize = 131_072;

thread_local! {
    /// What is left for the body that this thread reads. Derived readers pass nothing down, and reading never waits.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Reads a body: all of its [`Bounded`] values share one bound.
pub(super) fn one_body<T>(read: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            LEFT.set(None);
        }
    }
    LEFT.set(Some(MAX_VALUES));
    let _reset = Reset;
    read()
}

/// How `serde_json` hands over a number where another crate switched on `arbitrary_precision`.
const NUMBER: &str = "$serde_json::private::Number";

/// A JSON value of at most so many values, nested ones counted; by itself, or with the others of [`one_body`].
#[derive(Debug, Default)]
pub(super) struct Bounded(pub(super) Value);

impl<'de> Deserialize<'de> for Bounded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let left = Cell::new(LEFT.get().unwrap_or(MAX_VALUES));
        let value = Seed(&left).deserialize(deserializer)?;
        LEFT.set(LEFT.get().map(|_| left.get()));
        Ok(Self(value))
    }
}

/// Reads a value, paying for each from what is left.
#[derive(Clone, Copy)]
struct Seed<'c>(&'c Cell<usize>);

impl Seed<'_> {
    fn pay<E: Error>(self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| E::custom("too many values"))?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.pay()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JSON of at most {MAX_VALUES} values")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == NUMBER {
                let text: String = map.next_value()?;
                return text.parse::<Number>().map(Value::Number).map_err(A::Error::custom);
            }
            let value = map.next_value_seed(self)?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Value, serde_json::Error> {
        serde_json::from_str(json).map(|Bounded(value)| value)
    }

    #[test]
    fn a_value_reads_as_it_does_without_a_bound() {
        let json = r#"{"a":[1,-2,1.5,18446744073709551615,"é\n",null,true,{"b":{}}],"c":"x"}"#;
        assert_eq!(read(json).unwrap(), serde_json::from_str::<Value>(json).unwrap());
        assert!(read(&"[".repeat(200)).is_err(), "nested too deep");
        assert!(read("{").is_err());
    }

    #[test]
    fn the_values_of_one_body_share_the_bound() {
        let half = format!("[{}0]", "0,".repeat(MAX_VALUES / 2));
        assert!(one_body(|| read(&half).and_then(|_| read(&half))).is_err());
        assert!(read(&half).and_then(|_| read(&half)).is_ok(), "outside of a body each has its own");
        assert!(one_body(|| read(&half)).is_ok(), "and the next body starts anew");
    }

    #[test]
    fn more_values_than_the_bound_are_an_error_before_they_are_read() {
        let flat = |count: usize| format!("[{}0]", "0,".repeat(count));
        assert!(read(&flat(MAX_VALUES - 2)).is_ok());
        assert!(read(&flat(MAX_VALUES)).unwrap_err().to_string().contains("too many values"));
        let nested = format!("[{}[]]", "[[],[]],".repeat(MAX_VALUES / 2));
        assert!(read(&nested).is_err());
        let fields: Vec<String> = (0..MAX_VALUES).map(|n| format!("\"{n}\":0")).collect();
        let object = format!("{{{}}}", fields.join(","));
        assert!(read(&object).is_err());
    }
}
