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
        client::{Fold, Message, ToolCall},
        types::FinishReason,
    };

    proptest! {
        #[test]
        fn the_pieces_fold_into_the_same_answer(
            texts in prop::collection::vec((".{0,200}", prop::option::of(".{1,100}"), 0_usize..3), 1..4),
        ) {
            let choices: Vec<Choice> = (0_u32..).zip(&texts).map(|(index, (text, reasoning, calls))| {
                let mut message = Message::assistant(text.clone());
                message.reasoning.clone_from(reasoning);
                message.tool_calls = (0..*calls).map(|n| ToolCall::new(format!("id{n}"), "f", "{\"a\":1}")).collect();
                Choice { index, message, finish_reason: Some(FinishReason::Stop), seed: Some(u64::MAX), logprobs: None }
            }).collect();
            let usage = Usage { prompt: 7, completion: 9, ..Usage::default() };
            let mut fold = Fold::new("m".into());
            replay(&choices, usage).iter().for_each(|delta| fold.push(delta));
            let folded = fold.into_completion();
            prop_assert_eq!(folded.choices.len(), choices.len());
            for (folded, choice) in folded.choices.iter().zip(&choices) {
                prop_assert_eq!(folded.text(), choice.text());
                prop_assert_eq!(&folded.message.reasoning, &choice.message.reasoning);
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
