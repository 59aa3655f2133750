//! An answer in pieces, settled at its end or at its drop.

mod live;

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
    vec,
};

use futures_core::Stream;
use tokio::{runtime::Handle, time::Instant};
use tokio_util::task::task_tracker::TaskTrackerToken;

pub(super) use self::live::LiveStreams;
use self::live::{Live, Open, Step};
use super::{
    attempts::{Dispatched, Done, settle},
    cached::can_stand_in_for,
    coalesce::Missed,
    counter::{Brought, Counter},
    error::{Error, ErrorKind},
    log,
    plan::Plan,
    send::open,
    state::State,
};
use crate::{
    client::{ChatCompletion, Delta, Fold, TogetherClient, replay},
    inference::{Attempt, Bypass, CacheControl, CacheKey, InferenceRequest, InferenceResponse, InvalidRequest, Source},
    types::{ModelId, Usage},
};

/// The pieces of an answer as they arrive.
///
/// It holds everything that the call took, and gives it back as soon as it ends or breaks, or when it is dropped: a
/// dropped stream is recorded with the tokens that had arrived, closes its connection and frees its place. So is one that
/// is not read when a shutdown's time is over. Nothing is read ahead, so that a slow reader slows the server down.
///
/// [`next`](Self::next) needs no extension trait; the stream is also a [`futures_core::Stream`], `Send` and `'static`.
pub struct InferenceStream {
    /// `None` once it is over.
    body: Option<Body>,
    fold: Fold,
    /// What they brought, counted: what a cut is billed by.
    brought: Brought,
    /// Tokens of the prompt, counted.
    prompt_tokens: u64,
    counter: Counter,
    plan: Arc<Plan>,
    /// Where its answer is kept, if it is.
    keeper: Option<Keeper>,
    attempts: Vec<Attempt>,
    first_token: Duration,
    source: Source,
    outcome: Option<Result<InferenceResponse, Error>>,
}

/// Where the pieces come from.
enum Body {
    Live(Live),
    Replay(Replay),
}

/// An answer out of the cache.
struct Replay {
    deltas: vec::IntoIter<Delta>,
    reply: Box<InferenceResponse>,
}

/// Keeps the answer of a stream once it is whole.
struct Keeper {
    state: Arc<State>,
    key: CacheKey,
    control: CacheControl,
    begun: Instant,
    /// The runtime of the call: the last piece may be read outside of any.
    runtime: Handle,
}

impl Keeper {
    /// Keeps an answer in a task of its own: the reader need not wait for a store.
    fn keep(self, plan: &Arc<Plan>, done: Done) {
        let Self { state, key, control, begun, runtime } = self;
        let (plan, took, tasks) = (Arc::clone(plan), begun.elapsed(), state.tasks.clone());
        tasks.spawn_on(async move { state.keep_answer(&key, &done, (&plan, &control), took).await }, &runtime);
    }
}

impl fmt::Debug for InferenceStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InferenceStream").field("pieces", &self.brought.pieces).finish_non_exhaustive()
    }
}

impl State {
    /// Makes attempts until one has begun to answer.
    pub(super) async fn stream(
        self: Arc<Self>,
        request: Arc<InferenceRequest>,
        in_flight: TaskTrackerToken,
    ) -> Result<InferenceStream, Error> {
        let opened = self.open(request, in_flight).await;
        opened.inspect_err(|error| log(&Err(error.clone())))
    }

    async fn open(
        self: Arc<Self>,
        request: Arc<InferenceRequest>,
        in_flight: TaskTrackerToken,
    ) -> Result<InferenceStream, Error> {
        if !request.streams() {
            request.validate()?;
            let problem = format!("an answer of {} does not come in pieces; call complete", request.task_of());
            return Err(InvalidRequest::new("stream", problem).into());
        }
        let mut plan = self.plan(request).await?;
        plan.streams = true;
        let plan = Arc::new(plan);
        let caching = plan.request.caching();
        let (mut keeper, mut spare, mut source) = (None, None, caching.err().map(Source::Upstream));
        if let Ok(control) = caching {
            let key = self.key(&plan);
            if control.read {
                match self.read(&plan, key, control).await {
                    Ok(reply) => return Ok(InferenceStream::replay(plan, Box::new(reply))),
                    Err(Missed { late: Some(late), .. }) => return Err(late),
                    Err(missed) => spare = missed.stand_in,
                }
            } else {
                source = Some(Source::Upstream(Bypass::Asked));
            }
            let (begun, runtime) = (Instant::now(), Handle::try_current().ok().filter(|_| control.write));
            keeper = runtime.map(|runtime| Keeper { state: Arc::clone(&self), key, control, begun, runtime });
        }
        let send = |client: TogetherClient, model: ModelId| {
            let plan = &plan;
            async move { open(&client, &model, plan.request.input(), &plan.stream_options()).await }
        };
        let Dispatched { value, mut settlement, attempts } = match (self.dispatch(&plan, send).await, spare) {
            (Ok(dispatched), _) => dispatched,
            (Err(error), Some(hit)) if can_stand_in_for(error.kind()) => {
                tracing::warn!(%error, "answered from the cache, past its time");
                let reply = Box::new(self.stale(&plan, hit));
                return Ok(InferenceStream::replay(plan, reply));
            }
            (Err(error), _) => return Err(error),
        };
        settlement.first_token();
        settlement.told(value.rate_limits());
        let prompt_tokens = self.counter.prompt(settlement.route.id.model(), &plan.request);
        settlement.progress(Usage { prompt: prompt_tokens, ..Usage::default() });
        let fold = Fold::new(settlement.route.id.model().clone());
        let live = Live::new(Open { stream: value, settlement, in_flight }, &self.streams, &self.cancel);
        Ok(InferenceStream {
            body: Some(Body::Live(live)),
            fold,
            brought: Brought::default(),
            prompt_tokens,
            counter: self.counter.clone(),
            first_token: plan.started.elapsed(),
            source: source.unwrap_or(Source::Miss),
            plan,
            keeper,
            attempts,
            outcome: None,
        })
    }
}

