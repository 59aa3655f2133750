//! Documents of models, cut and broken everywhere.

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Map, Value, json};

use super::{Partial, repair_json, scan::Start};

fn repaired(text: &str) -> Option<Value> {
    repair_json(text).map(|repaired| serde_json::from_str(&repaired.json).unwrap())
}

#[test]
fn what_models_get_wrong_is_put_right() {
    for (text, value) in [
        ("{\"a\":1}", json!({"a": 1})),
        ("```json\n{\"a\":1}\n```", json!({"a": 1})),
        ("Here you are:\n```json\n{\"a\": [1, 2,],}\n```\nAnything else?", json!({"a": [1, 2]})),
        ("<think>{\"a\": 0} or so</think>{\"a\":1}", json!({"a": 1})),
        ("hm {x} hm</think>\n{\"a\":1}", json!({"a": 1})),
        ("The {curly} braces: {\"a\":1}", json!({"a": 1})),
        ("{\"a\":1 \"b\":2}", json!({"a": 1, "b": 2})),
        ("[\"a\" \"b\"]", json!(["a", "b"])),
        ("[1 2\n3]", json!([1, 2, 3])),
        ("{a: 1, 'b': 'it', \"c\": True, d: None}", json!({"a": 1, "b": "it", "c": true, "d": null})),
        ("{category: billing, n: -1.5e3}", json!({"category": "billing", "n": -1500.0})),
        ("{\"a\": \"line\nbreak\ttab\"}", json!({"a": "line\nbreak\ttab"})),
        ("{\"a\": \"say \"yes\" now\"}", json!({"a": "say \"yes\" now"})),
        ("{\"a\": 1, // one\n /* two */ \"b\": 2}", json!({"a": 1, "b": 2})),
        ("{\"a\": {\"b\": [1, {\"c\": \"d", json!({"a": {"b": [1, {"c": "d"}]}})),
        ("{\"a\": [1, 2}", json!({"a": [1, 2]})),
        ("{\"a\": 1, \"b\":", json!({"a": 1})),
        ("{\"a\": 1, \"b", json!({"a": 1})),
        ("[true, fal", json!([true])),
        ("[12", json!([12])),
        ("{\"a\": \"\\u00e9\\ud83e\\udd80\\ud83e \\x\"}", json!({"a": "é🦀\u{fffd} \\x"})),
        ("[+1, .5, 007]", json!([1, 0.5, 7.0])),
        ("{\"a\":1,\"a\":2}", json!({"a": 1})),
        ("{\"ok\": true // yes\n, \"b\": 1}", json!({"ok": true, "b": 1})),
        ("{\"a\": 1/* x */, \"b\": false # no\n}", json!({"a": 1, "b": false})),
        ("{\"a\": \"x\" // note\n, \"b\": 1}", json!({"a": "x", "b": 1})),
        ("{\"url\": http://x//y, \"b\": 1}", json!({"url": "http://x//y", "b": 1})),
        ("{\"html\": \"a </think> [b]\", \"n\": [1,],}", json!({"html": "a </think> [b]", "n": [1]})),
        ("{'a': 'x' 'b': 'y'}", json!({"a": "x", "b": "y"})),
        ("{\"a\": \"x\"\n b: 1}", json!({"a": "x", "b": 1})),
        ("{\"a\": \"\"\"say \"x\"\"\"\"}", json!({"a": "say \"x"})),
        ("{\"a\": \"\"\"x\"\"\", \"b\": \"\"}", json!({"a": "x", "b": ""})),
        ("{artist: Nan Goldin, to: infinity and beyond}", json!({"artist": "Nan Goldin", "to": "infinity and beyond"})),
        ("{qty: 10 apples, sum: 10,000}", json!({"qty": "10 apples", "sum": "10,000"})),
        ("{\"quote\": \"He said \"yes\", and left\", \"n\": 1}", json!({"quote": "He said \"yes\", and left", "n": 1})),
        ("{\"tpl\": {\"x\": \"use {\"y\"} here\"}, \"n\": 1}", json!({"tpl": {"x": "use {\"y\"} here"}, "n": 1})),
        ("[\"He said \"yes\", not now\", true]", json!(["He said \"yes\", not now", true])),
        ("I use {name: ...}: {\"name\":\"Lima\",}", json!({"name": "Lima"})),
        ("{\"a\": , \"b\": 1}", json!({"b": 1})),
        ("{{\"a\": 1}}", json!({"a": 1})),
        (
            "<|channel|>analysis<|message|>{\"a\": 0}<|end|><|start|>assistant<|channel|>final<|message|>{\"a\": 1}",
            json!({"a": 1}),
        ),
        ("Maybe {\"a\": 0}? No.</think>{\"a\": 1}", json!({"a": 1})),
    ] {
        assert_eq!(repaired(text), Some(value), "{text}");
    }
    for text in ["", "no", "{", "[", "{\"a\" 1}", "]}", "{]"] {
        let found = repaired(text);
        assert!(found.is_none() || found == Some(json!({})) || found == Some(json!([])), "{text}: {found:?}");
    }
}

