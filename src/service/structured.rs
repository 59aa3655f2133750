//! Typed answers by JSON schema.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{Error, ErrorKind, InferenceService};
use crate::{
    client::{Message, ResponseFormat},
    inference::{Attempt, InferenceRequest, InferenceResponse, parse_value, schema_of},
    types::{Cost, Usd, later},
};

/// A typed answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Typed<T> {
    /// The value.
    pub value: T,
    /// The call that produced it. After a repair it is the second one; the first has records of its own.
    pub reply: InferenceResponse,
    /// Whether the first answer was not of the type and the model was asked again.
    pub repaired: bool,
    /// What the call that was repaired cost.
    before: Cost,
}

impl<T> Typed<T> {
    /// What the value cost: both calls together where the first answer was repaired. `reply.cost()` is the last one's.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.before.plus(self.reply.cost)
    }
}

impl InferenceService {
    /// Answers a request with a value of a type, by its JSON schema. Temperature 0 unless the request sets one.
    ///
    /// An answer that is not of the type is sent back once with the error; that is a second call, with attempts and
    /// records of its own, within the same deadline. What is not of the type does not stay in the cache.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use schemars::JsonSchema;
    /// use serde::Deserialize;
    /// use together_inference::{InferenceService, schemars, testing::Together};
    ///
    /// #[derive(Debug, Deserialize, JsonSchema)]
    /// struct City {
    ///     name: String,
    ///     inhabitants: u32,
    /// }
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let city = service.complete_as::<City>("The largest city of Peru?").await?;
    /// assert!(!city.repaired);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOutput`] when the second answer is not of the type either; [`Error::text`] keeps it. Else as
    /// [`complete`](Self::complete). Where the second call fails, the text is the first answer's. Attempts and cost are
    /// those of both calls together.
    pub async fn complete_as<T>(&self, request: impl Into<InferenceRequest>) -> Result<Typed<T>, Error>
    where
        T: JsonSchema + DeserializeOwned,
    {
        let mut request = request.into().response_format(ResponseFormat::JsonSchema(schema_of::<T>()));
        if request.temperature_of().is_none() {
            request = request.temperature(0.0);
        }
        let deadline = later(Instant::now(), request.deadline_of());
        let first = self.complete(&request).await?;
        let problem = match parse_value(first.text()) {
            Ok(value) => return Ok(Typed { value, reply: first, repaired: false, before: Cost::Known(Usd::ZERO) }),
            Err(error) => error.to_string(),
        };
        let again = request.clone().message(Message::assistant(first.text())).user(ask_again(&problem));
        let repair = async {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::new(ErrorKind::DeadlineExceeded, "no time is left to repair the answer"));
            }
            self.complete(again.clone().deadline(left)).await
        };
        let (repaired, ()) = tokio::join!(repair, self.state.forget(&request, &first.asked));
        let of_both = |second: &[Attempt]| first.attempts.iter().chain(second).cloned().collect::<Vec<_>>();
        let reply = repaired.map_err(|error| {
            let attempts = of_both(error.attempts());
            error.with_attempts(attempts).with_decision(&first.decision).with_text(first.text())
        })?;
        match parse_value(reply.text()) {
            Ok(value) => Ok(Typed { value, reply, repaired: true, before: first.cost }),
            // Serde's message may quote the answer: the place alone goes into the error, the text beside it.
            Err(error) => {
                self.state.forget(&again, &reply.asked).await;
                let (line, column) = (error.line(), error.column());
                let message = format!(
                    "{} answered twice with something else than {}: {} error at line {line}, column {column}",
                    reply.model(),
                    T::schema_name(),
                    category(&error),
                );
                Err(Error::new(ErrorKind::InvalidOutput, message)
                    .with_attempts(of_both(&reply.attempts))
                    .with_decision(&reply.decision)
                    .with_text(reply.text()))
            }
        }
    }
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
