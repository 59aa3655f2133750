//! Random calls on a random provider, thousands of times: what must hold holds after every step, whatever happens.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, SystemTime},
};

use together_inference::{
    InferenceRequest, InferenceResponse, InferenceService, Price, Priority, RouteId, Task, Usd,
    cost::{Account, Budget, BudgetStore, CostRecord, CostSink, MemoryBudgets, MemoryCosts, Period, Scope},
    limit::Limits,
    service::{Error, ErrorKind, ServiceBuilder},
    testing::{Fault, SimModel, Together},
    types::{Clock, ManualClock, Rng, SeededRng, SystemClock},
    usd,
};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    books::Books,
    doubles::Quarters,
    invariants::Money,
    world::{LARGE, MID, SMALL, World, ms, secs, settle, spawn},
};

const MODELS: [&str; 3] = [LARGE, MID, SMALL];
const E5: &str = "intfloat/multilingual-e5-large-instruct";
/// A model that nobody has told the price of.
const HOUSE: &str = "acme/house-8b";
const SESSIONS: [&str; 3] = ["one", "two", "three"];
const STEPS: u64 = 24;

/// 2026-03-28 20:00 UTC: the day before Europe's clocks go forward.
const SPRING: u64 = 1_774_728_000;

/// Where a run keeps its money.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) budgets: Arc<dyn BudgetStore>,
    /// A ledger beside the records in memory.
    pub(crate) ledger: Option<Arc<dyn CostSink>>,
    /// Whether one of them is outside of virtual time, which has to [stand still](stand_still) for it.
    pub(crate) is_outside: bool,
}

impl Kept {
    fn in_memory() -> Self {
        Self { budgets: Arc::new(MemoryBudgets::new()), ledger: None, is_outside: false }
    }

    /// Waits until whatever was asked of a store is answered, and whoever was answered has gone on.
    async fn is_quiet(&self) {
        for _ in 0..3 {
            if let Some(ledger) = &self.ledger {
                ledger.flush().await.unwrap();
            }
            // A store answers one after another.
            self.budgets.read(&[(Account::new("nobody's"), Period::new(0))]).await.unwrap();
            settle().await;
        }
    }
}

/// What every model says: its name, several times.
fn said_by(model: &str) -> String {
    [model; 4].join(" ")
}

/// Chance with a few words for it.
struct Dice(SeededRng);

impl Dice {
    fn below(&self, most: u64) -> u64 {
        self.0.next_u64() % most
    }

    fn one_in(&self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn model(&self) -> &'static str {
        MODELS[usize::try_from(self.below(3)).unwrap()]
    }

    fn fault(&self) -> Fault {
        match self.below(10) {
            0 => Fault::status(500),
            1 => Fault::status(503),
            2 => Fault::status(429),
            3 => Fault::status(429).retry_after(secs(self.below(90))),
            4 => Fault::status(422),
            5 => Fault::disconnect(),
            6 => Fault::garbage(),
            7 => Fault::empty_choices(),
            8 => Fault::cut_after(2),
            _ => Fault::refuse(),
        }
    }

    /// The most that a request may cost: less than most models may take for one attempt, up to more than several do.
    fn ceiling(&self) -> Usd {
        Usd::from_nanos(i64::try_from(self.below(40_000_000)).unwrap())
    }

    fn session(&self) -> &'static str {
        SESSIONS[usize::try_from(self.below(3)).unwrap()]
    }

    /// What is asked, and of whom.
    fn question(&self) -> InferenceRequest {
        if self.one_in(8) {
            return InferenceRequest::embedding((0..=self.below(3)).map(|_| format!("text {}", self.below(9))));
        }
        let request = InferenceRequest::chat(format!("question {}", self.below(6)));
        match self.below(5) {
            0 => request.model(self.model()),
            1 => request.models([self.model(), self.model()]),
            2 => request.models(MODELS),
            3 if self.one_in(2) => request.model(HOUSE),
            _ => request,
        }
    }

    fn request(&self) -> InferenceRequest {
        let request = self.question();
        let priority = [Priority::Realtime, Priority::Standard, Priority::Batch];
        let request = request.priority(priority[usize::try_from(self.below(3)).unwrap()]);
        let is_chat = request.task_of() == Task::Chat;
        let request = if is_chat && self.one_in(2) { request.temperature(0.0) } else { request };
        let request = if self.one_in(3) { request.tenant("acme") } else { request };
        let request = if self.one_in(3) { request.session(self.session()) } else { request };
        let request = if self.one_in(6) { request.max_cost(self.ceiling()) } else { request };
        let request =
            if is_chat && self.one_in(4) { request.first_token(ms(200 + self.below(3_000))) } else { request };
        if self.one_in(2) { request.deadline(ms(1 + self.below(30_000))) } else { request }
    }
}

/// What one call came to, in numbers that can be compared between two runs.
pub(crate) type End = (bool, usize, i64, u128);

