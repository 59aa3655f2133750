//! Moderation models: `safe`, or `unsafe` with the category on a line of its own.

use http::StatusCode;

use super::{ask::Ask, error::ApiError, state::State};

/// Words that the simulator takes offence at, with the category of each.
const UNSAFE: &[(&str, &str)] = &[("kill", "S1"), ("steal", "S2"), ("poison", "S1"), ("bomb", "S9")];

/// What a moderation model says of a text.
pub(super) fn verdict(text: &str) -> String {
    let text = text.to_lowercase();
    let mut found: Vec<&str> =
        UNSAFE.iter().filter(|(word, _)| text.contains(word)).map(|(_, category)| *category).collect();
    found.dedup();
    if found.is_empty() { "safe".to_owned() } else { format!("unsafe\n{}", found.join(",")) }
}

/// Refuses what the `safety_model` of a request finds unsafe.
pub(super) fn screen(ask: Ask<'_>, state: &State) -> Result<(), ApiError> {
    let Some(name) = ask.field("safety_model").and_then(serde_json::Value::as_str) else { return Ok(()) };
    if state.model(name).is_none_or(|model| model.kind() != "moderation") {
        return Err(ApiError::bad_request("safety_model", format!("{name} is not a moderation model")));
    }
    if verdict(&ask.last_user_text()) == "safe" {
        return Ok(());
    }
    let message = "The request was flagged by the safety model.";
    Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message).with_code("content_flagged"))
}
