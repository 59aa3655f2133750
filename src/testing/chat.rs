//! A chat completion: its choices, its tokens, and its JSON.

use serde_json::{Map, Value, json};

use super::{
    ask::{Ask, tokens_in},
    bill::Tokens,
    draft::{Draft, draft, first},
    logprobs,
    models::{Price, SimModel},
    moderation::verdict,
    random::{Random, hash_without},
    script::Reply,
};

/// Fields that change how an answer is delivered, not what it says.
const DELIVERY: &[&str] = &["stream", "stream_options", "max_tokens", "n", "stop"];

/// A complete answer.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) id: String,
    pub(super) created: u64,
    /// The model that answered.
    pub(super) model: String,
    pub(super) choices: Vec<Choice>,
    pub(super) tokens: Tokens,
    pub(super) price: Price,
    pub(super) reasoning_key: &'static str,
    /// Whether usage has `…_details` objects instead of a flat `cached_tokens`.
    detailed_usage: bool,
    /// A continued prompt instead of a turn.
    pub(super) plain: bool,
    /// How many log probabilities a token, where they were asked for.
    pub(super) logprobs: Option<u64>,
    /// The prompt, where it was asked back.
    echo: Option<String>,
}

/// One of the alternative answers.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) draft: Draft,
    pub(super) finish: &'static str,
    pub(super) seed: u64,
}

/// What the answer depends on beside the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances<'a> {
    pub(super) model: &'a SimModel,
    pub(super) reply: Option<&'a Reply>,
    /// Prompt tokens found in the prompt cache.
    pub(super) cached: u64,
    pub(super) seed: u64,
    /// The number of this call, so that ids differ.
    pub(super) serial: u64,
    /// A prompt is continued: the answer has no turns.
    pub(super) plain: bool,
}

/// Answers the request. The text depends on the request and the seed alone.
pub(super) fn complete(ask: Ask<'_>, given: Circumstances<'_>) -> Completion {
    let model = given.model;
    let root = hash_without(ask.body(), DELIVERY) ^ given.seed.rotate_left(32);
    let thinks = model.thinks && ask.wants_reasoning();
    let stops = ask.stops();
    let choice = |index: u64| {
        let mut random = Random::new(root.wrapping_add(index.wrapping_mul(0x2545_f491_4f6c_dd1d)));
        let draft = match (given.reply, model.kind()) {
            (None, "moderation") => Draft { text: verdict(&ask.last_user_text()), ..Draft::default() },
            _ => draft(ask, given.reply, thinks, &mut random),
        };
        let (draft, finish) = bounded(draft, &stops, ask.max_tokens());
        // As recorded: beyond the range of i64.
        Choice { draft, finish, seed: random.next() | 1 << 63 }
    };
    let choices: Vec<_> = (0..ask.choices()).map(choice).collect();
    let tokens = Tokens {
        prompt: ask.prompt_tokens(),
        cached: given.cached,
        completion: choices.iter().map(|choice| tokens_in(choice.draft.bytes()).max(1)).sum(),
        reasoning: choices.iter().map(|choice| tokens_in(choice.draft.reasoning_bytes())).sum(),
        ..Tokens::default()
    };
    let mut random = Random::new(given.seed ^ given.serial.rotate_left(17));
    Completion {
        id: format!("o{}-{}-{:016x}", random.id(6), random.id(6), random.next()),
        created: 1_790_000_000 + given.serial,
        model: model.id().to_owned(),
        choices,
        tokens,
        price: model.price,
        reasoning_key: model.reasoning_key(),
        detailed_usage: model.thinks,
        plain: given.plain,
        logprobs: ask.logprobs(),
        echo: ask.field("echo").and_then(Value::as_bool).unwrap_or_default().then(|| ask.last_user_text().into_owned()),
    }
}

/// Applies stop sequences and the token limit; says how the choice finished.
fn bounded(mut draft: Draft, stops: &[&str], max_tokens: Option<u64>) -> (Draft, &'static str) {
    let stop = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| draft.text.find(stop)).min();
    if let Some(at) = stop {
        draft.text.truncate(at);
    }
    let allowed = max_tokens.and_then(|tokens| usize::try_from(tokens.saturating_mul(4)).ok()).unwrap_or(usize::MAX);
    if draft.bytes() > allowed {
        let mut left = allowed;
        let Draft { text, reasoning, tools } = &mut draft;
        let arguments = tools.iter_mut().map(|tool| &mut tool.arguments);
        for part in reasoning.iter_mut().chain([text]).chain(arguments) {
            let kept = first(part, left).len();
            part.truncate(kept);
            left -= kept;
        }
        return (draft, "length");
    }
    let finish = if draft.tools.is_empty() { "stop" } else { "tool_calls" };
    (draft, finish)
}

