//! A server that says what no Redis would: replies are the test's.

use std::sync::Arc;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// The reply to a command's words; none is no reply, ever.
type Reply = Arc<dyn Fn(&[Vec<u8>]) -> Option<Vec<u8>> + Send + Sync>;

pub struct Fake {
    pub port: u16,
    _tasks: JoinSet<()>,
}

impl Fake {
    /// Greets like a Redis, and answers the rest as told.
    pub async fn start(reply: impl Fn(&[Vec<u8>]) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let greet = move |words: &[Vec<u8>]| match &*words[0] {
            b"CLIENT" => Some(b"+OK\r\n".to_vec()),
            b"PING" => Some(b"+PONG\r\n".to_vec()),
            _ => reply(words),
        };
        Self::raw(greet).await
    }

    /// Answers everything as told.
    pub async fn raw(reply: impl Fn(&[Vec<u8>]) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let reply: Reply = Arc::new(reply);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, mut tasks) = (listener.local_addr().unwrap().port(), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, Arc::clone(&reply)));
            }
        });
        Self { port, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

async fn answer(stream: TcpStream, reply: Reply) {
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    while let Some(words) = command(&mut stream).await {
        let Some(reply) = reply(&words) else { std::future::pending().await };
        if stream.write_all(&reply).await.is_err() {
            return;
        }
    }
}

/// The words of the next command: an array of bulk strings.
async fn command(stream: &mut BufReader<TcpStream>) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    for _ in 0..number(stream).await? {
        let mut word = vec![0; number(stream).await? + 2];
        stream.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        words.push(word);
    }
    Some(words)
}

/// The number of a line such as `*3` or `$5`.
async fn number(stream: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    line[1..].trim().parse().ok()
}

/// A bulk string.
pub fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}
