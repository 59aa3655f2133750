//! The content of a request: what is said to the model, and how it is to answer.
//!
//! Every setter names the inputs that have it; on another one it is remembered and refused when the request is used.

use serde_json::Value;

use super::{InferenceRequest, Input, request::Misfit};
use crate::client::{ChatInput, Content, JsonSchema, Message, Part, ResponseFormat, Tool, ToolChoice};

/// What is said, and how to answer.
impl InferenceRequest {
    /// Changes the conversation, if it is one.
    pub(super) fn chat_input(mut self, setter: &'static str, change: impl FnOnce(&mut ChatInput)) -> Self {
        match &mut self.input {
            Input::Chat(input) => change(input),
            _ => return self.misfits(setter),
        }
        self
    }

    /// Remembers a setter that does not fit the input; the first one is told.
    pub(super) fn misfits(mut self, setter: &'static str) -> Self {
        let problem = "does not fit what is asked; see the setter's documentation for the inputs that have it";
        self.misfit = self.misfit.or(Some(Misfit { setter, problem }));
        self
    }

    /// Puts instructions to the model before everything else; a second call replaces them.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, client::Message};
    ///
    /// let request = InferenceRequest::chat("hi").system("Be kind.").system("Be brief.");
    /// assert_eq!(request.as_chat().unwrap().messages, [Message::system("Be brief."), Message::user("hi")]);
    /// ```
    #[must_use]
    pub fn system(self, text: impl Into<Content>) -> Self {
        self.chat_input("system", |input| {
            let message = Message::system(text);
            match input.messages.first_mut() {
                Some(first) if first.role == crate::types::Role::System => *first = message,
                _ => input.messages.insert(0, message),
            }
        })
    }

    /// Appends a user's turn.
    #[must_use]
    pub fn user(self, content: impl Into<Content>) -> Self {
        self.message(Message::user(content))
    }

    /// Appends a turn.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, client::Message};
    ///
    /// let next = InferenceRequest::chat("2 + 2?").message(Message::assistant("4")).user("And twice that?");
    /// assert_eq!(next.as_chat().unwrap().messages.len(), 3);
    /// ```
    #[must_use]
    pub fn message(self, message: Message) -> Self {
        self.chat_input("message", |input| input.push(message))
    }

    /// Appends turns.
    #[must_use]
    pub fn messages(self, messages: impl IntoIterator<Item = Message>) -> Self {
        self.chat_input("messages", |input| input.messages.extend(messages))
    }

    /// Adds a picture, by URL, to the last user's turn.
    ///
    /// A `data:` URL will do as well. Without a user's turn the request is refused when it is used.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("What is in it?").image_url("https://acme.example/cat.png");
    /// assert!(request.needs_of().vision, "only models that read pictures are asked");
    ///
    /// let nowhere = InferenceRequest::new(together_inference::Task::Chat).image_url("https://acme.example/cat.png");
    /// assert_eq!(nowhere.validate().unwrap_err().field, "image_url");
    /// ```
    #[must_use]
    pub fn image_url(self, url: impl Into<String>) -> Self {
        self.part("image_url", Part::ImageUrl(url.into()))
    }

    /// Adds a picture of this media type (such as `image/png`) to the last user's turn, in the request itself.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("What is in it?").image(b"\x89PNG...", "image/png");
    /// assert!(request.needs_of().vision);
    /// ```
    #[must_use]
    pub fn image(self, bytes: impl AsRef<[u8]>, media_type: &str) -> Self {
        self.part("image", Part::image(bytes.as_ref(), media_type))
    }

    /// Adds a tool that the model may call. Nothing is called by this crate.
    ///
    /// ```
    /// use serde_json::json;
    /// use together_inference::{InferenceRequest, client::Tool};
    ///
    /// let city = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    /// let request = InferenceRequest::chat("Rain in Paris?").tool(Tool::function("weather", "The weather now", city));
    /// assert!(request.needs_of().tools);
    /// ```
    #[must_use]
    pub fn tool(self, tool: Tool) -> Self {
        self.tools([tool])
    }

    /// Adds tools that the model may call.
    #[must_use]
    pub fn tools(self, tools: impl IntoIterator<Item = Tool>) -> Self {
        self.chat_input("tools", |input| input.tools.extend(tools))
    }

    /// Whether and what the model must call.
    ///
    /// ```
    /// use serde_json::json;
    /// use together_inference::{InferenceRequest, client::{Tool, ToolChoice}};
    ///
    /// let request = InferenceRequest::chat("Rain in Paris?")
    ///     .tool(Tool::function("weather", "The weather now", json!({"type": "object"})))
    ///     .tool_choice(ToolChoice::Function("weather".into()));
    /// request.validate()?;
    /// # Ok::<(), together_inference::inference::InvalidRequest>(())
    /// ```
    #[must_use]
    pub fn tool_choice(self, choice: ToolChoice) -> Self {
        self.chat_input("tool_choice", |input| input.tool_choice = Some(choice))
    }

    /// The form of the answer.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, client::ResponseFormat, inference::JsonNeed};
    ///
    /// let request = InferenceRequest::chat("Three colours, as JSON.").response_format(ResponseFormat::JsonObject);
    /// assert_eq!(request.needs_of().json, JsonNeed::Object);
    /// ```
    #[must_use]
    pub fn response_format(self, format: ResponseFormat) -> Self {
        self.chat_input("response_format", |input| input.response_format = Some(format))
    }

