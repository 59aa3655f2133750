//! What an answer is cached under.

use std::fmt;

use serde_json::Value;

use super::{InferenceRequest, Input, ModelRef, Selection};
use crate::{
    client::{ChatInput, Content, FunctionCall, JsonSchema, Message, Part, ResponseFormat, Tool, ToolCall, ToolChoice},
    types::{RouteId, Tenant, UpstreamId},
};

/// The kinds of cached values, each with a prefix and a time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Answers of models: `infer`, an hour.
    Inference,
    /// Vectors of texts: `embed`, a day.
    Embedding,
    /// Model lists: `models`, an hour.
    ModelList,
    /// States of fine-tune jobs: `ft`, a minute.
    FineTune,
    /// States of batches: `batch`, 30 s.
    BatchStatus,
}

impl Kind {
    /// The prefix of keys outside the process.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Inference => "infer",
            Self::Embedding => "embed",
            Self::ModelList => "models",
            Self::FineTune => "ft",
            Self::BatchStatus => "batch",
        }
    }

    /// How long a value of this kind is kept.
    #[must_use]
    pub const fn ttl(self) -> std::time::Duration {
        std::time::Duration::from_secs(match self {
            Self::Inference | Self::ModelList => 3_600,
            Self::Embedding => 86_400,
            Self::FineTune => 60,
            Self::BatchStatus => 30,
        })
    }
}

/// A cache key: 256 bits of BLAKE3 over the meaning of a request.
///
/// Two requests have the same key exactly when they ask the same of the same model for the same tenant and allow the same
/// other models: every field is
/// hashed with its length in a fixed order, JSON by value and not by text, so that neither the order of an object's
/// fields nor the spelling of a number matters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey {
    kind: Kind,
    tenant: [u8; 8],
    hash: [u8; 32],
}

impl CacheKey {
    /// A key of one's own over some bytes, scoped to a tenant.
    #[must_use]
    pub fn of_bytes(kind: Kind, tenant: Option<&Tenant>, bytes: &[u8]) -> Self {
        let mut hash = Hasher::new(tenant);
        hash.bytes(bytes);
        hash.finish(kind, tenant)
    }

    /// The key of a request's answer by a route at this host.
    #[must_use]
    pub fn inference(request: &InferenceRequest, route: &RouteId, host: &str) -> Self {
        // Destructured, so that a new field is a compile error until somebody decides whether it changes the answer.
        let InferenceRequest {
            input,
            tenant,
            // Where it may fall back to: whoever allows one model alone must not get another one's answer, nor the
            // error of a call that allowed fewer.
            model,
            upstream,
            task: _,
            priority: _,
            allow_cached: _,
            tier: _,
            session: _,
            deadline: _,
            first_token: _,
            deferrable: _,
            max_cost: _,
            tags: _,
            needs: _,
            misfit: _,
        } = request;
        let mut hash = Hasher::new(tenant.as_ref());
        hash.text(host);
        hash.text(route.upstream().as_str());
        hash.text(route.model().as_str());
        hash.selection(model);
        hash.some_text(upstream.as_ref().map(UpstreamId::as_str));
        match input {
            Input::Chat(input) => hash.chat(input),
        }
        hash.finish(Kind::Inference, tenant.as_ref())
    }

    /// What kind of value it is the key of.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The hash.
    #[must_use]
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }
}

impl fmt::Display for CacheKey {
    /// `ti:{prefix}:{tenant hash}:{key hash}`: the key outside the process.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ti:{}:", self.kind.prefix())?;
        self.tenant.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(":")?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Changes when the meaning of a key's bytes does.
const SCHEMA: &[u8] = b"together-inference/1";

/// Writes fields so that no two different sequences give the same bytes: each has a length or a tag before it.
struct Hasher(blake3::Hasher);

impl Hasher {
    fn new(tenant: Option<&Tenant>) -> Self {
        let mut hash = Self(blake3::Hasher::new());
        hash.bytes(SCHEMA);
        hash.some_text(tenant.map(Tenant::as_str));
        hash
    }

    fn finish(self, kind: Kind, tenant: Option<&Tenant>) -> CacheKey {
        // No tenant is all zeros; a tenant's hash is never needed to be secret, only short.
        let mut short = [0; 8];
        if let Some(tenant) = tenant {
            let full = blake3::hash(tenant.as_str().as_bytes());
            short.iter_mut().zip(full.as_bytes()).for_each(|(to, from)| *to = *from);
        }
        CacheKey { kind, tenant: short, hash: *self.0.finalize().as_bytes() }
    }

