//! A server that answers from memory, on a thread of its own.

use std::{fmt::Write as _, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const CHUNKS: usize = 256;
/// Bytes of text in the streamed answer.
pub const STREAM_TEXT_BYTES: usize = CHUNKS * 5;

pub struct Upstream(SocketAddr);

impl Upstream {
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.0)
    }
}

pub fn start() -> Upstream {
    let (told, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            told.send(listener.local_addr().expect("bound")).expect("asked for");
            let answers: &'static Answers = Box::leak(Box::new(Answers::new()));
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                tokio::spawn(async move { serve(socket, answers).await });
            }
        });
    });
    Upstream(address.recv().expect("started"))
}

struct Answers {
    json: Vec<u8>,
    stream: Vec<u8>,
    huge_line: Vec<u8>,
    embeddings: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let text = "Air scatters short waves more than long ones, so that blue light reaches the eye from everywhere. "
            .repeat(3);
        let message = format!(r#"{{"role":"assistant","content":"{text}","tool_calls":[]}}"#);
        let seed = 15_924_764_223_251_450_000_u64;
        let choice =
            format!(r#"{{"finish_reason":"stop","seed":{seed},"index":0,"logprobs":null,"message":{message}}}"#);
        let usage = r#"{"prompt_tokens":25,"completion_tokens":75,"total_tokens":100,"cached_tokens":0}"#;
        let head = r#""id":"oabc-123","object":"chat.completion","created":1790000000"#;
        let model = r#""model":"deepseek-ai/DeepSeek-V4.1-Flash""#;
        let body = format!(r#"{{{head},{model},"prompt":[],"choices":[{choice}],"usage":{usage}}}"#);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: bench-1\r\n";
        let json = format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes();
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream;charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut stream = String::from(head);
        let mut chunk = |data: &str| {
            write!(stream, "{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8).expect("memory");
        };
        for n in 0..CHUNKS {
            let last = n + 1 == CHUNKS;
            let finish = if last { r#""stop""# } else { "null" };
            let usage = if last {
                r#"{"prompt_tokens":25,"completion_tokens":256,"total_tokens":281,"cached_tokens":0}"#
            } else {
                "null"
            };
            let delta = format!(r#"{{"token_id":{n},"role":"assistant","content":" blue"}}"#);
            let choice = format!(
                r#"{{"index":0,"text":" blue","logprobs":null,"finish_reason":{finish},"seed":null,"delta":{delta}}}"#
            );
            let head = r#""id":"oabc-123","object":"chat.completion.chunk","created":1790000000"#;
            chunk(&format!(r#"{{{head},"choices":[{choice}],{model},"usage":{usage}}}"#));
        }
        chunk("[DONE]");
        stream.push_str("0\r\n\r\n");
        let mut huge_line =
            format!("{}data: ", head.replace("transfer-encoding: chunked\r\n", "connection: close\r\n")).into_bytes();
        huge_line.resize(huge_line.len() + (8 << 20), b'x');
        Self { json, stream: stream.into_bytes(), huge_line, embeddings: embeddings() }
    }
}

/// 64 vectors of 1,024 numbers, as servers of f32 write them.
fn embeddings() -> Vec<u8> {
    let mut state = 7_u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state) / f64::from(u32::MAX) * 0.2 - 0.1
    };
    let mut vector = |index: usize| {
        let numbers: Vec<String> = (0..1_024).map(|_| format!("{:.9}", number())).collect();
        format!(r#"{{"object":"embedding","index":{index},"embedding":[{}]}}"#, numbers.join(","))
    };
    let data: Vec<String> = (0..64).map(&mut vector).collect();
    let body = format!(r#"{{"object":"list","model":"deepseek-ai/DeepSeek-V4.1-Flash","data":[{}]}}"#, data.join(","));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn serve(mut socket: TcpStream, answers: &Answers) {
    let _ = socket.set_nodelay(true);
    let mut buffer = Vec::with_capacity(256 << 10);
    loop {
        let Some(length) = complete_request(&buffer) else {
            match socket.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            }
        };
        let has = |text: &[u8]| buffer[..length].windows(text.len()).any(|window| window == text);
        let huge = length < 8_192 && has(b"huge line");
        let answer = if huge {
            &answers.huge_line
        } else if buffer.starts_with(b"POST /v1/embeddings") {
            &answers.embeddings
        } else if length < 8_192 && has(b"\"stream\":true") {
            &answers.stream
        } else {
            &answers.json
        };
        if socket.write_all(answer).await.is_err() || huge {
            return;
        }
        buffer.drain(..length);
    }
}

/// The length of the first request in the buffer, if it is all there.
fn complete_request(buffer: &[u8]) -> Option<usize> {
    let head = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).ok()?.to_ascii_lowercase();
    let length = text.split("content-length: ").nth(1)?.split("\r\n").next()?.parse::<usize>().ok()?;
    (buffer.len() >= head + length).then_some(head + length)
}
