//! Token counts as servers report them.

use serde::Deserialize;

use super::super::lenient::{Count, object};
use crate::types::Usage;

#[derive(Deserialize)]
pub(in crate::client) struct WireUsage {
    #[serde(default)]
    prompt_tokens: Count,
    #[serde(default)]
    completion_tokens: Count,
    #[serde(default)]
    total_tokens: Count,
    #[serde(default)]
    cached_tokens: Count,
    #[serde(default, deserialize_with = "object")]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default, deserialize_with = "object")]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Count,
}

#[derive(Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Count,
}

impl WireUsage {
    /// `None` where nothing was counted: an object of nulls is no usage.
    pub(in crate::client) fn into_usage(self) -> Option<Usage> {
        let (prompt, completion) = self.halves()?;
        let detail = self.prompt_tokens_details.and_then(|details| details.cached_tokens.0);
        Some(Usage {
            prompt,
            cached: self.cached_tokens.0.or(detail).unwrap_or(0),
            completion,
            reasoning: self.completion_tokens_details.and_then(|details| details.reasoning_tokens.0).unwrap_or(0),
            ..Usage::default()
        })
    }

    /// The same of a call that writes no text: a total alone is that of its prompt.
    pub(in crate::client) fn into_usage_of_prompt(self) -> Option<Usage> {
        let usage = self.into_usage()?;
        Some(if usage.prompt == 0 { Usage { prompt: usage.completion, completion: 0, ..usage } } else { usage })
    }

    /// Tokens of the prompt and of the answer: the one that is missing is what the total leaves. A total alone is taken
    /// for the answer's, which costs more, so that what is unknown is never too cheap.
    fn halves(&self) -> Option<(u64, u64)> {
        let told = |count: Count| count.0.filter(|count| *count > 0);
        let rest = |known: u64| self.total_tokens.0.unwrap_or(0).saturating_sub(known);
        match (told(self.prompt_tokens), told(self.completion_tokens)) {
            (Some(prompt), Some(completion)) => Some((prompt, completion)),
            (Some(prompt), None) => Some((prompt, rest(prompt))),
            (None, Some(completion)) => Some((rest(completion), completion)),
            (None, None) => {
                let any = self.prompt_tokens.0.or(self.completion_tokens.0).or(self.total_tokens.0);
                any.map(|_| (0, rest(0)))
            }
        }
    }
}