    fn tag(&mut self, tag: u8) {
        self.0.update(&[tag]);
    }

    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn some<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.tag(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn some_text(&mut self, text: Option<&str>) {
        self.some(text, Self::text);
    }

    fn some_float(&mut self, value: Option<f64>) {
        self.some(value, Self::float);
    }

    /// −0 and 0 mean the same.
    fn float(&mut self, value: f64) {
        self.0.update(&(value + 0.0).to_bits().to_le_bytes());
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| write(self, item));
    }

    fn selection(&mut self, selection: &Selection) {
        self.tag(match selection {
            Selection::Any => 0,
            Selection::Pin(_) => 1,
            Selection::Prefer(_) => 2,
        });
        self.list(selection.named(), |hash, ModelRef { upstream, model }| {
            hash.some_text(upstream.as_ref().map(UpstreamId::as_str));
            hash.text(model.as_str());
        });
    }

    fn chat(&mut self, input: &ChatInput) {
        let ChatInput {
            messages,
            max_tokens,
            stop,
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            seed,
            n,
            logprobs,
            echo,
            context_length_exceeded_behavior,
            response_format,
            tools,
            tool_choice,
            function_call,
            compliance,
            chat_template_kwargs,
            safety_model,
            reasoning_effort,
            reasoning,
            extra,
        } = input;
        self.tag(1);
        self.list(messages, Self::message);
        self.some(*max_tokens, |hash, most| hash.number(u64::from(most)));
        self.list(stop, |hash, text| hash.text(text));
        for value in [temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty] {
            self.some_float(*value);
        }
        self.some(*top_k, |hash, value| hash.number(u64::from(value.cast_unsigned())));
        self.number(logit_bias.len() as u64);
        for (token, bias) in logit_bias {
            self.text(token);
            self.float(*bias);
        }
        self.some(*seed, Self::number);
        // One answer is what is asked for by default.
        self.number(u64::from(n.unwrap_or(1)));
        self.some(*logprobs, |hash, count| hash.tag(count));
        self.some(*echo, |hash, echo| hash.tag(u8::from(echo)));
        for text in [context_length_exceeded_behavior, compliance, safety_model, reasoning_effort] {
            self.some_text(text.as_deref());
        }
        self.some(response_format.as_ref(), Self::format);
        self.list(tools, Self::tool);
        self.some(tool_choice.as_ref(), Self::tool_choice);
        self.some(function_call.as_ref(), Self::json);
        self.some(chat_template_kwargs.as_ref(), Self::object);
        self.some(*reasoning, |hash, on| hash.tag(u8::from(on)));
        self.object(extra);
    }

    fn message(&mut self, message: &Message) {
        let Message { role, content, name, tool_calls, tool_call_id, reasoning, reasoning_content } = message;
        self.text(role.as_str());
        self.some(content.as_ref(), |hash, content| match content {
            Content::Text(text) => {
                hash.tag(0);
                hash.text(text);
            }
            Content::Parts(parts) => {
                hash.tag(1);
                hash.list(parts, Self::part);
            }
        });
        for text in [name, tool_call_id, reasoning, reasoning_content] {
            self.some_text(text.as_deref());
        }
        self.list(tool_calls, |hash, call| {
            let ToolCall { id, kind, function: FunctionCall { name, arguments } } = call;
            [id, kind, name, arguments].into_iter().for_each(|text| hash.text(text));
        });
    }

    fn part(&mut self, part: &Part) {
        match part {
            Part::Text(text) => self.tagged(0, text),
            Part::ImageUrl(url) => self.tagged(1, url),
            Part::VideoUrl(url) => self.tagged(2, url),
            Part::AudioUrl(url) => self.tagged(3, url),
            Part::InputAudio { data, format } => {
                self.tagged(4, data);
                self.text(format);
            }
            Part::Other(fields) => {
                self.tag(5);
                self.object(fields);
            }
        }
    }

    fn tagged(&mut self, tag: u8, text: &str) {
        self.tag(tag);
        self.text(text);
    }

    fn format(&mut self, format: &ResponseFormat) {
        match format {
            ResponseFormat::Text => self.tag(0),
            ResponseFormat::JsonObject => self.tag(1),
            ResponseFormat::JsonSchema(JsonSchema { name, description, schema, strict }) => {
                self.tagged(2, name);
                self.some_text(description.as_deref());
                self.json(schema);
                self.some(*strict, |hash, strict| hash.tag(u8::from(strict)));
            }
            ResponseFormat::Regex(pattern) => self.tagged(3, pattern),
            ResponseFormat::Other(fields) => {
                self.tag(4);
                self.object(fields);
            }
        }
    }

