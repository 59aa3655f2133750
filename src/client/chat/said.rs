//! What an answer says and what the provider says beside it, in whichever form a server writes it.

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use super::{
    super::loose::{Loose, text, text_of},
    Content, Part,
};
use crate::types::Role;

/// The most notices of one response.
const MAX_WARNINGS: usize = 256;

/// Reads the content of an answer: texts in parts are one text, and other parts follow it.
pub(super) fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Content>, D::Error> {
    match Loose::deserialize(deserializer)? {
        Loose::Text(text) => Ok(Some(Content::Text(text.into_owned()))),
        Loose::Value(Value::Null) => Ok(None),
        Loose::Value(Value::Array(parts)) => Ok(Some(joined(parts))),
        // Of anything else nobody knows what it says: that is no answer rather than an empty one.
        Loose::Value(value) => match text_of(&value).filter(|_| value.is_object()) {
            Some(text) => Ok(Some(Content::Text(text.into_owned()))),
            None => Err(D::Error::custom("content must be text or parts")),
        },
    }
}

/// Reads a piece of a streamed answer's text, in the same forms.
pub(in crate::client) fn piece<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(content(deserializer)?.and_then(|content| match content {
        Content::Text(text) => Some(text),
        Content::Parts(parts) => parts.into_iter().find_map(|part| match part {
            Part::Text(text) => Some(text),
            _ => None,
        }),
    }))
}

fn joined(parts: Vec<Value>) -> Content {
    let text: String = parts.iter().filter_map(text_of).collect();
    let mut others = parts.into_iter().filter(|part| text_of(part).is_none()).filter_map(|part| match part {
        Value::Object(fields) => Some(Part::from_map(fields)),
        _ => None,
    });
    let Some(other) = others.next() else { return Content::Text(text) };
    let text = Some(text).filter(|text| !text.is_empty()).map(Part::Text);
    Content::Parts(text.into_iter().chain([other]).chain(others).collect())
}

/// Reads who speaks; anything but a text is nobody.
pub(super) fn role<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Role>, D::Error> {
    Ok(text(deserializer)?.filter(|role| !role.0.is_empty()).map(|role| Role::from(&*role.0)))
}

/// Notices of the provider: a list of objects with a message, of texts, or one of either.
#[derive(Default)]
pub(in crate::client) struct Notices(Vec<String>);

impl Notices {
    pub(in crate::client) fn into_messages(self) -> Vec<String> {
        self.0
    }
}

impl<'de> Deserialize<'de> for Notices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Loose::deserialize(deserializer).map(|loose| match loose {
            Loose::Text(text) => Self(vec![text.into_owned()]),
            Loose::Value(Value::Array(notices)) => {
                Self(notices.iter().filter_map(message_of).take(MAX_WARNINGS).collect())
            }
            Loose::Value(value) => Self(message_of(&value).into_iter().collect()),
        })
    }
}

fn message_of(notice: &Value) -> Option<String> {
    text_of(notice.get("message").unwrap_or(notice)).filter(|text| !text.is_empty()).map(Into::into)
}