#[test]
fn a_cut_is_told() {
    assert!(!repair_json("[1]").unwrap().cut && !repair_json("[1,]").unwrap().cut);
    for text in ["[1", "[\"a", "{\"a\": [1]", "{\"a\":"] {
        assert!(repair_json(text).unwrap().cut, "{text}");
    }
}

/// Scenario: documents that go on in a way which nobody can read.
/// Expected: what was complete stays; it is told that something is missing, and a typed answer takes none of it.
#[test]
fn what_cannot_be_read_ends_the_document() {
    for (text, value) in [
        ("{\"a\": 1, \"b\": 2, {\"a\": 7}", json!({"a": 1, "b": 2})),
        ("{\"a\": 1, \"b\" 2}", json!({"a": 1})),
        ("{\"a\": 1, \"b\": ...}", json!({"a": 1})),
        ("{\"a\": 10, apples, \"b\": 1}", json!({"a": 10})),
        ("{\"a\": 1} no</think> {\"a\": 2}", json!({"a": 1})),
    ] {
        let repaired = repair_json(text).unwrap();
        assert_eq!((repaired.cut, serde_json::from_str::<Value>(&repaired.json).unwrap()), (true, value), "{text}");
        #[cfg(feature = "schema")]
        assert!(super::parse_value::<Value>(text, Start::Object).is_err(), "{text}");
    }
    for call in ["<tool_call>{\"name\": \"f\"}</tool_call>", "[TOOL_CALLS][{\"name\": \"f\"}]", "<think>hm {\"a\": 1}"]
    {
        assert_eq!(repaired(call), None, "{call}");
    }
}

/// Scenario: texts in two pieces, each of which looks complete to a careless reader.
/// Expected: nothing shows before what follows confirms it, and nothing goes that was shown.
#[test]
fn a_value_shows_once_what_follows_confirms_it() {
    for (first, second, pointer, seen, then) in [
        (r#"{"quote": "He said "yes","#, r#" and left", "n": 1}"#, "/quote", None, json!("He said \"yes\", and left")),
        (r#"{"qty": 10 "#, r#"apples, "b": 1}"#, "/qty", None, json!("10 apples")),
        (r#"{"a": 1, "b": 2, "#, r#"{"a":7}"#, "/a", Some(json!(1)), json!(1)),
        (r#"{"m": {"a": 1, "#, r#""a": 2}}"#, "/m/a", Some(json!(1)), json!(1)),
        (r#"{"a": "x", "b":"#, " 1}", "/a", Some(json!("x")), json!("x")),
    ] {
        let mut partial = Partial::<()>::new();
        partial.push(first);
        assert_eq!(partial.value(pointer), seen.as_ref(), "{first}");
        partial.push(second);
        assert_eq!(partial.value(pointer), Some(&then), "{first}{second}");
    }
}

#[test]
fn a_draft_never_shows_and_a_plain_document_does_at_once() {
    for text in ["{\"a\": 1, ", "\n```json\n{\"a\": 1, ", "<think>{\"a\": 0}</think>\n{\"a\": 1, "] {
        let mut partial = Partial::<()>::new();
        partial.push(text);
        assert_eq!(partial.get::<u8>("/a"), Some(1), "{text}");
    }
    let mut partial = Partial::<()>::new();
    partial.push("Maybe {\"a\": 0} or {\"a\": 3");
    assert!(partial.to_value().is_none() && partial.text_under_way().is_none() && !partial.is_whole());
    partial.push("}? No.</think>{\"a\": 1, ");
    assert_eq!(partial.get::<u8>("/a"), Some(1), "the closing tag settles it");
}

/// What models, and those who test them, do to a document.
#[derive(Clone, Debug)]
enum Harm {
    Delete(usize),
    Insert(usize, &'static str),
    Cut(usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    let pieces = vec![
        "\"",
        "'",
        ",",
        ":",
        "{",
        "}",
        "[",
        "]",
        " and ",
        " 7 apples ",
        "</think>",
        "<think>",
        "//",
        "/*",
        "\n",
        "...",
        "\"a\": 7, ",
        "\"a\": 7, \"a\": 8, ",
        "{\"a\":7}",
        "\\",
        "<|channel|>final<|message|>",
        "yes, no: ",
        "#",
        "\"\"\"",
    ];
    let at = 0_usize..400;
    prop_oneof![
        3 => at.clone().prop_map(Harm::Delete),
        6 => (at.clone(), proptest::sample::select(pieces)).prop_map(|(at, piece)| Harm::Insert(at, piece)),
        1 => at.prop_map(Harm::Cut),
    ]
}

fn harmed(document: &Value, prose: &str, harms: &[Harm]) -> String {
    let mut text: Vec<char> = format!("{prose}{document}").chars().collect();
    for harm in harms {
        let length = text.len().max(1);
        match harm {
            Harm::Delete(at) if !text.is_empty() => drop(text.remove(at % length)),
            Harm::Insert(at, piece) => drop(text.splice(at % length..at % length, piece.chars())),
            Harm::Delete(_) => {}
            Harm::Cut(at) => text.truncate(at % length),
        }
    }
    text.into_iter().collect()
}

/// Scenario: documents harmed in every way, after prose or none, a character at a time.
/// Expected: what is complete at one cut is so at the next one, at the end, and in the typed answer, if there is one.
#[test]
fn no_complete_value_of_a_broken_document_is_ever_taken_back() {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(2_000) });
    let prose = proptest::sample::select(vec!["", "", "", "```json\n", "Sure: ", "Maybe {\"a\": 1}</think>", "{x} "]);
    let outcome = runner.run(&(document(), prose, vec(harm(), 1..6)), |(document, prose, harms)| {
        let text = harmed(&document, prose, &harms);
        let mut partial = Partial::<Value>::starting(Start::Object);
        let mut before = json!({});
        for c in text.chars() {
            partial.push(c.encode_utf8(&mut [0; 4]));
            // With nothing in it yet a brace may be prose.
            let now = partial.to_value().unwrap_or_else(|| json!({}));
            prop_assert!(is_within(&before, &now), "{before} then {now} of {text}");
            before = now;
        }
        partial.end();
        let now = partial.to_value().unwrap_or_else(|| json!({}));
        prop_assert!(is_within(&before, &now), "{before} then {now} of {text}");
        #[cfg(feature = "schema")]
        if let Ok(parsed) = super::parse_value::<Value>(&text, Start::Object)
            && parsed.value.is_object()
        {
            prop_assert!(is_within(&now, &parsed.value), "{now} then {} of {text}", parsed.value);
        }
        let whole = partial.finish().map_or_else(|| json!({}), |finished| finished.value);
        prop_assert!(is_within(&now, &whole), "{now} then {whole} of {text}");
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn nesting_without_end_is_given_up() {
    assert_eq!(repaired(&"[".repeat(100_000)), None);
    assert!(repaired(&format!("{}1{}", "[".repeat(100), "]".repeat(100))).is_some());
}

fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e6_f64..1e6).prop_map(Value::from),
        "[ -~éß🦀\n\"\\\\{}\\[\\],:]{0,12}".prop_map(Value::from),
    ];
    let inner = leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec(("[a-z\"/~é]{0,4}", inner), 0..5).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    });
    vec(("[a-z]{1,4}", inner), 1..6).prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()))
}

/// Whether everything in `part` is in `whole`, in its place.
fn is_within(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            part.iter().all(|(name, value)| whole.get(name).is_some_and(|other| is_within(value, other)))
        }
        (Value::Array(part), Value::Array(whole)) => {
            part.len() <= whole.len() && part.iter().zip(whole).all(|(value, other)| is_within(value, other))
        }
        _ => part == whole,
    }
}

