//! What went wrong on the wire, with all the evidence.

use std::{error::Error as _, fmt, time::Duration};

use bytes::Bytes;

use super::{
    error_body::ErrorBody,
    transport::{TransportError, TransportErrorKind},
};
use crate::types::{BoxError, ModelId};

/// How much of the body of a success that is none an error keeps.
const KEPT_BYTES: usize = 64 << 10;

/// A failed call: [`kind`](Self::kind) says what failed; status, code, message, request id and raw body are kept.
///
/// One word in size. Its `Display` says what to do next where there is something to do.
///
/// It is fit for logs: `Display` and `Debug` show the status, the kind, our own words, the provider's code (where it is
/// an identifier), the model and the request id. They show neither the key nor any text of the provider's, which may
/// quote the prompt: that is in [`message`](Self::message) and [`body`](Self::body), for those who ask.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    status: Option<u16>,
    code: Option<Box<str>>,
    param: Option<Box<str>>,
    message: Box<str>,
    /// The message is not the provider's, which may quote the prompt.
    ours: bool,
    model: Option<ModelId>,
    request_id: Option<Box<str>>,
    retry_after: Option<Duration>,
    should_retry: Option<bool>,
    body: Bytes,
    source: Option<BoxError>,
}

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The client is set up wrongly: bad URL, bad key, plain http to another machine.
    Config,
    /// No connection; nothing was sent.
    Connect,
    /// A time-out or the caller's deadline passed. The provider may still have run the request.
    Timeout,
    /// The connection broke, or a stream ended before its answer did.
    Interrupted,
    /// 400, 413, 422, 501 (the server cannot do it at all) and other refusals of the request itself.
    InvalidRequest,
    /// The provider's safety check refuses the content, such as by the `safety_model` of the request.
    Moderated,
    /// Prompt and `max_tokens` do not fit the model's context (403 at Together, 400 elsewhere).
    ContextLength,
    /// 401: the key is missing or wrong.
    Authentication,
    /// 402: the account's credit or monthly limit is used up.
    PaymentRequired,
    /// 403 for other reasons than the context length.
    PermissionDenied,
    /// 404: no such path or object.
    NotFound,
    /// The model does not exist or is not served without a dedicated endpoint (400 or 404).
    ModelNotAvailable,
    /// 409.
    Conflict,
    /// 429: above the rate that the provider allows.
    RateLimited,
    /// 503 or 529: the provider has no capacity.
    Overloaded,
    /// Other 5xx, and errors inside a 200.
    Server,
    /// A success that is not one: not JSON, no choices, not what was asked for.
    Malformed,
    /// The response broke one of the client's bounds.
    TooLarge,
    /// The server redirects, which the client never follows.
    Redirected,
    /// A file of this machine cannot be read or written.
    LocalFile,
}

/// Whether a request left this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sent {
    /// It did not: a repeat is free of risk.
    No,
    /// It may have, and nobody said what became of it.
    Maybe,
    /// It did, and the server answered.
    Yes,
}

