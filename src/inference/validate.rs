//! Bad input is refused before anything is sent or spent.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{CacheControl, InferenceRequest, Input, Selection};
use crate::client::{
    ChatInput, Document, EmbeddingInput, ImageInput, PromptInput, RerankInput, ResponseFormat, ToolChoice, is_taken,
};

/// A request that cannot be right: which field, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
#[non_exhaustive]
pub struct InvalidRequest {
    /// The field or setter.
    pub field: &'static str,
    /// What is wrong and what to do.
    pub problem: Box<str>,
}

impl InvalidRequest {
    pub(crate) fn new(field: &'static str, problem: impl Into<Box<str>>) -> Self {
        Self { field, problem: problem.into() }
    }
}

type Checked = Result<(), InvalidRequest>;

fn refuse(field: &'static str, problem: impl Into<Box<str>>) -> Checked {
    Err(InvalidRequest::new(field, problem))
}

impl InferenceRequest {
    /// Checks everything that can be known without a model.
    ///
    /// # Errors
    ///
    /// The first field that cannot be right.
    pub fn validate(&self) -> Checked {
        if let Some(misfit) = self.misfit {
            return refuse(misfit.setter, misfit.problem);
        }
        if self.tenant.as_ref().is_some_and(|tenant| tenant.as_str().is_empty()) {
            return refuse("tenant", "must not be empty; leave it unset where there is none");
        }
        if self.session.as_ref().is_some_and(|session| session.as_str().is_empty()) {
            return refuse("session", "must not be empty; leave it unset where there is none");
        }
        self.check_selection()?;
        if self.deadline.is_some_and(|deadline| deadline.is_zero()) {
            return refuse("deadline", "must be longer than nothing");
        }
        self.check_caching()?;
        if self.max_cost.is_some_and(|most| most.nanos() < 0) {
            return refuse("max_cost", "must not be negative");
        }
        if !self.input.fits(self.task) {
            let (what, task) = (name_of(&self.input), self.task);
            return refuse("task", format!("{what} is no {task} request"));
        }
        match &self.input {
            Input::Chat(input) => check_chat(input),
            Input::Prompt(input) => check_prompt(input),
            Input::Embedding(input) => check_embedding(input),
            Input::Image(input) => check_image(input),
            Input::Rerank(input) => check_rerank(input),
        }
    }

    fn check_caching(&self) -> Checked {
        let Some(control) = self.cache_of() else { return Ok(()) };
        if control.ttl.is_some_and(|ttl| ttl.is_zero()) {
            return refuse("cache", "a time to live of nothing keeps nothing; say CacheControl::read_only()");
        }
        let past = control.stale_while_revalidate.unwrap_or_default().max(control.stale_if_error);
        if past > CacheControl::MAX_STALE {
            return refuse("cache", "a stale answer may be served for a day past its time at most");
        }
        let renews = control.stale_while_revalidate.is_some_and(|past| !past.is_zero());
        if renews && matches!(self.input, Input::Embedding(_)) {
            return refuse("cache", "vectors do not change, there is nothing to renew; give them a longer ttl");
        }
        Ok(())
    }

    fn check_selection(&self) -> Checked {
        match &self.model {
            Selection::Prefer(list) if list.is_empty() => {
                refuse("models", "must name at least one model; leave it unset to let the router choose")
            }
            selection if selection.named().iter().any(|model| model.model.as_str().trim().is_empty()) => {
                refuse("model", "must not be empty; leave it unset to let the router choose")
            }
            _ => Ok(()),
        }
    }
}

