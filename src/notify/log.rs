//! Alerts as log events.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Alert, Notifier, NotifyError, Severity, seen::Seen};

/// Writes each alert as one `tracing` event of target `together_inference::alert`: `error` for critical ones, `warn`,
/// `info`.
///
/// Of a key at most one event in ten minutes; the next one says how many were left out (`suppressed`), and
/// [`suppressed`](Self::suppressed) counts them all. The 1,024 keys written last are remembered: beyond that an alert
/// may be written again sooner, but none is lost. Time is tokio's.
///
/// ```
/// use std::time::SystemTime;
/// use together_inference::notify::{Alert, AlertKind, LogNotifier, Notifier, NotifyError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), NotifyError> {
/// let log = LogNotifier::default();
/// let alert = Alert::new(AlertKind::StoreError, "ledger", "the disk is full", SystemTime::UNIX_EPOCH);
/// log.notify(&alert).await?;
/// log.notify(&alert).await?;
/// assert_eq!(log.suppressed(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct LogNotifier {
    // Never held across an await: nothing here waits.
    seen: Mutex<Seen>,
}

impl LogNotifier {
    /// How many alerts were left out as repeats.
    #[must_use]
    pub fn suppressed(&self) -> u64 {
        self.with_seen(|seen| seen.suppressed)
    }

    fn with_seen<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for LogNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogNotifier").field("suppressed", &self.suppressed()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Notifier for LogNotifier {
    async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
        if let Some(left_out) = self.with_seen(|seen| seen.admit(alert.key(), Instant::now())) {
            write(alert, left_out);
        }
        Ok(())
    }
}

fn write(alert: &Alert, suppressed: u64) {
    /// The level of an event is part of its place in the code: one place a level.
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                target: "together_inference::alert",
                kind = alert.kind().as_str(),
                key = alert.key(),
                details = %Details(alert),
                suppressed,
                "{}",
                alert.title()
            )
        };
    }
    match alert.severity() {
        Severity::Info => event!(info),
        Severity::Warning => event!(warn),
        Severity::Critical => event!(error),
    }
}

/// `name=value, name=value`.
struct Details<'a>(&'a Alert);

impl fmt::Display for Details<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, value)) in self.0.details().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