impl InferenceStream {
    /// The pieces of an answer that is there already. There is nothing to settle, so that no shutdown need wait for it.
    fn replay(plan: Arc<Plan>, reply: Box<InferenceResponse>) -> Self {
        let deltas = replay(reply.answer.choices(), reply.answer.usage).into_iter();
        Self {
            fold: Fold::new(reply.answer.served.clone()),
            brought: Brought::default(),
            prompt_tokens: 0,
            counter: Counter::default(),
            first_token: plan.started.elapsed(),
            source: reply.source,
            body: Some(Body::Replay(Replay { deltas, reply })),
            plan,
            keeper: None,
            attempts: Vec::new(),
            outcome: None,
        }
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

    /// The text so far, also after the stream broke.
    #[must_use]
    pub fn text(&self) -> &str {
        match &self.outcome {
            Some(Ok(reply)) => reply.text(),
            _ => self.fold.text(),
        }
    }

    /// The model that answers, as far as known.
    #[must_use]
    pub fn model(&self) -> &ModelId {
        match &self.outcome {
            Some(Ok(reply)) => reply.model(),
            _ => self.fold.model(),
        }
    }

    /// The answer is whole.
    fn ended(&mut self, open: Open) {
        let Open { stream, settlement, in_flight } = open;
        let request_id = stream.request_id().map(Into::into);
        drop(stream);
        let fold = std::mem::replace(&mut self.fold, Fold::new(settlement.route.id.model().clone()));
        let completion = ChatCompletion { request_id, ..fold.into_completion() };
        let attempts = std::mem::take(&mut self.attempts);
        let outcome = settle(&self.plan, completion.into(), settlement, attempts).map(|done| {
            let mut reply = self.plan.respond(&done, self.source);
            reply.timings.first_token = Some(self.first_token);
            if let Some(keeper) = self.keeper.take() {
                keeper.keep(&self.plan, done);
            }
            reply
        });
        drop(in_flight);
        self.over(outcome);
    }

    fn failed(&mut self, error: crate::client::Error, mut open: Open) {
        let cost = open.settlement.failed(&error);
        let attempt = open.settlement.attempt(Some(error.kind()), error.status(), cost);
        drop(open);
        self.broke(Error::of_client(error).of_kind(ErrorKind::Interrupted), attempt);
    }

    fn broke(&mut self, error: Error, attempt: Attempt) {
        let mut attempts = std::mem::take(&mut self.attempts);
        attempts.push(attempt);
        self.over(Err(error.with_attempts(attempts).of_plan(&self.plan)));
    }

    fn replayed(&mut self) {
        if let Some(Body::Replay(Replay { mut reply, .. })) = self.body.take() {
            reply.timings.first_token = Some(self.first_token);
            self.over(Ok(*reply));
        }
    }

    /// One event a call, and nothing is held any more.
    fn over(&mut self, outcome: Result<InferenceResponse, Error>) {
        self.body = None;
        log(&outcome);
        self.outcome = Some(outcome);
    }
}

impl Drop for InferenceStream {
    fn drop(&mut self) {
        if matches!(self.body, Some(Body::Live(_))) {
            tracing::debug!(kind = "cancelled", attempts = self.attempts.len() + 1, "not answered");
        }
    }
}

impl Stream for InferenceStream {
    type Item = Result<Delta, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { body, fold, brought, prompt_tokens, counter, .. } = &mut *self;
        let live = match body {
            Some(Body::Live(live)) => live,
            Some(Body::Replay(replay)) => {
                if let Some(delta) = replay.deltas.next() {
                    fold.push(&delta);
                    return Poll::Ready(Some(Ok(delta)));
                }
                self.replayed();
                return Poll::Ready(None);
            }
            None => return Poll::Ready(None),
        };
        let count = |delta: &Delta| {
            fold.push(delta);
            brought.push(counter, fold.model(), delta);
            let counted = Usage { prompt: *prompt_tokens, completion: brought.tokens(), ..Usage::default() };
            // Some servers report the prompt at the beginning, and of the answer nothing until its end.
            fold.usage().map_or(counted, |told| told.or_counted(counted))
        };
        match ready!(live.poll(cx, count)) {
            Step::Delta(delta) => return Poll::Ready(Some(Ok(delta))),
            Step::Ended(open) => self.ended(*open),
            Step::Failed(error, open) => self.failed(error, *open),
            Step::Cut(attempt) => {
                self.broke(Error::new(ErrorKind::ShuttingDown, "the service was shut down"), attempt);
            }
        }
        Poll::Ready(self.outcome.as_ref().and_then(|outcome| outcome.as_ref().err()).cloned().map(Err))
    }
}
