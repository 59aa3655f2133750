//! What became of the jobs by now.

use std::{mem, ops::Range, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    super::{
        error::ApiError,
        files::File,
        random::Random,
        state::{Config, State},
    },
    CANCELING,
    job::{Ended, Fate, Job, Stage},
    rows,
};

/// Requests of a file.
const MAX_LINES: usize = 50_000;
/// Bytes of a file.
const MAX_BYTES: usize = 100_000_000;
/// Bytes of a line: a longer one fails by itself.
pub(super) const MAX_LINE_BYTES: usize = 10_000_000;
/// Bytes of a `custom_id`.
const MAX_ID_BYTES: usize = 64;

/// Brings all jobs to where they are at `now`.
pub(in crate::testing) fn run(state: &mut State, config: &Config, now: Instant) {
    // Out of the state while they run, since their rows change it.
    let mut jobs = mem::take(&mut state.batches.jobs);
    let mut live = mem::take(&mut state.batches.live);
    live.retain(|at| {
        let Some(job) = jobs.get_mut(*at) else { return false };
        Run { state, config, now }.advance(job);
        !matches!(job.stage, Stage::Ended(_))
    });
    state.batches.jobs = jobs;
    state.batches.live = live;
}

struct Run<'a> {
    state: &'a mut State,
    config: &'a Config,
    now: Instant,
}

impl Run<'_> {
    fn advance(&mut self, job: &mut Job) {
        if matches!(job.stage, Stage::Validating) && job.age(self.now) >= job.validation {
            match self.validate(job) {
                Ok(lines) => {
                    job.lines = lines;
                    job.stage = Stage::Running;
                }
                Err(message) => self.end(job, "FAILED", job.validation, Some(message)),
            }
        }
        if matches!(job.stage, Stage::Running) {
            self.work(job);
        }
        if let Stage::Canceling(since) = job.stage {
            let over = since + self.config.scaled(CANCELING);
            if self.now >= over {
                let age = job.age(over);
                self.end(job, "CANCELLED", age, None);
            }
        }
    }

    /// Finishes the rows that are due.
    fn work(&mut self, job: &mut Job) {
        let (age, over) = (job.age(self.now), job.validation.saturating_add(job.time));
        let worked = age.min(job.window).saturating_sub(job.validation);
        let most = match job.fate {
            Some(Fate::Expire(share)) => part(job.lines.len(), share),
            _ => job.lines.len(),
        };
        let stuck = self.state.batches.settings.stuck.map_or(most, |share| part(job.lines.len(), share));
        let due = portion(job.lines.len(), worked, job.time).min(most).min(stuck);
        while job.finished < due {
            rows::finish(self.state, self.config, job);
            job.finished += 1;
        }
        if job.finished == job.lines.len() && most == job.lines.len() {
            self.end(job, "COMPLETED", over, None);
        } else if age >= job.window || most < job.lines.len() && age >= over {
            self.end(job, "EXPIRED", over.min(job.window), None);
        }
    }

    /// The lines of the input in the order in which they will finish; else why the whole job fails.
    fn validate(&self, job: &mut Job) -> Result<Vec<Range<usize>>, String> {
        if let Some(Fate::Fail(message)) = &job.fate {
            return Err(message.clone());
        }
        let file = self.state.store.get(&job.input, self.now).and_then(|file| file.content.clone());
        job.content = file.ok_or("Failed to download input file")?;
        job.input_bytes = job.content.len();
        if job.content.len() > MAX_BYTES {
            return Err("Input file exceeds the maximum size of 100 MB".to_owned());
        }
        let mut lines = Vec::new();
        let (mut model, mut mixed) = (None, false);
        let mut start = 0;
        for (number, end) in memchr::memchr_iter(b'\n', &job.content).chain([job.content.len()]).enumerate() {
            let range = start..end;
            start = end + 1;
            let line = job.content.get(range.clone()).unwrap_or_default();
            if line.trim_ascii().is_empty() {
                continue;
            }
            lines.push(range);
            // As the API: what is too long is not looked at before its turn.
            if line.len() > MAX_LINE_BYTES {
                continue;
            }
            let asked = requested(line).map_err(|why| format!("{} on line {}: {}", why.0, number + 1, why.1))?;
            mixed |= model.as_ref().is_some_and(|model| *model != asked);
            model = Some(asked);
        }
        if lines.is_empty() {
            return Err("input format error: the file has no requests".to_owned());
        }
        if lines.len() > MAX_LINES {
            return Err(format!("Input file has {} requests, more than the maximum of {MAX_LINES}", lines.len()));
        }
        let model = model.unwrap_or_default();
        if !mixed && self.is_refused(&model) {
            return Err(ApiError::model_not_available(&model).message.into_owned());
        }
        if job.model.is_none() && !model.is_empty() {
            job.model = Some(model);
        }
        let mut random = Random::new(job.seed.rotate_left(7));
        for at in (1..lines.len()).rev() {
            lines.swap(at, random.below(at + 1));
        }
        Ok(lines)
    }

    fn is_refused(&self, model: &str) -> bool {
        self.state.batches.refused.contains(model) || self.state.unavailable.contains(model)
    }

    /// Ends a job at this age. Its files are those of its rows; one that failed has none.
    fn end(&mut self, job: &mut Job, status: &'static str, age: Duration, error: Option<String>) {
        let ended = job.created.checked_add(age).unwrap_or(self.now).min(self.now);
        let settings = self.state.batches.settings.clone();
        let at = self.state.micros(self.config, ended);
        let ran = !job.lines.is_empty();
        let mut file = |suffix: &str, rows: Vec<u8>, late: Duration, even_empty: bool| {
            (!rows.is_empty() || even_empty && ran).then(|| {
                let appears = ended.checked_add(self.config.scaled(late));
                let file = File::generated(format!("{}-{suffix}.jsonl", job.id), at, rows, appears);
                self.state.store.add(self.config.seed, file)
            })
        };
        let output = file("output", mem::take(&mut job.output), settings.output_late, false);
        let errors = file("errors", mem::take(&mut job.errors), settings.errors_late, settings.empty_errors);
        job.content = bytes::Bytes::new();
        job.stage = Stage::Ended(Ended { status, at, output, errors, error });
    }
}

