//! Forms of an answer beside a JSON schema that the server enforces.

use super::InferenceRequest;
use crate::client::{Message, ResponseFormat};

impl InferenceRequest {
    /// Asks for a text that matches a regular expression. The server enforces it; it is not checked here.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let mood = InferenceRequest::chat("I love it!").system("The mood of this?").regex("(positive|negative)");
    /// assert_eq!(service.complete(mood).await?.text(), "positive");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn regex(self, pattern: impl Into<String>) -> Self {
        self.response_format(ResponseFormat::Regex(pattern.into()))
    }

    /// Puts the JSON schema into the prompt instead of having the server enforce it: for models that cannot.
    ///
    /// Without it, models that are known not to take a schema are left out. The answer is read, mended and, by
    /// [`complete_as`](crate::InferenceService::complete_as), asked for again in the same way.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, inference::JsonNeed};
    ///
    /// let request = InferenceRequest::chat("How long does a refund take?")
    ///     .json_schema("refund", serde_json::json!({"type": "object"}))
    ///     .json_by_prompt();
    /// assert_eq!(request.needs_of().json, JsonNeed::None, "any model will do");
    /// ```
    #[must_use]
    pub const fn json_by_prompt(mut self) -> Self {
        self.json_by_prompt = true;
        self
    }

    /// Moves the schema into the prompt, where the request asks for that.
    pub(crate) fn move_schema_into_prompt(&mut self) {
        if !self.json_by_prompt {
            return;
        }
        let super::Input::Chat(input) = &mut self.input else { return };
        let schema = match input.response_format.take() {
            Some(ResponseFormat::JsonSchema(schema)) => schema,
            other => {
                input.response_format = other;
                return;
            }
        };
        let instruction = format!(
            "Answer with one JSON document and nothing else: no explanation, no Markdown. It must be valid for this \
             JSON schema:\n{}",
            schema.schema
        );
        let after_system = input.messages.iter().take_while(|message| message.role == crate::types::Role::System);
        let at = after_system.count();
        input.messages.insert(at, Message::system(instruction));
    }
}
