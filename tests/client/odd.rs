//! Answers in another server's words: what stands beside an answer never costs the answer.

use bytes::Bytes;
use serde_json::{Value, json};
use together_inference::{
    TogetherClient,
    client::{
        ChatCompletion, CompletionRequest, EmbeddingRequest, ErrorKind, Image, ImageRequest, RerankInput, RerankRequest,
    },
};

use crate::support::{MODEL, answered, hello, json as success, sse};

fn says(body: &Value) -> TogetherClient {
    let body = Bytes::from(body.to_string());
    answered(move || success(body.clone()))
}

/// Events of these chunks, then the end mark.
fn streams(chunks: &[Value]) -> TogetherClient {
    let events: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    let piece = Bytes::from(format!("{events}data: [DONE]\n\n"));
    answered(move || sse([piece.clone()]))
}

/// What the plain call and the stream make of an answer "hi" with these fields beside it and in its message.
async fn both(beside: &Value, inside: &Value) -> [ChatCompletion; 2] {
    let with = |value: Value, more: &Value| {
        let (Value::Object(mut fields), Value::Object(more)) = (value, more.clone()) else { unreachable!() };
        fields.extend(more);
        Value::Object(fields)
    };
    let message = with(json!({"content": "hi"}), inside);
    let whole = with(json!({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}), beside);
    let chunk = with(json!({"choices": [{"index": 0, "delta": message}]}), beside);
    let last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let plain = says(&whole).chat().create(&hello()).await;
    let stream = streams(&[chunk, last]).chat().stream(&hello()).await;
    let plain = plain.unwrap_or_else(|error| panic!("{whole}: {error}"));
    let stream = stream.unwrap_or_else(|error| panic!("streamed {whole}: {error}"));
    [plain, stream.collect().await.unwrap()]
}

