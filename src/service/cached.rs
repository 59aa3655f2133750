//! What the service asks of its cache: look-ups that never fail a call, answers that are kept, answers past their time.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};

use super::{
    attempts::Done,
    error::ErrorKind,
    plan::{Plan, no_attempts, no_warnings},
    prompt::at_once,
    state::{PATIENCE, State},
};
use crate::{
    cache::{CacheEntry, CacheValue},
    cost::Ending,
    inference::{Answer, CacheControl, CacheKey, InferenceRequest, InferenceResponse, Kind, Origin, Source},
    router::Candidate,
    types::{Cost, RouteId, UsageSource, Usd},
};

/// How long a fallback's answer is kept under the question to the first choice.
const FALLBACK_TTL: Duration = Duration::from_secs(60);

/// What a look-up in the cache brought.
#[derive(Debug)]
pub(super) enum Found {
    Fresh(Hit),
    /// Past its time.
    Stale(Hit),
    Nothing,
    /// The layer failed, panicked or took too long: asking it again costs time and brings nothing.
    Broken,
}

/// An answer out of the cache.
#[derive(Debug)]
pub(super) struct Hit {
    pub(super) answer: Arc<Answer>,
    pub(super) origin: Origin,
    ttl: Duration,
    /// How long its time is over.
    past: Duration,
}

impl Hit {
    /// Whether it may be served while it is renewed. A fallback's never is: its minute is over, and the first choice could
    /// be asked.
    pub(super) fn is_renewed(&self, control: &CacheControl, asked: &RouteId) -> bool {
        let is_fallbacks = self.ttl <= FALLBACK_TTL && self.answer.served != *asked.model();
        !is_fallbacks && self.past < control.revalidates_for(self.ttl)
    }

    /// Whether it may be served where no other answer can be had.
    pub(super) fn may_stand_in(&self, control: &CacheControl) -> bool {
        self.past < control.stale_if_error
    }
}

impl State {
    /// A cached answer, looked for until `by` at the latest. Whatever goes wrong is a miss.
    pub(super) async fn look_up(self: &Arc<Self>, key: &CacheKey, control: &CacheControl, by: Instant) -> Found {
        let wants_stale =
            control.stale_while_revalidate != Some(Duration::ZERO) || control.stale_if_error > Duration::ZERO;
        let asked = async { if wants_stale { self.cache.get_kept(key).await } else { self.cache.get(key).await } };
        let mut asked = pin!(AssertUnwindSafe(asked).catch_unwind());
        let found = match at_once(asked.as_mut()).await {
            Some(found) => Some(found),
            None => timeout_at(by.min(Instant::now() + PATIENCE), asked).await.ok(),
        };
        match found {
            Some(Ok(Ok(Some(entry)))) => return found_entry(entry, control),
            Some(Ok(Ok(None))) => return Found::Nothing,
            Some(Ok(Err(error))) => self.look_up_failed(&error),
            Some(Err(_)) => tracing::warn!("the cache panicked, going on without"),
            None => tracing::warn!("the cache took too long, going on without"),
        }
        Found::Broken
    }

    /// Keeps a whole answer under the question that it answers.
    pub(super) async fn keep_answer(
        &self,
        key: &CacheKey,
        done: &Done,
        (plan, control): (&Plan, &CacheControl),
        took: Duration,
    ) {
        if !control.write || !plan.is_whole(&done.answer) {
            return;
        }
        let ttl = control.ttl.unwrap_or(Kind::Inference.ttl());
        // A fallback's answer is none to serve while the first choice could be asked.
        let (ttl, renewed) = if done.route == *plan.asked() {
            (ttl, control.revalidates_for(ttl))
        } else {
            (ttl.min(FALLBACK_TTL), Duration::ZERO)
        };
        let kept_for = renewed.max(control.stale_if_error);
        let value = CacheValue::Inference(Arc::clone(&done.answer));
        let entry = CacheEntry::new(value, ttl).kept_for(kept_for).delta(took);
        self.keep_unless_invalidated(plan.moment, key, entry).await;
    }

    /// Takes an answer to this request out of the cache again, also where it is only on its way there. `asked` is the route
    /// that the router chose first for it. Whatever goes wrong costs another unusable hit.
    #[cfg(feature = "schema")]
    pub(super) async fn forget(&self, request: &InferenceRequest, asked: &RouteId) {
        let mut request = request.clone();
        self.fill(&mut request);
        if request.caching().is_err() {
            return;
        }
        let key = self.key_to(&request, asked);
        self.invalidations.note_key(&key);
        self.slots.forget(|other| *other == key);
        self.take_out(&key).await;
    }

