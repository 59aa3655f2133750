//! What was learned of one route: how long it takes and how often it answers, against what was expected of it.
//!
//! # Why ratios and not seconds
//!
//! The time of an answer is mostly its length. A ratio to what an answer of that length was expected to take says whether
//! the route is slow; a mean of seconds says what it was asked.
//!
//! # Why nothing is remembered for long
//!
//! An estimate that nobody refreshes fades to what was expected within a minute or two: whatever once looked bad is tried
//! again, and nothing can stay stuck.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::types::{Usage, later};

/// Over which time a latency is averaged where results come fast.
const LATENCY: f64 = 5.0;
/// How much one result counts at most: where they come slowly, ten of them make an average.
const MOST_WEIGHT: f64 = 0.1;
/// How much a probe counts: there are few, and they are to tell something new.
const PROBE_WEIGHT: f64 = 0.34;
/// Over which time what is usual for a route of unknown latency is averaged.
const USUAL: f64 = 600.0;
/// Results that count as a plain mean before the averages above take over.
const FIRST: u32 = 9;
/// What a few results count where they look better than expected: as much as that many more as expected beside them.
const DOUBT: f64 = 6.0;
/// A result is fresh for so long.
const FRESH: Duration = Duration::from_secs(30);
/// An estimate stands so long without a result before it fades, and how fast it fades then.
const STANDS: f64 = 10.0;
const FADES: f64 = 60.0;
/// The share of answers that is expected.
const GOOD: f64 = 0.99;
/// The two times over which answers are counted, soon and surely, and how many results the expectation is worth in each:
/// one failure among ten results says little, six among sixty say much.
const SOON: Horizon = Horizon { time: 10.0, worth: 40.0 };
const SURELY: Horizon = Horizon { time: 60.0, worth: 15.0 };
/// The share of a nominal answer's time that passes before its first token, and the tokens that it has.
const BEFORE_FIRST: f64 = 0.3;
const TOKENS: f64 = 256.0;
/// A stream that waited for its reader for more than this share of its time says nothing about its pace: the provider may
/// have worked meanwhile, or not.
const HELD_UP: f64 = 0.25;
/// Slower than expected by this much is not clean, unless the first choice is slow as well, by this much less.
const NOT_CLEAN: f64 = 2.0;
const AS_SLOW: f64 = 1.42;
/// Clean results that a route needs after it was slow, and at most.
const LEAST_CLEAN: f64 = 3.0;
const MOST_CLEAN: f64 = 30.0;
/// How long a route that failed now and then must be clean.
const CLEAN_FOR: Duration = Duration::from_secs(15);
/// The first probe goes out after this, and the next ones sooner with each clean result.
const PROBE_AFTER: Duration = Duration::from_secs(2);
/// The share of calls that probe a slow route. One that fails now and then needs more of them to show it.
const PROBE_SHARE: f64 = 0.05;
const MOST_PROBE_SHARE: f64 = 0.3;
const MOST_FAILING_SHARE: f64 = 0.4;

/// What was learned of a route. Outlives a replacement of the route.
#[derive(Debug, Default)]
pub(super) struct Learned(Mutex<Knowledge>);

#[derive(Debug, Default)]
struct Knowledge {
    /// Seconds that a nominal answer usually takes, as a logarithm.
    usual: Mean,
    first: Mean,
    pace: Mean,
    soon: Share,
    surely: Share,
    /// Its failures are the ejection's business.
    ejected: bool,
    /// When that began or ended: what was dispatched before says nothing.
    since: Option<Instant>,
    demoted: Option<Demoted>,
}

/// A mean that moves.
#[derive(Debug, Default)]
struct Mean {
    value: f64,
    results: u32,
    at: Option<Instant>,
}

/// How far back results count.
#[derive(Clone, Copy, Debug)]
struct Horizon {
    time: f64,
    worth: f64,
}

/// Answers and failures, each counting less as time goes by.
#[derive(Debug, Default)]
struct Share {
    good: f64,
    bad: f64,
    at: Option<Instant>,
}