#[tokio::test]
async fn a_side_field_of_the_wrong_type_costs_no_answer() {
    for beside in [
        json!({"usage": ""}),
        json!({"usage": []}),
        json!({"usage": 5}),
        json!({"usage": {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": 5}}),
        json!({"usage": {"prompt_tokens": 3, "completion_tokens": 1, "completion_tokens_details": "none"}}),
        json!({"id": {}, "model": 7}),
        json!({"model": []}),
        json!({"created": "today", "system_fingerprint": 7, "object": []}),
        json!({"warnings": true}),
    ] {
        for answer in both(&beside, &json!({})).await {
            assert_eq!(answer.text(), "hi", "{beside}");
            let prompt = answer.usage.map(|usage| usage.prompt);
            assert_eq!(prompt, beside["usage"]["prompt_tokens"].as_u64(), "{beside}");
        }
    }
    for inside in [
        json!({"reasoning": {"summary": 1}}),
        json!({"reasoning_content": 0.5}),
        json!({"role": 5}),
        json!({"function_call": "none"}),
        json!({"function_call": {}}),
    ] {
        for answer in both(&json!({}), &inside).await {
            assert_eq!(answer.text(), "hi", "{inside}");
            assert_eq!(answer.choices[0].message.tool_calls, [], "{inside}");
        }
    }
}

#[tokio::test]
async fn notices_and_ids_are_read_however_they_are_written() {
    for (warnings, read) in [
        (json!(["soon gone", 7]), &["soon gone", "7"][..]),
        (json!([{"message": null}, {"message": "soon gone"}, null, {}]), &["soon gone"]),
        (json!({"message": "soon gone"}), &["soon gone"]),
        (json!("soon gone"), &["soon gone"]),
    ] {
        let beside = json!({"id": 5, "warnings": warnings});
        for answer in both(&beside, &json!({})).await {
            assert_eq!(
                (&*answer.id, &*answer.warnings),
                ("5", &*read.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
            );
        }
    }
}

#[tokio::test]
async fn a_text_in_parts_is_joined_and_what_is_no_text_is_kept() {
    for parts in [
        json!([{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]),
        json!([{"type": "output_text", "text": "hi", "annotations": []}]),
        json!(["h", "i"]),
        json!({"type": "text", "text": "hi"}),
    ] {
        for answer in both(&json!({}), &json!({"content": parts})).await {
            assert_eq!((answer.text(), answer.choices[0].text()), ("hi", "hi"), "{parts}");
        }
    }
    let parts = json!([{"type": "text", "text": "h"}, {"type": "image_url", "image_url": {"url": "https://x"}}, "i"]);
    let [mixed, _] = both(&json!({}), &json!({"content": parts})).await;
    assert!(mixed.text() == "hi" && mixed.choices[0].message.has_media());
    for unread in [json!({"not": "text"}), json!(7), json!(true)] {
        let chunk = json!({"choices": [{"index": 0, "finish_reason": "stop", "delta": {"content": unread}}]});
        let error = streams(&[chunk]).chat().stream(&hello()).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{unread}");
    }
    let thoughts = json!({"reasoning": [{"type": "text", "text": "hm"}]});
    for answer in both(&json!({}), &thoughts).await {
        assert_eq!(answer.choices[0].message.reasoning.as_deref(), Some("hm"));
    }
}

#[tokio::test]
async fn a_legacy_call_of_a_function_is_a_tool_call() {
    let call = json!({"content": null, "function_call": {"name": "f", "arguments": {"a": 1}}});
    for answer in both(&json!({}), &call).await {
        let calls = &answer.choices[0].message.tool_calls;
        assert_eq!((calls.len(), calls[0].name(), &*calls[0].function.arguments), (1, "f", r#"{"a":1}"#));
    }
    // A server that writes both forms means one call.
    let twice = json!({"content": null, "function_call": {"name": "f", "arguments": "{}"},
                       "tool_calls": [{"index": 0, "id": 5, "function": {"name": "f", "arguments": "{}"}}]});
    for answer in both(&json!({}), &twice).await {
        let calls = &answer.choices[0].message.tool_calls;
        assert_eq!((calls.len(), &*calls[0].id, &*calls[0].function.arguments), (1, "5", "{}"));
    }
}

async fn continued(answers: u32, chunks: &[Value]) -> ChatCompletion {
    let mut request = CompletionRequest::new(MODEL, "once");
    request.input_mut().n = Some(answers);
    streams(chunks).completions().stream(&request).await.unwrap().collect().await.unwrap()
}

#[tokio::test]
async fn a_continued_prompt_is_read_from_the_field_that_has_it() {
    let chunk = json!({"choices": [{"text": "", "index": 0, "delta": {"content": "abc"}}]});
    let last = json!({"choices": [{"text": "", "index": 0}], "finish_reason": "stop"});
    assert_eq!(continued(1, &[chunk, last]).await.text(), "abc");

    let bare = json!({"choices": [], "token": {"id": 7, "text": "abc", "logprob": -0.5}});
    let last = json!({"choices": [], "token": null, "finish_reason": "stop"});
    let answer = continued(1, &[bare, last]).await;
    let logprobs = answer.choices[0].logprobs.as_ref().unwrap();
    assert_eq!(
        (answer.text(), &*logprobs.token_ids, &*logprobs.token_logprobs),
        ("abc", &[Some(7)][..], &[Some(-0.5)][..])
    );

    let odd = json!({"choices": [], "id": 5, "usage": "", "token": {"id": 7, "text": "abc", "logprob": "low"}});
    let last = json!({"choices": [], "finish_reason": "stop"});
    assert_eq!(continued(1, &[odd, last]).await.text(), "abc");
}

#[tokio::test]
async fn an_end_beside_no_choice_ends_every_answer() {
    let chunk = json!({"choices": [{"index": 0, "text": "a"}, {"index": 1, "text": "b"}]});
    let first_ends = json!({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]});
    let end = json!({"choices": [], "finish_reason": "stop"});
    let answer = continued(2, &[chunk.clone(), end.clone()]).await;
    let read = |answer: &ChatCompletion| -> Vec<_> {
        let choices = answer.choices.iter();
        choices.map(|one| (one.text().to_owned(), one.finish_reason.as_ref().unwrap().to_string())).collect()
    };
    assert_eq!(read(&answer), [("a".into(), "stop".into()), ("b".into(), "stop".into())]);
    let answer = continued(2, &[chunk, first_ends, end]).await;
    assert_eq!(read(&answer), [("a".into(), "length".into()), ("b".into(), "stop".into())]);
}

#[tokio::test]
async fn pictures_are_read_with_white_space_and_from_their_link_where_they_are_no_base64() {
    let request = ImageRequest::new(MODEL, "a lighthouse".into());
    for (made, image) in [
        (json!({"b64_json": "aGk=\n"}), Image::Bytes("hi".into())),
        (json!({"b64_json": " aG\r\nk= \n"}), Image::Bytes("hi".into())),
        (json!({"b64_json": "data:image/png;base64,aGk="}), Image::Bytes("hi".into())),
        (json!({"b64_json": "!!", "url": "https://x"}), Image::Url("https://x".into())),
    ] {
        let client = says(&json!({"id": 5, "data": [made]}));
        let read = client.images().generate(&request).await.unwrap_or_else(|error| panic!("{made}: {error}"));
        assert_eq!((&*read.id, &*read.images), ("5", &[image][..]));
    }
}

#[tokio::test]
async fn a_ranking_or_vectors_that_contradict_themselves_are_malformed() {
    let ranks = |results: Value| says(&json!({"id": 5, "usage": "", "results": results}));
    let request = RerankRequest::new(MODEL, RerankInput::new("q", ["a", "b"]));
    let twice = json!([{"index": 0, "relevance_score": 0.5}, {"index": 0, "relevance_score": 0.4}]);
    assert_eq!(ranks(twice).rerank().create(&request).await.unwrap_err().kind(), ErrorKind::Malformed);
    let once = json!([{"index": 1, "relevance_score": 0.5}, {"index": 0, "relevance_score": 0.4}]);
    assert_eq!(ranks(once).rerank().create(&request).await.unwrap().results.len(), 2);

    let vectors = |second: Value| says(&json!({"usage": [], "data": [{"embedding": [1, 2]}, {"embedding": second}]}));
    let request = EmbeddingRequest::new(MODEL, ["a", "b"]);
    let error = vectors(json!([1])).embeddings().create(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert_eq!(vectors(json!([2, 1])).embeddings().create(&request).await.unwrap().vectors.len(), 2);
}
