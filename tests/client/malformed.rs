//! Successes that are none, and answers that are odd.

use bytes::Bytes;
use http::HeaderValue;
use together_inference::{
    client::{Body, ChatCompletion, Error, ErrorKind},
    testing::{ErrorShape, Fault, Together},
    types::FinishReason,
};

use crate::{
    fault::FaultServer,
    support::{MODEL, answered, at, collect, hello, json, read, response, sse},
};

async fn answer_to(body: impl Into<Bytes>) -> Result<ChatCompletion, Error> {
    let body = body.into();
    answered(move || json(body.clone())).chat().create(&hello()).await
}

/// The answer of a stream of these events, without an end mark of its own.
async fn stream_of_all(events: &[&str]) -> Result<ChatCompletion, Error> {
    let piece = Bytes::from(events.iter().map(|data| format!("data: {data}\n\n")).collect::<String>());
    collect(&answered(move || sse([piece.clone()]))).await
}

async fn stream_of(data: &str) -> Result<ChatCompletion, Error> {
    let piece = Bytes::from(format!("data: {data}\n\n"));
    collect(&answered(move || sse([piece.clone()]))).await
}

/// A completion with this in its only choice.
fn choice(fields: &str) -> String {
    format!(r#"{{"id":"x","model":"{MODEL}","choices":[{{"index":0,"finish_reason":"stop",{fields}}}]}}"#)
}

const SHAPES: [(&str, ErrorKind, Option<&str>, &str); 10] = [
    (r#"{"error":{"message":"m","type":"server_error","param":null,"code":"c"}}"#, ErrorKind::Server, Some("c"), "m"),
    (r#"{"id":"own","error":{"message":"m","type":"t","code":null}}"#, ErrorKind::Server, Some("t"), "m"),
    (r#"{"error":"m"}"#, ErrorKind::Server, None, "m"),
    (r#"{"error":{"message":"m"},"error_type":"rate_limit"}"#, ErrorKind::RateLimited, Some("rate_limit"), "m"),
    (r#"{"error":{"message":"m","code":503}}"#, ErrorKind::Overloaded, Some("503"), "m"),
    (r#"{"error":[{"message":"m"}],"choices":[]}"#, ErrorKind::Server, None, "m"),
    (
        r#"{"error":{"message":"m","type":"invalid_request_error"}}"#,
        ErrorKind::InvalidRequest,
        Some("invalid_request_error"),
        "m",
    ),
    (r#"{"error":true}"#, ErrorKind::Server, None, ""),
    (r#"{"message":"m"}"#, ErrorKind::Malformed, None, "the response holds no answer (no choices)"),
    (r#"{"detail":"m"}"#, ErrorKind::Malformed, None, "the response holds no answer (no choices)"),
];

#[tokio::test]
async fn an_error_inside_a_success_keeps_its_evidence() {
    for (body, kind, code, message) in SHAPES {
        let error = answer_to(body).await.unwrap_err();
        assert_eq!((error.kind(), error.status(), error.code()), (kind, Some(200), code), "{body}");
        assert_eq!((error.request_id(), error.message()), (Some("request-7"), message), "{body}");
        assert_eq!(error.body(), body);
        assert_eq!(error.model().unwrap().as_str(), MODEL);
        // The same where a stream was asked for and JSON came.
        let client = answered(move || json(body));
        let error = client.chat().stream(&hello()).await.map(drop).unwrap_err();
        assert_eq!((error.kind(), error.status(), error.code()), (kind, Some(200), code), "{body}");
        assert_eq!(error.request_id(), Some("request-7"));
    }
}

#[tokio::test]
async fn an_error_inside_a_stream_keeps_its_evidence() {
    for (body, kind, code, message) in SHAPES.into_iter().filter(|shape| shape.1 != ErrorKind::Malformed) {
        let error = stream_of(body).await.unwrap_err();
        assert_eq!((error.kind(), error.status(), error.code()), (kind, Some(200), code), "{body}");
        assert_eq!((error.request_id(), error.message()), (Some("request-7"), message), "{body}");
        let pieces = [Bytes::from(crate::fault::event(0)), Bytes::from(format!("data: {body}\n\ndata: [DONE]\n\n"))];
        let (texts, error) = read(&answered(move || sse(pieces.clone()))).await;
        let error = error.unwrap();
        assert_eq!((&*texts, error.kind()), (&["w0 ".to_owned()][..], kind), "{body}");
        assert_eq!(error.model().unwrap().as_str(), MODEL);
    }
}

#[tokio::test]
async fn a_success_without_an_answer_is_malformed() {
    let page = "<html><body>Welcome</body></html>";
    for body in
        ["null", "", " ", "{}", "[]", "0", "\"text\"", r#"{"choices":[]}"#, r#"{"choices":null}"#, page, "{\"cho"]
    {
        let error = answer_to(body).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Malformed, Some(200)), "{body}");
        assert_eq!((error.request_id(), &error.body()[..]), (Some("request-7"), body.as_bytes()));
        assert!(error.may_be_billed() && error.is_retryable());
        let client = answered(move || json(body));
        let error = client.chat().stream(&hello()).await.map(drop).unwrap_err();
        assert_eq!((error.kind(), error.request_id()), (ErrorKind::Malformed, Some("request-7")), "{body}");
    }
}

#[tokio::test]
async fn a_stream_without_an_answer_is_an_error() {
    for (stream, kind) in [
        ("", ErrorKind::Interrupted),
        ("<html>Welcome</html>", ErrorKind::Interrupted),
        ("data: [DONE]\n\n", ErrorKind::Malformed),
        ("data: null\n\n", ErrorKind::Malformed),
        ("data: {}\n\ndata: [DONE]\n\n", ErrorKind::Malformed),
        ("data: {\"choices\":[]}\n\n", ErrorKind::Interrupted),
        ("data: {\"cho\n\n", ErrorKind::Malformed),
        ("data: <html>\n\n", ErrorKind::Malformed),
    ] {
        let error = collect(&answered(move || sse([Bytes::from(stream)]))).await.expect_err(stream);
        assert_eq!((error.kind(), error.request_id()), (kind, Some("request-7")), "{stream:?}");
    }
}

#[tokio::test]
async fn every_shape_of_a_refusal_is_read() {
    for (shape, message) in [
        (ErrorShape::Data, "slow down"),
        (ErrorShape::DataWithId, "slow down"),
        (ErrorShape::Text, "slow down"),
        (ErrorShape::Message, "slow down"),
        (ErrorShape::Detail, "slow down"),
        (ErrorShape::TopLevelType, "slow down"),
        (ErrorShape::Empty, ""),
    ] {
        let together = Together::new();
        together.fail_next(9, Fault::status(429).message("slow down").shape(shape).header("retry-after", "61"));
        let error = together.client().chat().create(&hello()).await.unwrap_err();
        assert_eq!((error.kind(), error.status(), error.message()), (ErrorKind::RateLimited, Some(429), message));
        assert!(error.request_id().is_some(), "{shape:?}");
    }
}

#[tokio::test]
async fn depth_and_breadth_are_refused_and_overflow_no_stack() {
    let server = FaultServer::start().await;
    for fault in ["depth/100", "depth/1000000", "array/1000000"] {
        let error = at(&server, fault).build().unwrap().chat().create(&hello()).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Malformed, Some(200)), "{fault}: {error:?}");
    }
    let deep = format!("{}1{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    assert_eq!(answer_to(format!("{{\"error\":{deep}}}")).await.unwrap_err().kind(), ErrorKind::Malformed);
    assert!(answer_to(choice(&format!(r#""message":{{"content":"a"}},"logprobs":{deep}"#))).await.is_err());
    assert!(stream_of(&choice(&format!(r#""delta":{{"content":{}}}"#, &deep[..500_000]))).await.is_err());
}

/// Two bytes of JSON that become hundreds in memory are the cheapest way to exhaust a client.
#[tokio::test]
async fn a_list_of_empty_objects_is_refused_before_it_grows() {
    let many = |count: usize| vec!["{}"; count].join(",");
    assert_eq!(answer_to(format!(r#"{{"choices":[{}]}}"#, many(128))).await.unwrap().choices.len(), 128);
    let error = answer_to(format!(r#"{{"choices":[{}]}}"#, many(129))).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Malformed, Some(200)));
    let calls = format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{}]}}}}]}}"#, many(257));
    assert_eq!(stream_of(&calls).await.unwrap_err().kind(), ErrorKind::Malformed);
    let warnings = format!(r#"{{"choices":[{{}}],"warnings":[{}]}}"#, many(200_000));
    assert_eq!(answer_to(warnings).await.unwrap_err().kind(), ErrorKind::Malformed);
}

#[tokio::test]
async fn an_array_of_nothings_is_refused_wherever_any_json_is_read() {
    let zeros = format!("[{}0]", "0,".repeat(1_000_000));
    let object = format!(r#"{{"a":{zeros}}}"#);
    for inner in [
        format!(r#""message":{{"content":{zeros}}}"#),
        format!(r#""message":{{"content":"a"}},"logprobs":{object}"#),
        format!(
            r#""message":{{"content":"a","tool_calls":[{{"id":"1","function":{{"name":"f","arguments":{object}}}}}]}}"#
        ),
        format!(r#""message":{{"content":"a"}},"seed":{object}"#),
    ] {
        let error = answer_to(choice(&inner)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{}", &inner[..60]);
    }
    // Where nothing of it is kept, it does no harm.
    assert!(answer_to(format!(r#"{{"choices":[{{"message":{{"content":"a"}}}}],"prompt":{zeros}}}"#)).await.is_ok());
}

#[tokio::test]
async fn doubled_names_and_impossible_numbers_and_texts_are_typed_errors() {
    for body in [
        r#"{"id":"a","id":"b","choices":[{"message":{"content":"x"}}]}"#.to_owned(),
        choice(r#""message":{"content":"a"},"message":{"content":"b"}"#),
        choice(r#""message":{"content":"a"},"seed":1e400"#),
        choice(r#""message":{"content":"\ud800"}"#),
        choice(r#""message":{"content":"\udc00\ud800"}"#),
        choice(r#""message":{"content":{"not":"text"}}"#),
        choice(r#""message":{"content":7}"#),
        choice(r#""message":7"#),
    ] {
        let error = answer_to(body.clone()).await.expect_err(&body);
        assert_eq!((error.kind(), error.status()), (ErrorKind::Malformed, Some(200)), "{body}");
    }
}

#[tokio::test]
async fn numbers_of_any_size_are_read_or_left_out() {
    for (number, expected) in [
        ("18446744073709551615", Some(u64::MAX)),
        ("9223372036854775808", Some(1 << 63)),
        ("15924764223251450000", Some(15_924_764_223_251_450_000)),
        ("1e3", Some(1_000)),
        ("\"42\"", Some(42)),
        ("-1", None),
        ("-9223372036854775808", None),
        ("1e300", None),
        ("18446744073709551616", None),
        ("null", None),
        ("\"many\"", None),
        ("[1]", None),
        ("{\"a\":1}", None),
    ] {
        let body = format!(
            r#"{{"created":{number},"choices":[{{"index":0,"seed":{number},"message":{{"content":"x"}}}}],
               "usage":{{"prompt_tokens":{number},"completion_tokens":1}}}}"#
        );
        let answer = answer_to(body).await.unwrap();
        let (seed, usage) = (answer.choices[0].seed, answer.usage.unwrap());
        assert_eq!((answer.created, seed, usage.prompt), (expected, expected, expected.unwrap_or(0)), "{number}");
    }
}

#[tokio::test]
async fn broken_utf8_is_a_typed_error_in_a_body_and_absent_in_a_header() {
    let server = FaultServer::start().await;
    let client = at(&server, "bad-utf8").build().unwrap();
    for error in [client.chat().create(&hello()).await.map(drop).unwrap_err(), collect(&client).await.unwrap_err()] {
        assert_eq!((error.kind(), error.status()), (ErrorKind::Malformed, Some(200)), "{error:?}");
    }
    let refused = || {
        let body = Bytes::from_static(b"{\"error\":{\"message\":\"bad \xFF byte\",\"code\":\"c\"}}");
        let mut response = response(422, "application/json", Body::from(body));
        for name in ["x-request-id", "retry-after", "x-ratelimit-limit", "location"] {
            response.headers_mut().insert(name, HeaderValue::from_bytes(b"\xFF\xFE").unwrap());
        }
        response
    };
    let error = answered(refused).chat().create(&hello()).await.unwrap_err();
    assert_eq!((error.kind(), error.request_id(), error.code()), (ErrorKind::InvalidRequest, None, Some("c")));
    assert_eq!(error.message(), "bad \u{fffd} byte");
}

#[tokio::test]
async fn an_empty_finish_reason_is_none() {
    let plain = answer_to(r#"{"choices":[{"message":{"content":"x"},"finish_reason":""}]}"#).await.unwrap();
    assert_eq!(plain.choices[0].finish_reason, None);
    let events = [
        r#"{"choices":[{"index":0,"delta":{"content":"one "},"finish_reason":""}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"two"},"finish_reason":""}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}"#,
        "[DONE]",
    ];
    assert_eq!(stream_of_all(&events[..2]).await.unwrap_err().kind(), ErrorKind::Interrupted);
    let whole = stream_of_all(&events).await.unwrap();
    assert_eq!((whole.text(), &whole.choices[0].finish_reason), ("one two", &Some(FinishReason::Stop)));
}

const HALF: &str = r#"{"choices":[{"index":0,"delta":{"content":"half"}}]}"#;
const END: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

#[tokio::test]
async fn a_done_mark_before_the_finish_is_no_end() {
    let reasoning = r#"{"choices":[{"index":0,"delta":{"reasoning":"hm"}}]}"#;
    let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
    for events in [&[HALF, "[DONE]"][..], &[HALF, HALF, "[DONE]"], &[reasoning, "[DONE]"], &[role, "[DONE]"]] {
        let error = stream_of_all(events).await.expect_err(events[0]);
        assert_eq!((error.kind(), error.request_id()), (ErrorKind::Interrupted, Some("request-7")), "{events:?}");
        assert!(error.may_be_billed() && error.is_retryable());
    }
    assert_eq!(stream_of_all(&[HALF, END, "[DONE]"]).await.unwrap().text(), "half");
}

#[tokio::test]
async fn a_stream_of_several_answers_is_whole_when_each_has_ended() {
    let one = r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"},
        {"index":1,"delta":{"content":"h"}}]}"#;
    let one = &*one.replace('\n', "");
    let two = r#"{"choices":[{"index":1,"delta":{"content":"i"},"finish_reason":"length"}]}"#;
    for (events, whole) in
        [(&[one, "[DONE]"][..], false), (&[one], false), (&[one, two, "[DONE]"], true), (&[one, two], true)]
    {
        let mut request = hello();
        request.input_mut().n = Some(2);
        let piece = Bytes::from(events.iter().map(|data| format!("data: {data}\n\n")).collect::<String>());
        let client = answered(move || sse([piece.clone()]));
        let outcome = client.chat().stream(&request).await.unwrap().collect().await;
        match outcome {
            Ok(answer) => assert!(whole && answer.choices[1].text() == "hi", "{events:?}"),
            Err(error) => assert!(!whole && error.kind() == ErrorKind::Interrupted, "{events:?}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn an_event_named_error_is_one_and_other_names_are_ignored() {
    for (data, kind, message) in [
        (r#"{"error":{"message":"engine died","code":503}}"#, ErrorKind::Overloaded, "engine died"),
        (r#"{"error":{"message":"engine died","type":"overloaded_error"}}"#, ErrorKind::Overloaded, "engine died"),
        (r#"{"message":"engine died"}"#, ErrorKind::Server, "engine died"),
        (r#"{"error":null}"#, ErrorKind::Server, ""),
        ("engine died", ErrorKind::Server, "engine died"),
    ] {
        let named = format!("event: error\ndata: {data}\n\n");
        for before in [String::new(), format!("data: {HALF}\n\n"), format!("data: {HALF}\n\ndata: {END}\n\n")] {
            let piece = Bytes::from(format!("{before}{named}data: [DONE]\n\n"));
            let error = collect(&answered(move || sse([piece.clone()]))).await.expect_err(data);
            assert_eq!((error.kind(), error.status(), error.message()), (kind, Some(200), message), "{before}{named}");
            assert_eq!(error.body(), data);
        }
    }
    let ping = format!("event: ping\ndata: {{\"error\":\"x\"}}\n\ndata: {HALF}\n\ndata: {END}\n\n");
    let piece = Bytes::from(format!("{ping}data: [DONE]\n\nevent: error\ndata: behind the end\n\n"));
    assert_eq!(collect(&answered(move || sse([piece.clone()]))).await.unwrap().text(), "half");
}

#[tokio::test]
async fn an_error_beside_choices_is_an_error() {
    let plain = |error: &str| {
        format!(
            r#"{{"choices":[{{"message":{{"content":"half"}},"finish_reason":"stop"}}],"error":{error},
               "usage":{{"prompt_tokens":1,"completion_tokens":1}}}}"#
        )
    };
    let chunk = |error: &str| format!(r#"{{"choices":[{{"delta":{{"content":"x"}}}}],"error":{error}}}"#);
    for (error, kind) in [
        (r#"{"message":"engine died","code":503}"#, ErrorKind::Overloaded),
        (r#""engine died""#, ErrorKind::Server),
        (r#"["engine died"]"#, ErrorKind::Server),
        ("true", ErrorKind::Server),
        ("1", ErrorKind::Server),
        ("{}", ErrorKind::Server),
    ] {
        let body = plain(error);
        let failed = answer_to(body.clone()).await.expect_err(error);
        assert_eq!((failed.kind(), failed.status(), &failed.body()[..]), (kind, Some(200), body.as_bytes()));
        let failed = stream_of_all(&[&chunk(error), END, "[DONE]"]).await.expect_err(error);
        assert_eq!((failed.kind(), failed.status()), (kind, Some(200)), "{error}");
    }
    for nothing in ["null", "false", "0", "0.0", "\"\"", "[]"] {
        assert_eq!(answer_to(plain(nothing)).await.unwrap().text(), "half", "{nothing}");
        assert_eq!(stream_of_all(&[&chunk(nothing), END]).await.unwrap().text(), "x", "{nothing}");
    }
}

#[tokio::test]
async fn a_model_that_stopped_with_an_error_has_not_answered() {
    let plain = r#"{"choices":[{"message":{"content":"half"},"finish_reason":"error"}]}"#;
    let ended = r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#;
    for error in [answer_to(plain).await.unwrap_err(), stream_of_all(&[HALF, ended, "[DONE]"]).await.unwrap_err()] {
        assert_eq!((error.kind(), error.status()), (ErrorKind::Server, Some(200)));
        assert_eq!((error.message(), error.request_id()), ("the model stopped with an error", Some("request-7")));
        assert!(error.may_be_billed() && !error.body().is_empty());
    }
}

fn calls(answer: &ChatCompletion) -> Vec<[&str; 4]> {
    let calls = answer.choices.iter().flat_map(|choice| &choice.message.tool_calls);
    calls.map(|call| [&*call.id, &*call.kind, call.name(), &*call.function.arguments]).collect()
}

#[tokio::test]
async fn tool_calls_without_an_index_are_told_apart_by_their_ids() {
    let chunk = |calls: &str| format!(r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{calls}]}}}}]}}"#);
    let [a, b, more, again] = [
        r#"{"id":"a","function":{"name":"f","arguments":"{\"x\":"}}"#,
        r#"{"id":"b","function":{"name":"g","arguments":"{\"y\":"}}"#,
        r#"{"function":{"arguments":"1"}}"#,
        r#"{"id":"b","index":null,"function":{"arguments":"}"}}"#,
    ];
    let both = chunk(&format!("{a},{more},{b}"));
    for chunks in [vec![both, chunk(more), chunk(again)], [a, more, b, more, again].map(chunk).to_vec()] {
        let events: Vec<&str> = chunks.iter().map(|chunk| &**chunk).chain([END, "[DONE]"]).collect();
        let answer = stream_of_all(&events).await.unwrap();
        assert_eq!(calls(&answer), [["a", "function", "f", "{\"x\":1"], ["b", "function", "g", "{\"y\":1}"]]);
    }
    let many: Vec<String> = (0..300).map(|id| chunk(&format!(r#"{{"id":"{id}","function":{{}}}}"#))).collect();
    let events: Vec<&str> = many.iter().map(|chunk| &**chunk).chain([END]).collect();
    assert_eq!(calls(&stream_of_all(&events).await.unwrap()).len(), 256);
}

#[tokio::test]
async fn tool_calls_with_nulls_or_an_object_for_a_text_are_read() {
    for (call, expected) in [
        (r#"{"id":null,"type":"function","function":{"name":"f","arguments":"{}"}}"#, ["", "function", "f", "{}"]),
        (r#"{"id":"a","type":null,"function":{"name":"f","arguments":"{}"}}"#, ["a", "function", "f", "{}"]),
        (r#"{"id":"a","function":{"name":"f","arguments":null}}"#, ["a", "function", "f", ""]),
        (r#"{"id":"a","function":{"name":null}}"#, ["a", "function", "", ""]),
        (r#"{"id":"a","function":{"name":"f","arguments":{"x":[1]}}}"#, ["a", "function", "f", "{\"x\":[1]}"]),
        (r#"{"id":"a","function":{"name":"f","arguments":"\u00e9"}}"#, ["a", "function", "f", "é"]),
    ] {
        let plain = answer_to(choice(&format!(r#""message":{{"content":null,"tool_calls":[{call}]}}"#))).await.unwrap();
        assert_eq!(calls(&plain), [expected], "{call}");
        let chunk = format!(r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{call}]}}}}]}}"#);
        assert_eq!(calls(&stream_of_all(&[&chunk, END]).await.unwrap()), [expected], "{call}");
    }
}

#[tokio::test]
async fn one_odd_row_does_not_cost_the_model_list() {
    let list = async |row: &str| {
        let body = format!(r#"[{row},{{"id":"b","context_length":8,"pricing":{{"input":1,"output":2}}}}]"#);
        let models = answered(move || json(body.clone())).models().list().await.expect(row);
        assert_eq!(
            (models.last().unwrap().id.as_str(), models.last().unwrap().context_length),
            ("b", Some(8)),
            "{row}"
        );
        models
    };
    for (length, read) in [
        ("131072.0", Some(131_072)),
        ("\"131072\"", Some(131_072)),
        ("-1", None),
        ("1e12", None),
        ("null", None),
        ("\"long\"", None),
        ("{}", None),
    ] {
        let models = list(&format!(r#"{{"id":"a","context_length":{length},"type":7,"license":{{}}}}"#)).await;
        assert_eq!((models.len(), models[0].context_length, &models[0].kind), (2, read, &None), "{length}");
    }
    for (pricing, input) in [
        (r#"{"input":"0.3","output":"$0.3","hourly":null}"#, Some(0.3)),
        (r#"{"input":"free","output":[]}"#, None),
        (r#"{"input":"inf"}"#, None),
        ("\"cheap\"", None),
        ("[1,2]", None),
        ("null", None),
    ] {
        let models = list(&format!(r#"{{"id":"a","pricing":{pricing}}}"#)).await;
        let read = models[0].pricing;
        assert_eq!((models.len(), read.and_then(|pricing| pricing.input)), (2, input), "{pricing}");
        assert_eq!(models[0].price().is_some(), input.is_some(), "{pricing}");
    }
    for nameless in [r#"{"id":null}"#, r#"{"id":""}"#, r#"{"id":7}"#, "{}", "null", "7", "[]"] {
        assert_eq!(list(nameless).await.len(), 1, "{nameless}");
    }
    for none in ["null", "{}", "7", r#"{"data":7}"#, r#"{"error":"no"}"#] {
        answered(move || json(none)).models().list().await.expect_err(none);
    }
}

#[tokio::test]
async fn a_404_that_names_a_model_is_about_the_model() {
    for (body, kind) in [
        (
            r#"{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError",
               "param":null,"code":404}"#,
            ErrorKind::ModelNotAvailable,
        ),
        (
            r#"{"error":{"message":"The model `x` does not exist.","type":"NotFoundError",
               "param":"model","code":404}}"#,
            ErrorKind::ModelNotAvailable,
        ),
        (r#"{"error":{"message":"The model is not here.","type":"NotFoundError"}}"#, ErrorKind::ModelNotAvailable),
        (r#"{"error":"model 'zai-org/GLM-5.3' not found, pull it first"}"#, ErrorKind::ModelNotAvailable),
        (r#"{"detail":"Not Found"}"#, ErrorKind::NotFound),
        (r#"{"error":{"message":"no such path","type":"NotFoundError","code":404}}"#, ErrorKind::NotFound),
        (r#"{"error":"no model of this name"}"#, ErrorKind::NotFound),
        ("", ErrorKind::NotFound),
    ] {
        let client = answered(move || response(404, "application/json", Body::from(body)));
        let plain = client.chat().create(&hello()).await.unwrap_err();
        let stream = client.chat().stream(&hello()).await.map(drop).unwrap_err();
        assert_eq!((plain.kind(), stream.kind(), plain.status()), (kind, kind, Some(404)), "{body}");
        assert!(!plain.is_retryable() && !plain.may_be_billed());
        let other = client.get::<serde_json::Value>("/v1/files/x").await.unwrap_err();
        assert_eq!(other.kind(), ErrorKind::NotFound, "{body}");
    }
}
