//! Alerts as signed webhooks.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use http::HeaderMap;
use reqwest::{StatusCode, Url, header::CONTENT_TYPE};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Alert, Notifier, NotifyError,
    address::{PublicOnly, is_public},
    seen::Seen,
    signature::{SignatureError, WebhookSecret},
};
use crate::types::{Clock, SystemClock, rfc3339};

/// Attempts at a webhook.
const ATTEMPTS: usize = 5;
/// How long one may take, so that five of them and the waits between them fit into what a notifier may take.
const ONE: Duration = Duration::from_millis(2_500);
/// What all may take: the standard's 15 s, and a little left to say so.
const ALL: Duration = Duration::from_millis(14_500);

/// Sends each alert as a webhook in the form of [Standard Webhooks](https://www.standardwebhooks.com).
///
/// # What is sent
///
/// `POST` of JSON, at most 8 KiB: `{"type": "breaker.open", "timestamp": .., "data": {"key", "severity", "title",
/// "details", ..}}`, with the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`. No prompt is in it and no
/// secret. The id is the same for each attempt at one alert, time and signature are fresh. [`WebhookVerifier`] is the other
/// end.
///
/// # How often
///
/// Of a key one in ten minutes; the next one says how many were left out (`suppressed`). Up to five attempts within 15 s,
/// with growing waits, or as long as `retry-after` says if that fits. A redirect is a failure, 410 ends it for good
/// ([`NotifyError::Gone`]), other refusals (4xx) are not repeated.
///
/// # Where to
///
/// To `https` and public addresses alone: a name is resolved once, to addresses outside one's own network, and the
/// connection goes there, not through a proxy. [`allow_private`](Self::allow_private) is for a receiver in one's own
/// network.
///
/// ```
/// use together_inference::{InferenceService, notify::Webhook, testing::Together};
///
/// let webhook = Webhook::new("https://alerts.acme.example/hook", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// let service = InferenceService::builder(Together::new().client()).notifier(webhook).build()?;
/// assert!(Webhook::new("http://169.254.169.254/", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`WebhookVerifier`]: super::WebhookVerifier
pub struct Webhook {
    url: Url,
    secrets: Vec<WebhookSecret>,
    client: reqwest::Client,
    clock: Arc<dyn Clock>,
    // Never held across an await.
    seen: Mutex<Seen>,
    gone: AtomicBool,
}

/// A webhook that cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// The URL is none, not of https, or leads into one's own network.
    #[error("{0}")]
    Url(&'static str),
    /// The secret is none.
    #[error(transparent)]
    Secret(#[from] SignatureError),
    /// The HTTP client could not be built.
    #[error("the HTTP client could not be built")]
    Client(#[source] reqwest::Error),
}

impl fmt::Debug for Webhook {
    /// Without path and query, which may hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

impl Webhook {
    /// Webhooks to this URL, signed with this secret (`whsec_` and base64).
    ///
    /// # Errors
    ///
    /// [`WebhookError`] for a URL that is not of https or not public, or a secret of another form.
    pub fn new(url: &str, secret: &str) -> Result<Self, WebhookError> {
        let url = Url::parse(url).map_err(|_| WebhookError::Url("the webhook's URL is not valid"))?;
        if url.scheme() != "https" {
            return Err(WebhookError::Url("a webhook goes to https; allow_private(..) takes http too"));
        }
        if literal(&url).is_some_and(|address| !is_public(address)) {
            return Err(WebhookError::Url("a webhook goes to a public address; allow_private(..) takes others too"));
        }
        Self::built(url, secret, false)
    }

    /// The same to a receiver in one's own network, by http too: the guards against that are off, so that the URL must not
    /// come from anybody else.
    ///
    /// # Errors
    ///
    /// [`WebhookError`] for what is no URL of http or https, or a secret of another form.
    pub fn allow_private(url: &str, secret: &str) -> Result<Self, WebhookError> {
        let url = Url::parse(url).map_err(|_| WebhookError::Url("the webhook's URL is not valid"))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(WebhookError::Url("a webhook goes to https or http"));
        }
        Self::built(url, secret, true)
    }

    fn built(url: Url, secret: &str, private: bool) -> Result<Self, WebhookError> {
        let mut builder =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).referer(false).no_proxy();
        if !private {
            builder = builder.dns_resolver(Arc::new(PublicOnly));
        }
        let client = builder.build().map_err(WebhookError::Client)?;
        let secrets = vec![WebhookSecret::new(secret)?];
        let (clock, seen) = (Arc::new(SystemClock), Mutex::default());
        Ok(Self { url, secrets, client, clock, seen, gone: AtomicBool::new(false) })
    }

    /// Signs with this secret as well: while secrets are changed, receivers of either take the webhook.
    ///
    /// # Errors
    ///
    /// [`WebhookError::Secret`] if it is of another form.
    pub fn and_secret(mut self, secret: &str) -> Result<Self, WebhookError> {
        self.secrets.push(WebhookSecret::new(secret)?);
        Ok(self)
    }

    /// How many alerts were left out as repeats.
    #[must_use]
    pub fn suppressed(&self) -> u64 {
        self.with_seen(|seen| seen.suppressed)
    }

    fn with_seen<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One attempt.
    async fn post(&self, id: &str, body: &Bytes) -> Result<(), NotifyError> {
        let since = self.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let signatures: Vec<_> = self.secrets.iter().map(|secret| secret.sign(id, since.as_secs(), body)).collect();
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", since.as_secs())
            .header("webhook-signature", signatures.join(" "))
            .body(body.clone());
        let sent = timeout(ONE, request.send()).await;
        let sent = sent.map_err(|_| NotifyError::Unreachable("no answer in time".into()))?;
        let answer = sent.map_err(|error| NotifyError::Unreachable(error.without_url().into()))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::GONE => Err(NotifyError::Gone),
            status if status.is_server_error() || matches!(status.as_u16(), 408 | 429) => {
                Err(NotifyError::Busy { retry_after: retry_after(answer.headers()) })
            }
            status => Err(NotifyError::Refused { reason: format!("status {}", status.as_u16()).into() }),
        }
    }

    async fn deliver(&self, id: &str, body: &Bytes) -> Result<(), NotifyError> {
        let until = Instant::now() + ALL;
        let waits = ExponentialBuilder::default().with_min_delay(Duration::from_millis(250)).with_jitter();
        let mut waits = waits.with_max_times(ATTEMPTS - 1).build();
        loop {
            let error = match self.post(id, body).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let wait = waits.next().filter(|_| error.is_retryable());
            let Some(wait) = wait.map(|wait| error.retry_after().unwrap_or(wait)) else { return Err(error) };
            let left = until.saturating_duration_since(Instant::now()).saturating_sub(ONE);
            if wait > left {
                return Err(error);
            }
            sleep(wait).await;
        }
    }
}

