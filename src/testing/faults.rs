//! What can go wrong, and when.

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::{
    endpoint::Endpoint,
    error::{ApiError, ErrorShape},
    pattern::fits,
    random::Random,
};

/// A failure to inject, see [`Together::fail_next`](super::Together::fail_next).
///
/// ```
/// use std::time::Duration;
/// use together_inference::testing::{ErrorShape, Fault};
///
/// let limited = Fault::status(429).retry_after(Duration::from_secs(2));
/// let gateway = Fault::status(524).shape(ErrorShape::Html);
/// # let _ = (limited, gateway);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    pub(super) effect: Effect,
    pub(super) headers: HeaderMap,
}

/// How a [`Fault`] shows.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// An error status.
    Error(ApiError),
    /// Status 200 with a body that is no answer.
    Nonsense(Cow<'static, str>),
    /// The connection can't be made.
    Refuse,
    /// The connection breaks before the status line.
    Break,
    /// Nothing, for ever.
    Hang,
    /// A stream that goes wrong on its way.
    Stream(StreamFault),
}

/// How a stream goes wrong, after that many chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamFault {
    Cut(usize),
    End(usize),
    Stall(usize),
    Error(usize),
}

impl Fault {
    /// An error response with this status, in the [`ErrorShape::Data`] shape and with the `type` the API uses for it.
    /// A number that is no HTTP status is taken as 500.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ChatRequest, ErrorKind}, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(3, Fault::status(503));
    /// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
    /// assert_eq!((error.kind(), together.calls()), (ErrorKind::Overloaded, 3));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let reason = status.canonical_reason().unwrap_or("the request failed");
        Self::of(Effect::Error(ApiError::new(status, reason)))
    }

    /// Status 200 whose body is `{"error":{…}}`; in a stream, a `data:` line with it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ChatRequest, ErrorKind}, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(3, Fault::error_in_ok());
    /// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
    /// assert_eq!((error.kind(), together.calls()), (ErrorKind::Server, 3));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn error_in_ok() -> Self {
        let error = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error");
        Self::nonsense(&json!({"error": error.data()}))
    }

    /// Status 200 with an answer that has no choices.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ChatRequest, ErrorKind}, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(3, Fault::empty_choices());
    /// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
    /// assert_eq!((error.kind(), together.calls()), (ErrorKind::Malformed, 3));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn empty_choices() -> Self {
        Self::nonsense(&json!({
            "id": "sim-empty", "object": "chat.completion", "created": 1_790_000_000, "model": "", "choices": [],
            "prompt": [], "usage": null,
        }))
    }

    /// Status 200 with the body `null`.
    #[must_use]
    pub fn null() -> Self {
        Self::nonsense(&Value::Null)
    }

    /// Status 200 with JSON that ends in the middle.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ChatRequest, ErrorKind}, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(3, Fault::garbage());
    /// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
    /// assert_eq!((error.kind(), together.calls()), (ErrorKind::Malformed, 3));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn garbage() -> Self {
        Self::of(Effect::Nonsense(Cow::Borrowed(r#"{"id":"sim-garbage","choices":[{"ind"#)))
    }

    /// The connection is refused: the request never arrived. On a socket it breaks instead, as
    /// [`disconnect`](Self::disconnect).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ChatRequest, ErrorKind}, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(3, Fault::refuse());
    /// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
    /// assert_eq!((error.kind(), together.calls()), (ErrorKind::Connect, 3));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn refuse() -> Self {
        Self::of(Effect::Refuse)
    }

    /// The connection breaks after the request was read, before any response.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ChatRequest, ErrorKind}, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(3, Fault::disconnect());
    /// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
    /// assert_eq!((error.kind(), together.calls()), (ErrorKind::Interrupted, 3));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn disconnect() -> Self {
        Self::of(Effect::Break)
    }

    /// The request is never answered.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use together_inference::{InferenceRequest, InferenceService, service::ErrorKind, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(1, Fault::hang());
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let request = InferenceRequest::chat("hi").model("zai-org/GLM-5.3").deadline(Duration::from_secs(5));
    /// assert_eq!(service.complete(request).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn hang() -> Self {
        Self::of(Effect::Hang)
    }

    /// The connection breaks after this many chunks of the stream. An answer in one piece is not affected, nor by the
    /// other stream faults.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(1, Fault::cut_after(3));
    /// let request = ChatRequest::new("zai-org/GLM-5.3").user("Tell me a story.");
    /// let mut stream = together.client().chat().stream(&request).await?;
    /// let mut deltas = 0;
    /// let error = loop {
    ///     match stream.next().await {
    ///         Some(Ok(_)) => deltas += 1,
    ///         Some(Err(error)) => break error,
    ///         None => return Err("the stream is whole".into()),
    ///     }
    /// };
    /// assert!(deltas > 0 && error.kind() == together_inference::client::ErrorKind::Interrupted);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn cut_after(chunks: usize) -> Self {
        Self::of(Effect::Stream(StreamFault::Cut(chunks)))
    }

    /// The stream ends cleanly, but without `[DONE]`, after this many chunks.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(1, Fault::end_after(3));
    /// let request = ChatRequest::new("zai-org/GLM-5.3").user("Tell me a story.");
    /// let mut stream = together.client().chat().stream(&request).await?;
    /// let mut deltas = 0;
    /// let error = loop {
    ///     match stream.next().await {
    ///         Some(Ok(_)) => deltas += 1,
    ///         Some(Err(error)) => break error,
    ///         None => return Err("the stream is whole".into()),
    ///     }
    /// };
    /// assert!(deltas > 0 && error.kind() == together_inference::client::ErrorKind::Interrupted);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn end_after(chunks: usize) -> Self {
        Self::of(Effect::Stream(StreamFault::End(chunks)))
    }

    /// The stream goes silent after this many chunks.
    #[must_use]
    pub fn stall_after(chunks: usize) -> Self {
        Self::of(Effect::Stream(StreamFault::Stall(chunks)))
    }

    /// The stream carries `data: {"error":{…}}` after this many chunks, and ends.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(1, Fault::error_after(3));
    /// let request = ChatRequest::new("zai-org/GLM-5.3").user("Tell me a story.");
    /// let mut stream = together.client().chat().stream(&request).await?;
    /// let mut deltas = 0;
    /// let error = loop {
    ///     match stream.next().await {
    ///         Some(Ok(_)) => deltas += 1,
    ///         Some(Err(error)) => break error,
    ///         None => return Err("the stream is whole".into()),
    ///     }
    /// };
    /// assert!(deltas > 0 && error.kind() == together_inference::client::ErrorKind::Server);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn error_after(chunks: usize) -> Self {
        Self::of(Effect::Stream(StreamFault::Error(chunks)))
    }

    /// The shape of the error body. Only for [`status`](Self::status) faults, as the next three.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ChatRequest, ErrorKind}, testing::{ErrorShape, Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(3, Fault::status(502).shape(ErrorShape::Html));
    /// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
    /// assert_eq!((error.kind(), together.calls()), (ErrorKind::Server, 3));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn shape(self, shape: ErrorShape) -> Self {
        self.error(|error| error.shape = shape)
    }

    /// The message of the error.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(1, Fault::status(400).message("no such voice"));
    /// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
    /// assert_eq!(error.message(), "no such voice");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn message(self, message: impl Into<String>) -> Self {
        self.error(|error| error.message = message.into().into())
    }

    /// The `type` of the error, such as `dynamic_token_limited`.
    #[must_use]
    pub fn kind(self, kind: impl Into<String>) -> Self {
        self.error(|error| error.kind = kind.into().into())
    }

    /// The `code` of the error.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(1, Fault::status(400).code("invalid_voice"));
    /// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
    /// assert_eq!(error.code(), Some("invalid_voice"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn code(self, code: impl Into<String>) -> Self {
        self.error(|error| error.code = Some(Cow::Owned(code.into())))
    }

    /// A response header. One that HTTP does not allow is left out.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            self.headers.insert(name, value);
        }
        self
    }

    /// `retry-after` in whole seconds, rounded up.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use together_inference::{client::ChatRequest, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(1, Fault::status(429).retry_after(Duration::from_secs(7)));
    /// let start = tokio::time::Instant::now();
    /// together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await?;
    /// assert!(start.elapsed() >= Duration::from_secs(7), "the hint is obeyed, in virtual time");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.header("retry-after", &seconds.to_string())
    }

    /// `retry-after-ms` in milliseconds.
    #[must_use]
    pub fn retry_after_ms(self, wait: Duration) -> Self {
        self.header("retry-after-ms", &wait.as_millis().to_string())
    }

    /// `x-ratelimit-reset` in seconds, with a fraction.
    #[must_use]
    pub fn rate_limit_reset(self, wait: Duration) -> Self {
        self.header("x-ratelimit-reset", &wait.as_secs_f64().to_string())
    }

    fn of(effect: Effect) -> Self {
        Self { effect, headers: HeaderMap::new() }
    }

    fn nonsense(body: &Value) -> Self {
        Self::of(Effect::Nonsense(Cow::Owned(body.to_string())))
    }

    fn error(mut self, change: impl FnOnce(&mut ApiError)) -> Self {
        if let Effect::Error(error) = &mut self.effect {
            change(error);
        }
        self
    }
}

