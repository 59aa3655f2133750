//! A server that misbehaves on purpose, over raw TCP.
//!
//! The request's path says how: `base_url("sse-rst/3")` is `http://127.0.0.1:PORT/sse-rst/3/v1`, and whatever a client
//! asks below it gets that answer. "Chat" is [`good_json`], or [`good_sse`] when the request's body has
//! `"stream":true`. Streams are chunked unless noted, connections are kept alive unless noted.
//!
//! | path | answer |
//! |---|---|
//! | `ok` | chat |
//! | `hang` | none, ever |
//! | `slow-body/<ms>` | chat JSON, a byte per `ms` |
//! | `sse-drip-comments/<ms>` | a comment per `ms`, for ever |
//! | `sse-drip-bytes/<ms>` | chat SSE, a byte per `ms` |
//! | `sse-rst/<k>` | `k` events, then RST |
//! | `sse-cut/<k>` | the first `k` bytes of chat SSE, delimited by the close |
//! | `sse-no-done` | chat SSE, ended in order but without `[DONE]` |
//! | `chunked-no-end` | chat JSON as a chunk, then a close without the last chunk |
//! | `short-length` | chat JSON that is 10 bytes longer than its content length |
//! | `long-length` | chat JSON that is 10 bytes shorter than its content length, then a close |
//! | `status/<code>` | an error as JSON |
//! | `html/<code>` | an error as a page |
//! | `empty/<code>` | a status without body |
//! | `garbage` | bytes that are not HTTP, then a close |
//! | `bad-utf8` | chat with two bytes in the content that are not UTF-8 |
//! | `huge-line/<bytes>` | SSE whose first line has that many bytes and no end |
//! | `endless-sse` | good events, for ever |
//! | `empty-data-lines/<n>` | SSE: an event of `n` empty data lines, then chat |
//! | `comments/<n>` | SSE: `n` comments, then chat |
//! | `gzip-bomb` | 258 KiB of gzip that are 40 MiB of blanks |
//! | `depth/<n>` | JSON whose choices are an array `n` deep |
//! | `array/<n>` | JSON whose choices are `n` zeros |
//! | `redirect/<code>/<kind>` | to `ok` on an `other-host`, `other-port`, `other-scheme` or with `userinfo` |
//! | `many-headers/<n>` | chat with `n` more headers |
//! | `big-header/<bytes>` | chat with a header that long |
//! | `keepalive-close/<n>` | chat; unannounced close right after the connection's `n`th response |
//! | `hint/<header>/<value>` | 429 with that header to the first request of the path, then chat; percent-decoded |
//! | `big-json/<bytes>` | chat JSON with a content that long |
//!
//! Whoever follows a redirect is seen here too, except to the other scheme. `keepalive-close/0` closes instead of
//! answering. While a fault is under way, an end of the client's sending side ends the connection.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "clippy takes only functions with #[test] for tests"
)]

use std::{
    future::pending,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::{interval, timeout},
};

/// The good answer without streaming; its content is "Hello".
pub const GOOD_JSON: &str = concat!(
    r#"{"id":"fault-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":"#,
    r#"{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"#,
    r#""usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}"#
);

const LAST_EVENT: &str = "data: {\"id\":\"fault-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\
    \"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"stop\"}],\
    \"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3,\"total_tokens\":5}}\n\n";

const SSE: &str = "content-type: text/event-stream;charset=utf-8\r\n";
/// The faults of an event stream.
const STREAMS: [&str; 9] = [
    "sse-drip-comments",
    "sse-drip-bytes",
    "sse-rst",
    "sse-cut",
    "sse-no-done",
    "huge-line",
    "endless-sse",
    "empty-data-lines",
    "comments",
];

/// How long a write has to hang to count as stalled.
const STALL: Duration = Duration::from_millis(100);

const JSON: &str = "content-type: application/json\r\n";

