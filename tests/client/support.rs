//! What the tests of the client share.

use std::{fmt, future::ready, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    future::{BoxFuture, FutureExt as _},
    stream,
};
use http::{Request, Response};
use together_inference::{
    TogetherClient,
    client::{
        Body, ChatCompletion, ChatRequest, ClientBuilder, Error, RetryPolicy, Timeouts, Transport, TransportError,
    },
};

use crate::fault::FaultServer;

/// What a transport brings back.
pub type Answer = Result<Response<Body>, TransportError>;

/// The model of every request that does not need a real one.
pub const MODEL: &str = "zai-org/GLM-5.3";

pub fn hello() -> ChatRequest {
    ChatRequest::new(MODEL).user("Hello?")
}

/// A transport in memory that answers with what a function makes of the request.
pub struct Fake<F>(pub F);

impl<F> fmt::Debug for Fake<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

#[async_trait]
impl<F: Fn(Request<Body>) -> BoxFuture<'static, Answer> + Send + Sync> Transport for Fake<F> {
    async fn send(&self, request: Request<Body>) -> Answer {
        (self.0)(request).await
    }
}

/// A client, and how it is set up, whose network is this function.
pub fn faked(answer: impl Fn(Request<Body>) -> BoxFuture<'static, Answer> + Send + Sync + 'static) -> ClientBuilder {
    TogetherClient::builder().api_key("key").transport(Fake(answer))
}

/// A client that makes one attempt and gets this answer to it.
pub fn answered(answer: impl Fn() -> Response<Body> + Send + Sync + 'static) -> TogetherClient {
    faked(move |_| ready(Ok(answer())).boxed()).retry(RetryPolicy::none()).build().unwrap()
}

/// A success with this body.
pub fn json(body: impl Into<Bytes>) -> Response<Body> {
    response(200, "application/json", Body::from(body.into()))
}

/// An event stream that arrives in these pieces and then ends.
pub fn sse(pieces: impl IntoIterator<Item = Bytes, IntoIter: Send + 'static>) -> Response<Body> {
    response(200, "text/event-stream", Body::stream(stream::iter(pieces.into_iter().map(Ok))))
}

pub fn response(status: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let response = Response::builder().status(status).header("content-type", content_type);
    response.header("x-request-id", "request-7").body(body).unwrap()
}

/// A client of the fault server that meets this fault and makes one attempt.
pub fn at(server: &FaultServer, fault: &str) -> ClientBuilder {
    TogetherClient::builder().api_key("key").base_url(server.base_url(fault)).retry(RetryPolicy::none())
}

/// The default time-outs, a hundred times shorter. A connect on a busy machine keeps its time.
pub fn hundredth() -> Timeouts {
    let mut timeouts = Timeouts::default();
    timeouts.first_byte /= 100;
    timeouts.stream_first_byte /= 100;
    timeouts.idle /= 100;
    timeouts.total /= 100;
    timeouts
}

/// The default waits between attempts, a hundred times shorter.
pub fn quick_retries() -> RetryPolicy {
    let mut retry = RetryPolicy::default();
    retry.base /= 100;
    retry.cap /= 100;
    retry
}

/// How loose a bound on real time is.
pub const LOOSE: u32 = 5;

/// Runs it and checks that it takes no longer than it may.
pub async fn within<T>(bound: Duration, what: impl Future<Output = T>) -> T {
    tokio::time::timeout(bound * LOOSE, what).await.expect("it takes too long")
}

/// Opens a stream and reads all of it.
pub async fn collect(client: &TogetherClient) -> Result<ChatCompletion, Error> {
    client.chat().stream(&hello()).await?.collect().await
}

/// The texts of the deltas up to the end or the error.
pub async fn read(client: &TogetherClient) -> (Vec<String>, Option<Error>) {
    let mut texts = Vec::new();
    let mut stream = match client.chat().stream(&hello()).await {
        Ok(stream) => stream,
        Err(error) => return (texts, Some(error)),
    };
    while let Some(delta) = stream.next().await {
        match delta {
            Ok(delta) => texts.push(delta.text().to_owned()),
            Err(error) => return (texts, Some(error)),
        }
    }
    (texts, None)
}

/// An error with its causes, as any log could show it.
pub fn shown(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text += &format!(" {next} {next:?}");
        cause = next.source();
    }
    text
}
