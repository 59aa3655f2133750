//! `POST /v1/rerank`.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{
    ask::{Ask, count},
    bill::Tokens,
    error::ApiError,
    models::SimModel,
    words::relevance,
};

/// The fields that the API knows; it refuses others.
const FIELDS: &[&str] = &["model", "query", "documents", "top_n", "return_documents", "rank_fields"];

pub(super) fn query(ask: Ask<'_>) -> &str {
    ask.field("query").and_then(Value::as_str).unwrap_or_default()
}

fn documents(ask: Ask<'_>) -> &[Value] {
    ask.field("documents").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn validate(ask: Ask<'_>) -> Result<(), ApiError> {
    let known = ask.body().as_object().into_iter().flat_map(|map| map.keys());
    if let Some(name) = known.into_iter().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(ApiError::bad_request("", format!("Unrecognized request argument supplied: {name}")));
    }
    if query(ask).is_empty() {
        return Err(ApiError::bad_request("query", "query is required"));
    }
    let documents = documents(ask);
    let all = |is: fn(&Value) -> bool| !documents.is_empty() && documents.iter().all(is);
    if !all(Value::is_string) && !all(Value::is_object) {
        return Err(ApiError::bad_request("documents", "documents must be a non-empty array of strings or of objects"));
    }
    match ask.field("top_n") {
        Some(most) if most.as_u64().is_none_or(|most| most == 0) => {
            Err(ApiError::bad_request("top_n", "top_n must be an integer of at least 1"))
        }
        _ => Ok(()),
    }
}

/// The text of a document: of an object, the fields that count, as JSON.
fn text_of<'a>(document: &'a Value, fields: &[&str]) -> Cow<'a, str> {
    match document {
        Value::String(text) => Cow::Borrowed(text),
        Value::Object(map) if !fields.is_empty() => {
            let kept = map.iter().filter(|(name, _)| fields.contains(&name.as_str()));
            let kept: serde_json::Map<String, Value> =
                kept.map(|(name, value)| (name.clone(), value.clone())).collect();
            Cow::Owned(Value::Object(kept).to_string())
        }
        other => Cow::Owned(other.to_string()),
    }
}

fn rank_fields(ask: Ask<'_>) -> Vec<&str> {
    let fields = ask.field("rank_fields").and_then(Value::as_array);
    fields.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Each document is read together with the query.
pub(super) fn tokens(ask: Ask<'_>) -> Tokens {
    let query = query(ask);
    let pair = |document: &Value| count(&format!("{query}{}", text_of(document, &[])));
    Tokens { prompt: documents(ask).iter().map(pair).sum(), ..Tokens::default() }
}

pub(super) fn answer(ask: Ask<'_>, model: &SimModel, id: &str) -> Value {
    let (query, fields) = (query(ask), rank_fields(ask));
    let score = |(index, document)| (index, relevance(query, &text_of(document, &fields)));
    let mut scored: Vec<(usize, f64)> = documents(ask).iter().enumerate().map(score).collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1));
    let most = ask.field("top_n").and_then(Value::as_u64).and_then(|most| usize::try_from(most).ok());
    scored.truncate(most.unwrap_or(usize::MAX));
    let repeats = ask.field("return_documents").and_then(Value::as_bool).unwrap_or_default();
    let result = |(index, score): (usize, f64)| {
        let text = documents(ask).get(index).filter(|_| repeats).map(|document| text_of(document, &[]));
        json!({"index": index, "relevance_score": score, "document": {"text": text}})
    };
    let results: Vec<_> = scored.into_iter().map(result).collect();
    let prompt = tokens(ask).prompt;
    json!({
        "object": "rerank",
        "id": id,
        "model": model.id(),
        "results": results,
        "usage": {"prompt_tokens": prompt, "completion_tokens": 0, "total_tokens": prompt},
    })
}
