//! How one OpenAI-compatible server differs from another.
//!
//! Together's form of a request is what the rest of the client writes. For another dialect the written request is
//! changed before it is sent, so that calls to Together pay nothing for it.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{Error, ErrorKind};

/// How a server wants requests to be written. Answers need no dialect: all known forms of them are read.
///
/// What a server cannot do is an error before anything is sent, rather than a field that it would ignore.
///
/// ```
/// use together_inference::{TogetherClient, client::Dialect};
///
/// let local = TogetherClient::builder()
///     .base_url("http://127.0.0.1:8080")
///     .no_api_key()
///     .dialect(Dialect::llama_cpp())
///     .build()?;
/// # let _ = local;
/// # Ok::<(), together_inference::client::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    pub(super) auth_header: Option<String>,
    form: Form,
}

/// How the fields of a request are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    stream_options: bool,
    regex: Regex,
    image_base64: &'static str,
    reasoning: Reasoning,
    thoughts: Thoughts,
    logprobs: Logprobs,
    max_tokens: &'static str,
}

/// How a text of a regular expression is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Regex {
    /// `response_format: {"type": "regex", "pattern": …}`.
    Format,
    /// `structured_outputs: {"regex": …}`.
    StructuredOutputs,
    /// Not at all.
    Never,
}

/// How reasoning is switched on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reasoning {
    /// `reasoning: {"enabled": …}`.
    Enabled,
    /// An argument of the chat template.
    Template,
    /// By its effort alone: `none` switches it off.
    Effort,
}

/// How the thoughts of former turns are sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thoughts {
    /// Under the name that they came by.
    AsTheyCame,
    /// As `reasoning_content`.
    Content,
    /// Not at all.
    Dropped,
}

/// How log probabilities are asked for in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logprobs {
    /// By their number.
    Number,
    /// By a flag, with their number as `top_logprobs`.
    Flag,
}

const TOGETHER: Form = Form {
    stream_options: true,
    regex: Regex::Format,
    image_base64: "base64",
    reasoning: Reasoning::Enabled,
    thoughts: Thoughts::AsTheyCame,
    logprobs: Logprobs::Number,
    max_tokens: "max_tokens",
};

const VLLM: Form = Form {
    stream_options: true,
    regex: Regex::StructuredOutputs,
    image_base64: "b64_json",
    reasoning: Reasoning::Template,
    thoughts: Thoughts::Content,
    logprobs: Logprobs::Flag,
    max_tokens: "max_tokens",
};

impl Default for Dialect {
    fn default() -> Self {
        Self::together()
    }
}

impl Dialect {
    /// Together's own: what a client speaks unless told otherwise.
    #[must_use]
    pub const fn together() -> Self {
        Self { auth_header: None, form: TOGETHER }
    }

    /// `OpenAI`'s: `max_completion_tokens`, log probabilities by a flag, pictures as `b64_json`, no regular expressions,
    /// no thoughts sent back.
    #[must_use]
    pub const fn openai() -> Self {
        let form = Form {
            stream_options: true,
            regex: Regex::Never,
            image_base64: "b64_json",
            reasoning: Reasoning::Effort,
            thoughts: Thoughts::Dropped,
            logprobs: Logprobs::Flag,
            max_tokens: "max_completion_tokens",
        };
        Self { auth_header: None, form }
    }

    /// vLLM's: reasoning by the chat template, regular expressions under `structured_outputs`.
    #[must_use]
    pub const fn vllm() -> Self {
        Self { auth_header: None, form: VLLM }
    }

    /// That of llama.cpp's server: reasoning by the chat template, no regular expressions.
    #[must_use]
    pub const fn llama_cpp() -> Self {
        Self { auth_header: None, form: Form { regex: Regex::Never, ..VLLM } }
    }

    /// Sends the key in this header, as it is, instead of as a bearer token: some gateways want `api-key`.
    #[must_use]
    pub fn auth_header(mut self, name: impl Into<String>) -> Self {
        self.auth_header = Some(name.into());
        self
    }

    /// Does not ask for usage in streams: for servers that refuse to be asked.
    #[must_use]
    pub const fn without_stream_options(mut self) -> Self {
        self.form.stream_options = false;
        self
    }

    /// The request as this server wants it.
    pub(super) fn adapt(&self, body: Bytes) -> Result<Bytes, Error> {
        if self.form == TOGETHER {
            return Ok(body);
        }
        let mut fields: Map<String, Value> = serde_json::from_slice(&body).map_err(|_| not_json())?;
        self.form.change(&mut fields)?;
        serde_json::to_vec(&fields).map(Into::into).map_err(|_| not_json())
    }
}

impl Form {
    fn change(&self, fields: &mut Map<String, Value>) -> Result<(), Error> {
        let is_chat = fields.contains_key("messages");
        if !self.stream_options {
            fields.remove("stream_options");
        }
        match fields.get("response_format") {
            Some(Value::String(form)) if form == "base64" => {
                fields.insert("response_format".to_owned(), self.image_base64.into());
            }
            Some(Value::Object(format)) if format.get("type").is_some_and(|kind| kind == "regex") => {
                let pattern = format.get("pattern").cloned().unwrap_or_default();
                self.regex(fields, pattern)?;
            }
            _ => {}
        }
        if is_chat {
            self.chat(fields);
        }
        Ok(())
    }

