//! How many tokens a request takes: at a glance, as expected, at most.

use serde_json::Value;

use super::{InferenceRequest, Input, media};
use crate::{
    client::{Content, Document, Message, Tool},
    types::Usage,
};

/// Tokens around a message at most: its role and separators.
const MESSAGE_TOKENS: u64 = 16;
/// And as most templates have it.
const USUAL_MESSAGE_TOKENS: u64 = 4;
/// A medium is expected to have this part of the most that it can have.
const MEDIA_PART: u64 = 8;

/// What policies read.
impl InferenceRequest {
    /// The most tokens that the prompt can have: a UTF-8 byte is at least a token's share, 16 more a message, text or
    /// document, and the tools' schemas in full.
    ///
    /// A picture counts as 4,096 to 16,384 by its size, where that can be read out of a `data:` URL, else as 16,384;
    /// sound and film by their length or more than they can have. Of a real tokenizer's count it is about four times
    /// as much for English text.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// assert_eq!(InferenceRequest::chat("hello").prompt_tokens_at_most(), 5 + 16);
    /// assert_eq!(InferenceRequest::chat("hello").system("é").prompt_tokens_at_most(), 5 + 16 + 2 + 16);
    /// assert_eq!(InferenceRequest::embedding(["sky", "sea"]).prompt_tokens_at_most(), 2 * (3 + 16));
    /// ```
    #[must_use]
    pub fn prompt_tokens_at_most(&self) -> u64 {
        let text = |bytes: usize| bytes as u64 + MESSAGE_TOKENS;
        match &self.input {
            Input::Chat(input) => {
                let tools: usize = input.tools.iter().map(tool_bytes).sum();
                input.messages.iter().map(message_tokens).sum::<u64>() + tools as u64
            }
            Input::Prompt(input) => text(input.prompt.len()),
            Input::Embedding(input) => input.texts.iter().map(|one| text(one.len())).sum(),
            Input::Image(input) => text(input.prompt.len() + input.negative_prompt.as_ref().map_or(0, String::len)),
            // Each document is read together with the query.
            Input::Rerank(input) => {
                input.documents.iter().map(|one| text(document_bytes(one) + input.query.len())).sum()
            }
        }
    }

    /// The tokens that the prompt has, at a glance: four bytes a token. For a limiter, which asks at every attempt
    /// and is told the truth soon.
    pub(crate) fn prompt_tokens_roughly(&self) -> u64 {
        let quarter = |bytes: usize| (bytes as u64).div_ceil(4);
        match &self.input {
            Input::Chat(input) => {
                let bytes: usize = input.messages.iter().map(Message::text_bytes).sum();
                quarter(bytes) + 4 * input.messages.len() as u64
            }
            Input::Prompt(input) => quarter(input.prompt.len()),
            Input::Embedding(input) => input.texts.iter().map(|text| quarter(text.len())).sum(),
            // Pictures are priced by what is made.
            Input::Image(_) => 0,
            Input::Rerank(input) => {
                let query = input.query.len();
                input.documents.iter().map(|document| quarter(document_bytes(document) + query)).sum()
            }
        }
    }

    /// How many answers it asks for.
    pub(crate) fn answers(&self) -> u32 {
        match &self.input {
            Input::Chat(input) => input.n.unwrap_or(1).max(1),
            Input::Prompt(input) => input.n.unwrap_or(1).max(1),
            Input::Embedding(_) | Input::Image(_) | Input::Rerank(_) => 1,
        }
    }

    /// The most that an answer may use, where each of its answers has at most so many tokens unless the request says
    /// otherwise.
    pub(crate) fn usage_at_most(&self, prompt: u64, max_output: u64) -> Usage {
        let of_answers = |n: Option<u32>, most: Option<u32>| Usage {
            prompt,
            completion: most.map_or(max_output, u64::from).saturating_mul(u64::from(n.unwrap_or(1).max(1))),
            ..Usage::default()
        };
        match &self.input {
            Input::Chat(input) => of_answers(input.n, input.max_tokens),
            Input::Prompt(input) => of_answers(input.n, input.max_tokens),
            Input::Image(input) => Usage { prompt, images: input.images(), pixels: input.pixels(), ..Usage::default() },
            Input::Embedding(_) | Input::Rerank(_) => Usage { prompt, ..Usage::default() },
        }
    }

