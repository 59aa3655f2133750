//! What a request demands of a model.

use serde::{Deserialize, Serialize};

/// Whether the answer must be JSON.
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
