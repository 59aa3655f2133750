//! Vectors of texts: what is cached is not asked again, the rest goes together, and one model makes them all.
//!
//! Two models' vectors cannot be compared. Requests that name no model therefore all use the service's one embedding
//! model: the builder's, or the router's first choice when the first request came. Where a request names several, the
//! one that answers first makes all its vectors, those of the cache included; should it fail later, the next one starts
//! over. Vectors are cached under the route that made them, and only where the provider says that its model did.
//!
//! `texts` is what a call knows of its texts, `lookup` what it asks of the cache, `seats` how calls at the same time share
//! texts, `asked` what it was billed.

mod asked;
mod lookup;
mod seats;
mod texts;

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

pub(super) use self::seats::TextSlots;
use self::{
    asked::Asked,
    seats::{Brought, Led, Part, Seats, Wish, model_of},
    texts::{Given, Model, Texts, check_lengths},
};
use super::{
    attempts::Done,
    cached::can_stand_in_for,
    coalesce::{is_anothers, leader_failed, too_late},
    error::{Error, ErrorKind, total_cost},
    plan::Plan,
    state::{PATIENCE, State},
};
use crate::{
    client::{EmbeddingInput, TogetherClient},
    cost::Ending,
    inference::{Bypass, CacheControl, CacheKey, InferenceRequest, InferenceResponse, Input, Origin, Source},
    router::{NoRoute, Ranking},
    types::{Cost, ModelId, RouteId, Task, Usage, Usd},
};

/// The most texts of one call; more go in several, one after the other.
const MAX_TEXTS: usize = 256;

/// A call for vectors.
struct Call<'a> {
    plan: &'a Plan,
    input: &'a EmbeddingInput,
    /// How it uses the cache, if it does.
    control: Option<CacheControl>,
    /// What its vectors are cached under, where it reads.
    keys: Vec<CacheKey>,
    /// What it shares texts with others under; none where it does not.
    shares: Option<CacheKey>,
    /// Whether the cache is worth asking again.
    looks_again: bool,
}

impl Call<'_> {
    /// The request for some of its texts.
    fn part(&self, part: &[usize]) -> InferenceRequest {
        self.plan.request.with_texts(part.iter().filter_map(|at| self.input.texts.get(*at)).cloned().collect())
    }
}

impl State {
    /// A request that leaves the embedding model to the service gets the one that all others got.
    pub(super) fn pin_embedding_model(&self, request: &mut InferenceRequest) {
        if let Some(model) = self.embedding_model.get().filter(|_| leaves_model_open(request)) {
            request.pin(model);
        }
    }

    /// The ranking with the routes of one embedding model alone: the service's, from the first call's ranking on. A
    /// rehearsal decides nothing.
    pub(super) fn one_embedding_model(
        &self,
        request: &InferenceRequest,
        mut ranking: Ranking,
        rehearsal: bool,
    ) -> Result<Ranking, Error> {
        let Some(best) = ranking.candidates.first().filter(|_| leaves_model_open(request)) else { return Ok(ranking) };
        let best = best.route.model().clone();
        let model = if rehearsal {
            self.embedding_model.get().unwrap_or(&best)
        } else {
            self.embedding_model.get_or_init(|| best.clone())
        };
        ranking.candidates = ranking.candidates.iter().filter(|one| one.route.model() == model).cloned().collect();
        if ranking.candidates.is_empty() {
            let reason = format!("the service's embedding model {model} cannot serve this request; name another one");
            return Err(NoRoute::new(reason, Vec::new()).into());
        }
        Ok(ranking)
    }

