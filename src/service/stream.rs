//! An answer in pieces, settled at its end or at its drop.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use tokio_util::{sync::WaitForCancellationFutureOwned, task::task_tracker::TaskTrackerToken};

use super::{
    attempts::{Dispatched, settle},
    error::{Error, ErrorKind},
    plan::Plan,
    settle::Settlement,
    state::State,
};
use crate::{
    client::{ChatCompletion, ChatStream, Delta, Fold, TogetherClient},
    inference::{Attempt, Bypass, InferenceRequest, InferenceResponse, Source},
    types::{ModelId, Usage},
};

/// The pieces of an answer as they arrive.
///
/// It holds everything that the call took, and gives it back at its end or when it is dropped: a dropped stream is
/// recorded with the tokens that had arrived, closes its connection and frees its place. Nothing is read ahead, so that a
/// slow reader slows the server down.
///
/// [`next`](Self::next) needs no extension trait; the stream is also a [`futures_core::Stream`], `Send` and `'static`.
pub struct InferenceStream {
    stream: ChatStream,
    fold: Option<Fold>,
    settlement: Option<Settlement>,
    /// Pieces that held something of an answer.
    pieces: u64,
    plan: Box<Plan>,
    attempts: Vec<Attempt>,
    first_token: Duration,
    outcome: Option<Result<InferenceResponse, Error>>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Counts the call among those that a shutdown waits for.
    _in_flight: TaskTrackerToken,
}

impl fmt::Debug for InferenceStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InferenceStream").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl State {
    /// Makes attempts until one has begun to answer.
    pub(super) async fn stream(
        self: Arc<Self>,
        request: Arc<InferenceRequest>,
        in_flight: TaskTrackerToken,
    ) -> Result<InferenceStream, Error> {
        let plan = Box::new(self.plan(request).await?);
        let send = |client: TogetherClient, model: ModelId| {
            let plan = &plan;
            async move { client.chat().stream_with(&model, plan.request.chat_ref(), &plan.stream_options()).await }
        };
        let Dispatched { value, mut settlement, attempts } = self.dispatch(&plan, send).await?;
        settlement.first_token();
        settlement.progress(Usage { prompt: plan.request.prompt_tokens_counted(), ..Usage::default() });
        Ok(InferenceStream {
            fold: Some(Fold::new(settlement.route.id.model().clone())),
            stream: value,
            settlement: Some(settlement),
            pieces: 0,
            first_token: plan.started.elapsed(),
            plan,
            attempts,
            outcome: None,
            cancelled: Box::pin(self.cancel.clone().cancelled_owned()),
            _in_flight: in_flight,
        })
    }
}

impl InferenceStream {
    /// The next piece, or `None` at the end of a whole answer.
    pub async fn next(&mut self) -> Option<Result<Delta, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Reads to the end and gives the whole answer, with what it cost. After an error it gives that error.
    ///
    /// # Errors
    ///
    /// The stream's first error.
    pub async fn finish(mut self) -> Result<InferenceResponse, Error> {
        while let Some(delta) = self.next().await {
            delta?;
        }
        let ended = || Err(Error::new(ErrorKind::Interrupted, "the stream had ended already"));
        self.outcome.take().unwrap_or_else(ended)
    }

    /// The text so far.
    #[must_use]
    pub fn text(&self) -> &str {
        self.fold.as_ref().map_or_else(
            || match &self.outcome {
                Some(Ok(reply)) => reply.text(),
                _ => "",
            },
            Fold::text,
        )
    }

    /// The model that answers, as far as known.
    #[must_use]
    pub fn model(&self) -> &ModelId {
        self.fold.as_ref().map_or_else(|| self.plan.asked().model(), Fold::model)
    }

    fn received(&mut self, delta: &Delta) {
        let (Some(fold), Some(settlement)) = (&mut self.fold, &mut self.settlement) else { return };
        fold.push(delta);
        self.pieces += u64::from(delta.has_content());
        let counted = Usage {
            prompt: self.plan.request.prompt_tokens_counted(),
            // A piece is a token with most servers; those that send several at a time are counted by their bytes.
            completion: self.pieces.max(fold.bytes().div_ceil(4)),
            ..Usage::default()
        };
        settlement.progress(fold.usage().unwrap_or(counted));
    }

    /// The answer is whole.
    fn ended(&mut self) {
        let (Some(fold), Some(settlement)) = (self.fold.take(), self.settlement.take()) else { return };
        let request_id = self.stream.request_id().map(Into::into);
        let completion = ChatCompletion { request_id, ..fold.into_completion() };
        let attempts = std::mem::take(&mut self.attempts);
        self.outcome = Some(settle(&self.plan, completion, settlement, attempts).map(|done| {
            let mut reply = self.plan.respond(&done, Source::Upstream(Bypass::Stream));
            reply.timings.first_token = Some(self.first_token);
            reply
        }));
    }

    fn broke(&mut self, error: Error) -> Error {
        self.fold = None;
        self.settlement = None;
        self.outcome = Some(Err(error.clone()));
        error
    }

    fn failed(&mut self, error: crate::client::Error) -> Error {
        let mut attempts = std::mem::take(&mut self.attempts);
        if let Some(settlement) = &mut self.settlement {
            let (route, took) = (settlement.route.id.clone(), settlement.elapsed());
            let cost = settlement.failed(&error);
            attempts.push(Attempt { route, error: Some(error.kind()), status: error.status(), took, cost });
        }
        let error = Error::of_client(error).of_kind(ErrorKind::Interrupted).with_attempts(attempts);
        self.broke(error.with_decision(&self.plan.ranking.decision))
    }
}

impl Stream for InferenceStream {
    type Item = Result<Delta, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.outcome.is_some() {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.stream).poll_next(cx) {
            Poll::Ready(Some(Ok(delta))) => {
                self.received(&delta);
                Poll::Ready(Some(Ok(delta)))
            }
            Poll::Ready(Some(Err(error))) => {
                let error = self.failed(error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                self.ended();
                match &self.outcome {
                    Some(Err(error)) => Poll::Ready(Some(Err(error.clone()))),
                    _ => Poll::Ready(None),
                }
            }
            Poll::Pending if self.cancelled.as_mut().poll(cx).is_ready() => {
                let error = self.broke(Error::new(ErrorKind::ShuttingDown, "the service was shut down"));
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
