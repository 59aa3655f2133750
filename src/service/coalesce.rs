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
    cached::{Found, Hit, can_stand_in_for},
    error::{Error, ErrorKind},
    plan::Plan,
    state::State,
};
use crate::{
    cost::Scope,
    inference::{Bypass, CacheControl, CacheKey, InferenceResponse, Origin, Source},
};

type Led = Result<Arc<Done>, Error>;
type Seat = watch::Receiver<Option<Led>>;

/// How long a leader may take, whatever its first caller's deadline was: its result is paid for.
pub(super) const LEADER_PATIENCE: Duration = Duration::from_secs(120);

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

    /// Nobody joins these calls any more.
    pub(super) fn forget(&self, which: impl Fn(&CacheKey) -> bool) {
        self.lock().retain(|key, _| !which(key));
    }
}

/// What is known once the cache had no answer for a call.
pub(super) struct Missed {
    /// Whether it is worth asking again.
    looks_again: bool,
    /// What may be served where no other answer can be had.
    pub(super) stand_in: Option<Hit>,
    /// It took all the time that the caller had.
    pub(super) late: Option<Error>,
}

/// Frees the slot on every path, a panic of the leader included.
struct Slot {
    state: Arc<State>,
    key: CacheKey,
    seat: Seat,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut slots = self.state.slots.lock();
        if slots.get(&self.key).is_some_and(|held| held.same_channel(&self.seat)) {
            slots.remove(&self.key);
        }
    }
}

/// Whether a leader was refused by a budget that this caller has nothing to do with.
pub(super) fn is_anothers(plan: &Plan, error: &Error) -> bool {
    let Some(over) = error.over_budget() else { return false };
    let mut candidates = plan.ranking.candidates.iter();
    !candidates.any(|candidate| Scope::of(&plan.request, &candidate.route).contains(&over.scope))
}

impl State {
    /// What the cache has for a call. An answer that is only a little past its time is renewed behind it.
    pub(super) async fn read(
        self: &Arc<Self>,
        plan: &Plan,
        key: CacheKey,
        control: CacheControl,
    ) -> Result<InferenceResponse, Missed> {
        let (mut looks_again, mut stand_in) = (true, None);
        match self.look_up(&key, &control, plan.deadline).await {
            Found::Fresh(hit) => {
                let origin = hit.origin;
                return Ok(self.hit(plan, &self.done_from_cache(plan, hit), origin));
            }
            Found::Stale(hit) if hit.is_renewed(&control, plan.asked()) => {
                // Nobody waits for it: whoever comes meanwhile is served the same, or joins. One that keeps nothing
                // renews nothing, or each of its like would pay for the same answer.
                if control.write {
                    let plan = Arc::new(plan.with_patience(LEADER_PATIENCE));
                    drop(self.seat(key, &plan, control, true));
                }
                return Ok(self.stale(plan, hit));
            }
            Found::Stale(hit) => stand_in = Some(hit).filter(|hit| hit.may_stand_in(&control)),
            Found::Nothing => {}
            Found::Broken => looks_again = false,
        }
        let is_late = Instant::now() >= plan.deadline;
        let late = || Error::new(ErrorKind::DeadlineExceeded, "the cache did not answer in time; nothing was sent");
        Err(Missed { looks_again, stand_in, late: is_late.then(|| late().of_plan(plan)) })
    }

    /// A cacheable call: the cache, or a seat at the one call under way.
    pub(super) async fn cached(
        self: &Arc<Self>,
        plan: Plan,
        control: CacheControl,
    ) -> Result<InferenceResponse, Error> {
        let key = self.key(&plan);
        let mut missed = Missed { looks_again: true, stand_in: None, late: None };
        if control.read {
            match self.read(&plan, key, control).await {
                Ok(reply) => return Ok(reply),
                Err(Missed { late: Some(late), .. }) => return Err(late),
                Err(nothing) => missed = nothing,
            }
        }
        // On the heap: a hit, which is what most calls are, should not carry it.
        Box::pin(self.asked(Arc::new(plan), key, control, missed)).await
    }

    /// A call that the cache has no answer to.
    async fn asked(
        self: &Arc<Self>,
        plan: Arc<Plan>,
        key: CacheKey,
        control: CacheControl,
        missed: Missed,
    ) -> Result<InferenceResponse, Error> {
        let answered = match control {
            CacheControl { read: true, write: true, .. } => {
                self.together(&plan, key, control, missed.looks_again).await
            }
            CacheControl { write: true, .. } => self.anew(&plan, key, control).await,
            // It has nothing to give to others.
            _ => self.answer(&plan).await.map(|done| plan.respond(&done, Source::Miss)),
        };
        match (answered, missed.stand_in) {
            (Err(error), Some(hit)) if can_stand_in_for(error.kind()) => {
                tracing::warn!(%error, "answered from the cache, past its time");
                Ok(self.stale(&plan, hit))
            }
            (answered, _) => answered,
        }
    }

