//! Identical requests in flight share one upstream call.
//!
//! The first one becomes the leader: a task of the service, not of its caller, so that a caller that goes away takes
//! nothing from the others. All callers, the first included, wait on its slot.
//!
//! A newcomer that missed in the cache may arrive just after the leader filled the cache and freed its slot. The new
//! leader therefore looks the answer up **again inside its slot**; without that, such newcomers pay a second time. The
//! order at the end matters as well: followers are answered, the cache is written, and only then is the slot free.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    attempts::Done,
    error::{Error, ErrorKind},
    plan::{Plan, no_attempts, no_warnings},
    state::{Found, State},
};
use crate::{
    cache::{CacheEntry, CacheValue},
    cost::{Ending, Scope},
    inference::{Answer, CacheKey, InferenceResponse, Kind, Source},
    router::Candidate,
    types::{Cost, UsageSource},
};

type Led = Result<Arc<Done>, Error>;
type Seat = watch::Receiver<Option<Led>>;

/// How long a leader may take, whatever its first caller's deadline was: its result is paid for.
const LEADER_PATIENCE: Duration = Duration::from_secs(120);
/// How long a fallback's answer is kept under the question to the first choice.
const FALLBACK_TTL: Duration = Duration::from_secs(60);

/// The calls under way, by key.
#[derive(Debug, Default)]
pub(super) struct Slots(Mutex<HashMap<CacheKey, Seat>>);

impl Slots {
    fn lock(&self) -> MutexGuard<'_, HashMap<CacheKey, Seat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Waits until whoever works for this key has left its slot.
    #[cfg(feature = "schema")]
    pub(super) async fn free(&self, key: &CacheKey) {
        let seat = self.lock().get(key).cloned();
        if let Some(mut seat) = seat {
            while seat.changed().await.is_ok() {}
        }
    }
}

/// Frees the slot on every path, a panic of the leader included.
struct Slot {
    state: Arc<State>,
    key: CacheKey,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.state.slots.lock().remove(&self.key);
    }
}

/// Whether a leader was refused by a budget that this caller has nothing to do with.
fn is_anothers(plan: &Plan, error: &Error) -> bool {
    let Some(over) = error.over_budget() else { return false };
    let mut candidates = plan.ranking.candidates.iter();
    !candidates.any(|candidate| Scope::of(&plan.request, &candidate.route).contains(&over.scope))
}

impl State {
    /// A cacheable call: the cache, or a seat at the one call under way.
    pub(super) async fn cached(self: &Arc<Self>, plan: Plan) -> Result<InferenceResponse, Error> {
        let key = self.key(&plan);
        let looks_again = match self.look_up(&key, plan.deadline).await {
            Found::Answer(answer) => return Ok(self.hit(&plan, &self.done_from_cache(&plan, answer))),
            Found::Nothing => true,
            Found::Broken => false,
        };
        if Instant::now() >= plan.deadline {
            return Err(Error::new(ErrorKind::DeadlineExceeded, "the cache did not answer in time; nothing was sent")
                .of_plan(&plan));
        }
        let plan = Arc::new(plan);
        loop {
            let (mut seat, leads) = self.seat(key, &plan, looks_again);
            // Answered before this caller came, only not yet in the cache: nothing was under way for it to join.
            let kept = !leads && seat.borrow().as_ref().is_some_and(Result::is_ok);
            let led = match timeout_at(plan.stays_until.unwrap_or(plan.deadline), seat.wait_for(Option::is_some)).await
            {
                Ok(Ok(led)) => led.clone(),
                // The sender is gone without a word: the leader panicked, or its runtime ended.
                Ok(Err(_)) => None,
                Err(_) => return Err(too_late(&plan)),
            };
            return match led {
                None => {
                    Err(Error::new(ErrorKind::LeaderFailed, "the call that this one had joined ended without a result"))
                }
                Some(Err(error)) if !leads && is_anothers(&plan, &error) => {
                    // Lets the refused leader free its slot.
                    tokio::task::yield_now().await;
                    continue;
                }
                Some(Err(error)) => Err(error),
                Some(Ok(done)) if done.from_cache || (kept && done.answer.is_complete()) => Ok(self.hit(&plan, &done)),
                Some(Ok(done)) if leads => Ok(plan.respond(&done, Source::Miss)),
                Some(Ok(done)) => Ok(self.follow(&plan, &done)),
            };
        }
    }

