//! The chunks of a streamed completion.

use std::fmt;

use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::{
    super::{
        bounded::{Bounded, one_body},
        lenient::{Count, Truthy, at_most, finish_reason, object},
        loose::{JsonText, id, said, text},
    },
    FunctionCall, Logprobs, ToolCall,
    response::{MAX_CHOICES, MAX_TOOL_CALLS},
    said::{Notices, piece},
    usage::WireUsage,
};
use crate::types::{FinishReason, ModelId, Text, Usage};

/// One chunk of a streamed completion.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Delta {
    /// What was added, by answer. Empty in a chunk that only carries usage.
    pub choices: Vec<ChoiceDelta>,
    /// Tokens, usually on the last chunk.
    pub usage: Option<Usage>,
    /// The provider's id, model and time; the same on every chunk, so that only the fold reads them.
    pub(crate) head: Option<Head>,
    /// Why all answers that are still open ended, where the server does not say it of each.
    pub(in crate::client) ends: Option<FinishReason>,
}

/// What a chunk says of the whole completion.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) model: Option<ModelId>,
    pub(crate) created: Option<u64>,
    pub(crate) warnings: Vec<String>,
}

/// What a chunk adds to one answer. `Debug` shows its size, not its text.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ChoiceDelta {
    /// Which answer.
    pub index: u32,
    /// Text to append.
    pub content: Option<String>,
    /// Reasoning to append.
    pub reasoning: Option<String>,
    /// Whether the reasoning came as `reasoning_content`.
    pub(crate) reasoning_content: bool,
    /// Pieces of tool calls.
    pub tool_calls: Vec<ToolCallDelta>,
    /// Set on the last chunks of the answer.
    pub finish_reason: Option<FinishReason>,
    pub(crate) seed: Option<u64>,
    pub(crate) token_id: Option<u64>,
    pub(crate) logprob: Option<f64>,
    /// Those of other servers: a chunk may hold several tokens. Boxed, since it is rare.
    pub(in crate::client) logprobs: Option<Box<Logprobs>>,
    /// Some servers put the usage here.
    pub(in crate::client) usage: Option<Usage>,
}

/// A piece of a tool call: the first names it, later ones add arguments. `Debug` shows their size.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ToolCallDelta {
    /// Which call of the answer.
    pub index: u32,
    /// Its id, on the first piece.
    pub id: Option<String>,
    /// The function, on the first piece.
    pub name: Option<String>,
    /// JSON text to append.
    pub arguments: String,
    /// The server did not say which call it belongs to.
    pub(super) unnumbered: bool,
}

impl Delta {
    /// The text that this chunk adds to the first answer; often empty.
    #[must_use]
    pub fn text(&self) -> &str {
        self.first().and_then(|choice| choice.content.as_deref()).unwrap_or_default()
    }

    /// The reasoning that this chunk adds to the first answer.
    #[must_use]
    pub fn reasoning(&self) -> &str {
        self.first().and_then(|choice| choice.reasoning.as_deref()).unwrap_or_default()
    }

    /// The pieces of tool calls that this chunk adds to the first answer.
    #[must_use]
    pub fn tool_calls(&self) -> &[ToolCallDelta] {
        self.first().map_or(&[], |choice| &choice.tool_calls)
    }

    /// Whether anything of an answer is in it: a chunk of only a role or usage is not.
    #[must_use]
    pub fn has_content(&self) -> bool {
        let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        self.choices
            .iter()
            .any(|choice| filled(&choice.content) || filled(&choice.reasoning) || !choice.tool_calls.is_empty())
    }

    /// Says of each of so many answers that it ended, unless it had, where the server says it of all at once. `ended` has
    /// a bit for each that had.
    pub(super) fn spread_end(&mut self, answers: u32, ended: u128) {
        let Some(reason) = self.ends.take() else { return };
        for index in (0..answers.min(u128::BITS)).filter(|index| ended & (1 << index) == 0) {
            let finish_reason = Some(reason.clone());
            match self.choices.iter_mut().find(|choice| choice.index == index) {
                Some(choice) => choice.finish_reason = finish_reason,
                None => self.choices.push(ChoiceDelta { index, finish_reason, ..ChoiceDelta::default() }),
            }
        }
    }