    fn tool(&mut self, tool: &Tool) {
        let Tool { kind, function } = tool;
        self.text(kind);
        self.text(&function.name);
        self.some_text(function.description.as_deref());
        self.some(function.parameters.as_ref(), Self::json);
    }

    fn tool_choice(&mut self, choice: &ToolChoice) {
        match choice {
            ToolChoice::Auto => self.tag(0),
            ToolChoice::None => self.tag(1),
            ToolChoice::Required => self.tag(2),
            ToolChoice::Function(name) => self.tagged(3, name),
            ToolChoice::Other(value) => {
                self.tag(4);
                self.json(value);
            }
        }
    }

    /// Sorted, since another crate may switch on `serde_json/preserve_order`.
    fn object(&mut self, map: &serde_json::Map<String, Value>) {
        let mut fields: Vec<_> = map.iter().collect();
        fields.sort_unstable_by_key(|(name, _)| *name);
        self.list(&fields, |hash, (name, value)| {
            hash.text(name);
            hash.json(value);
        });
    }

    /// By value: `1`, `1.0` and `1e0` are one number, whatever `serde_json/arbitrary_precision` keeps of their text.
    fn json(&mut self, value: &Value) {
        match value {
            Value::Null => self.tag(0),
            Value::Bool(value) => self.tag(1 + u8::from(*value)),
            Value::Number(number) => self.json_number(number),
            Value::String(text) => self.tagged(5, text),
            Value::Array(items) => {
                self.tag(6);
                self.list(items, Self::json);
            }
            Value::Object(map) => {
                self.tag(7);
                self.object(map);
            }
        }
    }

    fn json_number(&mut self, number: &serde_json::Number) {
        let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        let float = number.as_f64().unwrap_or(f64::NAN);
        // Up to 2⁵³ every whole number has one float.
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
        let whole = whole.or_else(|| (float.fract() == 0.0 && float.abs() <= 9.0e15).then_some(float as i128));
        match whole {
            Some(whole) => {
                self.tag(3);
                self.0.update(&whole.to_le_bytes());
            }
            None => {
                self.tag(4);
                self.float(float);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(request: &InferenceRequest) -> CacheKey {
        CacheKey::inference(request, &RouteId::new("together", "m"), "api")
    }

    #[test]
    fn tenants_and_prompts_do_not_run_into_each_other() {
        let a = InferenceRequest::chat("b:c").tenant("a");
        let b = InferenceRequest::chat("c").tenant("a:b");
        assert_ne!(key(&a), key(&b));
        assert_ne!(key(&InferenceRequest::chat("x")), key(&InferenceRequest::chat("x").tenant("t")));
    }

    #[test]
    fn the_same_meaning_has_one_key() {
        let schema = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let with = |text| key(&InferenceRequest::chat("x").json_schema("s", schema(text)));
        assert_eq!(with(r#"{"a":1.0,"b":[2e0]}"#), with(r#"{"b":[2],"a":1}"#));
        assert_ne!(with(r#"{"a":1}"#), with(r#"{"a":"1"}"#));
        assert_eq!(key(&InferenceRequest::chat("x").n(1)), key(&InferenceRequest::chat("x")));
        let far = InferenceRequest::chat("x").priority(crate::types::Priority::Batch).tag("a", "b").session("s");
        assert_eq!(key(&far), key(&InferenceRequest::chat("x")));
    }

    #[test]
    fn what_changes_the_answer_changes_the_key() {
        let base = || InferenceRequest::chat("x");
        let tool = |name: &str| Tool::function(name, "", json!({}));
        let variants = [
            base(),
            base().system("s"),
            base().user("x"),
            base().temperature(0.0),
            base().max_tokens(1),
            base().seed(0),
            base().seed(u64::MAX),
            base().n(2),
            base().stop(["a"]),
            base().stop(["a", ""]),
            base().tool(tool("a")),
            base().tool(tool("a")).tool(tool("b")),
            base().tool(tool("b")).tool(tool("a")),
            base().tool(tool("a")).tool_choice(ToolChoice::Required),
            base().extra("top_a", 1),
            base().extra("top_a", "1"),
            base().json_schema("s", json!({})),
            base().image_url("https://x"),
            InferenceRequest::new(crate::types::Task::Chat).message(Message::assistant("x")),
        ];
        let keys: std::collections::HashSet<_> = variants.iter().map(key).collect();
        assert_eq!(keys.len(), variants.len());
        let other_model = CacheKey::inference(&base(), &RouteId::new("together", "n"), "api");
        let other_host = CacheKey::inference(&base(), &RouteId::new("together", "m"), "api2");
        assert!(!keys.contains(&other_model) && !keys.contains(&other_host));
    }
}
