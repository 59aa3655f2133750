//! What the model works on, and the requests that begin with it.

use serde::{Deserialize, Serialize};

use super::InferenceRequest;
use crate::{
    client::{ChatInput, Content, Document, EmbeddingInput, ImageInput, Message, PromptInput, RerankInput},
    types::Task,
};

/// What the model works on.
///
/// ```
/// use together_inference::{InferenceRequest, inference::Input};
///
/// let request = InferenceRequest::embedding(["the sky", "the sea"]);
/// assert!(matches!(request.input(), Input::Embedding(input) if input.texts.len() == 2));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "conversations are the rule: a box would cost each an allocation")]
#[non_exhaustive]
pub enum Input {
    /// A conversation.
    Chat(ChatInput),
    /// A prompt to continue as it is, without a chat template.
    Prompt(PromptInput),
    /// Texts to embed.
    Embedding(EmbeddingInput),
    /// A picture to make.
    Image(ImageInput),
    /// Documents to order.
    Rerank(RerankInput),
}

impl Input {
    /// Nothing yet, of the kind that the task works on.
    fn of(task: Task) -> Self {
        match task {
            Task::Chat | Task::Code => Self::Chat(ChatInput::default()),
            Task::Embedding => Self::Embedding(EmbeddingInput::default()),
            Task::Image => Self::Image(ImageInput::default()),
            Task::Rerank => Self::Rerank(RerankInput::default()),
        }
    }

    /// Whether a request for the task can have it.
    pub(super) const fn fits(&self, task: Task) -> bool {
        matches!(
            (self, task),
            (Self::Chat(_) | Self::Prompt(_), Task::Chat | Task::Code)
                | (Self::Embedding(_), Task::Embedding)
                | (Self::Image(_), Task::Image)
                | (Self::Rerank(_), Task::Rerank)
        )
    }

    /// The text, where a single one is all that is set.
    fn lone_text(&self) -> Option<&str> {
        let (text, fresh) = match self {
            Self::Chat(input) => {
                let [Message { content: Some(Content::Text(text)), .. }] = &input.messages[..] else { return None };
                (text, Self::of(Task::Chat))
            }
            Self::Prompt(input) => (&input.prompt, Self::Prompt(PromptInput::default())),
            Self::Image(input) => (&input.prompt, Self::of(Task::Image)),
            Self::Embedding(input) => (input.texts.first()?, Self::of(Task::Embedding)),
            Self::Rerank(_) => return None,
        };
        // What else is set would be lost on the way.
        (fresh.prompt(text.as_str()) == *self).then_some(text)
    }

    fn prompt(mut self, text: impl Into<String>) -> Self {
        match &mut self {
            Self::Chat(input) => input.push(Message::user(text.into())),
            Self::Prompt(input) => input.prompt = text.into(),
            Self::Embedding(input) => input.texts.push(text.into()),
            Self::Image(input) => input.prompt = text.into(),
            Self::Rerank(input) => input.query = text.into(),
        }
        self
    }
}

/// Requests by what they begin with.
impl InferenceRequest {
    /// A request without content for this task: [`prompt`](Self::prompt) and the other setters add it.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, Task, client::Message};
    ///
    /// let history = [Message::user("2 + 2?"), Message::assistant("4"), Message::user("And twice that?")];
    /// let request = InferenceRequest::new(Task::Chat).messages(history);
    /// assert_eq!(request.as_chat().unwrap().messages.len(), 3);
    /// InferenceRequest::new(Task::Image).prompt("a lighthouse at dusk").validate()?;
    /// # Ok::<(), together_inference::inference::InvalidRequest>(())
    /// ```
    #[must_use]
    pub fn new(task: Task) -> Self {
        Self::with_input(task, Input::of(task))
    }

    /// A conversation that starts with this user's turn.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("Why is the sky blue?");
    /// assert_eq!(request, "Why is the sky blue?".into());
    /// ```
    pub fn chat(user: impl Into<Content>) -> Self {
        Self::new(Task::Chat).user(user)
    }

    /// The same for a model that is good at source code.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, Task};
    ///
    /// assert_eq!(InferenceRequest::code("Reverse a list in Rust.").task_of(), Task::Code);
    /// ```
    pub fn code(user: impl Into<Content>) -> Self {
        Self::new(Task::Code).user(user)
    }

