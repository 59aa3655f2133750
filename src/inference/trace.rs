//! How one call went, small enough to be kept of every call: the choice, its reasons, the attempts. No content.

use std::{fmt, sync::Arc, time::SystemTime};

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value, json};

use super::{Attempt, Decision};
use crate::types::{Cost, RequestId, RouteId};

/// The most bytes of a trace as JSON.
pub const MAX_TRACE_BYTES: usize = 2_048;
/// Candidates that are shown at first; fewer where they would be too long.
const SHOWN: usize = 8;

/// How one call went: what was chosen among what and why, each attempt, the end.
///
/// It serialises as one line of the form `ti.decision.v1`, at most [`MAX_TRACE_BYTES`] long: candidates and rejections that
/// do not fit are counted (`more`, `more_rejected`). It holds neither prompts nor answers.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{InferenceRequest, InferenceService, testing::Together};
///
/// let service = InferenceService::builder(Together::new().client()).build()?;
/// let reply = service.complete(InferenceRequest::chat("Why is the sky blue?")).await?;
/// let line = serde_json::to_string(&reply.trace())?;
/// assert!(line.starts_with(r#"{"v":"ti.decision.v1","id":""#) && line.len() <= 2_048);
/// assert!(!line.contains("sky"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Trace {
    /// The service's id of the call; `None` if it never came to one.
    pub id: Option<RequestId>,
    /// When it was ranked (UTC).
    pub at: Option<SystemTime>,
    /// The choice, if there was one.
    pub decision: Option<Arc<Decision>>,
    /// Every attempt, in order.
    pub attempts: Arc<[Attempt]>,
    /// How it ended: where the answer came from, or the kind of the error.
    pub end: Box<str>,
    /// The route that answered.
    pub route: Option<RouteId>,
    /// What all of it cost.
    pub cost: Cost,
}

impl Trace {
    fn of(&self, shown: usize) -> Map<String, Value> {
        let mut line = Map::new();
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                line.insert(name.to_owned(), value);
            }
        };
        put("v", json!("ti.decision.v1"));
        put("id", json!(self.id.map(|id| id.to_string())));
        let at = self.at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        put("at", json!(at.map(|at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX))));
        if let Some(decision) = &self.decision {
            put("policy", json!(cut(&decision.policy, 48)));
            put("task", json!(decision.task.as_str()));
            put("priority", json!(decision.priority.as_str()));
            put("tier", json!(decision.tier.as_str()));
            put("why", json!(cut(&decision.reason, 160)));
            let ranked: Vec<_> = decision.ranked.iter().take(shown).map(considered).collect();
            put("candidates", json!(ranked));
            put("more", more(decision.ranked.len(), shown));
            let rejected = decision
                .rejected
                .iter()
                .take(shown)
                .map(|(route, why)| json!([cut(&route.to_string(), 80), cut(&why.to_string(), 48)]));
            put("rejected", json!(rejected.collect::<Vec<_>>()));
            put("more_rejected", more(decision.rejected.len(), shown));
        }
        put("attempts", json!(self.attempts.iter().map(attempt).collect::<Vec<_>>()));
        put("end", json!(cut(&self.end, 48)));
        put("route", json!(self.route.as_ref().map(|route| cut(&route.to_string(), 120))));
        put("cost", json!(self.cost.to_string()));
        line
    }

    /// As much of it as fits.
    fn fitting(&self) -> Map<String, Value> {
        let fits =
            |line: &Map<String, Value>| serde_json::to_string(line).is_ok_and(|text| text.len() <= MAX_TRACE_BYTES);
        (0..=SHOWN).rev().map(|shown| self.of(shown)).find(fits).unwrap_or_else(|| {
            let mut least = self.of(0);
            least.remove("attempts");
            least
        })
    }
}

fn more(all: usize, shown: usize) -> Value {
    if all > shown { json!(all - shown) } else { Value::Null }
}

fn considered(one: &super::Considered) -> Value {
    let rounded = |value: f64| (value * 1_000.0).round() / 1_000.0;
    json!({
        "route": cut(&one.route.to_string(), 80),
        "cost": one.expected_cost.map(crate::types::Usd::nanos),
        "s": rounded(one.expected_seconds),
        "p": rounded(one.success),
        "n": one.results,
        "score": rounded(one.score),
    })
}

fn attempt(one: &Attempt) -> Value {
    let millis = u64::try_from(one.took.as_millis()).unwrap_or(u64::MAX);
    json!([
        cut(&one.route.to_string(), 80),
        one.error.map_or("answered", |kind| kind.as_str()),
        millis,
        one.cost.to_string()
    ])
}

/// The text, or as much of it as fits, and always as short in JSON.
fn cut(text: &str, most: usize) -> String {
    let plain = text.chars().filter(|char| !char.is_control() && *char != '"' && *char != '\\');
    let mut left = most;
    plain
        .take_while(|char| {
            let fits = char.len_utf8() <= left;
            left = left.saturating_sub(char.len_utf8());
            fits
        })
        .collect()
}

impl Serialize for Trace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let line = self.fitting();
        let mut map = serializer.serialize_map(Some(line.len()))?;
        // The version first, whatever order another crate's features give the map.
        for (name, value) in line.iter().filter(|(name, _)| *name == "v") {
            map.serialize_entry(name, value)?;
        }
        for (name, value) in line.iter().filter(|(name, _)| *name == "id") {
            map.serialize_entry(name, value)?;
        }
        for (name, value) in line.iter().filter(|(name, _)| !["v", "id"].contains(&name.as_str())) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The line.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        serde_json::to_string(self).map_err(|_| fmt::Error).and_then(|line| f.write_str(&line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Priority, Task, Tier, Usd,
        inference::{Considered, Rejection},
    };

    #[test]
    fn a_trace_is_small_whatever_it_is_made_of() {
        for (routes, length) in [(0, 1), (5, 20), (50, 60), (50, 4_000)] {
            for char in ["x", "\"", "é", "🙂", "\n"] {
                let route = |n: usize| RouteId::new("together", format!("{n}{}", char.repeat(length)));
                let long = char.repeat(length);
                let mut decision = Decision::new("catalog", Task::Chat, Priority::Standard, Tier::Mid, long.as_str());
                decision.ranked = (0..routes).map(|n| Considered::new(route(n), Tier::Mid, -1.5)).collect();
                decision.rejected = (0..routes).map(|n| (route(n), Rejection::Other(long.as_str().into()))).collect();
                let one = Attempt {
                    route: route(0),
                    error: None,
                    status: Some(200),
                    took: std::time::Duration::from_secs(1),
                    cost: Cost::Known(Usd::ZERO),
                };
                let trace = Trace {
                    id: Some(RequestId::new(7)),
                    at: Some(SystemTime::UNIX_EPOCH),
                    decision: Some(Arc::new(decision)),
                    attempts: vec![one; 3].into(),
                    end: "cache".into(),
                    route: Some(route(0)),
                    cost: Cost::Known(Usd::ZERO),
                };
                let line = trace.to_string();
                assert!(line.len() <= MAX_TRACE_BYTES, "{routes} {length} {char:?}: {}", line.len());
                let read: Value = serde_json::from_str(&line).unwrap();
                assert_eq!((&read["end"], read["attempts"].as_array().unwrap().len()), (&json!("cache"), 3));
                let shown = read["candidates"].as_array().unwrap().len() as u64;
                assert_eq!(shown + read["more"].as_u64().unwrap_or(0), routes as u64);
            }
        }
    }
}
