//! What an answer is cached under.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use super::{InferenceRequest, Input, JsonNeed, ModelRef, Needs, Selection, cache_control::Owner, hash::FieldHasher};
use crate::{
    client::{
        ChatInput, Content, Function, FunctionCall, JsonSchema, Message, Part, ResponseFormat, Tool, ToolCall,
        ToolChoice,
    },
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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheKey {
    kind: Kind,
    tenant: [u8; 8],
    hash: [u8; 32],
}

impl Hash for CacheKey {
    /// A part of the hash that it is already: the rest would tell a table nothing more.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let part = self.hash.first_chunk().copied().unwrap_or_default();
        state.write_u64(u64::from_le_bytes(part));
    }
}

impl CacheKey {
    /// A key of one's own over some bytes, scoped to a tenant.
    #[must_use]
    pub fn of_bytes(kind: Kind, tenant: Option<&Tenant>, bytes: &[u8]) -> Self {
        let owner = Owner::Tenant(tenant);
        let mut hash = hasher(owner);
        hash.bytes(bytes);
        finish(hash, kind, owner)
    }

    /// The key of a request's answer by a route at this host.
    #[must_use]
    pub fn inference(request: &InferenceRequest, route: &RouteId, host: &str) -> Self {
        // Destructured, so that a new field is a compile error until somebody decides whether it changes the answer.
        let InferenceRequest {
            input,
            tenant: _,
            // Where it may fall back to: whoever allows one model alone must not get another one's answer, nor the
            // error of a call that allowed fewer.
            model,
            upstream,
            task: _,
            priority: _,
            // Its scope says whose key it is.
            cache: _,
            tier: _,
            session: _,
            trace_id: _,
            deadline: _,
            first_token: _,
            deferrable: _,
            // What may answer: a model that is good enough or cheap enough for one caller is not for another.
            max_cost,
            needs,
            tags: _,
            // The prompt and the form of the answer say it.
            json_by_prompt: _,
            misfit: _,
        } = request;
        let owner = request.cache_owner();
        let mut hash = hasher(owner);
        hash.text(host);
        hash.text(route.upstream().as_str());
        hash.text(route.model().as_str());
        hash.selection(model);
        hash.some_text(upstream.as_ref().map(UpstreamId::as_str));
        hash.some(*max_cost, |hash, most| hash.number(most.nanos().cast_unsigned()));
        hash.needs(*needs);
        match input {
            Input::Chat(input) => hash.chat(input),
            Input::Prompt(input) => hash.prompt(input),
            Input::Embedding(input) => hash.embedding(input),
            Input::Image(input) => hash.image(input),
            Input::Rerank(input) => hash.rerank(input),
        }
        finish(hash, Kind::Inference, owner)
    }

    /// The key of one text's vector by a route at this host. `extra` are the request's fields that have no type.
    pub(crate) fn embedding(
        text: &str,
        extra: &serde_json::Map<String, serde_json::Value>,
        owner: Owner<'_>,
        (route, host): (&RouteId, &str),
    ) -> Self {
        let mut hash = hasher(owner);
        hash.text(host);
        hash.text(route.upstream().as_str());
        hash.text(route.model().as_str());
        hash.text(text);
        hash.object(extra);
        finish(hash, Kind::Embedding, owner)
    }

    /// What kind of value it is the key of.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it is scoped to this tenant.
    ///
    /// ```
    /// use together_inference::{Tenant, inference::{CacheKey, Kind}};
    ///
    /// let (acme, other) = (Tenant::from("acme"), Tenant::from("other"));
    /// let key = CacheKey::of_bytes(Kind::Inference, Some(&acme), b"text");
    /// assert!(key.is_of(&acme) && !key.is_of(&other));
    /// assert!(!CacheKey::of_bytes(Kind::Inference, None, b"text").is_of(&acme));
    /// ```
    #[must_use]
    pub fn is_of(&self, tenant: &Tenant) -> bool {
        self.tenant == short_hash(tenant)
    }

    /// Whose it is, as its tenant's part says; all zeros of nobody.
    pub(crate) const fn tenant(&self) -> &[u8; 8] {
        &self.tenant
    }

    /// The part of all keys of a tenant.
    pub(crate) fn tenant_part(tenant: &Tenant) -> [u8; 8] {
        short_hash(tenant)
    }

    /// The key outside the process, as its `Display` has it.
    #[cfg(feature = "redis")]
    pub(crate) fn name(&self) -> String {
        use fmt::Write as _;
        // `to_string` would grow it step by step.
        let mut name = String::with_capacity(96);
        _ = write!(name, "{self}");
        name
    }

