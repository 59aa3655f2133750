//! Lines of batch files: what people have, read; what they expect, written.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{BatchLine, BatchRow};
use crate::{
    client::{ChatInput, Choice},
    inference::{Answer, InferenceRequest},
    types::ModelId,
};

/// A line that is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidLine(Box<str>);

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    custom_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    url: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
    #[serde(borrow, default)]
    prompt: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

impl BatchLine {
    /// Reads a line of a batch file: Together's (`custom_id`, `body`), `OpenAI`'s (`method` and `url` beside them), or
    /// `{"prompt": …}` with an `id` or without. The model of the body is the one that is asked; without one the router
    /// chooses.
    ///
    /// ```
    /// use together_inference::batch::BatchLine;
    ///
    /// let line = BatchLine::from_json(
    ///     r#"{"custom_id":"r-1","body":{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"hi"}]}}"#,
    /// )?;
    /// assert_eq!(line.id.as_deref(), Some("r-1"));
    /// assert!(BatchLine::from_json(r#"{"prompt":"Why is the sky blue?"}"#).is_ok());
    /// let error = BatchLine::from_json(r#"{"custom_id":"r-2"}"#).unwrap_err();
    /// assert_eq!(error.to_string(), "it has neither a body nor a prompt");
    /// # Ok::<(), together_inference::batch::InvalidLine>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidLine`] for what is no JSON of one of these forms, or goes to another path than chat completions.
    pub fn from_json(json: &str) -> Result<Self, InvalidLine> {
        // Serde would take a list for the fields in their order.
        if !json.trim_start().starts_with('{') {
            return Err(InvalidLine("it is no JSON object".into()));
        }
        let line: Line<'_> = serde_json::from_str(json).map_err(|error| invalid("it is no JSON object", &error))?;
        if let Some(url) = line.url.filter(|url| !url.ends_with("/chat/completions")) {
            return Err(InvalidLine(format!("it goes to {url}; only chat completions can be sent").into()));
        }
        let numbered = || line.id.map(|id| serde_json::from_str(id.get()).unwrap_or_else(|_| id.get().to_owned()));
        let id = line.custom_id.map(Cow::into_owned).or_else(numbered).map(Into::into);
        let Some(body) = line.body else {
            let prompt = line.prompt.ok_or_else(|| InvalidLine("it has neither a body nor a prompt".into()))?;
            return Ok(Self { id, request: InferenceRequest::chat(prompt.into_owned()) });
        };
        let mut input: ChatInput =
            serde_json::from_str(body.get()).map_err(|error| invalid("its body is no chat request", &error))?;
        let model = match input.extra.remove("model") {
            None => None,
            Some(Value::String(model)) => Some(ModelId::from(model)),
            Some(_) => return Err(InvalidLine("its model is no text".into())),
        };
        if input.extra.remove("stream").is_some_and(|stream| stream == Value::Bool(true)) {
            return Err(InvalidLine("it asks for a stream, which a batch cannot bring".into()));
        }
        let request = InferenceRequest::from(input);
        let request = match model {
            Some(model) => request.model(model),
            None => request,
        };
        Ok(Self { id, request })
    }
}

/// The place of an error alone: its message may quote the line.
fn invalid(what: &str, error: &serde_json::Error) -> InvalidLine {
    InvalidLine(format!("{what} (column {})", error.column()).into())
}