/// A route that was the first choice and is not any more.
#[derive(Debug)]
struct Demoted {
    at: Instant,
    /// The share of its calls that failed, where that was the reason.
    failing: Option<f64>,
    clean: u32,
    /// The sum of their ratios, as logarithms.
    ratios: f64,
    clean_since: Option<Instant>,
    last_probe: Instant,
    turned_away: u32,
}

/// What is known of a route now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    /// Seconds to a nominal answer.
    pub(super) seconds: f64,
    /// How likely it answers.
    pub(super) success: f64,
    /// The logarithm of how much slower it is than expected.
    pub(super) slower: f64,
    /// Results of the last half minute.
    pub(super) fresh: u32,
    /// Results that its time rests on, however old.
    pub(super) seen: u32,
    pub(super) demoted: bool,
}

/// What is expected of a route beside what was seen of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Seconds to a nominal answer, if somebody said so.
    pub(super) said: Option<f64>,
    /// Seconds where nothing is known.
    pub(super) unknown: f64,
    /// The logarithm of how much slower all routes are than expected.
    pub(super) common: f64,
}

/// What a result changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// It may be the first choice again.
    Returned,
}

impl Learned {
    fn lock(&self) -> MutexGuard<'_, Knowledge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub(super) fn estimate(&self, now: Instant, expected: &Expected) -> Estimate {
        let known = self.lock();
        let base = known.base(expected.said).unwrap_or(expected.unknown);
        let [first, pace] = [&known.first, &known.pace].map(|mean| mean.faded(now, expected.common));
        let slower = BEFORE_FIRST.mul_add(first, (1.0 - BEFORE_FIRST) * pace);
        Estimate {
            seconds: base * BEFORE_FIRST.mul_add(first.exp(), (1.0 - BEFORE_FIRST) * pace.exp()),
            success: known.soon.mean(now, SOON).min(known.surely.mean(now, SURELY)),
            slower,
            fresh: known.pace.fresh(now),
            seen: known.first.results.max(known.pace.results),
            demoted: known.demoted.is_some(),
        }
    }

    /// The logarithm of the seconds that a nominal answer usually takes, if any was seen.
    pub(super) fn usual(&self) -> Option<f64> {
        let known = self.lock();
        (known.usual.results > 0).then_some(known.usual.value)
    }

    /// An answer came.
    pub(super) fn answered(&self, seen: &Seen, said: Option<f64>, common: f64) -> Change {
        let known = &mut *self.lock();
        known.count(seen, true);
        let seen = &seen.timed();
        let tokens = f64::from(u32::try_from(seen.usage.completion).unwrap_or(u32::MAX));
        let took = seen.took.as_secs_f64().max(1e-3);
        let nominal = nominal(seen.usage.completion);
        if said.is_none() {
            known.usual.add((took / nominal).ln(), seen.ended(), USUAL, 0.0);
        }
        let base = known.base(said).unwrap_or(took / nominal);
        let floor = if known.demoted.is_some() { PROBE_WEIGHT } else { 0.0 };
        let mut add = |mean: fn(&mut Knowledge) -> &mut Mean, ratio: f64| {
            mean(known).add(ratio.max(1e-6).ln(), seen.ended(), LATENCY, floor);
        };
        let whole = took / (base * nominal);
        match seen.first {
            Some(first) if tokens >= 8.0 => {
                let first = first.as_secs_f64();
                add(|known| &mut known.first, first / (base * BEFORE_FIRST));
                add(|known| &mut known.pace, (took - first) / (base * (1.0 - BEFORE_FIRST) * tokens / TOKENS));
            }
            Some(first) => add(|known| &mut known.first, first.as_secs_f64() / (base * BEFORE_FIRST)),
            None => {
                add(|known| &mut known.first, whole);
                add(|known| &mut known.pace, whole);
            }
        }
        let is_clean = whole < NOT_CLEAN || whole.ln() < AS_SLOW.ln() + common;
        known.probed(seen, is_clean.then_some(whole))
    }

    /// It failed, and it was its fault.
    pub(super) fn failed(&self, seen: &Seen) -> Change {
        let known = &mut *self.lock();
        known.count(seen, false);
        known.probed(seen, None)
    }

    /// The service took it out, or lets it back: then what failed until now is forgotten, for its probes know better.
    pub(super) fn ejected(&self, out: bool, at: Instant) {
        let known = &mut *self.lock();
        (known.ejected, known.since) = (out, Some(at));
        (known.soon, known.surely) = (Share::default(), Share::default());
        known.demoted = None;
    }

    /// It is not the first choice any more. `slow`: for its latency and not for its failures.
    pub(super) fn demote(&self, now: Instant, slow: bool) {
        let known = &mut *self.lock();
        let failing = (!slow).then(|| known.surely.bad_share(now, SURELY));
        known.demoted = Some(Demoted {
            at: now,
            failing,
            clean: 0,
            ratios: 0.0,
            clean_since: None,
            last_probe: now,
            turned_away: 0,
        });
    }

    /// Whether a call of now should probe it. The turn stays until the call goes out: one that the cache answers finds
    /// nothing out.
    pub(super) fn ask_probe(&self, now: Instant) -> bool {
        let mut known = self.lock();
        let Some(demoted) = &mut known.demoted else { return false };
        demoted.turned_away = demoted.turned_away.saturating_add(1);
        demoted.is_due(now)
    }

    /// The share of calls that probe it, about; 0 where none does.
    pub(super) fn probe_share(&self) -> f64 {
        self.lock().demoted.as_ref().map_or(0.0, Demoted::share)
    }

    /// Takes the turn for a call that goes out now, if nobody else did; `None` where no probes are due at all.
    pub(super) fn take_probe(&self, now: Instant) -> Option<bool> {
        let mut known = self.lock();
        let demoted = known.demoted.as_mut()?;
        let is_due = demoted.is_due(now);
        if is_due {
            demoted.asked_at(now);
        }
        Some(is_due)
    }
}

