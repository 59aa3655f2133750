//! The chunks of a streamed answer, shaped like the recorded streams.

use serde_json::{Map, Value, json};

use super::{
    chat::{Choice, Completion},
    logprobs,
};

/// Where a stream reports its usage, when `stream_options.include_usage` asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UsagePlacement {
    /// On the chunk with the last `finish_reason`, as recorded.
    #[default]
    FinalChunk,
    /// On an extra chunk with `choices: []`, as the `OpenAI` API does.
    TrailingChunk,
    /// Inside `choices[0]` of the final chunk, as seen of Kimi-K3.
    InChoice,
    /// On the final chunk and again on a trailing one.
    Twice,
    /// On an extra chunk with a choice, after the `finish_reason`.
    AfterFinish,
    /// Nowhere, although it was asked for.
    Never,
}

/// One event of the stream, before it is written.
#[derive(Debug)]
pub(super) enum Piece {
    Role(usize),
    Reasoning(usize, String),
    Text(usize, String),
    ToolStart {
        choice: usize,
        call: usize,
    },
    ToolArguments {
        choice: usize,
        call: usize,
        text: String,
        last: bool,
    },
    Finish {
        choice: usize,
        usage: UsageAt,
    },
    /// Usage on a chunk of its own, with or without a choice.
    Usage {
        with_choice: bool,
    },
    Done,
}

/// Where a finishing chunk has its usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UsageAt {
    Nowhere,
    Top,
    Choice,
}

/// Cuts the answer into events.
pub(super) fn pieces(completion: &Completion, placement: UsagePlacement) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let last = completion.choices.len().saturating_sub(1);
    for (index, choice) in completion.choices.iter().enumerate() {
        let draft = &choice.draft;
        let reasoning = draft.reasoning.as_deref().unwrap_or_default();
        if !draft.tools.is_empty() {
            pieces.push(Piece::Role(index));
        }
        pieces.extend(words(reasoning).map(|text| Piece::Reasoning(index, text)));
        pieces.extend(words(&draft.text).map(|text| Piece::Text(index, text)));
        for (call, tool) in draft.tools.iter().enumerate() {
            pieces.push(Piece::ToolStart { choice: index, call });
            let mut arguments = words(&tool.arguments).peekable();
            while let Some(text) = arguments.next() {
                let last = arguments.peek().is_none() && call + 1 == draft.tools.len();
                pieces.push(Piece::ToolArguments { choice: index, call, text, last });
            }
        }
        let usage = match placement {
            UsagePlacement::FinalChunk | UsagePlacement::Twice if index == last => UsageAt::Top,
            UsagePlacement::InChoice if index == last => UsageAt::Choice,
            _ => UsageAt::Nowhere,
        };
        pieces.push(Piece::Finish { choice: index, usage });
    }
    match placement {
        UsagePlacement::TrailingChunk | UsagePlacement::Twice => pieces.push(Piece::Usage { with_choice: false }),
        UsagePlacement::AfterFinish => pieces.push(Piece::Usage { with_choice: true }),
        _ => {}
    }
    pieces.push(Piece::Done);
    pieces
}

/// Pieces of about a word: a piece ends before white space, or after twelve bytes.
pub(super) fn words(text: &str) -> impl Iterator<Item = String> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let long_enough = |(at, c): &(usize, char)| *at > 0 && (c.is_whitespace() || *at >= 12);
        let end = rest.char_indices().find(long_enough).map_or(rest.len(), |(at, _)| at);
        let (word, tail) = rest.split_at_checked(end)?;
        rest = tail;
        (!word.is_empty()).then(|| word.to_owned())
    })
}

impl Piece {
    /// Bytes of the answer in this event.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Reasoning(_, text) | Self::Text(_, text) | Self::ToolArguments { text, .. } => text.len(),
            _ => 0,
        }
    }

    /// The event as it is written.
    pub(super) fn render(&self, completion: &Completion) -> String {
        match self.chunk(completion) {
            Some(chunk) => event(&chunk),
            None => "data: [DONE]\n\n".to_owned(),
        }
    }

    fn chunk(&self, completion: &Completion) -> Option<Value> {
        if completion.plain {
            return self.plain_chunk(completion);
        }
        let frame = Frame { completion };
        Some(match self {
            Self::Role(choice) => frame.role(*choice),
            Self::Reasoning(choice, text) => {
                frame.plain(*choice, "", Value::Null, &[(completion.reasoning_key, json!(text))])
            }
            Self::Text(choice, text) => frame.plain(*choice, text, Value::Null, &[]),
            Self::ToolStart { choice, call } => frame.tool_start(*choice, *call),
            Self::ToolArguments { choice, call, text, last } => frame.tool_arguments(*choice, *call, text, *last),
            Self::Finish { choice, usage } => frame.finish(*choice, *usage),
            Self::Usage { with_choice: true } => frame.with_usage(frame.plain(0, "", Value::Null, &[])),
            Self::Usage { with_choice: false } => frame.with_usage(frame.around(&json!([]), false)),
            Self::Done => return None,
        })
    }
}

