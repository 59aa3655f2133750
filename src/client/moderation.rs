//! Moderation by a model: a conversation with one that answers `safe`, or `unsafe` with the categories.
//!
//! The API has no path of its own for it. To have a call screened on its way, set
//! [`ChatInput::safety_model`](super::ChatInput::safety_model) instead: what the provider then refuses is an
//! [`ErrorKind::Moderated`].

use std::fmt;

use super::{CallOptions, ChatCompletion, ChatInput, Error, ErrorKind, Message, TogetherClient};
use crate::types::ModelId;

/// A verdict is a word and a line of short codes.
const MAX_TOKENS: u32 = 64;

/// Moderation by a client: [`TogetherClient::moderation`].
#[derive(Clone, Copy, Debug)]
pub struct Moderation<'a> {
    client: &'a TogetherClient,
}

/// What a moderation model says of a text or a conversation. `Debug` does not show the model's words.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// Whether the model calls it unsafe.
    pub flagged: bool,
    /// What it is said to be, by the model's own codes, such as `S1`; empty if it is safe or the model names none.
    /// Their meaning differs from model to model.
    pub categories: Vec<String>,
    /// The whole answer: the model's words, usage, request id, raw JSON.
    pub completion: ChatCompletion,
}

impl Verdict {
    /// The verdict in the model's words.
    #[must_use]
    pub fn text(&self) -> &str {
        self.completion.text()
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verdict")
            .field("flagged", &self.flagged)
            .field("categories", &self.categories.len())
            .finish_non_exhaustive()
    }
}

impl<'a> Moderation<'a> {
    pub(super) const fn new(client: &'a TogetherClient) -> Self {
        Self { client }
    }

    /// Asks a moderation model for its verdict on a text that a user wrote.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::testing::Together;
    ///
    /// let client = Together::new().client();
    /// let verdict = client.moderation().check("meta-llama/Llama-Guard-4-12B", "How do I steal a car?").await?;
    /// assert!(verdict.flagged);
    /// assert_eq!(verdict.categories, ["S2"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`]. An answer that is no verdict, as of a model that is not for moderation, is
    /// [`Malformed`](ErrorKind::Malformed): nothing is taken for safe that was not called so.
    ///
    /// # Cancellation
    ///
    /// Dropping the future abandons the call; the provider may bill what it had computed.
    pub async fn check(self, model: impl Into<ModelId>, text: impl Into<String>) -> Result<Verdict, Error> {
        let input = ChatInput { messages: vec![Message::user(text.into())], ..ChatInput::default() };
        self.check_with(&model.into(), &input, &CallOptions::default()).await
    }

    /// [`check`](Self::check) of a conversation, whose last turn is judged, with options for this call.
    ///
    /// The verdict is as repeatable as the model allows: the temperature is 0 unless set.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub async fn check_with(self, model: &ModelId, input: &ChatInput, options: &CallOptions) -> Result<Verdict, Error> {
        let mut input = input.clone();
        input.temperature = input.temperature.or(Some(0.0));
        input.max_tokens = input.max_tokens.or(Some(MAX_TOKENS));
        let completion = self.client.chat().create_with(model, &input, options).await?;
        match read(completion.text()) {
            Some(Said { flagged, categories }) => Ok(Verdict { flagged, categories, completion }),
            None => Err(no_verdict(model, completion)),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Said {
    flagged: bool,
    categories: Vec<String>,
}

/// Reads `safe`, or `unsafe` with categories behind it, by commas or lines. `None` if it is neither.
fn read(text: &str) -> Option<Said> {
    let mut words = text.split([',', '\n', '\r', ' ', '\t']).filter(|word| !word.is_empty());
    let word = words.next()?;
    let categories: Vec<String> = words.map(str::to_owned).collect();
    let flagged = word.eq_ignore_ascii_case("unsafe");
    let is_verdict = flagged || (word.eq_ignore_ascii_case("safe") && categories.is_empty());
    let are_codes = categories.iter().all(|code| is_code(code));
    (is_verdict && are_codes).then_some(Said { flagged, categories })
}

/// Whether it is a category and not a word of a sentence: all codes end with a number.
fn is_code(word: &str) -> bool {
    word.len() <= 16
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        && word.ends_with(|last: char| last.is_ascii_digit())
}

fn no_verdict(model: &ModelId, completion: ChatCompletion) -> Error {
    let message = "the answer is neither safe nor unsafe; choose a moderation model";
    Error::new(ErrorKind::Malformed, message)
        .with_status(200)
        .with_request_id(completion.request_id.as_deref())
        .with_model(Some(model))
        .with_body(completion.raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_however_they_are_spaced() {
        let said = |flagged, categories: &[&str]| Said {
            flagged,
            categories: categories.iter().map(|code| (*code).to_owned()).collect(),
        };
        for (text, expected) in [
            ("safe", said(false, &[])),
            ("\n\nsafe\n", said(false, &[])),
            ("Safe", said(false, &[])),
            ("unsafe", said(true, &[])),
            ("unsafe\nS1,S10", said(true, &["S1", "S10"])),
            ("\n\nunsafe\r\nS1, S2\n", said(true, &["S1", "S2"])),
            ("unsafe\nO3\nO4", said(true, &["O3", "O4"])),
        ] {
            assert_eq!(read(text), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn nothing_is_safe_that_was_not_called_so() {
        for text in [
            "",
            " \n",
            "safe?",
            "safe\nS1",
            "Safe travels!",
            "I cannot say whether this is safe",
            "safer",
            "unsafe at any speed",
            "saf",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
