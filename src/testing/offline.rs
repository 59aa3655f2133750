//! Requests about files and batches: where they lead, and what is common to them.

use bytes::Bytes;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
    request::Parts,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    batches,
    error::ApiError,
    faults::Effect,
    files::{self, Form},
    handler::{Body, Exchange, JSON, Outgoing, response},
    state::State,
};

/// Where presigned addresses lead.
pub(super) const STORAGE: &str = "/storage/";
/// A larger upload is refused with 413.
pub(super) const MAX_UPLOAD_BYTES: usize = 1 << 30;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Upload,
    Files,
    File(&'a str),
    Content(&'a str),
    Preprocess(&'a str),
    Initiate,
    Complete,
    Abort,
    /// The presigned address of a file or of a part of it.
    Storage(&'a str),
    Batches,
    Batch(&'a str),
    Cancel(&'a str),
}

/// The body of a request.
#[derive(Debug)]
pub(super) enum Content {
    Json(Value),
    Form(Form),
    Raw(Bytes),
}

impl<'a> Route<'a> {
    pub(super) fn of(path: &'a str) -> Option<Self> {
        if let Some(key) = path.strip_prefix(STORAGE) {
            return Some(Self::Storage(key));
        }
        let segments: Vec<_> = path.strip_prefix("/v1/")?.split('/').collect();
        Some(match *segments.as_slice() {
            ["files"] => Self::Files,
            ["files", "upload"] => Self::Upload,
            ["files", "multipart", "initiate"] => Self::Initiate,
            ["files", "multipart", "complete"] => Self::Complete,
            ["files", "multipart", "abort"] => Self::Abort,
            ["files", id] => Self::File(id),
            ["files", id, "content"] => Self::Content(id),
            ["files", id, "preprocess"] => Self::Preprocess(id),
            ["batches"] => Self::Batches,
            ["batches", id] => Self::Batch(id),
            ["batches", id, "cancel"] => Self::Cancel(id),
            _ => return None,
        })
    }

    /// The path with `*` for ids, by which requests are counted.
    pub(super) const fn place(self) -> &'static str {
        match self {
            Self::Upload => "/v1/files/upload",
            Self::Files => "/v1/files",
            Self::File(_) => "/v1/files/*",
            Self::Content(_) => "/v1/files/*/content",
            Self::Preprocess(_) => "/v1/files/*/preprocess",
            Self::Initiate => "/v1/files/multipart/initiate",
            Self::Complete => "/v1/files/multipart/complete",
            Self::Abort => "/v1/files/multipart/abort",
            Self::Storage(_) => "/storage/*",
            Self::Batches => "/v1/batches",
            Self::Batch(_) => "/v1/batches/*",
            Self::Cancel(_) => "/v1/batches/*/cancel",
        }
    }

    /// The methods, as the header `allow` has them.
    const fn methods(self) -> &'static str {
        match self {
            Self::Files | Self::Batches => "GET, POST",
            Self::File(_) => "GET, DELETE",
            Self::Content(_) | Self::Batch(_) => "GET",
            Self::Storage(_) => "PUT",
            Self::Upload | Self::Preprocess(_) | Self::Initiate | Self::Complete | Self::Abort | Self::Cancel(_) => {
                "POST"
            }
        }
    }
}

impl Content {
    /// Reads a body, by what it says to be.
    pub(super) fn read(route: Route<'_>, parts: &Parts, body: Bytes) -> Self {
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if matches!(route, Route::Storage(_)) {
            return Self::Raw(body);
        }
        if matches!(route, Route::Upload | Route::Files) && parts.method == Method::POST {
            return Self::Form(Form::read(kind, parts.uri.query().unwrap_or_default(), &body));
        }
        Self::Json(match serde_json::from_slice(&body) {
            Ok(json) => json,
            Err(_) if body.is_empty() => Value::Null,
            Err(_) => Value::String(String::from_utf8_lossy(&body).into_owned()),
        })
    }

    /// What is remembered of it: no megabytes.
    pub(super) fn brief(&self) -> Value {
        match self {
            Self::Json(value) => value.clone(),
            Self::Form(form) => form.brief(),
            Self::Raw(bytes) => json!({"bytes": bytes.len()}),
        }
    }
}

/// Answers a request. It is acted on at once, whenever its reply leaves.
pub(super) async fn respond(exchange: &Exchange<'_>, route: Route<'_>, content: Content) -> Outgoing {
    let method = &exchange.parts.method;
    if !route.methods().split(", ").any(|allowed| method.as_str() == allowed) {
        let mut response = exchange.error(&ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(route.methods()));
        return Ok(response);
    }
    if !matches!(route, Route::Storage(_)) {
        if let Err(error) = exchange.authorize() {
            return Ok(exchange.error(&error));
        }
    }
    let (delay, outcome) = {
        let mut state = exchange.shared.lock();
        let now = Instant::now();
        batches::run(&mut state, &exchange.shared.config, now);
        let request = format!("{method} {}", exchange.parts.uri.path());
        let fault = state.faults.take(&request, "");
        let outcome = match fault.filter(|fault| !matches!(fault.effect, Effect::Stream(_))) {
            Some(fault) => Err(fault),
            None => Ok(act(exchange, route, content, &mut state, now)),
        };
        (state.latency, outcome)
    };
    exchange.wait(delay).await;
    match outcome {
        Ok(response) => Ok(response),
        Err(fault) => exchange.fail(fault).await,
    }
}

fn act(exchange: &Exchange<'_>, route: Route<'_>, content: Content, state: &mut State, now: Instant) -> Response<Body> {
    let config = &exchange.shared.config;
    let method = &exchange.parts.method;
    match (route, content) {
        (Route::Batches, Content::Json(body)) if method == Method::POST => batches::create(state, config, &body, now),
        (Route::Batches, _) => batches::list(state, config, now),
        (Route::Batch(id), _) => batches::one(state, id, &exchange.id()),
        (Route::Cancel(id), _) => batches::cancel(state, id, &exchange.id(), now),
        (Route::Files, Content::Form(form)) => files::presign(state, exchange, form, now),
        (Route::Upload, Content::Form(form)) => files::upload(state, config, form, now),
        (Route::Storage(key), Content::Raw(bytes)) => files::put(state, exchange, key, bytes),
        (Route::Initiate, Content::Json(body)) => files::initiate(state, exchange, &body, now),
        (Route::Complete, Content::Json(body)) => files::complete(state, &body),
        (Route::Abort, Content::Json(body)) => files::abort(state, &body),
        (Route::Preprocess(id), _) => files::preprocess(state, id, now),
        (Route::File(id), _) if method == Method::DELETE => files::delete(state, id, now),
        (Route::File(id), _) => files::one(state, id, now),
        (Route::Content(id), _) => files::content(state, id, &exchange.parts.headers, now),
        _ => files::list(state, now),
    }
}

/// A reply in JSON.
pub(super) fn reply(status: StatusCode, body: &Value) -> Response<Body> {
    response(status, Some(JSON), body.to_string())
}

/// The place of a request, for its count.
pub(super) fn place(method: &Method, path: &str) -> String {
    let place = match Route::of(path) {
        Some(route) => route.place(),
        None => path,
    };
    format!("{method} {place}")
}