impl ErrorKind {
    /// Every kind, to find one by its name.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) const ALL: [Self; 20] = [
        Self::Config,
        Self::Connect,
        Self::Timeout,
        Self::Interrupted,
        Self::InvalidRequest,
        Self::Moderated,
        Self::ContextLength,
        Self::Authentication,
        Self::PaymentRequired,
        Self::PermissionDenied,
        Self::NotFound,
        Self::ModelNotAvailable,
        Self::Conflict,
        Self::RateLimited,
        Self::Overloaded,
        Self::Server,
        Self::Malformed,
        Self::TooLarge,
        Self::Redirected,
        Self::LocalFile,
    ];

    /// The kind that an HTTP status means by itself.
    pub(crate) const fn of_status(status: u16) -> Self {
        match status {
            300..=399 => Self::Redirected,
            401 => Self::Authentication,
            402 => Self::PaymentRequired,
            403 => Self::PermissionDenied,
            404 => Self::NotFound,
            408 | 425 => Self::Timeout,
            409 => Self::Conflict,
            429 => Self::RateLimited,
            503 | 529 => Self::Overloaded,
            400..=499 | 501 => Self::InvalidRequest,
            _ => Self::Server,
        }
    }

    /// The kind's name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Interrupted => "interrupted",
            Self::InvalidRequest => "invalid_request",
            Self::Moderated => "moderated",
            Self::ContextLength => "context_length",
            Self::Authentication => "authentication",
            Self::PaymentRequired => "payment_required",
            Self::PermissionDenied => "permission_denied",
            Self::NotFound => "not_found",
            Self::ModelNotAvailable => "model_not_available",
            Self::Conflict => "conflict",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Server => "server",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Redirected => "redirected",
            Self::LocalFile => "local_file",
        }
    }

    /// What a person can do about it.
    const fn advice(self) -> Option<&'static str> {
        Some(match self {
            Self::Connect => "check the base URL and the network",
            Self::ContextLength => "shorten the prompt, lower max_tokens or choose a model with a longer context",
            Self::Moderated => "the content is refused, not its form: a repeat is refused as well",
            Self::Authentication => "check TOGETHER_API_KEY",
            Self::PaymentRequired => "the account's monthly limit or credit is used up; raise it or switch the key",
            Self::ModelNotAvailable => "choose a serverless model or start a dedicated endpoint",
            Self::RateLimited => "slow down, or let the client retry",
            Self::Overloaded => "try again later or another model",
            Self::Redirected => "set the base URL to where the API really is; redirects are not followed",
            _ => return None,
        })
    }
}

