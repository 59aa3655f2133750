//! One attempt of any kind of request: the call of the client that it is, and what came back in one shape.

use std::sync::Arc;

use bytes::Bytes;

use super::counter::Counter;
use crate::{
    client::{self, CallOptions, ChatCompletion, ChatStream, Image, RateLimits, TogetherClient},
    inference::{Answer, InferenceRequest, Input, Output},
    types::{ModelId, RouteId, Usage, UsageSource},
};

/// How many times the pixels that were asked for a picture's own head may claim.
const MOST_TIMES_ASKED: u64 = 16;

/// What an attempt brought, whatever was asked.
pub(super) struct Arrival {
    pub(super) output: Output,
    pub(super) served: ModelId,
    pub(super) usage: Option<Usage>,
    pub(super) warnings: Vec<String>,
    pub(super) request_id: Option<Arc<str>>,
    pub(super) rate_limits: Option<RateLimits>,
    pub(super) raw: Bytes,
}

impl Arrival {
    /// The answer, with what it used.
    pub(super) fn into_answer(self, usage: Usage, source: UsageSource) -> Answer {
        Answer {
            output: Arc::new(self.output),
            served: self.served,
            usage,
            usage_reported: source == UsageSource::Reported,
            raw: self.raw,
        }
    }

    /// One that came with a batch.
    #[cfg(feature = "batch")]
    pub(super) fn of_answer(answer: Answer) -> Self {
        let Answer { output, served, usage, usage_reported, raw } = answer;
        Self {
            output: Arc::unwrap_or_clone(output),
            served,
            usage: usage_reported.then_some(usage),
            warnings: Vec::new(),
            request_id: None,
            rate_limits: None,
            raw,
        }
    }

    /// What was used: as reported, as counted where nothing is, and flagged as counted where half of it is.
    pub(super) fn used(&self, request: &InferenceRequest, route: &RouteId, counter: &Counter) -> (Usage, UsageSource) {
        let by_us = || self.counted(request, route.model(), counter);
        let Some(told) = self.usage else { return (by_us(), UsageSource::Counted) };
        if told.prompt > 0 && told.completion > 0 {
            return (told, UsageSource::Reported);
        }
        let usage = told.or_counted(by_us());
        (usage, if usage == told { UsageSource::Reported } else { UsageSource::Counted })
    }

    /// What was used, counted: the tokens of the texts, and the pictures that were made.
    fn counted(&self, request: &InferenceRequest, model: &ModelId, counter: &Counter) -> Usage {
        let prompt = counter.prompt(model, request);
        match &self.output {
            Output::Chat(_) => Usage { prompt, completion: counter.output(model, &self.output), ..Usage::default() },
            Output::Image(images) => {
                let asked = request.usage_at_most(prompt, 0);
                let each = asked.pixels / asked.images.max(1);
                // What was made is billed, whatever was asked; behind a link it cannot be seen, and no model makes a
                // picture so much larger than asked: its head lies.
                let most = each.saturating_mul(MOST_TIMES_ASKED);
                let made = |image| pixels_of(image).filter(|pixels| *pixels <= most).unwrap_or(each);
                let pixels = images.iter().map(made).fold(0, u64::saturating_add);
                Usage { prompt, images: images.len() as u64, pixels, ..Usage::default() }
            }
            Output::Embedding(_) | Output::Rerank(_) => Usage { prompt, ..Usage::default() },
        }
    }
}

impl From<ChatCompletion> for Arrival {
    fn from(completion: ChatCompletion) -> Self {
        let ChatCompletion { model, choices, usage, warnings, request_id, rate_limits, raw, .. } = completion;
        Self { output: Output::Chat(choices), served: model, usage, warnings, request_id, rate_limits, raw }
    }
}

/// Width times height, read from the picture's first bytes.
fn pixels_of(image: &Image) -> Option<u64> {
    let size = imagesize::blob_size(image.bytes()?).ok()?;
    u64::try_from(size.width).ok()?.checked_mul(u64::try_from(size.height).ok()?)
}

/// Makes one attempt and waits for all of its answer.
pub(super) async fn send(
    client: &TogetherClient,
    model: &ModelId,
    input: &Input,
    options: &CallOptions,
) -> Result<Arrival, client::Error> {
    match input {
        Input::Chat(input) => client.chat().create_with(model, input, options).await.map(Into::into),
        Input::Prompt(input) => client.completions().create_with(model, input, options).await.map(Into::into),
        // Rarer than the two above: their futures are not to be part of those.
        Input::Embedding(input) => {
            let embedded = Box::pin(client.embeddings().create_with(model, input, options)).await?;
            Ok(Arrival {
                output: Output::Embedding(embedded.vectors),
                served: embedded.model,
                usage: embedded.usage,
                warnings: Vec::new(),
                request_id: embedded.request_id,
                rate_limits: embedded.rate_limits,
                raw: embedded.raw,
            })
        }
        Input::Image(input) => {
            let made = Box::pin(client.images().generate_with(model, input, options)).await?;
            Ok(Arrival {
                output: Output::Image(made.images),
                served: made.model,
                usage: None,
                warnings: Vec::new(),
                request_id: made.request_id,
                rate_limits: made.rate_limits,
                raw: Bytes::new(),
            })
        }
        Input::Rerank(input) => {
            let reranked = Box::pin(client.rerank().create_with(model, input, options)).await?;
            Ok(Arrival {
                output: Output::Rerank(reranked.results),
                served: reranked.model,
                usage: reranked.usage,
                warnings: Vec::new(),
                request_id: reranked.request_id,
                rate_limits: reranked.rate_limits,
                raw: reranked.raw,
            })
        }
    }
}

/// Makes one attempt at a stream.
pub(super) async fn open(
    client: &TogetherClient,
    model: &ModelId,
    input: &Input,
    options: &CallOptions,
) -> Result<ChatStream, client::Error> {
    match input {
        Input::Chat(input) => client.chat().stream_with(model, input, options).await,
        Input::Prompt(input) => client.completions().stream_with(model, input, options).await,
        // Refused before: the request says whether it streams.
        _ => Err(client::Error::no_stream()),
    }
}