    /// Asks for JSON of this schema; `complete_as` does it for a type.
    ///
    /// The name is 1 to 64 ASCII letters, digits, `_`, `-` or `.`.
    ///
    /// ```
    /// use serde_json::json;
    /// use together_inference::{InferenceRequest, inference::JsonNeed};
    ///
    /// let schema = json!({"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]});
    /// let request = InferenceRequest::chat("How long does a refund take?").json_schema("refund", schema);
    /// assert_eq!(request.needs_of().json, JsonNeed::Schema);
    /// ```
    #[must_use]
    pub fn json_schema(self, name: impl Into<String>, schema: Value) -> Self {
        self.response_format(ResponseFormat::JsonSchema(JsonSchema::strict(name, schema)))
    }

    /// Randomness, 0 to 2; 0.7 unless set. Answers at 0 are cached.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// InferenceRequest::chat("Why is the sky blue?").temperature(0.0).validate()?;
    /// let error = InferenceRequest::chat("Why is the sky blue?").temperature(2.5).validate().unwrap_err();
    /// assert_eq!(error.field, "temperature");
    /// # Ok::<(), together_inference::inference::InvalidRequest>(())
    /// ```
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> Self {
        match &mut self.input {
            Input::Chat(input) => input.temperature = Some(temperature),
            Input::Prompt(input) => input.temperature = Some(temperature),
            _ => return self.misfits("temperature"),
        }
        self
    }

    /// The most tokens of the answer, reasoning included.
    ///
    /// It bounds what the call may cost. Too few for a model that reasons leave no text: the answer ends with
    /// [`FinishReason::Length`](crate::FinishReason::Length).
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("hi").max_tokens(256);
    /// assert_eq!(request.as_chat().unwrap().max_tokens, Some(256));
    /// assert!(InferenceRequest::chat("hi").max_tokens(0).validate().is_err());
    /// ```
    #[must_use]
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        match &mut self.input {
            Input::Chat(input) => input.max_tokens = Some(tokens),
            Input::Prompt(input) => input.max_tokens = Some(tokens),
            _ => return self.misfits("max_tokens"),
        }
        self
    }

    /// The sampling seed.
    ///
    /// Providers take it as a wish: the same seed makes the same answer likely, not certain.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// assert_eq!(InferenceRequest::chat("hi").seed(7).as_chat().unwrap().seed, Some(7));
    /// ```
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        match &mut self.input {
            Input::Chat(input) => input.seed = Some(seed),
            Input::Prompt(input) => input.seed = Some(seed),
            Input::Image(input) => input.seed = Some(seed),
            _ => return self.misfits("seed"),
        }
        self
    }

    /// Texts that end the answer.
    ///
    /// A second call adds to the first.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("Count to ten.").stop(["five"]).stop(["six"]);
    /// assert_eq!(request.as_chat().unwrap().stop, ["five", "six"]);
    /// ```
    #[must_use]
    pub fn stop<S: Into<String>>(mut self, texts: impl IntoIterator<Item = S>) -> Self {
        let texts = texts.into_iter().map(Into::into);
        match &mut self.input {
            Input::Chat(input) => input.stop.extend(texts),
            Input::Prompt(input) => input.stop.extend(texts),
            _ => return self.misfits("stop"),
        }
        self
    }

    /// How many answers, 1 to 128.
    ///
    /// The tokens of every answer are billed, and count against [`max_cost`](Self::max_cost).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let reply = service.complete(InferenceRequest::chat("A name for a cat?").n(3)).await?;
    /// assert_eq!(reply.choices().len(), 3);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn n(mut self, answers: u32) -> Self {
        match &mut self.input {
            Input::Chat(input) => input.n = Some(answers),
            Input::Prompt(input) => input.n = Some(answers),
            Input::Image(input) => input.n = Some(answers),
            _ => return self.misfits("n"),
        }
        self
    }

    /// A field of the API that has no setter here, sent as it is.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("hi").extra("top_a", 0.2);
    /// assert_eq!(request.as_chat().unwrap().extra["top_a"], 0.2);
    /// assert!(InferenceRequest::chat("hi").extra("model", "other").validate().is_err());
    /// ```
    #[must_use]
    pub fn extra(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        let extra = match &mut self.input {
            Input::Chat(input) => &mut input.extra,
            Input::Prompt(input) => &mut input.extra,
            Input::Embedding(input) => &mut input.extra,
            Input::Image(input) => &mut input.extra,
            Input::Rerank(input) => &mut input.extra,
        };
        extra.insert(name.into(), value.into());
        self
    }

    /// Adds what is no text to the last of the user's turns.
    fn part(mut self, setter: &'static str, part: Part) -> Self {
        let Input::Chat(input) = &mut self.input else { return self.misfits(setter) };
        let Some(last) = input.messages.iter_mut().rfind(|message| message.role == crate::types::Role::User) else {
            let problem = "there is no user's turn to add it to; call user(..) first";
            self.misfit = self.misfit.or(Some(Misfit { setter, problem }));
            return self;
        };
        let mut parts = match last.content.take() {
            Some(Content::Text(text)) => vec![Part::Text(text)],
            Some(Content::Parts(parts)) => parts,
            None => Vec::new(),
        };
        parts.push(part);
        last.content = Some(Content::Parts(parts));
        self
    }
}
