//! Telling the simulator what to answer.

use std::fmt;

use serde_json::Value;

use super::{
    faults::Fault,
    script::{Cue, Reply},
    state::Shared,
};

/// The start of a script: when it applies. Its `reply…` methods say what happens then.
///
/// Of several scripts that apply, the one told last wins. A script answers any number of requests, unless
/// [`times`](Self::times) limits it.
///
/// ```
/// use together_inference::testing::Together;
///
/// let together = Together::new();
/// together.on("").reply("I don't know");
/// together.on("weather").reply_tool("get_weather", serde_json::json!({"city": "Paris"}));
/// together.on("refund").model("zai-org/GLM-5.3").times(1).fail(500);
/// ```
#[must_use = "a script without a reply does nothing"]
pub struct On<'t> {
    shared: &'t Shared,
    cue: Cue,
}

impl<'t> On<'t> {
    pub(super) fn text(shared: &'t Shared, text: String) -> Self {
        Self { shared, cue: Cue { text, ..Cue::default() } }
    }

    /// Only when this model is asked for.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.on("refund").model("zai-org/GLM-5.3").reply("5 days");
    /// together.on("refund").model("Qwen/Qwen3.7-Max").reply("a week");
    /// let answer = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("a refund")).await?;
    /// assert_eq!(answer.text(), "5 days");
    /// # Ok(())
    /// # }
    /// ```
    pub fn model(mut self, id: impl Into<String>) -> Self {
        self.cue.model = Some(id.into());
        self
    }

    /// Only for the next `count` requests it applies to.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.on("").reply("later");
    /// together.on("").times(1).reply("first");
    /// let (client, ask) = (together.client(), ChatRequest::new("zai-org/GLM-5.3").user("hi"));
    /// assert_eq!(client.chat().create(&ask).await?.text(), "first");
    /// assert_eq!(client.chat().create(&ask).await?.text(), "later");
    /// # Ok(())
    /// # }
    /// ```
    pub fn times(mut self, count: u32) -> Self {
        self.cue.times = Some(count);
        self
    }

    /// Answers with this text.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.on("refund").reply("5 days");
    /// let answer = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("a refund")).await?;
    /// assert_eq!(answer.text(), "5 days");
    /// # Ok(())
    /// # }
    /// ```
    pub fn reply(self, text: impl Into<String>) {
        self.tell(Reply::Text(text.into()));
    }

    /// Answers with this JSON as text.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.on("refund").reply_json(serde_json::json!({ "days": 5 }));
    /// let answer = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("a refund")).await?;
    /// assert_eq!(answer.text(), r#"{"days":5}"#);
    /// # Ok(())
    /// # }
    /// ```
    #[expect(clippy::needless_pass_by_value, reason = "callers write json!(..) in place")]
    pub fn reply_json(self, value: Value) {
        self.tell(Reply::Text(value.to_string()));
    }

    /// Calls this tool with these arguments.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.on("weather").reply_tool("get_weather", serde_json::json!({ "city": "Paris" }));
    /// let ask = ChatRequest::new("zai-org/GLM-5.3").user("How is the weather in Paris?");
    /// let answer = together.client().chat().create(&ask).await?;
    /// let call = &answer.choices[0].message.tool_calls[0];
    /// assert_eq!((call.name(), &*call.function.arguments), ("get_weather", r#"{"city":"Paris"}"#));
    /// # Ok(())
    /// # }
    /// ```
    pub fn reply_tool(self, name: impl Into<String>, arguments: Value) {
        self.reply_tools([(name, arguments)]);
    }

    /// Calls these tools with these arguments, all in one turn.
    pub fn reply_tools<N: Into<String>>(self, calls: impl IntoIterator<Item = (N, Value)>) {
        self.tell(Reply::Tools(calls.into_iter().map(|(name, arguments)| (name.into(), arguments)).collect()));
    }

    /// Thinks first, then answers with the text. Any model does so when it is scripted to.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.on("refund").reply_reasoning("The terms say five.", "5 days");
    /// let answer = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("a refund")).await?;
    /// assert_eq!(answer.text(), "5 days");
    /// assert_eq!(answer.choices[0].message.reasoning.as_deref(), Some("The terms say five."));
    /// # Ok(())
    /// # }
    /// ```
    pub fn reply_reasoning(self, thinking: impl Into<String>, text: impl Into<String>) {
        self.tell(Reply::Reasoning { thinking: thinking.into(), text: text.into() });
    }

    /// Answers with a text made from the body of the request.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.on("").reply_with(|body| format!("you asked {}", body["model"]));
    /// let answer = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("a refund")).await?;
    /// assert_eq!(answer.text(), r#"you asked "zai-org/GLM-5.3""#);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reply_with(self, answer: impl Fn(&Value) -> String + Send + Sync + 'static) {
        self.tell(Reply::With(Box::new(answer)));
    }

    /// Fails with this status.
    pub fn fail(self, status: u16) {
        self.fault(Fault::status(status));
    }

    /// Fails in this way.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.on("refund").times(1).fault(Fault::disconnect());
    /// let answer = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("a refund")).await?;
    /// assert!(!answer.text().is_empty());
    /// assert_eq!(together.calls(), 2, "the client asked again");
    /// # Ok(())
    /// # }
    /// ```
    pub fn fault(self, fault: Fault) {
        self.tell(Reply::Fail(fault));
    }

    fn tell(self, reply: Reply) {
        self.shared.lock().scripts.push(self.cue, reply);
    }
}

impl fmt::Debug for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("On").field("cue", &self.cue).finish_non_exhaustive()
    }
}
