//! Answers of servers that report half of the truth, or write it in a way of their own: what they cost, and that what
//! was paid for is not lost.

use std::{iter::repeat_n, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use together_inference::{
    FinishReason, InferenceRequest, InferenceService, Usage, UsageSource, inference::InferenceResponse,
};

use crate::{
    doubles::{Canned, Quarters, client},
    world::{LARGE, muse},
};

const E5: &str = "intfloat/multilingual-e5-large-instruct";
const FLUX: &str = "black-forest-labs/FLUX.1-schnell";
const RERANK: &str = "mixedbread-ai/Mxbai-Rerank-Large-V2";

fn service(body: &Value) -> InferenceService {
    let client = client(Canned { body: body.to_string(), calls: Arc::default() });
    InferenceService::builder(client).tokenizer(Quarters).build().unwrap()
}

/// Events of these chunks, then the end mark.
fn streaming(chunks: &[Value]) -> InferenceService {
    let events: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    let body = format!("{events}data: [DONE]\n\n");
    let client = client(Canned { body, calls: Arc::default() });
    InferenceService::builder(client).tokenizer(Quarters).build().unwrap()
}

fn tokens(prompt: u64, completion: u64) -> Usage {
    Usage { prompt, completion, ..Usage::default() }
}

async fn answer(body: &Value) -> InferenceResponse {
    service(body).complete(muse("why?").model(LARGE)).await.unwrap()
}

async fn streamed(chunks: &[Value]) -> InferenceResponse {
    let stream = streaming(chunks).stream(muse("why?").model(LARGE)).await.unwrap();
    stream.finish().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn half_a_usage_is_completed_from_its_total_or_counted_and_flagged() {
    // The question counts as 5 tokens, the answer as 4.
    for (usage, expected, source) in [
        (json!({"prompt_tokens": 5, "total_tokens": 105}), tokens(5, 100), UsageSource::Reported),
        (
            json!({"prompt_tokens": 5, "completion_tokens": null, "total_tokens": 105}),
            tokens(5, 100),
            UsageSource::Reported,
        ),
        (
            json!({"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 105}),
            tokens(5, 100),
            UsageSource::Reported,
        ),
        (json!({"completion_tokens": 100, "total_tokens": 105}), tokens(5, 100), UsageSource::Reported),
        (json!({"prompt_tokens": 9, "completion_tokens": null}), tokens(9, 4), UsageSource::Counted),
        (json!({"prompt_tokens": 9, "completion_tokens": 0}), tokens(9, 4), UsageSource::Counted),
        (json!({"completion_tokens": 7}), tokens(5, 7), UsageSource::Counted),
        (json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}), tokens(5, 4), UsageSource::Counted),
        (json!({"total_tokens": 105}), tokens(5, 105), UsageSource::Counted),
    ] {
        let whole =
            json!({"choices": [{"finish_reason": "stop", "message": {"content": "hello there you"}}], "usage": usage});
        let reply = answer(&whole).await;
        assert_eq!((reply.usage(), reply.usage_source), (expected, source), "{usage}");
        let last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage});
        let reply =
            streamed(&[json!({"choices": [{"index": 0, "delta": {"content": "hello there you"}}]}), last]).await;
        assert_eq!((reply.usage(), reply.usage_source), (expected, source), "streamed: {usage}");
    }
}