/// How long an answer of so many tokens takes, of what one of 256 takes.
pub(super) fn nominal(tokens: u64) -> f64 {
    let tokens = f64::from(u32::try_from(tokens).unwrap_or(u32::MAX));
    (1.0 - BEFORE_FIRST).mul_add(tokens / TOKENS, BEFORE_FIRST)
}

/// A result, as far as it teaches something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) dispatched: Instant,
    pub(super) took: Duration,
    pub(super) first: Option<Duration>,
    pub(super) usage: Usage,
    /// How long it waited for its reader.
    pub(super) held_up: Duration,
}

impl Seen {
    fn ended(&self) -> Instant {
        later(later(self.dispatched, self.took), self.held_up)
    }

    /// As much of it as is known: of a stream that waited long for its reader, only when it began.
    fn timed(self) -> Self {
        match self.first {
            Some(first) if self.held_up > self.took.mul_f64(HELD_UP) => {
                let rest = self.took.saturating_sub(first);
                let usage = Usage { completion: 0, ..self.usage };
                Self { took: first, usage, held_up: self.held_up.saturating_add(rest), ..self }
            }
            _ => self,
        }
    }
}

impl Knowledge {
    fn base(&self, said: Option<f64>) -> Option<f64> {
        said.or_else(|| (self.usual.results > 0).then(|| self.usual.value.exp()))
    }

    fn count(&mut self, seen: &Seen, good: bool) {
        let at = seen.ended();
        if !self.ejected && self.since.is_none_or(|since| seen.dispatched >= since) {
            self.soon.add(at, SOON, good);
            self.surely.add(at, SURELY, good);
        }
    }

    /// Counts a result of a demoted route; with its ratio to what was expected if it is clean.
    fn probed(&mut self, seen: &Seen, clean: Option<f64>) -> Change {
        let Some(demoted) = &mut self.demoted else { return Change::None };
        if seen.dispatched < demoted.at {
            return Change::None;
        }
        // A call that came here another way tells as much as a probe.
        if seen.dispatched > demoted.last_probe {
            demoted.asked_at(seen.dispatched);
        }
        let Some(ratio) = clean else {
            (demoted.clean, demoted.ratios, demoted.clean_since) = (0, 0.0, None);
            return Change::None;
        };
        demoted.clean += 1;
        demoted.ratios += ratio.max(1e-6).ln();
        let since = *demoted.clean_since.get_or_insert(seen.dispatched);
        let long_enough = demoted.failing.is_none() || seen.ended().saturating_duration_since(since) >= CLEAN_FOR;
        if f64::from(demoted.clean) < demoted.needed() || !long_enough {
            return Change::None;
        }
        // The clean results stand for what was before them.
        let mean = demoted.ratios / f64::from(demoted.clean);
        for known in [&mut self.first, &mut self.pace] {
            (known.value, known.results) = (mean, demoted.clean);
        }
        if demoted.failing.is_some() {
            (self.soon, self.surely) = (Share::default(), Share::default());
        }
        self.demoted = None;
        Change::Returned
    }
}

