//! Vectors of texts: what is cached is not asked again, the rest goes together, and one model makes them all.
//!
//! Two models' vectors cannot be compared. Requests that name no model therefore all use the service's one embedding
//! model: the builder's, or the router's first choice when the first request came. Where a request names several, the
//! one that answers first makes all its vectors, those of the cache included; should it fail later, the next one starts
//! over. Vectors are cached under the route that made them, and only where the provider says that its model did.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    attempts::Done,
    error::{Error, ErrorKind, total_cost},
    layer::ask,
    plan::{Plan, no_attempts, no_warnings},
    state::{PATIENCE, State},
};
use crate::{
    cache::{CacheEntry, CacheValue},
    client::{EmbeddingInput, TogetherClient},
    cost::Ending,
    inference::{
        Answer, Attempt, Bypass, CacheControl, CacheKey, InferenceRequest, InferenceResponse, Input, InvalidRequest,
        Kind, Origin, Output, Source,
    },
    router::{NoRoute, Ranking},
    types::{Cost, ModelId, RouteId, Task, Usage, UsageSource, Usd},
};

/// The most texts of one call; more go in several, one after the other.
const MAX_TEXTS: usize = 256;
/// More bytes than these a token has no natural language on average: a text that is too long even so surely is.
const MOST_BYTES_PER_TOKEN: usize = 8;

type Vector = Arc<[f32]>;

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
        if let (Ok(control), None) = (caching, bypass) {
            let keys = self.keys_of_texts(&plan, input, plan.asked());
            texts.fill(self.look_up_many(&keys, control.max_age, plan.deadline).await, plan.asked().model());
        }
        let mut asked = Asked::default();
        let mut ranking = plan.ranking.clone();
        while let Err(turn) = self.ask_for_missing(&plan, &ranking, input, &mut texts, &mut asked).await {
            asked.start_over();
            match turn {
                Turn::Failed(error) => match without_model(&ranking, &texts, &error) {
                    Some(rest) => {
                        asked.attempts.extend_from_slice(error.attempts());
                        ranking = rest;
                    }
                    None => return Err(asked.failed(&error)),
                },
                // Once the cache is out of it, a provider that answers by turns with two models is of no use.
                Turn::OtherModel if texts.cached.contains(&true) => {}
                Turn::OtherModel => return Err(asked.failed(&two_models(&plan))),
            }
            texts.clear();
        }
        let source = match (bypass, asked.is_empty()) {
            (Some(bypass), _) => Source::Upstream(bypass),
            (None, true) => Source::Cache(texts.origin),
            (None, false) => Source::Miss,
        };
        let saved = self.worth(&plan, input, &texts.cached);
        let done = asked.into_done(&plan, texts.into_vectors()?);
        let done = Done { worth: saved.unwrap_or(done.worth), ..done };
        if saved.is_some() {
            self.record_free(&plan, &done, Ending::Hit);
        }
        let mut reply = plan.respond(&done, source);
        reply.saved = saved.unwrap_or(Cost::Known(Usd::ZERO));
        Ok(reply)
    }

    /// Asks for the texts that have no vector yet: of the model that the others are of, if there are some.
    async fn ask_for_missing(
        self: &Arc<Self>,
        plan: &Plan,
        ranking: &Ranking,
        input: &EmbeddingInput,
        texts: &mut Texts,
        asked: &mut Asked,
    ) -> Result<(), Turn> {
        for part in texts.missing().chunks(MAX_TEXTS) {
            let request = plan.request.with_texts(part.iter().filter_map(|at| input.texts.get(*at)).cloned().collect());
            let ranking = of_model(ranking, texts.model.as_ref().map(|model| &model.asked));
            let part_plan = plan.part(request, ranking, asked.attempted());
            let done = Box::pin(self.answer(&part_plan)).await.map_err(Turn::Failed)?;
            let (route, answer) = (done.route.clone(), Arc::clone(&done.answer));
            asked.push(done);
            let model = Model { asked: route.model().clone(), served: answer.served.clone() };
            if texts.model.as_ref().is_some_and(|other| *other != model) {
                return Err(Turn::OtherModel);
            }
            // Under the name of another model nobody may find them.
            let caching = plan.request.caching().ok().filter(|control| control.write && model.asked == model.served);
            texts.take(part, answer.vectors(), model);
            if let Some(control) = caching {
                let keys = self.keys_of_texts(plan, input, &route);
                self.keep_many_unless_invalidated(plan.moment, texts.entries(part, &keys, &control)).await;
            }
        }
        Ok(())
    }

    /// What the vectors of a call are cached under that this route made.
    pub(super) fn keys_of_texts(&self, plan: &Plan, input: &EmbeddingInput, route: &RouteId) -> Vec<CacheKey> {
        let (owner, host) = (plan.request.cache_owner(), self.client(route).map_or("", TogetherClient::base));
        input.texts.iter().map(|text| CacheKey::embedding(text, &input.extra, owner, (route, host))).collect()
    }

    /// What the cached texts would have cost; `None` if none was.
    fn worth(&self, plan: &Plan, input: &EmbeddingInput, cached: &[bool]) -> Option<Cost> {
        let tokens = |(text, cached): (&String, &bool)| if *cached { (text.len() as u64).div_ceil(4) } else { 0 };
        let prompt = input.texts.iter().zip(cached).map(tokens).sum();
        let stamp = plan.ranking.candidates.first().and_then(|candidate| self.price(candidate));
        let usage = Usage { prompt, ..Usage::default() };
        let worth = stamp.map_or(Cost::Unpriced, |stamp| Cost::Known(stamp.price.cost(&usage)));
        cached.contains(&true).then_some(worth)
    }

    /// The vectors that the cache has. Whatever goes wrong is a miss.
    async fn look_up_many(
        &self,
        keys: &[CacheKey],
        max_age: Option<Duration>,
        by: Instant,
    ) -> Vec<Option<(Vector, Origin)>> {
        let longest = PATIENCE.min(by.saturating_duration_since(Instant::now()));
        let found = ask(longest, async { self.cache.get_many(keys).await }).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cache look-up failed, going on without");
            Vec::new()
        });
        let now = Instant::now();
        let is_young = |entry: &CacheEntry| max_age.is_none_or(|most| now.duration_since(entry.stored) <= most);
        let vector = |entry: CacheEntry| match entry.value {
            CacheValue::Embedding(ref vector) if entry.is_fresh(now) && is_young(&entry) => {
                Some((Arc::clone(vector), entry.origin))
            }
            _ => None,
        };
        found.into_iter().map(|entry| entry.and_then(vector)).collect()
    }
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