    /// What all keys of a tenant look like outside the process, as a glob.
    #[cfg(feature = "redis")]
    pub(crate) fn pattern(tenant: &Tenant) -> String {
        format!("ti:*:{}:*", Hex(&short_hash(tenant)))
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
        for part in ["ti:", self.kind.prefix(), ":"] {
            f.write_str(part)?;
        }
        Hex(&self.tenant).fmt(f)?;
        f.write_str(":")?;
        Hex(&self.hash).fmt(f)
    }
}

/// At most 32 bytes as hexadecimal digits. A cache writes a name for every text of a call: formatting each byte would cost as much
/// as reading its vector.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            let nibbles = [byte >> 4, byte & 0xf].map(|nibble| nibble + if nibble < 10 { b'0' } else { b'a' - 10 });
            pair.copy_from_slice(&nibbles);
        }
        let digits = digits.get(..2 * self.0.len()).unwrap_or_default();
        f.write_str(std::str::from_utf8(digits).unwrap_or_default())
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Changes when the meaning of a key's bytes does.
const SCHEMA: &[u8] = b"together-inference/2";

/// A hasher that knows whose key it is.
fn hasher(owner: Owner<'_>) -> FieldHasher {
    let mut hash = FieldHasher::new();
    hash.bytes(SCHEMA);
    match owner {
        Owner::Tenant(tenant) => hash.some_text(tenant.map(Tenant::as_str)),
        // Neither of the tags of a tenant that is there or not.
        Owner::Everybody => hash.tag(2),
    }
    hash
}

fn finish(hash: FieldHasher, kind: Kind, owner: Owner<'_>) -> CacheKey {
    // No tenant is all zeros.
    let tenant = match owner {
        Owner::Tenant(tenant) => tenant.map(short_hash).unwrap_or_default(),
        Owner::Everybody => [0; 8],
    };
    CacheKey { kind, tenant, hash: hash.finish() }
}

/// A tenant's part of a key: never needed to be secret, only short.
fn short_hash(tenant: &Tenant) -> [u8; 8] {
    let full = blake3::hash(tenant.as_str().as_bytes());
    let mut short = [0; 8];
    short.iter_mut().zip(full.as_bytes()).for_each(|(to, from)| *to = *from);
    short
}

/// The fields of a request.
impl FieldHasher {
    fn needs(&mut self, needs: Needs) {
        let Needs { context, tools, vision, json, reasoning } = needs;
        self.number(u64::from(context));
        self.tag(u8::from(tools) | u8::from(vision) << 1 | u8::from(reasoning) << 2);
        self.tag(match json {
            JsonNeed::None => 0,
            JsonNeed::Object => 1,
            JsonNeed::Schema => 2,
        });
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
            self.some(*value, Self::float);
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
        self.some(*logprobs, Self::tag);
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
        let Message { role, content, name, tool_calls, tool_call_id, reasoning, reasoning_content, extra } = message;
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
        self.object(extra);
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
        let Tool { kind, function: Function { name, description, parameters, extra: of_function }, extra } = tool;
        self.text(kind);
        self.text(name);
        self.some_text(description.as_deref());
        self.some(parameters.as_ref(), Self::json);
        self.object(of_function);
        self.object(extra);
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
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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

    /// Kept values outlive a build: a change here forgets them all, and wants a new `SCHEMA`. The tests of the outside
    /// crate assert the same where other features of `serde_json` are on.
    #[test]
    fn keys_are_the_same_in_every_build() {
        let schema = serde_json::from_str::<Value>(r#"{"b":[1.0,{"d":0.5}],"a":"é"}"#).unwrap();
        let full = InferenceRequest::chat("x")
            .system("s")
            .temperature(0.7)
            .seed(u64::MAX)
            .tenant("acme")
            .tool(Tool::function("f", "does", schema.clone()))
            .json_schema("answer", schema.clone())
            .extra("more", schema);
        let long = InferenceRequest::chat("long ".repeat(1_000));
        let keys = [
            key(&InferenceRequest::chat("x")),
            key(&full),
            key(&long),
            CacheKey::of_bytes(Kind::Embedding, None, b"text"),
        ];
        let known = [
            "ti:infer:0000000000000000:bbae7f0e6ef132225304e222fdd2f86095af3c306f7f47d40862710e696f0bd6",
            "ti:infer:bb7fdb40e0deec73:917b0778488c7adc950f8801d69d77f99704c271702080ab56b7e21ff13858ad",
            "ti:infer:0000000000000000:266cc78be8619927680239935448ba9738ce1d8551a112eb156d7a84a637fbe5",
            "ti:embed:0000000000000000:6afdd1cf98040f7064950b35f4e0005d38b574620cb7c69c6872fa722e376d3c",
        ];
        assert_eq!(keys.map(|key| key.to_string()), known);
    }

    #[test]
    fn what_changes_the_answer_changes_the_key() {
        let base = || InferenceRequest::chat("x");
        let tool = |name: &str| Tool::function(name, "", json!({}));
        let variants = vec![
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
