//! Files: uploaded in three ways, listed, downloaded, deleted.

mod content;
mod form;
mod store;
mod upload;

#[cfg(test)]
mod tests;

use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

pub(super) use self::{
    content::content,
    form::Form,
    store::{File, Files},
    upload::{abort, complete, initiate, presign, put},
};
use super::{
    handler::Body,
    offline::reply,
    state::{Config, State},
};

/// `POST /v1/files/upload`: the file and its description in one request.
pub(super) fn upload(state: &mut State, config: &Config, form: Form, now: Instant) -> Response<Body> {
    let (Some(name), Some(purpose), Some(content)) = (form.field("file_name"), form.field("purpose"), &form.file)
    else {
        return upload::refused("file, file_name and purpose are required");
    };
    let kind = form.field("file_type").unwrap_or("jsonl").to_owned();
    let (name, purpose, content) = (name.to_owned(), purpose.to_owned(), Some(content.clone()));
    let created = state.micros(config, now);
    let id = state.store.add(config.seed, File { name, kind, purpose, created, content, ..File::default() });
    one(state, &id, now)
}

/// `GET /v1/files/{id}`.
pub(super) fn one(state: &State, id: &str, now: Instant) -> Response<Body> {
    state.store.get(id, now).map_or_else(missing, |file| reply(StatusCode::OK, &file.to_json()))
}

/// `POST /v1/files/{id}/preprocess`: the file was put where it belongs.
pub(super) fn preprocess(state: &State, id: &str, now: Instant) -> Response<Body> {
    match state.store.get(id, now) {
        Some(file) if file.content.is_none() => upload::refused("the file was not uploaded"),
        _ => one(state, id, now),
    }
}

/// `GET /v1/files`.
pub(super) fn list(state: &State, now: Instant) -> Response<Body> {
    let files: Vec<Value> = state.store.listed(now).into_iter().map(File::to_json).collect();
    reply(StatusCode::OK, &json!({"data": files}))
}

/// `DELETE /v1/files/{id}`.
pub(super) fn delete(state: &mut State, id: &str, now: Instant) -> Response<Body> {
    if state.store.get(id, now).is_none() {
        return missing();
    }
    state.store.remove(id);
    reply(StatusCode::OK, &json!({"id": id, "deleted": true}))
}

/// There is no such file.
fn missing() -> Response<Body> {
    let error = json!({"message": "File not found", "type": "not_found"});
    reply(StatusCode::NOT_FOUND, &json!({"error": error}))
}
