//! What holds for chat answers holds for vectors, pictures, rankings, continued prompts and lists.

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use http::HeaderValue;
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use together_inference::{
    TogetherClient,
    client::{
        Body, CompletionRequest, EmbeddingRequest, Error, ErrorKind, ImageRequest, RerankInput, RerankRequest,
        SupportedQuery,
    },
    types::FinishReason,
};

use crate::{
    plausible,
    support::{MODEL, answered, json, response, shown, sse},
};

type Call = for<'a> fn(&'a TogetherClient) -> BoxFuture<'a, Result<(), Error>>;

fn prompt(client: &TogetherClient) -> BoxFuture<'_, Result<(), Error>> {
    async { client.completions().create(&CompletionRequest::new(MODEL, "secret prompt")).await.map(drop) }.boxed()
}

fn embed(client: &TogetherClient) -> BoxFuture<'_, Result<(), Error>> {
    async { client.embeddings().create(&EmbeddingRequest::new(MODEL, ["secret prompt"])).await.map(drop) }.boxed()
}

fn draw(client: &TogetherClient) -> BoxFuture<'_, Result<(), Error>> {
    async { client.images().generate(&ImageRequest::new(MODEL, "secret prompt".into())).await.map(drop) }.boxed()
}

fn rank(client: &TogetherClient) -> BoxFuture<'_, Result<(), Error>> {
    let request = RerankRequest::new(MODEL, RerankInput::new("secret prompt", ["a", "b"]));
    async move { client.rerank().create(&request).await.map(drop) }.boxed()
}

fn list(client: &TogetherClient) -> BoxFuture<'_, Result<(), Error>> {
    async { client.models().list().await.map(drop) }.boxed()
}

fn supported(client: &TogetherClient) -> BoxFuture<'_, Result<(), Error>> {
    async { client.models().supported(&SupportedQuery::default()).await.map(drop) }.boxed()
}

fn whoami(client: &TogetherClient) -> BoxFuture<'_, Result<(), Error>> {
    async { client.whoami().await.map(drop) }.boxed()
}