/// Scenario: a thousand documents, plain and pretty, each cut at every byte.
/// Expected: what is complete at a cut is complete at the next one and in the document; the rest never shows.
#[test]
fn no_complete_value_is_ever_taken_back() {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(1_000) });
    let outcome = runner.run(&(document(), any::<bool>()), |(document, pretty)| {
        let text = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) };
        let text = text.unwrap();
        let mut partial = Partial::<Value>::new();
        let mut before = Value::Object(Map::new());
        let mut start = 0;
        for end in 1..=text.len() {
            // A stream hands over whole characters.
            let Some(piece) = text.get(start..end) else { continue };
            partial.push(piece);
            start = end;
            let now = partial.to_value().unwrap();
            prop_assert!(is_within(&before, &now), "{before} then {now}");
            prop_assert!(is_within(&now, &document), "{now} of {document}");
            before = now;
        }
        prop_assert!(partial.is_whole());
        prop_assert_eq!(before, document);
        Ok(())
    });
    outcome.unwrap();
}

/// However it is cut into pieces, the same text gives the same document.
#[test]
fn pieces_do_not_matter_and_nothing_panics() {
    let broken = "[ -~é\n]{0,80}";
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(5_000) });
    let outcome = runner.run(&(broken, document(), 0_usize..40, 0_usize..40), |(noise, document, at, length)| {
        let mut text = document.to_string();
        let cut = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.insert_str(cut, &noise.chars().take(length).collect::<String>());
        for text in [text, noise] {
            let whole = repair_json(&text);
            let mut partial = Partial::<Value>::new();
            let mut at_once = Partial::<Value>::new();
            text.chars().for_each(|c| partial.push(c.encode_utf8(&mut [0; 4])));
            at_once.push(&text);
            prop_assert_eq!(partial.finish(), at_once.finish(), "{}", text);
            if let Some(repaired) = whole {
                prop_assert!(serde_json::from_str::<Value>(&repaired.json).is_ok());
            }
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn valid_documents_are_read_as_they_are() {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(2_000) });
    let outcome = runner.run(&document(), |document| {
        prop_assert_eq!(repaired(&document.to_string()), Some(document.clone()));
        prop_assert_eq!(repaired(&serde_json::to_string_pretty(&document).unwrap()), Some(document));
        Ok(())
    });
    outcome.unwrap();
}