impl Error {
    /// An error with a message of our own, fit for logs.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Box<str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            status: None,
            code: None,
            param: None,
            message: message.into(),
            ours: true,
            model: None,
            request_id: None,
            retry_after: None,
            should_retry: None,
            body: Bytes::new(),
            source: None,
        }))
    }

    /// The error that a response is, by its status and body.
    pub(crate) fn of_response(status: u16, body: Bytes) -> Self {
        Self::of_body(ErrorKind::of_status(status), status, ErrorBody::parse(&body), body)
    }

    /// An error that came inside a success, whole or as an event of a stream.
    pub(crate) fn inside_success(status: u16, parsed: ErrorBody, body: Bytes) -> Self {
        let mentions = |word: &str| {
            [&parsed.code, &parsed.kind].into_iter().flatten().any(|text| text.to_ascii_lowercase().contains(word))
        };
        let kind = match parsed.code.as_deref().and_then(|code| code.parse::<u16>().ok()) {
            Some(status @ 400..=599) => ErrorKind::of_status(status),
            _ if mentions("rate_limit") || mentions("_limited") => ErrorKind::RateLimited,
            _ if mentions("overloaded") => ErrorKind::Overloaded,
            _ if mentions("invalid_request") => ErrorKind::InvalidRequest,
            _ => ErrorKind::Server,
        };
        Self::of_body(kind, status, parsed, kept(body))
    }

    fn of_body(by_status: ErrorKind, status: u16, parsed: ErrorBody, body: Bytes) -> Self {
        let kind = refine(by_status, &parsed);
        let mut error = Self::new(kind, parsed.message.unwrap_or_default());
        error.0.ours = false;
        error.0.status = Some(status);
        error.0.code = parsed.code.or(parsed.kind).map(Into::into);
        error.0.param = parsed.param.map(Into::into);
        error.0.request_id = parsed.id.filter(|id| is_identifier(id)).map(Into::into);
        error.0.body = body;
        error
    }

    /// Whether a 404 to a call of this model means the model and not the path: vLLM and its kin have no code for it.
    pub(crate) fn misses(&self, model: &ModelId) -> bool {
        let Inner { kind, code, message, .. } = &*self.0;
        let by_code = matches!(code.as_deref(), Some("404" | "NotFoundError" | "not_found_error" | "not_found"));
        *kind == ErrorKind::NotFound
            && message.to_ascii_lowercase().contains("model")
            && (by_code || message.contains(model.as_str()))
    }

    /// The same as an error of the model.
    pub(crate) fn of_model(mut self) -> Self {
        self.0.kind = ErrorKind::ModelNotAvailable;
        self
    }

    pub(crate) fn of_transport(error: TransportError) -> Self {
        let kind = match error.kind() {
            TransportErrorKind::Connect => ErrorKind::Connect,
            TransportErrorKind::Interrupted => ErrorKind::Interrupted,
            TransportErrorKind::Protocol => ErrorKind::Malformed,
        };
        let mut built = Self::new(kind, error.to_string());
        built.0.source = Some(Box::new(error));
        built
    }

    /// JSON that could not be read. Only the place is said: the parser's own words quote the answer.
    pub(crate) fn of_json(error: &serde_json::Error, body: Bytes) -> Self {
        let (line, column) = (error.line(), error.column());
        let mut built = Self::new(
            ErrorKind::Malformed,
            format!("the response is not the expected JSON (line {line}, column {column})"),
        );
        built.0.body = kept(body);
        built
    }

    /// A file of this machine that fails while something is done with it.
    pub(crate) fn of_file(what: &str, path: &std::path::Path, error: std::io::Error) -> Self {
        let mut built = Self::new(ErrorKind::LocalFile, format!("cannot {what} {}: {error}", path.display()));
        built.0.source = Some(Box::new(error));
        built
    }

    pub(crate) fn with_model(mut self, model: Option<&ModelId>) -> Self {
        self.0.model = self.0.model.take().or_else(|| model.cloned());
        self
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    pub(crate) fn with_request_id(mut self, id: Option<&str>) -> Self {
        self.0.request_id = id.map(Into::into).or_else(|| self.0.request_id.take());
        self
    }

    pub(crate) fn with_hints(mut self, retry_after: Option<Duration>, should_retry: Option<bool>) -> Self {
        self.0.retry_after = retry_after;
        self.0.should_retry = should_retry;
        self
    }

    pub(crate) fn with_body(mut self, body: Bytes) -> Self {
        self.0.body = kept(body);
        self
    }

    /// Takes a secret out of whatever is shown: some servers echo the key that they refuse.
    pub(crate) fn without(mut self, secret: &str) -> Self {
        let Inner { message, code, param, request_id, .. } = &mut *self.0;
        for text in [Some(message), code.as_mut(), param.as_mut(), request_id.as_mut()].into_iter().flatten() {
            if !secret.is_empty() && text.contains(secret) {
                *text = text.replace(secret, "[redacted]").into();
            }
        }
        self
    }

    /// An input whose answer does not come in pieces.
    pub(crate) fn no_stream() -> Self {
        Self::new(ErrorKind::InvalidRequest, "the answer to this input does not come in pieces")
    }

    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The HTTP status; 200 for an error inside a success, none where no response came.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The provider's code, such as `model_not_available`. `Display` shows it only if it is an identifier.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// The parameter that the provider refuses, such as `response_format`, where it says one.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        self.0.param.as_deref()
    }

    /// The provider's message, or ours where it sent none. The provider's may quote the request: do not log it unasked.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The model that was called.
    #[must_use]
    pub fn model(&self) -> Option<&ModelId> {
        self.0.model.as_ref()
    }

    /// The provider's id of the request: quote it to their support.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// How long the provider asks to wait, as it said it (it may be hours).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The provider's own word on whether a repeat makes sense (`x-should-retry`).
    #[must_use]
    pub fn should_retry(&self) -> Option<bool> {
        self.0.should_retry
    }

    /// The response's body as it came, at most 64 KiB. It may quote the request: do not log it unasked.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// Whether the request left this machine.
    #[must_use]
    pub fn sent(&self) -> Sent {
        match (self.0.kind, self.0.status) {
            (ErrorKind::Config | ErrorKind::Connect | ErrorKind::LocalFile, _) => Sent::No,
            (_, Some(_)) => Sent::Yes,
            (_, None) => Sent::Maybe,
        }
    }

    /// Whether the provider may bill this attempt: it may have run, as nothing says that it was refused.
    ///
    /// An error status from the provider itself is a refusal and costs nothing. A gateway's 502, 504 or 52x, a
    /// time-out, a cut connection and a broken success may all stand before an answer that was computed.
    #[must_use]
    pub fn may_be_billed(&self) -> bool {
        match self.0.kind {
            ErrorKind::Timeout | ErrorKind::Interrupted | ErrorKind::Malformed | ErrorKind::TooLarge => true,
            ErrorKind::Server => matches!(self.0.status, Some(200 | 502 | 504 | 520..=527)),
            _ => false,
        }
    }

    /// Whether a repeat may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        super::retry::classify(self) != super::retry::Class::Final
    }
}

