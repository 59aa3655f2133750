//! Batches: created, listed, run, cancelled.

mod controls;
mod job;
mod rows;
mod run;
mod script;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

pub(super) use self::run::run;
pub use self::{controls::SimBatch, script::OnRow};
use self::{
    job::{Fate, Job, Stage},
    script::RowScripts,
};
use super::{
    handler::Body,
    offline::reply,
    random::Random,
    state::{Config, State},
};

/// What a job may ask for. Rows of sound fail: there is no model that listens.
const ENDPOINTS: [&str; 3] = ["/v1/chat/completions", "/v1/audio/transcriptions", "/v1/audio/translations"];
/// How long a cancelled job is `CANCELING`.
const CANCELING: Duration = Duration::from_secs(15);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The jobs, and what is planned for them.
#[derive(Debug)]
pub(super) struct Batches {
    jobs: Vec<Job>,
    by_id: HashMap<String, usize>,
    /// Those that are not at their end, by their place in `jobs`.
    live: Vec<usize>,
    fates: VecDeque<Fate>,
    rows: RowScripts,
    refused: BTreeSet<String>,
    /// Percent off the price of a model.
    discounts: BTreeMap<String, u8>,
    settings: Settings,
}

/// What holds for all jobs.
#[derive(Clone, Debug)]
struct Settings {
    validation: Duration,
    time: Duration,
    window: Duration,
    list_lag: Duration,
    /// The share of the rows that is finished at most.
    stuck: Option<f64>,
    output_late: Duration,
    errors_late: Duration,
    /// Whether a job has an error file without rows.
    empty_errors: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            validation: Duration::from_secs(5),
            time: Duration::from_secs(7 * 60),
            window: DAY,
            list_lag: Duration::ZERO,
            stuck: None,
            output_late: Duration::ZERO,
            errors_late: Duration::ZERO,
            empty_errors: false,
        }
    }
}

impl Default for Batches {
    fn default() -> Self {
        let half = ["meta-llama/Llama-3.3-70B-Instruct-Turbo", "openai/whisper-large-v3"];
        Self {
            jobs: Vec::new(),
            by_id: HashMap::new(),
            live: Vec::new(),
            fates: VecDeque::new(),
            rows: RowScripts::default(),
            refused: BTreeSet::new(),
            discounts: half.into_iter().map(|model| (model.to_owned(), 50)).collect(),
            settings: Settings::default(),
        }
    }
}

impl Batches {
    fn job(&self, id: &str) -> Option<&Job> {
        self.by_id.get(id).and_then(|at| self.jobs.get(*at))
    }

    /// Forgets what was planned; jobs, prices and refusals stay.
    pub(super) fn heal(&mut self) {
        self.fates.clear();
        self.rows = RowScripts::default();
        let Settings { validation, time, window, .. } = self.settings;
        self.settings = Settings { validation, time, window, ..Settings::default() };
    }
}

/// `POST /v1/batches`. Whether its file exists is found out later.
pub(super) fn create(state: &mut State, config: &Config, body: &Value, now: Instant) -> Response<Body> {
    let text = |name: &str| body.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (Some(endpoint), Some(input)) = (text("endpoint"), text("input_file_id")) else {
        return refused(StatusCode::BAD_REQUEST, "endpoint and input_file_id are required");
    };
    if !ENDPOINTS.contains(&endpoint) {
        return refused(StatusCode::BAD_REQUEST, &format!("unsupported endpoint: {endpoint}"));
    }
    let number = u64::try_from(state.batches.jobs.len()).unwrap_or_default() + 1;
    let seed = config.seed ^ number.rotate_left(23);
    let Settings { validation, time, window, .. } = state.batches.settings;
    let size = state.store.get(input, now).and_then(|file| file.content.as_ref()).map(bytes::Bytes::len);
    let created_at = state.micros(config, now);
    let job = Job {
        id: Random::new(seed).uuid(),
        seed,
        input: input.to_owned(),
        input_bytes: size.unwrap_or_default(),
        endpoint: endpoint.to_owned(),
        model: text("model_id").map(str::to_owned),
        created: now,
        created_at,
        deadline_at: created_at.saturating_add(i64::try_from(window.as_micros()).unwrap_or(i64::MAX)),
        validation: config.scaled(validation),
        time: config.scaled(time),
        window: config.scaled(window),
        fate: state.batches.fates.pop_front(),
        content: bytes::Bytes::new(),
        lines: Vec::new(),
        finished: 0,
        output: Vec::new(),
        errors: Vec::new(),
        stage: Stage::Validating,
    };
    let shown = job.to_json();
    let batches = &mut state.batches;
    batches.by_id.insert(job.id.clone(), batches.jobs.len());
    batches.live.push(batches.jobs.len());
    batches.jobs.push(job);
    reply(StatusCode::CREATED, &json!({"job": shown}))
}

/// `GET /v1/batches`: a bare array, the newest first.
pub(super) fn list(state: &State, config: &Config, now: Instant) -> Response<Body> {
    let lag = config.scaled(state.batches.settings.list_lag);
    let listed = state.batches.jobs.iter().rev().filter(|job| job.age(now) >= lag);
    reply(StatusCode::OK, &Value::Array(listed.map(|job| job.to_json()).collect()))
}

/// `GET /v1/batches/{id}`.
pub(super) fn one(state: &State, id: &str, request: &str) -> Response<Body> {
    state.batches.job(id).map_or_else(|| missing(request), |job| reply(StatusCode::OK, &job.to_json()))
}

/// `POST /v1/batches/{id}/cancel`. What is finished stays; a job that is being cancelled is shown as it is.
pub(super) fn cancel(state: &mut State, id: &str, request: &str, now: Instant) -> Response<Body> {
    let Batches { jobs, by_id, .. } = &mut state.batches;
    let Some(job) = by_id.get(id).and_then(|at| jobs.get_mut(*at)) else { return missing(request) };
    match job.stage {
        Stage::Ended(_) => {
            let message = format!("Cannot cancel job - already in terminal state: {}", job.status());
            return refused(StatusCode::CONFLICT, &message);
        }
        Stage::Canceling(_) => {}
        Stage::Validating | Stage::Running => job.stage = Stage::Canceling(now),
    }
    reply(StatusCode::OK, &job.to_json())
}

fn missing(request: &str) -> Response<Body> {
    reply(StatusCode::NOT_FOUND, &json!({"error": "Job not found", "request_id": request}))
}

fn refused(status: StatusCode, message: &str) -> Response<Body> {
    reply(status, &json!({"error": message}))
}
