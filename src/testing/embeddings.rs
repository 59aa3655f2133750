//! `POST /v1/embeddings`.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    ask::{Ask, count},
    bill::Tokens,
    error::ApiError,
    models::SimModel,
    words,
};

/// The texts of a request: one, or a list.
pub(super) fn texts(ask: Ask<'_>) -> Vec<&str> {
    match ask.field("input") {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

pub(super) fn validate(ask: Ask<'_>) -> Result<(), ApiError> {
    match ask.field("input") {
        Some(Value::String(text)) if !text.is_empty() => Ok(()),
        Some(Value::Array(texts)) if !texts.is_empty() && texts.iter().all(Value::is_string) => Ok(()),
        _ => Err(ApiError::bad_request("input", "input must be a string or a non-empty array of strings")),
    }
}

/// Tokens of all texts.
pub(super) fn tokens(ask: Ask<'_>) -> Tokens {
    Tokens { prompt: texts(ask).into_iter().map(count).sum(), ..Tokens::default() }
}

/// Each text has a context of its own.
pub(super) fn fits(ask: Ask<'_>, model: &SimModel) -> Result<(), ApiError> {
    let Some((at, tokens)) = texts(ask).into_iter().map(count).enumerate().find(|(_, tokens)| *tokens > model.context)
    else {
        return Ok(());
    };
    let message = format!(
        "Input validation error: input[{at}] has {tokens} tokens, more than the {} that {} takes",
        model.context,
        model.id()
    );
    Err(ApiError { param: Some("input"), ..ApiError::new(StatusCode::BAD_REQUEST, message) })
}

/// The answer. Usage is not part of it unless the simulator is told so.
pub(super) fn answer(ask: Ask<'_>, model: &SimModel, with_usage: bool) -> Value {
    let row = |(index, text): (usize, &str)| {
        let vector = words::vector(text, model.dimensions);
        json!({"object": "embedding", "index": index, "embedding": vector})
    };
    let data: Vec<_> = texts(ask).into_iter().enumerate().map(row).collect();
    let mut body = json!({"object": "list", "model": model.id(), "data": data});
    if let (true, Some(map)) = (with_usage, body.as_object_mut()) {
        let prompt = tokens(ask).prompt;
        map.insert("usage".into(), json!({"prompt_tokens": prompt, "completion_tokens": 0, "total_tokens": prompt}));
    }
    body
}
