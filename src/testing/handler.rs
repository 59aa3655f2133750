//! One request, one response: the same for memory and socket.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HOST},
    request::Parts,
    uri::Authority,
};
use serde_json::{Value, json};

use super::{
    account,
    ask::Ask,
    decide::{Answer, Outcome, Whole, decide},
    endpoint::Endpoint,
    error::{ApiError, ErrorShape},
    faults::{Effect, Fault},
    images, listing,
    models::SimModel,
    offline::{self, Content, MAX_UPLOAD_BYTES, Route, place},
    recorded::{Key, Recorded},
    sse,
    state::{InFlight, Shared},
    stream,
    wire::Mishap,
};
pub(super) use crate::client::{Body, TransportError, TransportErrorKind};

const MODELS: &str = "/v1/models";
const SUPPORTED: &str = "/v2/supported-models";
/// Of the documentation, which is on another host.
const LEAVING: &str = "/docs/deprecations.md";
const WHOAMI: &str = "/v1/whoami";
const WHOAMI_V3: &str = "/v3/whoami";
/// Pictures that are kept for their links.
const MAX_FILES: usize = 64;
pub(super) const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream;charset=utf-8";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A larger request body is refused with 413.
const MAX_BODY_BYTES: usize = 64 << 20;

pub(super) type Outgoing = Result<Response<Body>, TransportError>;

/// Handles a request. Dropping the future gives it up.
pub(super) async fn handle(shared: &Arc<Shared>, request: Request<Body>) -> Outgoing {
    let _in_flight = InFlight::enter(shared);
    let (parts, body) = request.into_parts();
    let place = format!("{} {}", parts.method, parts.uri.path());
    let mishap = shared.lock().wire.take(&place);
    match mishap {
        Some(Mishap::LostRequest) => return Err(broken_off()),
        Some(Mishap::LateRequest(late)) => return Err(arrive_later(shared, parts, body, late).await?),
        _ => {}
    }
    let outgoing = exchange(shared, &parts, body).await;
    match mishap {
        Some(Mishap::LateReply(late)) => tokio::time::sleep(shared.config.scaled(late)).await,
        Some(_) => return Err(broken_off()),
        None => {}
    }
    outgoing
}

/// Acts on a request later, whatever has become of its caller: who sees a broken connection.
async fn arrive_later(
    shared: &Arc<Shared>,
    parts: Parts,
    body: Body,
    late: Duration,
) -> Result<TransportError, TransportError> {
    let Some(bytes) = read(body, MAX_UPLOAD_BYTES).await? else { return Ok(broken_off()) };
    let (shared, late) = (Arc::clone(shared), shared.config.scaled(late));
    #[expect(clippy::disallowed_methods, reason = "nobody waits for a request whose caller is gone")]
    tokio::spawn(async move {
        tokio::time::sleep(late).await;
        // There is nobody to tell.
        let _ = exchange(&shared, &parts, Body::from(bytes)).await;
    });
    Ok(broken_off())
}

async fn exchange(shared: &Arc<Shared>, parts: &Parts, body: Body) -> Outgoing {
    let (exchange, mut response);
    if let Some(route) = Route::of(parts.uri.path()) {
        let Some(bytes) = read(body, MAX_UPLOAD_BYTES).await? else {
            exchange = Exchange::open(shared, parts, Value::Null);
            return Ok(exchange.error(&too_large()));
        };
        let content = Content::read(route, parts, bytes);
        exchange = Exchange::open(shared, parts, content.brief());
        response = offline::respond(&exchange, route, content).await?;
    } else {
        let (body, broken) = parse(read(body, MAX_BODY_BYTES).await?);
        exchange = Exchange::open(shared, parts, body);
        response = exchange.respond(broken).await?;
    }
    let id = HeaderValue::from_str(&exchange.id()).unwrap_or(HeaderValue::from_static("sim"));
    response.headers_mut().entry(REQUEST_ID).or_insert(id);
    Ok(response)
}

/// The body; `None` when it is too large.
async fn read(body: Body, most: usize) -> Result<Option<Bytes>, TransportError> {
    let mut body = match body.into_bytes() {
        Ok(bytes) => return Ok((bytes.len() <= most).then_some(bytes)),
        Err(body) => body,
    };
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() > most {
            return Ok(None);
        }
    }
    Ok(Some(bytes.into()))
}

fn too_large() -> ApiError {
    let error = ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large");
    ApiError { shape: ErrorShape::Html, ..error }
}

fn broken_off() -> TransportError {
    TransportError::new(TransportErrorKind::Interrupted, "the simulator closed the connection")
}