    /// The tokens that the prompt is expected to have, by this count of a text: 4 more a message, an eighth of their
    /// bound for pictures and sounds, and a quarter of their bytes for schemas and fields.
    pub(crate) fn prompt_tokens_expected(&self, count: &dyn Fn(&str) -> u64) -> u64 {
        match &self.input {
            Input::Chat(input) => {
                let tools: usize = input.tools.iter().map(tool_bytes).sum();
                let message = |one: &Message| texts(one, count) + USUAL_MESSAGE_TOKENS + media_tokens(one) / MEDIA_PART;
                input.messages.iter().map(message).sum::<u64>() + (tools as u64).div_ceil(4)
            }
            Input::Prompt(input) => count(&input.prompt),
            Input::Embedding(input) => input.texts.iter().map(|text| count(text)).sum(),
            // Pictures are priced by what is made.
            Input::Image(_) => 0,
            Input::Rerank(input) => {
                let query = count(&input.query);
                input.documents.iter().map(|one| document(one, count, 4) + query).sum()
            }
        }
    }

    /// The most tokens that the prompt can have, where no text has more than this count of it.
    pub(crate) fn prompt_tokens_within(&self, count: &dyn Fn(&str) -> u64) -> u64 {
        let text = |text: &str| count(text) + MESSAGE_TOKENS;
        match &self.input {
            Input::Chat(input) => {
                let tools: usize = input.tools.iter().map(tool_bytes).sum();
                let message = |one: &Message| texts(one, count) + MESSAGE_TOKENS + media_tokens(one);
                input.messages.iter().map(message).sum::<u64>() + tools as u64
            }
            Input::Prompt(input) => text(&input.prompt),
            Input::Embedding(input) => input.texts.iter().map(|one| text(one)).sum(),
            Input::Image(input) => text(&input.prompt) + input.negative_prompt.as_deref().map_or(0, count),
            Input::Rerank(input) => {
                let query = text(&input.query);
                input.documents.iter().map(|one| document(one, count, 1) + query).sum()
            }
        }
    }
}

/// The tokens of all that the model reads of a turn, pictures aside.
fn texts(message: &Message, count: &dyn Fn(&str) -> u64) -> u64 {
    let mut tokens = 0;
    message.each_text(&mut |text| tokens += count(text));
    tokens
}

fn document(document: &Document, count: &dyn Fn(&str) -> u64, bytes_per_token: u64) -> u64 {
    match document {
        Document::Text(text) => count(text),
        Document::Fields(_) => (document_bytes(document) as u64).div_ceil(bytes_per_token),
    }
}

fn media_tokens(message: &Message) -> u64 {
    match &message.content {
        Some(Content::Parts(parts)) => parts.iter().map(media::tokens_at_most).sum(),
        _ => 0,
    }
}

fn message_tokens(message: &Message) -> u64 {
    message.text_bytes() as u64 + MESSAGE_TOKENS + media_tokens(message)
}

fn document_bytes(document: &Document) -> usize {
    match document {
        Document::Text(text) => text.len(),
        Document::Fields(fields) => fields.iter().map(|(name, value)| name.len() + 4 + json_bytes(value)).sum(),
    }
}

fn tool_bytes(tool: &Tool) -> usize {
    let parameters = tool.function.parameters.as_ref().map_or(0, json_bytes);
    tool.function.name.len() + tool.function.description.as_ref().map_or(0, String::len) + parameters
}

/// About the bytes of a value as JSON, without writing it.
fn json_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 24,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| json_bytes(item) + 1).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(name, value)| name.len() + 4 + json_bytes(value)).sum::<usize>() + 2,
    }
}