/// The event of the `index`th delta; its content is "w0 ", "w1 " and so on.
pub fn event(index: usize) -> String {
    format!(
        "data: {{\"id\":\"fault-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\
         \"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"w{index} \"}},\"finish_reason\":null}}],\
         \"usage\":null}}\n\n"
    )
}

/// The good stream: three deltas, the finish reason with the usage, `[DONE]`.
pub fn good_sse() -> String {
    sse_without_done() + "data: [DONE]\n\n"
}

fn sse_without_done() -> String {
    (0..3).map(event).collect::<String>() + LAST_EVENT
}

/// A request as it arrived. Header names are in lower case.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    /// The first header of that name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn wants_stream(&self) -> bool {
        let body: String = String::from_utf8_lossy(&self.body).split_whitespace().collect();
        body.contains("\"stream\":true")
    }
}

/// What happened to the server so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub connections: usize,
    pub open: usize,
    pub requests: usize,
    /// Parts of streams that could not be written for a while, since the client does not read.
    pub stalled: usize,
}

struct Shared {
    counts: watch::Sender<Counts>,
    seen: Mutex<Vec<Seen>>,
    addresses: [SocketAddr; 2],
}

/// The server; dropping it closes its listeners and every connection.
pub struct FaultServer {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl FaultServer {
    /// Listens on a free port of the loopback (and on a second one, for redirects).
    pub async fn start() -> Self {
        let listeners =
            [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let shared = Arc::new(Shared { counts: watch::Sender::default(), seen: Mutex::default(), addresses });
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(accept(listener, Arc::clone(&shared)));
        }
        Self { shared, _tasks: tasks }
    }

    pub fn addr(&self) -> SocketAddr {
        self.shared.addresses[0]
    }

    /// The base URL under which every request meets this fault.
    pub fn base_url(&self, fault: &str) -> String {
        format!("http://{}/{fault}/v1", self.addr())
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.counts.borrow().connections
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.counts.borrow().open
    }

    /// How many requests had a path that begins with this ("/hang", "/" for all).
    pub fn requests(&self, path_prefix: &str) -> usize {
        self.shared.seen.lock().unwrap().iter().filter(|seen| seen.path.starts_with(path_prefix)).count()
    }

    /// Every request, in the order of arrival, complete with its body.
    pub fn requests_seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits until no connection is open; returns at once when none has been accepted yet.
    pub async fn wait_closed(&self) {
        self.wait_until(|counts| counts.open == 0).await;
    }

    /// Waits until the counts are as wanted; panics after ten seconds.
    pub async fn wait_until(&self, mut wanted: impl FnMut(&Counts) -> bool) {
        let mut counts = self.shared.counts.subscribe();
        let reached = timeout(Duration::from_secs(10), counts.wait_for(|counts| wanted(counts))).await.map(drop);
        assert!(reached.is_ok(), "the fault server is stuck at {:?}", self.shared.counts.borrow());
    }
}

/// An address to which a connect neither succeeds nor fails, as long as the guard lives.
pub async fn black_hole() -> (SocketAddr, BlackHole) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut fill = Vec::new();
    // Nobody accepts: once the backlog is full, the kernel drops each SYN.
    while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(addr)).await {
        fill.push(stream.unwrap());
        assert!(fill.len() < 100, "the backlog does not fill");
    }
    (addr, BlackHole { _listener: listener, _fill: fill })
}