impl Demoted {
    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_probe) >= PROBE_AFTER / (1 + self.clean)
            && f64::from(self.turned_away) * self.share() >= 1.0
    }

    const fn asked_at(&mut self, at: Instant) {
        (self.last_probe, self.turned_away) = (at, 0);
    }

    /// Results that would show a failure by now if it were there (the rule of three).
    fn needed(&self) -> f64 {
        self.failing.map_or(LEAST_CLEAN, |share| (3.0 / share.max(1e-3)).ceil().clamp(LEAST_CLEAN, MOST_CLEAN))
    }

    /// The share of calls that probe it. Of one that fails now and then most probes are clean: they earn it less.
    fn share(&self) -> f64 {
        let clean = f64::from(self.clean);
        match self.failing {
            None => 0.1f64.mul_add(clean, PROBE_SHARE).min(1.0),
            Some(share) => {
                let first = (0.01 / share.max(1e-3)).clamp(PROBE_SHARE, MOST_PROBE_SHARE);
                0.03f64.mul_add(clean, first).min(MOST_FAILING_SHARE)
            }
        }
    }
}

impl Mean {
    fn add(&mut self, value: f64, now: Instant, time: f64, floor: f64) {
        let since = self.at.map_or(f64::INFINITY, |at| now.saturating_duration_since(at).as_secs_f64());
        if since > FRESH.as_secs_f64() {
            self.results = if time > LATENCY { self.results } else { 0 };
        }
        self.results = self.results.saturating_add(1);
        let mean = if self.results <= FIRST { 1.0 / f64::from(self.results) } else { 0.0 };
        let moving = (1.0 - (-since / time).exp()).min(MOST_WEIGHT);
        let weight = moving.max(mean).max(floor);
        self.value += (value - self.value) * weight;
        self.at = Some(now);
    }

    /// The value, or as much of it as has not faded yet.
    fn faded(&self, now: Instant, towards: f64) -> f64 {
        let Some(at) = self.at else { return towards };
        let idle = now.saturating_duration_since(at).as_secs_f64() - STANDS;
        let kept = if idle <= 0.0 { 1.0 } else { (-idle / FADES).exp() };
        // Of the routes that had two results, the luckiest always looks good.
        let results = f64::from(self.results);
        let trust = if self.value < towards { results / (results + DOUBT) } else { 1.0 };
        (self.value - towards).mul_add(kept * trust, towards)
    }

    fn fresh(&self, now: Instant) -> u32 {
        let is_fresh = self.at.is_some_and(|at| now.saturating_duration_since(at) <= FRESH);
        if is_fresh { self.results } else { 0 }
    }
}

impl Share {
    fn add(&mut self, now: Instant, over: Horizon, good: bool) {
        let kept = self.kept(now, over);
        self.good = self.good.mul_add(kept, f64::from(u8::from(good)));
        self.bad = self.bad.mul_add(kept, f64::from(u8::from(!good)));
        self.at = Some(now);
    }

    fn kept(&self, now: Instant, Horizon { time, .. }: Horizon) -> f64 {
        self.at.map_or(0.0, |at| (-now.saturating_duration_since(at).as_secs_f64() / time).exp())
    }

    fn mean(&self, now: Instant, over: Horizon) -> f64 {
        let (kept, worth) = (self.kept(now, over), over.worth);
        self.good.mul_add(kept, GOOD * worth) / (self.good + self.bad).mul_add(kept, worth)
    }

    fn bad_share(&self, now: Instant, over: Horizon) -> f64 {
        let kept = self.kept(now, over);
        self.bad * kept / ((self.good + self.bad).mul_add(kept, 1.0))
    }
}
