//! What the API refuses before any model sees it.

use http::StatusCode;
use serde_json::Value;

use super::{ask::Ask, error::ApiError};

type Check = Result<(), ApiError>;

/// Checks what every request of a model has.
pub(super) fn model(ask: Ask<'_>) -> Check {
    if !ask.body().is_object() {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "the request body must be a JSON object"));
    }
    match ask.field("model").and_then(Value::as_str) {
        Some(model) if !model.is_empty() => Ok(()),
        _ => Err(ApiError::bad_request("model", "model is required")),
    }
}

/// Checks the body of a chat request.
pub(super) fn chat(ask: Ask<'_>) -> Check {
    model(ask)?;
    messages(ask)?;
    sampling(ask)?;
    tools(ask)?;
    tool_choice(ask)?;
    response_format(ask)
}

/// Checks the body of a completion request.
pub(super) fn completion(ask: Ask<'_>) -> Check {
    model(ask)?;
    if ask.prompt().is_none_or(str::is_empty) {
        return Err(ApiError::bad_request("prompt", "prompt must be a non-empty string"));
    }
    sampling(ask)
}

fn sampling(ask: Ask<'_>) -> Check {
    range(ask, "temperature", 0.0, 2.0)?;
    range(ask, "top_p", 0.0, 1.0)?;
    range(ask, "min_p", 0.0, 1.0)?;
    range(ask, "presence_penalty", -2.0, 2.0)?;
    range(ask, "frequency_penalty", -2.0, 2.0)?;
    whole(ask, "max_tokens", 1, u64::MAX)?;
    whole(ask, "n", 1, 128)?;
    whole(ask, "logprobs", 0, 20)?;
    stop(ask)?;
    if ask.field("stream").is_some_and(|stream| !stream.is_boolean()) {
        return Err(ApiError::bad_request("stream", "stream must be a boolean"));
    }
    Ok(())
}

fn messages(ask: Ask<'_>) -> Check {
    if ask.messages().is_empty() {
        return Err(ApiError::bad_request("messages", "messages must be a non-empty array"));
    }
    ask.messages().iter().enumerate().try_for_each(|(index, message)| {
        self::message(message)
            .map_err(|why| ApiError::bad_request("messages", format!("messages[{index}] is invalid: {why}")))
    })
}

fn message(message: &Value) -> Result<(), &'static str> {
    let content = message.get("content").filter(|content| !content.is_null());
    match message.get("role").and_then(Value::as_str) {
        Some("assistant") => content.map_or(Ok(()), self::content),
        Some("tool") if message.get("tool_call_id").and_then(Value::as_str).is_none() => {
            Err("a tool message needs tool_call_id")
        }
        Some("system" | "user" | "tool" | "function") => self::content(content.ok_or("content is required")?),
        Some(_) => Err("role must be one of system, user, assistant, tool"),
        None => Err("role is required"),
    }
}

fn content(content: &Value) -> Result<(), &'static str> {
    match content {
        Value::String(_) => Ok(()),
        Value::Array(parts) if parts.is_empty() => Err("content must not be empty"),
        Value::Array(parts) => parts.iter().try_for_each(part),
        _ => Err("content must be a string or an array of parts"),
    }
}

fn part(part: &Value) -> Result<(), &'static str> {
    let has_url = |name| part.get(name).and_then(|link: &Value| link.get("url")).is_some_and(Value::is_string);
    match part.get("type").and_then(Value::as_str) {
        Some("text") if part.get("text").is_some_and(Value::is_string) => Ok(()),
        Some(name @ ("image_url" | "video_url" | "audio_url")) if has_url(name) => Ok(()),
        Some("input_audio") if part.get("input_audio").is_some_and(Value::is_object) => Ok(()),
        Some("text" | "image_url" | "video_url" | "audio_url" | "input_audio") => Err("a part lacks its content"),
        _ => Err("a part has an unknown type"),
    }
}

fn range(ask: Ask<'_>, name: &'static str, low: f64, high: f64) -> Check {
    let Some(value) = ask.field(name) else { return Ok(()) };
    match value.as_f64() {
        Some(number) if (low..=high).contains(&number) => Ok(()),
        _ => Err(ApiError::bad_request(name, format!("{name} must be a number between {low} and {high}"))),
    }
}

fn whole(ask: Ask<'_>, name: &'static str, low: u64, high: u64) -> Check {
    let Some(value) = ask.field(name) else { return Ok(()) };
    match value.as_u64() {
        Some(number) if (low..=high).contains(&number) => Ok(()),
        _ if high == u64::MAX => {
            Err(ApiError::bad_request(name, format!("{name} must be an integer of at least {low}")))
        }
        _ => Err(ApiError::bad_request(name, format!("{name} must be an integer between {low} and {high}"))),
    }
}

