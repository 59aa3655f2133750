//! The simulator as a client sees it, in memory under a paused clock; the socket at the end.

use std::time::Duration;

use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::*;
use crate::client::{Body, Transport, TransportErrorKind};

const MODEL: &str = "zai-org/GLM-5.3-Flash";
const PLAIN: &str = "Qwen/Qwen3.7-Plus";
const SECOND: Duration = Duration::from_secs(1);

fn post(body: &Value) -> Request<Body> {
    Request::post("https://api.together.ai/v1/chat/completions")
        .header("authorization", "Bearer key")
        .body(Body::from(body.to_string()))
        .unwrap()
}

fn ask(text: &str) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": text}]})
}

fn ask_stream(text: &str) -> Value {
    let mut body = ask(text);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    body
}

async fn read(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let text = read_text(response.into_body()).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn read_text(mut body: Body) -> String {
    let mut text = String::new();
    while let Some(chunk) = body.next().await {
        text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
    }
    text
}

async fn call(together: &Together, body: &Value) -> (StatusCode, Value) {
    read(together.send(post(body)).await.unwrap()).await
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[tokio::test]
async fn the_same_request_has_the_same_answer_streamed_or_not() {
    let together = Together::new();
    let (status, one) = call(&together, &ask("Why is the sky blue?")).await;
    assert_eq!(status, 200);
    let (_, two) = call(&together, &ask("Why is the sky blue?")).await;
    assert_eq!(one["choices"], two["choices"]);
    assert_ne!(one["id"], two["id"]);
    let stream = together.send(post(&ask_stream("Why is the sky blue?"))).await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream;charset=utf-8");
    assert!(stream.headers().contains_key("x-request-id"));
    let mut text = String::new();
    for line in read_text(stream.into_body()).await.lines().filter_map(|line| line.strip_prefix("data: {")) {
        let chunk: Value = serde_json::from_str(&format!("{{{line}")).unwrap();
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap());
    }
    assert_eq!(text, content(&one));
    let other = Together::builder().seed(9).build();
    assert_ne!(call(&other, &ask("Why is the sky blue?")).await.1["choices"], one["choices"]);
}

#[tokio::test]
async fn scripts_decide_what_is_said() {
    let together = Together::new();
    together.on("refund").reply("5 days");
    together.on("json").reply_json(json!({"a": 1}));
    together.on("weather").reply_tool("get_weather", json!({"city": "Paris"}));
    together.on("hard").reply_reasoning("let me think", "42");
    together.on("broken").fail(500);
    together.on_model(PLAIN).reply_with(|body| format!("I am {}", body["model"].as_str().unwrap()));
    assert_eq!(content(&call(&together, &ask("a refund?")).await.1), "5 days");
    assert_eq!(content(&call(&together, &ask("json")).await.1), r#"{"a":1}"#);
    let (_, tool) = call(&together, &ask("weather")).await;
    assert_eq!(tool["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(tool["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], r#"{"city":"Paris"}"#);
    assert_eq!(call(&together, &ask("hard")).await.1["choices"][0]["message"]["reasoning"], "let me think");
    assert_eq!(call(&together, &ask("broken")).await.0, 500);
    let mut body = ask("x");
    body["model"] = json!(PLAIN);
    let (_, answer) = call(&together, &body).await;
    assert_eq!(content(&answer), format!("I am {PLAIN}"));
    assert_eq!(answer["usage"]["cached_tokens"], 0);
}

#[tokio::test]
async fn a_schema_is_satisfied_by_text_and_by_tool_arguments() {
    let together = Together::new();
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 3}},
                        "required": ["n"]});
    let mut body = ask("count");
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    assert_eq!(content(&call(&together, &body).await.1), r#"{"n":3}"#);
    let mut body = ask("please use count_it");
    body["tools"] = json!([{"type": "function", "function": {"name": "count_it", "parameters": schema}}]);
    let (_, answer) = call(&together, &body).await;
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], r#"{"n":3}"#);
    body["tool_choice"] = json!("none");
    assert_eq!(call(&together, &body).await.1["choices"][0]["finish_reason"], "stop");
    let mut body = ask("anything");
    body["response_format"] = json!({"type": "json_object"});
    let (_, answer) = call(&together, &body).await;
    assert!(serde_json::from_str::<Value>(content(&answer)).unwrap().is_object());
}

