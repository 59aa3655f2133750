//! Folding a stream's chunks into the completion that a plain call would have given.

use bytes::Bytes;

use super::{
    ChatCompletion, Choice, ChoiceDelta, Content, Delta, Logprobs, Message, ToolCall,
    chunk::Head,
    response::{MAX_CHOICES, MAX_TOOL_CALLS},
};
use crate::types::{FinishReason, ModelId, Role, Usage};

/// Collects [`Delta`]s.
///
/// ```
/// use together_inference::client::{Delta, Fold};
///
/// let mut fold = Fold::new("zai-org/GLM-5.3".into());
/// fold.push(&Delta::default());
/// assert!(!fold.is_finished());
/// ```
#[derive(Debug)]
pub struct Fold {
    asked: ModelId,
    head: Head,
    choices: Vec<Folded>,
    usage: Option<Usage>,
    received: u64,
}

#[derive(Debug)]
struct Folded {
    index: u32,
    content: Option<String>,
    reasoning: String,
    reasoning_content: bool,
    tool_calls: Vec<(u32, ToolCall)>,
    finish_reason: Option<FinishReason>,
    seed: Option<u64>,
    logprobs: Option<Logprobs>,
}

impl Fold {
    /// Nothing received yet from this model.
    #[must_use]
    pub fn new(asked: ModelId) -> Self {
        Self { asked, head: Head::default(), choices: Vec::new(), usage: None, received: 0 }
    }

    /// Adds a chunk.
    pub fn push(&mut self, delta: &Delta) {
        self.received += 1;
        if let Some(head) = &delta.head {
            self.merge_head(head);
        }
        // The last report wins: some servers count up, none counts down.
        self.usage = delta.usage.or(self.usage);
        for choice in &delta.choices {
            self.push_choice(choice);
        }
    }

    fn merge_head(&mut self, head: &Head) {
        if self.head.id.is_empty() {
            self.head.id.clone_from(&head.id);
        }
        self.head.model = self.head.model.take().or_else(|| head.model.clone());
        self.head.created = self.head.created.or(head.created);
        self.head.warnings.extend_from_slice(&head.warnings);
    }

    fn push_choice(&mut self, delta: &ChoiceDelta) {
        let at = match self.choices.iter().position(|choice| choice.index == delta.index) {
            Some(at) => at,
            None if self.choices.len() < MAX_CHOICES => {
                self.choices.push(Folded::new(delta.index));
                self.choices.len() - 1
            }
            None => return,
        };
        if let Some(choice) = self.choices.get_mut(at) {
            choice.push(delta);
        }
    }

    /// Whether every answer that began has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !self.choices.is_empty() && self.choices.iter().all(|choice| choice.finish_reason.is_some())
    }

    /// How many chunks were added.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Tokens, if the provider has reported them.
    #[must_use]
    pub const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The model that answers, as far as known.
    #[must_use]
    pub fn model(&self) -> &ModelId {
        self.head.model.as_ref().unwrap_or(&self.asked)
    }

    /// The text of the first answer so far.
    #[must_use]
    pub fn text(&self) -> &str {
        self.choices.iter().find(|choice| choice.index == 0).and_then(|choice| choice.content.as_deref()).unwrap_or("")
    }

    /// Bytes of text, reasoning and tool arguments so far: what an estimate of the tokens starts from.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.choices.iter().map(Folded::bytes).sum::<usize>() as u64
    }

    /// The completion of what was received. Check [`is_finished`](Self::is_finished) to know whether it is whole.
    #[must_use]
    pub fn into_completion(self) -> ChatCompletion {
        let model = self.head.model.filter(|model| !model.as_str().is_empty()).unwrap_or(self.asked);
        let mut choices: Vec<Choice> = self.choices.into_iter().map(Folded::into_choice).collect();
        choices.sort_by_key(|choice| choice.index);
        ChatCompletion {
            id: self.head.id,
            model,
            created: self.head.created,
            choices,
            usage: self.usage,
            warnings: self.head.warnings,
            request_id: None,
            rate_limits: None,
            raw: Bytes::new(),
        }
    }
}

impl Folded {
    const fn new(index: u32) -> Self {
        Self {
            index,
            content: None,
            reasoning: String::new(),
            reasoning_content: false,
            tool_calls: Vec::new(),
            finish_reason: None,
            seed: None,
            logprobs: None,
        }
    }

    fn push(&mut self, delta: &ChoiceDelta) {
        if let Some(logprob) = delta.logprob {
            let logprobs = self.logprobs.get_or_insert_default();
            logprobs.token_ids.push(delta.token_id);
            logprobs.tokens.push(delta.content.clone());
            logprobs.token_logprobs.push(Some(logprob));
        }
        if let Some(more) = &delta.logprobs {
            self.logprobs.get_or_insert_default().append(more);
        }
        if let Some(more) = &delta.content {
            self.content.get_or_insert_default().push_str(more);
        }
        if let Some(reasoning) = &delta.reasoning {
            self.reasoning.push_str(reasoning);
            self.reasoning_content |= delta.reasoning_content;
        }
        for piece in &delta.tool_calls {
            self.push_tool(piece);
        }
        // `tool_calls` may come twice; a later reason never turns a call into a stop.
        if self.finish_reason.is_none() {
            self.finish_reason.clone_from(&delta.finish_reason);
        }
        self.seed = delta.seed.or(self.seed);
    }

    fn push_tool(&mut self, piece: &super::ToolCallDelta) {
        let at = self.tool_calls.iter().position(|(index, _)| *index == piece.index);
        if at.is_none() && self.tool_calls.len() < MAX_TOOL_CALLS {
            self.tool_calls.push((piece.index, ToolCall::new("", "", "")));
        }
        let at = at.unwrap_or(self.tool_calls.len().saturating_sub(1));
        if let Some((_, call)) = self.tool_calls.get_mut(at) {
            piece.apply(call);
        }
    }

    fn bytes(&self) -> usize {
        let calls: usize =
            self.tool_calls.iter().map(|(_, call)| call.function.name.len() + call.function.arguments.len()).sum();
        self.content.as_ref().map_or(0, String::len) + self.reasoning.len() + calls
    }

    fn into_choice(mut self) -> Choice {
        self.tool_calls.sort_by_key(|(index, _)| *index);
        let mut message = Message::empty(Role::Assistant);
        message.tool_calls = self.tool_calls.into_iter().map(|(_, call)| call).collect();
        // A plain call answers a tool call with `content: null`, a stream with empty texts.
        message.content =
            self.content.filter(|text| !text.is_empty() || message.tool_calls.is_empty()).map(Content::Text);
        let reasoning = Some(self.reasoning).filter(|text| !text.is_empty());
        if self.reasoning_content {
            message.reasoning_content = reasoning;
        } else {
            message.reasoning = reasoning;
        }
        let (finish_reason, seed, logprobs) = (self.finish_reason, self.seed, self.logprobs);
        Choice { index: self.index, message, finish_reason, seed, logprobs }
    }
}