/// The body as JSON, with the error to answer if it is none.
fn parse(bytes: Option<Bytes>) -> (Value, Option<ApiError>) {
    let Some(bytes) = bytes else { return (Value::Null, Some(too_large())) };
    match serde_json::from_slice(&bytes) {
        Ok(body) => (body, None),
        Err(error) => {
            let error = ApiError::new(StatusCode::BAD_REQUEST, format!("invalid JSON: {error}"));
            let text = String::from_utf8(bytes.to_vec()).unwrap_or_default();
            (if text.is_empty() { Value::Null } else { Value::String(text) }, Some(error))
        }
    }
}

/// A request that was read and recorded.
pub(super) struct Exchange<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) parts: &'a Parts,
    body: Arc<Value>,
    serial: u64,
}

impl<'a> Exchange<'a> {
    fn open(shared: &'a Arc<Shared>, parts: &'a Parts, body: Value) -> Self {
        let body = Arc::new(body);
        let path = parts.uri.path();
        let recorded = Recorded::new(parts.method.clone(), path, parts.headers.clone(), Arc::clone(&body));
        let mut state = shared.lock();
        state.serial += 1;
        state.log.push(recorded, place(&parts.method, path));
        if parts.method == Method::POST && Endpoint::of(path).is_some() {
            state.log.count(Ask::new(&body).model());
        }
        Self { shared, parts, body, serial: state.serial }
    }

    pub(super) fn id(&self) -> String {
        format!("sim-{:08x}", self.serial)
    }

    async fn respond(&self, broken: Option<ApiError>) -> Outgoing {
        let path = self.parts.uri.path();
        if let Some(name) = path.strip_prefix(images::FOLDER) {
            return Ok(self.file(name));
        }
        if path == LEAVING {
            return Ok(self.leaving());
        }
        let endpoint = Endpoint::of(path);
        let is_known = endpoint.is_some() || matches!(path, MODELS | SUPPORTED | WHOAMI | WHOAMI_V3);
        if !is_known {
            let message = format!("Unknown request URL: {} {path}.", self.parts.method);
            return Ok(self.error(&ApiError::new(StatusCode::NOT_FOUND, message)));
        }
        let allowed = if endpoint.is_some() { Method::POST } else { Method::GET };
        if self.parts.method != allowed {
            let mut response = self.error(&ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"));
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static(if allowed == Method::GET { "GET" } else { "POST" }));
            return Ok(response);
        }
        if let Err(error) = self.authorize() {
            return Ok(self.error(&error));
        }
        match (endpoint, broken) {
            (None, _) => self.listing(path).await,
            (Some(_), Some(error)) => Ok(self.error(&error)),
            (Some(endpoint), None) => self.ask(endpoint).await,
        }
    }

    /// A picture that an answer links to. Links need no key.
    fn file(&self, name: &str) -> Response<Body> {
        let found = self.shared.lock().files.iter().find(|(file, _)| file == name).map(|(_, bytes)| bytes.clone());
        let is_png = found.as_ref().is_some_and(|bytes| bytes.starts_with(b"\x89PNG"));
        let kind = if is_png { "image/png" } else { "image/jpeg" };
        match found {
            Some(bytes) => response(StatusCode::OK, Some(kind), bytes),
            None => self.error(&ApiError::new(StatusCode::NOT_FOUND, "the picture has expired")),
        }
    }

