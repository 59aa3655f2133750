//! Texts that servers write as something else: a number for an id, an object for JSON, parts for a whole.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use serde_json::Value;

use super::bounded::Bounded;
use crate::types::Text;

/// A text, borrowed where it can be, or whatever else stands in its place.
pub(super) enum Loose<'a> {
    Text(Cow<'a, str>),
    /// Never a text.
    Value(Value),
}

impl<'de: 'a, 'a> Deserialize<'de> for Loose<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Loose::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Loose::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Loose::Text(Cow::Owned(text)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Loose::Value(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Loose::Value(value.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Loose::Value(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Loose::Value(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Loose::Value(number.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        Bounded::deserialize(SeqAccessDeserializer::new(list)).map(|Bounded(value)| Loose::Value(value))
    }

    /// With `serde_json/arbitrary_precision`, which another crate may switch on, a number comes as a map.
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Bounded::deserialize(MapAccessDeserializer::new(map)).map(|Bounded(value)| Loose::Value(value))
    }
}

/// JSON in a text. Some servers send the JSON itself: it is written out.
#[derive(Default)]
pub(super) struct JsonText<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Loose::deserialize(deserializer).map(|loose| match loose {
            Loose::Text(text) => Self(text),
            Loose::Value(Value::Null) => Self::default(),
            Loose::Value(value) => Self(value.to_string().into()),
        })
    }
}

/// Reads [`JsonText`] as a text of one's own.
pub(super) fn json_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    JsonText::deserialize(deserializer).map(|text| text.0.into_owned())
}

/// Reads a text; anything else is none.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Text<'de>>, D::Error> {
    Loose::deserialize(deserializer).map(|loose| match loose {
        Loose::Text(text) => Some(Text(text)),
        Loose::Value(_) => None,
    })
}

/// Reads an id, which may be a number; anything else is none.
pub(super) fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Text<'de>>, D::Error> {
    Loose::deserialize(deserializer).map(|loose| match loose {
        Loose::Text(text) => Some(Text(text)),
        Loose::Value(Value::Number(number)) => Some(Text(number.to_string().into())),
        Loose::Value(_) => None,
    })
}

/// Reads what is said; parts are joined, and what is no text is none.
pub(super) fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Loose::deserialize(deserializer).map(|loose| match loose {
        Loose::Text(text) => Some(text.into_owned()),
        Loose::Value(Value::Array(parts)) => {
            let texts: Vec<_> = parts.iter().filter_map(text_of).collect();
            (!texts.is_empty()).then(|| texts.concat())
        }
        Loose::Value(value) => text_of(&value).map(Cow::into_owned),
    })
}

/// The text of a part, in the form of the API or as it is.
pub(super) fn text_of(part: &Value) -> Option<Cow<'_, str>> {
    match part {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Object(fields) => match fields.get("type") {
            None => fields.get("text"),
            Some(kind) if kind == "text" || kind == "output_text" => fields.get("text"),
            Some(_) => None,
        }
        .and_then(Value::as_str)
        .map(Cow::Borrowed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_however_they_are_written() {
        for (json, written, named, spoken) in [
            (r#""a\n""#, "a\n", Some("a\n"), Some("a\n")),
            ("5", "5", Some("5"), Some("5")),
            ("-0.5", "-0.5", Some("-0.5"), Some("-0.5")),
            ("true", "true", None, None),
            ("null", "", None, None),
            ("[]", "[]", None, None),
            (r#"["a",{"text":"b"},null]"#, r#"["a",{"text":"b"},null]"#, None, Some("ab")),
            (r#"{"thinking":"a"}"#, r#"{"thinking":"a"}"#, None, None),
        ] {
            let from = || serde_json::Deserializer::from_str(json);
            assert_eq!(json_text(&mut from()).unwrap(), written);
            assert_eq!(id(&mut from()).unwrap().as_ref().map(|id| &*id.0), named, "{json}");
            assert_eq!(said(&mut from()).unwrap().as_deref(), spoken, "{json}");
        }
        let thought = serde_json::json!({"type": "thinking", "text": "a"});
        assert_eq!(text_of(&thought), None);
    }
}