    /// Joins the call under way, or starts it.
    fn seat(self: &Arc<Self>, key: CacheKey, plan: &Arc<Plan>, looks_again: bool) -> (Seat, bool) {
        let mut slots = self.slots.lock();
        if let Some(seat) = slots.get(&key) {
            return (seat.clone(), false);
        }
        let (answer, seat) = watch::channel(None);
        slots.insert(key, seat.clone());
        drop(slots);
        let (state, plan) = (Arc::clone(self), Arc::clone(plan));
        let slot = Slot { state: Arc::clone(self), key };
        self.tasks.spawn(async move {
            // Again, inside the slot: the answer may have come while this caller missed it.
            let found =
                if looks_again { state.look_up(&key, Instant::now() + LEADER_PATIENCE).await } else { Found::Broken };
            state.lead(&key, &plan, found, &answer).await;
            // Last: whoever comes in between finds the seat with its answer.
            drop(slot);
        });
        (seat, true)
    }

    async fn lead(self: &Arc<Self>, key: &CacheKey, plan: &Plan, found: Found, followers: &watch::Sender<Option<Led>>) {
        if let Found::Answer(answer) = found {
            followers.send_replace(Some(Ok(Arc::new(self.done_from_cache(plan, answer)))));
            return;
        }
        let begun = Instant::now();
        let plan = plan.with_patience(LEADER_PATIENCE);
        // On the heap, so that the task that is spawned for it stays small.
        let led = Box::pin(self.answer(&plan)).await.map(Arc::new);
        followers.send_replace(Some(led.clone()));
        if let Ok(done) = led
            && done.answer.is_complete()
        {
            let ttl = if done.route == *plan.asked() { Kind::Inference.ttl() } else { FALLBACK_TTL };
            let value = CacheValue::Inference(Arc::clone(&done.answer));
            self.keep(key, CacheEntry::new(value, ttl).delta(begun.elapsed())).await;
        }
    }

    /// What a cached answer is worth: what its tokens would cost now.
    fn done_from_cache(&self, plan: &Plan, answer: Arc<Answer>) -> Done {
        // A fallback's answer is kept under the question to the first choice: find who gave it.
        let served = |candidate: &&Candidate| *candidate.route.model() == answer.served;
        let candidates = &plan.ranking.candidates;
        let from = candidates.iter().find(served).or_else(|| candidates.first());
        let price = from.and_then(|candidate| self.price(candidate));
        let worth = price.map_or(Cost::Unpriced, |stamp| Cost::Known(stamp.price.cost(&answer.usage)));
        Done {
            route: from.map_or_else(|| plan.asked().clone(), |candidate| candidate.route.clone()),
            cost: Cost::Known(crate::types::Usd::ZERO),
            worth,
            usage_source: UsageSource::None,
            attempts: no_attempts(),
            request_id: None,
            warnings: no_warnings(),
            from_cache: true,
            answer,
        }
    }

    fn hit(&self, plan: &Plan, done: &Done) -> InferenceResponse {
        self.record_free(plan, done, Ending::Hit);
        plan.respond(done, Source::Cache)
    }

    fn follow(&self, plan: &Plan, done: &Done) -> InferenceResponse {
        self.record_free(plan, done, Ending::Follower);
        plan.respond(done, Source::Coalesced)
    }

    /// A record of $0 that says what was saved.
    pub(super) fn record_free(&self, plan: &Plan, done: &Done, ending: Ending) {
        let mut record = plan.record(plan.id.attempt(u16::MAX - 1), &done.route, self.clock.now());
        record.served = Some(done.answer.served.clone());
        record.saved = done.worth;
        record.ending = ending;
        record.latency = plan.started.elapsed();
        self.totals.add(&record);
        self.recorder.offer(record);
    }
}

fn too_late(plan: &Plan) -> Error {
    let waited = plan.started.elapsed().as_secs_f64();
    Error::new(ErrorKind::DeadlineExceeded, format!("no answer within {waited:.3} s; the call goes on for others"))
        .of_plan(plan)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::{InferenceRequest, InferenceService, cache::CacheError, cache::CacheLayer, testing::Together};

    /// A cache that never ends to write.
    #[derive(Debug)]
    struct Stuck;

    #[async_trait]
    impl CacheLayer for Stuck {
        async fn get(&self, _: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
            Ok(None)
        }

        async fn set(&self, _: &CacheKey, _: CacheEntry) -> Result<(), CacheError> {
            std::future::pending().await
        }

        async fn remove(&self, _: &CacheKey) -> Result<(), CacheError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_on_its_way_into_the_cache_is_a_hit_and_not_a_call_under_way() {
        let service = InferenceService::builder(Together::new().client()).cache(Stuck).build().unwrap();
        let ask = || InferenceRequest::chat("hello").temperature(0.0);
        let (first, second) = tokio::join!(service.complete(ask()), service.complete(ask()));
        assert_eq!([first.unwrap().source, second.unwrap().source], [Source::Miss, Source::Coalesced]);
        assert_eq!(service.complete(ask()).await.unwrap().source, Source::Cache);
    }
}
