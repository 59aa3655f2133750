//! Connections that fail, servers that are silent, readers that are slow or leave.

use std::time::Duration;

use together_inference::{
    TogetherClient,
    client::{Caps, ErrorKind, RetryPolicy, Sent},
};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    fault::{FaultServer, black_hole},
    support::{at, collect, hello, hundredth, quick_retries, read, within},
};

#[tokio::test]
async fn a_refused_connect_was_never_sent_and_fails_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = TogetherClient::builder().api_key("key").base_url(url).retry(quick_retries()).build().unwrap();
    let error = within(Duration::from_secs(1), client.chat().create(&hello())).await.unwrap_err();
    assert_eq!((error.kind(), error.sent(), error.status()), (ErrorKind::Connect, Sent::No, None));
    assert!(error.is_retryable() && !error.may_be_billed());
}

#[tokio::test]
async fn a_connect_that_nobody_answers_fails_at_its_time_out() {
    let (addr, _hole) = black_hole().await;
    let mut timeouts = hundredth();
    timeouts.connect = Duration::from_millis(50);
    let builder = TogetherClient::builder().api_key("key").base_url(format!("http://{addr}")).timeouts(timeouts);
    let client = builder.retry(quick_retries()).build().unwrap();
    let attempts = timeouts.connect * 3 + Duration::from_millis(5 + 10);
    for stream in [false, true] {
        let call = async {
            match stream {
                true => client.chat().stream(&hello()).await.map(drop),
                false => client.chat().create(&hello()).await.map(drop),
            }
        };
        let error = within(attempts, call).await.unwrap_err();
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Connect, Sent::No), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_left_at_the_first_byte_time_out() {
    let server = FaultServer::start().await;
    let client = at(&server, "hang").timeouts(hundredth()).build().unwrap();
    let plain = within(hundredth().first_byte, client.chat().create(&hello())).await.unwrap_err();
    let stream = within(hundredth().stream_first_byte, client.chat().stream(&hello())).await.map(drop).unwrap_err();
    for error in [plain, stream] {
        assert_eq!((error.kind(), error.sent(), error.status()), (ErrorKind::Timeout, Sent::Maybe, None));
        assert!(error.may_be_billed() && error.is_retryable());
    }
    server.wait_closed().await;
}

#[tokio::test]
async fn bytes_that_drip_and_comments_alone_are_no_progress() {
    let server = FaultServer::start().await;
    for fault in ["sse-drip-bytes/10", "sse-drip-comments/10"] {
        let client = at(&server, fault).timeouts(hundredth()).build().unwrap();
        let error = within(hundredth().idle, collect(&client)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{fault}: {error:?}");
        server.wait_closed().await;
    }
    let client = at(&server, "slow-body/10").timeouts(hundredth()).build().unwrap();
    let error = within(hundredth().idle, client.chat().create(&hello())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    server.wait_closed().await;
}

#[tokio::test]
async fn closes_between_requests_never_show() {
    let server = FaultServer::start().await;
    let client = at(&server, "keepalive-close/7").retry(quick_retries()).build().unwrap();
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let client = client.clone();
        callers.spawn(async move {
            for call in 0..63 {
                match (caller + call) % 2 {
                    0 => assert_eq!(client.chat().create(&hello()).await.unwrap().text(), "Hello"),
                    _ => assert_eq!(collect(&client).await.unwrap().text(), "w0 w1 w2 "),
                }
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert!(server.requests("/") >= 504 && server.connections() >= 504 / 7, "{}", server.connections());
}

#[tokio::test]
async fn a_page_instead_of_an_error_keeps_status_and_body() {
    let server = FaultServer::start().await;
    for (status, kind, billed) in [
        (500, ErrorKind::Server, false),
        (502, ErrorKind::Server, true),
        (503, ErrorKind::Overloaded, false),
        (520, ErrorKind::Server, true),
        (524, ErrorKind::Server, true),
        (404, ErrorKind::NotFound, false),
    ] {
        let client = at(&server, &format!("html/{status}")).build().unwrap();
        for error in [
            client.chat().create(&hello()).await.unwrap_err(),
            client.chat().stream(&hello()).await.map(drop).unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.status(), error.sent()), (kind, Some(status), Sent::Yes));
            assert_eq!((error.request_id(), error.may_be_billed()), (Some("fault-1"), billed), "{status}");
            assert!(error.message().contains("as asked"), "{error}");
            assert!(error.body().starts_with(b"<html>") && error.body().ends_with(b"</html>\n"));
        }
    }
    // Each client's connection served both calls: an error read to its end does not cost it.
    assert_eq!((server.connections(), server.requests("/")), (6, 12));
}

#[tokio::test]
async fn a_slow_reader_slows_the_server_down_and_loses_nothing() {
    let server = FaultServer::start().await;
    let mut caps = Caps::default();
    caps.stream_bytes = usize::MAX;
    let client = at(&server, "endless-sse").caps(caps).build().unwrap();
    let mut stream = client.chat().stream(&hello()).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().text(), "w0 ");
    // An endless server that can write no more: nobody collects behind the reader's back.
    server.wait_until(|counts| counts.stalled > 0).await;
    for index in 1..2_000 {
        assert_eq!(stream.next().await.unwrap().unwrap().text(), format!("w{index} "));
    }
    drop(stream);
    server.wait_closed().await;
}

#[tokio::test]
async fn a_dropped_stream_closes_its_connection() {
    let server = FaultServer::start().await;
    let client = at(&server, "endless-sse").build().unwrap();
    for round in 1..=200 {
        let mut stream = client.chat().stream(&hello()).await.unwrap();
        if round % 2 == 0 {
            stream.next().await.unwrap().unwrap();
        }
        drop(stream);
        if round % 50 == 0 {
            server.wait_closed().await;
        }
    }
    server.wait_closed().await;
    assert_eq!((server.open(), server.requests("/endless-sse/")), (0, 200));
}

#[tokio::test]
async fn a_dropped_call_closes_its_connection() {
    let server = FaultServer::start().await;
    let client = at(&server, "hang").build().unwrap();
    let mut calls = JoinSet::new();
    for stream in [false, true] {
        let client = client.clone();
        calls.spawn(async move {
            match stream {
                true => client.chat().stream(&hello()).await.map(drop),
                false => client.chat().create(&hello()).await.map(drop),
            }
        });
    }
    server.wait_until(|counts| counts.requests == 2).await;
    calls.shutdown().await;
    server.wait_closed().await;
}

#[tokio::test]
async fn a_whole_stream_leaves_its_connection_to_the_next() {
    let server = FaultServer::start().await;
    let client = at(&server, "ok").retry(RetryPolicy::none()).build().unwrap();
    for _ in 0..20 {
        assert_eq!(read(&client).await.0.concat(), "w0 w1 w2 ");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn after_an_error_of_the_servers_the_next_request_opens_a_new_connection() {
    // Scenario: two answers over one connection; a 503; another answer.
    // Expected: the answers share a connection, and what follows the error has one of its own.
    let server = FaultServer::start().await;
    let ok = at(&server, "ok").build().unwrap();
    for _ in 0..2 {
        ok.chat().create(&hello()).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
    let flaky = at(&server, "").base_url(format!("http://{}", server.addr())).build().unwrap();
    let get = async |status: u16| {
        let answered = flaky.get::<serde_json::Value>(&format!("/status/{status}/v1/x")).await;
        assert_eq!(answered.unwrap_err().status(), Some(status));
    };
    get(404).await;
    get(500).await;
    for _ in 0..2 {
        later().await;
        get(404).await;
        assert_eq!(server.connections(), 2, "neither our own mistakes close anything nor a model that fails");
    }
    get(503).await;
    get(404).await;
    assert_eq!(server.connections(), 3);
}

/// Moves the clock by what a client is kept at least. The sockets do not notice.
async fn later() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(1_050)).await;
    tokio::time::resume();
}
