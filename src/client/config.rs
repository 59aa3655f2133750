//! How a client is set up.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use super::{
    Dialect, Error, ErrorKind, RetryPolicy, TogetherClient,
    call::{Inner, uri},
    chat,
    http::HttpTransport,
    retry_budget::RetryBudget,
    transport::Transport,
};
use crate::types::{Clock, Rng, Secret, SystemClock, SystemRng};

/// Where Together's API is.
pub const DEFAULT_BASE_URL: &str = "https://api.together.ai/v1";

/// The time-outs of one attempt. A deadline in the call's options shortens all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Until the connection stands: 5 s, as Together's own SDK.
    pub connect: Duration,
    /// From sending a plain request to its response headers: 120 s. Long answers are computed before they are sent.
    pub first_byte: Duration,
    /// From sending a streamed request to its response headers: 30 s.
    pub stream_first_byte: Duration,
    /// The longest silence: between two data events of a stream (comments do not count), and for the whole of a plain
    /// body after its headers: 60 s.
    pub idle: Duration,
    /// The whole attempt, a stream included: 10 minutes.
    pub total: Duration,
    /// How long an idle connection is kept: 60 s.
    pub pool_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(120),
            stream_first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(600),
            pool_idle: Duration::from_secs(60),
        }
    }
}

/// The most bytes that a response may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caps {
    /// Of a JSON body: 16 MiB.
    pub json_bytes: usize,
    /// Of an error's body; the rest is cut: 64 KiB.
    pub error_bytes: usize,
    /// Of a line of a stream: 1 MiB.
    pub sse_line_bytes: usize,
    /// Of an event of a stream: 1 MiB.
    pub sse_event_bytes: usize,
    /// Lines of an event of a stream: 10,000.
    pub sse_event_lines: usize,
    /// Of a whole stream: 32 MiB.
    pub stream_bytes: usize,
}

impl Default for Caps {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            json_bytes: 16 * MIB,
            error_bytes: 64 << 10,
            sse_line_bytes: MIB,
            sse_event_bytes: MIB,
            sse_event_lines: 10_000,
            stream_bytes: 32 * MIB,
        }
    }
}

