//! The seam under [`TogetherClient`](crate::TogetherClient): one HTTP exchange.
//!
//! In production it is reqwest. Tests and offline examples put the simulator behind it, in memory, so that time-outs,
//! retries and expiry run on virtual time. Everything above this trait (errors, retry, SSE, folding) is the same code
//! in both cases.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::{Stream, stream::BoxStream};

/// Carries one HTTP request to a server and brings its response back.
///
/// # Contract
///
/// - `send` resolves when status and headers have arrived; the body streams afterwards.
/// - Dropping the future or the response body abandons the exchange and frees its connection.
/// - Redirects are not followed, bodies are not decompressed.
/// - Every failure to get a response is a [`TransportError`]; an HTTP error status is a response.
///
/// ```
/// use together_inference::client::{Body, Transport, TransportError};
///
/// /// Answers every request with the same JSON.
/// #[derive(Debug)]
/// struct Canned(&'static str);
///
/// #[async_trait::async_trait]
/// impl Transport for Canned {
///     async fn send(&self, _: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
///         Ok(http::Response::new(Body::from(self.0)))
///     }
/// }
/// ```
#[async_trait]
pub trait Transport: Send + Sync + fmt::Debug {
    /// Sends one request.
    ///
    /// # Errors
    ///
    /// [`TransportError`] when no response was received; it says whether the request may have reached the server.
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, TransportError>;
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: Transport + ?Sized> Transport for Arc<T> {
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        (**self).send(request).await
    }
}

/// The body of a request or a response: bytes at hand, or a stream of them.
#[derive(Default)]
pub struct Body(Inner);

enum Inner {
    Full(Option<Bytes>),
    Stream(BoxStream<'static, Result<Bytes, TransportError>>),
}

impl Default for Inner {
    fn default() -> Self {
        Self::Full(None)
    }
}

impl Body {
    /// No bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Inner::Full(None))
    }

    /// A body whose bytes arrive over time. An error item ends it: the exchange was cut.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, TransportError>> + Send + 'static) -> Self {
        Self(Inner::Stream(Box::pin(stream)))
    }

    /// The bytes, if they are all at hand (no waiting, no copy).
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Inner::Full(bytes) => Some(bytes.as_deref().unwrap_or_default()),
            Inner::Stream(_) => None,
        }
    }

    /// Takes the bytes if they are all at hand; a streamed body is given back.
    ///
    /// # Errors
    ///
    /// The body itself, untouched, when it streams.
    pub fn into_bytes(self) -> Result<Bytes, Self> {
        match self.0 {
            Inner::Full(bytes) => Ok(bytes.unwrap_or_default()),
            inner @ Inner::Stream(_) => Err(Self(inner)),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Full(Some(bytes)))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

/// Yields the bytes of the body; a full body yields once.
impl Stream for Body {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.0 {
            Inner::Full(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Inner::Stream(stream) => stream.as_mut().poll_next(cx),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Full(bytes) => write!(f, "Body({} bytes)", bytes.as_ref().map_or(0, Bytes::len)),
            Inner::Stream(_) => f.write_str("Body(stream)"),
        }
    }
}

/// Why an exchange brought no response, or why a body ended early.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct TransportError {
    kind: TransportErrorKind,
    message: Box<str>,
}

/// The kinds of [`TransportError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// No connection: refused, unresolved, TLS failure, connect time-out. The request was not sent.
    Connect,
    /// The connection broke after the request may have been sent.
    Interrupted,
    /// The server's answer is not HTTP, or breaks a bound (header size, header count).
    Protocol,
}

impl fmt::Display for TransportErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "could not connect",
            Self::Interrupted => "connection interrupted",
            Self::Protocol => "not a valid HTTP response",
        })
    }
}

impl TransportError {
    /// An error of this kind. The message must hold no secret: it appears in logs.
    pub fn new(kind: TransportErrorKind, message: impl Into<Box<str>>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What kind of failure it was.
    #[must_use]
    pub const fn kind(&self) -> TransportErrorKind {
        self.kind
    }
}