    /// One answer for all texts, by one model. Each part that had to be asked for is kept as soon as it is there.
    pub(super) async fn embedded(self: &Arc<Self>, plan: Plan) -> Result<InferenceResponse, Error> {
        let Input::Embedding(input) = plan.request.input() else {
            return Err(Error::new(ErrorKind::Policy, "not a request for vectors"));
        };
        check_lengths(&plan, input)?;
        let caching = plan.request.caching();
        let bypass = caching.err().or_else(|| caching.is_ok_and(|control| !control.read).then_some(Bypass::Asked));
        let mut texts = Texts::new(input);
        let control = caching.ok();
        let mut call = Call { plan: &plan, input, control, keys: Vec::new(), shares: None, looks_again: true };
        if let (Some(control), None) = (control, bypass) {
            call.keys = self.keys_of_texts(&plan, input);
            let found = self.look_up_many(&call.keys, &control, plan.deadline).await;
            call.looks_again = !found.broken;
            texts.fill(found.vectors, plan.asked().model());
            // One that only reads has nothing to give to others.
            let mut without_texts = call.part(&[]);
            // The call that decided the service's model left it open.
            self.pin_embedding_model(&mut without_texts);
            call.shares = control.write.then(|| self.key_to(&without_texts, plan.asked()));
        }
        let mut asked = Asked::default();
        if let Err(error) = self.ask_all(&mut call, &mut texts, &mut asked).await {
            if !self.stand_in(&call, &mut texts, &error).await {
                return Err(error);
            }
            tracing::warn!(%error, "vectors from the cache, past their time");
            asked.attempts = error.attempts().to_vec();
        }
        self.reply(&call, bypass, texts, asked)
    }

    /// Asks for what is missing, of the next model where one fails. The error has what was paid on it.
    async fn ask_all(self: &Arc<Self>, call: &mut Call<'_>, texts: &mut Texts, asked: &mut Asked) -> Result<(), Error> {
        let mut ranking = call.plan.ranking.clone();
        while let Err(turn) = self.ask_for_missing(call, &ranking, texts, asked).await {
            match turn {
                Turn::Failed(error) => match without_model(&ranking, texts, &error) {
                    Some(rest) => {
                        asked.attempts.extend_from_slice(error.attempts());
                        ranking = rest;
                    }
                    None => return Err(asked.failed(&error)),
                },
                // Once cache and others are out of it, a provider that answers by turns with two models is of no use.
                Turn::OtherModel if texts.is_any_free() => {}
                Turn::OtherModel => return Err(asked.failed(&two_models(call.plan))),
            }
            asked.start_over();
            texts.clear();
            call.shares = None;
        }
        Ok(())
    }

    /// Asks for the texts that have no vector yet: of the model that the others are of, if there are some.
    async fn ask_for_missing(
        self: &Arc<Self>,
        call: &Call<'_>,
        ranking: &Ranking,
        texts: &mut Texts,
        asked: &mut Asked,
    ) -> Result<(), Turn> {
        for part in texts.missing().chunks(MAX_TEXTS) {
            if call.shares.is_some() {
                self.ask_together(call, ranking, part, texts, asked).await?;
                continue;
            }
            let ranking = of_model(ranking, texts.model.as_ref().map(|model| &model.asked));
            let plan = call.plan.part(call.part(part), ranking, (asked.attempted(), asked.spent()));
            let done = Box::pin(self.answer(&plan)).await.map_err(Turn::Failed)?;
            if let Some(control) = &call.control {
                self.keep_vectors(&plan, &done, control, |_| true).await;
            }
            asked.push(done.clone());
            take(call, &Brought::all(done, part.len()), part.iter().copied().zip(0..), Given::Money, texts)?;
        }
        Ok(())
    }

    /// The same for a part, with everybody who wants the same texts.
    async fn ask_together(
        self: &Arc<Self>,
        call: &Call<'_>,
        ranking: &Ranking,
        part: &[usize],
        texts: &mut Texts,
        asked: &mut Asked,
    ) -> Result<(), Turn> {
        let mut left = part.to_vec();
        while !left.is_empty() {
            let mut again = Vec::new();
            let of_model = of_model(ranking, texts.model.as_ref().map(|model| &model.asked));
            let wishes = wishes(call, &left, of_model.candidates.len() < ranking.candidates.len());
            let seats = self.seats(wishes, call.looks_again, |texts| {
                let attempted = asked.attempted();
                Part { plan: call.plan.part(call.part(texts), of_model, (attempted, asked.spent())), attempted }
            });
            for mut seats in seats {
                let brought = match self.wait(call.plan, &mut seats).await {
                    Ok(brought) => brought,
                    Err(error) if !seats.leads && is_anothers(call.plan, &error) => {
                        // Lets the refused leader free its slots.
                        tokio::task::yield_now().await;
                        again.extend(seats.texts.iter().map(|(at, _)| *at));
                        continue;
                    }
                    // What others have paid is on their own bill.
                    Err(error) if !seats.leads => return Err(Turn::Failed(error.with_attempts([]))),
                    Err(error) => return Err(Turn::Failed(error)),
                };
                if seats.leads {
                    brought.done.iter().for_each(|done| asked.push(done.clone()));
                }
                let is_itself = brought.done.as_ref().is_none_or(|done| model_of(done).is_itself());
                let given = match (seats.leads, seats.is_kept && is_itself) {
                    (true, _) => Given::Money,
                    (false, true) => Given::Nothing(Origin::Memory),
                    (false, false) => Given::Patience,
                };
                take(call, &brought, seats.texts.into_iter(), given, texts)?;
            }
            left = again;
        }
        Ok(())
    }