#[tokio::test]
async fn refusals_have_the_status_of_the_api() {
    let together = Together::builder().api_key("key").build();
    together.add_model(SimModel::chat("small").context(100));
    let with = |name: &str, value: Value| {
        let mut body = ask("hi");
        body[name] = value;
        body
    };
    assert_eq!(call(&together, &with("temperature", json!(3))).await.0, 400);
    let (status, error) = call(&together, &with("model", json!("nobody/nothing"))).await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (404, &json!("model_not_found")));
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]);
    assert_eq!(call(&together, &with("messages", image.clone())).await.0, 200);
    let mut blind = with("messages", image);
    blind["model"] = json!(PLAIN);
    assert_eq!(call(&together, &blind).await.0, 400);
    let mut long = ask("hi");
    long["model"] = json!("small");
    long["max_tokens"] = json!(95);
    assert_eq!(call(&together, &long).await.0, 403);
    long["max_tokens"] = json!(94);
    assert_eq!(call(&together, &long).await.0, 200);

    let send = |method: &str, path: &str, key: &str, body: &'static str| {
        let request = Request::builder().method(method).uri(path).header("authorization", key);
        let together = together.clone();
        let request = request.body(Body::from(body)).unwrap();
        async move { read(together.send(request).await.unwrap()).await.0.as_u16() }
    };
    assert_eq!(send("POST", "/v1/chat/completions", "Bearer other", "{}").await, 401);
    assert_eq!(send("POST", "/v1/chat/completions", "", "{}").await, 401);
    assert_eq!(send("POST", "/v1/chat/completions", "Bearer key", "{").await, 400);
    assert_eq!(send("GET", "/v1/chat/completions", "Bearer key", "").await, 405);
    assert_eq!(send("GET", "/v1/nothing", "Bearer key", "").await, 404);
    assert_eq!(send("GET", "/v1/models", "Bearer key", "").await, 200);
}

