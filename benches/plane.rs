//! The figures of vectors, pictures and typed answers.

use std::{fmt::Write as _, hint::black_box, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use cpu_time::ThreadTime;
use serde::Deserialize;
use stats_alloc::Region;
use together_inference::{
    InferenceRequest, InferenceService, TogetherClient, async_trait,
    client::{Body, EmbeddingRequest, ImageInput, ImageRequest, Transport, TransportError},
    inference::repair_json,
    schemars::{self, JsonSchema},
};
use tokio::runtime::Runtime;

use crate::{ALLOCATOR, MODEL, PAIRS, by_hand, pairs};

const TEXTS: usize = 64;

/// 64 texts of 1,024 numbers over a socket, against reqwest and a typed parse.
pub fn embeddings(runtime: &Runtime, client: &TogetherClient, hand: &by_hand::Client) {
    const CALLS: u32 = 40;
    let texts: Vec<String> = (0..TEXTS).map(|at| format!("text number {at} of the embeddings")).collect();
    let request = EmbeddingRequest::new(MODEL, texts.clone());
    let ours = || async {
        for _ in 0..CALLS {
            let embedded = client.embeddings().create(&request).await.expect("vectors");
            assert_eq!((embedded.vectors.len(), embedded.vectors[0].len()), (TEXTS, 1_024));
        }
    };
    let theirs = || async {
        for _ in 0..CALLS {
            assert_eq!(hand.embed(MODEL, &texts).await.len(), TEXTS);
        }
    };
    pairs(runtime, CALLS, ours, theirs).report("embeddings, 64 x 1,024", 1.10, 0.0);
}

/// A picture of 4 MiB in base64 through the whole client, against decoding the text alone.
pub fn image() {
    let base64 = BASE64_STANDARD.encode(vec![0x5a_u8; 3 << 20]);
    let body = format!(
        r#"{{"id":"i","model":"m","object":"list","data":[{{"index":0,"type":"b64_json","b64_json":"{base64}"}}]}}"#
    );
    let client = canned(body.into());
    let request = ImageRequest::new("m", ImageInput::new("a boat"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let ours = || async {
        let made = client.images().generate(&request).await.expect("a picture");
        assert_eq!(black_box(made.images[0].bytes().expect("bytes")).len(), 3 << 20);
    };
    let theirs = || async {
        assert_eq!(black_box(BASE64_STANDARD.decode(black_box(&base64)).expect("base64")).len(), 3 << 20);
    };
    pairs(&runtime, 1, ours, theirs).report("image, base64 of 4 MiB", 1.20, 0.0);
    let region = Region::new(ALLOCATOR);
    runtime.block_on(ours());
    let allocated = region.change().bytes_allocated as f64;
    // The body itself is there already; over a socket it is collected once.
    let held = (allocated + base64.len() as f64) / base64.len() as f64;
    let verdict = if held <= 2.0 { "" } else { "  MISSED" };
    println!("  {held:.2} times its size in memory, the body included (at most 2){verdict}");
}

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "read as an application would")]
struct Report {
    title: String,
    rows: Vec<Row>,
}

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "read as an application would")]
struct Row {
    name: String,
    amount: f64,
    tags: Vec<String>,
    note: Option<String>,
}