/// Keeps the backlog of a [`black_hole`] full.
pub struct BlackHole {
    _listener: TcpListener,
    _fill: Vec<TcpStream>,
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                shared.counts.send_modify(|counts| {
                    counts.connections += 1;
                    counts.open += 1;
                });
                connections.spawn(serve(Open(Arc::clone(&shared)), stream));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts the connection as open; to be dropped after it.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

enum Next {
    KeepAlive,
    Close,
    Reset,
}

async fn serve(open: Open, mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let (read, write) = stream.split();
    let mut out = Out { write, shared: Arc::clone(&open.0) };
    let (mut read, mut served) = (BufReader::new(read), 0);
    let next = loop {
        let Ok(request) = read_request(&mut read).await else { break Next::Close };
        open.0.seen.lock().unwrap().push(request.clone());
        open.0.counts.send_modify(|counts| counts.requests += 1);
        served += 1;
        let next = tokio::select! {
            next = out.answer(&open.0, &request, served) => next.unwrap_or(Next::Close),
            () = gone(&mut read) => Next::Close,
        };
        if !matches!(next, Next::KeepAlive) {
            break next;
        }
    };
    if matches!(next, Next::Reset) {
        stream.set_zero_linger().unwrap();
    }
}

/// Resolves when the client has closed.
async fn gone(read: &mut BufReader<ReadHalf<'_>>) {
    if read.fill_buf().await.is_ok_and(|bytes| !bytes.is_empty()) {
        pending::<()>().await;
    }
}

async fn read_request(read: &mut BufReader<ReadHalf<'_>>) -> io::Result<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if read.read_until(b'\n', &mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.lines();
    let mut start = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, path) = (start.next().unwrap_or_default(), start.next().unwrap_or_default());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let mut seen = Seen { method, path, headers, body: Vec::new() };
    if seen.header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            read.read_line(&mut size).await?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; size + 2];
            read.read_exact(&mut chunk).await?;
            if size == 0 {
                return Ok(seen);
            }
            seen.body.extend_from_slice(&chunk[..size]);
        }
    }
    seen.body = vec![0; seen.header("content-length").map_or(0, number)];
    read.read_exact(&mut seen.body).await?;
    Ok(seen)
}

struct Out<'a> {
    write: WriteHalf<'a>,
    shared: Arc<Shared>,
}

