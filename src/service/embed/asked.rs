//! What a call has asked for, and what came of it.

use std::sync::Arc;

use super::texts::Vector;
use crate::{
    inference::{Answer, Attempt, Origin, Output},
    service::{
        attempts::Done,
        error::{Error, total_cost},
        plan::{Plan, no_attempts, no_warnings},
    },
    types::{Usage, UsageSource, Usd},
};

/// What was asked for and brought.
#[derive(Default)]
pub(super) struct Asked {
    parts: Vec<Done>,
    pub(super) attempts: Vec<Attempt>,
    /// Parts that were asked for, also those of a model that failed later.
    count: usize,
}

impl Asked {
    pub(super) const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(super) fn attempted(&self) -> u16 {
        // An admission that was passed over takes a number as well: three a part and one for each candidate.
        u16::try_from(self.count * 16).unwrap_or(u16::MAX)
    }

    /// What the parts so far may have cost.
    pub(super) fn spent(&self) -> Usd {
        total_cost(&self.attempts).charge()
    }

    pub(super) fn push(&mut self, done: Done) {
        self.attempts.extend_from_slice(&done.attempts);
        self.parts.push(done);
        self.count += 1;
    }

    /// What was brought is of no use, and was paid for all the same.
    pub(super) fn start_over(&mut self) {
        self.parts.clear();
        // The part that failed took numbers too.
        self.count += 1;
    }

    /// The error of a part, with what the parts before it cost.
    pub(super) fn failed(&self, error: &Error) -> Error {
        error.clone().with_attempts([&self.attempts, error.attempts()].concat())
    }

    pub(super) fn into_done(self, plan: &Plan, vectors: Vec<Vector>) -> Done {
        let sum =
            |of: fn(&Usage) -> u64| self.parts.iter().map(|done| of(&done.answer.usage)).fold(0, u64::saturating_add);
        let usage = Usage { prompt: sum(|usage| usage.prompt), cached: sum(|usage| usage.cached), ..Usage::default() };
        let reported = self.parts.iter().all(|done| done.usage_source == UsageSource::Reported);
        let last = self.parts.last();
        let served = last.map_or_else(|| plan.asked().model().clone(), |done| done.answer.served.clone());
        let answer = Answer {
            output: Arc::new(Output::Embedding(vectors)),
            served,
            usage,
            usage_reported: reported && last.is_some(),
            // One part's JSON is not the answer's.
            raw: last.filter(|_| self.parts.len() == 1).map(|done| done.answer.raw.clone()).unwrap_or_default(),
        };
        Done {
            answer: Arc::new(answer),
            route: last.map_or_else(|| plan.asked().clone(), |done| done.route.clone()),
            cost: total_cost(&self.attempts),
            worth: total_cost(&self.attempts),
            usage_source: match (last, reported) {
                (None, _) => UsageSource::None,
                (Some(_), true) => UsageSource::Reported,
                (Some(_), false) => UsageSource::Counted,
            },
            request_id: last.and_then(|done| done.request_id.clone()),
            warnings: last.map_or_else(no_warnings, |done| Arc::clone(&done.warnings)),
            from_cache: last.is_none().then_some(Origin::default()),
            attempts: if self.attempts.is_empty() { no_attempts() } else { self.attempts.into() },
        }
    }
}