/// Calls of a model, each with an answer that is one.
const OF_MODELS: [(&str, Call, &str); 4] = [
    ("completions", prompt, r#"{"id":"c","model":"m","choices":[{"text":"a","finish_reason":"stop"}],"usage":null}"#),
    ("embeddings", embed, r#"{"object":"list","model":"m","data":[{"index":0,"embedding":[0.5,-1e-3]}]}"#),
    ("images", draw, r#"{"id":"i","model":"m","data":[{"index":0,"type":"b64_json","b64_json":"aGk="}]}"#),
    (
        "rerank",
        rank,
        r#"{"id":"r","model":"m","results":[{"index":1,"relevance_score":0.5,"document":{"text":null}}]}"#,
    ),
];

const LISTS: [(&str, Call); 3] = [("models", list), ("supported", supported), ("whoami", whoami)];

async fn answer(call: Call, body: impl Into<Bytes>) -> Result<(), Error> {
    let body = body.into();
    call(&answered(move || json(body.clone()))).await
}

/// What a success may hold instead of an answer, in all the API's shapes.
const NO_ANSWERS: [(&str, ErrorKind); 12] = [
    (r#"{"error":{"message":"m","type":"server_error","param":null,"code":"c"}}"#, ErrorKind::Server),
    (r#"{"id":"own","error":{"message":"m","type":"t","code":null}}"#, ErrorKind::Server),
    (r#"{"error":"m"}"#, ErrorKind::Server),
    (r#"{"error":{"message":"m"},"error_type":"rate_limit"}"#, ErrorKind::RateLimited),
    (r#"{"error":{"message":"m","code":503}}"#, ErrorKind::Overloaded),
    (r#"{"message":"m"}"#, ErrorKind::Malformed),
    (r#"{"detail":"m"}"#, ErrorKind::Malformed),
    ("null", ErrorKind::Malformed),
    ("", ErrorKind::Malformed),
    ("{}", ErrorKind::Malformed),
    ("<html><body>502</body></html>", ErrorKind::Malformed),
    ("[1,2", ErrorKind::Malformed),
];

#[tokio::test]
async fn a_success_that_is_none_is_a_typed_error_with_its_evidence() {
    for (name, call, good) in OF_MODELS {
        answer(call, good).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        for (body, kind) in NO_ANSWERS {
            let error = answer(call, body).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.status(), error.request_id()),
                (kind, Some(200), Some("request-7")),
                "{name} {body}"
            );
            assert_eq!((error.body(), error.model().unwrap().as_str()), (&Bytes::from(body), MODEL), "{name} {body}");
            assert!(!shown(&error).contains("secret prompt"));
        }
        // An error beside an answer is an error too.
        let beside = good.replacen('{', r#"{"error":{"message":"m","type":"server_error"},"#, 1);
        assert_eq!(answer(call, beside).await.unwrap_err().kind(), ErrorKind::Server, "{name}");
    }
    for (name, call) in LISTS {
        for body in ["", "<html></html>", "[1,2"] {
            assert_eq!(answer(call, body).await.unwrap_err().kind(), ErrorKind::Malformed, "{name} {body}");
        }
    }
}

#[tokio::test]
async fn refusals_of_every_kind_are_read() {
    for (name, call, _) in OF_MODELS {
        for (status, kind) in
            [(400, ErrorKind::InvalidRequest), (401, ErrorKind::Authentication), (503, ErrorKind::Overloaded)]
        {
            let body = r#"{"error":{"message":"m","type":"t","param":"input","code":"c"}}"#;
            let client = answered(move || response(status, "application/json", Body::from(body)));
            let error = call(&client).await.unwrap_err();
            assert_eq!((error.kind(), error.status(), error.param()), (kind, Some(status), Some("input")), "{name}");
        }
    }
}

#[tokio::test]
async fn hostile_bodies_are_typed_errors_or_read_and_overflow_no_stack() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let keys: Vec<String> = (0..300_000).map(|key| format!("\"k{key}\":0")).collect();
    let bodies = [
        deep(1_000_000),
        format!(r#"{{"data":{}}}"#, deep(100_000)),
        format!(r#"{{"data":[{}{{}}]}}"#, "{},".repeat(200_000)),
        format!(r#"{{"results":[{}{{}}]}}"#, "{},".repeat(200_000)),
        format!(r#"{{"choices":[{}{{}}]}}"#, "{},".repeat(200_000)),
        format!(r#"{{"data":[{{"index":0,"embedding":[{}0]}}]}}"#, "0,".repeat(200_000)),
        format!(r#"{{"results":[{{"index":0,"relevance_score":1,"document":[{}0]}}]}}"#, "[],".repeat(300_000)),
        format!("{{{}}}", keys.join(",")),
        r#"{"data":[{"index":1e400,"embedding":[1e400]}]}"#.to_owned(),
        r#"{"data":[{"index":0,"embedding":["x"]}]}"#.to_owned(),
        r#"{"data":[{"index":0,"embedding":[null]}]}"#.to_owned(),
        r#"{"id":"\ud800","data":[],"results":[],"choices":[]}"#.to_owned(),
        r#"{"data":[{"index":0,"embedding":[1],"embedding":[2]}]}"#.to_owned(),
        r#"{"data":[{"index":0,"b64_json":"aGk=","b64_json":"aGk="}]}"#.to_owned(),
    ];
    for (name, call, _) in OF_MODELS {
        for body in &bodies {
            let shown = &body[..body.len().min(60)];
            let error = answer(call, body.clone()).await.expect_err(shown);
            assert_eq!(error.kind(), ErrorKind::Malformed, "{name}: {shown}");
        }
    }
    for (_, call) in LISTS {
        for body in &bodies {
            // Read or refused: what matters is that it ends.
            drop(answer(call, body.clone()).await);
        }
    }
}

#[tokio::test]
async fn broken_utf8_is_an_error_in_a_body_and_absent_in_a_header() {
    for (name, call, good) in OF_MODELS {
        let mut body = good.replace("\"m\"", "\"m?\"").into_bytes();
        let at = body.iter().position(|byte| *byte == b'?').unwrap();
        body[at] = 0xff;
        let error = answer(call, body).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{name}");
        let client = answered(move || {
            let mut response = json(good);
            response.headers_mut().insert("x-request-id", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
            response
        });
        call(&client).await.unwrap();
    }
}

/// The files in `tests/data/recorded` of these paths are written after the contract: no real ones are on record.
#[tokio::test]
async fn answers_as_the_contract_writes_them_are_read_whole() {
    let client = answered(|| {
        json(
            r#"{"id":"o1","object":"text.completion","created":1790000000,"model":"m","prompt":[{"text":"Once","logprobs":null}],
               "choices":[{"text":" upon","seed":15924764223251450000,"finish_reason":"eos",
                           "logprobs":{"token_ids":[1,null],"tokens":[" up","on"],"token_logprobs":[-0.5,null],
                                       "top_logprobs":[{" up":-0.5}]}}],
               "usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#,
        )
    });
    let read = client.completions().create(&CompletionRequest::new(MODEL, "Once")).await.unwrap();
    let choice = &read.choices[0];
    assert_eq!((choice.text(), choice.finish_reason.clone()), (" upon", Some(FinishReason::Eos)));
    let logprobs = choice.logprobs.as_ref().unwrap();
    assert_eq!((logprobs.token_ids.clone(), logprobs.token_logprobs[1]), (vec![Some(1), None], None));
    assert!(logprobs.top_logprobs.is_some() && choice.seed == Some(15_924_764_223_251_450_000));
    assert_eq!((read.usage.unwrap().total(), read.raw.is_empty()), (3, false));

    let client = answered(|| {
        json(
            r#"{"object":"list","model":"other","data":[{"object":"embedding","index":0,"embedding":[1,2]}],
        "usage":{"prompt_tokens":4,"total_tokens":4},"new":true}"#,
        )
    });
    let read = client.embeddings().create(&EmbeddingRequest::new(MODEL, ["a"])).await.unwrap();
    assert_eq!(
        (read.model.as_str(), read.usage.unwrap().prompt, read.request_id.as_deref()),
        ("other", 4, Some("request-7"))
    );
    assert!(String::from_utf8_lossy(&read.raw).contains("\"new\""), "what is not known is kept");
}

/// Scenario: a stream of a continued prompt, cut at every byte.
/// Expected: whole, or an error; never a shorter answer.
#[tokio::test]
async fn a_continued_prompt_is_streamed_whole_or_not_at_all() {
    let chunk = |text: &str, finish: &str, usage: &str| {
        format!(
            r#"data: {{"id":"o1","object":"completion.chunk","created":1,"model":"m","token":{{"id":7,"text":"{text}","logprob":-0.5,"special":false}},"choices":[{{"index":0,"text":"{text}","delta":{{"token_id":7,"role":"assistant","content":"{text}"}}}}],"usage":{usage},"seed":null,"finish_reason":{finish}}}"#
        ) + "\n\n"
    };
    let usage = r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#;
    let whole = chunk(" up", "null", "null") + &chunk("on", "\"stop\"", usage) + "data: [DONE]\n\n";
    let finished = whole.find("\"stop\"").unwrap();
    for end in 0..=whole.len() {
        let piece = Bytes::from(whole[..end].to_owned());
        let client = answered(move || sse([piece.clone()]));
        let request = CompletionRequest::new(MODEL, "Once");
        let outcome = match client.completions().stream(&request).await {
            Ok(stream) => stream.collect().await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(answer) => {
                assert!(end > finished, "{end}");
                assert_eq!((answer.text(), answer.usage.unwrap().completion), (" upon", 2));
                let logprobs = answer.choices[0].logprobs.clone().unwrap();
                assert_eq!(logprobs.token_logprobs, [Some(-0.5), Some(-0.5)]);
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Malformed), "{end}: {error}")
            }
        }
    }
}

fn again<T: Serialize + DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

/// Fields with names that no version of the API has.
fn unknown() -> impl Strategy<Value = Map<String, Value>> {
    let value = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2_000..2_000_i32).prop_map(|n| Value::from(f64::from(n) / 1_000.0)),
        ".{0,6}".prop_map(Value::from),
        prop::collection::vec(any::<u8>().prop_map(Value::from), 0..3).prop_map(Value::from),
    ];
    prop::collection::btree_map("x_[a-z]{1,6}", value, 0..4).prop_map(|map| map.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_500) })]

    #[test]
    fn every_request_reads_back_what_it_writes(
        prompt in plausible::prompt(),
        embedding in plausible::embedding(),
        image in plausible::image(),
        rerank in plausible::rerank(),
        extra in unknown(),
    ) {
        let (mut prompt, mut embedding, mut image, mut rerank) = (prompt, embedding, image, rerank);
        prompt.extra = extra.clone();
        embedding.extra = extra.clone();
        image.extra = extra.clone();
        rerank.extra = extra;
        prop_assert_eq!(&again(&prompt), &prompt);
        prop_assert_eq!(&again(&embedding), &embedding);
        prop_assert_eq!(&again(&image), &image);
        prop_assert_eq!(&again(&rerank), &rerank);
    }
}
