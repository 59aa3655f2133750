//! Keeps what attempts under way have set aside from returning.
//!
//! Money that returns at its expiry is meant for processes that died. An attempt may take longer than anybody thought: a
//! stream that its reader does not read on is not over, and what it has brought is not paid yet. As long as its process
//! lives, it says so to the budget store, long before the time is over.

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use crate::{
    cost::{Budgets, Held, PATIENCE},
    types::later,
};

/// How often attempts are looked at. None expires within a minute of its beginning.
const TURN: Duration = Duration::from_secs(15);
/// How many are told of at a time.
const AT_ONCE: usize = 1_000;
/// So few are not gone through when another one comes.
const FEW: usize = 1_024;

/// Attempts whose money would return. Each is gone with its [`Held`]: whoever ends one need not come here.
#[derive(Default)]
pub(super) struct Alive {
    watched: Mutex<Watched>,
    came: Notify,
}

#[derive(Default)]
struct Watched {
    all: Vec<(Weak<Held>, Instant)>,
    /// How many there may be before those that ended are looked for: there are never more than twice as many as live.
    most: usize,
}

impl Alive {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watch(&self, held: &Arc<Held>) {
        if !held.returns() {
            return;
        }
        let mut watched = self.lock();
        if watched.all.len() >= watched.most.max(FEW) {
            watched.forget_ended();
        }
        watched.all.push((Arc::downgrade(held), held.until()));
        let is_first = watched.all.len() == 1;
        drop(watched);
        if is_first {
            self.came.notify_one();
        }
    }

    /// Looks again and again at those that are there.
    pub(super) async fn run(&self, budgets: &Budgets) {
        loop {
            if self.lock().all.is_empty() {
                self.came.notified().await;
            }
            sleep(TURN).await;
            let due = self.due(Instant::now());
            for some in due.chunks(AT_ONCE) {
                self.renew(budgets, some).await;
            }
        }
    }

    /// Those that have less than half of their time left.
    fn due(&self, now: Instant) -> Vec<Arc<Held>> {
        let mut watched = self.lock();
        watched.forget_ended();
        let is_due = |held: &Arc<Held>, until: Instant| until.saturating_duration_since(now) < held.hold.expires / 2;
        let live = watched.all.iter().filter_map(|(held, until)| Some((held.upgrade()?, *until)));
        let due = live.filter(|(held, until)| is_due(held, *until)).map(|(held, _)| held).collect();
        drop(watched);
        due
    }

    async fn renew(&self, budgets: &Budgets, due: &[Arc<Held>]) {
        let (now, holds) = (Instant::now(), due.iter().map(|held| Arc::clone(&held.hold)).collect::<Vec<_>>());
        let renewing = AssertUnwindSafe(budgets.renew(&holds)).catch_unwind();
        let problem = match timeout(PATIENCE, renewing).await {
            Ok(Ok(Ok(()))) => {
                self.renewed(due, now);
                return;
            }
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_)) => "it panicked".into(),
            Err(_) => "it took too long".into(),
        };
        tracing::warn!(
            problem,
            attempts = due.len(),
            "a budget store does not know which attempts are still under way"
        );
    }

    fn renewed(&self, due: &[Arc<Held>], now: Instant) {
        let renewed: HashSet<*const Held> = due.iter().map(Arc::as_ptr).collect();
        for (held, until) in &mut self.lock().all {
            if let Some(held) = held.upgrade().filter(|_| renewed.contains(&held.as_ptr())) {
                *until = later(now, held.hold.expires);
            }
        }
    }
}

impl Watched {
    fn forget_ended(&mut self) {
        self.all.retain(|(held, _)| held.strong_count() > 0);
        self.most = self.all.len() * 2;
    }
}
