use std::collections::BTreeSet;

use super::*;
use crate::testing::{
    ask::Ask,
    chat::{Circumstances, complete},
    models::SimModel,
    script::Reply,
};

/// As recorded of meta-llama/Llama-3.3-70B-Instruct-Turbo on 2026-04-28 (anomalyco/opencode, MIT), ids shortened.
const TEXT: &str = r#"[
    {"id":"o","object":"chat.completion.chunk","created":1777411129,
     "choices":[{"index":0,"text":"Hello","logprobs":null,"finish_reason":null,"seed":null,
     "delta":{"token_id":9906,"role":"assistant","content":"Hello"}}],
     "model":"m","usage":null},
    {"id":"o","object":"chat.completion.chunk","created":1777411129,
     "choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop",
      "seed":15924764223251450000,
     "delta":{"token_id":128009,"role":"assistant","content":""}}],
     "model":"m","usage":{"prompt_tokens":45,"completion_tokens":3,"total_tokens":48,"cached_tokens":0}}
]"#;
const TOOL: &str = r#"[
    {"id":"o","object":"chat.completion.chunk","created":1777411135,
     "choices":[{"index":0,"role":"assistant","text":"","logprobs":null,"finish_reason":null,
     "delta":{"token_id":null,"role":"assistant","content":""}}],
     "model":"m"},
    {"id":"o","object":"chat.completion.chunk","created":1777411135,
     "choices":[{"index":0,"text":"","logprobs":null,"finish_reason":null,
     "delta":{"token_id":null,"role":"assistant","content":"",
     "tool_calls":[{"index":0,"id":"call_yu1mxtmex7x48nximi9c8jpo","type":"function",
        "function":{"name":"get_weather","arguments":""}}]}}],
     "model":"m"},
    {"id":"o","object":"chat.completion.chunk","created":1777411135,
     "choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"tool_calls",
     "delta":{"token_id":null,"role":"assistant","content":"",
     "tool_calls":[{"index":0,"function":{"arguments":"{\"city\":\"Paris\"}"}}]}}],
     "model":"m"},
    {"id":"o","object":"chat.completion.chunk","created":1777411135,
     "choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"tool_calls","seed":9033012299842426000,
     "delta":{"token_id":128009,"role":"assistant","content":""}}],
     "model":"m","usage":{"prompt_tokens":194,"completion_tokens":19,"total_tokens":213,"cached_tokens":0}}
]"#;

fn stream(reply: &Reply, body: &Value, placement: UsagePlacement) -> Vec<Value> {
    let model = SimModel::chat("m");
    let given = Circumstances { model: &model, reply: Some(reply), cached: 0, seed: 1, serial: 1, plain: false };
    let completion = complete(Ask::new(body), given);
    let mut events: Vec<_> = pieces(&completion, placement).iter().map(|piece| piece.render(&completion)).collect();
    assert_eq!(events.pop().as_deref(), Some("data: [DONE]\n\n"));
    let json =
        |event: &String| event.strip_prefix("data: ").and_then(|event| event.strip_suffix("\n\n")).unwrap().to_owned();
    events.iter().map(|event| serde_json::from_str(&json(event)).unwrap()).collect()
}

fn ask() -> Value {
    json!({"messages": [{"role": "user", "content": "hi"}]})
}

/// Every path of a value with the type found there, array positions left out.
fn shape(value: &Value, at: &str, shapes: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| shape(value, &format!("{at}.{key}"), shapes)),
        Value::Array(items) => items.iter().for_each(|value| shape(value, &format!("{at}[]"), shapes)),
        Value::Null => drop(shapes.insert(format!("{at} null"))),
        Value::Number(_) => drop(shapes.insert(format!("{at} number"))),
        _ => drop(shapes.insert(format!("{at} text"))),
    }
}

fn shapes(values: &[Value]) -> Vec<BTreeSet<String>> {
    values
        .iter()
        .map(|value| {
            let mut shapes = BTreeSet::new();
            shape(value, "", &mut shapes);
            shapes
        })
        .collect()
}