impl Out<'_> {
    async fn answer(&mut self, shared: &Shared, request: &Seen, served: usize) -> io::Result<Next> {
        let (fault, rest) = request.path.split_once("/v1").unwrap_or((&request.path, ""));
        let args: Vec<&str> = fault.split('/').skip(1).collect();
        match *args {
            ["ok"] => self.chat(request, "").await,
            ["hang"] => pending().await,
            ["status", code] => {
                let error =
                    r#"{"id":"fault-1","error":{"message":"as asked","type":"fault","param":null,"code":null}}"#;
                self.full(number(code), JSON, error.as_bytes()).await
            }
            ["html", code] => {
                let page = format!("<html>\n<head><title>{code}: as asked</title></head><body>fault</body></html>\n");
                self.full(number(code), "content-type: text/html\r\n", page.as_bytes()).await
            }
            ["empty", code] => self.full(number(code), "", b"").await,
            ["redirect", code, kind] => {
                let [here, other] = shared.addresses;
                let target = match kind {
                    "other-host" => format!("http://localhost:{}", here.port()),
                    "other-port" => format!("http://{other}"),
                    "other-scheme" => format!("https://{here}"),
                    _ => format!("http://user:secret@{here}"),
                };
                self.full(number(code), &format!("location: {target}/ok/v1{rest}\r\n"), b"").await
            }
            ["many-headers", n] => {
                let headers: Vec<String> = (0..number(n)).map(|index| format!("x-{index}: v\r\n")).collect();
                self.chat(request, &headers.concat()).await
            }
            ["big-header", n] => self.chat(request, &format!("x-big: {}\r\n", "v".repeat(number(n)))).await,
            ["keepalive-close", "0"] => Ok(Next::Close),
            ["keepalive-close", n] => {
                let next = self.chat(request, "").await?;
                Ok(if served < number(n) { next } else { Next::Close })
            }
            ["hint", header, value] => {
                let times = shared.seen.lock().unwrap().iter().filter(|seen| seen.path == request.path).count();
                if times > 1 {
                    return self.chat(request, "").await;
                }
                self.full(429, &format!("{header}: {}\r\n", percent_decoded(value)), b"").await
            }
            [name, ..] if STREAMS.contains(&name) => self.stream(&args).await,
            _ => self.body(&args, request).await,
        }
    }

    /// Faults of an event stream.
    async fn stream(&mut self, args: &[&str]) -> io::Result<Next> {
        if let ["sse-cut", k] = *args {
            self.head(200, SSE).await?;
            self.write.write_all(&good_sse().as_bytes()[..number(k).min(good_sse().len())]).await?;
            return Ok(Next::Close);
        }
        self.head(200, &format!("{SSE}transfer-encoding: chunked\r\n")).await?;
        match *args {
            ["sse-drip-comments", ms] => {
                let mut ticks = ticks(ms);
                loop {
                    ticks.tick().await;
                    self.chunk(b": keep-alive\n\n").await?;
                }
            }
            ["sse-drip-bytes", ms] => {
                let mut ticks = ticks(ms);
                for byte in good_sse().bytes() {
                    ticks.tick().await;
                    self.chunk(&[byte]).await?;
                }
            }
            ["sse-rst", k] => {
                // In one piece: a reset throws away what is still on its way.
                let events = (0..number(k)).map(event);
                let chunks: String = events.map(|event| format!("{:x}\r\n{event}\r\n", event.len())).collect();
                self.write.write_all(chunks.as_bytes()).await?;
                return Ok(Next::Reset);
            }
            ["sse-no-done"] => self.chunk(sse_without_done().as_bytes()).await?,
            ["endless-sse"] => {
                for index in 0.. {
                    self.chunk(event(index).as_bytes()).await?;
                }
            }
            ["huge-line", bytes] => {
                self.chunk(b"data: ").await?;
                self.repeat("a", number(bytes)).await?;
            }
            ["empty-data-lines", n] => {
                self.repeat("data:\n", number(n)).await?;
                self.chunk(format!("\n{}", good_sse()).as_bytes()).await?;
            }
            ["comments", n] => {
                self.repeat(": keep-alive\n", number(n)).await?;
                self.chunk(good_sse().as_bytes()).await?;
            }
            _ => return Ok(Next::Close),
        }
        self.chunk(b"").await?;
        Ok(Next::KeepAlive)
    }

    /// Faults of a body that is no stream.
    async fn body(&mut self, args: &[&str], request: &Seen) -> io::Result<Next> {
        let good = GOOD_JSON.as_bytes();
        let headers = |length: usize| format!("{JSON}content-length: {length}\r\n");
        match *args {
            ["slow-body", ms] => {
                self.head(200, &headers(good.len())).await?;
                let mut ticks = ticks(ms);
                for byte in good {
                    ticks.tick().await;
                    self.write.write_all(&[*byte]).await?;
                }
                Ok(Next::KeepAlive)
            }
            ["chunked-no-end"] => {
                self.head(200, &format!("{JSON}transfer-encoding: chunked\r\n")).await?;
                self.chunk(good).await?;
                Ok(Next::Close)
            }
            ["short-length"] => {
                self.head(200, &headers(good.len() - 10)).await?;
                self.write.write_all(good).await?;
                Ok(Next::KeepAlive)
            }
            ["long-length"] => {
                self.head(200, &headers(good.len())).await?;
                self.write.write_all(&good[..good.len() - 10]).await?;
                Ok(Next::Close)
            }
            ["garbage"] => {
                let noise: Vec<u8> = (1_u32..4096).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
                self.write.write_all(&noise).await?;
                Ok(Next::Close)
            }
            ["bad-utf8"] if request.wants_stream() => self.full(200, SSE, &spoiled(good_sse().as_bytes(), b"w0")).await,
            ["bad-utf8"] => self.full(200, JSON, &spoiled(good, b"Hello")).await,
            ["gzip-bomb"] => self.full(200, &format!("{JSON}content-encoding: gzip\r\n"), &gzip_bomb(40 << 20)).await,
            ["depth", n] => {
                let (open, close) = ("[".repeat(number(n)), "]".repeat(number(n)));
                self.json(format!("{{\"id\":\"fault-1\",\"choices\":{open}{close}}}")).await
            }
            ["array", n] => {
                let zeros = "0,".repeat(number(n));
                self.json(format!("{{\"id\":\"fault-1\",\"choices\":[{zeros}0]}}")).await
            }
            ["big-json", bytes] => self.json(GOOD_JSON.replace("Hello", &"a".repeat(number(bytes)))).await,
            _ => self.full(501, "", b"the path names no fault").await,
        }
    }

    async fn chat(&mut self, request: &Seen, headers: &str) -> io::Result<Next> {
        if !request.wants_stream() {
            return self.full(200, &format!("{JSON}{headers}"), GOOD_JSON.as_bytes()).await;
        }
        self.head(200, &format!("{SSE}transfer-encoding: chunked\r\n{headers}")).await?;
        for event in good_sse().split_inclusive("\n\n") {
            self.chunk(event.as_bytes()).await?;
        }
        self.chunk(b"").await?;
        Ok(Next::KeepAlive)
    }

    async fn head(&mut self, status: usize, headers: &str) -> io::Result<()> {
        let head = format!("HTTP/1.1 {status} Fault\r\nx-request-id: fault-1\r\n{headers}\r\n");
        self.write.write_all(head.as_bytes()).await
    }

    async fn full(&mut self, status: usize, headers: &str, body: &[u8]) -> io::Result<Next> {
        self.head(status, &format!("{headers}content-length: {}\r\n", body.len())).await?;
        self.write.write_all(body).await?;
        Ok(Next::KeepAlive)
    }

    async fn json(&mut self, body: String) -> io::Result<Next> {
        self.full(200, JSON, body.as_bytes()).await
    }

    /// One chunk; an empty one is the last.
    async fn chunk(&mut self, data: &[u8]) -> io::Result<()> {
        let size = format!("{:x}\r\n", data.len());
        let chunk = [size.as_bytes(), data, b"\r\n"].concat();
        let mut write = pin!(self.write.write_all(&chunk));
        if let Ok(written) = timeout(STALL, &mut write).await {
            return written;
        }
        self.shared.counts.send_modify(|counts| counts.stalled += 1);
        write.await
    }

    async fn repeat(&mut self, part: &str, times: usize) -> io::Result<()> {
        let batch = part.repeat((16 << 10) / part.len());
        let total = part.len() * times;
        for sent in (0..total).step_by(batch.len()) {
            self.chunk(&batch.as_bytes()[..batch.len().min(total - sent)]).await?;
        }
        Ok(())
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_default()
}

