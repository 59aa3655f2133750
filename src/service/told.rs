//! What somebody was told already: news that stay true for days are told once a day.
//!
//! Told is what a notifier has taken. What none took is told again at the next occasion a minute later or more, and the
//! alert that arrives then says how many did not. Nothing is queued for that: what still matters comes again, and what does
//! not needs nobody's attention.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};

use super::state::{State, in_runtime};
#[cfg(feature = "batch")]
use crate::types::FOREVER;
use crate::{
    cache::CacheError,
    notify::{Alert, AlertKind},
    types::{RouteId, later},
};

/// How long the same is not told again.
const QUIET: Duration = Duration::from_secs(86_400);
/// How much is remembered; past it what was told first is forgotten, and may be told again sooner.
const MOST: usize = 1_024;
/// How long what nobody took rests: its notifier has made its own attempts.
const AGAIN: Duration = Duration::from_secs(60);
/// An alert is given up after this: what a notifier may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Alerts on their way at a time, at most.
const MOST_UNDER_WAY: usize = 64;

/// What was told, and until when it is not told again. Names may be as long as a caller likes: their hashes are kept,
/// by a key of this process that nobody can aim at.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashMap<u64, Instant>>, RandomState);

impl Told {
    fn is_news(&self, kind: AlertKind, about: &str, now: Instant, quiet: Duration) -> bool {
        let what = self.1.hash_one((kind, about));
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(&what).is_some_and(|until| now < *until) {
            return false;
        }
        if told.len() >= MOST {
            let first = told.iter().min_by_key(|(_, until)| **until).map(|(what, _)| *what);
            first.and_then(|first| told.remove(&first));
        }
        told.insert(what, later(now, quiet));
        true
    }

    /// Nobody has it.
    fn failed(&self, kind: AlertKind, about: &str, now: Instant) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // None: it is over meanwhile.
        if let Some(until) = told.get_mut(&self.1.hash_one((kind, about))) {
            *until = later(now, AGAIN);
        }
    }

    /// Whether it was told, or tried to.
    #[cfg(feature = "batch")]
    fn knows(&self, kind: AlertKind, about: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&self.1.hash_one((kind, about)))
    }

    /// It is over: when it comes again, it is news.
    pub(super) fn forget(&self, kind: AlertKind, about: &str) {
        let what = self.1.hash_one((kind, about));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&what);
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
        if self.told.is_news(kind, about, Instant::now(), QUIET) {
            self.tell(kind, about, &title());
        }
    }

    /// Tells what is news at one moment: then, and at later occasions if nobody took it. Who asks forgets it when it is
    /// over.
    #[cfg(feature = "batch")]
    pub(super) fn tell_at(
        self: &Arc<Self>,
        is_the_moment: bool,
        (kind, about): (AlertKind, &str),
        title: impl FnOnce() -> String,
    ) {
        let is_due = is_the_moment || self.told.knows(kind, about);
        if is_due && self.told.is_news(kind, about, Instant::now(), FOREVER) {
            self.tell(kind, about, &title());
        }
    }

    /// The same of a batch, by its id or its job's.
    #[cfg(feature = "batch")]
    pub(super) fn tell_batch(self: &Arc<Self>, kind: AlertKind, about: &str, title: impl FnOnce() -> String) {
        self.tell_once(kind, about, title);
    }

    /// A look-up failed, which costs a miss. That somebody else writes to the cache must be heard of.
    pub(super) fn look_up_failed(self: &Arc<Self>, error: &CacheError) {
        tracing::warn!(%error, "cache look-up failed, going on without");
        if error.is_forged() {
            self.tell_once(AlertKind::CacheTampered, "cache", || error.to_string());
        }
    }

    /// Whether the router knows this route: what callers make up is no news.
    pub(super) fn knows(&self, route: &RouteId) -> bool {
        let known = AssertUnwindSafe(|| self.router.routes().iter().any(|known| known.id() == route));
        catch_unwind(known).unwrap_or(false)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_is_forgotten_first() {
        let (told, start) = (Told::default(), Instant::now());
        let tell = |number: u32| {
            let name = format!("{number} {}", "x".repeat(1_000));
            told.is_news(AlertKind::ModelRedirected, &name, start + Duration::from_secs(u64::from(number)), QUIET)
        };
        assert!((0..2_000).all(tell));
        assert!(told.0.lock().unwrap().len() <= MOST);
        assert!(!(1_000..2_000).any(tell), "those of late are remembered");
        assert!(tell(0));
        assert!(told.is_news(AlertKind::ModelDeprecated, "1999", start, QUIET), "of another kind");
    }

    #[test]
    fn the_same_is_news_again_after_a_day() {
        let (told, start) = (Told::default(), Instant::now());
        let tell = |after: Duration| told.is_news(AlertKind::ModelDeprecated, "m", start + after, QUIET);
        assert_eq!([Duration::ZERO, QUIET / 2, QUIET, QUIET].map(tell), [true, false, true, false]);
    }
}
