//! The paths that models are called on, and what each checks.

use http::StatusCode;

use super::{ask::Ask, embeddings, error::ApiError, images, models::SimModel, rerank, validate};

/// A path that a model is called on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
    Images,
    Rerank,
}

const ALL: [Endpoint; 5] =
    [Endpoint::Chat, Endpoint::Completions, Endpoint::Embeddings, Endpoint::Images, Endpoint::Rerank];

impl Endpoint {
    /// The one of a path, if it is one.
    pub(super) fn of(path: &str) -> Option<Self> {
        ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }

    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Images => "/v1/images/generations",
            Self::Rerank => "/v1/rerank",
        }
    }

    /// The `type`s of models that answer here.
    const fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Chat => &["chat", "moderation"],
            Self::Completions => &["chat", "language", "code"],
            Self::Embeddings => &["embedding"],
            Self::Images => &["image"],
            Self::Rerank => &["rerank"],
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Chat => "a chat",
            Self::Completions => "a language",
            Self::Embeddings => "an embedding",
            Self::Images => "an image",
            Self::Rerank => "a rerank",
        }
    }

    /// Checks a body without knowing its model.
    pub(super) fn validate(self, ask: Ask<'_>) -> Result<(), ApiError> {
        match self {
            Self::Chat => return validate::chat(ask),
            Self::Completions => return validate::completion(ask),
            _ => validate::model(ask)?,
        }
        match self {
            Self::Embeddings => embeddings::validate(ask),
            Self::Images => images::validate(ask),
            _ => rerank::validate(ask),
        }
    }

    /// What scripts are cued by.
    pub(super) fn text(self, ask: Ask<'_>) -> String {
        match self {
            Self::Chat | Self::Completions => ask.last_user_text().into_owned(),
            Self::Embeddings => embeddings::texts(ask).join("\n"),
            Self::Images => images::prompt(ask).to_owned(),
            Self::Rerank => rerank::query(ask).to_owned(),
        }
    }

    /// Checks whether the model can answer this.
    pub(super) fn suits(self, ask: Ask<'_>, model: &SimModel) -> Result<(), ApiError> {
        if !self.kinds().contains(&model.kind()) {
            let message = format!("{} is not {} model", model.id(), self.name());
            return Err(ApiError::bad_request("model", message));
        }
        if let Some(name) = model.lacks.iter().copied().find(|name| ask.field(name).is_some()) {
            let message = format!("{} does not support the parameter `{name}`", model.id());
            return Err(ApiError::bad_request(name, message).with_code("unsupported_parameter"));
        }
        match self {
            Self::Chat | Self::Completions => {
                if ask.has_image() && !model.sees {
                    let message = format!("{} does not support image input", model.id());
                    return Err(ApiError::bad_request("messages", message));
                }
                fits(ask, model)
            }
            Self::Embeddings => embeddings::fits(ask, model),
            Self::Images | Self::Rerank => Ok(()),
        }
    }
}

/// The API's rule, with its surprising status: prompt and `max_tokens` together must be below the context length.
fn fits(ask: Ask<'_>, model: &SimModel) -> Result<(), ApiError> {
    let (prompt, answer) = (ask.prompt_tokens(), ask.max_tokens().unwrap_or_default());
    if prompt.saturating_add(answer) < model.context || ask.truncates_context() {
        return Ok(());
    }
    let message = format!(
        "Input validation error: `inputs` tokens + `max_new_tokens` must be < {}. Given: {prompt} `inputs` tokens and \
         {answer} `max_new_tokens`",
        model.context
    );
    // Whoever asks for the error by name gets the status that the pages tell; others the one that is seen.
    let asked = ask.field("context_length_exceeded_behavior").is_some();
    let status = if asked { StatusCode::BAD_REQUEST } else { StatusCode::FORBIDDEN };
    Err(ApiError::new(status, message))
}
