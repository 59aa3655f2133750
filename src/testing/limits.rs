//! Requests per second and model, as the API measures them, and its prompt cache.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    ask::message_tokens,
    random::{Random, hash},
};

/// The limits that were set.
#[derive(Debug, Default)]
pub(super) struct Limits(BTreeMap<String, Window>);

/// A second of one model.
#[derive(Debug)]
struct Window {
    rate: u32,
    started: Option<Instant>,
    used: u32,
}

/// What a limited model says about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    pub(super) admitted: bool,
    limit: u32,
    remaining: u32,
    reset: Duration,
}

impl Limits {
    pub(super) fn set(&mut self, model: &str, rate: u32) {
        self.0.insert(model.to_owned(), Window { rate, started: None, used: 0 });
    }

    pub(super) fn lift(&mut self, model: &str) {
        self.0.remove(model);
    }

    /// Counts a request; `None` when the model has no limit. `second` is how long a second lasts here.
    pub(super) fn admit(&mut self, model: &str, now: Instant, second: Duration) -> Option<Admission> {
        let window = self.0.get_mut(model)?;
        let elapsed = window.started.map(|started| now.saturating_duration_since(started));
        let elapsed = elapsed.filter(|elapsed| *elapsed < second).unwrap_or_else(|| {
            window.started = Some(now);
            window.used = 0;
            Duration::ZERO
        });
        let admitted = window.used < window.rate;
        window.used += u32::from(admitted);
        let remaining = window.rate - window.used;
        Some(Admission { admitted, limit: window.rate, remaining, reset: second.saturating_sub(elapsed) })
    }
}

impl Admission {
    /// The headers of both documented generations.
    pub(super) fn headers(self) -> HeaderMap {
        let mut headers = self.reset_header();
        for (name, value) in [
            ("x-ratelimit-limit", self.limit),
            ("x-ratelimit-remaining", self.remaining),
            ("x-ratelimit-limit-dynamic", self.limit),
            ("x-ratelimit-remaining-dynamic", self.remaining),
        ] {
            headers.insert(HeaderName::from_static(name), value.into());
        }
        headers
    }

    /// `x-ratelimit-reset` alone: seconds, with a fraction.
    pub(super) fn reset_header(self) -> HeaderMap {
        let seconds = format!("{:.3}", self.reset.as_secs_f64());
        HeaderValue::from_str(&seconds)
            .into_iter()
            .map(|value| (HeaderName::from_static("x-ratelimit-reset"), value))
            .collect()
    }
}

/// Starts of conversations that were seen before.
#[derive(Debug, Default)]
pub(super) struct PromptCache(HashSet<u64>);

impl PromptCache {
    /// Starts kept; beyond it the cache begins anew.
    const KEPT: usize = 100_000;

    /// Tokens of the longest known start of these messages. Remembers all of its starts.
    pub(super) fn cached_tokens(&mut self, model: &str, messages: &[Value]) -> u64 {
        if self.0.len() > Self::KEPT {
            self.0.clear();
        }
        let (mut tokens, mut cached) = (0, 0);
        let mut start = hash(&Value::String(model.to_owned()));
        for message in messages {
            tokens += message_tokens(message);
            start = Random::new(start ^ hash(message)).next();
            if !self.0.insert(start) {
                cached = tokens;
            }
        }
        cached
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_second_admits_its_rate_and_says_when_the_next_begins() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        limits.set("m", 2);
        let mut admit = |millis| limits.admit("m", start + Duration::from_millis(millis), SECOND).unwrap();
        assert_eq!((admit(0).admitted, admit(400).admitted), (true, true));
        let refused = admit(400);
        assert!(!refused.admitted);
        assert_eq!(refused.reset_header()["x-ratelimit-reset"], "0.600");
        assert!(admit(1000).admitted);
        assert_eq!(admit(1000).headers()["x-ratelimit-remaining"], "0");
        assert_eq!(limits.admit("other", start, SECOND), None);
    }

    #[test]
    fn the_longest_known_start_is_cached() {
        let mut cache = PromptCache::default();
        let system = json!({"role": "system", "content": "abcd"});
        let (one, two) = (json!({"role": "user", "content": "one"}), json!({"role": "user", "content": "two"}));
        assert_eq!(cache.cached_tokens("m", &[system.clone(), one.clone()]), 0);
        assert_eq!(cache.cached_tokens("m", &[system.clone(), two]), 5);
        assert_eq!(cache.cached_tokens("m", &[system.clone(), one.clone()]), 10);
        assert_eq!(cache.cached_tokens("other", &[system, one]), 0);
    }
}
