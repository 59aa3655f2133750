//! A whole answer as the pieces of a stream: what a cached answer is to whoever reads it piece by piece.

use super::{Choice, ChoiceDelta, Delta, ToolCallDelta};
use crate::types::Usage;

/// About a line: small enough to be shown as it comes, large enough to cost little.
const PIECE: usize = 64;

/// The pieces of these answers, with their ends and the usage last.
pub(crate) fn replay(choices: &[Choice], usage: Usage) -> Vec<Delta> {
    let mut deltas = Vec::new();
    let mut push = |choice: ChoiceDelta| deltas.push(Delta { choices: vec![choice], ..Delta::default() });
    for choice in choices {
        let index = choice.index;
        let piece = || ChoiceDelta { index, ..ChoiceDelta::default() };
        let message = &choice.message;
        let reasoning_content = message.reasoning.is_none();
        let reasoning = message.reasoning.as_deref().or(message.reasoning_content.as_deref());
        for text in pieces(reasoning.unwrap_or_default()) {
            push(ChoiceDelta { reasoning: Some(text.to_owned()), reasoning_content, ..piece() });
        }
        for text in pieces(choice.text()) {
            push(ChoiceDelta { content: Some(text.to_owned()), ..piece() });
        }
        for (index, call) in (0..).zip(&message.tool_calls) {
            let (id, name) = (Some(call.id.clone()), Some(call.function.name.clone()));
            let call = ToolCallDelta { index, id, name, arguments: call.function.arguments.clone(), unnumbered: false };
            push(ChoiceDelta { tool_calls: vec![call], ..piece() });
        }
        let (finish_reason, seed) = (choice.finish_reason.clone(), choice.seed);
        let logprobs = choice.logprobs.clone().map(Box::new);
        push(ChoiceDelta { finish_reason, seed, logprobs, ..piece() });
    }
    deltas.push(Delta { usage: Some(usage), ..Delta::default() });
    deltas
}

/// A text in pieces that end behind white space where they can.
fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let ends =
            || text.char_indices().map(|(at, char)| (at + char.len_utf8(), char)).take_while(|(end, _)| *end <= PIECE);
        let behind_space = ends().filter(|(_, char)| char.is_whitespace()).last();
        let cut = match behind_space.or_else(|| ends().last()) {
            Some((cut, _)) if text.len() > PIECE => cut,
            _ => text.len(),
        };
        let (piece, rest) = text.split_at(cut);
        text = rest;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        client::{Fold, Logprobs, Message, ToolCall},
        types::FinishReason,
    };

    fn logprobs() -> impl Strategy<Value = Logprobs> {
        let token = (prop::option::of(any::<u64>()), prop::option::of(".{0,9}"), prop::option::of(-99.0..0.0_f64));
        let alternatives = prop::option::of(prop::collection::vec(Just(serde_json::json!({"a": -1.5})), 0..3));
        (prop::collection::vec(token, 0..5), alternatives).prop_map(|(tokens, alternatives)| Logprobs {
            token_ids: tokens.iter().map(|token| token.0).collect(),
            tokens: tokens.iter().map(|token| token.1.clone()).collect(),
            token_logprobs: tokens.iter().map(|token| token.2).collect(),
            top_logprobs: alternatives.map(Into::into),
        })
    }

    proptest! {
        #[test]
        fn the_pieces_fold_into_the_same_answer(
            texts in prop::collection::vec(
                (".{0,200}", prop::option::of(".{1,100}"), any::<bool>(), 0_usize..3, prop::option::of(logprobs())),
                1..4,
            ),
        ) {
            let choices: Vec<Choice> = (0_u32..).zip(&texts).map(|(index, (text, thought, by_content, calls, logprobs))| {
                let mut message = Message::assistant(text.clone());
                let field = if *by_content { &mut message.reasoning_content } else { &mut message.reasoning };
                field.clone_from(thought);
                message.tool_calls = (0..*calls).map(|n| ToolCall::new(format!("id{n}"), "f", "{\"a\":1}")).collect();
                Choice { index, message, finish_reason: Some(FinishReason::Stop), seed: Some(u64::MAX), logprobs: logprobs.clone() }
            }).collect();
            let usage = Usage { prompt: 7, completion: 9, ..Usage::default() };
            let mut fold = Fold::new("m".into());
            replay(&choices, usage).iter().for_each(|delta| fold.push(delta));
            let folded = fold.into_completion();
            prop_assert_eq!(folded.choices.len(), choices.len());
            for (folded, choice) in folded.choices.iter().zip(&choices) {
                prop_assert_eq!(folded.text(), choice.text());
                prop_assert_eq!(&folded.message.reasoning, &choice.message.reasoning);
                prop_assert_eq!(&folded.message.reasoning_content, &choice.message.reasoning_content);
                prop_assert_eq!(&folded.logprobs, &choice.logprobs);
                prop_assert_eq!(&folded.message.tool_calls, &choice.message.tool_calls);
                prop_assert_eq!((&folded.finish_reason, folded.seed), (&choice.finish_reason, choice.seed));
            }
            prop_assert_eq!(folded.usage, Some(usage));
        }

        #[test]
        fn no_piece_is_empty_or_long(text in ".{0,500}") {
            let all: Vec<_> = pieces(&text).collect();
            prop_assert!(all.iter().all(|piece| !piece.is_empty() && piece.len() <= PIECE));
            prop_assert_eq!(all.concat(), text.as_str());
        }
    }
}
