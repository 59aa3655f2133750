//! What a call is to do, fixed before anything is sent.

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{
    counter::Counter,
    error::{Call, Error, ErrorKind},
    invalidations::Moment,
    prompt::by,
    state::State,
};
use crate::{
    client::{self, CallOptions, TogetherClient},
    cost::{CostRecord, PriceBook, PriceStamp},
    inference::{
        Answer, Attempt, CacheKey, Decision, InferenceRequest, InferenceResponse, Input, JsonNeed, Needs, Rejection,
        Source, Timings, leaked_tool_markup,
    },
    router::{Ability, Candidate, Expectation, Health, NoRoute, Prices, Ranking, RouteAsk},
    types::{AttemptId, Cost, Price, RequestId, RouteId, Usage, Usd, later},
};

/// A valid request with its ranking. Owned, so that a detached leader can hold it.
#[derive(Debug)]
pub(super) struct Plan {
    /// Shared by a caller and the leader that works for it.
    pub(super) request: Arc<InferenceRequest>,
    pub(super) id: RequestId,
    pub(super) ranking: Ranking,
    pub(super) started: Instant,
    /// The wall time of it.
    pub(super) at: SystemTime,
    pub(super) deadline: Instant,
    pub(super) prompt_tokens_at_most: u64,
    pub(super) needs: Needs,
    pub(super) default_max_tokens: u32,
    /// Whether the first piece of an answer will do.
    pub(super) streams: bool,
    /// Until when it waits for a call that it shares, where that is not its deadline.
    pub(super) stays_until: Option<Instant>,
    /// Attempts of parts of the call that went before: each part numbers its own from here.
    attempted: u16,
    /// What those may have cost.
    pub(super) spent: Usd,
    /// When it was made, as the cache's invalidations count.
    pub(super) moment: Moment,
}

impl State {
    /// Validates and ranks.
    pub(super) async fn plan(&self, request: Arc<InferenceRequest>) -> Result<Plan, Error> {
        self.plan_for(request, false).await
    }

    /// The same; of a rehearsal nothing comes.
    pub(super) async fn plan_for(&self, mut request: Arc<InferenceRequest>, rehearsal: bool) -> Result<Plan, Error> {
        request.validate()?;
        self.prepare(Arc::make_mut(&mut request));
        let health = self.health_for(&request).await;
        let book = Book(&self.prices);
        let ask = RouteAsk::new(&request).with_prices(&book).with_health(health);
        let ask = if rehearsal { ask.rehearsed() } else { ask };
        let started = ask.now;
        let deadline = later(started, request.deadline_of());
        let (prompt_tokens_at_most, needs) = (ask.prompt_tokens_at_most, ask.needs);
        let ranked = by(deadline, AssertUnwindSafe(self.router.rank(&ask)).catch_unwind());
        let ranking = match self.unless_stopped(pin!(async { Ok(ranked.await) })).await? {
            Some(Ok(ranking)) => {
                ranking.map_err(|nobody| self.unranked(&request, (prompt_tokens_at_most, needs), nobody))?
            }
            Some(Err(_)) => return Err(Error::new(ErrorKind::Policy, "the router panicked")),
            None => return Err(Error::new(ErrorKind::DeadlineExceeded, "the router did not answer in time")),
        };
        let ranking = self.one_embedding_model(&request, self.reachable(ranking)?, rehearsal)?;
        let (id, default_max_tokens, moment) = (self.request_id(), self.default_max_tokens, self.invalidations.now());
        let attempted = 0;
        Ok(Plan {
            request,
            id,
            ranking,
            started,
            at: self.clock.now(),
            deadline,
            prompt_tokens_at_most,
            needs,
            default_max_tokens,
            streams: false,
            stays_until: None,
            attempted,
            spent: Usd::ZERO,
            moment,
        })
    }

    /// Makes of a valid request what is sent.
    pub(super) fn prepare(&self, request: &mut InferenceRequest) {
        self.fill(request);
        if self.budgets.are_hard() {
            request.bound_answer(self.default_max_tokens);
        }
        self.pin_embedding_model(request);
    }

    /// Says of a request what it leaves to the service.
    pub(super) fn fill(&self, request: &mut InferenceRequest) {
        request.set_defaults();
        request.set_caching(|request| self.caching_of(request));
    }

    /// How the service stands for a request, as far as the router can make something of it.
    async fn health_for(&self, request: &InferenceRequest) -> Health {
        if !self.router_weighs_budgets {
            return Health::default();
        }
        self.budget_left(request).await.map_or_else(Health::default, |left| Health::default().budget_left(left))
    }

    fn request_id(&self) -> RequestId {
        RequestId::new(self.rng.next_u128() >> 16)
    }

