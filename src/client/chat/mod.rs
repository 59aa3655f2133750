//! Chat completions: `POST /v1/chat/completions`.

mod chunk;
mod fold;
mod message;
mod redact;
mod request;
mod response;
mod stream;
mod usage;

use http::Method;

pub use self::{
    chunk::{ChoiceDelta, Delta, ToolCallDelta},
    fold::Fold,
    message::{Content, FunctionCall, Message, Part, ToolCall},
    request::{ChatInput, ChatRequest, Function, JsonSchema, ResponseFormat, Tool, ToolChoice},
    response::{ChatCompletion, Choice, Logprobs},
    stream::ChatStream,
};
use self::{request::Wire, response::parse_completion};
use super::{
    CallOptions, Error, ErrorKind, TogetherClient,
    call::{Call, to_json},
    error_body::error_in_success,
    retry::Replay,
};
use crate::types::ModelId;

pub(super) const PATH: &str = "/v1/chat/completions";

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
    /// Any [`ErrorKind`]. A success without an answer in it (no JSON, no choices, an error inside a 200) is an error too.
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
        let call = call(&Wire { model, input, stream: false })?;
        self.client
            .with_retry(&call, options, async |options| {
                let success = self.client.attempt(&call, options).await?;
                let (status, request_id, rate_limits) = (success.status, success.request_id(), success.rate_limits());
                let raw = self.client.read_json(success).await.map_err(|error| error.with_model(Some(model)))?;
                let failed = |error: Error| error.with_status(status).with_request_id(request_id.as_deref());
                let inside = || error_in_success(&raw).map(|body| Error::inside_success(status, body, raw.clone()));
                match parse_completion(&raw, model) {
                    Ok(Some(answer)) if answer.choices.iter().any(Choice::broke_off) => Err(failed(broke_off(raw))),
                    Ok(Some(answer)) => Ok(ChatCompletion { request_id: request_id.clone(), rate_limits, ..answer }),
                    Ok(None) => Err(failed(inside().unwrap_or_else(|| no_choices(raw)))),
                    Err(error) => Err(failed(inside().unwrap_or_else(|| Error::of_json(&error, raw)))),
                }
            })
            .await
    }

    /// Asks for a completion in pieces. Resolves at the first piece of an answer: refusals are an `Err` here.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`].
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
        let call = call(&Wire { model, input, stream: true })?;
        self.client
            .with_retry(&call, options, async |options| {
                let success = self.client.attempt(&call, options).await?;
                ChatStream::open(self.client, success, model, input.n.unwrap_or(1), options.first_token).await
            })
            .await
    }
}

fn call<'a>(wire: &Wire<'a>) -> Result<Call<'a>, Error> {
    Ok(Call {
        method: Method::POST,
        path: PATH,
        body: to_json(wire)?,
        model: Some(wire.model),
        stream: wire.stream,
        replay: Replay::Safe,
    })
}

/// The error of a finish reason that is one: what came before it is no answer.
fn broke_off(raw: bytes::Bytes) -> Error {
    Error::new(ErrorKind::Server, "the model stopped with an error").with_body(raw)
}

fn no_choices(raw: bytes::Bytes) -> Error {
    Error::new(ErrorKind::Malformed, "the response holds no answer (no choices)").with_body(raw)
}
