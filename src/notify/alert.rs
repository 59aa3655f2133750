//! What is told: an alert, its kind and its bounds.

use std::{fmt, time::SystemTime};

/// The most bytes of an alert as JSON: below the limit of every receiver that is known (Standard Webhooks 20 kB,
/// Slack's and `PagerDuty`'s text fields).
pub const MAX_ALERT_BYTES: usize = 8 * 1_024;

/// The most bytes of a title.
const MAX_TITLE: usize = 256;
/// The most bytes of a key: `PagerDuty`'s limit of a `dedup_key`.
const MAX_KEY: usize = 255;
/// The most bytes of a detail's name.
const MAX_NAME: usize = 64;
/// What is left to the names, the kind, the severity and the time around the texts.
const ENVELOPE: usize = 512;
/// What the quotes, the colon and the comma around a detail take.
const AROUND_DETAIL: usize = 8;

/// Declares the kinds with their names and usual severities in one table, so that none of the three is forgotten.
macro_rules! alert_kinds {
    ($($(#[$doc:meta])+ $kind:ident = $name:literal, $severity:ident;)+) => {
        /// What an alert is about. The list grows; the names are stable.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[non_exhaustive]
        pub enum AlertKind {
            $($(#[$doc])+ $kind,)+
        }

        impl AlertKind {
            /// Every kind that this version knows.
            pub const ALL: &[Self] = &[$(Self::$kind,)+];

            /// The name, such as `breaker.open`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// How grave alerts of this kind usually are.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$kind => Severity::$severity,)+ }
            }
        }
    };
}

alert_kinds! {
    /// Many calls failed; one alert for all of them.
    LlmErrors = "llm.errors", Warning;
    /// Calls take much longer than usual.
    LlmSlow = "llm.slow", Warning;
    /// A call neither ends nor moves.
    LlmHanging = "llm.hanging", Warning;
    /// Half of a budget is spent.
    Budget50 = "budget.50", Info;
    /// Four fifths of a budget are spent.
    Budget80 = "budget.80", Warning;
    /// A budget is spent.
    Budget100 = "budget.100", Critical;
    /// An attempt cost more than was set aside for it, so that a budget may be overdrawn.
    BudgetOverReserved = "budget.over_reserved", Warning;
    /// What was spent in a period, for those who asked to be told.
    SpendReport = "spend.report", Info;
    /// Cost records were lost or could not be written.
    LedgerGap = "ledger.gap", Critical;
    /// A store fails.
    StoreError = "store.error", Critical;
    /// A route failed so often that it is left out for a while.
    BreakerOpen = "breaker.open", Warning;
    /// A model is new.
    ModelRegistered = "model.registered", Info;
    /// A model will be switched off.
    ModelDeprecated = "model.deprecated", Warning;
    /// The provider answers with another model than was asked.
    ModelRedirected = "model.redirected", Warning;
    /// A model cannot be reached anywhere.
    ModelOutage = "model.outage", Critical;
    /// A price differs from what was known.
    PriceChanged = "price.changed", Warning;
    /// A call was made whose price is not known.
    CallUnpriced = "call.unpriced", Warning;
    /// How often requests went elsewhere than planned.
    FallbackReport = "fallback.report", Info;
    /// The account's credit or monthly limit is used up.
    KeyPaymentRequired = "key.payment_required", Critical;
    /// A key is not accepted.
    KeyUnauthorized = "key.unauthorized", Critical;
    /// A batch does not move.
    BatchStuck = "batch.stuck", Warning;
    /// A batch ended with some lines unanswered.
    BatchPartial = "batch.partial", Warning;
    /// A batch ended without answers.
    BatchFailed = "batch.failed", Critical;
    /// A fine-tune is done.
    FinetuneCompleted = "finetune.completed", Info;
    /// A fine-tune failed.
    FinetuneFailed = "finetune.failed", Critical;
    /// A fine-tune's loss no longer falls.
    FinetunePlateau = "finetune.plateau", Warning;
    /// A fine-tune's loss rises.
    FinetuneDiverged = "finetune.diverged", Warning;
    /// A model passed its evaluation.
    EvalPassed = "eval.passed", Info;
    /// A model did not pass its evaluation.
    EvalFailed = "eval.failed", Warning;
    /// A new model took over.
    CanaryPromoted = "canary.promoted", Info;
    /// A new model was taken back.
    CanaryRolledBack = "canary.rolled_back", Warning;
    /// A job of a queue was given up.
    QueueDeadLetter = "queue.dead_letter", Critical;
    /// A cached value is not what was stored.
    CacheTampered = "cache.tampered", Critical;
}

impl fmt::Display for AlertKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How grave an alert is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Look at it today.
    Warning,
    /// Look at it now.
    Critical,
}

impl Severity {
    /// The name: `info`, `warning`, `critical`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that needs a person. Its texts are cut where it is made, so that it is never above [`MAX_ALERT_BYTES`] as
/// JSON.
///
/// ```
/// use std::time::SystemTime;
/// use together_inference::notify::{Alert, AlertKind, Severity};
///
/// let alert = Alert::new(AlertKind::Budget80, "tenant acme", "acme spent 80 % of its day", SystemTime::UNIX_EPOCH)
///     .detail("spent", "$20.00")
///     .detail("limit", "$25.00");
/// assert_eq!(alert.key(), "budget.80:tenant acme");
/// assert_eq!(alert.severity(), Severity::Warning);
/// assert_eq!(alert.details().last(), Some(("limit", "$25.00")));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alert {
    kind: AlertKind,
    key: Box<str>,
    severity: Severity,
    title: Box<str>,
    details: Vec<(Box<str>, Box<str>)>,
    omitted: usize,
    at: SystemTime,
}

impl Alert {
    /// An alert of the kind's usual severity. `about` names the one thing that it concerns, such as a route or a batch:
    /// repeats about the same thing are one alert. The title is cut at 256 bytes.
    #[must_use]
    pub fn new(kind: AlertKind, about: &str, title: &str, at: SystemTime) -> Self {
        Self {
            kind,
            key: key(kind, about),
            severity: kind.severity(),
            title: cut(title, MAX_TITLE, usize::MAX),
            details: Vec::new(),
            omitted: 0,
            at,
        }
    }

    /// Sets how grave it is.
    #[must_use]
    pub const fn with_severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// Adds a fact. It is cut to the room that is left, or left out and [counted](Self::omitted).
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl fmt::Display) -> Self {
        let name = cut(name, MAX_NAME, usize::MAX);
        let used = self.json_bytes() + json_len(&name) + AROUND_DETAIL;
        match MAX_ALERT_BYTES.checked_sub(used) {
            Some(room) if room >= ELLIPSIS.len() => {
                let value = cut(&value.to_string(), usize::MAX, room);
                self.details.push((name, value));
            }
            _ => self.omitted += 1,
        }
        self
    }

    /// What it is about.
    #[must_use]
    pub const fn kind(&self) -> AlertKind {
        self.kind
    }

    /// What its repeats have in common: the kind and what it is about, at most 255 bytes.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How grave it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.severity
    }

    /// What happened, in a line.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The facts, names and values, in the order in which they were added.
    pub fn details(&self) -> impl Iterator<Item = (&str, &str)> {
        self.details.iter().map(|(name, value)| (&**name, &**value))
    }

    /// How many facts were left out for want of room.
    #[must_use]
    pub const fn omitted(&self) -> usize {
        self.omitted
    }

    /// When it happened.
    #[must_use]
    pub const fn at(&self) -> SystemTime {
        self.at
    }

    /// The most bytes that it takes as JSON.
    fn json_bytes(&self) -> usize {
        let details = self.details.iter().map(|(name, value)| json_len(name) + json_len(value) + AROUND_DETAIL);
        ENVELOPE + json_len(&self.key) + json_len(&self.title) + details.sum::<usize>()
    }
}

