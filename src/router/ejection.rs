//! Outlier ejection: a route that fails again and again gets no calls for a while, and is let back step by step.
//!
//! # Why the time does not double
//!
//! An ejection that grows with each failed probe outlives the outage that it answers: the first success then comes ten
//! seconds after the recovery and later. Two seconds and one probe cost next to nothing and find it at once.
//!
//! # Why failures count in the order of dispatch
//!
//! When a server breaks, answers to attempts from before still arrive. A success only ends a streak that it is a part of:
//! one that was dispatched before it says nothing about now.

use std::{collections::VecDeque, sync::PoisonError, time::Duration};

use tokio::time::Instant;

use crate::types::{
    Rng,
    sync::{AtomicBool, Mutex, MutexGuard, Ordering},
};

/// Failures in a row, in the order of dispatch, that eject.
const STREAK: usize = 5;
/// How long such a streak takes at least. Where a tenth of hundreds of attempts a second fails, five in a row happen by
/// chance every quarter of an hour.
const STREAK_TAKES: Duration = Duration::from_millis(250);
/// Failures in a row that eject however quickly they came.
const LONG_STREAK: usize = 10;
/// Failures in a row that eject again while a route returns.
const STREAK_RETURNING: usize = 2;
/// How many dispatches are looked at for a streak.
const LOOKED_AT: usize = 32;
/// Over which time the share of failures counts.
const WINDOW: Duration = Duration::from_secs(10);
/// Attempts within it that a share needs.
const ENOUGH: u64 = 20;
/// Failures that are remembered for it.
const MOST_FAILURES: usize = 256;
/// How long nothing goes out, give or take a fifth so that many clients do not come back together.
const OPEN: Duration = Duration::from_secs(2);
/// Probes at a time.
const PROBES: u32 = 3;
/// Successful probes that let a route back.
const CLEAN: u32 = 3;
/// How long a route takes to return: at first a tenth of its calls, then three, then all.
const RAMP: Duration = Duration::from_secs(3);

/// The ejection of one route. Cheap while nothing fails: no lock is taken.
#[derive(Debug)]
pub(crate) struct Ejection {
    /// Whether every call is let through: what a call without trouble looks at alone.
    calm: AtomicBool,
    state: Mutex<State>,
}

/// What an operator decided over the crate's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Override {
    /// No call goes there, no probe either.
    Eject,
    /// Every call goes there, however many fail.
    Admit,
}

/// Whether a route gets calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Availability {
    /// It does.
    Admitted,
    /// It failed too often: a probe now and then, no other call.
    Ejected,
    /// It answered its probes and gets a growing share of its calls.
    Returning,
    /// An operator said so.
    Forced(Override),
}

impl Availability {
    /// The name in logs and metrics: `admitted`, `ejected`, `returning`, `forced_out`, `forced_in`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Ejected => "ejected",
            Self::Returning => "returning",
            Self::Forced(Override::Eject) => "forced_out",
            Self::Forced(Override::Admit) => "forced_in",
        }
    }
}

/// What a call may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Go,
    /// One of the few that find out whether the route is back. Its end must be told.
    Probe,
    /// Not here; a probe may be due after this time, if that is known.
    Away(Option<Duration>),
}

/// What the end of an attempt changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Ejected,
    Returned,
}

/// What the end of an attempt says about a route's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Well,
    Ill,
    /// A refusal for our rate, a mistake of the caller's, a caller who left.
    Nothing,
}

#[derive(Debug, Default)]
struct State {
    forced: Option<Override>,
    phase: Phase,
    recent: Recent,
    /// Attempts with a lower number were dispatched before the last turn: they say nothing about now.
    since: u64,
}

/// The end of an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// Its place in the order of dispatch; none if it never went out.
    pub(crate) number: Option<u64>,
    /// How many attempts have been dispatched and have answered by now.
    pub(crate) dispatched: u64,
    pub(crate) answered: u64,
    pub(crate) at: Instant,
    pub(crate) probe: bool,
    pub(crate) verdict: Verdict,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Admitted,
    Ejected(Probes),
    Returning {
        since: Instant,
        asked: u32,
        let_in: u32,
    },
}

/// The probes of an ejected route.
#[derive(Debug)]
struct Probes {
    /// When it was ejected.
    since: Instant,
    /// When the next one may go out.
    next: Instant,
    /// Calls that went elsewhere since the last one.
    turned_away: u32,
    out: u32,
    clean: u32,
}

/// Ends of attempts, as far as they bear on a streak or a share.
#[derive(Debug, Default)]
struct Recent {
    /// By dispatch number: ill, or of no say. Who is not there was well or is still out.
    ends: VecDeque<(u64, Verdict, Instant)>,
    /// When attempts failed, each with how many had answered before.
    failures: VecDeque<(Instant, u64)>,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { calm: AtomicBool::new(true), state: Mutex::default() }
    }
}