    /// The error of a request that no route serves: with a trace of its own, for it came to a decision too.
    fn unranked(&self, request: &InferenceRequest, (prompt_tokens, needs): (u64, Needs), nobody: NoRoute) -> Error {
        let (task, priority, tier) = (request.task_of(), request.priority_of(), request.tier_of());
        let mut decision = Decision::new("none", task, priority, tier, nobody.reason.clone());
        (decision.needs, decision.rejected) = (needs, nobody.rejected.clone());
        let (id, at, decision) = (self.request_id(), self.clock.now(), Arc::new(decision));
        Error::from_no_route(nobody, request.max_cost_of()).of_call(Call { id, at, prompt_tokens, decision })
    }

    /// The ranking without candidates on upstreams that the service has not.
    fn reachable(&self, mut ranking: Ranking) -> Result<Ranking, Error> {
        let known = |candidate: &Candidate| self.client(&candidate.route).is_some();
        if ranking.candidates.is_empty() {
            return Err(Error::new(ErrorKind::Policy, "the router answered an empty ranking"));
        }
        if ranking.candidates.iter().all(known) {
            return Ok(ranking);
        }
        let (reachable, rest): (Vec<_>, Vec<_>) = ranking.candidates.iter().cloned().partition(known);
        if reachable.is_empty() {
            let upstream = rest.first().map_or("", |candidate| candidate.route.upstream().as_str());
            let reason =
                format!("there is no upstream {upstream:?}; add .upstream({upstream:?}, client) to the builder");
            let rejected =
                rest.into_iter().map(|candidate| (candidate.route, Rejection::Other("no such upstream".into())));
            return Err(NoRoute::new(reason, rejected.collect()).into());
        }
        ranking.candidates = reachable.into();
        Ok(ranking)
    }

    /// What the answer of a plan is cached under: the question to the route that was chosen first.
    pub(super) fn key(&self, plan: &Plan) -> CacheKey {
        self.key_to(&plan.request, plan.asked())
    }

    /// The key of a request whose first choice is this route.
    pub(super) fn key_to(&self, request: &InferenceRequest, route: &RouteId) -> CacheKey {
        CacheKey::inference(request, route, self.client(route).map_or("", TogetherClient::base))
    }
}

impl Plan {
    /// The route that was chosen first; one on trial is not.
    pub(super) fn asked(&self) -> &RouteId {
        static NONE: LazyLock<RouteId> = LazyLock::new(|| RouteId::new("", ""));
        self.ranking.candidates.iter().find(|candidate| !candidate.trial).map_or(&NONE, |candidate| &candidate.route)
    }

    /// The same call with more time: a leader works for whoever joins, not for its first caller alone.
    pub(super) fn with_patience(&self, patience: Duration) -> Self {
        let deadline = self.deadline.max(Instant::now() + patience);
        Self { request: Arc::clone(&self.request), ranking: self.ranking.clone(), deadline, ..*self }
    }

    /// A part of the call: the same deadline for some of what is asked.
    pub(super) fn part(&self, request: InferenceRequest, ranking: Ranking, (attempted, spent): (u16, Usd)) -> Self {
        let prompt_tokens_at_most = request.prompt_tokens_at_most();
        let request = Arc::new(request);
        Self { request, ranking, prompt_tokens_at_most, attempted, spent, ..*self }
    }

    /// Whether this is all that was asked for: whole, and no answer missing.
    pub(super) fn is_whole(&self, answer: &Answer) -> bool {
        is_whole(&self.request, answer)
    }

    /// How many tokens an answer to it is expected to have at most, or what will do of it.
    pub(super) fn tokens_expected(&self) -> u64 {
        match self.request.input() {
            Input::Chat(_) | Input::Prompt(_) if !self.streams => {
                self.request.max_tokens_of().map_or(Expectation::TOKENS, u64::from).min(Expectation::TOKENS)
            }
            _ => 0,
        }
    }

    /// The id of an attempt of this call.
    pub(super) fn attempt(&self, number: usize) -> AttemptId {
        // The last number is that of a record without an attempt.
        self.id.attempt(u16::try_from(number).unwrap_or(u16::MAX).saturating_add(self.attempted).min(u16::MAX - 2))
    }

    /// The options of one attempt: the service makes the attempts, the client none of its own.
    pub(super) fn options(&self) -> CallOptions {
        CallOptions::default().attempts(1).deadline(self.deadline)
    }

    /// The options of one attempt at a stream: a deadline that the request does not set bounds its beginning alone, and
    /// each attempt has the whole time to a first token.
    pub(super) fn stream_options(&self) -> CallOptions {
        let options = self.options();
        let first = self.request.first_token_of().map(|first| later(Instant::now(), first));
        let begins_by = first.map_or(self.deadline, |first| first.min(self.deadline));
        let deadline = options.deadline.filter(|_| self.request.names_deadline());
        CallOptions { deadline, ..options }.first_token(begins_by)
    }

