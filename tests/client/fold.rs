//! A stream, folded, is what a plain call answers.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use together_inference::{
    client::{ChatCompletion, ChatRequest, JsonSchema, ResponseFormat, Tool, ToolChoice},
    testing::{Together, UsagePlacement},
    types::FinishReason,
};

use crate::support::MODEL;

const PLACEMENTS: [UsagePlacement; 6] = [
    UsagePlacement::FinalChunk,
    UsagePlacement::TrailingChunk,
    UsagePlacement::InChoice,
    UsagePlacement::Twice,
    UsagePlacement::AfterFinish,
    UsagePlacement::Never,
];

fn simulator() -> Together {
    let together = Together::new();
    together.on("say").reply("Grüße aus \u{1f980} und mehr als ein Wort");
    together.on("nothing").reply("");
    together.on("think").reply_reasoning("First this, then that.", "So it is.");
    together.on("call").reply_tool("get_weather", json!({"city": "Zürich", "days": [1, 2, 3]}));
    together
}

fn schema() -> ResponseFormat {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "age", "tags"],
    });
    ResponseFormat::JsonSchema(JsonSchema::strict("person", schema))
}

fn weather() -> Tool {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    Tool::function("get_weather", "The weather of a city", parameters)
}

fn requests() -> Vec<ChatRequest> {
    let ask = |text: &str| ChatRequest::new(MODEL).user(text);
    let mut requests: Vec<_> = (0..40).map(|number| ask(&format!("made up {number}"))).collect();
    requests.extend(["say it", "nothing", "think", "call"].map(ask));
    requests.extend((1..6).map(|tokens| ask("say it").max_tokens(tokens)));
    requests.push(ask("think").max_tokens(2));
    requests.push(ask("a person").response_format(schema()));
    requests.push(ask("an object").response_format(ResponseFormat::JsonObject));
    requests.push(ask("call").tool(weather()));
    for choice in [ToolChoice::Auto, ToolChoice::Required, ToolChoice::Function("get_weather".into()), ToolChoice::None]
    {
        let mut request = ask("the weather in Paris").tool(weather());
        request.input_mut().tool_choice = Some(choice);
        requests.push(request);
    }
    for text in ["made up", "say it", "think", "call"] {
        let mut request = ask(text).seed(u64::MAX);
        request.input_mut().n = Some(3);
        requests.push(request);
    }
    requests
}

/// Without what differs from call to call, or is not in a stream.
fn comparable(answer: ChatCompletion) -> ChatCompletion {
    let mut answer = answer;
    answer.id = String::new();
    answer.created = None;
    answer.request_id = None;
    answer.raw = Bytes::new();
    answer
}

#[tokio::test]
async fn a_collected_stream_equals_the_plain_answer() {
    let together = simulator();
    let client = together.client();
    for placement in PLACEMENTS {
        together.usage_placement(placement);
        for request in requests() {
            let mut plain = comparable(client.chat().create(&request).await.unwrap());
            let stream = client.chat().stream(&request).await.unwrap();
            let streamed = comparable(stream.collect().await.unwrap());
            assert!(plain.usage.is_some());
            if placement == UsagePlacement::Never {
                plain.usage = None;
            }
            assert_eq!(streamed, plain, "{placement:?} {request:?}");
        }
    }
}

#[tokio::test]
async fn the_comparison_covers_cuts_calls_reasoning_and_several_choices() {
    let client = simulator().client();
    let mut answers = Vec::new();
    for request in requests() {
        answers.push(client.chat().create(&request).await.unwrap());
    }
    let any = |what: &dyn Fn(&ChatCompletion) -> bool| answers.iter().any(what);
    assert!(any(&|answer| answer.choices[0].finish_reason == Some(FinishReason::Length)));
    assert!(any(&|answer| answer.choices[0].finish_reason == Some(FinishReason::ToolCalls)));
    assert!(any(&|answer| answer.choices[0].message.reasoning.is_some()));
    assert!(any(&|answer| answer.choices.len() == 3));
    assert!(any(&|answer| answer.text().starts_with('{')));
}

#[tokio::test(start_paused = true)]
async fn pieces_and_pauses_change_nothing() {
    let together = simulator();
    let client = together.client();
    let request = ChatRequest::new(MODEL).user("say it");
    let plain = comparable(client.chat().create(&request).await.unwrap());
    together.token_latency(Duration::from_secs(7));
    for bytes in 1..=64 {
        together.fragment_streams(bytes);
        let streamed = client.chat().stream(&request).await.unwrap().collect().await.unwrap();
        assert_eq!(comparable(streamed), plain, "in pieces of {bytes} bytes");
    }
}
