//! What refusals teach: a model that refuses a parameter lacks an ability, and one that is not available is gone, for a
//! day.
//!
//! Why not for good: engines are upgraded, and a refusal may have been a mistake of theirs. Why at all: without it every
//! request that needs the ability pays a failed attempt.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Ability, Known, ModelRoute, RouteState, Word, table::Table};
use crate::types::{RouteId, later};

/// How long a refusal is believed.
const DAY: Duration = Duration::from_secs(86_400);
/// Lessons that are kept; a service of a thousand routes with four abilities each has no more.
const MOST: usize = 4_096;

/// What a model lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    Ability(Ability),
    /// It is not there at all.
    Model,
}

/// One lesson, with what was known before.
#[derive(Debug)]
struct Lesson {
    route: RouteId,
    lack: Lack,
    until: Instant,
    before: Before,
}

#[derive(Debug)]
enum Before {
    Ability(Known, Word),
    State(RouteState),
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

    /// The table in which the route lacks it; `None` if somebody with a better word says otherwise, or if it is known
    /// already.
    pub(super) fn learn(&self, table: &Table, route: &RouteId, lack: Lack, now: Instant) -> Option<Table> {
        let mut lessons = self.lock();
        if let Some(known) = lessons.iter_mut().find(|lesson| lesson.route == *route && lesson.lack == lack) {
            known.until = later(now, DAY);
            // Registered anew meanwhile: it lacks it again, if it does.
            if is_learned(&table.entry(route)?.route, lack) {
                return None;
            }
        }
        let mut taught = ModelRoute::clone(&table.entry(route)?.route);
        let before = match lack {
            Lack::Ability(ability) => {
                let (known, by) = taught.ability(ability);
                if *by > Word::Learned {
                    return None;
                }
                let before = Before::Ability(*known, *by);
                (*known, *by) = (Known::No, Word::Learned);
                before
            }
            Lack::Model if taught.state == RouteState::Live => {
                Before::State(std::mem::replace(&mut taught.state, RouteState::Missing))
            }
            Lack::Model => return None,
        };
        lessons.retain(|lesson| lesson.route != *route || lesson.lack != lack);
        if lessons.len() >= MOST {
            return None;
        }
        lessons.push(Lesson { route: route.clone(), lack, until: later(now, DAY), before });
        Some(table.with(taught))
    }

    /// The table without the lessons that have ended.
    pub(super) fn forget(&self, table: &Table, now: Instant) -> Option<Table> {
        self.forget_those(table, |lesson| lesson.until <= now)
    }

    /// The table in which the model is there: it answered.
    pub(super) fn is_there(&self, table: &Table, route: &RouteId) -> Option<Table> {
        self.forget_those(table, |lesson| lesson.lack == Lack::Model && lesson.route == *route)
    }

    fn forget_those(&self, table: &Table, over: impl Fn(&Lesson) -> bool) -> Option<Table> {
        let mut lessons = self.lock();
        let ended: Vec<_> = lessons.extract_if(.., |lesson| over(lesson)).collect();
        let mut next = None::<Table>;
        for Lesson { route, lack, before, .. } in ended {
            let table = next.as_ref().unwrap_or(table);
            let Some(mut known) = table.entry(&route).map(|entry| ModelRoute::clone(&entry.route)) else { continue };
            // Somebody with a better word may have spoken since.
            if !is_learned(&known, lack) {
                continue;
            }
            match (lack, before) {
                (Lack::Ability(ability), Before::Ability(can, by)) => {
                    let known = known.ability(ability);
                    (*known.0, *known.1) = (can, by);
                }
                (_, Before::State(state)) => known.state = state,
                (Lack::Model, Before::Ability(..)) => {}
            }
            next = Some(table.with(known));
        }
        next
    }
}

/// Whether the lesson is what is known of the route.
fn is_learned(route: &ModelRoute, lack: Lack) -> bool {
    match lack {
        Lack::Ability(ability) => *route.clone().ability(ability).1 == Word::Learned,
        Lack::Model => route.state == RouteState::Missing,
    }
}