    /// What the application's policy says of a request that says nothing itself.
    pub(super) fn caching_of(&self, request: &InferenceRequest) -> Option<CacheControl> {
        let policy = self.cache_policy.as_ref()?;
        catch_unwind(AssertUnwindSafe(|| policy.0(request))).unwrap_or_else(|_| {
            tracing::warn!("the cache policy panicked, going on without the cache");
            Some(CacheControl::off())
        })
    }

    /// What a cached answer is worth: what its tokens would cost now.
    pub(super) fn done_from_cache(self: &Arc<Self>, plan: &Plan, hit: Hit) -> Done {
        let Hit { answer, origin, .. } = hit;
        // A fallback's answer is kept under the question to the first choice: find who gave it.
        let served = |candidate: &&Candidate| *candidate.route.model() == answer.served;
        let candidates = &plan.ranking.candidates;
        let from = candidates.iter().find(served).or_else(|| candidates.first());
        let price = from.and_then(|candidate| self.price(candidate));
        let worth = price.map_or(Cost::Unpriced, |stamp| Cost::Known(stamp.price.cost(&answer.usage)));
        Done {
            route: from.map_or_else(|| plan.asked().clone(), |candidate| candidate.route.clone()),
            cost: Cost::Known(Usd::ZERO),
            worth,
            usage_source: UsageSource::None,
            attempts: no_attempts(),
            request_id: None,
            warnings: no_warnings(),
            from_cache: Some(origin),
            answer,
        }
    }

    pub(super) fn hit(&self, plan: &Plan, done: &Done, origin: Origin) -> InferenceResponse {
        self.record_free(plan, done, Ending::Hit);
        plan.respond(done, Source::Cache(origin))
    }

    pub(super) fn stale(self: &Arc<Self>, plan: &Plan, hit: Hit) -> InferenceResponse {
        let origin = hit.origin;
        let done = self.done_from_cache(plan, hit);
        self.record_free(plan, &done, Ending::Stale);
        plan.respond(&done, Source::Stale(origin))
    }

    pub(super) fn follow(&self, plan: &Plan, done: &Done) -> InferenceResponse {
        self.record_free(plan, done, Ending::Follower);
        plan.respond(done, Source::Coalesced)
    }

    /// A record of $0 that says what was saved.
    pub(super) fn record_free(&self, plan: &Plan, done: &Done, ending: Ending) {
        let mut record = plan.record(plan.id.attempt(u16::MAX - 1), &done.route, self.clock.now());
        record.served = Some(done.answer.served.clone());
        record.saved = done.worth;
        record.source = match (ending, done.from_cache) {
            (Ending::Follower, _) => Source::Coalesced,
            (Ending::Stale, origin) => Source::Stale(origin.unwrap_or_default()),
            (_, origin) => Source::Cache(origin.unwrap_or_default()),
        };
        record.ending = ending;
        record.latency = plan.started.elapsed();
        self.totals.add(&record);
        self.recorder.record(record);
    }
}

/// What an entry is to a request: whatever a layer of the application's own thinks of time, ours decides.
fn found_entry(entry: CacheEntry, control: &CacheControl) -> Found {
    let now = Instant::now();
    let age = now.saturating_duration_since(entry.stored);
    let is_too_old = control.max_age.is_some_and(|most| age > most) || !entry.is_kept(now);
    let CacheValue::Inference(answer) = entry.value else { return Found::Nothing };
    if is_too_old {
        return Found::Nothing;
    }
    let past = age.saturating_sub(entry.ttl);
    let hit = Hit { answer, origin: entry.origin, ttl: entry.ttl, past };
    if age < entry.ttl { Found::Fresh(hit) } else { Found::Stale(hit) }
}

/// The answer of an entry that is fresh enough for a request.
#[cfg(feature = "batch")]
pub(super) fn fresh_answer(entry: CacheEntry, control: &CacheControl) -> Option<Arc<Answer>> {
    match found_entry(entry, control) {
        Found::Fresh(hit) => Some(hit.answer),
        _ => None,
    }
}

/// Whether an answer past its time is better than this error: not where the caller must change something.
pub(super) const fn can_stand_in_for(error: ErrorKind) -> bool {
    matches!(
        error,
        ErrorKind::Overloaded
            | ErrorKind::Ejected
            | ErrorKind::DeadlineExceeded
            | ErrorKind::RateLimited
            | ErrorKind::Upstream
            | ErrorKind::UpstreamAuthentication
            | ErrorKind::UpstreamPayment
            | ErrorKind::Interrupted
            | ErrorKind::EmptyAnswer
            | ErrorKind::LeaderFailed
    )
}

/// The application's own word on which requests use the cache, and how.
pub(super) struct CachePolicy(pub(super) Box<Decide>);

type Decide = dyn Fn(&InferenceRequest) -> Option<CacheControl> + Send + Sync;

impl std::fmt::Debug for CachePolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CachePolicy")
    }
}