    pub(super) fn authorize(&self) -> Result<(), ApiError> {
        let key = Key::in_headers(&self.parts.headers);
        let accepted = self.shared.config.key.map_or(key.is_present(), |accepted| accepted == key);
        if accepted {
            return Ok(());
        }
        let message =
            "Invalid API key provided. You can find your API key at https://api.together.ai/settings/api-keys.";
        Err(ApiError::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key"))
    }

    /// The lists, and who asks.
    async fn listing(&self, path: &str) -> Outgoing {
        let (fault, delay, body) = {
            let mut state = self.shared.lock();
            let query = self.parts.uri.query().unwrap_or_default();
            let body = match path {
                MODELS => {
                    let list: Vec<_> = state.models.iter().map(SimModel::listing).collect();
                    let wrapped = self.shared.config.wrapped_models;
                    if wrapped { json!({"object": "list", "data": list}) } else { Value::Array(list) }
                }
                SUPPORTED => listing::page(&state.models, query),
                WHOAMI_V3 => account::whoami_v3(),
                _ => account::whoami(),
            };
            (state.faults.take(path, ""), state.latency, body)
        };
        self.wait(delay).await;
        // What has no stream can't break in one.
        if let Some(fault) = fault.filter(|fault| !matches!(fault.effect, Effect::Stream(_))) {
            return self.fail(fault).await;
        }
        Ok(response(StatusCode::OK, Some(JSON), body.to_string()))
    }

    /// The page of what leaves, as the documentation has it.
    fn leaving(&self) -> Response<Body> {
        let state = self.shared.lock();
        let rows = state.leaving.iter().map(|[model, to, day]| format!("| {day} | `{model}` | `{to}` | No |\n"));
        let head = "| Removal date | Model | Recommended replacement | Supported by on-demand dedicated endpoints |\n\
                    | --- | --- | --- | --- |\n";
        let redirects = state.redirects.iter().map(|(model, to)| format!("| `{model}` | `{to}` | |\n"));
        let page = format!(
            "# Deprecations\n\n{head}{}\n| Original model | Redirects to | Notes |\n| --- | --- | --- |\n{}",
            rows.collect::<String>(),
            redirects.collect::<String>()
        );
        response(StatusCode::OK, Some("text/markdown"), page)
    }

    async fn ask(&self, endpoint: Endpoint) -> Outgoing {
        let ask = Ask::new(&self.body);
        let (delay, outcome) = {
            let mut state = self.shared.lock();
            (state.latency(ask.model()), decide(&mut state, &self.shared.config, endpoint, ask, self.serial))
        };
        self.wait(delay).await;
        match outcome {
            Outcome::Fails(fault) => self.fail(fault).await,
            Outcome::Answers(answer) => Ok(self.answer(*answer, ask.streams())),
            Outcome::Whole(whole) => Ok(self.whole(*whole)),
        }
    }

    fn whole(&self, whole: Whole) -> Response<Body> {
        let Whole { id, model, body, tokens, price, files, headers } = whole;
        let mut text = body.to_string();
        if !files.is_empty() {
            // Links lead back to whoever was asked.
            let host = self.parts.headers.get(HOST).and_then(|host| host.to_str().ok());
            let host =
                host.or_else(|| self.parts.uri.authority().map(Authority::as_str)).unwrap_or("simulated.invalid");
            text = text.replace(images::FOLDER, &format!("http://{host}{}", images::FOLDER));
        }
        let mut state = self.shared.lock();
        state.account.charge(&id, &model, price, tokens, true);
        state.files.extend(files.into_iter().map(|(name, file)| (name, file.into())));
        let surplus = state.files.len().saturating_sub(MAX_FILES);
        state.files.drain(..surplus);
        drop(state);
        let mut response = response(StatusCode::OK, Some(JSON), text);
        response.headers_mut().extend(headers);
        response
    }

    fn answer(&self, answer: Answer, streams: bool) -> Response<Body> {
        let Answer { completion, usage, delivery, headers } = answer;
        let mut response = if streams {
            let pieces = sse::pieces(&completion, usage);
            let body = stream::body(Arc::clone(self.shared), completion, pieces, delivery);
            response(StatusCode::OK, Some(EVENTS), body)
        } else {
            let (id, model) = (&completion.id, &completion.model);
            self.shared.lock().account.charge(id, model, completion.price, completion.tokens, true);
            response(StatusCode::OK, Some(JSON), completion.to_json().to_string())
        };
        response.headers_mut().extend(headers);
        response
    }

    pub(super) async fn fail(&self, fault: Fault) -> Outgoing {
        let Fault { effect, headers } = fault;
        let mut response = match effect {
            Effect::Error(error) => self.error(&error),
            Effect::Nonsense(body) if Ask::new(&self.body).streams() => {
                response(StatusCode::OK, Some(EVENTS), format!("data: {body}\n\ndata: [DONE]\n\n"))
            }
            Effect::Nonsense(body) => response(StatusCode::OK, Some(JSON), body.into_owned()),
            Effect::Refuse => {
                return Err(TransportError::new(TransportErrorKind::Connect, "the simulator refused the connection"));
            }
            Effect::Break => return Err(broken_off()),
            Effect::Hang | Effect::Stream(_) => std::future::pending().await,
        };
        response.headers_mut().extend(headers);
        Ok(response)
    }

    pub(super) fn error(&self, error: &ApiError) -> Response<Body> {
        let (kind, body) = error.body(&self.id());
        response(error.status, kind, body)
    }

    pub(super) async fn wait(&self, delay: Duration) {
        let delay = self.shared.config.scaled(delay);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }
}

pub(super) fn response(status: StatusCode, kind: Option<&'static str>, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers: &mut HeaderMap = response.headers_mut();
    headers.extend(kind.map(|kind| (CONTENT_TYPE, HeaderValue::from_static(kind))));
    response
}