/// As much of a success's body as an error keeps. It is copied, so that the rest is freed.
fn kept(body: Bytes) -> Bytes {
    match body.get(..KEPT_BYTES) {
        Some(head) => Bytes::copy_from_slice(head),
        None => body,
    }
}

/// Reads what the body says beyond the status.
fn refine(by_status: ErrorKind, body: &ErrorBody) -> ErrorKind {
    let code = body.code.as_deref().unwrap_or_default();
    let message = body.message.as_deref().unwrap_or_default();
    let says_context = || {
        let lower = message.to_ascii_lowercase();
        code == "context_length_exceeded"
            || body.kind.as_deref() == Some("exceed_context_size_error")
            || (lower.contains("context length")
                || lower.contains("max_new_tokens")
                || lower.contains("context window"))
    };
    match by_status {
        ErrorKind::InvalidRequest | ErrorKind::NotFound
            if matches!(code, "model_not_available" | "model_not_found") =>
        {
            ErrorKind::ModelNotAvailable
        }
        ErrorKind::InvalidRequest | ErrorKind::PermissionDenied if says_context() => ErrorKind::ContextLength,
        ErrorKind::InvalidRequest | ErrorKind::PermissionDenied if says_moderated(code, message) => {
            ErrorKind::Moderated
        }
        kind => kind,
    }
}

/// Whether the content is refused. No code of it is documented: these are what servers are known to say.
fn says_moderated(code: &str, message: &str) -> bool {
    const CODES: [&str; 4] = ["content_flagged", "content_filter", "content_policy", "nsfw"];
    const WORDS: [&str; 4] = ["safety model", "safety checker", "content policy", "nsfw content"];
    let says = |text: &str, any: [&str; 4]| {
        let lower = text.to_ascii_lowercase();
        any.iter().any(|part| lower.contains(part))
    };
    says(code, CODES) || says(message, WORDS)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, status, model, request_id, .. } = &*self.0;
        match status {
            Some(status) => write!(f, "{status} {}", kind.as_str())?,
            None => f.write_str(kind.as_str())?,
        }
        let withheld = (self.own_message().is_none() && !self.message().is_empty()).then_some(WITHHELD);
        for (at, text) in [self.own_message(), kind.advice().or(withheld)].into_iter().flatten().enumerate() {
            write!(f, "{} {text}", if at == 0 { ":" } else { ";" })?;
        }
        let code = self.shown_code().filter(|code| *code != kind.as_str());
        let details =
            [("model", model.as_ref().map(ModelId::as_str)), ("code", code), ("request", request_id.as_deref())];
        let mut open = " (";
        for (name, value) in details.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            write!(f, "{open}{name} {value}")?;
            open = ", ";
        }
        if open == ", " { f.write_str(")") } else { Ok(()) }
    }
}

impl Error {
    /// The message as far as it may be shown unasked.
    fn own_message(&self) -> Option<&str> {
        let Inner { message, ours, .. } = &*self.0;
        (*ours && !message.is_empty()).then(|| clip(message, 300))
    }

    fn shown_code(&self) -> Option<&str> {
        self.code().filter(|code| is_identifier(code))
    }
}

/// Said where nothing else helps.
const WITHHELD: &str = "message() has the provider's words";

/// Whether the text is a name and not a sentence, so that it quotes nothing.
fn is_identifier(text: &str) -> bool {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(byte);
    text.len() <= 64 && text.as_bytes().iter().all(part)
}

/// The first bytes of a text, cut between characters.
fn clip(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    (0..=bytes).rev().find_map(|end| text.get(..end)).unwrap_or_default()
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, status, message, model, request_id, retry_after, should_retry, body, source, .. } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("status", status)
            .field("code", &self.shown_code())
            .field("message", &self.own_message())
            .field("message_bytes", &message.len())
            .field("model", model)
            .field("request_id", request_id)
            .field("retry_after", retry_after)
            .field("should_retry", should_retry)
            .field("body_bytes", &body.len())
            .field("source", source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|error| error as _)
    }
}

/// The chain of an error's causes in one line, for messages of our own.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        debug_assert!(error.source().is_none());
        Self::of_transport(error)
    }
}
