//! Rows: answered as the chat endpoint answers, and written to one of two files.

use serde_json::{Map, Value, json};

use super::{
    super::{
        ask::Ask,
        bill::BatchRow,
        chat::Completion,
        decide,
        draft::first,
        endpoint::Endpoint,
        error::ApiError,
        faults::{Effect, Fault},
        random::Random,
        state::{Config, State},
    },
    job::Job,
    run::MAX_LINE_BYTES,
    script::RowEffect,
};

/// The code of most failures, whatever they are.
const CLIENT_ERROR: &str = "batch_client_error";
const MAX_STOPS: usize = 4;

/// What a row comes to.
enum Answer {
    /// A charged answer.
    Whole(Box<Completion>),
    /// Something else under a status.
    Other(u16, Value),
    Error(String, String),
}

/// Finishes the next row of a job.
pub(super) fn finish(state: &mut State, config: &Config, job: &mut Job) {
    let Some(bytes) = job.lines.get(job.finished).and_then(|range| job.content.get(range.clone())) else { return };
    let line: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let id = line.get("custom_id").and_then(Value::as_str).unwrap_or_default();
    let nothing = Value::Null;
    let ask = Ask::new(line.get("body").unwrap_or(&nothing));
    state.serial += 1;
    let mut random = Random::new(job.seed ^ state.serial.rotate_left(11));
    let effect = state.batches.rows.take(id, &ask.last_user_text());
    let answer = match &effect {
        Some(RowEffect::Missing) => return,
        Some(RowEffect::Error(code, message)) => Answer::Error(code.clone(), message.clone()),
        Some(RowEffect::Status(status)) => failed(Fault::status(*status)),
        _ if bytes.len() > MAX_LINE_BYTES => Answer::Error(CLIENT_ERROR.into(), "error reading input file".into()),
        _ => answer(state, config, job, ask),
    };
    let (name, value) = match &answer {
        Answer::Whole(completion) => ("response", json!({"status_code": 200, "body": body(completion)})),
        Answer::Other(status, body) => ("response", json!({"status_code": status, "body": body})),
        Answer::Error(code, message) => ("error", json!({"code": code, "message": message})),
    };
    let mut row = Map::new();
    row.insert("id".into(), json!(format!("br_{}", random.id(24))));
    row.insert("custom_id".into(), json!(id));
    row.insert(name.into(), value);
    let is_read = !matches!(effect, Some(RowEffect::Malformed | RowEffect::Nameless));
    if let (Answer::Whole(completion), true) = (&answer, is_read) {
        charge(state, &job.id, id, completion);
    }
    let file = if name == "error" { &mut job.errors } else { &mut job.output };
    for line in written(row, effect, &mut random) {
        file.extend_from_slice(line.as_bytes());
        file.push(b'\n');
    }
}

/// The lines that a row comes to.
fn written(mut row: Map<String, Value>, effect: Option<RowEffect>, random: &mut Random) -> Vec<String> {
    let line = |row: &Map<String, Value>| json!(row).to_string();
    match effect {
        Some(RowEffect::Twice) => vec![line(&row), line(&row)],
        Some(RowEffect::Malformed) => {
            let whole = line(&row);
            vec![first(&whole, whole.len() / 2).to_owned()]
        }
        Some(RowEffect::Nameless) => {
            row.remove("custom_id");
            vec![line(&row)]
        }
        Some(RowEffect::Alien) => {
            let own = line(&row);
            row.insert("id".into(), json!(format!("br_{}", random.id(24))));
            row.insert("custom_id".into(), json!(format!("alien-{}", random.id(8))));
            vec![own, line(&row)]
        }
        _ => vec![line(&row)],
    }
}

fn answer(state: &mut State, config: &Config, job: &Job, ask: Ask<'_>) -> Answer {
    let refused = |message: &str| Answer::Error(CLIENT_ERROR.into(), message.into());
    if job.endpoint != Endpoint::Chat.path() {
        return refused("The simulator does not listen to audio");
    }
    if state.batches.refused.contains(ask.model()) {
        return refused(&ApiError::model_not_available(ask.model()).message);
    }
    if ask.stops().len() > MAX_STOPS {
        return refused("Maximum four stop sequences allowed");
    }
    let names_one = ask.field("tool_choice").is_some_and(Value::is_object);
    if names_one && ask.wanted_tools().is_empty() {
        return refused("Selected function was not found in the tools list");
    }
    match decide::row(state, config, ask) {
        Ok(completion) => Answer::Whole(Box::new(completion)),
        Err(fault) => match fault.effect {
            Effect::Error(error) => refused(&error.message),
            _ => failed(*fault),
        },
    }
}

/// What a fault comes to in the output file, or in the other one.
fn failed(fault: Fault) -> Answer {
    match fault.effect {
        Effect::Error(error) => Answer::Other(error.status.as_u16(), json!({"error": error.data()})),
        Effect::Nonsense(text) => {
            Answer::Other(200, serde_json::from_str(&text).unwrap_or_else(|_| json!(text.into_owned())))
        }
        _ => Answer::Error("timeout".into(), "Request timeout".into()),
    }
}

/// The body of an answer: in batches, reasoning is counted twice.
fn body(completion: &Completion) -> Value {
    let mut body = completion.to_json();
    let usage = body.get_mut("usage").and_then(Value::as_object_mut);
    let details = usage.filter(|usage| usage.contains_key("completion_tokens_details"));
    if let Some(usage) = details {
        usage.insert("reasoning_tokens".into(), json!(completion.tokens.reasoning));
    }
    body
}

fn charge(state: &mut State, batch: &str, custom_id: &str, completion: &Completion) {
    let Completion { id, model, price, tokens, .. } = completion;
    let percent_off = state.batches.discounts.get(model).copied().unwrap_or_default();
    let row = BatchRow { batch, custom_id, percent_off };
    state.account.charge_row(id, model, *price, *tokens, row);
}
