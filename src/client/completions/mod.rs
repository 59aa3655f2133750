//! Completions of a prompt as it is, without a chat template: `POST /v1/completions`.
//!
//! The text of an answer stands as an assistant's turn, so that what reads chat answers reads these: one completion, one
//! stream, one fold for both.

mod request;
mod wire;

pub use self::request::{CompletionRequest, PromptInput};
use self::wire::{parse_chunk, parse_completion};
use super::{CallOptions, ChatCompletion, ChatStream, Error, TogetherClient, chat::Expected, fields::Wire};
use crate::types::ModelId;

const PATH: &str = "/v1/completions";

/// Completions of a client: [`TogetherClient::completions`].
#[derive(Clone, Copy, Debug)]
pub struct Completions<'a> {
    client: &'a TogetherClient,
}

impl<'a> Completions<'a> {
    pub(super) const fn new(client: &'a TogetherClient) -> Self {
        Self { client }
    }

    /// Continues a prompt and waits for all of it.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](super::ErrorKind).
    ///
    /// # Cancellation
    ///
    /// Dropping the future abandons the call; the provider may bill what it had computed.
    pub async fn create(self, request: &CompletionRequest) -> Result<ChatCompletion, Error> {
        self.create_with(request.model(), request.input(), &CallOptions::default()).await
    }

    /// [`create`](Self::create) of an input by a model, with options for this call.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub async fn create_with(
        self,
        model: &ModelId,
        input: &PromptInput,
        options: &CallOptions,
    ) -> Result<ChatCompletion, Error> {
        let call = self.client.call_of(PATH, model, &Wire { model, input, stream: false }, false)?;
        let (completion, arrived) = self.client.ask(&call, options, |raw| parse_completion(raw, model)).await?;
        Ok(completion.with(arrived))
    }

    /// Continues a prompt in pieces. Resolves at the first piece: refusals are an `Err` here.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](super::ErrorKind).
    ///
    /// # Cancellation
    ///
    /// Dropping the future or the stream closes the connection; the provider may bill what it had computed.
    pub async fn stream(self, request: &CompletionRequest) -> Result<ChatStream, Error> {
        self.stream_with(request.model(), request.input(), &CallOptions::default()).await
    }

    /// [`stream`](Self::stream) of an input by a model, with options for this call.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream).
    pub async fn stream_with(
        self,
        model: &ModelId,
        input: &PromptInput,
        options: &CallOptions,
    ) -> Result<ChatStream, Error> {
        let call = self.client.call_of(PATH, model, &Wire { model, input, stream: true }, true)?;
        self.client
            .with_retry(&call, options, async |options| {
                let success = self.client.attempt(&call, options).await?;
                let expected = Expected { model, answers: input.n.unwrap_or(1), first_token: options.first_token };
                ChatStream::open(self.client, success, expected, parse_chunk).await
            })
            .await
    }
}
