//! A chat request as the simulator reads it: straight from JSON, with no type of the crate.

use std::borrow::Cow;

use serde_json::Value;

/// What a message costs beside its text, in tokens.
const MESSAGE_OVERHEAD: u64 = 4;
/// What an image costs, in tokens.
const IMAGE_TOKENS: u64 = 256;

/// A view of the body of `POST /v1/chat/completions`. Every accessor tolerates a missing or odd field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a>(&'a Value);

impl<'a> Ask<'a> {
    pub(super) const fn new(body: &'a Value) -> Self {
        Self(body)
    }

    pub(super) const fn body(self) -> &'a Value {
        self.0
    }

    /// A field; `null` counts as absent.
    pub(super) fn field(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn model(self) -> &'a str {
        self.field("model").and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn messages(self) -> &'a [Value] {
        self.field("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn last_user_text(self) -> Cow<'a, str> {
        let user = |message: &&Value| message.get("role").and_then(Value::as_str) == Some("user");
        let last = self.messages().iter().rev().find(user).map(text_of);
        last.or_else(|| self.prompt().map(Cow::Borrowed)).unwrap_or_default()
    }

    /// The text to continue, of a completion.
    pub(super) fn prompt(self) -> Option<&'a str> {
        self.field("prompt").and_then(Value::as_str)
    }

    /// How many log probabilities a token are asked for.
    pub(super) fn logprobs(self) -> Option<u64> {
        self.field("logprobs").and_then(Value::as_u64).filter(|count| *count > 0)
    }

    /// The links of the pictures that the model is shown.
    pub(super) fn image_urls(self) -> Vec<&'a str> {
        let url = |part: &'a Value| part.get("image_url")?.get("url")?.as_str();
        self.messages().iter().flat_map(parts_of).filter_map(url).collect()
    }

    /// The result of a tool, when it is the last message.
    pub(super) fn tool_result(self) -> Option<Cow<'a, str>> {
        let last = self.messages().last()?;
        (last.get("role").and_then(Value::as_str) == Some("tool")).then(|| text_of(last))
    }

    pub(super) fn max_tokens(self) -> Option<u64> {
        self.field("max_tokens").and_then(Value::as_u64)
    }

    pub(super) fn choices(self) -> u64 {
        self.field("n").and_then(Value::as_u64).unwrap_or(1)
    }

    pub(super) fn streams(self) -> bool {
        self.field("stream").and_then(Value::as_bool).unwrap_or_default()
    }

    pub(super) fn wants_usage(self) -> bool {
        let options = self.field("stream_options").and_then(|options| options.get("include_usage"));
        options.and_then(Value::as_bool).unwrap_or_default()
    }

    pub(super) fn wants_reasoning(self) -> bool {
        let enabled = self.field("reasoning").and_then(|reasoning| reasoning.get("enabled"));
        enabled.and_then(Value::as_bool).unwrap_or_else(|| self.field("reasoning_effort").is_some())
    }

    pub(super) fn truncates_context(self) -> bool {
        self.field("context_length_exceeded_behavior").and_then(Value::as_str) == Some("truncate")
    }

    pub(super) fn stops(self) -> Vec<&'a str> {
        match self.field("stop") {
            Some(Value::String(stop)) => vec![stop],
            Some(Value::Array(stops)) => stops.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn response_type(self) -> &'a str {
        let kind = self.field("response_format").and_then(|format| format.get("type"));
        kind.and_then(Value::as_str).unwrap_or("text")
    }

    pub(super) fn schema(self) -> Option<&'a Value> {
        let format = self.field("response_format")?;
        // Beside `json_schema`, the older form with the schema at the top.
        format.get("json_schema").unwrap_or(format).get("schema")
    }

    /// The regular expression that the answer must match.
    pub(super) fn pattern(self) -> Option<&'a str> {
        let format = self.field("response_format").filter(|_| self.response_type() == "regex")?;
        format.get("pattern")?.as_str()
    }

    pub(super) fn has_image(self) -> bool {
        self.messages().iter().flat_map(parts_of).any(is_image)
    }

    /// The tools this request calls for: one named by `tool_choice`, or those in the user's own words.
    pub(super) fn wanted_tools(self) -> Vec<&'a Value> {
        let tools = self.field("tools").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let functions: Vec<_> = tools.iter().filter_map(|tool| tool.get("function")).collect();
        let text = self.last_user_text().to_lowercase();
        let mentioned = || functions.iter().filter(|function| mentions(&text, name_of(function))).copied().collect();
        match self.field("tool_choice") {
            Some(Value::Object(choice)) => {
                let name = choice.get("function").map(name_of).unwrap_or_default();
                functions.into_iter().filter(|function| name_of(function) == name).take(1).collect()
            }
            Some(Value::String(choice)) if choice == "none" => Vec::new(),
            Some(Value::String(choice)) if choice == "required" => {
                let wanted: Vec<_> = mentioned();
                if wanted.is_empty() { functions.into_iter().take(1).collect() } else { wanted }
            }
            _ => mentioned(),
        }
    }

    /// Tokens of the whole prompt: messages and tools.
    pub(super) fn prompt_tokens(self) -> u64 {
        let tools = self.field("tools").map_or(0, |tools| count(&tools.to_string()));
        self.messages().iter().map(message_tokens).sum::<u64>() + tools + self.prompt().map_or(0, count)
    }
}