impl Ejection {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let state = &mut *self.lock();
        let changed = change(state);
        self.calm.store(state.forced.is_none() && matches!(state.phase, Phase::Admitted), Ordering::Release);
        changed
    }

    /// Whether calls go there, probes aside.
    pub(crate) fn is_admitted(&self) -> bool {
        self.calm.load(Ordering::Acquire)
            || matches!(self.availability(), Availability::Admitted | Availability::Returning)
            || self.lock().forced == Some(Override::Admit)
    }

    /// Whether every call goes there, and not a share of them.
    pub(crate) fn takes_all(&self) -> bool {
        self.calm.load(Ordering::Acquire)
            || matches!(self.availability(), Availability::Admitted | Availability::Forced(Override::Admit))
    }

    /// Whether it is ejected, and no probe is due.
    pub(crate) fn is_shut(&self, now: Instant) -> bool {
        let state = self.lock();
        match (state.forced, &state.phase) {
            (Some(forced), _) => forced == Override::Eject,
            (None, Phase::Ejected(probes)) => now < probes.next || probes.out >= PROBES,
            (None, _) => false,
        }
    }

    /// Whether it is ejected for longer than this by now, or nobody knows that a probe will be due within that time; and
    /// none is due now.
    pub(crate) fn is_shut_for(&self, patience: Duration, now: Instant) -> bool {
        let state = self.lock();
        match (state.forced, &state.phase) {
            (Some(forced), _) => forced == Override::Eject,
            (None, Phase::Ejected(probes)) => {
                let is_shut = now < probes.next || probes.out >= PROBES;
                let is_long = now.saturating_duration_since(probes.since) > patience;
                is_shut && (is_long || probes.next.saturating_duration_since(now) > patience)
            }
            (None, _) => false,
        }
    }

    pub(crate) fn availability(&self) -> Availability {
        let state = self.lock();
        match (state.forced, &state.phase) {
            (Some(forced), _) => Availability::Forced(forced),
            (None, Phase::Admitted) => Availability::Admitted,
            // Nobody may have asked since.
            (None, Phase::Returning { since, .. }) if since.elapsed() >= RAMP => Availability::Admitted,
            (None, Phase::Ejected(_)) => Availability::Ejected,
            (None, Phase::Returning { .. }) => Availability::Returning,
        }
    }

    pub(crate) fn force(&self, forced: Option<Override>) {
        self.change(|state| *state = State { forced, ..State::default() });
    }

    /// Asks for a call. `alone`: whether no candidate would take it without a probe.
    pub(crate) fn ask(&self, now: Instant, alone: impl FnOnce() -> bool, rng: &dyn Rng) -> Pass {
        if self.calm.load(Ordering::Acquire) {
            return Pass::Go;
        }
        // Before the lock: it looks at other routes.
        let alone = alone();
        self.change(|state| match state.forced {
            Some(Override::Admit) => Pass::Go,
            Some(Override::Eject) => Pass::Away(None),
            None => state.ask(now, alone, rng),
        })
    }

    /// An attempt ended.
    pub(crate) fn ended(&self, end: &End, rng: &dyn Rng) -> Option<Turn> {
        if end.verdict == Verdict::Well && self.calm.load(Ordering::Acquire) {
            return None;
        }
        self.change(|state| {
            let turn = if end.probe { state.probed(end) } else { state.ended(end, rng) };
            if turn.is_some() {
                state.since = end.dispatched;
            }
            turn
        })
    }
}

/// [`OPEN`], give or take a fifth.
fn open(rng: &dyn Rng) -> Duration {
    OPEN.mul_f64(rng.next_f64().mul_add(0.4, 0.8))
}

impl State {
    fn ask(&mut self, now: Instant, alone: bool, rng: &dyn Rng) -> Pass {
        match &mut self.phase {
            Phase::Admitted => Pass::Go,
            Phase::Ejected(probes) => probes.ask(now, alone, rng),
            Phase::Returning { since, asked, let_in } => {
                let gone = now.saturating_duration_since(*since);
                if gone >= RAMP {
                    self.phase = Phase::Admitted;
                    return Pass::Go;
                }
                // Nobody else would take the rest: to turn calls away helps nobody.
                if alone {
                    return Pass::Go;
                }
                let tenths = if gone < RAMP / 2 { 1 } else { 3 };
                *asked = asked.saturating_add(1);
                if u64::from(*let_in) * 10 >= u64::from(*asked) * tenths {
                    return Pass::Away(None);
                }
                *let_in += 1;
                Pass::Go
            }
        }
    }