fn ticks(ms: &str) -> tokio::time::Interval {
    interval(Duration::from_millis(number(ms).max(1) as u64))
}

/// Replaces the first two bytes of the needle by ones that UTF-8 never has.
fn spoiled(text: &[u8], needle: &[u8]) -> Vec<u8> {
    let at = text.windows(needle.len()).position(|window| window == needle).unwrap();
    [&text[..at], b"\xFF\xFE", &text[at + 2..]].concat()
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |decoded, part| {
        let (hex, rest) = part.split_at(2);
        decoded + &char::from(u8::from_str_radix(hex, 16).unwrap()).to_string() + rest
    })
}

/// Blanks, written with deflate's fixed codes: one literal, then matches of 258 bytes at distance 1, 13 bits each.
fn gzip_bomb(bytes: usize) -> Vec<u8> {
    let mut out = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff".to_vec();
    let (mut buffer, mut filled) = (0_u32, 0);
    let mut put = |bits: &str| {
        for bit in bits.bytes() {
            buffer |= u32::from(bit == b'1') << filled;
            filled += 1;
            if filled == 8 {
                out.push(std::mem::take(&mut buffer) as u8);
                filled = 0;
            }
        }
    };
    // Last block, fixed codes (least bit first), a blank, the matches, the end and padding.
    put("110");
    put("01010000");
    (0..bytes / 258).for_each(|_| put("1100010100000"));
    put("00000000000000");
    // The checksum comes too late to matter: a reader must have stopped before.
    out.extend_from_slice(&[0; 8]);
    out
}
