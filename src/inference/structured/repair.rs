//! Mending the JSON of a whole answer.

#[cfg(feature = "schema")]
use serde::de::{Error as _, IgnoredAny};
#[cfg(feature = "schema")]
use serde_json::Error;

#[cfg(feature = "schema")]
use super::doubled::has_doubled_keys;
use super::scan::{Finished, Scanner, Start};

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
    /// Whether the text ended inside of the document, or went on in a way that could not be read: what was open is
    /// closed, and something may be missing.
    pub cut: bool,
}

/// The first JSON object or array in a text, mended where it is broken; `None` where there is none.
///
/// Text, reasoning (`<think>…</think>`, channels of Harmony), marked tool calls and Markdown fences around it are left
/// out; trailing and missing commas,
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
    let Finished { value, cut, .. } = mend(text, Start::Any)?;
    Some(Repaired { json: value.to_string(), cut })
}

fn mend(text: &str, start: Start) -> Option<Finished> {
    let mut scanner = Scanner::new(start);
    scanner.push(text);
    scanner.finish()
}

/// A value that was read out of a model's text.
#[cfg(feature = "schema")]
#[derive(Debug)]
pub(crate) struct Parsed<T> {
    pub(crate) value: T,
    pub(crate) mended: bool,
}

/// Reads a value out of a model's text: the text itself, without the fence that some models put around it; else what
/// can be mended of it. Where that breaks off, so that nobody can know what was meant, it is no value.
///
/// # Errors
///
/// The error of the text as JSON of the type.
#[cfg(feature = "schema")]
pub(crate) fn parse_value<T: serde::de::DeserializeOwned>(text: &str, start: Start) -> Result<Parsed<T>, Error> {
    let plain = unfenced(text);
    let error = match serde_json::from_str(plain) {
        Ok(value) if !has_doubled_keys(plain) => return Ok(Parsed { value, mended: false }),
        // `serde_json` takes the last value of a key, a stream has shown the first.
        Ok(_) => Error::custom("a key stands twice"),
        // A value of the wrong type is no broken JSON.
        Err(error) if error.is_data() && serde_json::from_str::<IgnoredAny>(plain).is_ok() => {
            if !has_doubled_keys(plain) {
                return Err(error);
            }
            error
        }
        Err(error) => error,
    };
    match mend(text, start) {
        Some(Finished { value, broken: false, .. }) => {
            T::deserialize(value).map(|value| Parsed { value, mended: true })
        }
        _ => Err(error),
    }
}

#[cfg(feature = "schema")]
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inner.strip_prefix("json").unwrap_or(inner).trim()
}
