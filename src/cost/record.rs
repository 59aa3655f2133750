//! One attempt, as money sees it.

use std::time::{Duration, SystemTime};

use crate::{
    client::ErrorKind,
    inference::Source,
    types::{
        AttemptId, Cost, ModelId, Price, Priority, RequestId, RouteId, SessionId, Task, Tenant, TraceId, Usage,
        UsageSource, Usd,
    },
};

/// What is known of an attempt before it is dispatched.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Intent {
    /// The record of the attempt if nothing more is ever heard of it: [`Ending::Lost`], at its upper bound.
    pub record: CostRecord,
}

/// One attempt, settled. Holds no prompt and no answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CostRecord {
    /// The attempt: what a record is idempotent by.
    pub attempt: AttemptId,
    /// The call that it belongs to.
    pub request: RequestId,
    /// When it was dispatched (UTC).
    pub at: SystemTime,
    /// Whose it was.
    pub tenant: Option<Tenant>,
    /// The session that it belongs to.
    pub session: Option<SessionId>,
    /// The request's labels.
    pub tags: Vec<(Box<str>, Box<str>)>,
    /// What kind of request.
    pub task: Task,
    /// How urgent.
    pub priority: Priority,
    /// Where this attempt went. After a fallback each attempt has a record of its own with its own route, so that it is
    /// not always the one that the router chose first. For a hit or a follower, where the answer came from.
    pub route: RouteId,
    /// The model that answered, by the provider's word.
    pub served: Option<ModelId>,
    /// Tokens; none for a hit or a follower.
    pub usage: Usage,
    /// Where the token counts come from.
    pub usage_source: UsageSource,
    /// What it cost: exact, bounded, or of no known price. $0 for a hit or a follower.
    pub cost: Cost,
    /// What a hit or a follower did not have to pay.
    pub saved: Cost,
    /// The price at dispatch: later changes do not touch this record.
    pub price: Option<Price>,
    /// The version of that price in the service's price book, from 1.
    pub price_version: Option<u64>,
    /// Where the answer came from; why the cache was not asked, where it was not.
    pub source: Source,
    /// The batch that it was a line of, by the provider's id.
    pub batch: Option<Box<str>>,
    /// The side of an experiment that it was on.
    pub arm: Option<Box<str>>,
    /// The trace that the call belongs to.
    pub trace_id: Option<TraceId>,
    /// How it ended.
    pub ending: Ending,
    /// What the provider took, from dispatch to the end. The time in which a stream was not asked for more is its
    /// reader's and not counted: a caller that reads a piece a minute makes no provider slow. What the provider did
    /// meanwhile is not seen, so that of a stream read slowly this is the least that it took. For a hit or a follower, how
    /// long it waited.
    pub latency: Duration,
    /// From dispatch to the first delta, for streams that began.
    pub first_token: Option<Duration>,
}

/// How an attempt ended.
///
/// ```
/// use together_inference::{client::ErrorKind, cost::Ending};
///
/// assert_eq!(Ending::Failed(ErrorKind::Overloaded).as_str(), "failed");
/// assert_eq!(Ending::Hit.as_str(), "hit");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// With a whole answer.
    Answered,
    /// With an error; what the provider billed is known or bounded.
    Failed(ErrorKind),
    /// The caller went away before the answer was whole.
    Cancelled,
    /// It was answered from the cache; no attempt was made.
    Hit,
    /// It was answered from the cache, past its time.
    Stale,
    /// It was answered by another caller's attempt.
    Follower,
    /// Nobody knows: the process that made the attempt ended before it did.
    Lost,
}

impl Intent {
    /// The intent of the attempt that this will be the record of, which costs at most this.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use together_inference::{Cost, RouteId, cost::{CostRecord, Ending, Intent}, types::RequestId, usd};
    ///
    /// let call = RequestId::new(7);
    /// let record = CostRecord::new(call.attempt(0), call, RouteId::new("together", "m"), SystemTime::now());
    /// let intent = Intent::new(record, Cost::Unknown { at_most: usd!("0.02") });
    /// assert_eq!(intent.record.cost.charge(), usd!("0.02"));
    /// assert_eq!(intent.record.ending, Ending::Lost);
    /// ```
    #[must_use]
    pub fn new(record: CostRecord, at_most: Cost) -> Self {
        Self {
            record: CostRecord { cost: at_most, usage_source: UsageSource::UpperBound, ending: Ending::Lost, ..record },
        }
    }
}

impl CostRecord {
    /// A chat attempt that nothing else is known of: it used nothing, cost nothing and was cancelled. The fields are
    /// public; set what differs.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use together_inference::{Cost, RouteId, cost::CostRecord, types::RequestId, usd};
    ///
    /// let request = RequestId::new(7);
    /// let route = RouteId::new("together", "zai-org/GLM-5.3");
    /// let mut record = CostRecord::new(request.attempt(0), request, route, SystemTime::UNIX_EPOCH);
    /// record.cost = Cost::Known(usd!("0.0002"));
    /// assert_eq!(record.cost_usd(), Some(usd!("0.0002")));
    /// ```
    #[must_use]
    pub const fn new(attempt: AttemptId, request: RequestId, route: RouteId, at: SystemTime) -> Self {
        Self {
            attempt,
            request,
            at,
            tenant: None,
            session: None,
            tags: Vec::new(),
            task: Task::Chat,
            priority: Priority::Standard,
            route,
            served: None,
            usage: Usage::ZERO,
            usage_source: UsageSource::None,
            cost: Cost::Known(Usd::ZERO),
            saved: Cost::Known(Usd::ZERO),
            price: None,
            price_version: None,
            source: Source::Miss,
            batch: None,
            arm: None,
            trace_id: None,
            ending: Ending::Cancelled,
            latency: Duration::ZERO,
            first_token: None,
        }
    }

    /// The model that was billed: the one that answered, or the one that was asked.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use together_inference::{RouteId, cost::CostRecord, types::RequestId};
    ///
    /// let call = RequestId::new(7);
    /// let mut record = CostRecord::new(call.attempt(0), call, RouteId::new("together", "old"), SystemTime::now());
    /// assert_eq!(record.model(), &"old");
    /// record.served = Some("new".into()); // a silent redirect
    /// assert_eq!(record.model(), &"new");
    /// ```
    #[must_use]
    pub fn model(&self) -> &ModelId {
        self.served.as_ref().unwrap_or_else(|| self.route.model())
    }

    /// Tokens of the prompt.
    #[must_use]
    pub const fn prompt_tokens(&self) -> u64 {
        self.usage.prompt
    }

    /// Tokens of the answer.
    #[must_use]
    pub const fn completion_tokens(&self) -> u64 {
        self.usage.completion
    }

    /// The cost in dollars, where it is known exactly.
    #[must_use]
    pub const fn cost_usd(&self) -> Option<Usd> {
        self.cost.known()
    }

    /// When the attempt was dispatched (UTC).
    #[must_use]
    pub const fn timestamp(&self) -> SystemTime {
        self.at
    }
}

impl Ending {
    /// The ending's name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Follower => "follower",
            Self::Lost => "lost",
        }
    }

    /// Whether a provider was called: not for hits and followers.
    ///
    /// ```
    /// use together_inference::cost::Ending;
    ///
    /// assert!(Ending::Cancelled.is_attempt() && !Ending::Follower.is_attempt());
    /// ```
    #[must_use]
    pub const fn is_attempt(self) -> bool {
        !matches!(self, Self::Hit | Self::Stale | Self::Follower)
    }
}
