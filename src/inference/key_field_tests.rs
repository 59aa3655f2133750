//! Every field of every request, changed one at a time: what may change the answer changes the key, and nothing else does.

use serde_json::{Value, json};

use super::{CacheControl, CacheKey, InferenceRequest, JsonNeed, Needs};
use crate::{
    client::{
        ChatInput, Content, Document, EmbeddingInput, ImageInput, JsonSchema, Lora, Message, Part, PromptInput,
        RerankInput, ResponseFormat, Tool, ToolCall, ToolChoice,
    },
    inference::Input,
    types::{RouteId, Task},
    usd,
};

fn key(request: &InferenceRequest) -> CacheKey {
    CacheKey::inference(request, &RouteId::new("together", "m"), "api")
}

fn extra() -> serde_json::Map<String, Value> {
    [("top_a".to_owned(), json!({"deep": [1, {"er": 0.5}]}))].into_iter().collect()
}

fn chat() -> Input {
    let mut turn = Message::assistant("hm");
    turn.tool_calls = vec![ToolCall::new("id", "f", "{}")];
    (turn.reasoning, turn.name) = (Some("why".into()), Some("bob".into()));
    turn.extra = extra();
    let mut result = Message::new(crate::types::Role::Tool, "sunny");
    (result.tool_call_id, result.reasoning_content) = (Some("id".into()), Some("so".into()));
    let mut seen = Message::user("look");
    let parts = [Part::Text("t".into()), Part::ImageUrl("https://a".into()), Part::VideoUrl("https://b".into())];
    let sound = Part::InputAudio { data: "AAAA".into(), format: "wav".into() };
    seen.content = Some(Content::Parts(parts.into_iter().chain([Part::AudioUrl("https://c".into()), sound]).collect()));
    Input::Chat(ChatInput {
        messages: vec![Message::system("be brief"), turn, result, seen],
        max_tokens: Some(5),
        stop: vec!["a".into(), "b".into()],
        temperature: Some(0.5),
        top_p: Some(0.5),
        top_k: Some(4),
        min_p: Some(0.25),
        repetition_penalty: Some(1.5),
        presence_penalty: Some(0.5),
        frequency_penalty: Some(0.75),
        logit_bias: [("7".to_owned(), 0.5)].into_iter().collect(),
        seed: Some(3),
        n: Some(2),
        logprobs: Some(1),
        echo: Some(true),
        context_length_exceeded_behavior: Some("error".into()),
        response_format: Some(ResponseFormat::JsonSchema(JsonSchema::strict("s", json!({"type": "object"})))),
        tools: vec![Tool::function("f", "does", json!({"type": "object"})), Tool::function("g", "", json!({}))],
        tool_choice: Some(ToolChoice::Function("f".into())),
        function_call: Some(json!("auto")),
        compliance: Some("hipaa".into()),
        chat_template_kwargs: Some(extra()),
        safety_model: Some("guard".into()),
        reasoning_effort: Some("low".into()),
        reasoning: Some(true),
        extra: extra(),
    })
}

fn prompt() -> Input {
    Input::Prompt(PromptInput {
        prompt: "p".into(),
        max_tokens: Some(5),
        stop: vec!["a".into()],
        temperature: Some(0.5),
        top_p: Some(0.5),
        top_k: Some(4),
        min_p: Some(0.25),
        repetition_penalty: Some(1.5),
        presence_penalty: Some(0.5),
        frequency_penalty: Some(0.75),
        logit_bias: [("7".to_owned(), 0.5)].into_iter().collect(),
        seed: Some(3),
        n: Some(2),
        logprobs: Some(1),
        echo: Some(true),
        safety_model: Some("guard".into()),
        extra: extra(),
    })
}

fn image() -> Input {
    Input::Image(ImageInput {
        prompt: "p".into(),
        negative_prompt: Some("no".into()),
        width: Some(64),
        height: Some(128),
        steps: Some(4),
        n: Some(2),
        seed: Some(3),
        guidance_scale: Some(3.5),
        image_url: Some("https://a".into()),
        reference_images: vec!["https://b".into()],
        image_loras: vec![Lora { path: "l".into(), scale: 0.5, extra: extra() }],
        disable_safety_checker: Some(true),
        output_format: Some("png".into()),
        response_format: Some("base64".into()),
        extra: extra(),
    })
}

fn rerank() -> Input {
    Input::Rerank(RerankInput {
        query: "q".into(),
        documents: vec![Document::Text("a".into()), Document::Text("b".into())],
        top_n: Some(1),
        return_documents: Some(true),
        rank_fields: vec!["title".into()],
        extra: extra(),
    })
}