fn stop(ask: Ask<'_>) -> Check {
    match ask.field("stop") {
        None | Some(Value::String(_)) => Ok(()),
        Some(Value::Array(stops)) if stops.iter().all(Value::is_string) => Ok(()),
        Some(_) => Err(ApiError::bad_request("stop", "stop must be a string or an array of strings")),
    }
}

fn tools(ask: Ask<'_>) -> Check {
    let Some(tools) = ask.field("tools") else { return Ok(()) };
    let is_tool = |tool: &Value| {
        let function = tool.get("function");
        let name = function.and_then(|function| function.get("name")).and_then(Value::as_str).unwrap_or_default();
        let parameters = function.and_then(|function| function.get("parameters")).filter(|value| !value.is_null());
        tool.get("type").and_then(Value::as_str) == Some("function")
            && !name.is_empty()
            && parameters.is_none_or(Value::is_object)
    };
    match tools.as_array() {
        Some(tools) if tools.iter().all(is_tool) => Ok(()),
        _ => Err(ApiError::bad_request(
            "tools",
            "tools must be an array of {\"type\":\"function\",\"function\":{\"name\",\"description\",\"parameters\"}}",
        )),
    }
}

fn tool_choice(ask: Ask<'_>) -> Check {
    let fine = match ask.field("tool_choice") {
        None => true,
        Some(Value::String(choice)) => match choice.as_str() {
            "auto" | "none" => true,
            "required" => ask.field("tools").is_some(),
            _ => false,
        },
        Some(choice) => choice.is_object() && !ask.wanted_tools().is_empty(),
    };
    let message = "tool_choice must be auto, none, required or a function among tools";
    if fine { Ok(()) } else { Err(ApiError::bad_request("tool_choice", message)) }
}

fn response_format(ask: Ask<'_>) -> Check {
    let Some(format) = ask.field("response_format") else { return Ok(()) };
    let named = || format.get("json_schema").and_then(|schema| schema.get("name")).is_some_and(Value::is_string);
    match format.get("type").and_then(Value::as_str) {
        Some("text" | "json_object" | "regex") => Ok(()),
        Some("json_schema") if named() && ask.schema().is_none_or(Value::is_object) => Ok(()),
        Some("json_schema") => {
            Err(ApiError::bad_request("response_format", "json_schema needs a name and an object as schema"))
        }
        _ => Err(ApiError::bad_request("response_format", "type must be text, json_object or json_schema")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(name: &str, value: Value) -> Value {
        let mut body = json!({
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        });
        body[name] = value;
        body
    }

    #[test]
    fn what_the_api_refuses_is_refused_with_the_name_of_the_field() {
        for (name, value) in [
            ("model", json!("")),
            ("model", Value::Null),
            ("messages", json!([])),
            ("messages", json!([{"content": "hi"}])),
            ("messages", json!([{"role": "robot", "content": "hi"}])),
            ("messages", json!([{"role": "user"}])),
            ("messages", json!([{"role": "user", "content": [{"type": "image_url"}]}])),
            ("messages", json!([{"role": "tool", "content": "4"}])),
            ("temperature", json!(2.1)),
            ("temperature", json!("hot")),
            ("max_tokens", json!(0)),
            ("n", json!(129)),
            ("logprobs", json!(true)),
            ("stop", json!([1])),
            ("stream", json!("yes")),
            ("tools", json!([{"type": "function"}])),
            ("tool_choice", json!("maybe")),
            ("tool_choice", json!({"type": "function", "function": {"name": "g"}})),
            ("response_format", json!({"type": "json_schema"})),
            ("response_format", json!({"type": "xml"})),
        ] {
            let body = with(name, value);
            let error = chat(Ask::new(&body)).expect_err(name);
            assert_eq!((error.status, error.param), (StatusCode::BAD_REQUEST, Some(name)));
        }
    }

    #[test]
    fn what_the_api_accepts_is_accepted() {
        for (name, value) in [
            ("temperature", json!(0)),
            ("temperature", Value::Null),
            ("max_tokens", json!(1)),
            ("n", json!(128)),
            ("stop", json!("x")),
            ("tool_choice", json!({"type": "function", "function": {"name": "f"}})),
            ("tool_choice", json!("required")),
            ("response_format", json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {}}})),
            (
                "messages",
                json!([{"role": "assistant", "content": null, "tool_calls": []},
                                {"role": "tool", "content": "4", "tool_call_id": "call_1"}]),
            ),
        ] {
            let body = with(name, value);
            chat(Ask::new(&body)).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
    }
}