pub(crate) struct Run {
    world: World,
    dice: Dice,
    clock: Arc<ManualClock>,
    kept: Kept,
    /// Whose budgets are hard.
    hard: Vec<Scope>,
    calls: Vec<JoinHandle<End>>,
}

/// Has virtual time stand still unless it is moved on, until this is dropped: a store outside of it takes its own.
#[must_use]
pub(crate) fn stand_still() -> mpsc::Sender<()> {
    let (holds, held) = mpsc::channel::<()>();
    // Time goes on by itself only while no thread for blocking work is in use.
    drop(tokio::task::spawn_blocking(move || held.recv()));
    holds
}

impl Run {
    pub(crate) fn new(seed: u64, kept: Kept) -> Self {
        let (sim, costs) = (Together::builder().seed(seed).build(), MemoryCosts::new(100_000));
        sim.on("").reply_with(|request| said_by(request["model"].as_str().unwrap()));
        // It costs nothing either, so that what is charged for it, nothing, is what is billed.
        sim.add_model(SimModel::chat(HOUSE).price(0, 0));
        // A ledger outside deletes what is old, by a clock of its own.
        let begins = if kept.is_outside { SystemClock.now() } else { SystemTime::UNIX_EPOCH + secs(SPRING) };
        let clock = Arc::new(ManualClock::new(begins));
        let builder = InferenceService::builder(sim.client())
            .cost_sink(costs.clone())
            .budget(Budget::total(usd!("1000000")).soft())
            .budget(Budget::per_session(usd!("0.02")).max_calls(3).hard())
            .budget(Budget::daily(usd!("0.03")).zone("Europe/Berlin").of(Scope::tenant("acme")))
            .budget_store(Arc::clone(&kept.budgets))
            .clock(Arc::clone(&clock) as _)
            .rng(Arc::new(SeededRng::new(seed)))
            .embedding_model(E5)
            .price(&RouteId::new("together", E5), Price::per_million(usd!("0.02"), Usd::ZERO))
            .tokenizer(Quarters)
            .limits(Limits::default().concurrency(8).max_waiting(16));
        let builder = match &kept.ledger {
            Some(ledger) => builder.cost_sink(Arc::clone(ledger)),
            None => builder,
        };
        // Of these alone: under a hard budget what has no price is refused.
        let models = MODELS.map(|model| Scope::Model(RouteId::new("together", model)));
        let of_model = |builder: ServiceBuilder, of: &Scope| builder.budget(Budget::total(usd!("0.06")).of(of.clone()));
        let builder = models.iter().fold(builder, of_model);
        let sessions = SESSIONS.map(|session| Scope::Session(session.into()));
        let hard = models.into_iter().chain(sessions).chain([Scope::tenant("acme")]).collect();
        let (books, service) = (Books::new(&sim, &costs), builder.build().unwrap());
        let world = World { sim, costs, budgets: Arc::default(), service, books };
        Self { world, dice: Dice(SeededRng::new(!seed)), clock, kept, hard, calls: Vec::new() }
    }

    /// Something happens to the provider, or to the clock on the wall.
    fn trouble(&self) {
        let (sim, dice) = (&self.world.sim, &self.dice);
        match dice.below(11) {
            10 if dice.one_in(2) => self.clock.advance(secs(dice.below(40 * 3_600))),
            10 => self.clock.set(self.clock.now() - secs(dice.below(40 * 3_600))),
            9 => sim.fail_next(1 + u32::try_from(dice.below(12)).unwrap(), dice.fault()),
            0 => sim.fail_next_of(dice.model(), 1 + u32::try_from(dice.below(12)).unwrap(), dice.fault()),
            1 => sim.fail_share_of(dice.model(), 0.3, dice.fault()),
            2 => sim.overload(dice.model()),
            3 => sim.latency_of(dice.model(), ms(dice.below(5_000))),
            4 => sim.limit(dice.model(), 1 + u32::try_from(dice.below(20)).unwrap()),
            5 => sim.unavailable(dice.model()),
            6 => sim.token_latency(ms(dice.below(200))),
            _ => {
                sim.heal();
                MODELS.iter().for_each(|model| sim.restore(model));
            }
        }
    }

