//! The production [`Transport`]: reqwest over HTTP/1.1.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use http::Uri;
use reqwest::Url;
use tokio::time::Instant;

use super::{
    config::{ClientBuilder, Timeouts},
    error::{Error, ErrorKind, chain},
    transport::{Body, Transport, TransportError, TransportErrorKind},
};
use crate::types::FOREVER;

/// A reqwest client with its pool, and another one after an error that its connections may be the cause of.
///
/// A server that fails may be one of many behind a name. Connections that are kept alive go to that one again, also when
/// the name leads elsewhere by now. After 502, 503, 504 (what stands before the server cannot reach it), a connect that
/// failed or a connection that broke, the next request opens a new one. Other errors come from a server that is there.
pub(super) struct HttpTransport {
    pool: RwLock<Pool>,
    /// Builds the next client; none of the caller's own one.
    build: Option<Box<dyn Fn() -> Result<reqwest::Client, Error> + Send + Sync>>,
    doubts: Doubts,
    /// The first URL that was called, in reqwest's form: nearly every call goes there again.
    first: OnceLock<(Uri, Url)>,
}

/// A client, its place in the order of clients (the first one's is 1), and when it was built.
#[derive(Clone)]
struct Pool {
    client: reqwest::Client,
    generation: u64,
    built: Instant,
}

/// The last generation whose connections are in doubt. However many of them fail, it is replaced once: what an older one
/// brings later says nothing about the client of now.
#[derive(Clone, Debug, Default)]
struct Doubts(Arc<AtomicU64>);

impl Doubts {
    fn about(&self, generation: u64) {
        self.0.fetch_max(generation, Ordering::AcqRel);
    }

    fn reach(&self, generation: u64) -> bool {
        self.0.load(Ordering::Acquire) >= generation
    }
}

/// Marks a request for a page of somebody else's: what becomes of it says nothing about the API's connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elsewhere;

/// A client is kept for as long as this: in an outage not every error opens new connections.
const KEPT: Duration = Duration::from_secs(1);

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport").field("is_own", &self.build.is_none()).finish_non_exhaustive()
    }
}

impl HttpTransport {
    /// Wraps the caller's own client as it is.
    pub(super) fn own(client: reqwest::Client) -> Self {
        let pool = Pool { client, generation: 1, built: Instant::now() };
        Self { pool: RwLock::new(pool), build: None, doubts: Doubts::default(), first: OnceLock::new() }
    }

    /// The client of now.
    fn pool(&self) -> Pool {
        let pool = self.pool.read().unwrap_or_else(PoisonError::into_inner).clone();
        if self.doubts.reach(pool.generation) { self.renewed().unwrap_or(pool) } else { pool }
    }

    /// Another client in place of one that is in doubt. Leaves the connections that there are to the requests that use
    /// them.
    fn renewed(&self) -> Option<Pool> {
        let build = self.build.as_ref()?;
        let mut pool = self.pool.write().unwrap_or_else(PoisonError::into_inner);
        // Another request may have been faster.
        if self.doubts.reach(pool.generation) && pool.built.elapsed() >= KEPT {
            // It could be built before: should it fail now, the old one is as good as any.
            let client = build().unwrap_or_else(|_| pool.client.clone());
            *pool = Pool { client, generation: pool.generation + 1, built: Instant::now() };
        }
        Some(pool.clone())
    }

    fn url(&self, uri: &Uri) -> Result<Url, TransportError> {
        match self.first.get() {
            Some((first, url)) if first == uri => Ok(url.clone()),
            _ => {
                let parsed = Url::parse(&uri.to_string());
                let url =
                    parsed.map_err(|_| TransportError::new(TransportErrorKind::Connect, "the URL is not valid"))?;
                // Another first call may have been faster.
                let _ = self.first.set((uri.clone(), url.clone()));
                Ok(url)
            }
        }
    }

    /// A client with the guards: no redirects, no decompression, HTTP/1.1, TLS 1.2 at least, no proxy for loopback.
    ///
    /// Each guard is set by call and not by leaving out reqwest's features: another crate in the application's tree may
    /// switch those on.
    pub(super) fn guarded(config: &ClientBuilder, loopback: bool) -> Result<Self, Error> {
        let (timeouts, roots) = (config.timeouts, config.roots.clone());
        let build = move || build(&timeouts, &roots, loopback);
        let mut transport = Self::own(build()?);
        transport.build = Some(Box::new(build));
        Ok(transport)
    }
}

/// The client that [`HttpTransport::guarded`] describes.
fn build(timeouts: &Timeouts, root_pems: &[Vec<u8>], loopback: bool) -> Result<reqwest::Client, Error> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .http1_only()
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .connect_timeout(timeouts.connect.min(FOREVER))
        .pool_idle_timeout(timeouts.pool_idle.min(FOREVER))
        .tcp_nodelay(true);
    #[cfg(feature = "rustls")]
    {
        builder = builder.tls_version_min(reqwest::tls::Version::TLS_1_2);
        let mut roots = Vec::new();
        for pem in root_pems {
            let bundle = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| refused(&error))?;
            if bundle.is_empty() {
                return Err(Error::new(ErrorKind::Config, "a root certificate is not in PEM form"));
            }
            roots.extend(bundle);
        }
        if !roots.is_empty() {
            builder = builder.tls_certs_merge(roots);
        }
    }
    #[cfg(not(feature = "rustls"))]
    if !root_pems.is_empty() {
        return Err(Error::new(ErrorKind::Config, "root_certificates(..) needs the crate's feature `rustls`"));
    }
    if loopback {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| refused(&error))
}