    /// What the model lacks that refused the request, if it said so and the request needs it.
    pub(super) fn lacks(&self, error: &client::Error) -> Option<Ability> {
        if !matches!(error.status(), Some(400 | 422)) {
            return None;
        }
        let param = error.param()?;
        // Some servers name the messages where they mean the picture in them.
        let picture = param.starts_with("messages") && self.needs.vision && error.message().contains("image");
        let ability = Ability::of_parameter(param).or(picture.then_some(Ability::Vision))?;
        let needed = match ability {
            Ability::Tools => self.needs.tools,
            Ability::JsonSchema => self.needs.json != JsonNeed::None,
            Ability::Vision => self.needs.vision,
            Ability::Reasoning => self.needs.reasoning,
        };
        needed.then_some(ability)
    }

    /// The most that an attempt at this candidate can use. A prompt has no more tokens than bytes, and no more than an exact
    /// tokenizer finds in it.
    pub(super) fn usage_at_most(&self, candidate: &Candidate, counter: &Counter) -> Usage {
        let max_output = u64::from(candidate.max_output.unwrap_or(self.default_max_tokens));
        let exact = counter.prompt_at_most(candidate.route.model(), &self.request);
        let prompt = exact.map_or(self.prompt_tokens_at_most, |exact| exact.min(self.prompt_tokens_at_most));
        self.request.usage_at_most(prompt, max_output)
    }

    /// The most that an attempt at this candidate can cost.
    pub(super) fn at_most(&self, candidate: &Candidate, price: Option<PriceStamp>, counter: &Counter) -> Cost {
        let Some(PriceStamp { price, .. }) = price else { return Cost::Unpriced };
        let at_most = price.upper_bound(&self.usage_at_most(candidate, counter));
        if at_most.is_zero() { Cost::Known(Usd::ZERO) } else { Cost::Unknown { at_most } }
    }

    /// A record of an attempt of this call, still empty.
    pub(super) fn record(&self, attempt: AttemptId, route: &RouteId, at: SystemTime) -> CostRecord {
        let request = &self.request;
        CostRecord {
            tenant: request.tenant_of().cloned(),
            session: request.session_of().cloned(),
            tags: request.tags_of().map(|(name, value)| (name.into(), value.into())).collect(),
            task: request.task_of(),
            priority: request.priority_of(),
            source: request.caching().map_or_else(Source::Upstream, |_| Source::Miss),
            trace_id: request.trace_id_of(),
            ..CostRecord::new(attempt, self.id, route.clone(), at)
        }
    }

    /// This caller's view of what an attempt brought.
    pub(super) fn respond(&self, done: &super::attempts::Done, source: Source) -> InferenceResponse {
        let zero = Cost::Known(Usd::ZERO);
        let (cost, saved) = if source.is_upstream() { (done.cost, zero) } else { (zero, done.worth) };
        let attempts = if source.is_upstream() { Arc::clone(&done.attempts) } else { no_attempts() };
        let leaked = done.answer.choices().iter().find_map(|choice| leaked_tool_markup(choice.text()));
        if let Some(marker) = leaked {
            tracing::warn!(model = %done.answer.served, marker, "a tool call stands in the text; it is not executed");
        }
        InferenceResponse {
            leaked,
            answer: Arc::clone(&done.answer),
            asked: self.asked().clone(),
            route: done.route.clone(),
            source,
            cost,
            saved,
            usage_source: done.usage_source,
            attempts,
            timings: Timings { total: self.started.elapsed(), first_token: None },
            id: self.id,
            at: self.at,
            request_id: done.request_id.clone(),
            warnings: Arc::clone(&done.warnings),
            decision: Arc::clone(&self.ranking.decision),
            prompt_tokens_at_most: self.prompt_tokens_at_most,
        }
    }
}

/// Whether this is all that was asked for: whole, and no answer missing.
pub(super) fn is_whole(request: &InferenceRequest, answer: &Answer) -> bool {
    let (asked, came) = match request.input() {
        Input::Chat(input) => (input.n, answer.choices().len()),
        Input::Prompt(input) => (input.n, answer.choices().len()),
        Input::Image(input) => (input.n, answer.images().len()),
        Input::Embedding(_) | Input::Rerank(_) => (None, 0),
    };
    answer.is_complete() && asked.is_none_or(|asked| came >= asked as usize)
}

/// The service's prices, for a router to weigh.
#[derive(Debug)]
struct Book<'a>(&'a PriceBook);

impl Prices for Book<'_> {
    fn price(&self, route: &RouteId) -> Option<Price> {
        self.0.get(route).map(|stamp| stamp.price)
    }
}

/// Shared, so that a hit allocates nothing for what it has none of.
pub(super) fn no_attempts() -> Arc<[Attempt]> {
    static NONE: LazyLock<Arc<[Attempt]>> = LazyLock::new(|| Arc::new([]));
    Arc::clone(&NONE)
}

/// Shared likewise.
pub(super) fn no_warnings() -> Arc<[String]> {
    static NONE: LazyLock<Arc<[String]>> = LazyLock::new(|| Arc::new([]));
    Arc::clone(&NONE)
}
