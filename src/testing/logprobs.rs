//! Log probabilities in the API's own shape: parallel arrays, a word a token.

use serde_json::{Map, Value, json};

use super::sse::words;

/// The log probability of a token: made up of its letters, never above 0.
pub(super) fn of(token: &str) -> f64 {
    let sum: u32 = token.bytes().map(u32::from).sum();
    -f64::from(sum % 97) / 64.0
}

pub(super) fn id(token: &str) -> u64 {
    token.bytes().fold(7, |id, byte| (id * 31 + u64::from(byte)) % 128_000)
}

/// Those of a whole text, with `top` alternatives each.
pub(super) fn whole(text: &str, top: u64) -> Value {
    let tokens: Vec<String> = words(text).collect();
    let alternatives = |token: &String| {
        let mut found = Map::from_iter([(token.clone(), json!(of(token)))]);
        for rank in 1..top {
            found.insert(format!("{token}{rank}"), json!(of(token) - u32::try_from(rank).map_or(0.0, f64::from)));
        }
        Value::Object(found)
    };
    json!({
        "token_ids": tokens.iter().map(|token| id(token)).collect::<Vec<_>>(),
        "tokens": tokens,
        "token_logprobs": tokens.iter().map(|token| of(token)).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(alternatives).collect::<Vec<_>>(),
    })
}
