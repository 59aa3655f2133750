//! What a [`Notifier`] promises.

use std::time::SystemTime;

use futures_util::future::join_all;

use super::{Failure, Promise, begin_and_drop};
use crate::notify::{Alert, AlertKind, MAX_ALERT_BYTES, Notifier};

/// Checks what [`Notifier`] promises.
///
/// `received` tells what the receiver has got so far, one text an alert: bodies of requests, lines of a log. The
/// receiver must be there and take everything; about 90 alerts are sent.
///
/// ```
/// use std::sync::{Mutex, PoisonError};
/// use together_inference::{
///     notify::{Alert, Notifier, NotifyError},
///     testing::conformance::{self, Failure},
/// };
///
/// #[derive(Debug, Default)]
/// struct Kept(Mutex<Vec<String>>);
///
/// #[async_trait::async_trait]
/// impl Notifier for Kept {
///     async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
///         let text = format!("{} {}", alert.key(), alert.title());
///         self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Failure> {
/// let kept = Kept::default();
/// conformance::notifier(&kept, &|| kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).await
/// # }
/// ```
///
/// # Errors
///
/// The first promise that is not kept.
pub async fn notifier(
    notifier: &dyn Notifier,
    received: &(dyn Fn() -> Vec<String> + Send + Sync),
) -> Result<(), Failure> {
    let on = |promise| On { notifier, received, promise: Promise(promise) };
    accepted_is_received(&on("an alert that was accepted has been received")).await?;
    repeats_are_taken(&on("a repeat is taken, be it passed on or not")).await?;
    keys_are_apart(&on("alerts of different keys never stand for each other")).await?;
    anything_is_taken(&on("any alert is taken, and what is passed on stays small")).await?;
    many_at_once(&on("alerts are taken at the same time")).await?;
    giving_up_harms_none(&on("dropping a call harms none after it")).await
}

struct On<'a> {
    notifier: &'a dyn Notifier,
    received: &'a (dyn Fn() -> Vec<String> + Send + Sync),
    promise: Promise,
}

impl On<'_> {
    /// Sends an alert; an answer that is late, a refusal or a panic breaks the promise.
    async fn send(&self, alert: &Alert) -> Result<(), Failure> {
        self.promise.done("notify", self.notifier.notify(alert)).await
    }

    /// That the receiver has a text with this title.
    fn has(&self, title: &str) -> Result<(), Failure> {
        let found = (self.received)().iter().any(|text| text.contains(title));
        if found { Ok(()) } else { Err(self.promise.broken(format!("{title:?} was accepted but not received"))) }
    }
}

fn alert(kind: AlertKind, about: &str, title: &str) -> Alert {
    Alert::new(kind, about, title, SystemTime::UNIX_EPOCH).detail("limit", "$25.00")
}

async fn accepted_is_received(on: &On<'_>) -> Result<(), Failure> {
    for (n, kind) in AlertKind::ALL.iter().enumerate() {
        let title = format!("kind {n} of all");
        on.send(&alert(*kind, "conformance", &title)).await?;
        on.has(&title)?;
    }
    Ok(())
}

async fn repeats_are_taken(on: &On<'_>) -> Result<(), Failure> {
    for _ in 0..3 {
        on.send(&alert(AlertKind::StoreError, "repeated", "the same again")).await?;
    }
    on.has("the same again")
}

async fn keys_are_apart(on: &On<'_>) -> Result<(), Failure> {
    let long = "x".repeat(1_000);
    for (about, title) in [("one", "about one thing"), ("two", "about another"), (&*long, "about a long name")] {
        on.send(&alert(AlertKind::BreakerOpen, about, title)).await?;
        on.has(title)?;
    }
    on.send(&alert(AlertKind::BreakerOpen, &format!("{long}y"), "about one that begins alike")).await?;
    on.has("about one that begins alike")
}

async fn anything_is_taken(on: &On<'_>) -> Result<(), Failure> {
    for char in ["x", "é", "🙂", "\"", "<", "\n", "\0", "%", "{}"] {
        let huge = char.repeat(MAX_ALERT_BYTES);
        on.send(&alert(AlertKind::LlmErrors, &huge, &huge).detail(&huge, &huge)).await?;
    }
    on.send(&Alert::new(AlertKind::LlmErrors, "", "", SystemTime::UNIX_EPOCH)).await?;
    match (on.received)().iter().map(String::len).max() {
        Some(longest) if longest > MAX_ALERT_BYTES => Err(on.promise.broken(format!("{longest} bytes were passed on"))),
        _ => Ok(()),
    }
}

async fn many_at_once(on: &On<'_>) -> Result<(), Failure> {
    let alerts: Vec<Alert> =
        (0..32).map(|n| alert(AlertKind::BatchFailed, &format!("{n} at once"), &format!("[{n}] at once"))).collect();
    for sent in join_all(alerts.iter().map(|alert| on.send(alert))).await {
        sent?;
    }
    alerts.iter().try_for_each(|alert| on.has(alert.title()))
}

async fn giving_up_harms_none(on: &On<'_>) -> Result<(), Failure> {
    for n in 0..3 {
        let given_up = alert(AlertKind::EvalFailed, &format!("given up {n}"), "given up");
        begin_and_drop(on.notifier.notify(&given_up));
    }
    on.send(&alert(AlertKind::EvalFailed, "after", "after those given up")).await?;
    on.has("after those given up")
}

#[cfg(test)]
mod tests;
