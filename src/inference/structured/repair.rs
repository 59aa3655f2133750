//! Mending the JSON of a whole answer.

use serde_json::Value;

use super::scan::{Scanner, Start};

/// JSON that was mended.
///
/// ```
/// use together_inference::inference::repair_json;
///
/// let repaired = repair_json("Sure!\n```json\n{'days': 5, // working days\n 'notes': ['a', 'b',],}\n```").unwrap();
/// assert_eq!(repaired.json, r#"{"days":5,"notes":["a","b"]}"#);
/// assert!(!repaired.cut);
/// assert!(repair_json(r#"{"days": 5, "notes": ["a"#).unwrap().cut);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// Valid JSON.
    pub json: String,
    /// Whether the text ended inside of the document: what was open is closed, and something may be missing.
    pub cut: bool,
}

/// The first JSON object or array in a text, mended where it is broken; `None` where there is none.
///
/// Text, reasoning (`<think>…</think>`) and Markdown fences around it are left out; trailing and missing commas,
/// comments, single or missing quotes, line breaks and quotes inside of texts, `True`, `False` and `None` are put right;
/// what is open at the end is closed. Of two values of one key the first stays. It reads each byte once.
///
/// Mending guesses. What [`complete_as`](crate::InferenceService::complete_as) mends is always flagged.
///
/// ```
/// use together_inference::inference::repair_json;
///
/// assert_eq!(repair_json("<think>{hm}</think> [1, 2,]").unwrap().json, "[1,2]");
/// assert_eq!(repair_json("no JSON at all"), None);
/// ```
#[must_use]
pub fn repair_json(text: &str) -> Option<Repaired> {
    let (value, cut) = mend(text, Start::Any)?;
    Some(Repaired { json: value.to_string(), cut })
}

fn mend(text: &str, start: Start) -> Option<(Value, bool)> {
    let mut scanner = Scanner::new(start);
    scanner.push(answer_of(text));
    scanner.finish()
}

/// What comes after the reasoning, if there is a document in it: some models write the closing tag alone.
fn answer_of(text: &str) -> &str {
    let after = text.rfind("</think>").and_then(|at| text.get(at..));
    after.filter(|after| after.contains(['{', '['])).unwrap_or(text)
}

/// A value that was read out of a model's text.
#[cfg(feature = "schema")]
#[derive(Debug)]
pub(crate) struct Parsed<T> {
    pub(crate) value: T,
    pub(crate) mended: bool,
}

/// Reads a value out of a model's text: the text itself, without the fence that some models put around it; else what
/// can be mended of it.
///
/// # Errors
///
/// The error of the text as JSON of the type.
#[cfg(feature = "schema")]
pub(crate) fn parse_value<T: serde::de::DeserializeOwned>(
    text: &str,
    start: Start,
) -> Result<Parsed<T>, serde_json::Error> {
    let error = match serde_json::from_str(unfenced(text)) {
        Ok(value) => return Ok(Parsed { value, mended: false }),
        Err(error) => error,
    };
    // A value of the wrong type is no broken JSON.
    if error.is_data() && serde_json::from_str::<serde::de::IgnoredAny>(unfenced(text)).is_ok() {
        return Err(error);
    }
    match mend(text, start) {
        Some((value, _)) => T::deserialize(value).map(|value| Parsed { value, mended: true }),
        None => Err(error),
    }
}

#[cfg(feature = "schema")]
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inner.strip_prefix("json").unwrap_or(inner).trim()
}
