//! Chat completions: `POST /v1/chat/completions`.

mod check;
mod chunk;
mod fold;
mod message;
mod redact;
mod replay;
mod request;
mod response;
mod said;
#[cfg(feature = "schema")]
mod schema;
mod stream;
mod usage;

pub(crate) use self::replay::replay;
pub use self::{
    check::BadArguments,
    chunk::{ChoiceDelta, Delta, ToolCallDelta},
    fold::Fold,
    message::{Content, FunctionCall, Message, Part, ToolCall},
    request::{ChatInput, ChatRequest, Function, JsonSchema, ResponseFormat, Tool, ToolChoice},
    response::{ChatCompletion, Choice, Logprobs},
    stream::ChatStream,
};
pub(super) use self::{
    chunk::Head,
    response::{MAX_CHOICES, NO_CHOICES, served},
    said::{Notices, piece},
    stream::Expected,
    usage::WireUsage,
};
use self::{chunk::parse_delta, request::Wire, response::parse_completion};
use super::{CallOptions, Error, TogetherClient};
use bytes::Bytes;

use crate::types::ModelId;

pub(super) const PATH: &str = "/v1/chat/completions";

/// Reads the body of a whole completion, however it came here. `asked` is the model that it was asked of.
#[cfg(feature = "batch")]
pub(crate) fn completion_of(body: &Bytes, asked: &ModelId) -> Result<ChatCompletion, Error> {
    parse_completion(body, asked).map_err(|none| none.into_error(200, body.clone()))
}

/// Chat completions of a client: [`TogetherClient::chat`].
#[derive(Clone, Copy, Debug)]
pub struct Chat<'a> {
    client: &'a TogetherClient,
}

impl<'a> Chat<'a> {
    pub(super) const fn new(client: &'a TogetherClient) -> Self {
        Self { client }
    }

    /// Asks for a completion and waits for all of it.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](super::ErrorKind). A success without an answer in it (no JSON, no choices, an error inside a
    /// 200) is an error too.
    ///
    /// # Cancellation
    ///
    /// Dropping the future abandons the call; the provider may bill what it had computed.
    pub async fn create(self, request: &ChatRequest) -> Result<ChatCompletion, Error> {
        self.create_with(request.model(), request.input(), &CallOptions::default()).await
    }

    /// [`create`](Self::create) of a conversation with a model, with options for this call.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub async fn create_with(
        self,
        model: &ModelId,
        input: &ChatInput,
        options: &CallOptions,
    ) -> Result<ChatCompletion, Error> {
        let call = self.client.call_of(PATH, model, &Wire { model, input, stream: false }, false)?;
        let (completion, arrived) = self.client.ask(&call, options, |raw| parse_completion(raw, model)).await?;
        Ok(completion.with(arrived))
    }

    /// The JSON that [`create`](Self::create) would send: what a line of a batch file has as its `body`.
    ///
    /// ```
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let (client, request) = (Together::new().client(), ChatRequest::new("zai-org/GLM-5.3").user("hi"));
    /// let body = client.chat().body(request.model(), request.input())?;
    /// assert_eq!(&body[..], br#"{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"hi"}]}"#);
    /// # Ok::<(), together_inference::client::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidRequest`](super::ErrorKind::InvalidRequest) for what the server's dialect cannot say.
    pub fn body(self, model: &ModelId, input: &ChatInput) -> Result<Bytes, Error> {
        Ok(self.client.call_of(PATH, model, &Wire { model, input, stream: false }, false)?.body)
    }

    /// Asks for a completion in pieces. Resolves at the first piece of an answer: refusals are an `Err` here.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](super::ErrorKind).
    ///
    /// # Cancellation
    ///
    /// Dropping the future or the stream closes the connection; the provider may bill what it had computed.
    pub async fn stream(self, request: &ChatRequest) -> Result<ChatStream, Error> {
        self.stream_with(request.model(), request.input(), &CallOptions::default()).await
    }

    /// [`stream`](Self::stream) of a conversation with a model, with options for this call.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream).
    pub async fn stream_with(
        self,
        model: &ModelId,
        input: &ChatInput,
        options: &CallOptions,
    ) -> Result<ChatStream, Error> {
        let call = self.client.call_of(PATH, model, &Wire { model, input, stream: true }, true)?;
        self.client
            .with_retry(&call, options, async |options| {
                let success = self.client.attempt(&call, options).await?;
                let expected = Expected { model, answers: input.n.unwrap_or(1), first_token: options.first_token };
                ChatStream::open(self.client, success, expected, parse_delta).await
            })
            .await
    }
}