/// A model by our name and by the provider's.
#[derive(Debug, PartialEq)]
struct Model {
    asked: ModelId,
    served: ModelId,
}

/// Refuses a text that cannot fit, by its number: the provider's own refusal does not say which.
fn check_lengths(plan: &Plan, input: &EmbeddingInput) -> Result<(), Error> {
    let limits = plan.ranking.candidates.iter().map(|candidate| candidate.context);
    // A candidate whose limit is not known may take any text.
    let Some(limit) = limits.collect::<Option<Vec<_>>>().and_then(|limits| limits.into_iter().max()) else {
        return Ok(());
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let at = input.texts.iter().position(|text| text.len() / MOST_BYTES_PER_TOKEN > limit);
    at.map_or(Ok(()), |at| {
        let problem = format!("text {at} is too long: {} takes {limit} tokens a text; split it", plan.asked().model());
        Err(InvalidRequest::new("input", problem).into())
    })
}

/// The texts of a call with what is known of each.
struct Texts {
    vectors: Vec<Option<Vector>>,
    cached: Vec<bool>,
    /// For each text, the first one that says the same.
    first: Vec<usize>,
    /// What all vectors so far are of.
    model: Option<Model>,
    /// Where those of the cache were.
    origin: Origin,
}

impl Texts {
    fn new(input: &EmbeddingInput) -> Self {
        let mut seen = HashMap::with_capacity(input.texts.len());
        let first = input.texts.iter().enumerate().map(|(at, text)| *seen.entry(text.as_str()).or_insert(at));
        let first = first.collect();
        let count = input.texts.len();
        Self { vectors: vec![None; count], cached: vec![false; count], first, model: None, origin: Origin::default() }
    }

    /// Takes what the cache had of this model. A layer that answers fewer has nothing of the rest.
    fn fill(&mut self, found: Vec<Option<(Vector, Origin)>>, model: &ModelId) {
        for ((vector, cached), found) in self.vectors.iter_mut().zip(&mut self.cached).zip(found) {
            *cached = found.is_some();
            if let Some((found, origin)) = found {
                (*vector, self.origin) = (Some(found), origin);
            }
        }
        // Nothing is cached that another model answered.
        let cached = self.cached.contains(&true);
        self.model = cached.then(|| Model { asked: model.clone(), served: model.clone() });
    }

    /// Forgets all vectors: another model is to make them.
    fn clear(&mut self) {
        self.vectors.fill(None);
        self.cached.fill(false);
        self.model = None;
    }

    /// The texts to ask for, each once.
    fn missing(&self) -> Vec<usize> {
        let texts = self.vectors.iter().zip(&self.first).enumerate();
        texts.filter(|(at, (vector, first))| vector.is_none() && at == *first).map(|(at, _)| at).collect()
    }

    fn take(&mut self, part: &[usize], vectors: &[Vector], model: Model) {
        self.model = Some(model);
        for (at, vector) in part.iter().zip(vectors) {
            if let Some(place) = self.vectors.get_mut(*at) {
                *place = Some(Arc::clone(vector));
            }
        }
    }

    fn entries(&self, part: &[usize], keys: &[CacheKey], control: &CacheControl) -> Vec<(CacheKey, CacheEntry)> {
        let ttl = control.ttl.unwrap_or(Kind::Embedding.ttl());
        let entry = |at: &usize| {
            let vector = self.vectors.get(*at)?.clone()?;
            Some((*keys.get(*at)?, CacheEntry::new(CacheValue::Embedding(vector), ttl)))
        };
        part.iter().filter_map(entry).collect()
    }

    /// Every text's vector, that of its first like where it was not asked for.
    fn into_vectors(self) -> Result<Vec<Vector>, Error> {
        let of = |(own, first): (&Option<Vector>, &usize)| own.clone().or_else(|| self.vectors.get(*first)?.clone());
        let all: Option<Vec<_>> = self.vectors.iter().zip(&self.first).map(of).collect();
        all.ok_or_else(|| Error::new(ErrorKind::Upstream, "the provider answered fewer vectors than texts"))
    }
}

/// What was asked for and brought.
#[derive(Default)]
struct Asked {
    parts: Vec<Done>,
    attempts: Vec<Attempt>,
    /// Parts that were asked for, also those of a model that failed later.
    count: usize,
}

impl Asked {
    const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn attempted(&self) -> u16 {
        // An admission that was passed over takes a number as well: three a part and one for each candidate.
        u16::try_from(self.count * 16).unwrap_or(u16::MAX)
    }

    fn push(&mut self, done: Done) {
        self.attempts.extend_from_slice(&done.attempts);
        self.parts.push(done);
        self.count += 1;
    }

    /// What was brought is of no use, and was paid for all the same.
    fn start_over(&mut self) {
        self.parts.clear();
        // The part that failed took numbers too.
        self.count += 1;
    }

    /// The error of a part, with what the parts before it cost.
    fn failed(mut self, error: &Error) -> Error {
        self.attempts.extend_from_slice(error.attempts());
        error.clone().with_attempts(self.attempts)
    }

    fn into_done(self, plan: &Plan, vectors: Vec<Vector>) -> Done {
        let sum =
            |of: fn(&Usage) -> u64| self.parts.iter().map(|done| of(&done.answer.usage)).fold(0, u64::saturating_add);
        let usage = Usage { prompt: sum(|usage| usage.prompt), cached: sum(|usage| usage.cached), ..Usage::default() };
        let reported = self.parts.iter().all(|done| done.usage_source == UsageSource::Reported);
        let last = self.parts.last();
        let served = last.map_or_else(|| plan.asked().model().clone(), |done| done.answer.served.clone());
        let answer = Answer {
            output: Arc::new(Output::Embedding(vectors)),
            served,
            usage,
            usage_reported: reported && last.is_some(),
            // One part's JSON is not the answer's.
            raw: last.filter(|_| self.parts.len() == 1).map(|done| done.answer.raw.clone()).unwrap_or_default(),
        };
        Done {
            answer: Arc::new(answer),
            route: last.map_or_else(|| plan.asked().clone(), |done| done.route.clone()),
            cost: total_cost(&self.attempts),
            worth: total_cost(&self.attempts),
            usage_source: match (last, reported) {
                (None, _) => UsageSource::None,
                (Some(_), true) => UsageSource::Reported,
                (Some(_), false) => UsageSource::Counted,
            },
            request_id: last.and_then(|done| done.request_id.clone()),
            warnings: last.map_or_else(no_warnings, |done| Arc::clone(&done.warnings)),
            from_cache: last.is_none().then_some(Origin::default()),
            attempts: if self.attempts.is_empty() { no_attempts() } else { self.attempts.into() },
        }
    }
}