/// Tokens of a text: a quarter of its bytes, rounded up.
pub(super) fn count(text: &str) -> u64 {
    tokens_in(text.len())
}

/// Tokens in that many bytes.
pub(super) fn tokens_in(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX)
}

/// Tokens of one message.
pub(super) fn message_tokens(message: &Value) -> u64 {
    let images = u64::try_from(parts_of(message).iter().filter(|part| is_image(part)).count()).unwrap_or_default();
    let calls = message.get("tool_calls").filter(|calls| !calls.is_null()).map_or(0, |calls| count(&calls.to_string()));
    MESSAGE_OVERHEAD + count(&text_of(message)) + calls + images * IMAGE_TOKENS
}

/// The name of a `function` object.
pub(super) fn name_of(function: &Value) -> &str {
    function.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn mentions(text: &str, name: &str) -> bool {
    let name = name.to_lowercase();
    !name.is_empty() && (text.contains(&name) || text.contains(&name.replace('_', " ")))
}

fn text_of(message: &Value) -> Cow<'_, str> {
    if let Some(text) = message.get("content").and_then(Value::as_str) {
        return Cow::Borrowed(text);
    }
    let texts = parts_of(message).iter().filter_map(|part| part.get("text").and_then(Value::as_str));
    Cow::Owned(texts.collect::<Vec<_>>().join("\n"))
}

fn parts_of(message: &Value) -> &[Value] {
    message.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn is_image(part: &Value) -> bool {
    part.get("type").and_then(Value::as_str) == Some("image_url")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tool_is_found_by_choice_or_by_name() {
        let mut body = json!({
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Please GET WEATHER in Paris"}]}],
            "tools": [{"type": "function", "function": {"name": "other"}},
                      {"type": "function", "function": {"name": "get_weather"}}],
        });
        let tool = |body: &Value| Ask::new(body).wanted_tools().first().map(|tool| name_of(tool).to_owned());
        assert_eq!(tool(&body).as_deref(), Some("get_weather"));
        body["tool_choice"] = json!({"type": "function", "function": {"name": "other"}});
        assert_eq!(tool(&body).as_deref(), Some("other"));
        body["tool_choice"] = json!("none");
        assert_eq!(tool(&body), None);
        body["messages"] = json!([{"role": "user", "content": "hi"}]);
        body["tool_choice"] = json!("required");
        assert_eq!(tool(&body).as_deref(), Some("other"));
    }

    #[test]
    fn tokens_are_a_quarter_of_the_bytes_rounded_up() {
        assert_eq!((count(""), count("a"), count("abcd"), count("abcde")), (0, 1, 1, 2));
        let body = json!({"messages": [{"role": "user", "content": "abcde"}, {"role": "user", "content": "x"}]});
        assert_eq!(Ask::new(&body).prompt_tokens(), 6 + 5);
    }
}