const ELLIPSIS: &str = "…";

/// Kind and thing. One too long ends in a hash of the whole: cut keys could meet, and hide one alert behind another.
fn key(kind: AlertKind, about: &str) -> Box<str> {
    let whole = format!("{kind}:{about}");
    if whole.len() <= MAX_KEY {
        return whole.into();
    }
    let hash = blake3::hash(whole.as_bytes()).to_hex();
    format!("{}{hash}", cut(&whole, MAX_KEY - hash.len(), usize::MAX)).into()
}

/// The text, or as much of it as fits both bounds with an ellipsis: bytes as they are and bytes as JSON.
fn cut(text: &str, bytes: usize, json: usize) -> Box<str> {
    if text.len() <= bytes && json_len(text) <= json {
        return text.into();
    }
    let mut left = json.saturating_sub(ELLIPSIS.len());
    let fits = |(at, char): &(usize, char)| {
        let Some(rest) = left.checked_sub(json_len_of(*char)) else { return false };
        left = rest;
        at + char.len_utf8() + ELLIPSIS.len() <= bytes
    };
    let kept = text.char_indices().take_while(fits).map(|(_, char)| char);
    kept.chain(ELLIPSIS.chars()).collect::<String>().into()
}

/// The bytes of a text between the quotes of JSON.
fn json_len(text: &str) -> usize {
    text.chars().map(json_len_of).sum()
}

