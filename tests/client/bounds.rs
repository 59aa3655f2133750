//! Answers that are larger than the client accepts.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use together_inference::client::{Body, Caps, Error, ErrorKind, Sent};

use crate::{
    fault::{FaultServer, GOOD_JSON},
    support::{answered, at, collect, hello, json, response, within},
};

const SECOND: Duration = Duration::from_secs(1);

fn assert_too_large(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
    assert!(!error.is_retryable() && error.may_be_billed(), "{error:?}");
}

#[tokio::test]
async fn a_line_without_an_end_fails_at_its_bound() {
    let server = FaultServer::start().await;
    for mebibytes in [8, 64] {
        let client = at(&server, &format!("huge-line/{}", mebibytes << 20)).build().unwrap();
        assert_too_large(&within(SECOND, collect(&client)).await.unwrap_err());
        server.wait_closed().await;
    }
}

#[tokio::test]
async fn an_event_of_too_many_lines_fails_and_comments_do_not() {
    let server = FaultServer::start().await;
    let client = at(&server, "empty-data-lines/100000").build().unwrap();
    assert_too_large(&within(SECOND, collect(&client)).await.unwrap_err());
    let client = at(&server, "empty-data-lines/1").build().unwrap();
    assert_eq!(collect(&client).await.unwrap().text(), "w0 w1 w2 ");
    let client = at(&server, "comments/1000000").build().unwrap();
    assert_eq!(within(10 * SECOND, collect(&client)).await.unwrap().text(), "w0 w1 w2 ");
}

#[tokio::test]
async fn an_endless_stream_fails_at_its_bound() {
    let server = FaultServer::start().await;
    let mut caps = Caps::default();
    caps.stream_bytes = 1 << 20;
    let client = at(&server, "endless-sse").caps(caps).build().unwrap();
    let mut stream = client.chat().stream(&hello()).await.unwrap();
    let error = loop {
        if let Err(error) = stream.next().await.unwrap() {
            break error;
        }
    };
    assert_too_large(&error);
    // Every event is longer than 200 bytes: what came before the bound was delivered.
    assert!((1_000..6_000).contains(&stream.received()), "{}", stream.received());
    server.wait_closed().await;
}

#[tokio::test]
async fn each_bound_of_a_stream_can_be_set() {
    let server = FaultServer::start().await;
    let bounds: [fn(&mut Caps); 4] = [
        |caps| caps.sse_line_bytes = 100,
        |caps| caps.sse_event_bytes = 100,
        |caps| caps.sse_event_lines = 0,
        |caps| caps.stream_bytes = 100,
    ];
    for (number, set) in bounds.into_iter().enumerate() {
        let mut caps = Caps::default();
        set(&mut caps);
        let error = collect(&at(&server, "ok").caps(caps).build().unwrap()).await.expect_err(&number.to_string());
        assert_too_large(&error);
    }
}

#[tokio::test]
async fn a_compressed_bomb_is_never_inflated() {
    let server = FaultServer::start().await;
    let error = at(&server, "gzip-bomb").build().unwrap().chat().create(&hello()).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Malformed, Some(200)));
    assert!(error.body().starts_with(b"\x1f\x8b"));
    let mut caps = Caps::default();
    caps.json_bytes = 100_000;
    let client = at(&server, "gzip-bomb").caps(caps).build().unwrap();
    assert_too_large(&client.chat().create(&hello()).await.unwrap_err());
    assert!(server.requests_seen().iter().all(|seen| seen.header("accept-encoding").is_none()));
}

#[tokio::test]
async fn a_json_body_fails_above_its_bound_and_not_below() {
    let server = FaultServer::start().await;
    let client = at(&server, &format!("big-json/{}", 17 << 20)).build().unwrap();
    let error = within(10 * SECOND, client.chat().create(&hello())).await.unwrap_err();
    assert_too_large(&error);
    assert_eq!((error.status(), error.request_id(), error.sent()), (Some(200), Some("fault-1"), Sent::Yes));
    let client = at(&server, &format!("big-json/{}", 1 << 20)).build().unwrap();
    assert_eq!(client.chat().create(&hello()).await.unwrap().text().len(), 1 << 20);
    // To the byte.
    for (bound, whole) in [(GOOD_JSON.len(), true), (GOOD_JSON.len() - 1, false)] {
        let mut caps = Caps::default();
        caps.json_bytes = bound;
        let client = at(&server, "ok").caps(caps).build().unwrap();
        assert_eq!(client.chat().create(&hello()).await.is_ok(), whole);
    }
}

#[tokio::test]
async fn an_error_keeps_no_more_than_64_kib_of_a_body() {
    const KEPT: usize = 64 << 10;
    let page = || {
        let parts = std::iter::once("<html><title>busy</title>").chain(std::iter::repeat_n("blah blah ", 200_000));
        Body::stream(stream::iter(parts.map(|part| Ok(Bytes::from(part)))))
    };
    let error = answered(move || response(520, "text/html", page())).chat().create(&hello()).await.unwrap_err();
    assert_eq!((error.message(), error.body().len()), ("busy", KEPT));
    for body in ["x".repeat(1 << 20), format!("{{\"error\":{{\"message\":\"{}\"}}}}", "x".repeat(1 << 20))] {
        let client = answered(move || json(body.clone()));
        let error = client.chat().create(&hello()).await.unwrap_err();
        assert_eq!(error.body().len(), KEPT, "{error:?}");
        assert!(error.to_string().len() < 1_000);
        let error = client.chat().stream(&hello()).await.map(drop).unwrap_err();
        assert_eq!(error.body().len(), KEPT, "{error:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_an_error() {
    let server = FaultServer::start().await;
    for fault in ["many-headers/10000", "big-header/1048576"] {
        let client = at(&server, fault).build().unwrap();
        let error = within(2 * SECOND, client.chat().create(&hello())).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Malformed, None), "{fault}: {error:?}");
        assert!(error.to_string().len() < 1_000);
        server.wait_closed().await;
    }
    for fault in ["many-headers/50", "big-header/4096"] {
        assert_eq!(at(&server, fault).build().unwrap().chat().create(&hello()).await.unwrap().text(), "Hello");
    }
}

#[tokio::test]
async fn what_is_not_http_is_an_error() {
    let server = FaultServer::start().await;
    let error = at(&server, "garbage").build().unwrap().chat().create(&hello()).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Malformed, Sent::Maybe), "{error:?}");
}
