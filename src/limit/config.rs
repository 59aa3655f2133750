//! What an application sets of a lane.

/// The bounds of a route. Each lane has its own: those of two routes, or of two services, are never shared.
///
/// What the provider allows needs no setting: it is read from its headers and learned from its refusals. Set a quota
/// where the provider's is known, or where a part of it is to be left for somebody else.
///
/// ```
/// use together_inference::{InferenceService, limit::Limits, testing::Together};
///
/// let limits = Limits::default().concurrency(8).requests_per_second(5).max_waiting(100);
/// let service = InferenceService::builder(Together::new().client()).limits(limits).build()?;
/// # let _ = service;
/// assert_eq!((limits.concurrency, limits.requests_per_second, limits.requests_per_minute), (8, Some(5), None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Attempts at a time: 64.
    pub concurrency: u32,
    /// Attempts a second; no quota unless set.
    pub requests_per_second: Option<u32>,
    /// Attempts a minute; no quota unless set.
    pub requests_per_minute: Option<u32>,
    /// Tokens a second, of prompts and answers together; no quota unless set.
    pub tokens_per_second: Option<u32>,
    /// Tokens a minute, of prompts and answers together; no quota unless set.
    pub tokens_per_minute: Option<u32>,
    /// Callers that wait at a time; more are refused at once: 1,024.
    pub max_waiting: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrency: 64,
            requests_per_second: None,
            requests_per_minute: None,
            tokens_per_second: None,
            tokens_per_minute: None,
            max_waiting: 1_024,
        }
    }
}

impl Limits {
    /// Sets how many attempts are out at a time.
    #[must_use]
    pub const fn concurrency(mut self, attempts: u32) -> Self {
        self.concurrency = attempts;
        self
    }

    /// Sets how many attempts go out a second. No second sees more, whenever it begins.
    ///
    /// A twentieth of them may go out at once, but one always; the others follow evenly.
    #[must_use]
    pub const fn requests_per_second(mut self, attempts: u32) -> Self {
        self.requests_per_second = Some(attempts);
        self
    }

    /// Sets how many attempts go out a minute. No minute sees more, whenever it begins.
    ///
    /// A twentieth of them may go out at once, but one always; the others follow evenly.
    ///
    /// ```
    /// use together_inference::{InferenceService, limit::Limits, testing::Together};
    ///
    /// let none = Limits::default().requests_per_minute(0);
    /// let error = InferenceService::builder(Together::new().client()).limits(none).build().unwrap_err();
    /// assert!(error.to_string().contains("requests_per_minute(0)"), "{error}");
    /// ```
    #[must_use]
    pub const fn requests_per_minute(mut self, attempts: u32) -> Self {
        self.requests_per_minute = Some(attempts);
        self
    }

    /// Sets how many tokens go out and come back a second.
    ///
    /// What an answer will use is estimated by those before it, and put right at its end: the quota holds on average, and
    /// one answer that is larger than it delays the next.
    #[must_use]
    pub const fn tokens_per_second(mut self, tokens: u32) -> Self {
        self.tokens_per_second = Some(tokens);
        self
    }

    /// Sets how many tokens go out and come back a minute, as [`tokens_per_second`](Self::tokens_per_second) does.
    #[must_use]
    pub const fn tokens_per_minute(mut self, tokens: u32) -> Self {
        self.tokens_per_minute = Some(tokens);
        self
    }

    /// Sets how many callers may wait at a time.
    ///
    /// ```
    /// use together_inference::limit::Limits;
    ///
    /// assert_eq!(Limits::default().max_waiting(0).max_waiting, 0, "nobody waits: refused at once");
    /// ```
    #[must_use]
    pub const fn max_waiting(mut self, callers: usize) -> Self {
        self.max_waiting = callers;
        self
    }

    /// The first bound that would let nothing out, by the name of its setter.
    pub(crate) fn stuck(&self) -> Option<&'static str> {
        let bounds = [
            ("concurrency", Some(self.concurrency)),
            ("requests_per_second", self.requests_per_second),
            ("requests_per_minute", self.requests_per_minute),
            ("tokens_per_second", self.tokens_per_second),
            ("tokens_per_minute", self.tokens_per_minute),
        ];
        bounds.into_iter().find(|(_, bound)| *bound == Some(0)).map(|(name, _)| name)
    }
}