fn report(rows: usize) -> String {
    let row = |at: usize| {
        format!(
            r#"{{"name":"row number {at}","amount":{at}.25,"tags":["one","two \"quoted\"","three"],"note":"a note of some length, as models write them"}}"#
        )
    };
    let rows: Vec<_> = (0..rows).map(row).collect();
    format!(r#"{{"title":"A report","rows":[{}]}}"#, rows.join(","))
}

/// A typed stream that is looked at after every piece, against the same stream without a type.
pub fn stream_as() {
    const CALLS: u32 = 20;
    let text = report(60);
    let mut events = String::new();
    let pieces: Vec<&str> = split(&text, 5);
    for (at, piece) in pieces.iter().enumerate() {
        let finish = if at + 1 == pieces.len() { r#""stop""# } else { "null" };
        let content = serde_json::to_string(piece).expect("text");
        let delta = format!(r#"{{"token_id":7,"role":"assistant","content":{content}}}"#);
        let choice = format!(
            r#"{{"index":0,"text":{content},"logprobs":null,"finish_reason":{finish},"seed":null,"delta":{delta}}}"#
        );
        let head = r#""id":"o-1","object":"chat.completion.chunk","created":1790000000"#;
        writeln!(events, r#"data: {{{head},"choices":[{choice}],"model":"{MODEL}","usage":null}}"#)
            .and_then(|()| writeln!(events))
            .expect("memory");
    }
    events.push_str("data: [DONE]\n\n");
    let service = InferenceService::builder(canned(events.into())).build().expect("a service");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let request = || InferenceRequest::chat("A report, please.").model(MODEL).max_tokens(8_000);
    let typed = || async {
        for _ in 0..CALLS {
            let mut stream = service.stream_as::<Report>(request()).await.expect("a stream");
            let mut titled = 0;
            while let Some(partial) = stream.next().await {
                titled += usize::from(partial.expect("a piece").value("/title").is_some());
            }
            assert!(titled > 0);
            assert_eq!(stream.finish().await.expect("a report").value.rows.len(), 60);
        }
    };
    let untyped = || async {
        for _ in 0..CALLS {
            let mut stream = service.stream(request()).await.expect("a stream");
            while let Some(delta) = stream.next().await {
                black_box(delta.expect("a piece"));
            }
            assert!(!stream.finish().await.expect("an answer").text().is_empty());
        }
    };
    pairs(&runtime, CALLS, typed, untyped).report("stream_as beside stream", 1.50, 0.0);
}

/// Pieces of about so many bytes.
fn split(text: &str, bytes: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = (bytes..=rest.len()).find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len());
        let (piece, tail) = rest.split_at(end);
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

/// Mending 100 KB, and how it grows: ten times the text must take about ten times as long.
pub fn repair() {
    let broken =
        |rows: usize| format!("Of course!\n```json\n{}", report(rows).replace("},{", ",}, {").replace("]}", ",]"));
    let time = |text: &str| {
        let mut best = Duration::MAX;
        for _ in 0..PAIRS {
            let cpu = ThreadTime::now();
            black_box(repair_json(black_box(text)));
            best = best.min(cpu.elapsed());
        }
        best
    };
    let whole = broken(760);
    assert!(repair_json(&whole).is_some_and(|repaired| repaired.json.len() > 80_000));
    let (small, large) = (time(&broken(76)), time(&whole));
    let verdict = if large <= Duration::from_millis(1) { "" } else { "  MISSED" };
    println!("repair of {} KB: {:.3} ms (at most 1){verdict}", whole.len() / 1_000, large.as_secs_f64() * 1e3);
    println!("  {:.1} times as long as of a tenth", large.as_secs_f64() / small.as_secs_f64());
    for (name, text) in [
        ("brackets", "[".repeat(100_000)),
        ("quotes", "\"".repeat(100_000)),
        ("a quote and backslashes", format!("[\"{}", "\\".repeat(100_000))),
        ("open objects", "{\"a\":".repeat(20_000)),
        ("spaces after quotes", format!("[{}", "\"a\"   ".repeat(16_000))),
        ("braces that are none", "{x} ".repeat(25_000)),
        ("tags", "<think".repeat(16_000)),
    ] {
        println!("  100 KB of {name}: {:.3} ms", time(&text).as_secs_f64() * 1e3);
    }
}

/// A client that is answered from memory, with the same body every time.
fn canned(body: Bytes) -> TogetherClient {
    #[derive(Debug)]
    struct Canned(Bytes);

    #[async_trait]
    impl Transport for Canned {
        async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
            let _ = request;
            Ok(http::Response::new(Body::from(self.0.clone())))
        }
    }

    TogetherClient::builder().api_key("bench").transport(Canned(body)).build().expect("a client")
}