/// Chunks of a continued prompt: its token, seed and finish reason stand beside the choices.
impl Piece {
    fn plain_chunk(&self, completion: &Completion) -> Option<Value> {
        let (index, text, end) = match self {
            Self::Text(choice, text) => (*choice, text.as_str(), None),
            Self::Finish { choice, usage } => (*choice, "", Some(*usage)),
            Self::Done => return None,
            _ => (0, "", None),
        };
        let choice = completion.choices.get(index);
        let finish = end.and(choice).map(|choice| choice.finish);
        let with_usage = matches!(end, Some(UsageAt::Top | UsageAt::Choice)) || matches!(self, Self::Usage { .. });
        let id = if end.is_some() { 128_009 } else { logprobs::id(text) };
        let token = json!({
            "id": id,
            "text": text,
            "logprob": logprobs::of(text),
            "special": end.is_some(),
        });
        let delta = json!({"token_id": id, "role": "assistant", "content": text});
        let choices = match self {
            Self::Usage { with_choice: false } => json!([]),
            _ => json!([{"index": index, "text": text, "delta": delta}]),
        };
        Some(json!({
            "id": completion.id,
            "object": "completion.chunk",
            "created": completion.created,
            "model": completion.model,
            "token": token,
            "choices": choices,
            "usage": if with_usage { completion.usage() } else { Value::Null },
            "seed": end.and(choice).map(|choice| choice.seed),
            "finish_reason": finish,
        }))
    }
}

/// A `data:` event with this JSON.
pub(super) fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// Builds chunks around the fixed parts of one completion.
struct Frame<'a> {
    completion: &'a Completion,
}

impl Frame<'_> {
    fn choice(&self, index: usize) -> Option<&Choice> {
        self.completion.choices.get(index)
    }

    /// Streams with a tool call lack `seed` and `usage` until the end; the others have them as `null`.
    fn has_tool(&self, index: usize) -> bool {
        self.choice(index).is_some_and(|choice| !choice.draft.tools.is_empty())
    }

    fn around(&self, choices: &Value, null_usage: bool) -> Value {
        let Completion { id, created, model, .. } = self.completion;
        let mut chunk = json!({
            "id": id,
            "object": "chat.completion.chunk",
            "created": created,
            "choices": choices,
            "model": model,
        });
        if null_usage {
            insert(&mut chunk, "usage", Value::Null);
        }
        chunk
    }

    fn with_usage(&self, mut chunk: Value) -> Value {
        insert(&mut chunk, "usage", self.completion.usage());
        chunk
    }

    /// A chunk with one choice whose delta has `text` and the given fields beside it.
    fn plain(&self, index: usize, text: &str, finish: Value, extra: &[(&str, Value)]) -> Value {
        let mut delta = json!({"token_id": token_id(text), "role": "assistant", "content": text});
        for (name, value) in extra {
            insert(&mut delta, name, value.clone());
        }
        let mut choice = Map::new();
        choice.insert("index".into(), json!(index));
        choice.insert("text".into(), json!(text));
        let logprob = self.completion.logprobs.filter(|_| !text.is_empty()).map(|_| logprobs::of(text));
        choice.insert("logprobs".into(), json!(logprob));
        choice.insert("finish_reason".into(), finish);
        choice.insert("delta".into(), delta);
        if !self.has_tool(index) {
            choice.insert("seed".into(), Value::Null);
        }
        self.around(&json!([choice]), !self.has_tool(index))
    }

    fn role(&self, index: usize) -> Value {
        let mut chunk = self.plain(index, "", Value::Null, &[]);
        if let Some(choice) = chunk.pointer_mut("/choices/0") {
            insert(choice, "role", json!("assistant"));
        }
        chunk
    }

    fn tool_start(&self, index: usize, call: usize) -> Value {
        let tool = self.choice(index).and_then(|choice| choice.draft.tools.get(call));
        let call = tool.map(|tool| {
            let function = json!({"name": tool.name, "arguments": ""});
            json!({"index": call, "id": tool.id, "type": "function", "function": function})
        });
        self.plain(index, "", Value::Null, &[("tool_calls", json!([call]))])
    }

    /// As recorded, the last arguments already carry the finish reason, which then comes again.
    fn tool_arguments(&self, index: usize, call: usize, text: &str, last: bool) -> Value {
        let finish = self.choice(index).filter(|_| last).map(|choice| choice.finish);
        let call = json!({"index": call, "function": {"arguments": text}});
        self.plain(index, "", json!(finish), &[("tool_calls", json!([call]))])
    }

    fn finish(&self, index: usize, usage: UsageAt) -> Value {
        let Some(Choice { finish, seed, .. }) = self.choice(index) else { return Value::Null };
        let mut chunk = self.plain(index, "", json!(finish), &[]);
        if let Some(delta) = chunk.pointer_mut("/choices/0/delta") {
            insert(delta, "token_id", json!(128_009));
        }
        if let Some(choice) = chunk.pointer_mut("/choices/0") {
            insert(choice, "seed", json!(seed));
            if usage == UsageAt::Choice {
                insert(choice, "usage", self.completion.usage());
            }
        }
        if usage == UsageAt::Top { self.with_usage(chunk) } else { chunk }
    }
}

/// Some tokens have an id, others `null`.
fn token_id(text: &str) -> Option<usize> {
    (!text.is_empty() && text.len().is_multiple_of(2)).then_some(1_000 + text.len())
}

fn insert(value: &mut Value, name: &str, field: Value) {
    if let Some(map) = value.as_object_mut() {
        map.insert(name.to_owned(), field);
    }
}

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
