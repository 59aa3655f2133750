//! What the body of a failed request says, in whichever shape it came.
//!
//! Together answers with at least five: `{"error":{…}}`, the same with an `id` beside it, `{"error":"…"}`,
//! `{"message":"…"}`, `{"detail":…}`; proxies in front add HTML, plain text and nothing at all. A field that has an
//! unexpected type counts as absent, so that the others are not lost. The caller keeps the raw body.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// Characters of a message taken out of HTML or plain text.
const MAX_TEXT_CHARS: usize = 200;

/// How many entries of a list of errors go into the message.
const MAX_LIST_ENTRIES: usize = 8;

/// The fields of an error body, each where the server sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorBody {
    /// What went wrong, for people. From a body that is not JSON: its title or first line, shortened.
    pub(crate) message: Option<String>,
    /// `error_type`, else `type`; for example `invalid_request_error` or `dynamic_request_limited`.
    pub(crate) kind: Option<String>,
    /// The code, for example `model_not_available`; a number is turned into text.
    pub(crate) code: Option<String>,
    /// The parameter that is refused, for example `response_format`.
    pub(crate) param: Option<String>,
    /// The provider's id of the failed request.
    pub(crate) id: Option<String>,
}

impl ErrorBody {
    /// Reads any body. What it can't make sense of leaves every field empty.
    pub(crate) fn parse(body: &[u8]) -> Self {
        // Broken UTF-8 in one field must not cost the others.
        let text = String::from_utf8_lossy(body);
        match serde_json::from_str(&text) {
            Ok(Node::Object(fields)) => (*fields).into(),
            Ok(node) => Self { message: node.message(), ..Self::default() },
            Err(_) => Self { message: first_words(&text), ..Self::default() },
        }
    }
}

/// The error that a response with a success status carries instead of an answer.
///
/// It is one when the top-level `error` says something: an object, a text, a list, but not null, `false`, 0 or "". The
/// body is read once and nothing but the error's fields is kept; still, ask only when it holds no answer.
pub(crate) fn error_in_success(body: &[u8]) -> Option<ErrorBody> {
    let Ok(Node::Object(fields)) = serde_json::from_slice(body) else { return None };
    fields.error.is_truthy().then(|| (*fields).into())
}

/// The keys that matter, on the top level as well as below `error`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    error: Node,
    detail: Node,
    message: Scalar,
    /// The validation errors' name of the message in a list below `detail`.
    msg: Scalar,
    #[serde(rename = "type")]
    kind: Scalar,
    error_type: Scalar,
    code: Scalar,
    param: Scalar,
    id: Scalar,
}

impl Fields {
    fn message(self) -> Option<String> {
        let own = self.message.0.or(self.msg.0);
        own.or_else(|| self.error.message()).or_else(|| self.detail.message())
    }
}

impl From<Fields> for ErrorBody {
    fn from(mut outer: Fields) -> Self {
        let mut inner = match std::mem::take(&mut outer.error) {
            Node::Object(fields) => *fields,
            text => Fields { message: Scalar(text.message()), ..Fields::default() },
        };
        let mut pick = |field: fn(&mut Fields) -> &mut Scalar| {
            let inner = field(&mut inner).0.take();
            inner.or_else(|| field(&mut outer).0.take())
        };
        Self {
            // `error_type` first: the documentation puts the kind of a rate limit there, `type` may be more general.
            kind: pick(|fields| &mut fields.error_type).or_else(|| pick(|fields| &mut fields.kind)),
            code: pick(|fields| &mut fields.code),
            param: pick(|fields| &mut fields.param),
            id: pick(|fields| &mut fields.id),
            message: inner.message().or_else(|| outer.message()),
        }
    }
}

/// Text or a number as text; whatever else is skipped.
#[derive(Default)]
struct Scalar(Option<String>);

/// A value that may be the error itself.
#[derive(Default)]
enum Node {
    /// Absent, null, `false`, zero, an empty text or list.
    #[default]
    Nothing,
    /// `true`, a number.
    Something,
    Text(String),
    Object(Box<Fields>),
    /// The messages of a list that is not empty.
    List(Vec<String>),
}

