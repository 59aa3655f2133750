use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use super::*;
use crate::notify::NotifyError;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    Swallows,
    Hangs,
    RefusesRepeats,
    OneOfAKind,
    CutsKeys,
    CutsInsideACharacter,
    SaysItTwice,
    DropsUnderLoad,
    OneAfterTheOther,
    BreaksWhenDropped,
}

/// Keeps texts, with one fault. Each call takes a second of tokio's time.
#[derive(Debug)]
struct Kept {
    fault: Fault,
    texts: Mutex<Vec<String>>,
    keys: Mutex<HashSet<String>>,
    busy: AtomicBool,
    broken: AtomicBool,
    turn: tokio::sync::Mutex<()>,
    calls: AtomicU64,
}

impl Kept {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            texts: Mutex::default(),
            keys: Mutex::default(),
            busy: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            turn: tokio::sync::Mutex::new(()),
            calls: AtomicU64::new(0),
        }
    }

    fn first(&self, key: &str) -> bool {
        self.keys.lock().unwrap().insert(key.into())
    }

    fn keep(&self, alert: &Alert) {
        let details: Vec<_> = alert.details().collect();
        let text = format!("{} {} {}", alert.key(), alert.title(), details.len());
        let text = if self.fault == Fault::SaysItTwice { text.repeat(30) } else { text };
        self.texts.lock().unwrap().push(text);
    }
}

/// A call that was dropped in the middle.
struct HalfSent<'a>(&'a AtomicBool);

impl Drop for HalfSent<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Notifier for Kept {
    async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
        let second = Duration::from_secs(1);
        let nth = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::Swallows if nth % 7 == 6 => return Ok(()),
            Fault::Hangs if nth == 9 => std::future::pending().await,
            Fault::RefusesRepeats if !self.first(alert.key()) => {
                return Err(NotifyError::Refused { reason: "seen".into() });
            }
            Fault::OneOfAKind if !self.first(alert.kind().as_str()) => return Ok(()),
            Fault::CutsKeys if !self.first(alert.key().get(..100).unwrap_or(alert.key())) => return Ok(()),
            Fault::CutsInsideACharacter if alert.title().len() > 100 => drop(alert.title()[..101].to_owned()),
            Fault::DropsUnderLoad if self.busy.swap(true, Ordering::Relaxed) => return Ok(()),
            Fault::BreaksWhenDropped if self.broken.load(Ordering::Relaxed) => return Err(NotifyError::Gone),
            _ => {}
        }
        let turn = if self.fault == Fault::OneAfterTheOther { Some(self.turn.lock().await) } else { None };
        let half_sent = HalfSent(&self.broken);
        tokio::time::sleep(second).await;
        std::mem::forget(half_sent);
        drop(turn);
        self.busy.store(false, Ordering::Relaxed);
        self.keep(alert);
        Ok(())
    }
}

async fn check(kept: &Kept) -> Result<(), Failure> {
    notifier(kept, &|| kept.texts.lock().unwrap().clone()).await
}

#[tokio::test(start_paused = true)]
async fn a_good_notifier_keeps_every_promise_behind_every_pointer() {
    check(&Kept::new(Fault::None)).await.unwrap();
    let kept = Arc::new(Kept::new(Fault::None));
    let received = || kept.texts.lock().unwrap().clone();
    notifier(&kept, &received).await.unwrap();
    let shared: Arc<dyn Notifier> = Arc::<Kept>::clone(&kept);
    notifier(&shared, &received).await.unwrap();
    let boxed: Box<dyn Notifier> = Box::new(shared);
    notifier(&*boxed, &received).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_broken_notifier_fails_at_the_promise_that_it_breaks() {
    for (fault, promise) in [
        (Fault::Swallows, "an alert that was accepted"),
        (Fault::Hangs, "an alert that was accepted"),
        (Fault::RefusesRepeats, "a repeat is taken"),
        (Fault::OneOfAKind, "a repeat is taken"),
        (Fault::CutsKeys, "alerts of different keys"),
        (Fault::CutsInsideACharacter, "any alert is taken"),
        (Fault::SaysItTwice, "any alert is taken"),
        (Fault::DropsUnderLoad, "alerts are taken at the same time"),
        (Fault::OneAfterTheOther, "alerts are taken at the same time"),
        (Fault::BreaksWhenDropped, "dropping a call"),
    ] {
        let failure = check(&Kept::new(fault)).await.expect_err(&format!("{fault:?}"));
        assert!(failure.promise.starts_with(promise), "{fault:?}: {failure}");
    }
}