    /// A text for the model to continue as it is, without a chat template.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let together = Together::new();
    /// together.on("Once upon").reply(" a time.");
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let reply = service.complete(InferenceRequest::raw_prompt("Once upon")).await?;
    /// assert_eq!(reply.text(), " a time.");
    /// # Ok(())
    /// # }
    /// ```
    pub fn raw_prompt(prompt: impl Into<String>) -> Self {
        PromptInput::new(prompt).into()
    }

    /// Texts to embed: each becomes one vector.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, Task};
    ///
    /// assert_eq!(InferenceRequest::embedding(["the sky", "the sea"]).task_of(), Task::Embedding);
    /// ```
    pub fn embedding<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        EmbeddingInput::new(texts).into()
    }

    /// A picture to make.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, client::ImageInput};
    ///
    /// let request = InferenceRequest::image_generation(ImageInput::new("a lighthouse at dusk").size(512, 384));
    /// request.validate()?;
    /// # Ok::<(), together_inference::inference::InvalidRequest>(())
    /// ```
    pub fn image_generation(image: impl Into<ImageInput>) -> Self {
        image.into().into()
    }

    /// Documents to order by their relevance to a query.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, Task};
    ///
    /// let request = InferenceRequest::rerank("Where do llamas live?", ["In Peru.", "In a box."]);
    /// assert_eq!(request.task_of(), Task::Rerank);
    /// ```
    pub fn rerank<D: Into<Document>>(query: impl Into<String>, documents: impl IntoIterator<Item = D>) -> Self {
        RerankInput::new(query, documents).into()
    }

    /// Adds the text that a request is about: the picture to make, a text to embed, a text to continue, the query of a
    /// reranking, or else a user's turn.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, Task};
    ///
    /// let request = InferenceRequest::new(Task::Embedding).prompt("the sky").prompt("the sea");
    /// assert_eq!(request, InferenceRequest::embedding(["the sky", "the sea"]));
    /// ```
    #[must_use]
    pub fn prompt(self, text: impl Into<String>) -> Self {
        Self { input: self.input.prompt(text), ..self }
    }

    /// Another task for the same input. A single text, where nothing else is set, becomes what that task works on.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, Task};
    ///
    /// let embedded = InferenceRequest::chat("the sky").task(Task::Embedding);
    /// assert_eq!(embedded, InferenceRequest::embedding(["the sky"]));
    /// assert!(InferenceRequest::chat("a").user("b").task(Task::Embedding).validate().is_err());
    /// ```
    #[must_use]
    pub fn task(mut self, task: Task) -> Self {
        let moved = if self.input.fits(task) { None } else { self.input.lone_text().map(str::to_owned) };
        self.task = task;
        match moved {
            Some(text) if task != Task::Rerank => Self { input: Input::of(task).prompt(text), ..self },
            _ => self,
        }
    }
}

impl From<&str> for InferenceRequest {
    fn from(user: &str) -> Self {
        Self::chat(user)
    }
}

impl From<String> for InferenceRequest {
    fn from(user: String) -> Self {
        Self::chat(user)
    }
}

impl From<&Self> for InferenceRequest {
    fn from(request: &Self) -> Self {
        request.clone()
    }
}

impl From<ChatInput> for InferenceRequest {
    fn from(input: ChatInput) -> Self {
        Self::with_input(Task::Chat, Input::Chat(input))
    }
}

impl From<PromptInput> for InferenceRequest {
    fn from(input: PromptInput) -> Self {
        Self::with_input(Task::Chat, Input::Prompt(input))
    }
}

impl From<EmbeddingInput> for InferenceRequest {
    fn from(input: EmbeddingInput) -> Self {
        Self::with_input(Task::Embedding, Input::Embedding(input))
    }
}

impl From<ImageInput> for InferenceRequest {
    fn from(input: ImageInput) -> Self {
        Self::with_input(Task::Image, Input::Image(input))
    }
}

impl From<RerankInput> for InferenceRequest {
    fn from(input: RerankInput) -> Self {
        Self::with_input(Task::Rerank, Input::Rerank(input))
    }
}

/// A list of texts is a request for their vectors.
impl<const N: usize> From<[&str; N]> for InferenceRequest {
    fn from(texts: [&str; N]) -> Self {
        Self::embedding(texts)
    }
}

impl From<&[String]> for InferenceRequest {
    fn from(texts: &[String]) -> Self {
        Self::embedding(texts)
    }
}

impl From<Vec<String>> for InferenceRequest {
    fn from(texts: Vec<String>) -> Self {
        Self::embedding(texts)
    }
}