fn embedding() -> Input {
    Input::Embedding(EmbeddingInput { texts: vec!["a".into(), "b".into()], extra: extra() })
}

fn full(task: Task, input: Input) -> InferenceRequest {
    let mut request = InferenceRequest::new(task)
        .tenant("acme")
        .session("s")
        .trace_id(crate::types::TraceId::new(7))
        .tag("a", "b")
        .models(["m", "n"])
        .upstream("together")
        .tier(crate::types::Tier::Mid)
        .max_cost(usd!("1"))
        .deadline(std::time::Duration::from_secs(9))
        .first_token(std::time::Duration::from_secs(3))
        .deferrable()
        .needs(Needs::none().context(9).tools().vision().json(JsonNeed::Object).reasoning())
        .cache(CacheControl::new().ttl(std::time::Duration::from_secs(5)));
    request.input = input;
    request.misfit = None;
    request
}

/// Every value within, by its path, with others in its place.
fn changes(value: &Value, path: &str, out: &mut Vec<(String, Value)>) {
    let mut put = |what: &str, value: Value| out.push((format!("{path}{what}"), value));
    match value {
        Value::Null => {}
        Value::Bool(flag) => put("", json!(!flag)),
        Value::Number(number) => {
            let float = number.as_f64().unwrap_or_default();
            put("", number.as_u64().map_or_else(|| json!(float / 2.0 - 0.125), |whole| json!(whole + 1)));
        }
        Value::String(text) => put("", json!(format!("{text}x"))),
        Value::Array(items) => {
            if let [first, second, ..] = &items[..]
                && first != second
            {
                let mut turned = items.clone();
                turned.swap(0, 1);
                put(" turned", Value::Array(turned));
            }
            put(" longer", Value::Array(items.iter().chain(items.last()).cloned().collect()));
            for (at, item) in items.iter().enumerate() {
                let mut within = Vec::new();
                changes(item, &format!("{path}[{at}]"), &mut within);
                out.extend(within.into_iter().map(|(path, changed)| {
                    let mut items = items.clone();
                    items[at] = changed;
                    (path, Value::Array(items))
                }));
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let mut less = fields.clone();
                less.remove(name);
                out.push((format!("{path}.{name} left out"), Value::Object(less)));
                let mut within = Vec::new();
                changes(field, &format!("{path}.{name}"), &mut within);
                out.extend(within.into_iter().map(|(path, changed)| {
                    let mut fields = fields.clone();
                    fields.insert(name.clone(), changed);
                    (path, Value::Object(fields))
                }));
            }
        }
    }
}

/// How a request is served and not what is answered.
const SERVING: [&str; 10] = [
    ".task",
    ".priority",
    ".cache",
    ".tier",
    ".session",
    ".trace_id",
    ".deadline",
    ".first_token",
    ".deferrable",
    ".tags",
];

#[test]
fn every_field_of_every_request_is_in_the_key_unless_it_only_says_how_it_is_served() {
    let inputs = [
        (Task::Chat, chat(), 80),
        (Task::Chat, prompt(), 20),
        (Task::Image, image(), 20),
        (Task::Rerank, rerank(), 8),
        (Task::Embedding, embedding(), 4),
    ];
    for (task, input, least) in inputs {
        let request = full(task, input);
        let (own, json) = (key(&request), serde_json::to_value(&request).unwrap());
        assert_eq!(key(&serde_json::from_value(json.clone()).unwrap()), own, "the journey through JSON");
        let mut changed = Vec::new();
        changes(&json, "", &mut changed);
        let mut tried = 0;
        for (path, json) in changed {
            // Not every change makes a request.
            let Ok(other) = serde_json::from_value::<InferenceRequest>(json) else { continue };
            if other == request {
                continue;
            }
            let serves = SERVING.iter().any(|field| path.starts_with(field));
            assert_eq!(key(&other) == own, serves, "{task} {path}");
            tried += usize::from(!serves);
        }
        assert!(tried >= least, "{task}: only {tried} changes");
    }
}

#[test]
fn whoever_shares_shares_with_those_alone_who_share() {
    let ask = || InferenceRequest::chat("x");
    let shared = |request: InferenceRequest| key(&request.cache(CacheControl::new().shared()));
    assert_eq!(shared(ask().tenant("a")), shared(ask().tenant("b")));
    assert_eq!(shared(ask().tenant("a")), shared(ask()));
    assert_ne!(shared(ask()), key(&ask()));
    assert_ne!(shared(ask().tenant("a")), key(&ask().tenant("a")));
}
