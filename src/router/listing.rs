//! What lists say of models, and by whose word something is known.

use serde::{Deserialize, Serialize};

use super::{Capabilities, Known, ModelRoute, RouteState};
use crate::types::{Price, RouteId, Task};

/// Whose word something is; a later one wins over an earlier one.
///
/// ```
/// use together_inference::router::Word;
///
/// assert!(Word::User > Word::Learned && Word::Learned > Word::SupportedModels);
/// assert!(Word::SupportedModels > Word::ModelList && Word::ModelList > Word::Snapshot);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Word {
    /// The catalogue that ships, or a file.
    #[default]
    Snapshot,
    /// `/v1/models`.
    ModelList,
    /// `/v2/supported-models`.
    SupportedModels,
    /// A refusal that named a parameter; forgotten after a day.
    Learned,
    /// The application.
    User,
}

/// An ability that a request may need of a model.
///
/// ```
/// use together_inference::router::Ability;
///
/// assert_eq!(Ability::of_parameter("tool_choice"), Some(Ability::Tools));
/// assert_eq!(Ability::of_parameter("temperature"), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Ability {
    /// Calling tools.
    Tools,
    /// Answering in JSON of a schema.
    JsonSchema,
    /// Reading pictures.
    Vision,
    /// Reasoning.
    Reasoning,
}

impl Ability {
    /// The ability that a request parameter needs, if it is one.
    #[must_use]
    pub fn of_parameter(name: &str) -> Option<Self> {
        // `tools[0].function`, `messages.1.content.0.image_url`: the first word says it, or the last.
        let mut words = name.split(['.', '[', ']']).filter(|word| !word.is_empty());
        let first = words.next()?;
        match (first, words.next_back().unwrap_or(first)) {
            ("tools" | "tool_choice" | "functions" | "function_call" | "parallel_tool_calls", _) => Some(Self::Tools),
            ("response_format", _) => Some(Self::JsonSchema),
            ("reasoning" | "reasoning_effort" | "thinking", _) => Some(Self::Reasoning),
            (_, "image_url" | "image") => Some(Self::Vision),
            _ => None,
        }
    }
}

/// By whose word each ability is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Words {
    /// Of calling tools.
    pub tools: Word,
    /// Of answering in JSON of a schema.
    pub json_schema: Word,
    /// Of reading pictures.
    pub vision: Word,
    /// Of reasoning.
    pub reasoning: Word,
}

impl Words {
    /// Everything by one word.
    #[must_use]
    pub const fn all(word: Word) -> Self {
        Self { tools: word, json_schema: word, vision: word, reasoning: word }
    }
}

/// What a list says of one model: take it over with [`ModelRouter::hear`](super::ModelRouter::hear).
///
/// ```
/// use together_inference::{RouteId, Task, router::{Known, Listing, Word}};
///
/// let mut listing = Listing::new(RouteId::new("local", "qwen3-8b"), Word::ModelList).task(Task::Chat);
/// listing.capabilities.tools = Known::Yes;
/// assert!(listing.callable);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Listing {
    /// Which model, where.
    pub route: RouteId,
    /// Whose word it is.
    pub word: Word,
    /// What it serves; nothing if the list does not say.
    pub tasks: Vec<Task>,
    /// Its price, where the list says one.
    pub price: Option<Price>,
    /// Whether the list says zero instead, which is not free: nobody knows its price. One that is silent says nothing.
    #[serde(default)]
    pub zero: bool,
    /// Tokens of prompt and answer together.
    pub context: Option<u32>,
    /// What it can do; unknown where the list does not say.
    pub capabilities: Capabilities,
    /// Whether it can surely be called as it is.
    pub callable: bool,
    /// Whether it is going to be removed.
    pub deprecated: bool,
}

impl Listing {
    /// A model of which nothing more is said.
    #[must_use]
    pub fn new(route: RouteId, word: Word) -> Self {
        Self {
            route,
            word,
            tasks: Vec::new(),
            price: None,
            zero: false,
            context: None,
            capabilities: Capabilities::default(),
            callable: true,
            deprecated: false,
        }
    }

    /// Adds a task that it serves.
    #[must_use]
    pub fn task(mut self, task: Task) -> Self {
        self.tasks.push(task);
        self
    }

    /// The route that a model not known before becomes: one that may not be callable is a preview, to be named.
    pub(super) fn to_route(&self) -> ModelRoute {
        let mut route = ModelRoute::new(self.route.upstream(), self.route.model()).tasks(self.tasks.iter().copied());
        route.words = Words::all(Word::Snapshot);
        route.by_user = false;
        route.state = if self.callable { RouteState::Live } else { RouteState::Preview };
        self.told(&route)
    }

    /// The route with what is said here, where nobody with a better word has spoken.
    pub(super) fn told(&self, route: &ModelRoute) -> ModelRoute {
        let mut told = route.clone();
        let Capabilities { tools, json_schema, vision, reasoning } = self.capabilities;
        let (can, by) = (&mut told.capabilities, &mut told.words);
        for (known, said, by) in [
            (&mut can.tools, tools, &mut by.tools),
            (&mut can.json_schema, json_schema, &mut by.json_schema),
            (&mut can.vision, vision, &mut by.vision),
            (&mut can.reasoning, reasoning, &mut by.reasoning),
        ] {
            if said != Known::Unknown && self.word >= *by {
                (*known, *by) = (said, self.word);
            }
        }
        told.deprecated = told.deprecated || self.deprecated;
        if route.by_user {
            told.context = told.context.or(self.context);
            told.price = told.price.or(self.price);
            return told;
        }
        told.context = self.context.or(told.context);
        told.price = self.price.or(told.price);
        told
    }
}

impl ModelRoute {
    pub(super) const fn ability(&mut self, ability: Ability) -> (&mut Known, &mut Word) {
        let (can, by) = (&mut self.capabilities, &mut self.words);
        match ability {
            Ability::Tools => (&mut can.tools, &mut by.tools),
            Ability::JsonSchema => (&mut can.json_schema, &mut by.json_schema),
            Ability::Vision => (&mut can.vision, &mut by.vision),
            Ability::Reasoning => (&mut can.reasoning, &mut by.reasoning),
        }
    }
}
