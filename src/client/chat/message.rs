//! Messages of a conversation.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::{bounded::Bounded, lenient::or_default, loose::json_text};
use crate::types::Role;

/// One turn of a conversation.
///
/// ```
/// use together_inference::client::Message;
///
/// let turn = Message::user("Why is the sky blue?");
/// assert_eq!(serde_json::to_string(&turn)?, r#"{"role":"user","content":"Why is the sky blue?"}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; absent in an assistant's turn that only calls tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// The name of the participant, where a model tells several apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The calls that an assistant's turn asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's turn answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What the model thought, under the name `reasoning`. Opaque: it is sent back as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same under the name `reasoning_content`, which some models use instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Fields that this version does not know, sent as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A turn of this role.
    pub fn new(role: impl Into<Role>, content: impl Into<Content>) -> Self {
        Self { content: Some(content.into()), ..Self::empty(role.into()) }
    }

    /// A turn that says nothing yet.
    pub(crate) fn empty(role: Role) -> Self {
        Self {
            role,
            content: None,
            name: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            reasoning: None,
            reasoning_content: None,
            extra: Map::new(),
        }
    }

    /// Instructions to the model.
    pub fn system(content: impl Into<Content>) -> Self {
        Self::new(Role::System, content)
    }

    /// The user's turn.
    pub fn user(content: impl Into<Content>) -> Self {
        Self::new(Role::User, content)
    }

    /// The model's turn.
    pub fn assistant(content: impl Into<Content>) -> Self {
        Self::new(Role::Assistant, content)
    }

    /// The result of the tool call with this id.
    pub fn tool(call_id: impl Into<String>, content: impl Into<Content>) -> Self {
        Self { tool_call_id: Some(call_id.into()), ..Self::new(Role::Tool, content) }
    }

    /// The text of the turn; the text parts joined, if it has parts.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => parts.iter().filter_map(Part::as_text).collect(),
        }
    }

    /// Whether a part of the turn is not text.
    #[must_use]
    pub fn has_media(&self) -> bool {
        matches!(&self.content, Some(Content::Parts(parts)) if parts.iter().any(|part| part.as_text().is_none()))
    }

    /// Everything in the turn that the model reads, piece by piece, images aside.
    pub(crate) fn each_text(&self, read: &mut dyn FnMut(&str)) {
        match &self.content {
            None => {}
            Some(Content::Text(text)) => read(text),
            Some(Content::Parts(parts)) => parts.iter().filter_map(Part::as_text).for_each(&mut *read),
        }
        for call in &self.tool_calls {
            read(&call.function.name);
            read(&call.function.arguments);
        }
        [&self.reasoning, &self.reasoning_content, &self.name].into_iter().flatten().for_each(|text| read(text));
    }

    /// Bytes of everything in the turn that the model reads, images aside.
    pub(crate) fn text_bytes(&self) -> usize {
        let content = match &self.content {
            None => 0,
            Some(Content::Text(text)) => text.len(),
            Some(Content::Parts(parts)) => parts.iter().filter_map(Part::as_text).map(str::len).sum(),
        };
        let calls: usize =
            self.tool_calls.iter().map(|call| call.function.name.len() + call.function.arguments.len()).sum();
        let reasoning =
            [&self.reasoning, &self.reasoning_content].into_iter().flatten().map(String::len).sum::<usize>();
        content + calls + reasoning + self.name.as_ref().map_or(0, String::len)
    }
}

/// What a turn says: text, or parts of several kinds.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Text, pictures and sounds in order.
    Parts(Vec<Part>),
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<Part>> for Content {
    fn from(parts: Vec<Part>) -> Self {
        Self::Parts(parts)
    }
}

impl Serialize for Content {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Parts(parts) => parts.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Bounded::deserialize(deserializer)?.0 {
            Value::String(text) => Ok(Self::Text(text)),
            parts @ Value::Array(_) => {
                Vec::deserialize(parts).map(Self::Parts).map_err(<D::Error as serde::de::Error>::custom)
            }
            _ => Err(<D::Error as serde::de::Error>::custom("content must be text or an array of parts")),
        }
    }
}

/// A part of a turn.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum Part {
    /// Text.
    Text(String),
    /// A picture, by URL or as a `data:` URL.
    ImageUrl(String),
    /// A film, by URL.
    VideoUrl(String),
    /// A sound, by URL.
    AudioUrl(String),
    /// A sound in the request itself.
    InputAudio {
        /// Base64.
        data: String,
        /// Such as `wav`.
        format: String,
    },
    /// A kind of part that this version does not know, kept as it came.
    Other(Map<String, Value>),
}

impl Part {
    /// A picture in the request itself: the bytes of a file of this type, such as `image/png`.
    ///
    /// ```
    /// use together_inference::client::Part;
    ///
    /// assert_eq!(Part::image(b"hi", "image/png"), Part::ImageUrl("data:image/png;base64,aGk=".to_owned()));
    /// ```
    #[must_use]
    pub fn image(bytes: &[u8], mime: &str) -> Self {
        let mut url = format!("data:{mime};base64,");
        BASE64_STANDARD.encode_string(bytes, &mut url);
        Self::ImageUrl(url)
    }