#[tokio::test(start_paused = true)]
async fn texts_without_a_token_are_counted_and_a_total_alone_is_theirs() {
    // Each document is read together with the query, which is a token as well.
    for (usage, expected, ranked, source) in [
        (json!({"prompt_tokens": 0, "total_tokens": 0}), tokens(2, 0), tokens(4, 0), UsageSource::Counted),
        (json!({"total_tokens": 7}), tokens(7, 0), tokens(7, 0), UsageSource::Reported),
        (json!({"prompt_tokens": 7, "completion_tokens": 0}), tokens(7, 0), tokens(7, 0), UsageSource::Reported),
    ] {
        let vectors = json!({"data": [{"embedding": [1, 2]}, {"embedding": [2, 1]}], "usage": usage});
        let reply = service(&vectors).embed(InferenceRequest::embedding(["a", "b"]).model(E5)).await.unwrap();
        assert_eq!((reply.usage(), reply.usage_source), (expected, source), "{usage}");
        let ranks = json!({"results": [{"index": 0, "relevance_score": 1}], "usage": usage});
        let reply = service(&ranks).rerank(InferenceRequest::rerank("q", ["a", "b"]).model(RERANK)).await.unwrap();
        assert_eq!((reply.usage(), reply.usage_source), (ranked, source), "{usage}");
    }
}

/// The head of a picture that claims to be this large.
fn png(width: u32, height: u32) -> String {
    let head = [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], &width.to_be_bytes(), &height.to_be_bytes(), &[8, 2, 0, 0, 0]];
    BASE64_STANDARD.encode([&*head.concat(), &[0; 8]].concat())
}

#[tokio::test(start_paused = true)]
async fn a_picture_that_claims_to_be_huge_counts_as_what_was_asked() {
    let asked = 1_024 * 1_024;
    for (width, height, each) in [(u32::MAX, u32::MAX, asked), (8_192, 4_096, asked), (2_048, 2_048, 4 * asked)] {
        let picture = json!({"b64_json": png(width, height)});
        let made = json!({"data": repeat_n(picture, 3).collect::<Vec<_>>()});
        let request = InferenceRequest::image_generation("a lighthouse").model(FLUX);
        let reply = service(&made).image(request).await.unwrap();
        assert_eq!((reply.usage().images, reply.usage().pixels), (3, 3 * each), "{width} x {height}");
    }
}

#[tokio::test(start_paused = true)]
async fn reported_tokens_of_several_parts_add_up_to_no_more_than_fit() {
    let data: Vec<_> = (0..256).map(|index| json!({"index": index, "embedding": [1]})).collect();
    let body = json!({"data": data, "usage": {"prompt_tokens": 17_000_000_000_000_000_000_u64}});
    let texts = (0..512).map(|number| format!("text {number}"));
    let reply = service(&body).embed(InferenceRequest::embedding(texts).model(E5)).await.unwrap();
    assert_eq!((reply.usage().prompt, reply.attempts.len()), (u64::MAX, 2));
}

#[tokio::test(start_paused = true)]
async fn a_text_in_parts_and_a_legacy_call_are_answers() {
    let parts = json!([{"type": "text", "text": "h"}, {"type": "text", "text": "i", "annotations": []}]);
    let reply = answer(&json!({"choices": [{"finish_reason": "stop", "message": {"content": parts}}]})).await;
    assert_eq!((reply.text(), reply.answer.is_complete()), ("hi", true));
    let last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let reply = streamed(&[json!({"choices": [{"index": 0, "delta": {"content": parts}}]}), last]).await;
    assert_eq!(reply.text(), "hi");

    let call = json!({"name": "f", "arguments": "{\"a\":1}"});
    let message = json!({"role": "assistant", "content": null, "function_call": call});
    let reply = answer(&json!({"choices": [{"finish_reason": "function_call", "message": message}]})).await;
    assert_eq!((reply.tool_calls()[0].name(), &*reply.tool_calls()[0].function.arguments), ("f", "{\"a\":1}"));
    assert_eq!((reply.finish(), reply.answer.is_complete()), (Some(&FinishReason::FunctionCall), true));
    let first = json!({"choices": [{"index": 0, "delta": {"function_call": {"name": "f", "arguments": ""}}}]});
    let more = json!({"choices": [{"index": 0, "delta": {"function_call": {"arguments": "{\"a\":1}"}}}]});
    let last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "function_call"}]});
    let streamed = streamed(&[first, more, last]).await;
    assert_eq!(streamed.tool_calls(), reply.tool_calls());
}