/// Sets up a [`TogetherClient`]. It never reads the environment: no key leaks to another host.
#[derive(Clone)]
pub struct ClientBuilder {
    base_url: String,
    key: Option<Secret>,
    headers: Vec<(String, String)>,
    allow_plain_http: bool,
    pub(super) timeouts: Timeouts,
    caps: Caps,
    retry: RetryPolicy,
    dialect: Dialect,
    pub(super) roots: Vec<Vec<u8>>,
    http: Option<reqwest::Client>,
    transport: Option<Arc<dyn Transport>>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            base_url: DEFAULT_BASE_URL.to_owned(),
            key: None,
            headers: Vec::new(),
            allow_plain_http: false,
            timeouts: Timeouts::default(),
            caps: Caps::default(),
            retry: RetryPolicy::default(),
            dialect: Dialect::together(),
            roots: Vec::new(),
            http: None,
            transport: None,
            clock: Arc::new(SystemClock),
            rng: Arc::new(SystemRng::default()),
        }
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("base_url", &without_secrets(&self.base_url))
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// Where the API is, with or without `/v1`; [`DEFAULT_BASE_URL`] unless set.
    #[must_use]
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = url.into();
        self
    }

    /// The API key, sent as a bearer token.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(Secret::new(key));
        self
    }

    /// No key: for a server of one's own that asks for none.
    #[must_use]
    pub fn no_api_key(mut self) -> Self {
        self.key = Some(Secret::new(""));
        self
    }

    /// A header to send with every request.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Allows `http://` to another machine: for a server in a network of one's own. Key and prompts travel unencrypted.
    #[must_use]
    pub const fn allow_plain_http(mut self) -> Self {
        self.allow_plain_http = true;
        self
    }

    /// The time-outs; [`Timeouts::default`] unless set.
    #[must_use]
    pub const fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// The most bytes of responses; [`Caps::default`] unless set.
    #[must_use]
    pub const fn caps(mut self, caps: Caps) -> Self {
        self.caps = caps;
        self
    }

    /// When failed attempts are repeated; [`RetryPolicy::default`] unless set.
    #[must_use]
    pub const fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// How the server wants requests to be written; [`Dialect::together`] unless set.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Trusts these PEM certificates, one or several, besides the platform's roots. Without the feature `rustls` the
    /// client is then not built.
    #[must_use]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// Uses an HTTP client of one's own as it is. This voids the guards: redirects, TLS versions, proxies,
    /// decompression and the connect time-out are then that client's business.
    #[must_use]
    pub fn http_client(mut self, client: reqwest::Client) -> Self {
        self.http = Some(client);
        self
    }

    /// Replaces the network: the simulator in tests, a recording, a tunnel.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport + 'static) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Where wall time comes from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where jitter comes from.
    #[must_use]
    pub fn rng(mut self, rng: Arc<dyn Rng>) -> Self {
        self.rng = rng;
        self
    }

    /// Reads `TOGETHER_API_KEY`, `TOGETHER_BASE_URL` and `TOGETHER_CUSTOM_HEADERS` (lines of `Name: value`).
    pub(super) fn from_env() -> Self {
        let read = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let headers = read("TOGETHER_CUSTOM_HEADERS").unwrap_or_default();
        let headers = headers.lines().filter_map(|line| line.split_once(':'));
        Self {
            base_url: read("TOGETHER_BASE_URL")
                .map_or_else(|| DEFAULT_BASE_URL.to_owned(), |url| url.trim().to_owned()),
            key: read("TOGETHER_API_KEY").map(|key| Secret::new(key.trim())),
            headers: headers.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect(),
            ..Self::default()
        }
    }

    /// Builds the client. No connection is made yet, and no runtime is needed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for a missing or unprintable key, a URL that is not one, `http://` to another machine
    /// without [`allow_plain_http`](Self::allow_plain_http), a header or certificate that is none.
    pub fn build(self) -> Result<TogetherClient, Error> {
        let base = BaseUrl::parse(&self.base_url, self.allow_plain_http || self.transport.is_some())?;
        let key = self.key.clone().ok_or_else(|| {
            config("no API key: set TOGETHER_API_KEY or call api_key(..); no_api_key() for a server that asks for none")
        })?;
        let headers = self.header_map(&key)?;
        if base.plain && self.allow_plain_http && self.transport.is_none() {
            tracing::warn!(host = base.host, "plain http: the key and the prompts are sent unencrypted");
        }
        let transport = match (self.transport.clone(), self.http.clone()) {
            (Some(transport), _) => transport,
            (None, Some(client)) => Arc::new(HttpTransport::own(client)) as Arc<dyn Transport>,
            (None, None) => Arc::new(HttpTransport::guarded(&self, base.loopback)?),
        };
        Ok(TogetherClient::new(Inner {
            transport,
            chat_uri: uri(&base.root, chat::PATH)?,
            root: base.root,
            host: base.host,
            key,
            headers,
            timeouts: self.timeouts,
            caps: self.caps,
            retry: self.retry,
            dialect: self.dialect,
            budget: RetryBudget::default(),
            clock: self.clock,
            rng: self.rng,
        }))
    }

    fn header_map(&self, key: &Secret) -> Result<HeaderMap, Error> {
        let mut map = HeaderMap::new();
        map.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("together-inference/", env!("CARGO_PKG_VERSION"))),
        );
        map.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in &self.headers {
            let parsed = HeaderName::from_str(name).ok().zip(HeaderValue::from_str(value).ok());
            let (name, mut value) = parsed.ok_or_else(|| config(format!("{name:?} is no valid header")))?;
            // An own header may hold a credential as well.
            value.set_sensitive(true);
            map.insert(name, value);
        }
        if !key.expose().is_empty() {
            let (name, value) = match &self.dialect.auth_header {
                None => (header::AUTHORIZATION, format!("Bearer {}", key.expose())),
                Some(name) => {
                    let parsed = HeaderName::from_str(name);
                    (parsed.map_err(|_| config(format!("{name:?} is no valid header")))?, key.expose().to_owned())
                }
            };
            let value = HeaderValue::from_str(&value);
            let mut value = value.map_err(|_| config("the API key has a character that no header can carry"))?;
            value.set_sensitive(true);
            map.insert(name, value);
        }
        Ok(map)
    }
}

