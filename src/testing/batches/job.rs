//! One job, and how the API shows it.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::super::account;

/// A job: its durations are of the test's time, its dates of the simulated world's.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) seed: u64,
    pub(super) input: String,
    pub(super) input_bytes: usize,
    pub(super) endpoint: String,
    pub(super) model: Option<String>,
    pub(super) created: Instant,
    pub(super) created_at: i64,
    pub(super) deadline_at: i64,
    pub(super) validation: Duration,
    pub(super) time: Duration,
    pub(super) window: Duration,
    pub(super) fate: Option<Fate>,
    /// The input, once it was read.
    pub(super) content: Bytes,
    /// Its lines, in the order in which they finish.
    pub(super) lines: Vec<Range<usize>>,
    pub(super) finished: usize,
    pub(super) output: Vec<u8>,
    pub(super) errors: Vec<u8>,
    pub(super) stage: Stage,
}

/// What was planned for a job.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// It finishes this share of its rows, and expires.
    Expire(f64),
    /// It fails with this message.
    Fail(String),
}

/// How far a job is.
#[derive(Debug)]
pub(super) enum Stage {
    Validating,
    Running,
    /// Since when.
    Canceling(Instant),
    Ended(Ended),
}

/// The end of a job.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: &'static str,
    pub(super) at: i64,
    pub(super) output: Option<String>,
    pub(super) errors: Option<String>,
    pub(super) error: Option<String>,
}

impl Job {
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.created)
    }

    pub(super) const fn status(&self) -> &'static str {
        match &self.stage {
            Stage::Validating => "VALIDATING",
            Stage::Running => "IN_PROGRESS",
            Stage::Canceling(_) => "CANCELING",
            Stage::Ended(ended) => ended.status,
        }
    }

    /// From 0 to 100, with a fraction.
    fn progress(&self) -> f64 {
        let as_float = |count: usize| u32::try_from(count).map_or(0.0, f64::from);
        if self.lines.is_empty() { 0.0 } else { 100.0 * as_float(self.finished) / as_float(self.lines.len()) }
    }

    /// As the API shows it: what is not known is not there.
    pub(super) fn to_json(&self) -> Value {
        let owner = account::whoami();
        let mut shown = Map::new();
        let mut show = |name: &str, value: Value| {
            if !value.is_null() {
                shown.insert(name.to_owned(), value);
            }
        };
        show("id", json!(self.id));
        for name in ["user_id", "project_id", "organization_id"] {
            show(name, owner.get(name).cloned().unwrap_or_default());
        }
        show("input_file_id", json!(self.input));
        show("file_size_bytes", json!(self.input_bytes));
        show("status", json!(self.status()));
        show("job_deadline", json!(date(self.deadline_at)));
        show("created_at", json!(date(self.created_at)));
        show("endpoint", json!(self.endpoint));
        show("progress", json!(self.progress()));
        show("model_id", json!(self.model));
        if let Stage::Ended(ended) = &self.stage {
            show("completed_at", json!(date(ended.at)));
            show("output_file_id", json!(ended.output));
            show("error_file_id", json!(ended.errors));
            show("error", json!(ended.error));
        }
        Value::Object(shown)
    }
}

/// A time in microseconds, as RFC 3339 writes it; the last one that can be written where it is later.
fn date(micros: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_have_microseconds() {
        assert_eq!(date(1_790_000_000_000_250), "2026-09-21T14:13:20.000250Z");
        assert!(date(i64::MAX).starts_with("9999-12-"));
    }
}