#[async_trait]
impl Notifier for Webhook {
    async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
        if self.gone.load(Ordering::Acquire) {
            return Err(NotifyError::Gone);
        }
        let Some(left_out) = self.with_seen(|seen| seen.admit(alert.key(), Instant::now())) else { return Ok(()) };
        let told = Told { webhook: self, key: alert.key(), left_out, done: false };
        let body = body(alert, left_out);
        match self.deliver(&id(alert), &body).await {
            Ok(()) => told.done(),
            Err(error) => {
                self.gone.fetch_or(matches!(error, NotifyError::Gone), Ordering::AcqRel);
                return Err(error);
            }
        }
        Ok(())
    }
}

/// An alert under way: if it does not arrive, also because nobody waits for it, the next one of its key is sent.
struct Told<'a> {
    webhook: &'a Webhook,
    key: &'a str,
    left_out: u64,
    done: bool,
}

impl Told<'_> {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.webhook.with_seen(|seen| seen.failed(self.key, self.left_out, Instant::now()));
        }
    }
}

/// The address that a URL names without a name. Forms such as `0x7f000001` are numbers by the time that it is parsed.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The same for each attempt at one alert, another one for each alert.
fn id(alert: &Alert) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(alert.key().as_bytes());
    let at = alert.at().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    hash.update(&at.as_nanos().to_le_bytes());
    let hex = hash.finalize().to_hex();
    format!("msg_{}", hex.get(..32).unwrap_or(&hex))
}

fn body(alert: &Alert, suppressed: u64) -> Bytes {
    let details: Vec<_> = alert.details().map(|(name, value)| json!({ name: value })).collect();
    let body = json!({
        "type": alert.kind().as_str(),
        "timestamp": rfc3339(alert.at()),
        "data": {
            "key": alert.key(),
            "severity": alert.severity().as_str(),
            "title": alert.title(),
            "details": details,
            "omitted_details": alert.omitted(),
            "suppressed": suppressed,
        },
    });
    body.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::{AlertKind, MAX_ALERT_BYTES};

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn urls_into_ones_own_network_are_refused_in_whatever_form() {
        for url in [
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://169.254.169.254/latest",
            "https://10.1.2.3/",
            "https://0x7f000001/",
            "https://2130706433/",
            "https://0177.0.0.1/",
            "https://[::ffff:127.0.0.1]/",
            "http://example.com/",
            "ftp://example.com/",
            "nonsense",
        ] {
            assert!(matches!(Webhook::new(url, SECRET), Err(WebhookError::Url(_))), "{url}");
        }
        assert!(Webhook::new("https://example.com/hook", SECRET).is_ok());
        assert!(Webhook::allow_private("http://127.0.0.1:8080/", SECRET).is_ok());
        let shown = format!("{:?}", Webhook::new("https://example.com/t0ken?key=s3cret", SECRET).unwrap());
        assert!(!shown.contains("t0ken") && !shown.contains("s3cret") && !shown.contains("MfKQ"), "{shown}");
    }

    #[test]
    fn a_body_is_small_whatever_the_alert() {
        for char in ["x", "\"", "\u{1}", "🙂"] {
            let huge = char.repeat(40_000);
            let mut alert = Alert::new(AlertKind::LlmErrors, &huge, &huge, SystemTime::UNIX_EPOCH);
            for _ in 0..100 {
                alert = alert.detail("short", 1).detail(&huge, &huge);
            }
            assert!(body(&alert, u64::MAX).len() <= MAX_ALERT_BYTES, "{char:?}");
        }
    }

    #[test]
    fn a_body_says_what_the_alert_says() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_608_000);
        let alert = Alert::new(AlertKind::BreakerOpen, "together/m", "m fails", at).detail("failures", "8 of 10");
        let body: serde_json::Value = serde_json::from_slice(&body(&alert, 3)).unwrap();
        let golden = json!({
            "type": "breaker.open",
            "timestamp": "2026-11-25T12:00:00Z",
            "data": {
                "key": "breaker.open:together/m", "severity": "warning", "title": "m fails",
                "details": [{"failures": "8 of 10"}], "omitted_details": 0, "suppressed": 3,
            },
        });
        assert_eq!(body, golden);
        assert_eq!(id(&alert), id(&alert.clone()));
    }
}
