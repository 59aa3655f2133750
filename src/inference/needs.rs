//! What a request demands of a model.

use serde::{Deserialize, Serialize};

/// Whether the answer must be JSON.
///
/// ```
/// use together_inference::inference::JsonNeed;
///
/// assert!(JsonNeed::Schema > JsonNeed::Object && JsonNeed::Object > JsonNeed::None, "the stronger demand is greater");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum JsonNeed {
    /// Text will do.
    #[default]
    None,
    /// Any JSON object.
    Object,
    /// JSON of a schema.
    Schema,
}

/// What a model must be able to do to serve a request. Derived from the request; a caller may add more.
///
/// ```
/// use together_inference::{InferenceRequest, inference::Needs};
///
/// let request = InferenceRequest::chat("What is in it?").image_url("https://acme.example/cat.png");
/// assert_eq!(request.needs_of(), Needs::none().vision());
/// // What the request cannot show is added by the caller.
/// assert!(request.needs(Needs::none().reasoning()).needs_of().reasoning);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Needs {
    /// At least this many tokens of context.
    pub context: u32,
    /// Calls of tools.
    pub tools: bool,
    /// Pictures in the prompt.
    pub vision: bool,
    /// Answers in JSON.
    pub json: JsonNeed,
    /// Reasoning.
    pub reasoning: bool,
}

impl Needs {
    /// No demands.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Demands at least this many tokens of context.
    ///
    /// For a conversation that is going to grow: prompt and answer of this request are counted anyway.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, inference::Needs};
    ///
    /// let first_turn = InferenceRequest::chat("Here is the first of 40 files.").needs(Needs::none().context(500_000));
    /// assert_eq!(first_turn.needs_of().context, 500_000);
    /// ```
    #[must_use]
    pub const fn context(mut self, tokens: u32) -> Self {
        self.context = tokens;
        self
    }

    /// Demands calls of tools.
    #[must_use]
    pub const fn tools(mut self) -> Self {
        self.tools = true;
        self
    }

    /// Demands pictures in the prompt.
    #[must_use]
    pub const fn vision(mut self) -> Self {
        self.vision = true;
        self
    }

    /// Demands answers in JSON.
    #[must_use]
    pub const fn json(mut self, json: JsonNeed) -> Self {
        self.json = json;
        self
    }

    /// Demands reasoning.
    #[must_use]
    pub const fn reasoning(mut self) -> Self {
        self.reasoning = true;
        self
    }

    /// Both demands at once.
    ///
    /// The longer context, the stricter JSON, and every ability that either demands.
    ///
    /// ```
    /// use together_inference::inference::{JsonNeed, Needs};
    ///
    /// let both = Needs::none().context(8_000).json(JsonNeed::Object).and(Needs::none().context(32_000).tools());
    /// assert_eq!(both, Needs::none().context(32_000).json(JsonNeed::Object).tools());
    /// ```
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            context: self.context.max(other.context),
            tools: self.tools || other.tools,
            vision: self.vision || other.vision,
            json: self.json.max(other.json),
            reasoning: self.reasoning || other.reasoning,
        }
    }
}