    /// What a leader brings, in this caller's time.
    async fn wait(&self, plan: &Plan, seats: &mut Seats) -> Led {
        let by = plan.stays_until.unwrap_or(plan.deadline);
        match timeout_at(by, seats.led.wait_for(Option::is_some)).await {
            Ok(Ok(led)) => led.clone().unwrap_or_else(|| Err(leader_failed().of_plan(plan))),
            // The sender is gone without a word: the leader panicked, or its runtime ended.
            Ok(Err(_)) => Err(leader_failed().of_plan(plan)),
            Err(_) => Err(too_late(plan)),
        }
    }

    /// Whether vectors past their time can take the place of all that are missing: those of a text do not change, and are
    /// as good as ever.
    async fn stand_in(self: &Arc<Self>, call: &Call<'_>, texts: &mut Texts, error: &Error) -> bool {
        let Some(control) = call.control.filter(|control| control.read && !control.stale_if_error.is_zero()) else {
            return false;
        };
        let asked = Model::itself(call.plan.asked().model());
        if !can_stand_in_for(error.kind()) || !texts.is_of(&asked) {
            return false;
        }
        let missing = texts.missing();
        let keys: Vec<_> = missing.iter().filter_map(|at| call.keys.get(*at)).copied().collect();
        let by = call.plan.deadline.max(Instant::now() + PATIENCE);
        let found = self.look_up_old(&keys, &control, by).await.vectors;
        for (at, found) in missing.iter().zip(found) {
            if let Some((vector, origin)) = found {
                texts.take(*at, &vector, Given::Age(origin));
            }
        }
        texts.missing().is_empty()
    }

    /// What the caller gets, and the record of what it got for nothing.
    fn reply(
        self: &Arc<Self>,
        call: &Call<'_>,
        bypass: Option<Bypass>,
        texts: Texts,
        asked: Asked,
    ) -> Result<InferenceResponse, Error> {
        let old = texts.origin(|given| if let Given::Age(origin) = given { Some(origin) } else { None });
        let found = texts.origin(|given| if let Given::Nothing(origin) = given { Some(origin) } else { None });
        let joined = texts.given.contains(&Given::Patience);
        let source = match (bypass, old, asked.is_empty()) {
            (Some(bypass), ..) => Source::Upstream(bypass),
            (None, Some(origin), _) => Source::Stale(origin),
            (None, None, false) => Source::Miss,
            (None, None, true) if joined => Source::Coalesced,
            (None, None, true) => Source::Cache(found.unwrap_or_default()),
        };
        let ending = match (old, found) {
            (Some(_), _) => Ending::Stale,
            (None, Some(_)) => Ending::Hit,
            (None, None) => Ending::Follower,
        };
        let saved = self.worth(call, &texts);
        let paid = total_cost(&asked.attempts);
        let done = asked.into_done(call.plan, texts.into_vectors()?);
        let done = Done { worth: saved.unwrap_or(done.worth), ..done };
        if saved.is_some() {
            self.record_free(call.plan, &done, ending);
        }
        let mut reply = call.plan.respond(&done, source);
        reply.saved = saved.unwrap_or(Cost::Known(Usd::ZERO));
        // Old ones may have stood in for a part alone.
        (reply.cost, reply.attempts) = (paid, done.attempts);
        Ok(reply)
    }

