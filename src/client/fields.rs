//! Requests as JSON objects: fields with a type here, and fields that this version does not know.
//!
//! `#[serde(flatten)]` would read numbers wrongly where another crate switches on `serde_json/arbitrary_precision`, so
//! that it is used for writing alone: reading parts the fields by name.

use serde::{Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Map, Value};

use crate::types::ModelId;

/// Reads an object: `typed` takes the named fields that are not null, the rest is given back as it came.
pub(super) fn read<'de, T, D: Deserializer<'de>>(
    deserializer: D,
    names: &[&str],
    typed: impl FnOnce(Value) -> Result<T, serde_json::Error>,
) -> Result<(T, Map<String, Value>), D::Error> {
    let map: Map<String, Value> = serde::Deserialize::deserialize(deserializer)?;
    let is_named = |name: &String| names.contains(&name.as_str());
    let (known, extra): (Vec<_>, Vec<_>) = map.into_iter().partition(|(name, _)| is_named(name));
    let known = known.into_iter().filter(|(_, value)| !value.is_null()).collect();
    Ok((typed(Value::Object(known)).map_err(D::Error::custom)?, extra.into_iter().collect()))
}

/// Whether a field of this name has a place of its own, or is set by the client itself.
pub(crate) fn is_taken(name: &str, names: &[&str]) -> bool {
    names.contains(&name) || matches!(name, "model" | "stream" | "stream_options")
}

/// A request on the wire, borrowed: the model of this attempt before the caller's input.
pub(super) struct Wire<'a, T> {
    pub(super) model: &'a ModelId,
    pub(super) input: &'a T,
    pub(super) stream: bool,
}

#[derive(Serialize)]
struct Fields<'a, T> {
    model: &'a ModelId,
    #[serde(flatten)]
    input: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    /// Without it some models send no usage at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

impl<T: Serialize> Serialize for Wire<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stream_options = self.stream.then_some(StreamOptions { include_usage: true });
        let fields =
            Fields { model: self.model, input: self.input, stream: self.stream.then_some(true), stream_options };
        fields.serialize(serializer)
    }
}
