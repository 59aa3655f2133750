//! Another server: what it is sent, and how its answers as recorded are read.

use bytes::Bytes;
use futures_util::future::{FutureExt as _, ready};
use serde_json::Value;
use together_inference::{
    TogetherClient,
    client::{
        Body, ChatCompletion, ChatRequest, CompletionRequest, Dialect, EmbeddingRequest, ErrorKind, JsonSchema,
        Logprobs, ResponseFormat, RetryPolicy,
    },
    types::FinishReason,
};

use crate::support::{answered, faked, json, response, sse};

macro_rules! recorded {
    ($name:literal) => {
        include_bytes!(concat!("../data/recorded/llama_cpp/", $name)).as_slice()
    };
}

fn llama(body: &'static [u8]) -> TogetherClient {
    answered(move || json(body))
}

fn llama_refuses(status: u16, body: &'static [u8]) -> TogetherClient {
    answered(move || response(status, "application/json", Body::from(Bytes::from_static(body))))
}

fn hello() -> ChatRequest {
    ChatRequest::new("gemma.gguf").user("Say hello.")
}

fn is_whole(answer: &ChatCompletion, prompt: u64, completion: u64) {
    let usage = answer.usage.unwrap();
    assert_eq!((answer.model.as_str(), usage.prompt, usage.completion), ("gemma.gguf", prompt, completion));
    assert_eq!(answer.choices[0].finish_reason, Some(FinishReason::Length));
}

fn tokens(logprobs: &Logprobs) -> (Vec<&str>, usize) {
    let texts = logprobs.tokens.iter().map(|token| token.as_deref().unwrap()).collect();
    (texts, logprobs.top_logprobs.as_ref().and_then(Value::as_array).unwrap().len())
}

#[tokio::test]
async fn answers_of_llama_cpp_are_read_as_togethers_are() {
    let answer = llama(recorded!("chat.json")).chat().create(&hello()).await.unwrap();
    is_whole(&answer, 26, 16);
    assert!(answer.text().starts_with("Say hello."));
    assert!(String::from_utf8_lossy(&answer.raw).contains("\"timings\""), "what is not known is kept");

    let answer = llama(recorded!("chat_schema.json")).chat().create(&hello()).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(answer.text()).unwrap()["big"], true);

    let stream = answered(|| sse([Bytes::from_static(recorded!("chat_stream.sse"))]));
    let answer = stream.chat().stream(&hello()).await.unwrap().collect().await.unwrap();
    is_whole(&answer, 26, 6);
    assert!(answer.text().starts_with("Say hello"), "{}", answer.text());

    let prompt = CompletionRequest::new("gemma.gguf", "The sky is");
    let answer = llama(recorded!("completion.json")).completions().create(&prompt).await.unwrap();
    is_whole(&answer, 4, 6);
    let stream = answered(|| sse([Bytes::from_static(recorded!("completion_stream.sse"))]));
    let streamed = stream.completions().stream(&prompt).await.unwrap().collect().await.unwrap();
    is_whole(&streamed, 4, 4);
    assert!(answer.text().starts_with(streamed.text()), "{} {}", answer.text(), streamed.text());

    let texts = EmbeddingRequest::new("gemma.gguf", ["a", "b"]);
    let embedded = llama(recorded!("embeddings.json")).embeddings().create(&texts).await.unwrap();
    assert_eq!((embedded.vectors.len(), embedded.usage.unwrap().prompt), (2, 4));
    let models = llama(recorded!("models.json")).models().list().await.unwrap();
    assert_eq!(models[0].id, "gemma.gguf");
}

#[tokio::test]
async fn log_probabilities_in_openais_shape_become_those_of_the_api() {
    let answer = llama(recorded!("chat_logprobs.json")).chat().create(&hello()).await.unwrap();
    let logprobs = answer.choices[0].logprobs.as_ref().unwrap();
    assert_eq!(tokens(logprobs), (vec!["Say", " hello", ".<"], 3));
    assert_eq!((logprobs.token_ids[0], logprobs.token_logprobs[0]), (Some(37_889), Some(-1.217_141_866_683_96)));
    let prompt = CompletionRequest::new("gemma.gguf", "The sky is");
    let answer = llama(recorded!("completion_logprobs.json")).completions().create(&prompt).await.unwrap();
    assert_eq!(tokens(answer.choices[0].logprobs.as_ref().unwrap()).0, [" the", " limit"]);
}

#[tokio::test]
async fn refusals_of_llama_cpp_have_their_kinds() {
    for (status, body, kind) in [
        (400, recorded!("error_messages.json"), ErrorKind::InvalidRequest),
        (400, recorded!("error_context.json"), ErrorKind::ContextLength),
        (400, recorded!("chat_regex.json"), ErrorKind::InvalidRequest),
        (404, recorded!("error_path.json"), ErrorKind::NotFound),
        (404, recorded!("error_images.json"), ErrorKind::NotFound),
    ] {
        let error = llama_refuses(status, body).chat().create(&hello()).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (kind, Some(status)), "{}", error.message());
    }
}

/// The bodies that a client of this dialect sends, and its headers.
async fn sent(dialect: Dialect, request: &ChatRequest) -> (Value, http::HeaderMap) {
    let (told, mut sent) = tokio::sync::mpsc::channel(1);
    let client = faked(move |request| {
        let told = told.clone();
        async move {
            let (parts, mut body) = request.into_parts();
            let mut bytes = Vec::new();
            while let Some(chunk) = futures_util::StreamExt::next(&mut body).await {
                bytes.extend_from_slice(&chunk.unwrap());
            }
            told.send((bytes, parts.headers)).await.unwrap();
            ready(Ok(json(recorded!("chat.json")))).await
        }
        .boxed()
    });
    let client = client.dialect(dialect).retry(RetryPolicy::none()).build().unwrap();
    client.chat().create(request).await.unwrap();
    let (bytes, headers) = sent.recv().await.unwrap();
    (serde_json::from_slice(&bytes).unwrap(), headers)
}

#[tokio::test]
async fn a_client_writes_what_its_server_wants_and_puts_the_key_where_it_belongs() {
    let mut request = hello()
        .max_tokens(5)
        .response_format(ResponseFormat::JsonSchema(JsonSchema::strict("city", serde_json::json!({"type": "object"}))));
    request.input_mut().logprobs = Some(2);
    let (body, headers) = sent(Dialect::openai().auth_header("api-key"), &request).await;
    assert_eq!((&body["max_completion_tokens"], &body["top_logprobs"]), (&5.into(), &2.into()));
    assert_eq!(body["response_format"]["json_schema"]["name"], "city");
    assert_eq!((headers["api-key"].to_str().unwrap(), headers.get("authorization")), ("key", None));
    assert!(headers["api-key"].is_sensitive());
    let (body, headers) = sent(Dialect::together(), &request).await;
    assert_eq!((&body["max_tokens"], &body["logprobs"]), (&5.into(), &2.into()));
    assert_eq!(headers["authorization"], "Bearer key");
}

#[tokio::test]
async fn what_a_server_cannot_do_is_refused_before_it_is_sent() {
    let client = faked(|_| panic!("nothing may be sent")).dialect(Dialect::llama_cpp()).build().unwrap();
    let request = hello().response_format(ResponseFormat::Regex("a|b".into()));
    let error = client.chat().create(&request).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::InvalidRequest, None));
    let bad = TogetherClient::builder().api_key("key").dialect(Dialect::openai().auth_header("two words")).build();
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::Config);
}
