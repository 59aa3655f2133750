//! `Debug` of what people and models say: sizes, never texts. Logs outlive the reason to have written them.

use std::fmt;

use super::{ChatCompletion, ChatInput, Content, FunctionCall, Logprobs, Message, Part};

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("role", &self.role)
            .field("content", &self.content)
            .field("tool_calls", &self.tool_calls)
            .field("tool_call_id", &self.tool_call_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Parts(parts) => f.debug_tuple("Parts").field(parts).finish(),
        }
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, bytes) = match self {
            Self::Text(text) => ("Text", text.len()),
            Self::ImageUrl(url) => ("ImageUrl", url.len()),
            Self::VideoUrl(url) => ("VideoUrl", url.len()),
            Self::AudioUrl(url) => ("AudioUrl", url.len()),
            Self::InputAudio { data, .. } => ("InputAudio", data.len()),
            Self::Other(fields) => return write!(f, "Other({} fields)", fields.len()),
        };
        write!(f, "{kind}({bytes} bytes)")
    }
}

impl fmt::Debug for FunctionCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionCall")
            .field("name", &self.name)
            .field("arguments_bytes", &self.arguments.len())
            .finish()
    }
}

impl fmt::Debug for ChatInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatInput")
            .field("messages", &self.messages)
            .field("tools", &self.tools.len())
            .field("max_tokens", &self.max_tokens)
            .field("temperature", &self.temperature)
            .field("seed", &self.seed)
            .field("n", &self.n)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Logprobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logprobs").field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ChatCompletion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatCompletion")
            .field("id", &self.id)
            .field("model", &self.model)
            .field("choices", &self.choices)
            .field("usage", &self.usage)
            .field("request_id", &self.request_id)
            .field("raw_bytes", &self.raw.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::ToolCall, inference::InferenceRequest};

    #[test]
    fn debug_shows_sizes_and_never_what_was_said() {
        let mut message = Message::assistant("canary");
        message.reasoning = Some("canary".to_owned());
        message.tool_calls.push(ToolCall::new("call_1", "f", r#"{"a":"canary"}"#));
        message.extra.insert("x".to_owned(), "canary".into());
        let parts = Message::user(vec![Part::Text("canary".to_owned()), Part::ImageUrl("https://canary".to_owned())]);
        let request = InferenceRequest::chat("canary").system("canary").message(message).message(parts);
        let request = request.stop(["canary"]).extra("y", "canary");
        let shown = format!("{request:?}");
        assert!(shown.contains("6 bytes"), "{shown}");
        assert!(!shown.contains("canary"), "{shown}");
    }
}