#[tokio::test]
async fn faults_come_in_every_recorded_shape() {
    let together = Together::new();
    let shapes = [
        (ErrorShape::Data, "/error/message"),
        (ErrorShape::DataWithId, "/id"),
        (ErrorShape::Text, "/error"),
        (ErrorShape::Message, "/message"),
        (ErrorShape::Detail, "/detail"),
        (ErrorShape::TopLevelType, "/error_type"),
    ];
    for (shape, path) in shapes {
        together.fail_next(1, Fault::status(500).shape(shape).message("out"));
        let (status, body) = call(&together, &ask("x")).await;
        assert!(status == 500 && body.pointer(path).is_some_and(Value::is_string), "{body}");
    }
    together.fail_next(1, Fault::status(524).shape(ErrorShape::Html));
    assert!(call(&together, &ask("x")).await.1.as_str().unwrap().starts_with("<html>"));
    together.fail_next(1, Fault::status(503).shape(ErrorShape::Empty));
    assert_eq!(call(&together, &ask("x")).await.1, json!(""));
    together.fail_next(1, Fault::null());
    assert_eq!(call(&together, &ask("x")).await, (StatusCode::OK, Value::Null));
    together.fail_next(1, Fault::empty_choices());
    assert_eq!(call(&together, &ask("x")).await.1["choices"], json!([]));
    together.fail_next(1, Fault::error_in_ok());
    assert!(call(&together, &ask_stream("x")).await.1.as_str().unwrap().starts_with(r#"data: {"error":{"#));
    for (fault, kind) in
        [(Fault::refuse(), TransportErrorKind::Connect), (Fault::disconnect(), TransportErrorKind::Interrupted)]
    {
        together.fail_next(1, fault);
        assert_eq!(together.send(post(&ask("x"))).await.unwrap_err().kind(), kind);
    }
    assert_eq!(call(&together, &ask("x")).await.0, 200);
    assert_eq!((together.calls(), together.bill().calls), (14, 1));
}

#[tokio::test(start_paused = true)]
async fn a_limited_model_admits_its_rate_per_second() {
    let together = Together::new();
    together.limit(MODEL, 2);
    let mut headers = Vec::new();
    for expected in [200, 200, 429] {
        let response = together.send(post(&ask("x"))).await.unwrap();
        headers.push(response.headers().clone());
        let (status, body) = read(response).await;
        assert_eq!(status, expected);
        if expected == 429 {
            assert_eq!(body["error"]["type"], "dynamic_request_limited");
        }
    }
    assert_eq!(headers[0]["x-ratelimit-remaining"], "1");
    assert_eq!(headers[2]["x-ratelimit-reset"], "1.000");
    tokio::time::advance(SECOND).await;
    assert_eq!(call(&together, &ask("x")).await.0, 200);
}

#[tokio::test]
async fn models_can_be_overloaded_unavailable_redirected_and_restored() {
    let together = Together::new();
    together.overload(MODEL);
    assert_eq!(call(&together, &ask("x")).await.0, 503);
    together.restore(MODEL);
    together.unavailable(MODEL);
    let (status, body) = call(&together, &ask("x")).await;
    assert!(status == 400 && body["id"].is_string());
    assert_eq!(body["error"]["code"], "model_not_available");
    together.restore(MODEL);
    together.deprecate(MODEL, PLAIN);
    assert_eq!(call(&together, &ask("x")).await.1["model"], PLAIN);
    assert_eq!((together.calls_to(MODEL), together.calls_to(PLAIN)), (3, 0));
    assert_eq!(together.bill().lines[0].model, PLAIN);
    together.remove_model(PLAIN);
    assert_eq!(call(&together, &ask("x")).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn latency_runs_on_virtual_time() {
    let together = Together::builder().time_scale(0.5).build();
    together.latency(Duration::from_secs(60));
    together.latency_of(PLAIN, Duration::from_secs(10));
    let start = Instant::now();
    call(&together, &ask("x")).await;
    assert_eq!(start.elapsed().as_secs(), 30);
    let mut body = ask("x");
    body["model"] = json!(PLAIN);
    call(&together, &body).await;
    assert_eq!(start.elapsed().as_secs(), 35);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_made_when_it_is_asked_for() {
    let together = Together::new();
    together.token_latency(SECOND);
    together.on("").reply("one two three");
    let start = Instant::now();
    let mut body = together.send(post(&ask_stream("x"))).await.unwrap().into_body();
    body.next().await.unwrap().unwrap();
    assert_eq!(start.elapsed().as_secs(), 0);
    body.next().await.unwrap().unwrap();
    assert_eq!(start.elapsed().as_secs(), 1);
    // one, two, three, finish, [DONE]
    assert_eq!(body.count().await, 3);
    assert_eq!(start.elapsed().as_secs(), 4);
}

#[tokio::test]
async fn fragments_are_the_same_stream() {
    let together = Together::new();
    together.on("").reply("Grüße — 你好");
    let open = async || together.send(post(&ask_stream("x"))).await.unwrap().into_body();
    let whole: Vec<_> = open().await.map(Result::unwrap).collect().await;
    together.fragment_streams(3);
    let parts: Vec<_> = open().await.map(Result::unwrap).collect().await;
    assert!(parts.iter().all(|part| (1..=3).contains(&part.len())));
    let stable = |chunks: &[bytes::Bytes]| String::from_utf8(chunks.concat()).unwrap().split("\"delta\"").count();
    assert_eq!(stable(&whole), stable(&parts));
    together.cut_stream_after(1);
    assert!(open().await.collect::<Vec<_>>().await.last().unwrap().is_err());
}

#[tokio::test]
async fn a_dropped_stream_is_noticed_and_charged_for_what_was_sent() {
    let together = Together::new();
    together.on("").reply("12345678 12345678 12345678");
    let mut body = together.send(post(&ask_stream("x"))).await.unwrap().into_body();
    assert_eq!((together.open_streams(), together.in_flight(), together.bill().calls), (1, 0, 0));
    body.next().await.unwrap().unwrap();
    drop(body);
    assert_eq!(together.open_streams(), 0);
    let bill = together.bill();
    assert_eq!((bill.calls, bill.prompt_tokens, bill.completion_tokens), (1, 5, 2));
    assert!(!bill.lines[0].complete);
    // 5 tokens at $0.15 and 2 at $0.50 per million.
    assert_eq!(bill.nano_usd, 5 * 150 + 2 * 500);
}

#[tokio::test]
async fn a_whole_stream_is_charged_once_at_its_done() {
    let together = Together::new();
    let mut body = together.send(post(&ask_stream("x"))).await.unwrap().into_body();
    while !body.next().await.unwrap().unwrap().ends_with(b"[DONE]\n\n") {}
    let bill = together.bill();
    assert!(bill.calls == 1 && bill.lines[0].complete);
    assert!(body.next().await.is_none());
    assert_eq!(together.open_streams(), 0);
    drop(body);
    assert_eq!(together.bill(), bill);
    let (_, answer) = call(&together, &ask("x")).await;
    assert_eq!(answer["usage"]["completion_tokens"], bill.completion_tokens);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_request_is_in_flight_until_it_is_dropped() {
    let together = Together::new();
    together.hang();
    let call = tokio::time::timeout(60 * SECOND, together.send(post(&ask("x"))));
    let mut call = Box::pin(call);
    assert!(futures_util::poll!(&mut call).is_pending());
    assert_eq!(together.in_flight(), 1);
    assert!(call.await.is_err());
    assert_eq!((together.in_flight(), together.calls(), together.bill().calls), (0, 1, 0));
    together.heal();
    assert_eq!(self::call(&together, &ask("x")).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn streams_break_in_four_ways() {
    let together = Together::new();
    let open = async || together.send(post(&ask_stream("x"))).await.unwrap().into_body();
    together.cut_stream_after(2);
    let chunks: Vec<_> = open().await.collect().await;
    assert_eq!(chunks.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false]);
    together.heal();
    together.fail_next(1, Fault::end_after(2));
    assert!(!read_text(open().await).await.contains("[DONE]"));
    together.fail_next(1, Fault::error_after(2));
    assert!(read_text(open().await).await.contains(r#"data: {"error":{"#));
    together.fail_next(1, Fault::stall_after(2));
    assert!(tokio::time::timeout(SECOND, read_text(open().await)).await.is_err());
    together.on("scripted").times(1).fault(Fault::cut_after(1));
    let body = together.send(post(&ask_stream("scripted"))).await.unwrap().into_body();
    assert_eq!(body.count().await, 2);
    assert!(read_text(open().await).await.ends_with("[DONE]\n\n"));
    assert_eq!((together.open_streams(), together.bill().calls), (0, 6));
}

#[tokio::test]
async fn known_starts_of_a_conversation_are_cached_and_cheaper() {
    let together = Together::new();
    together.prompt_cache();
    let (_, one) = call(&together, &ask("abcd")).await;
    let (_, two) = call(&together, &ask("abcd")).await;
    assert_eq!(one["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(two["usage"]["prompt_tokens_details"]["cached_tokens"], 5);
    let bill = together.bill();
    assert_eq!(bill.lines[0].nano_usd - bill.lines[1].nano_usd, 5 * (150 - 30));
}

#[tokio::test]
async fn requests_are_remembered_without_their_keys() {
    let together = Together::new();
    call(&together, &ask("x")).await;
    let requests = together.requests();
    assert_eq!(requests[0].body["messages"][0]["content"], "x");
    assert!(requests[0].had_key("key"));
    assert_eq!(requests[0].headers["authorization"], "[redacted]");
    together.forget();
    assert_eq!((together.requests().len(), together.calls()), (0, 0));
}

/// Sends a request by hand and reads until the server closes the connection.
async fn raw(server: &Server, body: &Value) -> String {
    let mut socket = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer key\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    // A reset shows as an error after what was sent.
    let _ = socket.read_to_string(&mut text).await;
    text
}

#[tokio::test]
async fn the_socket_says_the_same_as_the_memory() {
    let together = Together::new();
    let server = together.serve().await.unwrap();
    assert!(server.base_url().starts_with("http://127.0.0.1:") && server.base_url().ends_with("/v1"));
    let over_socket = raw(&server, &ask("Why?")).await;
    let (_, in_memory) = call(&together, &ask("Why?")).await;
    assert!(over_socket.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(over_socket.contains(content(&in_memory)), "{over_socket}");
    let stream = raw(&server, &ask_stream("Why?")).await;
    assert!(stream.contains("content-type: text/event-stream;charset=utf-8") && stream.ends_with("0\r\n\r\n"));
    server.shutdown().await;
}

#[tokio::test]
async fn a_cut_on_the_socket_is_no_clean_end() {
    let together = Together::new();
    let server = together.serve().await.unwrap();
    for chunks in [0, 2] {
        together.cut_stream_after(chunks);
        let text = raw(&server, &ask_stream("x")).await;
        assert_eq!(text.matches("data: ").count(), chunks, "{text}");
        assert!(text.starts_with("HTTP/1.1 200") && !text.ends_with("0\r\n\r\n"));
    }
    together.heal();
    together.fail_next(1, Fault::disconnect());
    assert_eq!(raw(&server, &ask("x")).await, "");
    assert_eq!(together.open_streams(), 0);
}

/// Opens a request on the socket and returns once the simulator handles it.
async fn hanging(together: &Together, server: &Server) -> tokio::net::TcpStream {
    together.hang();
    let mut socket = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let body = ask("x").to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer key\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    socket.write_all(request.as_bytes()).await.unwrap();
    while together.calls() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(together.in_flight(), 1);
    socket
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_request_up() {
    let together = Together::new();
    let server = together.serve().await.unwrap();
    drop(hanging(&together, &server).await);
    while together.in_flight() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn shutdown_breaks_what_hangs() {
    let together = Together::new();
    let server = together.serve().await.unwrap();
    let mut socket = hanging(&together, &server).await;
    let address = server.address();
    server.shutdown().await;
    assert_eq!(together.in_flight(), 0);
    assert!(matches!(socket.read(&mut [0; 16]).await, Ok(0) | Err(_)));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_dropped_server_breaks_what_hangs() {
    let together = Together::new();
    let server = together.serve().await.unwrap();
    let mut socket = hanging(&together, &server).await;
    drop(server);
    assert!(matches!(socket.read(&mut [0; 16]).await, Ok(0) | Err(_)));
    assert_eq!(together.in_flight(), 0);
}
