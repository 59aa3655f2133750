//! The production [`Transport`]: reqwest over HTTP/1.1.

use std::{
    fmt,
    sync::{
        Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
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

/// A reqwest client with its pool, and another one after an error that a connection may be the cause of.
///
/// A server that fails may be one of many behind a name. Connections that are kept alive go to that one again, also when
/// the name leads elsewhere by now: after an error of the server's the next request opens a new one.
pub(super) struct HttpTransport {
    client: RwLock<reqwest::Client>,
    /// Builds the next one; none of the caller's own client.
    build: Option<Box<dyn Fn() -> Result<reqwest::Client, Error> + Send + Sync>>,
    /// Whether an error came since the client was built, and when that was.
    is_stale: AtomicBool,
    built: Mutex<Instant>,
    /// The first URL that was called, in reqwest's form: nearly every call goes there again.
    first: OnceLock<(Uri, Url)>,
}

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
        let (is_stale, built) = (AtomicBool::new(false), Mutex::new(Instant::now()));
        Self { client: RwLock::new(client), build: None, is_stale, built, first: OnceLock::new() }
    }

    /// The client of now.
    fn client(&self) -> reqwest::Client {
        if self.is_stale.load(Ordering::Acquire) {
            self.renew();
        }
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Leaves the connections that there are to the requests that use them.
    fn renew(&self) {
        let Some(build) = &self.build else { return };
        let mut since = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if since.elapsed() < KEPT || !self.is_stale.swap(false, Ordering::AcqRel) {
            return;
        }
        *since = Instant::now();
        // It could be built before.
        if let Ok(client) = build() {
            *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        }
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
        let mut request = reqwest::Request::new(parts.method, self.url(&parts.uri)?);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(match body.into_bytes() {
            Ok(bytes) => reqwest::Body::from(bytes),
            Err(stream) => reqwest::Body::wrap_stream(stream),
        });
        let mut response = self.client().execute(request).await.map_err(|error| self.failed(error))?;
        if response.status().is_server_error() {
            self.is_stale.store(true, Ordering::Release);
        }
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut answer = http::Response::new(Body::stream(response.bytes_stream().map_err(describe)));
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}

impl HttpTransport {
    fn failed(&self, error: reqwest::Error) -> TransportError {
        self.is_stale.store(true, Ordering::Release);
        describe(error)
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
