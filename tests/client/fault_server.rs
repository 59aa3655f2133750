//! The fault server does what its table says.

use std::io::ErrorKind;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::fault::{FaultServer, GOOD_JSON, black_hole, event, good_sse};

async fn connect(server: &FaultServer) -> TcpStream {
    TcpStream::connect(server.addr()).await.unwrap()
}

async fn send(stream: &mut TcpStream, fault: &str, body: &str) {
    let request = format!("POST /{fault}/v1/chat HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(char::from(stream.read_u8().await.unwrap()));
    }
    text
}

/// Everything up to the server's close.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).await.err().map(|error| error.kind());
    (bytes, error)
}

#[tokio::test]
async fn a_good_answer_is_json_or_a_stream_and_keeps_the_connection() {
    let server = FaultServer::start().await;
    let mut stream = connect(&server).await;
    send(&mut stream, "ok", "{}").await;
    assert!(read_until(&mut stream, GOOD_JSON).await.starts_with("HTTP/1.1 200 "));
    send(&mut stream, "ok", r#"{"stream": true}"#).await;
    let text = read_until(&mut stream, "\r\n0\r\n\r\n").await;
    assert!(good_sse().split_inclusive("\n\n").all(|event| text.contains(event)), "{text}");
    assert_eq!((server.connections(), server.open(), server.requests("/ok/"), server.requests("/hang")), (1, 1, 2, 0));
    let seen = &server.requests_seen()[1];
    assert_eq!((&*seen.method, &*seen.path, &*seen.body), ("POST", "/ok/v1/chat", &br#"{"stream": true}"#[..]));
    assert_eq!(seen.header("content-length"), Some("16"));
    drop(stream);
    server.wait_closed().await;
    assert_eq!(server.open(), 0);
}

#[tokio::test]
async fn a_pipelined_request_does_not_cut_the_answer_before_it() {
    let server = FaultServer::start().await;
    let mut stream = connect(&server).await;
    send(&mut stream, "slow-body/1", "{}").await;
    send(&mut stream, "status/418", "{}").await;
    assert!(read_until(&mut stream, "null}}").await.contains(&format!("{GOOD_JSON}HTTP/1.1 418 ")));
}

#[tokio::test]
async fn a_chunked_request_is_read() {
    let server = FaultServer::start().await;
    let mut stream = connect(&server).await;
    let request = "POST /ok/v1/files HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, GOOD_JSON).await;
    assert_eq!(server.requests_seen()[0].body, b"abcde");
}

#[tokio::test]
async fn streams_break_as_asked() {
    let server = FaultServer::start().await;
    for (fault, end, error) in [
        ("sse-rst/2", format!("{}\r\n", event(1)), Some(ErrorKind::ConnectionReset)),
        ("sse-cut/30", format!("\r\n\r\n{}", &good_sse()[..30]), None),
        ("chunked-no-end", format!("{GOOD_JSON}\r\n"), None),
        ("long-length", GOOD_JSON[..GOOD_JSON.len() - 10].to_owned(), None),
        ("keepalive-close/1", GOOD_JSON.to_owned(), None),
        ("keepalive-close/0", String::new(), None),
    ] {
        let mut stream = connect(&server).await;
        send(&mut stream, fault, "{}").await;
        let (bytes, actual) = rest(&mut stream).await;
        assert!(bytes.ends_with(end.as_bytes()), "{fault}: {}", String::from_utf8_lossy(&bytes));
        assert_eq!(actual, error, "{fault}");
        assert_eq!(bytes.is_empty(), fault == "keepalive-close/0", "{fault}");
    }
    let mut stream = connect(&server).await;
    send(&mut stream, "garbage", "{}").await;
    let (noise, _) = rest(&mut stream).await;
    assert!(noise.len() == 4095 && !noise.starts_with(b"HTTP"));
    server.wait_closed().await;
}

#[tokio::test]
async fn answers_are_bad_as_asked() {
    let server = FaultServer::start().await;
    let mut stream = connect(&server).await;
    let done = "\r\n0\r\n\r\n";
    for (fault, part, end) in [
        ("status/418", "HTTP/1.1 418 ", "\"code\":null}}"),
        ("html/524", "content-type: text/html\r\n", "</html>\n"),
        ("empty/503", "HTTP/1.1 503 ", "content-length: 0\r\n\r\n"),
        ("hint/Retry-After/1%2E5", "Retry-After: 1.5\r\n", "\r\n\r\n"),
        ("hint/Retry-After/1%2E5", "HTTP/1.1 200 ", GOOD_JSON),
        ("redirect/307/other-host", "location: http://localhost:", "/ok/v1/chat\r\ncontent-length: 0\r\n\r\n"),
        ("redirect/308/userinfo", "location: http://user:secret@127.0.0.1:", "\r\n\r\n"),
        ("many-headers/3", "x-2: v\r\n", GOOD_JSON),
        ("big-header/5", "x-big: vvvvv\r\n", GOOD_JSON),
        (
            "huge-line/20000",
            &format!("data: \r\n4000\r\n{}\r\ne20\r\n{}\r\n", "a".repeat(0x4000), "a".repeat(0xe20)),
            done,
        ),
        ("empty-data-lines/3", "\r\ndata:\ndata:\ndata:\n\r\n", done),
        ("comments/2", "\r\n: keep-alive\n: keep-alive\n\r\n", done),
        ("sse-no-done", "\"finish_reason\":\"stop\"", done),
        ("sse-drip-bytes/1", "\r\n1\r\nd\r\n1\r\na\r\n1\r\nt\r\n", done),
        ("slow-body/1", "content-length: ", GOOD_JSON),
        ("depth/4", "[[[[]]]]", "}"),
        ("array/2", "[0,0,0]", "}"),
        ("big-json/6", "\"aaaaaa\"", "}}"),
        ("bad-utf8", "\"content\":\"\u{ff}\u{fe}llo\"", "}}"),
        ("nonsense", "HTTP/1.1 501 ", "no fault"),
        ("short-length", &format!("content-length: {}\r\n", GOOD_JSON.len() - 10), GOOD_JSON),
    ] {
        send(&mut stream, fault, "{}").await;
        let text = read_until(&mut stream, end).await;
        assert!(text.contains(part), "{fault}: {text}");
        assert_eq!(text.contains("[DONE]"), matches!(fault.split('/').next(), Some("empty-data-lines" | "comments")));
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_endless_answer_ends_with_the_client() {
    let server = FaultServer::start().await;
    for fault in ["endless-sse", "sse-drip-comments/1"] {
        let mut stream = connect(&server).await;
        send(&mut stream, fault, "{}").await;
        read_until(&mut stream, "\n\n").await;
    }
    let mut stream = connect(&server).await;
    send(&mut stream, "hang", "{}").await;
    server.wait_until(|counts| counts.requests == 3).await;
    drop(stream);
    server.wait_closed().await;
}

#[tokio::test]
async fn the_bomb_is_gzip_and_small() {
    let server = FaultServer::start().await;
    let mut stream = connect(&server).await;
    send(&mut stream, "gzip-bomb", "{}").await;
    let head = read_until(&mut stream, "\r\n\r\n").await;
    let length: usize = head.rsplit_once(": ").unwrap().1.trim().parse().unwrap();
    let mut bomb = vec![0; length];
    stream.read_exact(&mut bomb).await.unwrap();
    // As zlib reads it: 41,942,803 blanks.
    assert!(
        bomb.starts_with(b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x53\x18") && length == 264_195,
        "{length}: {:x?}",
        &bomb[..16]
    );
}

#[tokio::test]
async fn a_black_hole_never_answers_a_connect() {
    let (addr, hole) = black_hole().await;
    let connect = tokio::time::timeout(std::time::Duration::from_millis(300), TcpStream::connect(addr));
    assert!(connect.await.is_err());
    drop(hole);
    assert!(TcpStream::connect(addr).await.is_err());
}