    fn regex(&self, fields: &mut Map<String, Value>, pattern: Value) -> Result<(), Error> {
        match self.regex {
            Regex::Format => {}
            Regex::StructuredOutputs => {
                fields.remove("response_format");
                fields.insert("structured_outputs".to_owned(), json!({"regex": pattern}));
            }
            Regex::Never => {
                let message = "this server cannot be asked for a regular expression; use a JSON schema with an enum";
                return Err(Error::new(ErrorKind::InvalidRequest, message));
            }
        }
        Ok(())
    }

    fn chat(&self, fields: &mut Map<String, Value>) {
        if let Some(most) = fields.remove("max_tokens") {
            fields.insert(self.max_tokens.to_owned(), most);
        }
        if self.logprobs == Logprobs::Flag
            && let Some(count) = fields.get("logprobs").filter(|count| count.is_number()).cloned()
        {
            fields.insert("logprobs".to_owned(), true.into());
            fields.insert("top_logprobs".to_owned(), count);
        }
        if self.reasoning != Reasoning::Enabled {
            self.switch_reasoning(fields);
        }
        let turns = fields.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten();
        turns.filter_map(Value::as_object_mut).for_each(|turn| self.thoughts(turn));
    }

    fn switch_reasoning(&self, fields: &mut Map<String, Value>) {
        let enabled = fields.get("reasoning").and_then(|reasoning| reasoning.get("enabled")).and_then(Value::as_bool);
        let Some(enabled) = enabled else { return };
        fields.remove("reasoning");
        match self.reasoning {
            Reasoning::Effort if !enabled => {
                fields.insert("reasoning_effort".to_owned(), "none".into());
            }
            Reasoning::Template => {
                let arguments = fields.entry("chat_template_kwargs").or_insert_with(|| json!({}));
                if let Some(arguments) = arguments.as_object_mut() {
                    arguments.insert("enable_thinking".to_owned(), enabled.into());
                }
            }
            // It is on by default.
            Reasoning::Effort | Reasoning::Enabled => {}
        }
    }

    fn thoughts(&self, turn: &mut Map<String, Value>) {
        if self.thoughts == Thoughts::AsTheyCame {
            return;
        }
        let thought = turn.remove("reasoning");
        match self.thoughts {
            Thoughts::Content => {
                if let Some(thought) = thought {
                    turn.entry("reasoning_content").or_insert(thought);
                }
            }
            _ => {
                turn.remove("reasoning_content");
            }
        }
    }
}

fn not_json() -> Error {
    Error::new(ErrorKind::InvalidRequest, "the request is no JSON object")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapted(dialect: &Dialect, body: &Value) -> Result<Value, Error> {
        dialect.adapt(body.to_string().into()).map(|body| serde_json::from_slice(&body).unwrap())
    }

    fn chat() -> Value {
        json!({
            "model": "m",
            "messages": [{"role": "user", "content": "hi"},
                         {"role": "assistant", "content": "ho", "reasoning": "hm"}],
            "max_tokens": 5,
            "logprobs": 2,
            "reasoning": {"enabled": false},
            "stream": true,
            "stream_options": {"include_usage": true},
            "x": 1.5,
        })
    }

    #[test]
    fn togethers_requests_go_out_byte_by_byte() {
        let body = Bytes::from_static(br#"{"b":1, "a":1.50}"#);
        assert_eq!(Dialect::together().adapt(body.clone()).unwrap(), body);
        assert_eq!(Dialect::default().auth_header("api-key").adapt(body.clone()).unwrap(), body);
    }

    #[test]
    fn each_server_is_asked_in_its_own_words() {
        let openai = adapted(&Dialect::openai(), &chat()).unwrap();
        assert_eq!((&openai["max_completion_tokens"], openai.get("max_tokens")), (&json!(5), None));
        assert_eq!((&openai["logprobs"], &openai["top_logprobs"]), (&json!(true), &json!(2)));
        assert_eq!((&openai["reasoning_effort"], openai.get("reasoning")), (&json!("none"), None));
        assert_eq!(openai["messages"][1], json!({"role": "assistant", "content": "ho"}));
        let vllm = adapted(&Dialect::vllm(), &chat()).unwrap();
        assert_eq!(vllm["chat_template_kwargs"], json!({"enable_thinking": false}));
        assert_eq!(vllm["messages"][1]["reasoning_content"], "hm");
        assert_eq!((&vllm["max_tokens"], &vllm["x"]), (&json!(5), &json!(1.5)));
        let shy = adapted(&Dialect::vllm().without_stream_options(), &chat()).unwrap();
        assert!(shy.get("stream_options").is_none() && vllm.get("stream_options").is_some());
        let image = adapted(&Dialect::openai(), &json!({"prompt": "p", "response_format": "base64"})).unwrap();
        assert_eq!(image["response_format"], "b64_json");
        let prompt = adapted(&Dialect::openai(), &json!({"prompt": "p", "max_tokens": 1, "logprobs": 2})).unwrap();
        assert_eq!(
            prompt,
            json!({"prompt": "p", "max_tokens": 1, "logprobs": 2}),
            "only conversations differ in these"
        );
    }

    #[test]
    fn a_regular_expression_is_asked_for_or_refused_before_it_is_sent() {
        let ask = json!({"messages": [], "response_format": {"type": "regex", "pattern": "a|b"}});
        let vllm = adapted(&Dialect::vllm(), &ask).unwrap();
        assert_eq!((&vllm["structured_outputs"]["regex"], vllm.get("response_format")), (&json!("a|b"), None));
        let error = adapted(&Dialect::llama_cpp(), &ask).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
}
