//! Answers that break off.

use together_inference::client::{ErrorKind, RetryPolicy, Sent};

use crate::{
    fault::{FaultServer, good_sse},
    support::{at, collect, hello, quick_retries, read},
};

#[tokio::test]
async fn a_reset_comes_after_every_delta_that_arrived_and_is_never_repeated() {
    let server = FaultServer::start().await;
    for k in 1..=40 {
        let client = at(&server, &format!("sse-rst/{k}")).retry(quick_retries()).build().unwrap();
        let (texts, error) = read(&client).await;
        let expected: Vec<_> = (0..k).map(|index| format!("w{index} ")).collect();
        assert_eq!(texts, expected);
        let error = error.unwrap_or_else(|| panic!("the reset after {k} events is no end"));
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert!(error.may_be_billed() && error.sent() != Sent::No, "{error:?}");
        assert!(error.message().contains(&format!("after {k} chunks")), "{error}");
        assert_eq!(
            server.requests(&format!("/sse-rst/{k}/")),
            1,
            "a stream is not asked for again after its first delta"
        );
    }
}

#[tokio::test]
async fn a_stream_that_breaks_before_its_first_delta_is_asked_for_again() {
    let server = FaultServer::start().await;
    let client = at(&server, "sse-rst/0").retry(quick_retries()).build().unwrap();
    let (texts, error) = read(&client).await;
    assert_eq!((texts.len(), error.unwrap().kind()), (0, ErrorKind::Interrupted));
    assert_eq!(server.requests("/sse-rst/0/"), 3);
    let mut never = RetryPolicy::default();
    never.after_dispatch = false;
    let client = at(&server, "sse-rst/0").retry(never).build().unwrap();
    assert!(read(&client).await.1.is_some());
    assert_eq!(server.requests("/sse-rst/0/"), 4);
}

#[tokio::test]
async fn a_stream_cut_anywhere_before_its_finish_is_an_error_and_behind_it_an_answer() {
    let server = FaultServer::start().await;
    let stream = good_sse();
    let finished = stream.len() - "data: [DONE]\n\n".len();
    // Reading the platform's certificates for each of a thousand clients would take most of the time.
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for cut in 0..=stream.len() {
        let client = at(&server, &format!("sse-cut/{cut}")).http_client(http.clone()).build().unwrap();
        let outcome = collect(&client).await;
        match outcome {
            Err(error) if cut < finished => assert_eq!(error.kind(), ErrorKind::Interrupted, "cut at {cut}"),
            Ok(answer) if cut >= finished => assert_eq!(answer.text(), "w0 w1 w2 ", "cut at {cut}"),
            other => panic!("cut at {cut} of {finished}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stream_without_its_done_mark_is_whole_after_its_finish() {
    let server = FaultServer::start().await;
    let answer = collect(&at(&server, "sse-no-done").build().unwrap()).await.unwrap();
    assert_eq!((answer.text(), answer.usage.unwrap().total()), ("w0 w1 w2 ", 5));
}

#[tokio::test]
async fn a_body_of_the_wrong_length_is_an_error_and_its_connection_is_not_used_again() {
    for (fault, kind) in [
        ("chunked-no-end", ErrorKind::Interrupted),
        ("long-length", ErrorKind::Interrupted),
        ("short-length", ErrorKind::Malformed),
    ] {
        let server = FaultServer::start().await;
        let error = at(&server, fault).build().unwrap().chat().create(&hello()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{fault}: {error:?}");
        assert!(error.may_be_billed(), "{fault}");
        // One client for both paths, so that both share a pool.
        let mut client = at(&server, "").base_url(format!("http://{}", server.addr()));
        client = client.retry(RetryPolicy::none());
        let client = client.build().unwrap();
        let before = server.connections();
        let outcome = client.get::<serde_json::Value>(&format!("/{fault}/v1/models")).await;
        assert_eq!(outcome.unwrap_err().kind(), kind, "{fault}");
        let answer: serde_json::Value = client.get("/ok/v1/models").await.unwrap();
        assert_eq!(answer["id"], "fault-1");
        assert_eq!(server.connections() - before, 2, "{fault}");
        // The sane answer leaves its connection fit for the next.
        let _: serde_json::Value = client.get("/ok/v1/models").await.unwrap();
        assert_eq!(server.connections() - before, 2, "{fault}");
    }
}
