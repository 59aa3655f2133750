//! Reading completions, whole and in pieces.

use bytes::Bytes;
use serde::Deserialize;

use super::super::{
    ask::NoAnswer,
    bounded::{Bounded, one_body},
    chat::{
        ChatCompletion, Choice, ChoiceDelta, Content, Delta, Head, Logprobs, MAX_CHOICES, Message, NO_CHOICES, Notices,
        WireUsage, piece, served,
    },
    lenient::{Count, Truthy, at_most, finish_reason, object},
    loose::{id, text},
};
use crate::types::{FinishReason, ModelId, Role, Text};

#[derive(Deserialize)]
struct WireCompletion<'a> {
    #[serde(default, borrow, deserialize_with = "id")]
    id: Option<Text<'a>>,
    #[serde(default, borrow, deserialize_with = "text")]
    model: Option<Text<'a>>,
    #[serde(default)]
    created: Count,
    #[serde(default, deserialize_with = "at_most::<MAX_CHOICES, _, _>")]
    choices: Option<Vec<WireChoice>>,
    #[serde(default, deserialize_with = "object")]
    usage: Option<WireUsage>,
    #[serde(default)]
    warnings: Notices,
    #[serde(default)]
    error: Truthy,
}

#[derive(Deserialize)]
struct WireChoice {
    #[serde(default)]
    index: Count,
    #[serde(default, deserialize_with = "piece")]
    text: Option<String>,
    #[serde(default, deserialize_with = "finish_reason")]
    finish_reason: Option<FinishReason>,
    #[serde(default)]
    seed: Count,
    #[serde(default)]
    logprobs: Bounded,
}

impl WireChoice {
    /// The answers are not always numbered: then they stand in order.
    fn into_choice(self, at: usize) -> Choice {
        let mut message = Message::empty(Role::Assistant);
        message.content = self.text.map(Content::Text);
        Choice {
            index: self.index.small().or_else(|| u32::try_from(at).ok()).unwrap_or(0),
            message,
            finish_reason: self.finish_reason,
            seed: self.seed.0,
            logprobs: Logprobs::from_value(self.logprobs.0),
        }
    }
}

/// Parses the JSON of a whole completion.
pub(super) fn parse_completion(raw: &Bytes, asked: &ModelId) -> Result<ChatCompletion, NoAnswer> {
    let wire = one_body(|| serde_json::from_slice::<Option<WireCompletion<'_>>>(raw))?.ok_or(NO_CHOICES)?;
    let choices = wire.choices.filter(|choices| !wire.error.0 && !choices.is_empty()).ok_or(NO_CHOICES)?;
    let choices: Vec<_> = choices.into_iter().enumerate().map(|(at, choice)| choice.into_choice(at)).collect();
    if choices.iter().any(Choice::broke_off) {
        return Err(NoAnswer::BrokeOff);
    }
    Ok(ChatCompletion {
        id: wire.id.map(|id| id.0.into_owned()).unwrap_or_default(),
        model: served(wire.model, asked),
        created: wire.created.0,
        choices,
        usage: wire.usage.and_then(WireUsage::into_usage),
        warnings: wire.warnings.into_messages(),
        request_id: None,
        rate_limits: None,
        raw: Bytes::new(),
    })
}

/// Its finish reason and seed stand beside the choices, and so does the token; other servers put them inside.
#[derive(Deserialize)]
struct WireChunk<'a> {
    #[serde(default, borrow, deserialize_with = "id")]
    id: Option<Text<'a>>,
    #[serde(default, borrow, deserialize_with = "text")]
    model: Option<Text<'a>>,
    #[serde(default)]
    created: Count,
    #[serde(default, deserialize_with = "at_most::<MAX_CHOICES, _, _>")]
    choices: Option<Vec<WirePiece>>,
    #[serde(default, deserialize_with = "object")]
    token: Option<WireToken>,
    #[serde(default, deserialize_with = "finish_reason")]
    finish_reason: Option<FinishReason>,
    #[serde(default)]
    seed: Count,
    #[serde(default, deserialize_with = "object")]
    usage: Option<WireUsage>,
    #[serde(default)]
    warnings: Notices,
    #[serde(default)]
    error: Truthy,
}

#[derive(Deserialize)]
struct WireToken {
    #[serde(default)]
    id: Count,
    #[serde(default, deserialize_with = "piece")]
    text: Option<String>,
    #[serde(default)]
    logprob: Bounded,
}