impl Node {
    const fn is_truthy(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    fn message(self) -> Option<String> {
        match self {
            Self::Nothing | Self::Something => None,
            Self::Text(text) => Some(text),
            Self::Object(fields) => fields.message(),
            Self::List(messages) => (!messages.is_empty()).then(|| messages.join("; ")),
        }
    }
}

const fn truthy(value: bool) -> Node {
    if value { Node::Something } else { Node::Nothing }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar(None))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar(Some(number.to_string())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar(Some(number.to_string())))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar(Some(number.to_string())))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar((!text.is_empty()).then(|| text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar(None))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(truthy(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(truthy(number != 0))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(truthy(number != 0))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(truthy(number != 0.0))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(if text.is_empty() { Node::Nothing } else { Node::Text(text.to_owned()) })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        // Entry by entry, so that a long list costs no memory.
        let (mut messages, mut is_empty) = (Vec::new(), true);
        while messages.len() < MAX_LIST_ENTRIES {
            let Some(entry) = list.next_element::<Node>()? else { break };
            is_empty = false;
            messages.extend(entry.message());
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(if is_empty { Node::Nothing } else { Node::List(messages) })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Node, A::Error> {
        Fields::deserialize(MapAccessDeserializer::new(map)).map(|fields| Node::Object(Box::new(fields)))
    }
}

/// The title of an HTML page, else the first line of text without tags.
fn first_words(body: &str) -> Option<String> {
    let title = find_ignore_case(body, "<title").and_then(|rest| rest.split_once('>')).map(|(_, rest)| rest);
    let title = title.and_then(|rest| rest.split('<').next()).and_then(clean_line);
    title.or_else(|| without_tags(body).lines().find_map(clean_line))
}

/// What follows the needle, which must be ASCII.
fn find_ignore_case<'a>(text: &'a str, needle: &str) -> Option<&'a str> {
    let mut windows = text.as_bytes().windows(needle.len());
    let start = windows.position(|window| window.eq_ignore_ascii_case(needle.as_bytes()))?;
    text.get(start + needle.len()..)
}

fn without_tags(html: &str) -> String {
    let mut in_tag = false;
    let keep = |character: &char| {
        let is_text = !in_tag && *character != '<';
        in_tag = *character == '<' || in_tag && *character != '>';
        is_text
    };
    html.chars().filter(keep).collect()
}

/// One line fit for a log: single spaces, no control characters, short; `None` when nothing legible is in it.
fn clean_line(text: &str) -> Option<String> {
    let spaced: String = text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    let words = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = words.chars().take(MAX_TEXT_CHARS).collect();
    line.chars().any(char::is_alphanumeric).then_some(line)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// message, kind, code, id
    fn fields(body: &str) -> [Option<String>; 4] {
        let ErrorBody { message, kind, code, id, .. } = ErrorBody::parse(body.as_bytes());
        [message, kind, code, id]
    }

    fn message(body: &str) -> Option<String> {
        ErrorBody::parse(body.as_bytes()).message
    }

    fn some<const N: usize>(texts: [&str; N]) -> [Option<String>; N] {
        texts.map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()))
    }

    #[test]
    fn every_shape_of_together_is_read() {
        for (body, expected) in [
            (r#"{"error":{"message":"m","type":"t","param":"p","code":"c"}}"#, ["m", "t", "c", ""]),
            (r#"{"id":"i","error":{"message":"m","type":"t","param":null,"code":"c"}}"#, ["m", "t", "c", "i"]),
            (r#"{"error":"m"}"#, ["m", "", "", ""]),
            (r#"{"message":"m"}"#, ["m", "", "", ""]),
            (r#"{"detail":"m"}"#, ["m", "", "", ""]),
            (r#"{"detail":["a",{"loc":["body"],"msg":"b","type":"x"},7]}"#, ["a; b", "", "", ""]),
            (r#"{"detail":{"message":"m"}}"#, ["m", "", "", ""]),
            (r#"{"error":{"message":"m","code":429}}"#, ["m", "", "429", ""]),
            (r#"{"error":{"message":"m"},"error_type":"e","code":-1.5}"#, ["m", "e", "-1.5", ""]),
            (r#"{"error":{"type":"t","error_type":"e"},"message":"m"}"#, ["m", "e", "", ""]),
            (r#"{"error":{"id":"i","detail":"m"},"type":"t"}"#, ["m", "t", "", "i"]),
            (r#""m""#, ["m", "", "", ""]),
        ] {
            assert_eq!(fields(body), some(expected), "{body}");
        }
    }

    #[test]
    fn a_field_of_the_wrong_type_does_not_cost_the_others() {
        let body = r#"{"error":{"message":{"a":[1]},"type":["t"],"code":"c"},"message":"m","id":{}}"#;
        assert_eq!(fields(body), some(["m", "", "c", ""]));
        let broken = ErrorBody::parse(b"{\"error\":{\"message\":\"a\xFFb\",\"code\":\"c\"}}");
        assert_eq!((broken.message.as_deref(), broken.code.as_deref()), (Some("a\u{fffd}b"), Some("c")));
        for body in ["null", "{}", "[]", "7", "true", "", " ", r#"{"error":null}"#, r#"{"error":{}}"#, "\0\u{fffd}"] {
            assert_eq!(ErrorBody::parse(body.as_bytes()), ErrorBody::default(), "{body}");
        }
    }

    #[test]
    fn a_page_is_told_by_its_title_or_first_line() {
        let page =
            "<!DOCTYPE html>\n<html><head>\n<TITLE lang=en>api | 524:\n\tA timeout </TITLE></head><body>x</body>";
        assert_eq!(message(page).as_deref(), Some("api | 524: A timeout"));
        assert_eq!(
            message("<html>\n<title></title><h1>Bad <b>Gateway</b></h1>\r\n<p>x").as_deref(),
            Some("Bad Gateway")
        );
        assert_eq!(message("\n\nupstream\x1b[31m error\nmore").as_deref(), Some("upstream [31m error"));
        assert_eq!(message("<html><img src=x>"), None);
        assert_eq!(message(&"é".repeat(500)).map(|text| text.chars().count()), Some(MAX_TEXT_CHARS));
        assert_eq!(
            message(r#"{"error":{"message":"cut off he"#).as_deref(),
            Some(r#"{"error":{"message":"cut off he"#)
        );
    }

    #[test]
    fn a_success_is_an_error_only_when_its_error_says_something() {
        for body in [
            "",
            "null",
            "[]",
            "<html>",
            r#"{"choices":[]}"#,
            r#"{"error":null}"#,
            r#"{"error":""}"#,
            r#"{"error":false}"#,
            r#"{"error":0}"#,
            r#"{"error":0.0}"#,
            r#"{"error":[]}"#,
            r#"{"choices":[{"error":"x"}],"message":"m"}"#,
        ] {
            assert_eq!(error_in_success(body.as_bytes()), None, "{body}");
        }
        for (body, expected) in [
            (r#"{"error":"m"}"#, Some("m")),
            (r#"{"id":"i","choices":[],"error":{"message":"m"}}"#, Some("m")),
            (r#"{"error":["m"]}"#, Some("m")),
            (r#"{"error":{}}"#, None),
            (r#"{"error":true}"#, None),
            (r#"{"error":-1.5}"#, None),
        ] {
            let error = error_in_success(body.as_bytes()).expect(body);
            assert_eq!(error.message.as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn bombs_give_a_plain_error() {
        let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(1_000_000), close.repeat(1_000_000));
        for (bomb, length) in [(nested("[", "]"), None), (nested(r#"{"error":"#, "}"), Some(MAX_TEXT_CHARS))] {
            assert_eq!(message(&bomb).map(|text| text.len()), length);
            assert_eq!(error_in_success(bomb.as_bytes()), None);
        }
        let skipped = format!(r#"{{"error":{{"message":{},"code":"c"}}}}"#, nested("[", "]"));
        assert_eq!(fields(&skipped), some(["", "", "c", ""]));
        let ignored = format!(r#"{{"error":"m","choices":{},"n":1e400}}"#, nested("[", "]"));
        assert_eq!(error_in_success(ignored.as_bytes()).unwrap().message.as_deref(), Some("m"));
        let list = format!(r#"{{"error":[{}"x"]}}"#, "0,\"y\",".repeat(1_000_000));
        assert_eq!(error_in_success(list.as_bytes()).unwrap().message.unwrap(), ["y"; MAX_LIST_ENTRIES].join("; "));
        let _ = message(&"<title".repeat(100_000));
    }

    proptest! {
        #[test]
        fn no_body_panics(
            parts in vec(select(vec![
                "{", "}", "[", "]", ":", ",", "\"error\":", "\"message\":", "\"detail\":", "\"m\"", "\"\\ud800\"", "1",
                "1e999", "null", "<title>", "<", ">", "\n", "é", "\"",
            ]), 0..30),
            bytes in vec(any::<u8>(), 0..40),
        ) {
            let text = parts.concat();
            for body in [text.as_bytes(), &bytes] {
                let _ = (ErrorBody::parse(body), error_in_success(body));
            }
        }
    }
}
