//! What somebody was told already: news that stay true for days are told once a day.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::state::State;
use crate::{
    notify::AlertKind,
    types::{RouteId, later},
};

/// How long the same is not told again.
const QUIET: Duration = Duration::from_secs(86_400);
/// How much is remembered; past it what was told first is forgotten, and may be told again sooner.
const MOST: usize = 1_024;

/// What was told, and until when it is not told again. Names may be as long as a caller likes: their hashes are kept,
/// by a key of this process that nobody can aim at.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashMap<u64, Instant>>, RandomState);

impl Told {
    fn is_news(&self, kind: AlertKind, about: &str, now: Instant) -> bool {
        let what = self.1.hash_one((kind, about));
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(&what).is_some_and(|until| now < *until) {
            return false;
        }
        if told.len() >= MOST {
            let first = told.iter().min_by_key(|(_, until)| **until).map(|(what, _)| *what);
            first.and_then(|first| told.remove(&first));
        }
        told.insert(what, later(now, QUIET));
        true
    }
}

impl State {
    /// Tells whoever is to be told, once a day. The title is made where it is needed.
    pub(super) fn tell_once(self: &Arc<Self>, kind: AlertKind, about: &str, title: impl FnOnce() -> String) {
        if self.told.is_news(kind, about, Instant::now()) {
            self.alert(kind, about, &title());
        }
    }

    /// Whether the router knows this route: what callers make up is no news.
    pub(super) fn knows(&self, route: &RouteId) -> bool {
        let known = AssertUnwindSafe(|| self.router.routes().iter().any(|known| known.id() == route));
        catch_unwind(known).unwrap_or(false)
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
            told.is_news(AlertKind::ModelRedirected, &name, start + Duration::from_secs(u64::from(number)))
        };
        assert!((0..2_000).all(tell));
        assert!(told.0.lock().unwrap().len() <= MOST);
        assert!(!(1_000..2_000).any(tell), "those of late are remembered");
        assert!(tell(0));
        assert!(told.is_news(AlertKind::ModelDeprecated, "1999", start), "of another kind");
    }

    #[test]
    fn the_same_is_news_again_after_a_day() {
        let (told, start) = (Told::default(), Instant::now());
        let tell = |after: Duration| told.is_news(AlertKind::ModelDeprecated, "m", start + after);
        assert_eq!([Duration::ZERO, QUIET / 2, QUIET, QUIET].map(tell), [true, false, true, false]);
    }
}