impl BatchRow {
    /// The line of a results file that it is, as the API writes it: `custom_id` with `response` or with `error`. One
    /// without an id of its own has its index.
    ///
    /// ```
    /// use together_inference::batch::{BatchRow, LineError, LineErrorKind};
    ///
    /// let error = LineError::new(LineErrorKind::Invalid, "invalid_model", "no such model");
    /// let row = BatchRow::new(7, None, Err(error));
    /// assert_eq!(
    ///     row.to_json(),
    ///     r#"{"custom_id":"7","error":{"code":"invalid_model","kind":"invalid","message":"no such model"}}"#
    /// );
    /// ```
    #[must_use]
    pub fn to_json(&self) -> String {
        let index;
        let id = match &self.id {
            Some(id) => id,
            None => {
                index = self.index.to_string();
                &*index
            }
        };
        let answer = match &self.result {
            Ok(answer) => answer,
            Err(error) => {
                let error = json!({ "kind": error.kind.as_str(), "code": error.code, "message": error.message });
                return json!({ "custom_id": id, "error": error }).to_string();
            }
        };
        let raw = std::str::from_utf8(&answer.answer.raw).ok().filter(|raw| !raw.is_empty() && !raw.contains('\n'));
        let Some(raw) = raw else {
            let response = json!({ "status_code": 200, "body": body_of(&answer.answer) });
            return json!({ "custom_id": id, "response": response }).to_string();
        };
        format!(r#"{{"custom_id":{},"response":{{"status_code":200,"body":{raw}}}}}"#, Value::from(id))
    }
}

/// The body of a chat completion that says the same as an answer.
pub(super) fn body_of(answer: &Answer) -> Value {
    let choice = |choice: &Choice| json!({ "index": choice.index, "message": choice.message, "finish_reason": choice.finish_reason });
    let (usage, choices) = (answer.usage, answer.choices().iter().map(choice).collect::<Vec<_>>());
    json!({
        "object": "chat.completion",
        "model": answer.served,
        "choices": choices,
        "usage": {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.total(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::{BatchAnswer, LineSource},
        types::{Cost, Usd},
    };

    #[test]
    fn every_form_of_a_line_is_read() {
        let openai = concat!(
            r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","#,
            r#""messages":[{"role":"user","content":"hi"}],"temperature":0}}"#
        );
        let line = BatchLine::from_json(openai).unwrap();
        assert_eq!(line.request.temperature_of(), Some(0.0));
        assert_eq!(line.request, {
            let input: ChatInput =
                serde_json::from_str(r#"{"messages":[{"role":"user","content":"hi"}],"temperature":0}"#).unwrap();
            InferenceRequest::from(input).model("m")
        });
        assert_eq!(BatchLine::from_json(r#"{"id":7,"prompt":"hi"}"#).unwrap().id.as_deref(), Some("7"));
        assert_eq!(BatchLine::from_json(r#"{"id":"x","prompt":"hi"}"#).unwrap().id.as_deref(), Some("x"));
        for (broken, problem) in [
            ("", "it is no JSON object"),
            ("[]", "it is no JSON object"),
            (r#"{"url":"/v1/embeddings","body":{}}"#, "it goes to /v1/embeddings"),
            (r#"{"body":7}"#, "its body is no chat request"),
            (r#"{"body":{"model":7,"messages":[]}}"#, "its model is no text"),
            (r#"{"body":{"stream":true,"messages":[]}}"#, "it asks for a stream"),
        ] {
            let error = BatchLine::from_json(broken).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{broken}: {error}");
        }
    }

    #[test]
    fn an_answer_is_written_as_the_api_writes_it() {
        let mut answer = Answer::chat("5 days", "m");
        let cost = Cost::Known(Usd::ZERO);
        let row = |answer: &Answer| {
            let answer = BatchAnswer { answer: answer.clone().into(), cost, source: LineSource::Job };
            serde_json::from_str::<Value>(&BatchRow::new(0, Some("a\"b".into()), Ok(answer)).to_json()).unwrap()
        };
        let made = row(&answer);
        assert_eq!(made["custom_id"], "a\"b");
        assert_eq!(made["response"]["body"]["choices"][0]["message"]["content"], "5 days");
        answer.raw = r#"{"choices":[],"new_field":1}"#.into();
        assert_eq!(row(&answer)["response"]["body"]["new_field"], 1, "the provider's own body is kept");
    }
}
