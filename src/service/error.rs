//! What went wrong with a call, in one cheap value.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::plan::Plan;
use crate::{
    client,
    cost::{OverBudget, TooDear},
    inference::{Attempt, Decision, InvalidRequest, Trace},
    router::NoRoute,
    types::{Cost, RequestId, Usd},
};

/// A failed call of the service. Cheap to clone. Calls that joined one that failed get errors of their own with its
/// evidence; attempts and cost are on the error of the one that led alone.
///
/// A web service can use it as it is: [`status_hint`](Self::status_hint), [`retry_after`](Self::retry_after),
/// [`public_message`](Self::public_message).
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: Box<str>,
    cause: Option<Arc<Cause>>,
    attempts: Arc<[Attempt]>,
    cost: Cost,
    /// The call, once it was ranked.
    call: Option<Call>,
    text: Option<Box<str>>,
    truncated: Option<Truncated>,
    wait: Option<Duration>,
}

/// The call that an error is of.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) id: RequestId,
    pub(super) at: SystemTime,
    /// At most.
    pub(super) prompt_tokens: u64,
    pub(super) decision: Arc<Decision>,
}

/// An answer that ended before anything was said.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{InferenceRequest, InferenceService, testing::Together};
///
/// let together = Together::new();
/// together.on("Prove").reply_reasoning("Let me think about it for a long time.", "");
/// let service = InferenceService::builder(together.client()).build()?;
/// let error = service.complete(InferenceRequest::chat("Prove it.").max_tokens(4)).await.unwrap_err();
/// let truncated = error.truncated().expect("it said nothing");
/// assert!(truncated.thinking_only && truncated.cap == Some(4));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Truncated {
    /// Whether the model only thought.
    pub thinking_only: bool,
    /// Tokens that were used, and are billed.
    pub used: u64,
    /// The request's `max_tokens`, if it has one.
    pub cap: Option<u32>,
}

/// What stands behind an error.
#[derive(Debug)]
pub(super) enum Cause {
    Invalid(InvalidRequest),
    NoRoute(NoRoute),
    Budget(Box<OverBudget>),
    /// A request's own ceiling; where it was the router that found nobody under it, with what it said.
    TooDear(TooDear, Option<NoRoute>),
    Client(client::Error),
}

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request cannot be right; nothing was sent.
    InvalidRequest,
    /// No model can serve it; the message names the need that none meets.
    NoRoute,
    /// A budget of ours has too little left; nothing was sent.
    OverBudget,
    /// A budget is set and the model's price is not known; nothing was sent.
    Unpriced,
    /// Too many calls wait for the model already; nothing was sent.
    Overloaded,
    /// Every model for it failed too often of late; nothing was sent. Probes find out when one is back.
    Ejected,
    /// The caller's deadline passed.
    DeadlineExceeded,
    /// The provider refuses the request itself (400, 403, 404, 422).
    Refused,
    /// The provider refuses the key (401).
    UpstreamAuthentication,
    /// The provider's account has no credit (402). Never confused with a budget of ours.
    UpstreamPayment,
    /// The provider's rate limit (429), and no other model could take over.
    RateLimited,
    /// The provider failed or could not be reached, and no other model could take over.
    Upstream,
    /// A stream broke after it began; what was received is the caller's.
    Interrupted,
    /// The model used its tokens without saying anything.
    EmptyAnswer,
    /// The answer is not JSON of the type that was asked for; [`Error::text`] keeps it.
    InvalidOutput,
    /// The service is shutting down.
    ShuttingDown,
    /// The call that this one had joined ended without a result.
    LeaderFailed,
    /// A router, budget or sink of the application panicked or failed.
    Policy,
    /// There is no Tokio runtime with time and IO here.
    NoRuntime,
    /// The service has no batches: its builder has neither a store nor `batches()`.
    NoBatches,
    /// The store has no such batch.
    NoBatch,
    /// Another batch has that name.
    NameTaken,
    /// Nobody works on the batches of the store.
    NoWorker,
    /// The store or the files beside it cannot be read or written.
    Store,
}