    fn ended(&mut self, end: &End, rng: &dyn Rng) -> Option<Turn> {
        let number = end.number.filter(|number| *number >= self.since)?;
        let streak = match self.phase {
            Phase::Admitted => STREAK,
            Phase::Returning { since, .. } if end.at.saturating_duration_since(since) >= RAMP => STREAK,
            Phase::Returning { .. } => STREAK_RETURNING,
            // From before: its probes know better.
            Phase::Ejected(_) => return None,
        };
        if end.verdict == Verdict::Well {
            return None;
        }
        let ill = self.recent.note(number, end, streak);
        if !ill || self.forced.is_some() {
            return None;
        }
        let probes = Probes { since: end.at, next: end.at + open(rng), turned_away: 0, out: 0, clean: 0 };
        (self.phase, self.recent) = (Phase::Ejected(probes), Recent::default());
        Some(Turn::Ejected)
    }

    fn probed(&mut self, end: &End) -> Option<Turn> {
        let now = end.at;
        // One of an ejection before this one says nothing about now.
        if end.number.is_some_and(|number| number < self.since) {
            return None;
        }
        let Phase::Ejected(probes) = &mut self.phase else { return None };
        probes.out = probes.out.saturating_sub(1);
        match end.verdict {
            // It never went out: the next one may take its turn.
            Verdict::Nothing if end.number.is_none() => probes.next = now,
            Verdict::Nothing => {}
            Verdict::Ill => probes.clean = 0,
            Verdict::Well => {
                probes.clean += 1;
                // No need to wait any more: it answers.
                probes.next = now;
            }
        }
        if probes.clean < CLEAN {
            return None;
        }
        self.phase = Phase::Returning { since: now, asked: 0, let_in: 0 };
        Some(Turn::Returned)
    }
}

impl Probes {
    fn ask(&mut self, now: Instant, alone: bool, rng: &dyn Rng) -> Pass {
        // Where others answer, a probe is a call that had better gone there: a twentieth at most, and more as it answers.
        let share = match self.clean {
            0 => 20,
            1 => 7,
            _ => 4,
        };
        let is_due = now >= self.next && (alone || self.turned_away >= share);
        if !is_due || self.out >= PROBES {
            self.turned_away = self.turned_away.saturating_add(1);
            return Pass::Away(Some(self.next.saturating_duration_since(now)));
        }
        self.out += 1;
        self.turned_away = 0;
        self.next = now + open(rng);
        Pass::Probe
    }
}

impl Recent {
    /// Notes an end that was not well; whether the route is ill.
    fn note(&mut self, number: u64, end: &End, streak: usize) -> bool {
        let End { answered, at: now, verdict, .. } = *end;
        if self.ends.len() >= LOOKED_AT {
            self.ends.pop_front();
        }
        let at = self.ends.partition_point(|(other, ..)| *other < number);
        self.ends.insert(at, (number, verdict, now));
        if verdict != Verdict::Ill {
            return false;
        }
        if self.failures.len() >= MOST_FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back((now, answered));
        while self.failures.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW) {
            self.failures.pop_front();
        }
        let (ill, since) = self.streak(at, now);
        let takes = if streak < STREAK { Duration::ZERO } else { STREAK_TAKES };
        let is_streak = ill >= streak && now.saturating_duration_since(since) >= takes;
        is_streak || ill >= LONG_STREAK || self.is_half(answered)
    }

    /// How many failures there are in an unbroken run of dispatch numbers around this place, and when the first ended.
    fn streak(&self, at: usize, now: Instant) -> (usize, Instant) {
        let (mut ill, mut since) = (1, now);
        let mut run = |places: &mut dyn Iterator<Item = usize>, step: i64| {
            let mut expected = self.ends.get(at).map(|(number, ..)| *number);
            for place in places {
                expected = expected.and_then(|number| number.checked_add_signed(step));
                let Some((number, verdict, ended)) = self.ends.get(place) else { break };
                if Some(*number) != expected {
                    break;
                }
                if *verdict == Verdict::Ill {
                    ill += 1;
                    since = since.min(*ended);
                }
            }
        };
        run(&mut (0..at).rev(), -1);
        run(&mut (at + 1..self.ends.len()), 1);
        (ill, since)
    }

    /// Whether at least half of the attempts failed since the first failure within the window.
    fn is_half(&self, answered: u64) -> bool {
        let Some((_, before)) = self.failures.front() else { return false };
        let (failed, answered) = (self.failures.len() as u64, answered.saturating_sub(*before));
        failed + answered >= ENOUGH && failed >= answered
    }
}

#[cfg(test)]
#[path = "ejection_tests.rs"]
mod tests;