fn check_chat(input: &ChatInput) -> Checked {
    if input.messages.is_empty() {
        return refuse("messages", "there are none; add user(..)");
    }
    Sampling {
        ranges: [
            ("temperature", input.temperature, 0.0, 2.0),
            ("top_p", input.top_p, 0.0, 1.0),
            ("min_p", input.min_p, 0.0, 1.0),
            ("presence_penalty", input.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", input.frequency_penalty, -2.0, 2.0),
            ("repetition_penalty", input.repetition_penalty, 0.0, f64::MAX),
        ],
        logit_bias: &input.logit_bias,
        max_tokens: input.max_tokens,
        n: input.n,
        logprobs: input.logprobs,
    }
    .check()?;
    check_tools(input)?;
    check_names(input)
}

fn check_prompt(input: &PromptInput) -> Checked {
    if input.prompt.is_empty() {
        return refuse("prompt", "must not be empty");
    }
    Sampling {
        ranges: [
            ("temperature", input.temperature, 0.0, 2.0),
            ("top_p", input.top_p, 0.0, 1.0),
            ("min_p", input.min_p, 0.0, 1.0),
            ("presence_penalty", input.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", input.frequency_penalty, -2.0, 2.0),
            ("repetition_penalty", input.repetition_penalty, 0.0, f64::MAX),
        ],
        logit_bias: &input.logit_bias,
        max_tokens: input.max_tokens,
        n: input.n,
        logprobs: input.logprobs,
    }
    .check()?;
    check_extra(&input.extra, PromptInput::FIELDS)
}

/// What a conversation and a prompt are sampled by.
struct Sampling<'a> {
    ranges: [(&'static str, Option<f64>, f64, f64); 6],
    logit_bias: &'a BTreeMap<String, f64>,
    max_tokens: Option<u32>,
    n: Option<u32>,
    logprobs: Option<u8>,
}

impl Sampling<'_> {
    fn check(self) -> Checked {
        self.ranges.into_iter().try_for_each(|(field, value, least, most)| within(field, value, least, most))?;
        if self.logit_bias.values().any(|bias| !(-100.0..=100.0).contains(bias)) {
            return refuse("logit_bias", "must be between -100 and 100");
        }
        if self.max_tokens == Some(0) {
            return refuse("max_tokens", "must be at least 1");
        }
        if self.n.is_some_and(|n| !(1..=128).contains(&n)) {
            return refuse("n", "must be between 1 and 128");
        }
        if self.logprobs.is_some_and(|logprobs| logprobs > 20) {
            return refuse("logprobs", "must be between 0 and 20");
        }
        Ok(())
    }
}

/// The most texts of a call. They go in parts of 256, each with sixteen numbers for its attempts out of the 65,536 that a
/// call has: room for four models that all fail at the end.
const MAX_TEXTS: usize = 1 << 18;

fn check_embedding(input: &EmbeddingInput) -> Checked {
    if input.texts.is_empty() {
        return refuse("input", "there are no texts to embed");
    }
    if input.texts.len() > MAX_TEXTS {
        return refuse("input", format!("{} texts are too many; split them, {MAX_TEXTS} a call", input.texts.len()));
    }
    if let Some(at) = input.texts.iter().position(String::is_empty) {
        return refuse("input", format!("text {at} is empty; leave it out"));
    }
    check_extra(&input.extra, EmbeddingInput::FIELDS)
}

fn check_image(input: &ImageInput) -> Checked {
    if input.prompt.trim().is_empty() {
        return refuse("prompt", "must not be empty; say what the picture shows");
    }
    for (field, pixels) in [("width", input.width), ("height", input.height)] {
        if pixels.is_some_and(|pixels| !(1..=16_384).contains(&pixels)) {
            return refuse(field, "must be between 1 and 16384 pixels");
        }
    }
    if input.n.is_some_and(|n| !(1..=128).contains(&n)) {
        return refuse("n", "must be between 1 and 128");
    }
    if input.steps == Some(0) {
        return refuse("steps", "must be at least 1");
    }
    within("guidance_scale", input.guidance_scale, 0.0, f64::MAX)?;
    check_extra(&input.extra, ImageInput::FIELDS)
}

fn check_rerank(input: &RerankInput) -> Checked {
    if input.query.is_empty() {
        return refuse("query", "must not be empty");
    }
    if input.documents.is_empty() {
        return refuse("documents", "there are none to rank");
    }
    let texts = input.documents.iter().filter(|document| matches!(document, Document::Text(_))).count();
    if texts != 0 && texts != input.documents.len() {
        return refuse("documents", "must be all texts or all objects");
    }
    if input.top_n == Some(0) {
        return refuse("top_n", "must be at least 1");
    }
    check_extra(&input.extra, RerankInput::FIELDS)
}

fn check_extra(extra: &Map<String, Value>, fields: &[&str]) -> Checked {
    match extra.keys().find(|name| is_taken(name, fields)) {
        Some(name) => refuse("extra", format!("{name} has a field of its own, or is set by the client itself")),
        None => Ok(()),
    }
}

const fn name_of(input: &Input) -> &'static str {
    match input {
        Input::Chat(_) => "a conversation",
        Input::Prompt(_) => "a prompt to continue",
        Input::Embedding(_) => "a list of texts",
        Input::Image(_) => "a picture to make",
        Input::Rerank(_) => "a list of documents",
    }
}

/// What a server would refuse whatever the model: it must not look as if the model lacked something.
fn check_tools(input: &ChatInput) -> Checked {
    let is_object = |schema: &Option<Value>| schema.as_ref().is_none_or(Value::is_object);
    if !input.tools.iter().all(|tool| is_object(&tool.function.parameters)) {
        return refuse("tools", "the parameters of a tool must be a JSON schema, which is an object");
    }
    if let Some(ToolChoice::Function(name)) = &input.tool_choice
        && !input.tools.iter().any(|tool| tool.function.name == *name)
    {
        return refuse("tool_choice", "names a function that is not among the tools");
    }
    if matches!(&input.response_format, Some(ResponseFormat::JsonSchema(schema)) if !schema.schema.is_object()) {
        return refuse("json_schema", "a JSON schema is an object");
    }
    Ok(())
}

fn check_names(input: &ChatInput) -> Checked {
    if input.tools.iter().any(|tool| !is_name(&tool.function.name)) {
        return refuse("tools", "a tool's name must be 1 to 64 letters, digits, _ or -");
    }
    if matches!(&input.response_format, Some(ResponseFormat::JsonSchema(schema)) if !is_name(&schema.name)) {
        return refuse("json_schema", "the schema's name must be 1 to 64 letters, digits, _ or -");
    }
    // An extra of a known name would stand twice in the JSON, behind the back of what reads the typed field.
    // What OpenAI calls `max_tokens`: an answer bounded by the one could be as long as the other says.
    let is_other_name = |name: &str| name == "max_completion_tokens";
    let doubled = |name: &&String| {
        ChatInput::is_typed(name) || is_other_name(name) || (*name == "reasoning" && input.reasoning.is_some())
    };
    match input.extra.keys().find(doubled) {
        Some(name) => {
            refuse("extra", format!("{name} has a setter or field of its own, or is set by the client itself"))
        }
        None => Ok(()),
    }
}

/// NaN is in no range.
fn within(field: &'static str, value: Option<f64>, least: f64, most: f64) -> Checked {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            let range =
                if most >= f64::MAX { format!("at least {least}") } else { format!("between {least} and {most}") };
            refuse(field, format!("must be {range}"))
        }
        _ => Ok(()),
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::Tool, types::Task};

    #[test]
    fn each_bad_field_is_refused_by_its_name() {
        let ask = || InferenceRequest::chat("hi");
        let bad = vec![
            ("messages", InferenceRequest::new(Task::Chat)),
            ("model", ask().model("")),
            ("model", ask().models(["a", " "])),
            ("models", ask().models(Vec::<String>::new())),
            ("temperature", ask().temperature(-1.0)),
            ("temperature", ask().temperature(f64::NAN)),
            ("temperature", ask().temperature(2.1)),
            ("max_tokens", ask().max_tokens(0)),
            ("n", ask().n(0)),
            ("n", ask().n(129)),
            ("tenant", ask().tenant("")),
            ("session", ask().session("")),
            ("deadline", ask().deadline(std::time::Duration::ZERO)),
            ("image_url", InferenceRequest::new(Task::Chat).image_url("https://x").user("hi")),
            ("task", ask().user("ho").task(Task::Embedding)),
            ("task", InferenceRequest::embedding(["a"]).task(Task::Rerank)),
            ("input", InferenceRequest::new(Task::Embedding)),
            ("input", InferenceRequest::embedding(["a", ""])),
            ("prompt", InferenceRequest::raw_prompt("")),
            ("top_p", {
                let mut input = PromptInput::new("a");
                input.top_p = Some(2.0);
                input.into()
            }),
            ("prompt", InferenceRequest::image_generation(" ")),
            ("width", InferenceRequest::image_generation(ImageInput::new("a").size(0, 8))),
            ("height", InferenceRequest::image_generation(ImageInput::new("a").size(8, 1 << 20))),
            ("n", InferenceRequest::image_generation("a").n(0)),
            ("temperature", InferenceRequest::image_generation("a").temperature(0.0)),
            ("seed", InferenceRequest::embedding(["a"]).seed(1)),
            ("query", InferenceRequest::rerank("", ["a"])),
            ("documents", InferenceRequest::rerank("a", Vec::<String>::new())),
            ("top_n", RerankInput::new("a", ["b"]).top_n(0).into()),
            ("extra", InferenceRequest::rerank("a", ["b"]).extra("query", "c")),
            ("tools", ask().tool(Tool::function("two words", "", serde_json::json!({})))),
            ("json_schema", ask().json_schema("", serde_json::json!({}))),
            ("extra", ask().extra("model", "other")),
            ("extra", ask().max_tokens(5).extra("max_tokens", 100_000)),
            ("extra", ask().extra("n", 5)),
            ("extra", ask().max_tokens(5).extra("max_completion_tokens", 100_000)),
        ];
        for (field, request) in bad {
            assert_eq!(request.validate().unwrap_err().field, field, "{request:?}");
        }
        ask().temperature(0.0).n(128).max_tokens(1).validate().unwrap();
    }
}
