//! Signatures of webhooks as Standard Webhooks has them: HMAC-SHA256 over id, time and body.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderMap;
use zeroize::Zeroizing;

/// How far a webhook's time may be from the receiver's: the standard's own tolerance.
const TOLERANCE: Duration = Duration::from_secs(300);
/// Ids that a receiver remembers.
const MAX_IDS: usize = 65_536;

/// A secret that webhooks are signed with. `Debug` does not show it.
#[derive(Clone)]
pub struct WebhookSecret(Zeroizing<Vec<u8>>);

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}

/// A webhook that is not what it says, or a secret that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// A secret is base64 of 24 to 64 bytes, after `whsec_`.
    #[error("a webhook secret is `whsec_` and the base64 of 24 to 64 bytes")]
    Secret,
    /// A header is missing or no text.
    #[error("the header {0} is missing or not readable")]
    Header(&'static str),
    /// It was signed too long ago, or in the future.
    #[error("the webhook's time is more than five minutes away")]
    Time,
    /// No signature fits.
    #[error("no signature of the webhook fits the secret")]
    Signature,
    /// It came before.
    #[error("a webhook of this id was received already")]
    Replay,
}

impl WebhookSecret {
    /// The secret in its usual form, `whsec_` and base64.
    ///
    /// # Errors
    ///
    /// [`SignatureError::Secret`] if it is not of that form or not 24 to 64 bytes long.
    pub fn new(secret: &str) -> Result<Self, SignatureError> {
        let base64 = secret.strip_prefix("whsec_").unwrap_or(secret);
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(base64).map_err(|_| SignatureError::Secret)?);
        if (24..=64).contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(SignatureError::Secret) }
    }

    fn mac(&self, id: &str, timestamp: u64, body: &[u8]) -> [u8; 32] {
        let mut mac = hmac_sha256::HMAC::new(&self.0);
        mac.update(format!("{id}.{timestamp}."));
        mac.update(body);
        mac.finalize()
    }

    /// The signature as the header `webhook-signature` has it: `v1,` and base64.
    ///
    /// ```
    /// use together_inference::notify::WebhookSecret;
    ///
    /// let secret = WebhookSecret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
    /// let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
    /// assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    /// # Ok::<(), together_inference::notify::SignatureError>(())
    /// ```
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        format!("v1,{}", BASE64_STANDARD.encode(self.mac(id, timestamp, body)))
    }
}

/// Receives webhooks: whether they are from who has the secret, of now, and new.
///
/// Of what it received within the tolerance it remembers 65,536 ids; a receiver of more than that in ten minutes keeps its
/// own.
#[derive(Debug)]
pub struct WebhookVerifier {
    secrets: Vec<WebhookSecret>,
    ids: Mutex<HashMap<Box<str>, SystemTime>>,
}

impl WebhookVerifier {
    /// A receiver that takes any of these secrets: the old and the new one while they are changed.
    pub fn new(secrets: impl IntoIterator<Item = WebhookSecret>) -> Self {
        Self { secrets: secrets.into_iter().collect(), ids: Mutex::default() }
    }

    /// Checks a webhook; its id is used up if it is good.
    ///
    /// # Errors
    ///
    /// [`SignatureError`]: do not trust the body.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Result<(), SignatureError> {
        let text = |name: &'static str| {
            headers.get(name).and_then(|value| value.to_str().ok()).ok_or(SignatureError::Header(name))
        };
        let (id, sent, signatures) = (text("webhook-id")?, text("webhook-timestamp")?, text("webhook-signature")?);
        let timestamp: u64 = sent.parse().map_err(|_| SignatureError::Header("webhook-timestamp"))?;
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(timestamp)).ok_or(SignatureError::Time)?;
        let away = now.duration_since(at).or_else(|_| at.duration_since(now)).unwrap_or(Duration::MAX);
        if away > TOLERANCE {
            return Err(SignatureError::Time);
        }
        let given = signatures.split(' ').filter_map(|one| one.strip_prefix("v1,"));
        let given: Vec<_> = given.filter_map(|base64| BASE64_STANDARD.decode(base64).ok()).collect();
        let fits = |secret: &WebhookSecret| {
            let mac = secret.mac(id, timestamp, body);
            given.iter().any(|one| is_same(one, &mac))
        };
        if !self.secrets.iter().any(fits) {
            return Err(SignatureError::Signature);
        }
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() >= MAX_IDS {
            ids.retain(|_, at| now.duration_since(*at).is_ok_and(|ago| ago <= 2 * TOLERANCE));
        }
        match ids.insert(id.into(), now) {
            Some(_) => Err(SignatureError::Replay),
            None => Ok(()),
        }
    }
}