impl ErrorKind {
    /// The kind's name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::NoRoute => "no_route",
            Self::OverBudget => "over_budget",
            Self::Unpriced => "unpriced",
            Self::Overloaded => "overloaded",
            Self::Ejected => "ejected",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Refused => "refused",
            Self::UpstreamAuthentication => "upstream_authentication",
            Self::UpstreamPayment => "upstream_payment",
            Self::RateLimited => "rate_limited",
            Self::Upstream => "upstream",
            Self::Interrupted => "interrupted",
            Self::EmptyAnswer => "empty_answer",
            Self::InvalidOutput => "invalid_output",
            Self::ShuttingDown => "shutting_down",
            Self::LeaderFailed => "leader_failed",
            Self::Policy => "policy",
            Self::NoRuntime => "no_runtime",
            Self::NoBatches => "no_batches",
            Self::NoBatch => "no_batch",
            Self::NameTaken => "name_taken",
            Self::NoWorker => "no_worker",
            Self::Store => "store",
        }
    }
}

impl Error {
    pub(super) fn new(kind: ErrorKind, message: impl Into<Box<str>>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            cause: None,
            attempts: Arc::new([]),
            cost: Cost::Known(Usd::ZERO),
            call: None,
            text: None,
            truncated: None,
            wait: None,
        }))
    }

    /// The error that a failed attempt is for the caller.
    pub(super) fn of_client(error: client::Error) -> Self {
        use client::ErrorKind as Wire;
        let by_kind = match error.kind() {
            Wire::RateLimited => ErrorKind::RateLimited,
            Wire::InvalidRequest
            | Wire::ContextLength
            | Wire::PermissionDenied
            | Wire::NotFound
            | Wire::ModelNotAvailable
            | Wire::Conflict
            | Wire::Moderated => ErrorKind::Refused,
            _ => ErrorKind::Upstream,
        };
        let kind = Self::of_key(error.kind()).unwrap_or(by_kind);
        Self::caused(kind, error.to_string(), Cause::Client(error))
    }

    /// What a failure of the key is for the caller.
    pub(super) const fn of_key(kind: client::ErrorKind) -> Option<ErrorKind> {
        match kind {
            client::ErrorKind::Authentication => Some(ErrorKind::UpstreamAuthentication),
            client::ErrorKind::PaymentRequired => Some(ErrorKind::UpstreamPayment),
            _ => None,
        }
    }

    pub(super) fn caused(kind: ErrorKind, message: impl Into<Box<str>>, cause: Cause) -> Self {
        Self::new(kind, message).edit(|inner| inner.cause = Some(Arc::new(cause)))
    }

    /// Changes the error; whoever else holds it keeps it as it was.
    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    pub(super) fn of_kind(self, kind: ErrorKind) -> Self {
        self.edit(|inner| inner.kind = kind)
    }

    pub(super) fn with_attempts(self, attempts: impl Into<Arc<[Attempt]>>) -> Self {
        self.edit(|inner| {
            inner.attempts = attempts.into();
            inner.cost = total_cost(&inner.attempts);
        })
    }

    /// The error of a call that had joined the one that failed: the same evidence, but a call of its own, which made no
    /// attempts and cost nothing.
    pub(super) fn of_joined(self, plan: &Plan) -> Self {
        let joined = self.edit(|inner| {
            inner.message = format!("the call that this one had joined failed: {}", inner.message).into();
            inner.call = None;
        });
        joined.with_attempts([]).of_plan(plan)
    }

    /// Of this call.
    pub(super) fn of_plan(self, plan: &Plan) -> Self {
        let (id, at, prompt_tokens) = (plan.id, plan.at, plan.prompt_tokens_at_most);
        self.of_call(Call { id, at, prompt_tokens, decision: Arc::clone(&plan.ranking.decision) })
    }

    /// Of the call that this answered.
    #[cfg(feature = "schema")]
    pub(super) fn of_reply(self, reply: &crate::inference::InferenceResponse) -> Self {
        let (id, at, prompt_tokens) = (reply.id, reply.at, reply.prompt_tokens_at_most);
        self.of_call(Call { id, at, prompt_tokens, decision: Arc::clone(&reply.decision) })
    }

    /// The first call that says so stays.
    pub(super) fn of_call(self, call: Call) -> Self {
        self.edit(|inner| {
            inner.call.get_or_insert(call);
        })
    }

    #[cfg(feature = "schema")]
    pub(super) fn with_text(self, text: &str) -> Self {
        self.edit(|inner| inner.text = Some(text.into()))
    }

    pub(super) fn with_wait(self, wait: Option<Duration>) -> Self {
        self.edit(|inner| inner.wait = wait)
    }

    pub(super) fn with_truncated(self, truncated: Option<Truncated>) -> Self {
        self.edit(|inner| inner.truncated = truncated)
    }

    /// What an answer without anything in it used up, where its tokens ran out or it only thought.
    #[must_use]
    pub fn truncated(&self) -> Option<Truncated> {
        self.0.truncated
    }

    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later, as it is.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.0.kind {
            ErrorKind::Overloaded
            | ErrorKind::Ejected
            | ErrorKind::DeadlineExceeded
            | ErrorKind::RateLimited
            | ErrorKind::Upstream
            | ErrorKind::Interrupted
            | ErrorKind::LeaderFailed
            | ErrorKind::Store => true,
            ErrorKind::OverBudget => self.over_budget().is_some_and(|over| over.resets_at.is_some()),
            _ => false,
        }
    }

    /// The HTTP status for a web service's own caller: 400 bad request or no such model, 402 own budget, 429 the
    /// provider's rate, 503 the provider's account or outage and our own overload, 504 deadline, 502 unusable output.
    #[must_use]
    pub fn status_hint(&self) -> u16 {
        match self.0.kind {
            ErrorKind::InvalidRequest | ErrorKind::NoRoute | ErrorKind::Refused => 400,
            ErrorKind::OverBudget | ErrorKind::Unpriced => 402,
            ErrorKind::RateLimited => 429,
            ErrorKind::DeadlineExceeded => 504,
            ErrorKind::EmptyAnswer | ErrorKind::InvalidOutput => 502,
            ErrorKind::NoBatch => 404,
            ErrorKind::NameTaken => 409,
            ErrorKind::Policy | ErrorKind::NoRuntime | ErrorKind::NoBatches | ErrorKind::NoWorker => 500,
            _ => 503,
        }
    }

    /// How long to wait: what the provider asks for, or when the next probe of an ejected model may go out.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.client_error().and_then(client::Error::retry_after).or(self.0.wait)
    }

    /// A sentence that may be shown to anyone: no model, provider, limit or prompt in it.
    #[must_use]
    pub fn public_message(&self) -> &'static str {
        match self.0.kind {
            ErrorKind::InvalidRequest | ErrorKind::Refused => "The request is not valid.",
            ErrorKind::NoRoute => "The request cannot be served as it is.",
            ErrorKind::OverBudget | ErrorKind::Unpriced => "The budget is used up.",
            ErrorKind::RateLimited | ErrorKind::Overloaded => "Too many requests; please try again shortly.",
            ErrorKind::DeadlineExceeded => "The answer took too long; please try again.",
            ErrorKind::Interrupted => "The answer was interrupted; please try again.",
            ErrorKind::EmptyAnswer | ErrorKind::InvalidOutput => "No usable answer was found.",
            _ => "The service is not available right now; please try again later.",
        }
    }

    /// Every attempt that was made, in order; none for a call that had joined another one.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.0.attempts
    }

    /// What the failed attempts cost, together.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.0.cost
    }

    /// Why these models were tried; `None` if it never came to that.
    #[must_use]
    pub fn decision(&self) -> Option<&Decision> {
        self.0.call.as_ref().map(|call| &*call.decision)
    }

    /// How the call went, to be kept: the choice if it came to one, the attempts, the end.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(3, Fault::status(500));
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let error = service.complete(InferenceRequest::chat("hi")).await.unwrap_err();
    /// assert_eq!((error.trace().attempts.len(), &*error.trace().end), (3, "upstream"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn trace(&self) -> Trace {
        let call = self.0.call.as_ref();
        Trace {
            id: call.map(|call| call.id),
            at: call.map(|call| call.at),
            prompt_tokens: call.map_or(0, |call| call.prompt_tokens),
            decision: call.map(|call| Arc::clone(&call.decision)),
            attempts: Arc::clone(&self.0.attempts),
            end: self.kind().as_str().into(),
            route: None,
            cost: self.0.cost,
        }
    }

    /// The budget that has too little left.
    #[must_use]
    pub fn over_budget(&self) -> Option<&OverBudget> {
        match self.0.cause.as_deref() {
            Some(Cause::Budget(over)) => Some(over),
            _ => None,
        }
    }

    /// The field that cannot be right.
    #[must_use]
    pub fn invalid(&self) -> Option<&InvalidRequest> {
        match self.0.cause.as_deref() {
            Some(Cause::Invalid(invalid)) => Some(invalid),
            _ => None,
        }
    }

    /// Which routes were left out, and why.
    #[must_use]
    pub fn no_route(&self) -> Option<&NoRoute> {
        match self.0.cause.as_deref() {
            Some(Cause::NoRoute(no_route) | Cause::TooDear(_, Some(no_route))) => Some(no_route),
            _ => None,
        }
    }

    /// What each candidate may cost, where that is more than the request's `max_cost`.
    #[must_use]
    pub fn too_dear(&self) -> Option<&TooDear> {
        match self.0.cause.as_deref() {
            Some(Cause::TooDear(too_dear, _)) => Some(too_dear),
            _ => None,
        }
    }

    /// The error of the last attempt, with status, code, request id and body.
    #[must_use]
    pub fn client_error(&self) -> Option<&client::Error> {
        match self.0.cause.as_deref() {
            Some(Cause::Client(error)) => Some(error),
            _ => None,
        }
    }

    /// The text of an answer that is not of the type that was asked for. It is the model's: do not log it unasked.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.0.text.as_deref()
    }
}