fn recorded(chunks: &str) -> Vec<Value> {
    serde_json::from_str(chunks).unwrap()
}

#[test]
fn a_text_stream_has_the_recorded_shape() {
    let chunks = stream(&Reply::Text("Hi".into()), &ask(), UsagePlacement::FinalChunk);
    assert_eq!(shapes(&chunks), shapes(&recorded(TEXT)));
    assert!(chunks[1]["choices"][0]["seed"].as_u64().unwrap() > i64::MAX as u64);
}

#[test]
fn a_tool_stream_has_the_recorded_shape() {
    let reply = Reply::Tools(vec![("f".into(), json!({"a": 1}))]);
    let chunks = stream(&reply, &ask(), UsagePlacement::FinalChunk);
    assert_eq!(shapes(&chunks), shapes(&recorded(TOOL)));
    let finishes: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    assert_eq!(finishes, [&Value::Null, &Value::Null, &json!("tool_calls"), &json!("tool_calls")]);
}

#[test]
fn calls_of_one_turn_are_told_apart_by_index_and_the_last_one_finishes() {
    let reply = Reply::Tools(vec![("f".into(), json!({"a": 1})), ("g".into(), json!({"b": 2}))]);
    let chunks = stream(&reply, &ask(), UsagePlacement::Never);
    let calls: Vec<_> =
        chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta/tool_calls/0")?.as_object()).collect();
    let indices: Vec<_> = calls.iter().map(|call| call["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 0, 1, 1]);
    assert_ne!(calls[0]["id"], calls[2]["id"]);
    let finished = chunks.iter().position(|chunk| chunk["choices"][0]["finish_reason"] == "tool_calls");
    assert_eq!(finished, Some(4), "the role, two chunks of the first call, then the end of the second");
}

#[test]
fn the_pieces_of_a_stream_are_the_whole_answer() {
    let text = "Ein längerer Satz — mit Umlauten, äöüäöüäöüäöü ohne Lücke, und  zwei Leerzeichen. ";
    let chunks = stream(&Reply::Text(text.into()), &ask(), UsagePlacement::Never);
    let joined: String = chunks.iter().map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap()).collect();
    assert_eq!(joined, text);
    assert!(chunks.len() > 8 && chunks.iter().all(|chunk| chunk["usage"].is_null()));
}

#[test]
fn usage_is_where_it_was_wanted() {
    let reply = Reply::Text("Hi".into());
    let top = |placement| -> Vec<bool> {
        let chunks = stream(&reply, &ask(), placement);
        chunks.iter().map(|chunk| chunk.get("usage").is_some_and(Value::is_object)).collect()
    };
    assert_eq!(top(UsagePlacement::FinalChunk), [false, true]);
    assert_eq!(top(UsagePlacement::TrailingChunk), [false, false, true]);
    assert_eq!(top(UsagePlacement::Twice), [false, true, true]);
    assert_eq!(top(UsagePlacement::AfterFinish), [false, false, true]);
    assert_eq!(top(UsagePlacement::Never), [false, false]);
    let chunks = stream(&reply, &ask(), UsagePlacement::InChoice);
    assert!(chunks[1]["usage"].is_null() && chunks[1]["choices"][0]["usage"].is_object());
    assert_eq!(stream(&reply, &ask(), UsagePlacement::TrailingChunk)[2]["choices"], json!([]));
}

#[test]
fn thoughts_come_before_the_text_and_choices_one_after_another() {
    let reply = Reply::Reasoning { thinking: "hm hm".into(), text: "yes".into() };
    let mut body = ask();
    body["n"] = json!(2);
    let chunks = stream(&reply, &body, UsagePlacement::FinalChunk);
    let said: Vec<_> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0])
        .map(|choice| (choice["index"].as_u64().unwrap(), choice["delta"]["reasoning"].is_string()))
        .collect();
    let one = [(0, true), (0, true), (0, false), (0, false)];
    assert_eq!(said[..4], one);
    assert_eq!(said[4..], one.map(|(_, thought)| (1, thought)));
    assert!(chunks[3]["usage"].is_null() && chunks[7]["usage"].is_object());
}