const fn json_len_of(char: char) -> usize {
    match char {
        '"' | '\\' => 2,
        '\0'..='\x1f' => 6,
        _ => char.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As the largest of the receivers would write it.
    fn as_json(alert: &Alert) -> String {
        json!({
            "type": alert.kind().as_str(),
            "timestamp": "2026-11-24T12:00:00.000000000Z",
            "data": {
                "key": alert.key(),
                "severity": alert.severity().as_str(),
                "title": alert.title(),
                "omitted_details": alert.omitted(),
                "details": alert.details().map(|(name, value)| json!({ name: value })).collect::<Vec<_>>(),
            },
        })
        .to_string()
    }

    #[test]
    fn an_alert_is_small_whatever_it_is_made_of() {
        for char in ["x", "\"", "\u{1}", "é", "🙂"] {
            let huge = char.repeat(40_000);
            let mut alert = Alert::new(AlertKind::LlmErrors, &huge, &huge, SystemTime::UNIX_EPOCH);
            for _ in 0..100 {
                alert = alert.detail("short", 1).detail(&huge, &huge);
            }
            let size = as_json(&alert).len();
            assert!(size <= MAX_ALERT_BYTES, "{char:?}: {size}");
            assert!(size >= MAX_ALERT_BYTES * 3 / 4, "{char:?}: the room is used, {size}");
            assert!(alert.omitted() > 0 && alert.title().len() <= MAX_TITLE && alert.key().len() <= MAX_KEY);
        }
    }

    #[test]
    fn what_fits_is_kept_to_the_byte() {
        let title = "t".repeat(MAX_TITLE);
        let alert = Alert::new(AlertKind::LlmSlow, "", &title, SystemTime::UNIX_EPOCH).detail("a", "b");
        assert_eq!((alert.title(), alert.omitted()), (&*title, 0));
        let cut = Alert::new(AlertKind::LlmSlow, "", &format!("{title}t"), SystemTime::UNIX_EPOCH);
        assert_eq!(cut.title(), format!("{}…", "t".repeat(MAX_TITLE - 3)));
    }

    #[test]
    fn long_keys_that_begin_alike_stay_apart() {
        let about = |end: &str| format!("{}{end}", "a".repeat(300));
        let of = |end: &str| Alert::new(AlertKind::LlmSlow, &about(end), "", SystemTime::UNIX_EPOCH);
        assert_ne!(of("1").key(), of("2").key());
        assert_eq!(of("1").key(), of("1").key());
        assert_eq!(of("1").key().len(), MAX_KEY);
    }

    #[test]
    fn no_two_kinds_share_a_name() {
        let names: std::collections::HashSet<_> = AlertKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!((names.len(), AlertKind::ALL.len()), (33, 33));
        assert!(names.iter().all(|name| name.split_once('.').is_some()));
    }
}