#[derive(Deserialize)]
struct WirePiece {
    #[serde(default)]
    index: Count,
    #[serde(default, deserialize_with = "piece")]
    text: Option<String>,
    #[serde(default, deserialize_with = "object")]
    delta: Option<WireDelta>,
    #[serde(default, deserialize_with = "finish_reason")]
    finish_reason: Option<FinishReason>,
    #[serde(default)]
    logprobs: Bounded,
}

#[derive(Deserialize)]
struct WireDelta {
    #[serde(default, deserialize_with = "piece")]
    content: Option<String>,
}

impl WirePiece {
    /// The text, which stands in one of two places or in both.
    fn take_text(&mut self) -> Option<String> {
        let text = self.text.take();
        let inside = self.delta.take().and_then(|delta| delta.content);
        text.filter(|text| !text.is_empty() || inside.is_none()).or(inside)
    }
}

/// Parses the JSON of one chunk; `Ok(None)`: it holds an error, whatever else is in it.
pub(super) fn parse_chunk(data: &[u8], want_head: bool) -> Result<Option<Delta>, serde_json::Error> {
    let wire: WireChunk<'_> = one_body(|| serde_json::from_slice(data))?;
    if wire.error.0 {
        return Ok(None);
    }
    let warnings = wire.warnings.into_messages();
    let head = (want_head || !warnings.is_empty()).then(|| Head {
        id: wire.id.map(|id| id.0.into_owned()).unwrap_or_default(),
        model: wire.model.map(|model| ModelId::from(&*model.0)),
        created: wire.created.0,
        warnings,
    });
    let usage = wire.usage.and_then(WireUsage::into_usage);
    let token = wire.token.as_ref();
    let of_token = ChoiceDelta {
        seed: wire.seed.0,
        token_id: token.and_then(|token| token.id.0),
        logprob: token.and_then(|token| token.logprob.0.as_f64()),
        ..ChoiceDelta::default()
    };
    let piece = |mut piece: WirePiece| ChoiceDelta {
        index: piece.index.small().unwrap_or(0),
        content: piece.take_text(),
        finish_reason: piece.finish_reason.or_else(|| wire.finish_reason.clone()),
        logprobs: Logprobs::from_value(piece.logprobs.0).filter(|_| token.is_none()).map(Box::new),
        ..of_token.clone()
    };
    let mut choices: Vec<_> = wire.choices.unwrap_or_default().into_iter().map(piece).collect();
    if !choices.is_empty() {
        return Ok(Some(Delta { choices, usage, head, ends: None }));
    }
    // A reason beside no choice is that of every answer.
    choices.extend(wire.token.map(|token| ChoiceDelta { content: token.text, ..of_token }));
    Ok(Some(Delta { choices, usage, head, ends: wire.finish_reason }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_without_numbers_stand_in_order() {
        let json = r#"{"id":"c","choices":[{"text":"a","finish_reason":"stop"},{"text":"b","finish_reason":"length"}],
                       "usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3},"model":"m","prompt":[]}"#;
        let read = parse_completion(&Bytes::from_static(json.as_bytes()), &"m".into()).ok().unwrap();
        let choices: Vec<_> = read.choices.iter().map(|choice| (choice.index, choice.text())).collect();
        assert_eq!(choices, [(0, "a"), (1, "b")]);
    }

    #[test]
    fn the_end_is_read_beside_the_choices_and_inside_them() {
        let beside = r#"{"id":"c","object":"completion.chunk","token":{"id":5,"text":" b","logprob":-0.5,"special":false},
                         "choices":[{"text":" b","index":0,"delta":{"content":" b"}}],"finish_reason":"stop","seed":7,
                         "usage":null}"#;
        let delta = parse_chunk(beside.as_bytes(), true).unwrap().unwrap();
        assert_eq!(delta.text(), " b");
        assert_eq!(delta.choices[0].finish_reason, Some(FinishReason::Stop));
        let inside = r#"{"choices":[{"index":1,"text":"x","finish_reason":"length","logprobs":null}]}"#;
        let delta = parse_chunk(inside.as_bytes(), false).unwrap().unwrap();
        assert_eq!((delta.choices[0].index, delta.choices[0].finish_reason.clone()), (1, Some(FinishReason::Length)));
        let bare = r#"{"choices":[],"token":{"id":1,"text":"y","logprob":0,"special":false}}"#;
        assert_eq!(parse_chunk(bare.as_bytes(), false).unwrap().unwrap().text(), "y");
        assert!(parse_chunk(br#"{"error":"x"}"#, false).unwrap().is_none());
    }
}
