//! Who is told when something needs a person.
//!
//! A [`Notifier`] takes an [`Alert`] to where people look. [`LogNotifier`] writes it to the log,
//! [`Webhook`] sends it, signed.
//!
//! # Why alerts and not log lines
//!
//! A log line is for whoever reads the log. An alert is for whoever does not: it has a kind from a short, stable list,
//! a [key](Alert::key) under which its repeats are one, and a size that every receiver takes. Calls of models never
//! wait for it.
//!
//! ```
//! use std::time::SystemTime;
//! use together_inference::notify::{Alert, AlertKind, LogNotifier, Notifier, NotifyError};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), NotifyError> {
//! let alert = Alert::new(AlertKind::BreakerOpen, "together/glm-5.3", "glm-5.3 fails", SystemTime::UNIX_EPOCH)
//!     .detail("failures", "8 of 10")
//!     .detail("next try", "in 30 s");
//! LogNotifier::default().notify(&alert).await
//! # }
//! ```

mod address;
mod alert;
mod log;
mod seen;
mod signature;
mod webhook;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::{
    alert::{Alert, AlertKind, MAX_ALERT_BYTES, Severity},
    log::LogNotifier,
    signature::{SignatureError, WebhookSecret, WebhookVerifier},
    webhook::{Webhook, WebhookError},
};
use crate::types::BoxError;

/// Takes alerts to people.
///
/// # Contract
///
/// - `Ok` means that the receiver has the alert, or had one of the same key a short while ago.
/// - Alerts of different keys never stand for each other.
/// - Any alert is taken: any text that a `str` can hold, up to [`MAX_ALERT_BYTES`]; what is passed on of it is at most
///   that long too.
/// - An answer comes within 15 s, and alerts are taken at the same time; one that hangs holds up no other.
/// - Dropping the future gives up the alert and harms none after it.
///
/// `testing::conformance::notifier` (feature `testing`) checks all of it.
///
/// ```
/// use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
/// use together_inference::notify::{Alert, Notifier, NotifyError};
///
/// /// Hands titles to a part of the program that shows them, as long as it is not too far behind.
/// #[derive(Debug)]
/// struct Screen(SyncSender<String>);
///
/// #[async_trait::async_trait]
/// impl Notifier for Screen {
///     async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
///         let line = format!("[{:?}] {}", alert.severity(), alert.title());
///         self.0.try_send(line).map_err(|error| NotifyError::Unreachable(error.into()))
///     }
/// }
///
/// let (screen, shown): (_, Receiver<String>) = sync_channel(1_024);
/// # let _ = (Screen(screen), shown);
/// ```
#[async_trait]
pub trait Notifier: Send + Sync + fmt::Debug {
    /// Takes one alert to its receiver.
    ///
    /// # Errors
    ///
    /// [`NotifyError`] when the receiver does not have it; it says whether a repeat makes sense.
    async fn notify(&self, alert: &Alert) -> Result<(), NotifyError>;
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: Notifier + ?Sized> Notifier for Arc<T> {
    async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
        (**self).notify(alert).await
    }
}

/// An alert did not reach its receiver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// The receiver could not be reached or did not answer in time.
    #[error("the receiver of alerts cannot be reached")]
    Unreachable(#[source] BoxError),
    /// The receiver has no capacity at the moment.
    #[error("the receiver of alerts is busy")]
    Busy {
        /// How long it asks to wait, if it says so.
        retry_after: Option<Duration>,
    },
    /// The receiver does not take this alert, and will not.
    #[error("the receiver refuses the alert: {reason}")]
    Refused {
        /// What it says.
        reason: Box<str>,
    },
    /// The receiver wants no alert any more: stop sending.
    #[error("the receiver of alerts is gone; remove it from the configuration or correct its address")]
    Gone,
}

impl NotifyError {
    /// Whether a repeat may succeed.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Busy { .. })
    }

    /// How long the receiver asks to wait.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after } => *retry_after,
            _ => None,
        }
    }
}
