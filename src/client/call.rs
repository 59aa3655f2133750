//! One call: attempts, time-outs, bounded bodies.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, Method, Uri};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout_at};

use super::{
    Batches, Caps, Chat, ClientBuilder, Completions, Dialect, Embeddings, Error, ErrorKind, Files, Images, Models,
    Moderation, Rerank, RetryPolicy, Timeouts, chat, headers,
    http::Elsewhere,
    retry::Replay,
    retry_budget::RetryBudget,
    transport::{Body, Transport},
};
use crate::types::{Clock, ModelId, Rng, Secret, later};

/// A client of Together's API, or of any server that speaks the same. Cheap to clone; clones share the connection pool
/// and the retry budget.
///
/// It knows nothing of routing, caching or money: that is [`InferenceService`](crate::InferenceService).
///
/// ```no_run
/// // Needs a key and the network.
/// # async fn example() -> Result<(), together_inference::client::Error> {
/// use together_inference::{TogetherClient, client::ChatRequest};
///
/// let client = TogetherClient::from_env()?;
/// let answer = client.chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await?;
/// println!("{}", answer.text());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TogetherClient {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) transport: Arc<dyn Transport>,
    /// Scheme, authority and path prefix, without `/v1`.
    pub(super) root: String,
    /// That of chat completions, parsed once.
    pub(super) chat_uri: Uri,
    pub(super) host: Box<str>,
    pub(super) key: Secret,
    pub(super) headers: HeaderMap,
    pub(super) timeouts: Timeouts,
    pub(super) caps: Caps,
    pub(super) retry: RetryPolicy,
    pub(super) dialect: Dialect,
    pub(super) budget: RetryBudget,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rng: Arc<dyn Rng>,
}

/// The URL of a path behind a base.
pub(super) fn uri(root: &str, path: &str) -> Result<Uri, Error> {
    Uri::try_from(format!("{root}{path}")).map_err(|_| Error::new(ErrorKind::Config, "the path is not one of a URL"))
}

impl fmt::Debug for TogetherClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TogetherClient").field("host", &self.inner.host).finish_non_exhaustive()
    }
}

/// What one call may use. The default is the client's own policy.
///
/// ```
/// use std::time::Duration;
/// use together_inference::client::CallOptions;
///
/// let options = CallOptions::default().attempts(1).within(Duration::from_secs(20));
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CallOptions {
    /// Attempts in total; the client's [`RetryPolicy`] unless set.
    pub attempts: Option<u32>,
    /// No attempt starts or goes on after this.
    pub deadline: Option<Instant>,
    /// A stream's first delta must arrive by this.
    pub first_token: Option<Instant>,
}

impl CallOptions {
    /// Sets the attempts in total.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Sets the deadline.
    #[must_use]
    pub const fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets the deadline, from now.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        self.deadline(later(Instant::now(), time))
    }

    /// Sets when a stream's first delta must have arrived.
    #[must_use]
    pub const fn first_token(mut self, deadline: Instant) -> Self {
        self.first_token = Some(deadline);
        self
    }

    fn by(&self, limit: Instant) -> Instant {
        self.deadline.map_or(limit, |deadline| deadline.min(limit))
    }
}

/// A request ready to be sent, any number of times.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) body: Bytes,
    pub(super) model: Option<&'a ModelId>,
    pub(super) stream: bool,
    pub(super) replay: Replay,
}

/// A response whose status says success.
pub(super) struct Success {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// When the whole attempt must be over.
    pub(super) until: Instant,
}

impl Success {
    pub(super) fn request_id(&self) -> Option<Arc<str>> {
        headers::request_id(&self.headers).map(Into::into)
    }

    pub(super) fn rate_limits(&self) -> Option<headers::RateLimits> {
        headers::RateLimits::from_headers(&self.headers)
    }
}

impl TogetherClient {
    pub(super) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// A builder. It never reads the environment.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A client from `TOGETHER_API_KEY`, `TOGETHER_BASE_URL` and `TOGETHER_CUSTOM_HEADERS` (lines of `Name: value`).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] when there is no key, or when one of them is not valid.
    pub fn from_env() -> Result<Self, Error> {
        ClientBuilder::from_env().build()
    }

