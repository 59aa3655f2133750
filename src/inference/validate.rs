//! Bad input is refused before anything is sent or spent.

use super::{InferenceRequest, Input, Selection};
use crate::{
    client::{ChatInput, ResponseFormat},
    types::Task,
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
        if self.max_cost.is_some_and(|most| most.nanos() < 0) {
            return refuse("max_cost", "must not be negative");
        }
        match (&self.input, self.task) {
            (Input::Chat(input), Task::Chat | Task::Code) => check_chat(input),
            (Input::Chat(_), task) => refuse("task", format!("a conversation is no {task} request; use chat or code")),
        }
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
    within("temperature", input.temperature, 0.0, 2.0)?;
    within("top_p", input.top_p, 0.0, 1.0)?;
    within("min_p", input.min_p, 0.0, 1.0)?;
    within("presence_penalty", input.presence_penalty, -2.0, 2.0)?;
    within("frequency_penalty", input.frequency_penalty, -2.0, 2.0)?;
    within("repetition_penalty", input.repetition_penalty, 0.0, f64::MAX)?;
    if input.logit_bias.values().any(|bias| !(-100.0..=100.0).contains(bias)) {
        return refuse("logit_bias", "must be between -100 and 100");
    }
    if input.max_tokens == Some(0) {
        return refuse("max_tokens", "must be at least 1");
    }
    if input.n.is_some_and(|n| !(1..=128).contains(&n)) {
        return refuse("n", "must be between 1 and 128");
    }
    if input.logprobs.is_some_and(|logprobs| logprobs > 20) {
        return refuse("logprobs", "must be between 0 and 20");
    }
    check_names(input)
}

fn check_names(input: &ChatInput) -> Checked {
    if input.tools.iter().any(|tool| !is_name(&tool.function.name)) {
        return refuse("tools", "a tool's name must be 1 to 64 letters, digits, _ or -");
    }
    if matches!(&input.response_format, Some(ResponseFormat::JsonSchema(schema)) if !is_name(&schema.name)) {
        return refuse("json_schema", "the schema's name must be 1 to 64 letters, digits, _ or -");
    }
    // An extra of a known name would stand twice in the JSON, behind the back of what reads the typed field.
    let doubled = |name: &&String| ChatInput::is_typed(name) || (*name == "reasoning" && input.reasoning.is_some());
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
    use crate::client::Tool;

    #[test]
    fn each_bad_field_is_refused_by_its_name() {
        let ask = || InferenceRequest::chat("hi");
        let bad = [
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
            ("task", ask().task(Task::Embedding)),
            ("tools", ask().tool(Tool::function("two words", "", serde_json::json!({})))),
            ("json_schema", ask().json_schema("", serde_json::json!({}))),
            ("extra", ask().extra("model", "other")),
            ("extra", ask().max_tokens(5).extra("max_tokens", 100_000)),
            ("extra", ask().extra("n", 5)),
        ];
        for (field, request) in bad {
            assert_eq!(request.validate().unwrap_err().field, field, "{request:?}");
        }
        ask().temperature(0.0).n(128).max_tokens(1).validate().unwrap();
    }
}
