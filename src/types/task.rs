//! What is asked for, and how urgently.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The kind of work; a model serves one or more of them.
///
/// ```
/// use together_inference::Task;
///
/// assert_eq!("code".parse::<Task>()?, Task::Code);
/// assert_eq!(Task::Embedding.to_string(), "embedding");
/// assert_eq!(serde_json::to_string(&Task::Chat)?, "\"chat\"");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Task {
    /// Conversation.
    Chat,
    /// Writing and reading source code.
    Code,
    /// Vectors of texts.
    Embedding,
    /// Pictures from text.
    Image,
    /// Ordering documents by relevance.
    Rerank,
}

/// How urgent a request is. It picks the tier unless the request names one, and orders waiting requests.
///
/// ```
/// use together_inference::Priority;
///
/// assert_eq!("realtime".parse::<Priority>()?, Priority::Realtime);
/// assert_eq!(Priority::default(), Priority::Standard);
/// assert!(Priority::Realtime < Priority::Batch, "the most urgent first");
/// # Ok::<(), together_inference::types::ParseTaskError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Priority {
    /// Somebody is waiting: large models, 60 s.
    Realtime,
    /// The default: mid-size models, 120 s.
    #[default]
    Standard,
    /// Nobody is waiting: small models.
    Batch,
}

/// The size class of a model.
///
/// ```
/// use together_inference::Tier;
///
/// assert!(Tier::Small < Tier::Mid && Tier::Mid < Tier::Large);
/// assert_eq!(serde_json::from_str::<Tier>("\"mid\"")?, Tier::Mid);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Tier {
    /// Cheapest.
    Small,
    /// Between.
    Mid,
    /// Strongest.
    Large,
}

/// The text is not one of the values.
///
/// ```
/// use together_inference::Priority;
///
/// let error = "urgent".parse::<Priority>().unwrap_err();
/// assert_eq!(error.to_string(), "unknown priority \"urgent\": one of realtime, standard, batch");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {value:?}: one of {choices}")]
pub struct ParseTaskError {
    what: &'static str,
    value: String,
    choices: &'static str,
}

impl Task {
    /// The lower-case name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Code => "code",
            Self::Embedding => "embedding",
            Self::Image => "image",
            Self::Rerank => "rerank",
        }
    }
}

impl Priority {
    /// The lower-case name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Realtime => "realtime",
            Self::Standard => "standard",
            Self::Batch => "batch",
        }
    }

    /// The tier that this priority picks: realtime → large, standard → mid, batch → small.
    ///
    /// ```
    /// use together_inference::{Priority, Tier};
    ///
    /// assert_eq!(Priority::Realtime.tier(), Tier::Large);
    /// assert_eq!(Priority::Batch.tier(), Tier::Small);
    /// ```
    #[must_use]
    pub const fn tier(self) -> Tier {
        match self {
            Self::Realtime => Tier::Large,
            Self::Standard => Tier::Mid,
            Self::Batch => Tier::Small,
        }
    }
}

impl Tier {
    /// The lower-case name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Mid => "mid",
            Self::Large => "large",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Task {
    type Err = ParseTaskError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Chat, Self::Code, Self::Embedding, Self::Image, Self::Rerank]
            .into_iter()
            .find(|task| task.as_str() == text)
            .ok_or_else(|| ParseTaskError {
                what: "task",
                value: text.to_owned(),
                choices: "chat, code, embedding, image, rerank",
            })
    }
}

impl FromStr for Priority {
    type Err = ParseTaskError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Realtime, Self::Standard, Self::Batch].into_iter().find(|priority| priority.as_str() == text).ok_or_else(
            || ParseTaskError { what: "priority", value: text.to_owned(), choices: "realtime, standard, batch" },
        )
    }
}
