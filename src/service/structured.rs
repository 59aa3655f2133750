//! Typed answers by JSON schema.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{Error, ErrorKind, InferenceService, Truncated};
use crate::{
    client::{JsonSchema as Schema, Message, ResponseFormat},
    inference::{Attempt, InferenceRequest, InferenceResponse, Parsed, parse_value, start_of},
    types::{Cost, FinishReason, Usd, later},
};

/// A typed answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Typed<T> {
    /// The value.
    pub value: T,
    /// The call that produced it. Where the model was asked again it is the second one; the first has records of its
    /// own.
    pub reply: InferenceResponse,
    /// What had to be done to get it.
    pub repair: Repair,
    /// What the call before the last one cost.
    before: Cost,
}

/// What had to be done to read a typed answer. Mending guesses: whoever must not rely on a guess looks here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Repair {
    /// Nothing.
    #[default]
    None,
    /// The text was not valid JSON and was mended: [`repair_json`](crate::inference::repair_json) says how.
    Mended,
    /// The first answer was of no use and the model was asked again, once.
    AskedAgain,
    /// The model was asked again, and that answer was mended.
    AskedAgainAndMended,
}

impl<T> Typed<T> {
    pub(super) const fn once(value: T, reply: InferenceResponse, mended: bool) -> Self {
        let repair = if mended { Repair::Mended } else { Repair::None };
        Self { value, reply, repair, before: Cost::Known(Usd::ZERO) }
    }

    /// Whether anything had to be done.
    #[must_use]
    pub fn repaired(&self) -> bool {
        self.repair != Repair::None
    }

    /// What the value cost: both calls together where the model was asked again. `reply.cost()` is the last one's.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.before.plus(self.reply.cost)
    }
}

/// The request for a value of a type. Temperature 0 unless it sets one.
pub(super) fn request_for<T: JsonSchema>(request: InferenceRequest) -> (InferenceRequest, Schema) {
    let schema = Schema::of::<T>();
    let request = request.response_format(ResponseFormat::JsonSchema(schema.clone()));
    let request = if request.temperature_of().is_none() { request.temperature(0.0) } else { request };
    (request, schema)
}

