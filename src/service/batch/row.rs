//! What is kept of an answer: a line of JSON in the spool.

use std::{borrow::Cow, io};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    batch::{LineError, LineErrorKind},
    client::{self, chat_completion_of},
    inference::{Answer, Output},
    types::ModelId,
};

/// A line of the spool, as it is written and read.
#[derive(Serialize, Deserialize)]
struct Row<'a> {
    /// The provider's own body.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    /// An answer of ours, where there is no body.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    answer: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    error: Option<Failure<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Failure<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
}

/// What a line of the spool says.
#[derive(Debug)]
pub(super) enum Kept {
    Answer(Box<Answer>),
    Error(LineError),
}

/// The row of a body of the provider's. It came in a line of JSON, so that it has no line break.
pub(super) fn of_body(body: &[u8]) -> Vec<u8> {
    wrapped(b"{\"body\":", body)
}

/// The row of an answer: its body where there is one.
pub(super) fn of_answer(answer: &Answer) -> Result<Vec<u8>, serde_json::Error> {
    let is_line = !answer.raw.is_empty() && memchr::memchr2(b'\n', b'\r', &answer.raw).is_none();
    if is_line && answer.usage_reported && matches!(&*answer.output, Output::Chat(_)) {
        return Ok(of_body(&answer.raw));
    }
    Ok(wrapped(b"{\"answer\":", &answer.to_json()?))
}

/// The row of a failure.
pub(super) fn of_error(error: &LineError) -> Vec<u8> {
    let failure =
        Failure { kind: error.kind.as_str().into(), code: (&*error.code).into(), message: (&*error.message).into() };
    let mut row = serde_json::to_vec(&Row { body: None, answer: None, error: Some(failure) }).unwrap_or_default();
    row.push(b'\n');
    row
}

fn wrapped(head: &[u8], inner: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(head.len() + inner.len() + 2);
    row.extend_from_slice(head);
    row.extend_from_slice(inner);
    row.extend_from_slice(b"}\n");
    row
}

/// Reads a row. `asked` is the model that the line was for.
pub(super) fn read(row: &[u8], asked: &ModelId) -> Result<Kept, io::Error> {
    let invalid = |error: serde_json::Error| unreadable("answer", &error);
    let row: Row<'_> = serde_json::from_slice(row).map_err(invalid)?;
    if let Some(body) = row.body {
        let body = bytes::Bytes::copy_from_slice(body.get().as_bytes());
        let answer = answer_of(&body, asked)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the body of an answer is none of a completion"))?;
        return Ok(Kept::Answer(Box::new(answer)));
    }
    if let Some(answer) = row.answer {
        return Answer::from_json(answer.get().as_bytes())
            .map(|answer| Kept::Answer(Box::new(answer)))
            .map_err(invalid);
    }
    let error = row.error.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the row says nothing"))?;
    Ok(Kept::Error(LineError::new(LineErrorKind::of(&error.kind), &*error.code, &*error.message)))
}

/// The error of something kept that cannot be read. What serde says may quote a prompt: where it stands says enough.
pub(super) fn unreadable(what: &str, error: &serde_json::Error) -> io::Error {
    let (category, column) = (error.classify(), error.column());
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a kept {what} is not what was written: {category:?} at {column}"),
    )
}

/// The answer that a body of a chat completion is.
pub(super) fn answer_of(body: &bytes::Bytes, asked: &ModelId) -> Result<Answer, client::Error> {
    let completion = chat_completion_of(body, asked)?;
    Ok(Answer {
        usage: completion.usage.unwrap_or_default(),
        usage_reported: completion.usage.is_some(),
        served: completion.model,
        output: std::sync::Arc::new(Output::Chat(completion.choices)),
        raw: body.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_lines_that_read_back() {
        let model = ModelId::from("m");
        let body = concat!(
            r#"{"id":"1","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"a\nb"},"#,
            r#""finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#
        )
        .as_bytes();
        let row = of_body(body);
        assert_eq!(row.split(|byte| *byte == b'\n').count(), 2);
        let Kept::Answer(answer) = read(&row, &model).unwrap() else { panic!("an answer") };
        assert_eq!((answer.text(), answer.usage.prompt), ("a\nb", 3));
        assert_eq!(of_answer(&answer).unwrap(), row, "the provider's own body is kept");

        let plain = Answer::chat("5 days", "m");
        let Kept::Answer(answer) = read(&of_answer(&plain).unwrap(), &model).unwrap() else { panic!("an answer") };
        assert_eq!(*answer, plain);

        let torn = read(br#"{"body":null,"error":"a canary"}"#, &model).unwrap_err().to_string();
        assert!(torn.contains("answer") && !torn.contains("canary"), "{torn}");
        let torn = read(br#"{"body":{"choices":"a canary"}}"#, &model).unwrap_err().to_string();
        assert!(!torn.contains("canary"), "{torn}");

        let error = LineError::new(LineErrorKind::Invalid, "batch_client_error", "no \"tool\"\nof that name");
        let Kept::Error(kept) = read(&of_error(&error), &model).unwrap() else { panic!("an error") };
        assert_eq!(kept, error);
    }
}