fn refused(error: &reqwest::Error) -> Error {
    Error::new(ErrorKind::Config, format!("the HTTP client could not be built: {}", chain(error)))
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        let (parts, body) = request.into_parts();
        let elsewhere = parts.extensions.get::<Elsewhere>().is_some();
        let mut request = reqwest::Request::new(parts.method, self.url(&parts.uri)?);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(match body.into_bytes() {
            Ok(bytes) => reqwest::Body::from(bytes),
            Err(stream) => reqwest::Body::wrap_stream(stream),
        });
        let pool = self.pool();
        let doubt = (!elsewhere).then(|| (self.doubts.clone(), pool.generation));
        let noted = move |error: reqwest::Error| {
            let error = describe(error);
            if let Some((doubts, generation)) = doubt.as_ref().filter(|_| error.kind() != TransportErrorKind::Protocol)
            {
                doubts.about(*generation);
            }
            error
        };
        let mut response = pool.client.execute(request).await.map_err(&noted)?;
        if !elsewhere && matches!(response.status().as_u16(), 502..=504) {
            self.doubts.about(pool.generation);
        }
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut answer = http::Response::new(Body::stream(response.bytes_stream().map_err(noted)));
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}

/// Says what happened, without the URL.
fn describe(error: reqwest::Error) -> TransportError {
    let error = error.without_url();
    let hyper = std::iter::successors(std::error::Error::source(&error), |error| error.source())
        .find_map(|error| error.downcast_ref::<hyper::Error>());
    let kind = match hyper {
        _ if error.is_connect() => TransportErrorKind::Connect,
        Some(hyper) if hyper.is_parse() => TransportErrorKind::Protocol,
        _ => TransportErrorKind::Interrupted,
    };
    TransportError::new(kind, chain(&error))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        task::JoinSet,
        time::{advance, pause, resume},
    };

    use super::*;

    /// Answers each request of a connection by what its path asks for; `/cut` in its middle.
    async fn serve(mut socket: TcpStream) -> Option<()> {
        let mut buffer = [0; 4_096];
        loop {
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                let count = socket.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
                read.extend_from_slice(&buffer[..count]);
            }
            let asked = String::from_utf8_lossy(&read).into_owned();
            let path = asked.split(['/', ' ']).nth(2)?;
            let cut = path == "cut";
            let head =
                if cut { "200 OK\r\ncontent-length: 9".into() } else { format!("{path} It\r\ncontent-length: 1") };
            socket.write_all(format!("HTTP/1.1 {head}\r\n\r\nx").as_bytes()).await.ok()?;
            if cut {
                return None;
            }
        }
    }

    struct Server {
        at: String,
        transport: HttpTransport,
        built: Arc<AtomicU64>,
        _tasks: JoinSet<()>,
    }

    impl Server {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (at, mut tasks) = (format!("http://{}", listener.local_addr().unwrap()), JoinSet::new());
            tasks.spawn(async move {
                let mut sockets = JoinSet::new();
                while let Ok((socket, _)) = listener.accept().await {
                    sockets.spawn(serve(socket));
                }
            });
            let built = Arc::new(AtomicU64::new(0));
            let counter = Arc::clone(&built);
            let client = || reqwest::Client::builder().no_proxy().build().unwrap();
            let mut transport = HttpTransport::own(client());
            transport.build = Some(Box::new(move || {
                counter.fetch_add(1, Ordering::SeqCst);
                Ok(client())
            }));
            Self { at, transport, built, _tasks: tasks }
        }

        async fn get(&self, path: &str, page: bool) -> Result<http::Response<Body>, TransportError> {
            let mut request = http::Request::new(Body::empty());
            *request.uri_mut() = format!("{}/{path}", self.at).parse().unwrap();
            if page {
                request.extensions_mut().insert(Elsewhere);
            }
            self.transport.send(request).await
        }

        /// Whether the pool is another one after this request, some time later.
        async fn renews(&self, path: &str, page: bool) -> bool {
            later().await;
            let before = self.built.load(Ordering::SeqCst);
            if let Ok(answer) = self.get(path, page).await {
                let _: Result<Vec<_>, _> = answer.into_body().try_collect().await;
            }
            self.transport.pool();
            self.built.load(Ordering::SeqCst) > before
        }
    }

    /// Moves the clock past [`KEPT`]. The sockets do not notice.
    async fn later() {
        pause();
        advance(KEPT).await;
        resume();
    }

    #[tokio::test]
    async fn the_pool_is_renewed_after_what_its_connections_may_be_the_cause_of() {
        let mut server = Server::start().await;
        for (path, renews) in [
            ("200", false),
            ("404", false),
            ("429", false),
            ("500", false),
            ("501", false),
            ("502", true),
            ("503", true),
            ("504", true),
            ("520", false),
            ("cut", true),
            ("200", false),
        ] {
            assert_eq!(server.renews(path, false).await, renews, "{path}");
            assert!(!server.renews(path, true).await, "{path} of a page");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        server.at = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        assert!(!server.renews("200", true).await);
        assert!(server.renews("200", false).await, "nobody listens there");
    }

    #[tokio::test]
    async fn however_many_connections_of_a_pool_break_it_is_renewed_once() {
        // Scenario: a hundred answers are under way; each is cut, some time after the one before, and a request follows.
        // Expected: one new pool, and not one for each.
        let server = Server::start().await;
        let mut cut = Vec::new();
        for _ in 0..100 {
            cut.push(server.get("cut", false).await.unwrap());
        }
        for answer in cut {
            later().await;
            let broken: Result<Vec<_>, _> = answer.into_body().try_collect().await;
            broken.unwrap_err();
            server.get("200", false).await.unwrap();
        }
        assert_eq!(server.built.load(Ordering::SeqCst), 1);
    }
}