fn config(message: impl Into<Box<str>>) -> Error {
    Error::new(ErrorKind::Config, message)
}

/// The URL without user name, password and query; one that has them is refused, but may be shown before.
fn without_secrets(url: &str) -> &str {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    url.rsplit_once('@').map_or(url, |(_, rest)| rest)
}

/// A base URL, checked, without `/v1`.
struct BaseUrl {
    root: String,
    host: Box<str>,
    loopback: bool,
    plain: bool,
}

impl BaseUrl {
    fn parse(text: &str, allow_plain: bool) -> Result<Self, Error> {
        let text = text.trim();
        let uri: Uri = text.parse().map_err(|_| config("the base URL is not a URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(config("the base URL needs a scheme and a host, such as https://api.together.ai/v1"));
        };
        if authority.as_str().contains('@') {
            return Err(config("the base URL must not hold a user name or password"));
        }
        if uri.query().is_some() {
            return Err(config("the base URL must not have a query"));
        }
        let loopback = is_loopback(authority.host());
        let plain = match scheme {
            "https" => false,
            "http" if loopback || allow_plain => true,
            "http" => {
                return Err(config(format!(
                    "http://{} would send the key and the prompts unencrypted; use https, or allow_plain_http()",
                    authority.host()
                )));
            }
            other => return Err(config(format!("{other}: is no scheme of this API; use https"))),
        };
        let path = uri.path().trim_end_matches('/');
        let path = path.strip_suffix("/v1").unwrap_or(path);
        Ok(Self { root: format!("{scheme}://{authority}{path}"), host: authority.host().into(), loopback, plain })
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(url: &str) -> Result<String, String> {
        BaseUrl::parse(url, false).map(|base| base.root).map_err(|error| error.to_string())
    }

    #[test]
    fn a_base_url_may_end_in_v1_or_not() {
        for url in [
            "https://api.together.ai/v1",
            "https://api.together.ai/v1/",
            "https://api.together.ai",
            " https://api.together.ai/ ",
        ] {
            assert_eq!(root(url).unwrap(), "https://api.together.ai");
        }
        assert_eq!(root("https://gate.example/together/v1").unwrap(), "https://gate.example/together");
        assert_eq!(root("http://[::1]:8080/v1").unwrap(), "http://[::1]:8080");
    }

    #[test]
    fn plain_http_is_for_loopback_and_userinfo_is_refused() {
        for url in ["http://127.0.0.1:1", "http://localhost", "http://127.9.9.9/v1"] {
            assert!(root(url).is_ok(), "{url}");
        }
        for url in [
            "http://example.com",
            "http://127.0.0.1.evil.example",
            "http://localhost.evil.example",
            "ftp://x/",
            "x",
            "",
        ] {
            assert!(root(url).is_err(), "{url}");
        }
        assert!(!root("https://user:hunter2@example.com").unwrap_err().contains("hunter2"));
        assert!(BaseUrl::parse("http://10.0.0.1", true).is_ok());
    }

    #[test]
    fn the_key_never_shows() {
        let builder = ClientBuilder::default().api_key("sk-canary-1");
        assert!(!format!("{builder:?}").contains("canary"));
        let client = builder.build().unwrap();
        assert!(!format!("{client:?}").contains("canary"));
        let error = ClientBuilder::default().api_key("sk-canary\r\nx: y").build().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
}
