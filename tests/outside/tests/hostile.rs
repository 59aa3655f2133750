//! Other people's features change nothing: `serde_json/{arbitrary_precision,preserve_order}` and
//! `reqwest/{cookies,gzip,http2}` are on in this crate's tree.

#[path = "../../common/fault.rs"]
mod fault;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fault::{FaultServer, GOOD_JSON};
use serde_json::{Value, json};
use together_inference::{
    FinishReason, InferenceRequest, InferenceService, Priority, RouteId, TogetherClient,
    client::{
        ChatRequest, CompletionRequest, EmbeddingRequest, ErrorKind, ImageInput, ImageRequest, Lora, PromptInput,
        RerankInput, RerankRequest, Tool,
    },
    cost::MemoryCosts,
    inference::{CacheKey, Kind},
    testing::Together,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

const TEXT: &str = include_str!("../../data/recorded/chat_stream_text.sse");
const TOOL: &str = include_str!("../../data/recorded/chat_stream_tool_call.sse");

fn client(base_url: String) -> TogetherClient {
    TogetherClient::builder().base_url(base_url).no_api_key().build().unwrap()
}

fn keyed(base_url: String) -> TogetherClient {
    TogetherClient::builder().base_url(base_url).api_key("simulated").build().unwrap()
}

fn hello() -> ChatRequest {
    ChatRequest::new("m").user("hi")
}

#[test]
fn the_hostile_features_are_on() {
    let number: Value = serde_json::from_str("1.500").unwrap();
    assert_eq!(number.to_string(), "1.500", "arbitrary_precision keeps the text");
    let object: Value = serde_json::from_str(r#"{"b":1,"a":2}"#).unwrap();
    assert_eq!(object.to_string(), r#"{"b":1,"a":2}"#, "preserve_order keeps the order");
    // These compile with the features alone.
    let _ = reqwest::Client::builder().cookie_store(true).gzip(true).http2_prior_knowledge();
}

/// Answers every connection's requests with these bytes, and keeps the heads of the requests.
struct Canned {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Canned {
    async fn start(answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                while let Some(head) = read_request(&mut stream).await {
                    seen.lock().unwrap().push(head);
                    stream.get_mut().write_all(&answer).await.unwrap();
                }
            }
        });
        Self { url, heads }
    }

    async fn of(content_type: &str, headers: &str, body: &[u8]) -> Self {
        let length = body.len();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n{headers}\r\n");
        Self::start([head.as_bytes(), body].concat()).await
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// The head of the next request; its body is read and dropped.
async fn read_request(stream: &mut BufReader<tokio::net::TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    tokio::io::AsyncReadExt::read_exact(stream, &mut vec![0; length]).await.ok()?;
    Some(head)
}

#[tokio::test]
async fn recorded_streams_read_exactly() {
    let server = Canned::of("text/event-stream", "", TEXT.as_bytes()).await;
    let answer = client(server.url.clone()).chat().stream(&hello()).await.unwrap().collect().await.unwrap();
    assert_eq!((answer.text(), answer.created), ("Hello!", Some(1_777_411_129)));
    let usage = answer.usage.unwrap();
    assert_eq!((usage.prompt, usage.cached, usage.completion), (45, 0, 3));
    assert_eq!(answer.choices[0].finish_reason, Some(FinishReason::Stop));
    // Beyond i64::MAX.
    assert_eq!(answer.choices[0].seed, Some(15_924_764_223_251_450_000));

    let server = Canned::of("text/event-stream", "", TOOL.as_bytes()).await;
    let answer = client(server.url.clone()).chat().stream(&hello()).await.unwrap().collect().await.unwrap();
    let [call] = &*answer.choices[0].message.tool_calls else { panic!("{answer:?}") };
    assert_eq!((call.name(), &*call.function.arguments), ("get_weather", r#"{"city":"Paris"}"#));
    assert_eq!(answer.choices[0].seed, Some(9_033_012_299_842_426_000));
    assert_eq!(answer.usage.unwrap().total(), 194 + 19);
}

#[tokio::test]
async fn numbers_of_a_whole_answer_read_exactly() {
    let body = GOOD_JSON
        .replace(r#""index":0"#, r#""index":0,"seed":18446744073709551615"#)
        .replace(r#""total_tokens":5"#, r#""total_tokens":5,"prompt_tokens_details":{"cached_tokens":1}"#);
    let server = Canned::of("application/json", "", body.as_bytes()).await;
    let answer = client(server.url.clone()).chat().create(&hello()).await.unwrap();
    let usage = answer.usage.unwrap();
    assert_eq!((answer.text(), answer.choices[0].seed), ("Hello", Some(u64::MAX)));
    assert_eq!((usage.prompt, usage.cached, usage.completion), (2, 1, 3));
    assert_eq!(&*answer.raw, body.as_bytes());
}

#[tokio::test]
async fn a_request_goes_out_exactly() {
    let server = FaultServer::start().await;
    let schema: Value = serde_json::from_str(r#"{"z":1.50,"a":1e400}"#).unwrap();
    let request = hello().seed(u64::MAX).temperature(0.1).tool(Tool::function("f", "", schema));
    client(server.base_url("ok")).chat().create(&request).await.unwrap();
    let body = String::from_utf8(server.requests_seen()[0].body.clone()).unwrap();
    for part in [r#""seed":18446744073709551615"#, r#""temperature":0.1"#, r#"{"z":1.50,"a":1e"#] {
        assert!(body.contains(part), "{part} in {body}");
    }
}

/// The requests of the other kinds read back and go out as they were written, their answers read exactly.
#[tokio::test]
async fn every_other_kind_of_call_is_exact() {
    let embedding = r#"{"model":"m","data":[{"index":0,"embedding":[0.1,-1e-3,7]}],"usage":{"prompt_tokens":4}}"#;
    let server = Canned::of("application/json", "", embedding.as_bytes()).await;
    let read = client(server.url.clone()).embeddings().create(&EmbeddingRequest::new("m", ["a"])).await.unwrap();
    assert_eq!((&*read.vectors[0], read.usage.unwrap().prompt), (&[0.1, -1e-3, 7.0][..], 4));

    let image = r#"{"id":"i","model":"m","data":[{"index":1,"url":"https://x"},{"index":0,"b64_json":"aGk="}]}"#;
    let server = Canned::of("application/json", "", image.as_bytes()).await;
    let request = ImageRequest::new("m", "a boat".into());
    let made = client(server.url.clone()).images().generate(&request).await.unwrap();
    assert_eq!(
        (made.images[0].bytes().map(|file| &file[..]), made.images[1].url()),
        (Some(&b"hi"[..]), Some("https://x"))
    );

    let ranked = r#"{"id":"r","results":[{"index":1,"relevance_score":0.1,"document":{"n":1.50}},
                                          {"index":0,"relevance_score":9e-1}],"usage":{"prompt_tokens":3.0}}"#;
    let server = Canned::of("application/json", "", ranked.as_bytes()).await;
    let request = RerankRequest::new("m", RerankInput::new("q", ["a", "b"]));
    let read = client(server.url.clone()).rerank().create(&request).await.unwrap();
    assert_eq!((read.results[0].index, read.results[1].relevance_score, read.usage.unwrap().prompt), (0, 0.1, 3));

    let completed = r#"{"id":"c","created":1790000000,"choices":[{"text":"a","seed":18446744073709551615,"finish_reason":"stop",
        "logprobs":{"token_ids":[1,null],"tokens":["a",null],"token_logprobs":[-0.5,null]}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    let server = Canned::of("application/json", "", completed.as_bytes()).await;
    let read = client(server.url.clone()).completions().create(&CompletionRequest::new("m", "p")).await.unwrap();
    let logprobs = read.choices[0].logprobs.as_ref().unwrap();
    assert_eq!((read.choices[0].seed, read.created), (Some(u64::MAX), Some(1_790_000_000)));
    assert_eq!((&*logprobs.token_ids, &*logprobs.token_logprobs), (&[Some(1), None][..], &[Some(-0.5), None][..]));
}

#[test]
fn requests_of_every_other_kind_read_back_as_they_were_written() {
    let prompt = r#"{"prompt":"p","max_tokens":5,"temperature":0.1,"seed":18446744073709551615,"logit_bias":{"7":-1.5},"x":1e400}"#;
    let prompt: PromptInput = serde_json::from_str(prompt).unwrap();
    assert_eq!((prompt.seed, prompt.temperature, prompt.logit_bias["7"]), (Some(u64::MAX), Some(0.1), -1.5));
    let written = serde_json::to_string(&prompt).unwrap();
    assert!(written.contains(r#""x":1e"#) && written.contains(r#""temperature":0.1"#), "{written}");
    assert_eq!(serde_json::from_str::<PromptInput>(&written).unwrap(), prompt);

    let image = r#"{"prompt":"p","width":512,"seed":7,"guidance_scale":3.5,"image_loras":[{"path":"l","scale":0.7,"at":2.50}]}"#;
    let image: ImageInput = serde_json::from_str(image).unwrap();
    assert_eq!((image.width, image.guidance_scale, image.image_loras[0].scale), (Some(512), Some(3.5), 0.7));
    let written = serde_json::to_string(&image).unwrap();
    assert!(written.contains(r#""at":2.50"#), "{written}");
    assert_eq!(serde_json::from_str::<Lora>(r#"{"path":"l","scale":0.7,"at":2.50}"#).unwrap(), image.image_loras[0]);

    let rerank = r#"{"query":"q","documents":[{"n":1.50,"big":123456789012345678901234567890}],"top_n":1}"#;
    let read: RerankInput = serde_json::from_str(rerank).unwrap();
    assert_eq!((serde_json::to_string(&read).unwrap().as_str(), read.top_n), (rerank, Some(1)));
}

#[tokio::test]
async fn nothing_compressed_is_asked_for_and_nothing_is_decompressed() {
    let server = FaultServer::start().await;
    let error = client(server.base_url("gzip-bomb")).chat().create(&hello()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    assert!(server.requests_seen().iter().all(|seen| seen.header("accept-encoding").is_none()));
}

#[tokio::test]
async fn http_1_1_is_spoken_and_cookies_are_not_sent_back() {
    let server = Canned::of("application/json", "set-cookie: a=b; path=/\r\n", GOOD_JSON.as_bytes()).await;
    let client = client(server.url.clone());
    for _ in 0..2 {
        client.chat().create(&hello()).await.unwrap();
    }
    let heads = server.heads();
    assert_eq!(heads.len(), 2);
    for head in heads {
        assert!(head.starts_with("post /v1/chat/completions http/1.1\r\n"), "{head}");
        for unwanted in ["cookie:", "upgrade:", "http2-settings:", "accept-encoding:"] {
            assert!(!head.contains(unwanted), "{unwanted} in {head}");
        }
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server = FaultServer::start().await;
    for code in [301, 302, 307, 308] {
        let url = server.base_url(&format!("redirect/{code}/other-port"));
        let error = client(url).chat().create(&hello()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Redirected, "{error}");
    }
    assert_eq!(server.requests("/ok"), 0);
}

fn key(request: &InferenceRequest) -> CacheKey {
    CacheKey::inference(request, &RouteId::new("together", "m"), "api")
}

#[test]
fn a_key_is_one_however_its_json_is_written() {
    let with = |text: &str| {
        let schema: Value = serde_json::from_str(text).unwrap();
        let tool = Tool::function("f", "", schema.clone());
        key(&InferenceRequest::chat("x").json_schema("s", schema.clone()).tool(tool).extra("more", schema))
    };
    let one = with(r#"{"a":1.0,"b":[2e0,{"d":0.5,"c":-0.0}],"e":"\u0041","f":18446744073709551615}"#);
    let other = with(r#" {"f":18446744073709551615,"e":"A","b":[2,{"c":0,"d":5e-1}],"a":1} "#);
    assert_eq!(one, other);
    assert_ne!(one, with(r#"{"a":1.0,"b":[2e0,{"d":0.5,"c":-0.0}],"e":"A","f":18446744073709551614}"#));
}

/// The same as in the tests of `CacheKey`, in a build without the hostile features.
#[test]
fn keys_are_the_same_in_every_build() {
    let schema = serde_json::from_str::<Value>(r#"{"b":[1.0,{"d":0.5}],"a":"é"}"#).unwrap();
    let full = InferenceRequest::chat("x")
        .system("s")
        .temperature(0.7)
        .seed(u64::MAX)
        .tenant("acme")
        .tool(Tool::function("f", "does", schema.clone()))
        .json_schema("answer", schema.clone())
        .extra("more", schema);
    let long = InferenceRequest::chat("long ".repeat(1_000));
    let keys =
        [key(&InferenceRequest::chat("x")), key(&full), key(&long), CacheKey::of_bytes(Kind::Embedding, None, b"text")];
    let known = [
        "ti:infer:0000000000000000:bbae7f0e6ef132225304e222fdd2f86095af3c306f7f47d40862710e696f0bd6",
        "ti:infer:bb7fdb40e0deec73:917b0778488c7adc950f8801d69d77f99704c271702080ab56b7e21ff13858ad",
        "ti:infer:0000000000000000:266cc78be8619927680239935448ba9738ce1d8551a112eb156d7a84a637fbe5",
        "ti:embed:0000000000000000:6afdd1cf98040f7064950b35f4e0005d38b574620cb7c69c6872fa722e376d3c",
    ];
    assert_eq!(keys.map(|key| key.to_string()), known);
}

#[tokio::test]
async fn a_call_costs_what_the_simulator_bills_in_memory_and_on_a_socket() {
    for served in [false, true] {
        let together = Together::new();
        together.on("sky").reply("Rayleigh scattering.");
        let server = together.serve().await.unwrap();
        let client = if served { keyed(server.base_url()) } else { together.client() };
        let costs = MemoryCosts::default();
        let service = InferenceService::builder(client).cost_sink(costs.clone()).build().unwrap();

        let question = || InferenceRequest::chat("Why is the sky blue?").temperature(0.0).seed(u64::MAX);
        let reply = service.complete(question()).await.unwrap();
        assert_eq!(reply.text(), "Rayleigh scattering.");
        assert!(service.complete(question()).await.unwrap().cost().known().unwrap().is_zero());
        let streamed = InferenceRequest::chat("What colour has the sky?").priority(Priority::Realtime);
        let streamed = service.stream(streamed).await.unwrap().finish().await.unwrap();
        assert_eq!(streamed.text(), "Rayleigh scattering.");

        service.shutdown(Duration::from_secs(5)).await;
        assert_eq!((costs.known().nanos(), together.calls()), (together.bill().nano_usd, 2));
        let asked = together.requests();
        assert_eq!(asked[0].body["seed"], json!(u64::MAX), "{:?}", asked[0].body);
    }
}