    /// What the vectors of a call are cached under.
    pub(super) fn keys_of_texts(&self, plan: &Plan, input: &EmbeddingInput) -> Vec<CacheKey> {
        self.keys_by(plan, input, plan.asked())
    }

    /// What the vectors are cached under that this route makes.
    pub(super) fn keys_by(&self, plan: &Plan, input: &EmbeddingInput, route: &RouteId) -> Vec<CacheKey> {
        let owner = plan.request.cache_owner();
        let host = self.client(route).map_or("", TogetherClient::base);
        input.texts.iter().map(|text| CacheKey::embedding(text, &input.extra, owner, (route, host))).collect()
    }

    /// What the texts would have cost that were free; `None` if none was.
    fn worth(self: &Arc<Self>, call: &Call<'_>, texts: &Texts) -> Option<Cost> {
        let model = call.plan.asked().model();
        let count = |text: &String| self.counter.text(model, text);
        let free = call.input.texts.iter().zip(&texts.given).filter(|(_, given)| **given != Given::Money);
        let prompt = free.map(|(text, _)| count(text)).sum();
        let stamp = call.plan.ranking.candidates.first().and_then(|candidate| self.price(candidate));
        let usage = Usage { prompt, ..Usage::default() };
        let worth = stamp.map_or(Cost::Unpriced, |stamp| Cost::Known(stamp.price.cost(&usage)));
        texts.is_any_free().then_some(worth)
    }
}

/// Gives the texts their vectors, where those can stand beside the others.
fn take(
    call: &Call<'_>,
    brought: &Brought,
    places: impl Iterator<Item = (usize, usize)>,
    asked: Given,
    texts: &mut Texts,
) -> Result<(), Turn> {
    let vectors: Vec<_> = brought.vectors(asked).collect();
    for (at, place) in places {
        if let Some((vector, given)) = vectors.get(place).copied().flatten() {
            texts.take(at, vector, given);
        }
    }
    // After they were taken: whoever starts over must know that some were free.
    let one_model = brought.models(call.plan.asked()).all(|model| texts.is_of(&model));
    if one_model { Ok(()) } else { Err(Turn::OtherModel) }
}

/// These texts as the call wants them.
fn wishes(call: &Call<'_>, texts: &[usize], narrowed: bool) -> Vec<(usize, Wish)> {
    let (Some(shares), Some(control)) = (call.shares, call.control) else { return Vec::new() };
    let wish = |at: &usize| Some((*at, Wish { text: *call.keys.get(*at)?, call: shares, narrowed, control }));
    texts.iter().filter_map(wish).collect()
}

fn leaves_model_open(request: &InferenceRequest) -> bool {
    request.task_of() == Task::Embedding && request.selection().is_any()
}

/// The candidates of one model alone.
fn of_model(ranking: &Ranking, model: Option<&ModelId>) -> Ranking {
    let Some(model) = model else { return ranking.clone() };
    let candidates: Vec<_> = ranking.candidates.iter().filter(|one| one.route.model() == model).cloned().collect();
    Ranking::new(candidates, Arc::clone(&ranking.decision))
}

/// The candidates of the other models, where the one that all parts were to be of failed in a way that another may not.
fn without_model(ranking: &Ranking, texts: &Texts, error: &Error) -> Option<Ranking> {
    let model = &texts.model.as_ref()?.asked;
    if !error.is_retryable() && error.kind() != ErrorKind::NoRoute || error.kind() == ErrorKind::DeadlineExceeded {
        return None;
    }
    let rest: Vec<_> = ranking.candidates.iter().filter(|one| one.route.model() != model).cloned().collect();
    (!rest.is_empty()).then(|| Ranking::new(rest, Arc::clone(&ranking.decision)))
}

fn two_models(plan: &Plan) -> Error {
    let message = format!("{} was answered by several models, whose vectors cannot be compared", plan.asked());
    Error::new(ErrorKind::Upstream, message)
}

/// Why not all texts have a vector.
enum Turn {
    Failed(Error),
    /// A part was answered by another model than those before it.
    OtherModel,
}
