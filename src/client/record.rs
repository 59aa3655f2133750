//! Records of the provider's: fields with a type here, and whatever else they have.
//!
//! A field that is not of its type is left where it came from, so that nothing that the provider says is lost.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::lenient::whole;

/// The fields of a record that have not been taken yet.
pub(super) struct Record(pub(super) Map<String, Value>);

impl Record {
    /// Takes the first field of these names that can be read; a null is as good as absent.
    fn take<T>(&mut self, names: &[&str], read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        for name in names {
            match self.0.get(*name) {
                None => {}
                Some(Value::Null) => {
                    self.0.remove(*name);
                }
                Some(value) => {
                    if let Some(read) = read(value) {
                        self.0.remove(*name);
                        return Some(read);
                    }
                }
            }
        }
        None
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, names: &[&str]) -> Option<String> {
        self.take(names, |value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
    }

    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        self.take(&[name], Value::as_bool)
    }

    /// A count, written as a number or as text.
    pub(super) fn count(&mut self, names: &[&str]) -> Option<u64> {
        self.take(names, |value| match value {
            Value::Number(number) => whole(number),
            Value::String(text) => text.parse().ok(),
            _ => None,
        })
    }

    pub(super) fn number(&mut self, name: &str) -> Option<f64> {
        self.take(&[name], Value::as_f64)
    }

    /// A time: RFC 3339, or seconds since 1970.
    pub(super) fn time(&mut self, name: &str) -> Option<SystemTime> {
        self.take(&[name], |value| match value {
            Value::Number(number) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(whole(number)?)),
            Value::String(text) => rfc3339(text),
            _ => None,
        })
    }
}

/// A time such as `2024-01-15T14:30:00.000001Z`, after 1970.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let at: jiff::Timestamp = text.parse().ok()?;
    let nanos = u64::try_from(at.as_nanosecond()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_stays_and_a_null_is_absent() {
        let json = r#"{"a":"x","b":null,"c":[1],"n":"7","t":"1970-01-01T00:00:01.500000Z","u":12,"e":""}"#;
        let mut record = Record(serde_json::from_str(json).unwrap());
        assert_eq!(record.text(&["z", "a"]).as_deref(), Some("x"));
        assert_eq!((record.text(&["b"]), record.text(&["c"]), record.text(&["e"])), (None, None, None));
        assert_eq!(record.count(&["n"]), Some(7));
        assert_eq!(record.time("t"), Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)));
        assert_eq!(record.time("u"), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(12)));
        assert_eq!(record.0.keys().collect::<Vec<_>>(), ["c", "e"]);
    }
}