    /// Whether an answer ended by an error of the server.
    pub(in crate::client) fn broke_off(&self) -> bool {
        self.choices.iter().any(|choice| choice.finish_reason.as_ref().is_some_and(FinishReason::is_error))
    }

    fn first(&self) -> Option<&ChoiceDelta> {
        self.choices.iter().find(|choice| choice.index == 0)
    }
}

impl fmt::Debug for ChoiceDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChoiceDelta")
            .field("index", &self.index)
            .field("content_bytes", &self.content.as_ref().map(String::len))
            .field("reasoning_bytes", &self.reasoning.as_ref().map(String::len))
            .field("tool_calls", &self.tool_calls)
            .field("finish_reason", &self.finish_reason)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ToolCallDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolCallDelta")
            .field("index", &self.index)
            .field("id", &self.id)
            .field("name", &self.name)
            .field("arguments_bytes", &self.arguments.len())
            .finish_non_exhaustive()
    }
}

// ---- the wire

/// What every chunk may hold. Its head, the same on all of them, is left unread.
#[derive(Deserialize)]
struct WireChunk {
    #[serde(default, deserialize_with = "at_most::<MAX_CHOICES, _, _>")]
    choices: Option<Vec<ChoiceDelta>>,
    #[serde(default, deserialize_with = "object")]
    usage: Option<WireUsage>,
    warnings: Option<IgnoredAny>,
    #[serde(default)]
    error: Truthy,
}

#[derive(Deserialize)]
struct WireHead<'a> {
    #[serde(default, borrow, deserialize_with = "id")]
    id: Option<Text<'a>>,
    #[serde(default, borrow, deserialize_with = "text")]
    model: Option<Text<'a>>,
    #[serde(default)]
    created: Count,
    #[serde(default)]
    warnings: Notices,
}

#[derive(Deserialize)]
struct WireChoice<'a> {
    #[serde(default)]
    index: Count,
    #[serde(borrow)]
    delta: Option<WireDelta<'a>>,
    #[serde(default, deserialize_with = "finish_reason")]
    finish_reason: Option<FinishReason>,
    #[serde(default)]
    seed: Count,
    #[serde(default)]
    logprobs: Bounded,
    #[serde(default, deserialize_with = "object")]
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct WireDelta<'a> {
    #[serde(default, deserialize_with = "piece")]
    content: Option<String>,
    #[serde(default, deserialize_with = "said")]
    reasoning: Option<String>,
    #[serde(default, deserialize_with = "said")]
    reasoning_content: Option<String>,
    #[serde(default, borrow, deserialize_with = "at_most::<MAX_TOOL_CALLS, _, _>")]
    tool_calls: Option<Vec<WireToolDelta<'a>>>,
    /// The legacy form of a single tool call.
    #[serde(default, borrow, deserialize_with = "object")]
    function_call: Option<WireFunctionDelta<'a>>,
    #[serde(default)]
    token_id: Count,
}

#[derive(Deserialize)]
struct WireToolDelta<'a> {
    #[serde(default)]
    index: Count,
    #[serde(default, borrow, deserialize_with = "id")]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: Option<WireFunctionDelta<'a>>,
}

#[derive(Deserialize)]
struct WireFunctionDelta<'a> {
    name: Option<String>,
    #[serde(default, borrow)]
    arguments: JsonText<'a>,
}

impl<'de> Deserialize<'de> for ChoiceDelta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        WireChoice::deserialize(deserializer).map(WireChoice::into_delta)
    }
}

impl WireChoice<'_> {
    fn into_delta(self) -> ChoiceDelta {
        let mut delta = ChoiceDelta {
            index: self.index.small().unwrap_or(0),
            finish_reason: self.finish_reason,
            seed: self.seed.0,
            logprob: self.logprobs.0.as_f64(),
            logprobs: Logprobs::from_value(self.logprobs.0).map(Box::new),
            usage: self.usage.and_then(WireUsage::into_usage),
            ..ChoiceDelta::default()
        };
        if let Some(wire) = self.delta {
            delta.content = wire.content;
            delta.reasoning_content = wire.reasoning.is_none() && wire.reasoning_content.is_some();
            delta.reasoning = wire.reasoning.or(wire.reasoning_content);
            delta.token_id = wire.token_id.0;
            delta.tool_calls = wire.tool_calls.into_iter().flatten().map(WireToolDelta::into_delta).collect();
            if let Some(legacy) = wire.function_call.filter(|_| delta.tool_calls.is_empty()) {
                delta.tool_calls.extend(legacy.into_delta());
            }
        }
        delta
    }
}

