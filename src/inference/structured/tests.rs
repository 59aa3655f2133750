//! Documents of models, cut and broken everywhere.

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Map, Value, json};

use super::{Partial, repair_json};

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
