//! How one call went, small enough to be kept of every call: the choice, its reasons, the attempts. No content.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value, json};

use super::{Attempt, Decision, JsonNeed, Needs};
use crate::types::{Cost, RequestId, RouteId, Usage};

/// The most bytes of a trace as JSON.
pub const MAX_TRACE_BYTES: usize = 2_048;
/// Candidates that are shown at first; fewer where they would be too long.
const SHOWN: usize = 8;
/// Attempts that are shown at first: a call of one part makes three at most.
const ATTEMPTS: usize = 4;

/// How one call went: what was chosen among what and why, each attempt, the end.
///
/// It serialises as one line of the form `ti.decision.v1`, at most [`MAX_TRACE_BYTES`] long: candidates, rejections and
/// attempts that do not fit are counted (`more`, `more_rejected`, `more_attempts`). It holds neither prompts nor answers.
/// There is no seed in it, for a ranking draws no lots: `settings` and `catalogue`, the numbers of the policy's settings and
/// of what it knew, and what it had learned (`s`, `p`, `n` of each candidate) are all that it depends on.
///
/// | field | is |
/// |---|---|
/// | `at` | when it was ranked, in milliseconds since 1970 |
/// | `policy`, `settings`, `catalogue` | who decided, by which settings, knowing which routes |
/// | `needs`, `tokens` | what was demanded; the most tokens of the prompt |
/// | `why`, `propensity` | why the first is first, and how likely it was to be |
/// | `candidates` | best first, each with its `state` and `price` (picodollars a token: in, out) and what follows |
/// | `terms`, `score` | quality, cost, latency and success as they were weighed, and their sum |
/// | `cost`, `s`, `p`, `n` | nanodollars and seconds expected; the chance of an answer, known from so many results |
/// | `attempts` | in order: `start`, `ttft`, `took` in milliseconds, `end`, `cost`, `served` if by another name, `probe`, |
/// | | `usage` (prompt, cached, completion, reasoning), `passed`: how many candidates before it took no call |
/// | `end`, `route`, `cost` | where the answer came from or the kind of the error, who answered, what all of it cost |
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
    /// The most tokens that the prompt was taken to have.
    pub prompt_tokens: u64,
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
    fn of(&self, shown: usize, attempts: usize) -> Map<String, Value> {
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
            put("settings", number(decision.settings));
            put("catalogue", number(decision.catalogue));
            put("task", json!(decision.task.as_str()));
            put("priority", json!(decision.priority.as_str()));
            put("tier", json!(decision.tier.as_str()));
            put("needs", needs(decision.needs));
            put("tokens", json!(self.prompt_tokens));
            put("propensity", json!(rounded(decision.propensity)));
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
        put("attempts", json!(self.attempts.iter().take(attempts).map(attempt).collect::<Vec<_>>()));
        put("more_attempts", more(self.attempts.len(), attempts));
        put("end", json!(cut(&self.end, 48)));
        put("route", json!(self.route.as_ref().map(|route| cut(&route.to_string(), 120))));
        put("cost", json!(self.cost.to_string()));
        line
    }

    /// As much of it as fits.
    fn fitting(&self) -> Map<String, Value> {
        let fits =
            |line: &Map<String, Value>| serde_json::to_string(line).is_ok_and(|text| text.len() <= MAX_TRACE_BYTES);
        // Candidates go first: what was tried says more.
        let fewer = (0..=SHOWN).rev().map(|shown| (shown, ATTEMPTS)).chain((0..ATTEMPTS).rev().map(|tried| (0, tried)));
        fewer.map(|(shown, tried)| self.of(shown, tried)).find(fits).unwrap_or_else(|| self.of(0, 0))
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// As text: not every reader of JSON keeps all digits of a number.
fn number(hash: u64) -> Value {
    if hash == 0 { Value::Null } else { json!(format!("{hash:016x}")) }
}

fn needs(needs: Needs) -> Value {
    let Needs { context, tools, vision, json, reasoning } = needs;
    let json = match json {
        JsonNeed::None => None,
        JsonNeed::Object => Some("json"),
        JsonNeed::Schema => Some("schema"),
    };
    let words = [tools.then_some("tools"), vision.then_some("vision"), json, reasoning.then_some("reasoning")];
    let mut words: Vec<Value> = words.into_iter().flatten().map(Value::from).collect();
    if context > 0 {
        words.push(json!(context));
    }
    if words.is_empty() { Value::Null } else { Value::Array(words) }
}

fn more(all: usize, shown: usize) -> Value {
    if all > shown { json!(all - shown) } else { Value::Null }
}

fn considered(one: &super::Considered) -> Value {
    json!({
        "route": cut(&one.route.to_string(), 80),
        "state": one.condition.as_str(),
        "price": one.price.map(|price| [price.input.picos(), price.output.picos()]),
        "terms": one.terms.map(rounded),
        "cost": one.expected_cost.map(crate::types::Usd::nanos),
        "s": rounded(one.expected_seconds),
        "p": rounded(one.success),
        "n": one.results,
        "score": rounded(one.score),
    })
}

fn attempt(one: &Attempt) -> Value {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let Usage { prompt, cached, completion, reasoning, .. } = one.usage;
    let served = one.served.as_ref().filter(|served| *served != one.route.model());
    let mut line = json!({
        "route": cut(&one.route.to_string(), 80),
        "start": millis(one.started),
        "took": millis(one.took),
        "end": one.error.map_or("answered", |kind| kind.as_str()),
        "usage": [prompt, cached, completion, reasoning],
        "cost": one.cost.to_string(),
    });
    if let Some(line) = line.as_object_mut() {
        let some = [
            ("ttft", one.first_token.map(|first| json!(millis(first)))),
            ("served", served.map(|served| json!(cut(served.as_str(), 80)))),
            ("probe", one.probe.then_some(json!(true))),
            ("passed", (one.passed_over > 0).then_some(json!(one.passed_over))),
        ];
        line.extend(some.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }
    line
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
        let sizes = [(0, 1, 1), (5, 20, 3), (50, 60, 3), (50, 4_000, 3), (50, 4_000, 300)];
        for (routes, length, attempts) in sizes {
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
                    started: Duration::ZERO,
                    took: Duration::from_secs(1),
                    first_token: Some(Duration::from_millis(7)),
                    usage: Usage { prompt: u64::MAX, cached: u64::MAX, completion: u64::MAX, ..Usage::default() },
                    served: Some(char.repeat(length).into()),
                    probe: true,
                    passed_over: u32::MAX,
                    cost: Cost::Known(Usd::ZERO),
                };
                decision.needs = Needs::none().tools().vision().json(JsonNeed::Schema).reasoning().context(u32::MAX);
                (decision.settings, decision.catalogue) = (u64::MAX, u64::MAX);
                let trace = Trace {
                    prompt_tokens: u64::MAX,
                    id: Some(RequestId::new(7)),
                    at: Some(SystemTime::UNIX_EPOCH),
                    decision: Some(Arc::new(decision)),
                    attempts: vec![one; attempts].into(),
                    end: "cache".into(),
                    route: Some(route(0)),
                    cost: Cost::Known(Usd::ZERO),
                };
                let line = trace.to_string();
                assert!(line.len() <= MAX_TRACE_BYTES, "{routes} {length} {char:?}: {}", line.len());
                let read: Value = serde_json::from_str(&line).unwrap();
                let tried = read["attempts"].as_array().unwrap().len();
                assert!(tried >= 2.min(attempts), "{line}");
                assert_eq!(tried as u64 + read["more_attempts"].as_u64().unwrap_or(0), attempts as u64);
                assert_eq!(read["end"], json!("cache"));
                let shown = read["candidates"].as_array().unwrap().len() as u64;
                assert_eq!(shown + read["more"].as_u64().unwrap_or(0), routes as u64);
            }
        }
    }
}