/// The model that a line asks for; else what is wrong with it.
fn requested(line: &[u8]) -> Result<String, (&'static str, String)> {
    let value: Value = serde_json::from_slice(line).map_err(|error| ("Invalid JSON", error.to_string()))?;
    let wrong = |what: &str| Err(("input format error", what.to_owned()));
    let id = value.get("custom_id").and_then(Value::as_str).unwrap_or_default();
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        return wrong("custom_id must have 1 to 64 characters");
    }
    let Some(body) = value.get("body").filter(|body| body.is_object()) else { return wrong("body must be an object") };
    Ok(body.get("model").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// A share of so many rows.
pub(super) fn part(rows: usize, share: f64) -> usize {
    let seconds = u64::try_from(rows).unwrap_or(u64::MAX);
    // By way of durations, which round to a billionth: 0.57 of 100 is 57.
    let part = Duration::try_from_secs_f64(Duration::from_secs(seconds).as_secs_f64() * share).unwrap_or_default();
    usize::try_from(part.as_secs()).unwrap_or(rows).min(rows)
}

/// The rows that are finished after `worked` of `time`.
fn portion(rows: usize, worked: Duration, time: Duration) -> usize {
    if worked >= time {
        return rows;
    }
    let done = u128::try_from(rows).unwrap_or_default() * worked.as_nanos() / time.as_nanos();
    usize::try_from(done).unwrap_or(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_finish_evenly_over_the_time() {
        let minute = Duration::from_secs(60);
        let after = |seconds| portion(1_000, Duration::from_secs(seconds), minute);
        assert_eq!([after(0), after(3), after(36), after(59), after(60), after(900)], [0, 50, 600, 983, 1_000, 1_000]);
        assert_eq!(portion(7, Duration::ZERO, Duration::ZERO), 7);
    }

    #[test]
    fn a_share_is_of_whole_rows() {
        assert_eq!([part(1_000, 0.6), part(100, 0.57), part(3, 0.99), part(3, 2.0), part(3, -1.0)], [600, 57, 2, 3, 0]);
    }
}
