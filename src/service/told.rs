//! What somebody was told already: news that stay true for days are told once a day.
//!
//! Told is what a notifier has taken. What none took is told again at the next occasion a minute later or more, and the
//! alert that arrives then says how many did not. Nothing is queued for that: what still matters comes again, and what does
//! not needs nobody's attention.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};

use super::state::{State, in_runtime};
use crate::{
    notify::{Alert, AlertKind},
    types::later,
};

/// How long the same is not told again.
const QUIET: Duration = Duration::from_secs(86_400);
/// How much is remembered; past it all is forgotten, and may be told again sooner.
const MOST: usize = 1_024;
/// How long what nobody took rests: its notifier has made its own attempts.
const AGAIN: Duration = Duration::from_secs(60);
/// An alert is given up after this: what a notifier may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Alerts on their way at a time, at most.
const MOST_UNDER_WAY: usize = 64;

/// What was told, and until when it is not told again.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashMap<(AlertKind, Box<str>), Instant>>);

impl Told {
    fn is_news(&self, kind: AlertKind, about: &str, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MOST {
            told.clear();
        }
        let until = told.entry((kind, about.into())).or_insert(now);
        let is_news = *until <= now;
        if is_news {
            *until = later(now, QUIET);
        }
        is_news
    }

    /// Nobody has it.
    fn failed(&self, kind: AlertKind, about: &str, now: Instant) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // None: it is over meanwhile.
        if let Some(until) = told.get_mut(&(kind, about.into())) {
            *until = later(now, AGAIN);
        }
    }

    /// It is over: when it comes again, it is news.
    pub(super) fn forget(&self, kind: AlertKind, about: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(kind, about.into()));
    }
}

/// How many alerts are on their way, and how many reached nobody.
#[derive(Debug, Default)]
pub(super) struct Alerts {
    under_way: AtomicUsize,
    lost: AtomicU64,
    /// Those of them that no later alert has spoken of.
    unsaid: AtomicU64,
}

impl Alerts {
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Acquire)
    }
}

impl State {
    /// Tells whoever is to be told, once a day, and again if nobody took it. The title is made where it is needed.
    pub(super) fn tell_once(self: &Arc<Self>, kind: AlertKind, about: &str, title: impl FnOnce() -> String) {
        if self.told.is_news(kind, about, Instant::now()) {
            self.tell(kind, about, &title());
        }
    }

    /// In a task of its own: a notifier that hangs delays no call. A shutdown gives up at its deadline what is still on
    /// its way.
    fn tell(self: &Arc<Self>, kind: AlertKind, about: &str, title: &str) {
        let before = self.alerts.under_way.fetch_add(1, Ordering::AcqRel);
        let mut telling = Telling { state: Arc::clone(self), kind, about: about.into(), unsaid: 0, arrived: false };
        if before >= MOST_UNDER_WAY || in_runtime().is_err() {
            return;
        }
        telling.unsaid = self.alerts.unsaid.swap(0, Ordering::AcqRel);
        let mut alert = Alert::new(kind, about, title, self.clock.now());
        if telling.unsaid > 0 {
            alert = alert.detail("alerts that did not arrive before", telling.unsaid);
        }
        self.tasks.spawn(telling.deliver(alert));
    }
}

/// An alert on its way. However its task ends, it is counted out; one that did not arrive may be told again.
struct Telling {
    state: Arc<State>,
    kind: AlertKind,
    about: Box<str>,
    /// Those before it that it speaks of.
    unsaid: u64,
    arrived: bool,
}

impl Telling {
    async fn deliver(mut self, alert: Alert) {
        let told = timeout(PATIENCE, AssertUnwindSafe(self.state.notifier.notify(&alert)).catch_unwind());
        let arrived = tokio::select! {
            biased;
            told = told => matches!(told, Ok(Ok(Ok(())))),
            () = self.state.cancel.cancelled() => false,
        };
        self.arrived = arrived;
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let alerts = &self.state.alerts;
        alerts.under_way.fetch_sub(1, Ordering::AcqRel);
        if self.arrived {
            return;
        }
        alerts.lost.fetch_add(1, Ordering::AcqRel);
        alerts.unsaid.fetch_add(self.unsaid + 1, Ordering::AcqRel);
        self.state.told.failed(self.kind, &self.about, Instant::now());
        tracing::warn!(alert = self.kind.as_str(), about = &*self.about, "an alert did not arrive");
    }
}
