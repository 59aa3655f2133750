//! The production [`Transport`]: reqwest over HTTP/1.1.

use std::sync::OnceLock;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use http::Uri;
use reqwest::Url;

use super::{
    config::ClientBuilder,
    error::{Error, ErrorKind, chain},
    transport::{Body, Transport, TransportError, TransportErrorKind},
};
use crate::types::FOREVER;

/// One reqwest client, with its pool.
#[derive(Debug)]
pub(super) struct HttpTransport {
    client: reqwest::Client,
    /// The first URL that was called, in reqwest's form: nearly every call goes there again.
    first: OnceLock<(Uri, Url)>,
}

impl HttpTransport {
    /// Wraps the caller's own client as it is.
    pub(super) const fn own(client: reqwest::Client) -> Self {
        Self { client, first: OnceLock::new() }
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
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .http1_only()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .connect_timeout(config.timeouts.connect.min(FOREVER))
            .pool_idle_timeout(config.timeouts.pool_idle.min(FOREVER))
            .tcp_nodelay(true);
        #[cfg(feature = "rustls")]
        {
            builder = builder.tls_version_min(reqwest::tls::Version::TLS_1_2);
            let mut roots = Vec::new();
            for pem in &config.roots {
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
        if !config.roots.is_empty() {
            return Err(Error::new(ErrorKind::Config, "root_certificates(..) needs the crate's feature `rustls`"));
        }
        if loopback {
            builder = builder.no_proxy();
        }
        builder.build().map(Self::own).map_err(|error| refused(&error))
    }
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
        let mut response = self.client.execute(request).await.map_err(describe)?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut answer = http::Response::new(Body::stream(response.bytes_stream().map_err(describe)));
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
