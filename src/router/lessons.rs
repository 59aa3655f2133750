//! What refusals teach: a model that refuses a parameter lacks an ability, for a day.
//!
//! Why not for good: engines are upgraded, and a refusal may have been a mistake of theirs. Why at all: without it every
//! request that needs the ability pays a failed attempt.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Ability, Known, ModelRoute, Word, table::Table};
use crate::types::{RouteId, later};

/// How long a refusal is believed.
const DAY: Duration = Duration::from_secs(86_400);
/// Lessons that are kept; a service of a thousand routes with four abilities each has no more.
const MOST: usize = 4_096;

/// One lesson, with what was known before.
#[derive(Debug)]
struct Lesson {
    route: RouteId,
    ability: Ability,
    until: Instant,
    before: (Known, Word),
}

/// The lessons that hold.
#[derive(Debug, Default)]
pub(super) struct Lessons(Mutex<Vec<Lesson>>);

impl Lessons {
    fn lock(&self) -> MutexGuard<'_, Vec<Lesson>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a lesson has ended.
    pub(super) fn any_ended(&self, now: Instant) -> bool {
        self.lock().iter().any(|lesson| lesson.until <= now)
    }

    /// The table in which the route lacks the ability; `None` if somebody with a better word says otherwise, or if it
    /// is known already.
    pub(super) fn learn(&self, table: &Table, route: &RouteId, ability: Ability, now: Instant) -> Option<Table> {
        let mut lessons = self.lock();
        if let Some(known) = lessons.iter_mut().find(|lesson| lesson.route == *route && lesson.ability == ability) {
            known.until = later(now, DAY);
            return None;
        }
        let mut taught = ModelRoute::clone(&table.entry(route)?.route);
        let (known, by) = taught.ability(ability);
        if *by > Word::Learned || lessons.len() >= MOST {
            return None;
        }
        lessons.push(Lesson { route: route.clone(), ability, until: later(now, DAY), before: (*known, *by) });
        (*known, *by) = (Known::No, Word::Learned);
        Some(table.with(taught))
    }

    /// The table without the lessons that have ended.
    pub(super) fn forget(&self, table: &Table, now: Instant) -> Option<Table> {
        let mut lessons = self.lock();
        let ended: Vec<_> = lessons.extract_if(.., |lesson| lesson.until <= now).collect();
        let mut next = None::<Table>;
        for Lesson { route, ability, before, .. } in ended {
            let table = next.as_ref().unwrap_or(table);
            let Some(mut known) = table.entry(&route).map(|entry| ModelRoute::clone(&entry.route)) else { continue };
            let (can, by) = known.ability(ability);
            // Somebody with a better word may have spoken since.
            if *by == Word::Learned {
                (*can, *by) = before;
                next = Some(table.with(known));
            }
        }
        next
    }
}