    /// Waits with everybody who asks the same.
    async fn together(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        key: CacheKey,
        control: CacheControl,
        looks_again: bool,
    ) -> Result<InferenceResponse, Error> {
        loop {
            let (mut seat, leads) = self.seat(key, plan, control, looks_again);
            // Answered before this caller came, only not yet in the cache: nothing was under way for it to join.
            let kept = !leads && seat.borrow().as_ref().is_some_and(Result::is_ok);
            let led = wait(plan, &mut seat).await?;
            return match led {
                Err(error) if !leads && is_anothers(plan, &error) => {
                    // Lets the refused leader free its slot.
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(error) => Err(if leads { error } else { error.of_joined(plan) }),
                // Found by a leader that takes older answers than this caller does.
                Ok(done) if !leads && done.from_cache.is_some() && control.max_age.is_some() => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(done) => Ok(match done.from_cache {
                    Some(origin) => self.hit(plan, &done, origin),
                    None if kept && plan.is_whole(&done.answer) => self.hit(plan, &done, Origin::Memory),
                    None if leads => plan.respond(&done, Source::Miss),
                    None => self.follow(plan, &done),
                }),
            };
        }
    }

    /// Asks anew, joined by nobody and joining nobody: it must not get what was asked before. Like every call whose answer
    /// is kept it goes on without its caller.
    async fn anew(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        key: CacheKey,
        control: CacheControl,
    ) -> Result<InferenceResponse, Error> {
        let (answer, mut seat) = watch::channel(None);
        let (state, leaders) = (Arc::clone(self), Arc::clone(plan));
        self.tasks.spawn(async move { state.lead((&key, &control), &leaders, Found::Nothing, &answer).await });
        let done = wait(plan, &mut seat).await??;
        Ok(plan.respond(&done, Source::Upstream(Bypass::Asked)))
    }

    /// Joins the call under way, or starts it.
    fn seat(
        self: &Arc<Self>,
        key: CacheKey,
        plan: &Arc<Plan>,
        control: CacheControl,
        looks_again: bool,
    ) -> (Seat, bool) {
        let mut slots = self.slots.lock();
        if let Some(seat) = slots.get(&key) {
            return (seat.clone(), false);
        }
        let (answer, seat) = watch::channel(None);
        slots.insert(key, seat.clone());
        drop(slots);
        let (state, plan) = (Arc::clone(self), Arc::clone(plan));
        let slot = Slot { state: Arc::clone(self), key, seat: seat.clone() };
        self.tasks.spawn(async move {
            // Again, inside the slot: the answer may have come while this caller missed it.
            let by = Instant::now() + LEADER_PATIENCE;
            let found = if looks_again { state.look_up(&key, &control, by).await } else { Found::Broken };
            state.lead((&key, &control), &plan, found, &answer).await;
            // Last: whoever comes in between finds the seat with its answer.
            drop(slot);
        });
        (seat, true)
    }

    async fn lead(
        self: &Arc<Self>,
        (key, control): (&CacheKey, &CacheControl),
        plan: &Plan,
        found: Found,
        followers: &watch::Sender<Option<Led>>,
    ) {
        if let Found::Fresh(hit) = found {
            followers.send_replace(Some(Ok(Arc::new(self.done_from_cache(plan, hit)))));
            return;
        }
        let begun = Instant::now();
        let plan = plan.with_patience(LEADER_PATIENCE);
        // On the heap, so that the task that is spawned for it stays small.
        let led = Box::pin(self.answer(&plan)).await.map(Arc::new);
        followers.send_replace(Some(led.clone()));
        if let Ok(done) = led {
            self.keep_answer(key, &done, (&plan, control), begun.elapsed()).await;
        }
    }
}

/// Waits for what a leader brings, as long as this caller has time.
async fn wait(plan: &Plan, seat: &mut Seat) -> Result<Led, Error> {
    let led = match timeout_at(plan.stays_until.unwrap_or(plan.deadline), seat.wait_for(Option::is_some)).await {
        Ok(led) => led.ok().and_then(|led| led.clone()),
        Err(_) => return Err(too_late(plan)),
    };
    // The sender is gone without a word: the leader panicked, or its runtime ended.
    led.ok_or_else(|| leader_failed().of_plan(plan))
}

pub(super) fn leader_failed() -> Error {
    Error::new(ErrorKind::LeaderFailed, "the call that this one had joined ended without a result")
}

pub(super) fn too_late(plan: &Plan) -> Error {
    let waited = plan.started.elapsed().as_secs_f64();
    Error::new(ErrorKind::DeadlineExceeded, format!("no answer within {waited:.3} s; the call goes on for others"))
        .of_plan(plan)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::{
        InferenceRequest, InferenceService,
        cache::{CacheEntry, CacheError, CacheLayer},
        testing::Together,
    };

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
        assert_eq!(service.complete(ask()).await.unwrap().source, Source::Cache(Origin::Memory));
    }
}