/// Compares in the same time wherever the first difference is.
fn is_same(given: &[u8], mac: &[u8; 32]) -> bool {
    let differs = given.iter().zip(mac).fold(0, |differs, (one, other)| differs | (one ^ other));
    given.len() == mac.len() && std::hint::black_box(differs) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const AT: u64 = 1_614_265_330;

    fn headers(id: &str, timestamp: &str, signature: &str) -> HeaderMap {
        [("webhook-id", id), ("webhook-timestamp", timestamp), ("webhook-signature", signature)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn verify(headers: &HeaderMap, body: &[u8], seconds: u64) -> Result<(), SignatureError> {
        let verifier = WebhookVerifier::new([WebhookSecret::new(SECRET).unwrap()]);
        verifier.verify(headers, body, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn what_is_signed_is_taken_and_what_differs_in_anything_is_not() {
        let good = WebhookSecret::new(SECRET).unwrap().sign("msg_1", AT, BODY);
        let time = AT.to_string();
        let signed = |id: &str, time: &str, signature: &str| headers(id, time, signature);
        assert_eq!(verify(&signed("msg_1", &time, &good), BODY, AT), Ok(()));
        // One of several, among them one of another version.
        let several = format!("v1a,xyz v1,AAAA {good}");
        assert_eq!(verify(&signed("msg_1", &time, &several), BODY, AT), Ok(()));
        for (headers, body, now, error) in [
            (signed("", &time, &good), BODY, AT, SignatureError::Header("webhook-id")),
            (signed("msg_1", "", &good), BODY, AT, SignatureError::Header("webhook-timestamp")),
            (signed("msg_1", &time, ""), BODY, AT, SignatureError::Header("webhook-signature")),
            (signed("msg_1", "soon", &good), BODY, AT, SignatureError::Header("webhook-timestamp")),
            (signed("msg_2", &time, &good), BODY, AT, SignatureError::Signature),
            (signed("msg_1", &time, &good), b"{}", AT, SignatureError::Signature),
            (signed("msg_1", &time, "v1,AAAA"), BODY, AT, SignatureError::Signature),
            (signed("msg_1", &time, &good), BODY, AT + 301, SignatureError::Time),
            (signed("msg_1", &time, &good), BODY, AT - 301, SignatureError::Time),
        ] {
            assert_eq!(verify(&headers, body, now), Err(error));
        }
    }

    #[test]
    fn an_id_is_taken_once() {
        let verifier = WebhookVerifier::new([WebhookSecret::new(SECRET).unwrap()]);
        let good = headers("msg_1", &AT.to_string(), &WebhookSecret::new(SECRET).unwrap().sign("msg_1", AT, BODY));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(AT);
        assert_eq!(verifier.verify(&good, BODY, now), Ok(()));
        assert_eq!(verifier.verify(&good, BODY, now), Err(SignatureError::Replay));
    }

    #[test]
    fn either_secret_is_taken_while_they_are_changed() {
        let (old, new) = (WebhookSecret::new(SECRET).unwrap(), WebhookSecret::new(OTHER).unwrap());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(AT);
        let both = format!("{} {}", old.sign("m", AT, BODY), new.sign("m", AT, BODY));
        for secret in [old, new] {
            let signed = headers("m", &AT.to_string(), &both);
            assert_eq!(WebhookVerifier::new([secret]).verify(&signed, BODY, now), Ok(()));
        }
    }

    #[test]
    fn a_secret_is_of_its_form_and_never_shown() {
        for bad in ["", "whsec_", "whsec_AAAA", "whsec_not base64!", &format!("whsec_{}", "A".repeat(100))] {
            assert_eq!(WebhookSecret::new(bad).unwrap_err(), SignatureError::Secret, "{bad}");
        }
        assert_eq!(format!("{:?}", WebhookSecret::new(SECRET).unwrap()), "WebhookSecret(..)");
    }

    #[test]
    fn another_implementation_agrees_both_ways() {
        let theirs = standardwebhooks::Webhook::new(SECRET).unwrap();
        let ours = WebhookSecret::new(SECRET).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let signed = ours.sign("msg_1", now, BODY);
        assert_eq!(theirs.sign("msg_1", i64::try_from(now).unwrap(), BODY).unwrap(), signed);
        theirs.verify(BODY, &headers("msg_1", &now.to_string(), &signed)).unwrap();
    }
}