impl Draft {
    pub(super) fn reasoning_bytes(&self) -> usize {
        self.reasoning.as_ref().map_or(0, String::len)
    }

    /// Bytes that count as completion tokens.
    fn bytes(&self) -> usize {
        let arguments: usize = self.tools.iter().map(|tool| tool.arguments.len()).sum();
        self.text.len() + self.reasoning_bytes() + arguments
    }
}

impl Completion {
    /// The body of an answer in one piece.
    pub(super) fn to_json(&self) -> Value {
        let choices: Vec<_> =
            self.choices.iter().enumerate().map(|(index, choice)| self.choice(index, choice)).collect();
        let echo: Vec<_> = self.echo.iter().map(|text| json!({"text": text, "logprobs": Value::Null})).collect();
        json!({
            "id": self.id,
            "object": if self.plain { "text.completion" } else { "chat.completion" },
            "created": self.created,
            "model": self.model,
            "prompt": echo,
            "choices": choices,
            "usage": self.usage(),
        })
    }

    fn choice(&self, index: usize, choice: &Choice) -> Value {
        let draft = &choice.draft;
        let logprobs = self.logprobs.map_or(Value::Null, |top| logprobs::whole(&draft.text, top));
        if self.plain {
            return json!({
                "index": index,
                "text": draft.text,
                "finish_reason": choice.finish,
                "seed": choice.seed,
                "logprobs": logprobs,
            });
        }
        let calls = draft.tools.iter().enumerate().map(|(index, tool)| {
            let function = json!({"name": tool.name, "arguments": tool.arguments});
            json!({"index": index, "id": tool.id, "type": "function", "function": function})
        });
        let mut message = Map::new();
        message.insert("role".into(), json!("assistant"));
        message.insert("content".into(), if draft.tools.is_empty() { json!(draft.text) } else { Value::Null });
        message.insert("tool_calls".into(), calls.collect());
        if let Some(reasoning) = &draft.reasoning {
            message.insert(self.reasoning_key.into(), json!(reasoning));
        }
        json!({
            "index": index,
            "finish_reason": choice.finish,
            "seed": choice.seed,
            "logprobs": logprobs,
            "message": message,
        })
    }

    pub(super) fn usage(&self) -> Value {
        let Tokens { prompt, cached, completion, reasoning, .. } = self.tokens;
        let mut usage = json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        });
        let Some(map) = usage.as_object_mut() else { return usage };
        if self.detailed_usage {
            map.insert("prompt_tokens_details".into(), json!({"cached_tokens": cached}));
            map.insert("completion_tokens_details".into(), json!({"reasoning_tokens": reasoning}));
        } else {
            map.insert("cached_tokens".into(), json!(cached));
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete_with(body: &Value, reply: Option<&Reply>) -> Completion {
        let model = SimModel::chat("m").reasoning();
        complete(Ask::new(body), Circumstances { model: &model, reply, cached: 0, seed: 1, serial: 1, plain: false })
    }

    fn ask(name: &str, value: Value) -> Value {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Why is the sky blue?"}]});
        body[name] = value;
        body
    }

    #[test]
    fn max_tokens_cuts_the_same_answer_short() {
        let whole = complete_with(&ask("max_tokens", json!(500)), None);
        let short = complete_with(&ask("max_tokens", json!(3)), None);
        assert_eq!((whole.choices[0].finish, short.choices[0].finish), ("stop", "length"));
        assert!(whole.choices[0].draft.text.starts_with(&short.choices[0].draft.text));
        assert_eq!(short.tokens.completion, 3);
    }

    #[test]
    fn reasoning_spends_the_token_limit_first() {
        let reply = Reply::Reasoning { thinking: "a".repeat(40), text: "answer".into() };
        let cut = complete_with(&ask("max_tokens", json!(10)), Some(&reply));
        assert_eq!(cut.choices[0].draft.text, "");
        assert_eq!(cut.usage()["completion_tokens_details"]["reasoning_tokens"], 10);
        assert_eq!(cut.tokens.completion, 10);
    }

    #[test]
    fn a_stop_sequence_ends_the_text_before_it() {
        let reply = Reply::Text("one two three".into());
        let cut = complete_with(&ask("stop", json!(["three", "two"])), Some(&reply));
        assert_eq!((cut.choices[0].draft.text.as_str(), cut.choices[0].finish), ("one ", "stop"));
    }

    #[test]
    fn choices_differ_and_each_counts() {
        let many = complete_with(&ask("n", json!(5)), None);
        let texts: Vec<_> = many.choices.iter().map(|choice| &choice.draft.text).collect();
        assert_eq!(texts.len(), 5);
        assert!(texts.iter().any(|text| *text != texts[0]));
        assert_eq!(&complete_with(&ask("n", json!(1)), None).choices[0].draft.text, texts[0]);
    }
}
