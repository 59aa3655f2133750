//! Streams recorded from the API.

use bytes::Bytes;
use futures_util::StreamExt as _;
use together_inference::{
    client::{ChatCompletion, Content},
    types::{FinishReason, Role, Usage},
};

use crate::support::{answered, collect, hello, sse};

const TEXT: &str = include_str!("../data/recorded/chat_stream_text.sse");
const TOOL: &str = include_str!("../data/recorded/chat_stream_tool_call.sse");

async fn folded(pieces: Vec<Bytes>) -> ChatCompletion {
    collect(&answered(move || sse(pieces.clone()))).await.unwrap()
}

async fn whole(stream: &str) -> ChatCompletion {
    folded(vec![Bytes::copy_from_slice(stream.as_bytes())]).await
}

fn usage(prompt: u64, completion: u64) -> Option<Usage> {
    Some(Usage { prompt, cached: 0, completion, ..Usage::default() })
}

#[tokio::test]
async fn a_recorded_text_reads_exactly() {
    let answer = whole(TEXT).await;
    assert_eq!(answer.id, "ogzjdpL-6Ng1vN-9f391a08f8af75e1");
    assert_eq!(answer.model.as_str(), "meta-llama/Llama-3.3-70B-Instruct-Turbo");
    assert_eq!(answer.created, Some(1_777_411_129));
    assert_eq!(answer.usage, usage(45, 3));
    assert_eq!(answer.request_id.as_deref(), Some("request-7"));
    assert!(answer.warnings.is_empty() && answer.raw.is_empty());
    let [choice] = &*answer.choices else { panic!("{answer:?}") };
    assert_eq!((choice.index, choice.text(), &choice.message.role), (0, "Hello!", &Role::Assistant));
    assert_eq!(choice.finish_reason, Some(FinishReason::Stop));
    // Beyond i64::MAX.
    assert_eq!(choice.seed, Some(15_924_764_223_251_450_000));
    assert_eq!(choice.logprobs, None);
    assert!(choice.message.tool_calls.is_empty());
}

#[tokio::test]
async fn a_recorded_tool_call_reads_exactly() {
    let answer = whole(TOOL).await;
    assert_eq!(answer.usage, usage(194, 19));
    let [choice] = &*answer.choices else { panic!("{answer:?}") };
    assert_eq!(choice.finish_reason, Some(FinishReason::ToolCalls));
    assert_eq!(choice.seed, Some(9_033_012_299_842_426_000));
    assert_eq!(choice.message.content, None);
    let [call] = &*choice.message.tool_calls else { panic!("{answer:?}") };
    assert_eq!((&*call.id, &*call.kind, call.name()), ("call_yu1mxtmex7x48nximi9c8jpo", "function", "get_weather"));
    assert_eq!(call.function.arguments, r#"{"city":"Paris"}"#);
}

#[tokio::test]
async fn the_second_finish_reason_of_a_recorded_tool_call_ends_nothing_early() {
    let client = answered(|| sse([Bytes::from_static(TOOL.as_bytes())]));
    let deltas: Vec<_> = client.chat().stream(&hello()).await.unwrap().map(Result::unwrap).collect().await;
    let finished: Vec<_> = deltas.iter().map(|delta| delta.choices[0].finish_reason.is_some()).collect();
    assert_eq!(finished, [false, false, true, true]);
    let pieces: Vec<_> = deltas.iter().flat_map(|delta| delta.tool_calls()).collect();
    assert_eq!(pieces[0].name.as_deref(), Some("get_weather"));
    assert_eq!((pieces[1].name.as_deref(), &*pieces[1].arguments), (None, r#"{"city":"Paris"}"#));
    assert!(deltas[3].usage.is_some());
}

#[tokio::test]
async fn usage_is_read_wherever_it_stands() {
    let usage_text = r#""usage":{"prompt_tokens":45,"completion_tokens":3,"total_tokens":48,"cached_tokens":0}"#;
    let none = TEXT.replace(usage_text, r#""usage":null"#);
    assert_ne!(none, TEXT);
    let event = |body: &str| format!("data: {{\"id\":\"x\",{body}}}\n\ndata: [DONE]");
    let trailing = none.replace("data: [DONE]", &event(&format!("\"choices\":[],{usage_text}")));
    let in_choice = none.replace(r#""finish_reason":"stop""#, &format!(r#""finish_reason":"stop",{usage_text}"#));
    let late = none.replace(
        "data: [DONE]",
        &event(&format!(r#""choices":[{{"index":0,"delta":{{"content":""}}}}],{usage_text}"#)),
    );
    let early = none.replacen(r#""usage":null"#, usage_text, 1);
    for stream in [trailing, in_choice, late, early] {
        assert_eq!(whole(&stream).await.usage, usage(45, 3), "{stream}");
    }
    assert_eq!(whole(&none).await.usage, None);
}

#[tokio::test]
async fn a_stream_folds_to_the_same_answer_wherever_it_is_cut_into_pieces() {
    let unicode = TEXT.replace("Hello", "Grüße \u{1f980}\u{200d}日本");
    let on_two_lines = TEXT.replace(",\"choices\"", ",\ndata: \"choices\"");
    for recorded in [TEXT, TOOL, &unicode, &on_two_lines] {
        let expected = whole(recorded).await;
        for (mark, ending) in [("", "\n"), ("\u{feff}", "\n"), ("", "\r\n"), ("", "\r")] {
            let stream = Bytes::from(format!("{mark}{}", recorded.replace('\n', ending)));
            for cut in 0..=stream.len() {
                let answer = folded(vec![stream.slice(..cut), stream.slice(cut..)]).await;
                assert_eq!(answer, expected, "cut at {cut} with {ending:?}");
            }
            let bytes = (0..stream.len()).map(|at| stream.slice(at..=at)).collect();
            assert_eq!(folded(bytes).await, expected, "byte by byte with {ending:?}");
        }
    }
    let text = whole(&unicode).await;
    assert_eq!(text.choices[0].message.content, Some(Content::from("Grüße \u{1f980}\u{200d}日本!")));
}