    /// Lets time pass, only as fast as the stores work.
    async fn pass(&self, time: Duration) {
        if !self.kept.is_outside {
            return tokio::time::sleep(time).await;
        }
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.is_quiet().await;
            tokio::time::advance((end - Instant::now()).min((time / 8).max(ms(100)))).await;
        }
        self.is_quiet().await;
    }

    /// Waits until nothing happens any more unless time goes on.
    async fn is_quiet(&self) {
        let World { sim, service, .. } = &self.world;
        let seen = || {
            let routes = service.health().routes;
            let of_routes = routes.iter().map(|it| (it.dispatched, it.answered, it.failed, it.cancelled, it.in_flight));
            (service.costs(), sim.calls(), of_routes.collect::<Vec<_>>())
        };
        loop {
            let before = seen();
            self.kept.is_quiet().await;
            if seen() == before {
                return;
            }
        }
    }

    fn call(&mut self) {
        let (request, service) = (self.dice.request(), self.world.service.clone());
        let deadline = request.deadline_of();
        let ceiling = request.max_cost_of();
        let is_chat = request.task_of() == Task::Chat;
        let streams = is_chat && self.dice.one_in(3);
        // Time that is moved on by steps ends a wait at the end of one.
        let late = if self.kept.is_outside { secs(2) } else { ms(5) };
        self.calls.push(spawn(async move {
            let start = Instant::now();
            let ended = if streams { stream(&service, request).await } else { service.complete(request).await };
            let took = start.elapsed();
            let cost = ended.as_ref().map_or_else(Error::cost, InferenceResponse::cost).charge();
            assert!(ceiling.is_none_or(|most| cost <= most), "{cost} of {ceiling:?}");
            match ended {
                Ok(reply) => {
                    assert!(reply.attempts.len() <= 3, "{:?}", reply.attempts);
                    // Whole and of one model, whatever was tried before.
                    assert!(!is_chat || reply.text() == said_by(reply.model().as_str()), "{}", reply.text());
                    assert!(streams || took <= deadline + late, "{took:?} of {deadline:?}");
                    assert!(serde_json::to_string(&reply.trace()).unwrap().len() <= 2_048);
                    (true, reply.attempts.len(), reply.cost().charge().nanos(), took.as_nanos())
                }
                Err(error) => {
                    check(&error, took, deadline + late, streams);
                    (false, error.attempts().len(), error.cost().charge().nanos(), took.as_nanos())
                }
            }
        }));
    }

    /// What holds at every moment; the records so far.
    pub(crate) async fn check(&self) -> Vec<CostRecord> {
        if self.kept.is_outside {
            self.is_quiet().await;
        }
        let health = self.world.service.health();
        assert!(health.is_ready());
        for route in &health.routes {
            assert!(route.in_flight <= 8 && route.waiting <= 16, "{route:?}");
            assert!((0..=50).contains(&route.retry_budget), "{route:?}");
            assert!(route.dispatched >= route.answered + route.failed + route.cancelled, "{route:?}");
        }
        let World { sim, costs, service, .. } = &self.world;
        Money { sim, costs, service, hard: &self.hard }.check().await
    }

    /// All of it, with a look after each step.
    pub(crate) async fn run(mut self, each: impl AsyncFn(&Self)) -> Vec<Option<End>> {
        for _ in 0..STEPS {
            match self.dice.below(4) {
                0 => self.trouble(),
                1 if !self.calls.is_empty() => {
                    let at = usize::try_from(self.dice.below(self.calls.len() as u64)).unwrap();
                    if self.dice.one_in(3) {
                        self.calls[at].abort();
                    }
                    self.pass(ms(self.dice.below(3_000))).await;
                }
                _ => self.call(),
            }
            each(&self).await;
        }
        let mut ends = Vec::new();
        for call in std::mem::take(&mut self.calls) {
            while self.kept.is_outside && !call.is_finished() {
                self.pass(secs(1)).await;
            }
            ends.push(match call.await {
                Ok(end) => Some(end),
                Err(error) if error.is_cancelled() => None,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            });
            each(&self).await;
        }
        // Detached leaders may still be at work for nobody.
        for _ in 0..100 {
            if self.world.service.health().in_flight == 0 {
                break;
            }
            self.pass(secs(10)).await;
        }
        each(&self).await;
        self.world.at_rest().await;
        ends
    }
}

/// Reads a stream to its end, and holds every piece against the model that answers.
async fn stream(service: &InferenceService, request: InferenceRequest) -> Result<InferenceResponse, Error> {
    let mut stream = service.stream(request).await?;
    let model = stream.model().to_string();
    while let Some(delta) = stream.next().await {
        delta?;
        assert_eq!(stream.model().as_str(), model, "another model goes on where one began");
        assert!(said_by(&model).starts_with(stream.text()), "{model}: {}", stream.text());
    }
    stream.finish().await
}

fn check(error: &Error, took: Duration, deadline: Duration, streams: bool) {
    assert!(error.attempts().len() <= 3, "{error:?}");
    assert!(!matches!(error.kind(), ErrorKind::Policy | ErrorKind::NoRuntime | ErrorKind::InvalidRequest), "{error:?}");
    // A stream that the request sets no deadline for may be read for longer.
    assert!(streams || took <= deadline, "{took:?} of {deadline:?}: {error:?}");
    assert!(!error.to_string().contains("question"), "{error}");
    assert!(serde_json::to_string(&error.trace()).unwrap().len() <= 2_048);
}

fn run(seed: u64) -> Vec<Option<End>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let each = async |run: &Run| drop(run.check().await);
    runtime.block_on(async { Run::new(seed, Kept::in_memory()).run(each).await })
}

/// What was sent is recorded once, records, counters and budgets are the same money, no hard budget is overdrawn and
/// nothing is below zero: after every step of every seed.
#[test]
fn two_thousand_seeds_keep_every_promise() {
    for seed in 0..2_000 {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("seed {seed} broke a promise");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_seed_always_comes_to_the_same() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
