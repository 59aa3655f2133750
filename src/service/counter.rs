//! The service's count of tokens: by the application's tokenizer where it knows the model, else by the estimate.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::{
    client::Delta,
    inference::{CountTokens, InferenceRequest, Output, TokenTally, count_tokens},
    types::ModelId,
};

/// Counts the tokens of texts.
#[derive(Clone, Debug, Default)]
pub(super) struct Counter(Option<Arc<dyn CountTokens>>);

impl Counter {
    pub(super) fn new(tokenizer: Option<Arc<dyn CountTokens>>) -> Self {
        Self(tokenizer)
    }

    /// The tokens of a text, as near as can be.
    pub(super) fn text(&self, model: &ModelId, text: &str) -> u64 {
        self.own(model, text).unwrap_or_else(|| count_tokens(text))
    }

    /// The tokens that a request's prompt is expected to have.
    pub(super) fn prompt(&self, model: &ModelId, request: &InferenceRequest) -> u64 {
        request.prompt_tokens_expected(&|text| self.text(model, text))
    }

    /// The most tokens that a request's prompt can have there, if the tokenizer is exact for the model; the bound of
    /// bytes is the caller's.
    pub(super) fn prompt_at_most(&self, model: &ModelId, request: &InferenceRequest) -> Option<u64> {
        let tokenizer = self.0.as_ref()?;
        let is_exact = catch_unwind(AssertUnwindSafe(|| tokenizer.is_exact(model))).unwrap_or(false);
        // A text that it does not count after all has no more tokens than bytes.
        let count = |text: &str| self.own(model, text).unwrap_or(text.len() as u64);
        is_exact.then(|| request.prompt_tokens_within(&count))
    }

    /// The tokens of everything that an answer says.
    pub(super) fn output(&self, model: &ModelId, output: &Output) -> u64 {
        let Output::Chat(choices) = output else { return 0 };
        let mut tokens = 0;
        for choice in choices {
            choice.message.each_text(&mut |text| tokens += self.text(model, text));
        }
        tokens
    }

    /// The application's count. A panic of its tokenizer must not become a lost answer.
    fn own(&self, model: &ModelId, text: &str) -> Option<u64> {
        let tokenizer = self.0.as_ref()?;
        catch_unwind(AssertUnwindSafe(|| tokenizer.count(model, text))).unwrap_or_else(|_| {
            tracing::warn!("the tokenizer panicked");
            None
        })
    }
}

/// What a stream has brought so far, counted as it comes.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// Pieces that held something of an answer.
    pub(super) pieces: u64,
    tally: TokenTally,
    /// By the application's tokenizer.
    own: u64,
    is_own: bool,
}

impl Brought {
    /// Another piece.
    pub(super) fn push(&mut self, counter: &Counter, model: &ModelId, delta: &Delta) {
        self.pieces += u64::from(delta.has_content());
        for choice in &delta.choices {
            let calls = choice.tool_calls.iter().flat_map(|call| [call.name.as_deref(), Some(&*call.arguments)]);
            let said = [choice.content.as_deref(), choice.reasoning.as_deref()].into_iter().chain(calls).flatten();
            for text in said.filter(|text| !text.is_empty()) {
                self.tally.push(text);
                if let Some(tokens) = counter.own(model, text) {
                    self.own += tokens;
                    self.is_own = true;
                }
            }
        }
    }

    /// The tokens so far. A piece is a token with most servers; those that send several at a time are counted by what
    /// they say.
    pub(super) fn tokens(&self) -> u64 {
        if self.is_own { self.own } else { self.pieces.max(self.tally.tokens()) }
    }
}
