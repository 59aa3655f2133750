//! What somebody was told already: news that stay true for days are told once a day.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::state::State;
use crate::{notify::AlertKind, types::later};

/// How long the same is not told again.
const QUIET: Duration = Duration::from_secs(86_400);
/// How much is remembered; past it all is forgotten, and may be told again sooner.
const MOST: usize = 1_024;

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
}

impl State {
    /// Tells whoever is to be told, once a day. The title is made where it is needed.
    pub(super) fn tell_once(self: &Arc<Self>, kind: AlertKind, about: &str, title: impl FnOnce() -> String) {
        if self.told.is_news(kind, about, Instant::now()) {
            self.alert(kind, about, &title());
        }
    }
}