impl From<ApiError> for Box<Fault> {
    fn from(error: ApiError) -> Self {
        Self::new(error.into())
    }
}

impl From<ApiError> for Fault {
    fn from(error: ApiError) -> Self {
        Self::of(Effect::Error(error))
    }
}

/// Every path that a model is called on.
pub(super) const ANY_MODEL: &str = "*";

/// Which requests a planned fault is for: those to `path`, and of them those for `model`.
#[derive(Debug)]
struct Planned {
    path: String,
    model: Option<String>,
    when: When,
    fault: Fault,
}

#[derive(Debug)]
enum When {
    Next(u32),
    Share(f64),
}

/// The faults to come, in the order they were planned.
#[derive(Debug)]
pub(super) struct Faults {
    planned: Vec<Planned>,
    random: Random,
}

impl Faults {
    pub(super) const fn new(seed: u64) -> Self {
        Self { planned: Vec::new(), random: Random::new(seed) }
    }

    pub(super) fn plan_next(&mut self, path: &str, model: Option<&str>, count: u32, fault: Fault) {
        self.plan(path, model, When::Next(count), fault);
    }

    pub(super) fn plan_share(&mut self, path: &str, model: Option<&str>, share: f64, fault: Fault) {
        self.plan(path, model, When::Share(share), fault);
    }

