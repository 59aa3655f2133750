//! What leaves the client, and where to.

use together_inference::{
    TogetherClient,
    client::{ChatRequest, ErrorKind, Sent},
};

use crate::{
    fault::FaultServer,
    support::{MODEL, at, collect, hello, quick_retries, shown},
};

#[tokio::test]
async fn a_redirect_is_an_error_that_names_the_host_alone() {
    let server = FaultServer::start().await;
    for code in [301, 302, 303, 307, 308] {
        for (kind, host) in [
            ("other-host", "localhost"),
            ("other-port", "127.0.0.1"),
            ("other-scheme", "127.0.0.1"),
            ("userinfo", "127.0.0.1"),
        ] {
            let client = at(&server, &format!("redirect/{code}/{kind}")).retry(quick_retries()).build().unwrap();
            for error in [
                client.chat().create(&hello()).await.map(drop).unwrap_err(),
                client.chat().stream(&hello()).await.map(drop).unwrap_err(),
            ] {
                assert_eq!(
                    (error.kind(), error.status(), error.sent()),
                    (ErrorKind::Redirected, Some(code), Sent::Yes)
                );
                assert_eq!(error.message(), format!("the server redirects to {host}"));
                let shown = shown(&error);
                assert!(!shown.contains("secret") && !shown.contains("/ok"), "{shown}");
                assert!(!error.is_retryable() && !error.may_be_billed());
            }
        }
    }
    assert_eq!((server.requests("/ok"), server.requests("/redirect/")), (0, 40));
}

#[tokio::test]
async fn a_request_has_exactly_the_expected_headers() {
    let server = FaultServer::start().await;
    let client = at(&server, "ok").header("X-Own", "value").build().unwrap();
    client.chat().create(&hello()).await.unwrap();
    collect(&client).await.unwrap();
    let seen = server.requests_seen();
    for request in &seen {
        let mut headers = request.headers.clone();
        headers.sort();
        let (length, host) = (request.body.len().to_string(), server.addr().to_string());
        let expected = [
            ("accept", "*/*"),
            ("authorization", "Bearer key"),
            ("content-length", &length),
            ("content-type", "application/json"),
            ("host", &host),
            ("user-agent", concat!("together-inference/", env!("CARGO_PKG_VERSION"))),
            ("x-own", "value"),
        ];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!((&*request.method, &*request.path), ("POST", "/ok/v1/chat/completions"));
    }
    let plain = format!(r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"Hello?"}}]}}"#);
    assert_eq!(String::from_utf8_lossy(&seen[0].body), plain);
    let streamed = plain.replace("]}", r#"],"stream":true,"stream_options":{"include_usage":true}}"#);
    assert_eq!(String::from_utf8_lossy(&seen[1].body), streamed);
}

#[tokio::test]
async fn without_a_key_no_key_is_sent() {
    let server = FaultServer::start().await;
    at(&server, "ok").no_api_key().build().unwrap().chat().create(&hello()).await.unwrap();
    assert_eq!(server.requests_seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn a_model_or_a_prompt_cannot_leave_the_body() {
    let server = FaultServer::start().await;
    let client = at(&server, "ok").build().unwrap();
    let evil = "m\r\nx-evil: 1\r\n\r\nPOST /evil HTTP/1.1\r\n/../..\"},{";
    client.chat().create(&ChatRequest::new(evil).user(evil)).await.unwrap();
    let seen = server.requests_seen();
    assert_eq!((seen.len(), &*seen[0].path, seen[0].header("x-evil")), (1, "/ok/v1/chat/completions", None));
    let body: serde_json::Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!((body["model"].as_str(), body["messages"][0]["content"].as_str()), (Some(evil), Some(evil)));
}

#[test]
fn keys_and_headers_that_would_break_out_are_refused() {
    let builder = TogetherClient::builder;
    for key in ["key\r\nx-evil: 1", "key\n", "key\0", "\u{7f}"] {
        assert_eq!(builder().api_key(key).build().unwrap_err().kind(), ErrorKind::Config, "{key:?}");
    }
    for (name, value) in [
        ("x-own", "a\r\nx-evil: 1"),
        ("x-own", "a\nb"),
        ("x-own\r\nx-evil", "a"),
        ("x own", "a"),
        ("", "a"),
        ("x-own:", "a"),
    ] {
        let error = builder().api_key("key").header(name, value).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{name:?}: {value:?}");
        assert!(!error.to_string().contains("a\r\n"));
    }
}

#[tokio::test]
async fn a_path_cannot_change_the_host_or_add_a_header() {
    let server = FaultServer::start().await;
    let client =
        TogetherClient::builder().api_key("key").base_url(format!("http://{}", server.addr())).build().unwrap();
    let port = server.addr().port();
    for path in [
        format!("@localhost:{port}/ok/v1/models"),
        format!(":secret@localhost:{port}/ok/v1/models"),
        ".evil.example/ok/v1/models".to_owned(),
        "0/ok/v1/models".to_owned(),
        "ok/v1/models".to_owned(),
        String::new(),
        "/ok/v1/models HTTP/1.1\r\nx-evil: 1".to_owned(),
        "/ok/v1/models\r\nx-evil: 1".to_owned(),
    ] {
        let error = client.get::<serde_json::Value>(&path).await.unwrap_err();
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Config, Sent::No), "{path}");
    }
    assert_eq!(server.connections(), 0);
    for path in ["/ok/v1/models?name=a%20b", "/ok/v1/ü", "//evil.example/v1/ok", "/ok/v1/\\evil.example"] {
        let _ = client.get::<serde_json::Value>(path).await;
    }
    let host = server.addr().to_string();
    assert!(server.requests_seen().iter().all(|seen| seen.header("host") == Some(&*host) && seen.path.is_ascii()));
    assert_eq!(server.requests_seen()[0].path, "/ok/v1/models?name=a%20b");
}

#[test]
fn plain_http_is_refused_beyond_this_machine() {
    let build = |url: &str| TogetherClient::builder().api_key("key").base_url(url).build();
    for url in ["http://10.1.2.3/v1", "http://api.together.ai/v1", "http://127.0.0.1.evil.example", "ftp://localhost"] {
        let error = build(url).unwrap_err();
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Config, Sent::No), "{url}");
    }
    for url in ["http://127.0.0.1:1/v1", "http://localhost:1", "http://[::1]:1", "https://10.1.2.3/v1"] {
        assert!(build(url).is_ok(), "{url}");
    }
    let allowed = TogetherClient::builder().api_key("key").base_url("http://10.1.2.3/v1").allow_plain_http().build();
    assert_eq!(allowed.unwrap().host(), "10.1.2.3");
}
