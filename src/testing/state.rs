//! What all handles of one simulator share.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    batches::{self, Batches},
    bill::Account,
    faults::Faults,
    files::Files,
    limits::{Limits, PromptCache},
    models::SimModel,
    recorded::{Key, Log},
    script::Scripts,
    sse::UsagePlacement,
    wire::Wire,
};

/// What is fixed when the simulator is built.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) seed: u64,
    pub(super) time_scale: f64,
    /// The only key that is accepted; any when not set.
    pub(super) key: Option<Key>,
    pub(super) wrapped_models: bool,
}

impl Config {
    /// A duration of the simulated world in the time of the test.
    pub(super) fn scaled(&self, duration: Duration) -> Duration {
        Duration::try_from_secs_f64(duration.as_secs_f64() * self.time_scale).unwrap_or(duration)
    }
}

/// The simulator behind its handles.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    state: Mutex<State>,
    pub(super) in_flight: AtomicUsize,
    pub(super) open_streams: AtomicUsize,
}

/// What changes while it runs.
#[derive(Debug)]
pub(super) struct State {
    pub(super) serial: u64,
    pub(super) models: Vec<SimModel>,
    pub(super) scripts: Scripts,
    pub(super) faults: Faults,
    pub(super) limits: Limits,
    pub(super) account: Account,
    pub(super) log: Log,
    pub(super) latency: Duration,
    pub(super) latency_of: BTreeMap<String, Duration>,
    pub(super) token_latency: Duration,
    pub(super) fragment: usize,
    pub(super) cut_after: Option<usize>,
    pub(super) hangs: bool,
    pub(super) overloaded: BTreeSet<String>,
    pub(super) unavailable: BTreeSet<String>,
    pub(super) redirects: BTreeMap<String, String>,
    /// Models that leave: their replacement and the day.
    pub(super) leaving: Vec<[String; 3]>,
    pub(super) usage: UsagePlacement,
    pub(super) prompt_cache: Option<PromptCache>,
    /// Whether embeddings report usage.
    pub(super) embedding_usage: bool,
    /// Pictures that answers link to, the latest last.
    pub(super) files: VecDeque<(String, bytes::Bytes)>,
    pub(super) wire: Wire,
    /// Uploaded files, and those of batches.
    pub(super) store: Files,
    pub(super) batches: Batches,
    /// When it was built.
    origin: Instant,
}

impl Shared {
    pub(super) fn new(config: Config, models: Vec<SimModel>) -> Self {
        let state = State {
            serial: 0,
            models,
            scripts: Scripts::default(),
            faults: Faults::new(config.seed),
            limits: Limits::default(),
            account: Account::default(),
            log: Log::default(),
            latency: Duration::ZERO,
            latency_of: BTreeMap::new(),
            token_latency: Duration::ZERO,
            fragment: usize::MAX,
            cut_after: None,
            hangs: false,
            overloaded: BTreeSet::new(),
            unavailable: BTreeSet::new(),
            redirects: BTreeMap::new(),
            leaving: Vec::new(),
            usage: UsagePlacement::default(),
            prompt_cache: None,
            embedding_usage: false,
            files: VecDeque::new(),
            wire: Wire::default(),
            store: Files::default(),
            batches: Batches::default(),
            origin: Instant::now(),
        };
        let state = Mutex::new(state);
        Self { config, state, in_flight: AtomicUsize::new(0), open_streams: AtomicUsize::new(0) }
    }

    /// The state after all that batches have done by now.
    pub(super) fn settled(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        batches::run(&mut state, &self.config, Instant::now());
        state
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The time of the simulated world, in microseconds since 1970: it begins on 2026-09-21.
    pub(super) fn micros(&self, config: &Config, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.origin).as_secs_f64();
        let passed = Duration::try_from_secs_f64(passed / config.time_scale).unwrap_or_default();
        1_790_000_000_000_000_i64.saturating_add(i64::try_from(passed.as_micros()).unwrap_or(i64::MAX))
    }

    pub(super) fn model(&self, id: &str) -> Option<&SimModel> {
        self.models.iter().find(|model| model.id() == id)
    }

    /// The model that answers when `id` is asked for.
    pub(super) fn redirected<'a>(&'a self, id: &'a str) -> &'a str {
        let mut at = id;
        // Bounded, because a circle of redirects is easily written.
        for _ in 0..8 {
            match self.redirects.get(at) {
                Some(to) => at = to,
                None => break,
            }
        }
        at
    }

    pub(super) fn latency(&self, asked: &str) -> Duration {
        let own = self.latency_of.get(asked).or_else(|| self.latency_of.get(self.redirected(asked)));
        own.copied().unwrap_or(self.latency)
    }
}

/// A request being handled: counted until this is dropped, also when its future is.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Shared>);

impl InFlight {
    pub(super) fn enter(shared: &Arc<Shared>) -> Self {
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}