impl WireToolDelta<'_> {
    fn into_delta(self) -> ToolCallDelta {
        let (name, arguments) =
            self.function.map_or_else(Default::default, |function| (function.name, function.arguments));
        let index = self.index.small();
        ToolCallDelta {
            index: index.unwrap_or(0),
            unnumbered: index.is_none(),
            id: self.id.map(|id| id.0.into_owned()),
            name,
            arguments: arguments.0.into_owned(),
        }
    }
}

impl WireFunctionDelta<'_> {
    /// A piece of the only call that there can be in this form; `None` if nothing is in it.
    fn into_delta(self) -> Option<ToolCallDelta> {
        let (name, arguments) = (self.name, self.arguments.0.into_owned());
        let is_empty = name.as_ref().is_none_or(String::is_empty) && arguments.is_empty();
        (!is_empty).then(|| ToolCallDelta { name, arguments, ..ToolCallDelta::default() })
    }
}

/// Reads the JSON of one chunk; whether its head is wanted is said beside it.
pub(in crate::client) type ChunkParser = fn(&[u8], bool) -> Result<Option<Delta>, serde_json::Error>;

/// Parses the JSON of one chunk; `Ok(None)`: it holds an error, whatever else is in it.
///
/// The head is read only where `want_head` asks for it, or where it holds a warning.
pub(super) fn parse_delta(data: &[u8], want_head: bool) -> Result<Option<Delta>, serde_json::Error> {
    let WireChunk { choices, usage, warnings, error } = one_body(|| serde_json::from_slice(data))?;
    if error.0 {
        return Ok(None);
    }
    let choices = choices.unwrap_or_default();
    let nested = || choices.iter().find_map(|choice| choice.usage);
    let usage = usage.and_then(WireUsage::into_usage).or_else(nested);
    let head = (want_head || warnings.is_some()).then(|| parse_head(data)).transpose()?;
    Ok(Some(Delta { choices, usage, head, ends: None }))
}

fn parse_head(data: &[u8]) -> Result<Head, serde_json::Error> {
    let wire: WireHead<'_> = serde_json::from_slice(data)?;
    Ok(Head {
        id: wire.id.map(|id| id.0.into_owned()).unwrap_or_default(),
        model: wire.model.map(|model| ModelId::from(&*model.0)),
        created: wire.created.0,
        warnings: wire.warnings.into_messages(),
    })
}

/// Numbers the tool calls of servers that do not: each new id begins a call, a piece without one goes to the last.
#[derive(Debug, Default)]
pub(super) struct Numbering(Vec<(u32, Box<str>)>);

impl Numbering {
    pub(super) fn number(&mut self, delta: &mut Delta) {
        for choice in &mut delta.choices {
            for piece in choice.tool_calls.iter_mut().filter(|piece| piece.unnumbered) {
                piece.index = self.index(choice.index, piece.id.as_deref().unwrap_or_default());
            }
        }
    }

    fn index(&mut self, answer: u32, id: &str) -> u32 {
        let known = || self.0.iter().filter(|(of, _)| *of == answer);
        let at = match known().position(|(_, known)| **known == *id) {
            Some(at) => at,
            None if id.is_empty() || self.0.len() >= MAX_TOOL_CALLS => known().count().saturating_sub(1),
            None => {
                let at = known().count();
                self.0.push((answer, id.into()));
                at
            }
        };
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}

/// Joins a tool call's pieces.
impl ToolCallDelta {
    pub(super) fn apply(&self, call: &mut ToolCall) {
        if let Some(id) = self.id.as_ref().filter(|id| !id.is_empty()) {
            call.id.clone_from(id);
        }
        let FunctionCall { name, arguments } = &mut call.function;
        if let Some(part) = self.name.as_ref().filter(|part| !part.is_empty()) {
            name.clone_from(part);
        }
        arguments.push_str(&self.arguments);
    }
}
