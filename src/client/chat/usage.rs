//! Token counts as servers report them.

use serde::Deserialize;

use super::super::lenient::Count;
use crate::types::Usage;

#[derive(Deserialize)]
pub(in crate::client) struct WireUsage {
    #[serde(default)]
    prompt_tokens: Count,
    #[serde(default)]
    completion_tokens: Count,
    #[serde(default)]
    cached_tokens: Count,
    prompt_tokens_details: Option<PromptDetails>,
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
    /// `None` where neither side was counted: an object of nulls is no usage.
    pub(in crate::client) fn into_usage(self) -> Option<Usage> {
        if self.prompt_tokens.0.is_none() && self.completion_tokens.0.is_none() {
            return None;
        }
        let detail = self.prompt_tokens_details.and_then(|details| details.cached_tokens.0);
        Some(Usage {
            prompt: self.prompt_tokens.0.unwrap_or(0),
            cached: self.cached_tokens.0.or(detail).unwrap_or(0),
            completion: self.completion_tokens.0.unwrap_or(0),
            reasoning: self.completion_tokens_details.and_then(|details| details.reasoning_tokens.0).unwrap_or(0),
            ..Usage::default()
        })
    }
}