    /// Chat completions.
    #[must_use]
    pub const fn chat(&self) -> Chat<'_> {
        Chat::new(self)
    }

    /// Completions of a prompt as it is.
    #[must_use]
    pub const fn completions(&self) -> Completions<'_> {
        Completions::new(self)
    }

    /// Vectors of texts.
    #[must_use]
    pub const fn embeddings(&self) -> Embeddings<'_> {
        Embeddings::new(self)
    }

    /// Pictures from text.
    #[must_use]
    pub const fn images(&self) -> Images<'_> {
        Images::new(self)
    }

    /// Documents by relevance.
    #[must_use]
    pub const fn rerank(&self) -> Rerank<'_> {
        Rerank::new(self)
    }

    /// Verdicts of moderation models.
    #[must_use]
    pub const fn moderation(&self) -> Moderation<'_> {
        Moderation::new(self)
    }

    /// Files at the provider.
    #[must_use]
    pub const fn files(&self) -> Files<'_> {
        Files::new(self)
    }

    /// Jobs of many requests.
    #[must_use]
    pub const fn batches(&self) -> Batches<'_> {
        Batches::new(self)
    }

    /// The model list.
    #[must_use]
    pub const fn models(&self) -> Models<'_> {
        Models::new(self)
    }

    /// The host that is called, for logs.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.inner.host
    }

    /// Where the API is: scheme, authority and path, without `/v1`. Two servers on one host differ in it.
    pub(crate) fn base(&self) -> &str {
        &self.inner.root
    }

    /// A number for the server and the key, which says nothing of the key.
    pub(crate) fn identity(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("together-inference 2026-11-27 whose model list it is");
        hasher.update(self.base().as_bytes());
        hasher.update(&[0]);
        hasher.update(self.inner.key.expose().as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Gets a path such as `/v1/models` that has no typed call here yet.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`]; failed attempts are repeated by the client's policy.
    pub async fn get<T: DeserializeOwned + Send>(&self, path: &str) -> Result<T, Error> {
        self.typed(Method::GET, path, Bytes::new(), Replay::Safe).await
    }

    /// Posts JSON to a path that has no typed call here yet. It is repeated only if the server surely did nothing: it
    /// may create something.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`].
    pub async fn post<T: DeserializeOwned + Send>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync + ?Sized),
    ) -> Result<T, Error> {
        let body = to_json(body)?;
        self.typed(Method::POST, path, body, Replay::Unsafe).await
    }

    pub(super) async fn typed<T: DeserializeOwned + Send>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        replay: Replay,
    ) -> Result<T, Error> {
        let call = Call { method, path, body, model: None, stream: false, replay };
        let parse = |raw: &Bytes| Ok(serde_json::from_slice(raw)?);
        self.ask(&call, &CallOptions::default(), parse).await.map(|(answer, _)| answer)
    }

    /// Repeats `attempt` as the policy and the budget allow.
    pub(super) async fn with_retry<T, F>(
        &self,
        call: &Call<'_>,
        options: &CallOptions,
        attempt: impl Fn(CallOptions) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let Inner { retry, budget, rng, .. } = &*self.inner;
        let policy = RetryPolicy { attempts: options.attempts.unwrap_or(retry.attempts), ..*retry };
        let mut number = 0;
        loop {
            number += 1;
            let error = match attempt(*options).await {
                Ok(answer) => {
                    budget.succeeded(number > 1);
                    return Ok(answer);
                }
                Err(error) => self.redacted(error).with_model(call.model),
            };
            let Some(wait) = policy.wait(&error, call.replay, number, &**rng) else { return Err(error) };
            let next = later(Instant::now(), wait);
            if options.deadline.is_some_and(|deadline| next >= deadline) || !budget.try_spend() {
                return Err(error);
            }
            tracing::debug!(kind = error.kind().as_str(), wait_ms = wait.as_millis(), "attempt failed, repeating");
            tokio::time::sleep_until(next).await;
        }
    }

    /// Sends a request once and waits for a successful status.
    pub(super) async fn attempt(&self, call: &Call<'_>, options: CallOptions) -> Result<Success, Error> {
        let Inner { transport, timeouts, .. } = &*self.inner;
        let started = Instant::now();
        let until = options.by(later(started, timeouts.total));
        if until <= started {
            return Err(Error::new(ErrorKind::Timeout, "the deadline had passed before the request was sent"));
        }
        let first_byte = if call.stream { timeouts.stream_first_byte } else { timeouts.first_byte };
        let headers_by = until.min(later(started, first_byte)).min(options.first_token.unwrap_or(until));
        let Ok(response) = timeout_at(headers_by, transport.send(self.request(call)?)).await else {
            return Err(late("no response", started));
        };
        let (parts, body) = response?.into_parts();
        let success = Success { status: parts.status.as_u16(), headers: parts.headers, body, until };
        if parts.status.is_success() {
            return Ok(success);
        }
        // Failures are rare: their future is not to be part of every call's.
        Err(Box::pin(self.refused(success, call.model)).await)
    }

    /// Gets a public page from anywhere, once, without the key.
    pub(super) async fn fetch(&self, url: &str) -> Result<Success, Error> {
        let started = Instant::now();
        let until = later(started, self.inner.timeouts.idle);
        let mut request = http::Request::new(Body::empty());
        *request.uri_mut() = uri(url, "")?;
        request.extensions_mut().insert(Elsewhere);
        let Ok(response) = timeout_at(until, self.inner.transport.send(request)).await else {
            return Err(late("no response", started));
        };
        let (parts, body) = response?.into_parts();
        let success = Success { status: parts.status.as_u16(), headers: parts.headers, body, until };
        if parts.status.is_success() { Ok(success) } else { Err(self.refused(success, None).await) }
    }

    fn request(&self, call: &Call<'_>) -> Result<http::Request<Body>, Error> {
        self.request_of(call.method.clone(), call.path, Body::from(call.body.clone()))
    }

    /// A request to the API, with the key.
    pub(super) fn request_of(&self, method: Method, path: &str, body: Body) -> Result<http::Request<Body>, Error> {
        // Right behind the authority, "@other.example/" or ".other.example/" would send the key to another host.
        if !path.starts_with('/') {
            return Err(Error::new(ErrorKind::Config, "the path does not begin with a slash"));
        }
        let mut request = http::Request::new(body);
        *request.uri_mut() = if path == chat::PATH { self.inner.chat_uri.clone() } else { uri(self.base(), path)? };
        *request.method_mut() = method;
        *request.headers_mut() = self.inner.headers.clone();
        Ok(request)
    }

    /// Reads an error response: its hints, and as much of its body as is kept.
    pub(super) async fn refused(&self, success: Success, model: Option<&ModelId>) -> Error {
        let Inner { caps, clock, .. } = &*self.inner;
        let Success { status, headers, body, until } = success;
        let by = until.min(later(Instant::now(), self.inner.timeouts.idle));
        let body = read(body, caps.error_bytes, announced(&headers), by).await.unwrap_or_else(|cut| cut.so_far);
        let error =
            if (300..400).contains(&status) { redirected(status, &headers) } else { Error::of_response(status, body) };
        let error = if model.is_some_and(|model| error.misses(model)) { error.of_model() } else { error };
        error
            .with_status(status)
            .with_request_id(headers::request_id(&headers))
            .with_hints(headers::retry_hint(&headers, clock.now()), headers::should_retry(&headers))
    }

    /// Reads a JSON body within its bound and time.
    pub(super) async fn read_json(&self, success: Success) -> Result<Bytes, Error> {
        let Success { status, body, until, headers } = success;
        let started = Instant::now();
        let cap = self.inner.caps.json_bytes;
        let by = until.min(later(started, self.inner.timeouts.idle));
        read(body, cap, announced(&headers), by).await.map_err(|cut| {
            match cut.why {
                Why::TooLarge => Error::new(ErrorKind::TooLarge, format!("the body is over {cap} bytes")),
                Why::Late => late("the body is not complete", started),
                Why::Broken(error) => error,
            }
            .with_status_if(status, headers::request_id(&headers))
        })
    }

    /// The error without the key, should the server have echoed it.
    pub(super) fn redacted(&self, error: Error) -> Error {
        error.without(self.inner.key.expose())
    }

    /// The longest that an attempt may take.
    pub(crate) fn longest_attempt(&self) -> Duration {
        self.inner.timeouts.total
    }

    pub(super) fn transport(&self) -> &dyn Transport {
        &*self.inner.transport
    }

    /// Where jitter comes from.
    pub(super) fn rng(&self) -> &dyn Rng {
        &*self.inner.rng
    }

    /// Where wall time comes from.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    pub(super) fn dialect(&self) -> &Dialect {
        &self.inner.dialect
    }

    pub(super) fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    pub(super) fn timeouts(&self) -> &Timeouts {
        &self.inner.timeouts
    }
}