    /// A sound in the request itself: the bytes of a WAV file, the only form that the API names.
    ///
    /// ```
    /// use together_inference::client::{Message, Part};
    ///
    /// let turn = Message::user(vec![Part::Text("What is said?".to_owned()), Part::wav(b"RIFF")]);
    /// assert!(turn.has_media());
    /// ```
    #[must_use]
    pub fn wav(bytes: &[u8]) -> Self {
        Self::InputAudio { data: BASE64_STANDARD.encode(bytes), format: "wav".to_owned() }
    }

    /// The text, if the part is text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The API's form: an object with `type` and a field of that name.
    fn to_map(&self) -> Map<String, Value> {
        let url = |url: &str| Value::Object(Map::from_iter([("url".to_owned(), url.into())]));
        let (kind, value) = match self {
            Self::Text(text) => ("text", text.as_str().into()),
            Self::ImageUrl(at) => ("image_url", url(at)),
            Self::VideoUrl(at) => ("video_url", url(at)),
            Self::AudioUrl(at) => ("audio_url", url(at)),
            Self::InputAudio { data, format } => {
                let audio = [("data".to_owned(), data.as_str().into()), ("format".to_owned(), format.as_str().into())];
                ("input_audio", Value::Object(Map::from_iter(audio)))
            }
            Self::Other(map) => return map.clone(),
        };
        Map::from_iter([("type".to_owned(), kind.into()), (kind.to_owned(), value)])
    }

    /// Reads the API's form; whatever is not exactly a known kind is kept whole.
    pub(super) fn from_map(map: Map<String, Value>) -> Self {
        let url = |field: &str| match map.get(field)? {
            Value::Object(inner) if inner.len() == 1 => inner.get("url")?.as_str().map(str::to_owned),
            _ => None,
        };
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let known = match (map.get("type").and_then(Value::as_str), map.len()) {
            (Some("text"), 2) => text(map.get("text")).map(Self::Text),
            (Some("image_url"), 2) => url("image_url").map(Self::ImageUrl),
            (Some("video_url"), 2) => url("video_url").map(Self::VideoUrl),
            (Some("audio_url"), 2) => url("audio_url").map(Self::AudioUrl),
            (Some("input_audio"), 2) => map.get("input_audio").and_then(Value::as_object).and_then(|audio| {
                let (data, format) = (text(audio.get("data"))?, text(audio.get("format"))?);
                (audio.len() == 2).then_some(Self::InputAudio { data, format })
            }),
            _ => None,
        };
        known.unwrap_or(Self::Other(map))
    }
}

impl Serialize for Part {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_map().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from_map)
    }
}

/// A call of a tool that the model asks for. Nothing is executed by this crate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ToolCall {
    /// Pass it back with the result: [`Message::tool`].
    #[serde(default, deserialize_with = "json_text")]
    pub id: String,
    /// `function`.
    #[serde(rename = "type", default = "function", deserialize_with = "kind")]
    pub kind: String,
    /// Which function, with what.
    pub function: FunctionCall,
}

fn function() -> String {
    "function".to_owned()
}

fn kind<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::deserialize(deserializer).map(|kind| kind.unwrap_or_else(function))
}

impl ToolCall {
    /// A call of a function with JSON arguments.
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        let function = FunctionCall { name: name.into(), arguments: arguments.into() };
        Self { id: id.into(), kind: self::function(), function }
    }

    /// The name of the function.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.function.name
    }

    /// The arguments, typed.
    ///
    /// # Errors
    ///
    /// When the model's text is not JSON of that type. Models do get it wrong: answer with the error as the tool's
    /// result.
    pub fn arguments<T: for<'de> Deserialize<'de>>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.function.arguments)
    }
}

/// A function's name and its arguments as the model wrote them.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FunctionCall {
    /// The name.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// JSON text, not validated.
    #[serde(default, deserialize_with = "json_text")]
    pub arguments: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_parts_and_roles_are_kept() {
        let wire = r#"{"role":"critic","content":[{"type":"text","text":"a"},{"type":"smell","smell":{"of":"rain"}}]}"#;
        let message: Message = serde_json::from_str(wire).unwrap();
        assert_eq!(message.role.as_str(), "critic");
        let again: Message = serde_json::from_str(&serde_json::to_string(&message).unwrap()).unwrap();
        assert_eq!(again, message);
        assert!(message.has_media());
    }

    #[test]
    fn a_known_part_with_extra_fields_loses_none() {
        let wire = r#"{"type":"image_url","image_url":{"url":"https://x","detail":"low"}}"#;
        let part: Part = serde_json::from_str(wire).unwrap();
        assert!(matches!(part, Part::Other(_)));
        assert_eq!(serde_json::to_value(&part).unwrap(), serde_json::from_str::<Value>(wire).unwrap());
    }
}
