//! What the simulator was asked.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use http::{HeaderMap, HeaderValue, Method, header::AUTHORIZATION};
use serde_json::Value;

use super::pattern::fits;

/// A request as it arrived. Cloning is cheap but for the headers.
///
/// `Debug` shows no key.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{client::ChatRequest, testing::Together};
///
/// let together = Together::new();
/// together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi").max_tokens(8)).await?;
/// let asked = &together.requests()[0];
/// assert_eq!((&*asked.path, asked.body["max_tokens"].as_u64()), ("/v1/chat/completions", Some(8)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recorded {
    /// The method.
    pub method: Method,
    /// The path of the URL, without its query.
    pub path: String,
    /// The headers; the value of `authorization` is replaced by `[redacted]`.
    pub headers: HeaderMap,
    /// The body; a string when it is not JSON, `null` when it is empty. Of an upload, its fields and how many bytes
    /// the file has.
    pub body: Arc<Value>,
    key: Key,
}

/// The fingerprint of a bearer key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(Option<blake3::Hash>);

impl Key {
    /// The bearer key in these headers; none when it is missing or empty.
    pub(super) fn in_headers(headers: &HeaderMap) -> Self {
        let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = value.and_then(|value| value.split_once(' '));
        let key = key.filter(|(scheme, key)| scheme.eq_ignore_ascii_case("bearer") && !key.trim().is_empty());
        Self(key.map(|(_, key)| blake3::hash(key.trim().as_bytes())))
    }

    pub(super) fn new(key: &str) -> Self {
        Self(Some(blake3::hash(key.as_bytes())))
    }

    pub(super) const fn is_present(self) -> bool {
        self.0.is_some()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_present() { "[redacted]" } else { "none" })
    }
}

impl Recorded {
    pub(super) fn new(method: Method, path: &str, mut headers: HeaderMap, body: Arc<Value>) -> Self {
        let key = Key::in_headers(&headers);
        if let Some(value) = headers.get_mut(AUTHORIZATION) {
            *value = HeaderValue::from_static("[redacted]");
        }
        Self { method, path: path.to_owned(), headers, body, key }
    }

    /// Whether the request carried this bearer key.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await?;
    /// let asked = &together.requests()[0];
    /// assert!(asked.had_key("simulated") && !asked.had_key("another"));
    /// assert_eq!(asked.headers["authorization"], "[redacted]");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn had_key(&self, key: &str) -> bool {
        self.key == Key::new(key)
    }
}

/// The latest requests, and counts of all.
#[derive(Debug, Default)]
pub(super) struct Log {
    latest: VecDeque<Recorded>,
    calls: u64,
    calls_to: BTreeMap<String, u64>,
    /// Requests by method and path, with `*` for ids.
    places: BTreeMap<String, u64>,
}

impl Log {
    /// Requests kept, so that a long load test does not eat the memory.
    const KEPT: usize = 10_000;

    pub(super) fn push(&mut self, request: Recorded, place: String) {
        *self.places.entry(place).or_default() += 1;
        if self.latest.len() == Self::KEPT {
            self.latest.pop_front();
        }
        self.latest.push_back(request);
    }

    /// Counts an inference call that asked for this model.
    pub(super) fn count(&mut self, model: &str) {
        self.calls += 1;
        if let Some(calls) = self.calls_to.get_mut(model) {
            *calls += 1;
        } else {
            self.calls_to.insert(model.to_owned(), 1);
        }
    }

    /// How many requests arrived at the places that a pattern fits.
    pub(super) fn asked(&self, pattern: &str) -> u64 {
        self.places.iter().filter(|(place, _)| fits(pattern, place)).map(|(_, count)| count).sum()
    }

    pub(super) fn latest(&self) -> Vec<Recorded> {
        self.latest.iter().cloned().collect()
    }

    pub(super) const fn calls(&self) -> u64 {
        self.calls
    }

    pub(super) fn calls_to(&self, model: &str) -> u64 {
        self.calls_to.get(model).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recognised_but_never_shown() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer very-secret"));
        let recorded = Recorded::new(Method::POST, "/v1", headers, Arc::new(Value::Null));
        assert!(recorded.had_key("very-secret") && !recorded.had_key("other"));
        assert!(!format!("{recorded:?}").contains("very-secret"));
    }
}