/// What attempts cost together.
pub(super) fn total_cost(attempts: &[Attempt]) -> Cost {
    attempts.iter().map(|attempt| attempt.cost).reduce(Cost::plus).unwrap_or(Cost::Known(Usd::ZERO))
}

impl From<InvalidRequest> for Error {
    fn from(invalid: InvalidRequest) -> Self {
        Self::caused(ErrorKind::InvalidRequest, invalid.to_string(), Cause::Invalid(invalid))
    }
}

impl From<NoRoute> for Error {
    fn from(no_route: NoRoute) -> Self {
        Self::caused(ErrorKind::NoRoute, no_route.to_string(), Cause::NoRoute(no_route))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, attempts, .. } = &*self.0;
        // The client's errors begin with their own kind, which may be of the same name.
        match message.strip_prefix(kind.as_str()) {
            Some(rest) if rest.starts_with(':') => f.write_str(message)?,
            _ if message.is_empty() => f.write_str(kind.as_str())?,
            _ => write!(f, "{}: {message}", kind.as_str())?,
        }
        if attempts.len() > 1 {
            f.write_str("; tried ")?;
            for (n, attempt) in attempts.iter().enumerate() {
                write!(f, "{}{attempt}", if n == 0 { "" } else { ", " })?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, cause, attempts, cost, call: _, text, truncated, wait: _ } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("message", message)
            .field("cause", cause)
            .field("attempts", attempts)
            .field("cost", cost)
            .field("truncated", truncated)
            .field("text_bytes", &text.as_ref().map(|text| text.len()))
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(match self.0.cause.as_deref()? {
            Cause::Invalid(error) => error,
            Cause::NoRoute(error) => error,
            Cause::Budget(error) => &**error,
            Cause::TooDear(error, _) => error,
            Cause::Client(error) => error,
        })
    }
}