    fn plan(&mut self, path: &str, model: Option<&str>, when: When, fault: Fault) {
        self.planned.push(Planned { path: path.to_owned(), model: model.map(str::to_owned), when, fault });
    }

    pub(super) fn clear(&mut self) {
        self.planned.clear();
    }

    /// The fault for this request, if one is due.
    pub(super) fn take(&mut self, path: &str, model: &str) -> Option<Fault> {
        let Self { planned, random } = self;
        let due = planned.iter_mut().filter(|plan| plan.is_for(path, model)).find_map(|plan| plan.strike(random))?;
        // What is used up goes, or a long test would look through all that ever was.
        planned.retain(|plan| !matches!(plan.when, When::Next(0)));
        Some(due)
    }
}

impl Planned {
    fn is_for(&self, path: &str, model: &str) -> bool {
        (fits(&self.path, path) || self.path == ANY_MODEL && Endpoint::of(path).is_some())
            && self.model.as_deref().is_none_or(|wanted| wanted == model)
    }

    fn strike(&mut self, random: &mut Random) -> Option<Fault> {
        self.when.is_due(random).then(|| self.fault.clone())
    }
}

impl When {
    fn is_due(&mut self, random: &mut Random) -> bool {
        match self {
            Self::Next(left) => {
                let due = *left > 0;
                *left = left.saturating_sub(1);
                due
            }
            Self::Share(share) => random.unit() < *share,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planned_fault_strikes_as_often_as_planned_and_only_there() {
        let mut faults = Faults::new(1);
        faults.plan_next("/a", Some("m"), 2, Fault::status(500));
        assert!(faults.take("/b", "m").is_none());
        assert!(faults.take("/a", "other").is_none());
        assert!(faults.take("/a", "m").is_some());
        assert!(faults.take("/a", "m").is_some());
        assert!(faults.take("/a", "m").is_none());
    }

    #[test]
    fn a_share_strikes_about_that_often_and_the_same_way_for_a_seed() {
        let strikes = |seed| {
            let mut faults = Faults::new(seed);
            faults.plan_share("/a", None, 0.1, Fault::status(500));
            (0..1000).map(|_| faults.take("/a", "m").is_some()).collect::<Vec<_>>()
        };
        let count = strikes(1).iter().filter(|strike| **strike).count();
        assert!((70..130).contains(&count), "{count}");
        assert_eq!(strikes(1), strikes(1));
        assert_ne!(strikes(1), strikes(2));
    }

    #[test]
    fn hints_are_headers() {
        let fault = Fault::status(429)
            .retry_after(Duration::from_millis(1500))
            .retry_after_ms(Duration::from_millis(1500))
            .rate_limit_reset(Duration::from_millis(1500))
            .header("not a header", "x");
        assert_eq!(fault.headers.len(), 3);
        assert_eq!(fault.headers["retry-after"], "2");
        assert_eq!(fault.headers["retry-after-ms"], "1500");
        assert_eq!(fault.headers["x-ratelimit-reset"], "1.5");
    }
}