impl Error {
    /// A broken body keeps its request id, but no status: a 200 that was cut is no answer.
    fn with_status_if(self, status: u16, id: Option<&str>) -> Self {
        let whole = self.kind() == ErrorKind::TooLarge;
        let error = self.with_request_id(id);
        if whole { error.with_status(status) } else { error }
    }
}

/// Serialises a request's body.
pub(super) fn to_json(body: &(impl Serialize + ?Sized)) -> Result<Bytes, Error> {
    // Most requests fit, so that the buffer grows for long prompts alone.
    let mut bytes = Vec::with_capacity(1_024);
    serde_json::to_writer(&mut bytes, body)
        .map_err(|error| Error::new(ErrorKind::InvalidRequest, format!("the request is not JSON: {error}")))?;
    Ok(bytes.into())
}

pub(super) fn late(what: &str, since: Instant) -> Error {
    Error::new(ErrorKind::Timeout, format!("{what} after {:.3} s", since.elapsed().as_secs_f64()))
}

/// Names where a redirect points: the host alone, since the rest may hold secrets.
fn redirected(status: u16, headers: &HeaderMap) -> Error {
    let location = headers.get(http::header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let host = location.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    let target = host.unwrap_or_else(|| "another path of the same host".to_owned());
    Error::new(ErrorKind::Redirected, format!("the server redirects to {target}")).with_status(status)
}

struct Cut {
    so_far: Bytes,
    why: Why,
}

enum Why {
    TooLarge,
    Late,
    Broken(Error),
}

/// Collects a body of at most `cap` bytes by `by`. `expected` is what the server said of its length.
async fn read(body: Body, cap: usize, expected: usize, by: Instant) -> Result<Bytes, Cut> {
    let mut collected = Collected { expected: expected.min(cap), ..Collected::default() };
    let why = match timeout_at(by, collected.collect(body, cap)).await {
        Ok(Ok(())) => return Ok(collected.into_bytes()),
        Ok(Err(why)) => why,
        Err(_) => Why::Late,
    };
    Err(Cut { so_far: collected.into_bytes(), why })
}

/// The most that is reserved on a server's word alone.
const MAX_RESERVED: usize = 8 << 20;

/// The length that the headers announce; 0 if none.
fn announced(headers: &HeaderMap) -> usize {
    let length = headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

/// A body so far. One chunk is kept as it is, several are joined.
#[derive(Default)]
struct Collected {
    first: Bytes,
    rest: BytesMut,
    /// Reserved once a second chunk shows that the body comes in several: growing by doubling would hold a large
    /// picture twice.
    expected: usize,
}

impl Collected {
    async fn collect(&mut self, mut body: Body, cap: usize) -> Result<(), Why> {
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| Why::Broken(error.into()))?;
            let room = cap - self.len();
            self.push(chunk.slice(..room.min(chunk.len())));
            if chunk.len() > room {
                return Err(Why::TooLarge);
            }
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.first.len().max(self.rest.len())
    }

    fn push(&mut self, chunk: Bytes) {
        if self.len() == 0 {
            self.first = chunk;
            return;
        }
        if self.rest.is_empty() {
            self.rest.reserve(self.expected.min(MAX_RESERVED).max(self.first.len() + chunk.len()));
            self.rest.extend_from_slice(&self.first);
            self.first = Bytes::new();
        }
        self.rest.extend_from_slice(&chunk);
    }

    fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}