impl InferenceService {
    /// Answers a request with a value of a type, by its JSON schema. Temperature 0 unless the request sets one.
    ///
    /// The server is asked to enforce the schema. What comes back all the same as broken JSON is mended; what is not of
    /// the type is sent back once with the error; that is a second call, with attempts and records of its own, within
    /// the same deadline. Both are flagged: [`Typed::repair`]. What is not of the type does not stay in the cache. An
    /// answer that was cut at `max_tokens` is never mended, since what it lacks is not known.
    ///
    /// Models that are known not to take a schema are left out, unless the request says
    /// [`json_by_prompt`](InferenceRequest::json_by_prompt).
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use schemars::JsonSchema;
    /// use serde::Deserialize;
    /// use together_inference::{InferenceService, schemars, service::Repair, testing::Together};
    ///
    /// #[derive(Debug, Deserialize, JsonSchema)]
    /// struct City {
    ///     name: String,
    ///     inhabitants: u32,
    /// }
    ///
    /// let together = Together::new();
    /// together.on("Chile").reply("Of course!\n{'name': 'Santiago', inhabitants: 6000000,}");
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let city = service.complete_as::<City>("The largest city of Peru?").await?;
    /// assert_eq!(city.repair, Repair::None);
    ///
    /// let city = service.complete_as::<City>("The largest city of Chile?").await?;
    /// assert_eq!((city.value.inhabitants, city.repair), (6_000_000, Repair::Mended));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOutput`] when the second answer is not of the type either, or when the first was cut at
    /// `max_tokens` ([`Error::truncated`] says so); [`Error::text`] keeps it. Else as [`complete`](Self::complete).
    /// Where the second call fails, the text is the first answer's. Attempts and cost are those of both calls together.
    pub async fn complete_as<T>(&self, request: impl Into<InferenceRequest>) -> Result<Typed<T>, Error>
    where
        T: JsonSchema + DeserializeOwned,
    {
        let (request, schema) = request_for::<T>(request.into());
        let start = start_of(&schema.schema);
        let deadline = later(Instant::now(), request.deadline_of());
        let first = self.complete(&request).await?;
        let problem = match parse_value(first.text(), start) {
            Ok(Parsed { value, mended: false }) => return Ok(Typed::once(value, first, false)),
            Ok(Parsed { value, mended: true }) if !was_cut(&first) => return Ok(Typed::once(value, first, true)),
            _ if was_cut(&first) => return Err(cut_short(&request, &first)),
            Ok(_) => "it is not valid JSON".to_owned(),
            Err(error) => error.to_string(),
        };
        let again = request.clone().message(Message::assistant(first.text())).user(ask_again(&problem));
        // A ceiling is of the whole call, and part of it is spent.
        let again = match request.max_cost_of() {
            Some(ceiling) => again.max_cost((ceiling - first.cost.charge()).max(Usd::ZERO)),
            None => again,
        };
        let repair = async {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::new(ErrorKind::DeadlineExceeded, "no time is left to ask again"));
            }
            self.complete(again.clone().deadline(left)).await
        };
        let (repaired, ()) = tokio::join!(repair, self.state.forget(&request, &first.asked));
        let of_both = |second: &[Attempt]| first.attempts.iter().chain(second).cloned().collect::<Vec<_>>();
        let reply = repaired.map_err(|error| {
            let attempts = of_both(error.attempts());
            error.with_attempts(attempts).of_reply(&first).with_text(first.text())
        })?;
        match parse_value(reply.text(), start) {
            Ok(Parsed { value, mended }) if !(mended && was_cut(&reply)) => {
                let repair = if mended { Repair::AskedAgainAndMended } else { Repair::AskedAgain };
                Ok(Typed { value, reply, repair, before: first.cost })
            }
            outcome => {
                self.state.forget(&again, &reply.asked).await;
                let error = outcome.err();
                Err(not_of_type::<T>(&reply, error.as_ref(), "answered twice with")
                    .with_attempts(of_both(&reply.attempts)))
            }
        }
    }
}

/// Whether the answer was cut at `max_tokens`.
pub(super) fn was_cut(reply: &InferenceResponse) -> bool {
    reply.finish() == Some(&FinishReason::Length)
}

/// The error of an answer that was cut: asking again would cut it again.
pub(super) fn cut_short(request: &InferenceRequest, reply: &InferenceResponse) -> Error {
    let (used, cap) = (reply.usage().completion, request.max_tokens_of());
    let message = format!("{} was cut after {used} tokens, inside of its JSON; raise max_tokens", reply.model());
    Error::new(ErrorKind::InvalidOutput, message)
        .with_truncated(Some(Truncated { thinking_only: false, used, cap }))
        .with_attempts(reply.attempts.to_vec())
        .of_reply(reply)
        .with_text(reply.text())
}

/// Serde's message may quote the answer: the place alone goes into the error, the text beside it.
pub(super) fn not_of_type<T: JsonSchema>(
    reply: &InferenceResponse,
    error: Option<&serde_json::Error>,
    what: &str,
) -> Error {
    let place = error.map_or_else(String::new, |error| {
        format!(": {} error at line {}, column {}", category(error), error.line(), error.column())
    });
    let message = format!("{} {what} something else than {}{place}", reply.model(), T::schema_name());
    Error::new(ErrorKind::InvalidOutput, message)
        .with_attempts(reply.attempts.to_vec())
        .of_reply(reply)
        .with_text(reply.text())
}

fn ask_again(problem: &str) -> String {
    format!("That is not valid for the schema: {problem}. Answer again with the corrected JSON only.")
}

fn category(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Data => "a type",
        serde_json::error::Category::Eof => "an unexpected end",
        _ => "a syntax",
    }
}
