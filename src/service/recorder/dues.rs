//! What a budget store that must wait has still to settle.
//!
//! Money that was spent is offered to the store until it takes it, a day beyond the reservation's end: what is given up
//! sooner would return to whoever spent it. It is bounded apart from the records, which wait for none of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::{PAUSE, desk::Mark};
use crate::{
    cost::{Budgets, Charge, Held, PATIENCE},
    types::later,
};

/// Settlements that may wait, as many as a store in this process holds reservations.
const MOST: usize = 100_000;
/// How many are offered at the same time.
const AT_ONCE: usize = 16;
/// The longest pause between two offers of one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long after its reservation's end one is offered: as long as stores can still settle what expired.
const LATE: Duration = Duration::from_secs(86_400);

/// What loses least when it is left out comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// It only feeds alerts.
    Soft,
    /// Nothing was spent: its budgets have less left than they could.
    NotSent,
    /// Its budgets may be overdrawn without it.
    Spent,
}

#[derive(Clone)]
struct Due {
    held: Arc<Held>,
    charge: Charge,
    /// When it is offered next, how long it waits after that, and how often it was.
    at: Instant,
    pause: Duration,
    offers: u32,
}

type Tell = dyn Fn(&Held, Charge) + Send + Sync;

/// It is not the task's own: what was not settled when the task's runtime ended is for the next task.
pub(super) struct Dues {
    open: Mutex<Open>,
    came: Notify,
    most: usize,
    given_up: Box<Tell>,
}

#[derive(Default)]
struct Open {
    /// By their numbers, which grow.
    all: BTreeMap<u64, Due>,
    next: u64,
    by_time: BTreeSet<(Instant, u64)>,
    by_worth: BTreeSet<(Worth, u64)>,
    /// Each waits for all that is older.
    marks: VecDeque<(u64, Arc<Mark>)>,
}

impl Due {
    fn worth(&self) -> Worth {
        match self.charge {
            _ if !self.held.is_hard() => Worth::Soft,
            Charge::NotSent => Worth::NotSent,
            Charge::Spent(_) => Worth::Spent,
        }
    }
}

impl Open {
    fn add(&mut self, due: Due) {
        self.by_time.insert((due.at, self.next));
        self.by_worth.insert((due.worth(), self.next));
        self.all.insert(self.next, due);
        self.next += 1;
    }

    fn remove(&mut self, number: u64) -> Option<Due> {
        let due = self.all.remove(&number)?;
        self.by_time.remove(&(due.at, number));
        self.by_worth.remove(&(due.worth(), number));
        Some(due)
    }

    fn pushed_out(&mut self, most: usize) -> Option<Due> {
        let (_, number) = self.by_worth.first().copied().filter(|_| self.all.len() > most)?;
        self.remove(number)
    }

    /// What is to be offered now.
    fn ready(&self, now: Instant) -> Vec<(u64, Due)> {
        let ready = self.by_time.iter().take_while(|(at, _)| *at <= now).take(AT_ONCE);
        ready.filter_map(|(_, number)| Some((*number, self.all.get(number)?.clone()))).collect()
    }

    /// Marks that wait for nothing any more.
    fn passed(&mut self) -> Vec<Arc<Mark>> {
        let oldest = self.all.first_key_value().map_or(self.next, |(number, _)| *number);
        let count = self.marks.iter().take_while(|(number, _)| *number <= oldest).count();
        self.marks.drain(..count).map(|(_, mark)| mark).collect()
    }
}

impl Dues {
    /// `given_up` is told of what the store did not take.
    pub(super) fn new(given_up: impl Fn(&Held, Charge) + Send + Sync + 'static) -> Self {
        Self { open: Mutex::default(), came: Notify::new(), most: MOST, given_up: Box::new(given_up) }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, held: Arc<Held>, charge: Charge) {
        let mut open = self.lock();
        open.add(Due { held, charge, at: Instant::now(), pause: PAUSE, offers: 0 });
        let pushed_out = open.pushed_out(self.most);
        drop(open);
        self.came.notify_one();
        if let Some(due) = pushed_out {
            (self.given_up)(&due.held, due.charge);
        }
    }

    /// Lets go of the mark when all that is here now is done.
    pub(super) fn mark(&self, mark: Arc<Mark>) {
        let mut open = self.lock();
        let next = open.next;
        open.marks.push_back((next, mark));
        let passed = open.passed();
        drop(open);
        drop(passed);
    }

    /// Settles whatever comes.
    pub(super) async fn run(&self, budgets: &Budgets) {
        loop {
            let (ready, next) = {
                let open = self.lock();
                (open.ready(Instant::now()), open.by_time.first().map(|(at, _)| *at))
            };
            if ready.is_empty() {
                let waits = async { sleep_until(next.unwrap_or_else(|| later(Instant::now(), LATE))).await };
                tokio::select! {
                    () = self.came.notified() => {}
                    () = waits => {}
                }
                continue;
            }
            let settled = join_all(ready.iter().map(|(_, due)| due.offer(budgets))).await;
            self.done(ready, &settled);
        }
    }

    /// Taken out once they are settled: settling twice changes nothing, leaving one out would.
    fn done(&self, offered: Vec<(u64, Due)>, settled: &[bool]) {
        let (now, mut given_up) = (Instant::now(), Vec::new());
        let mut open = self.lock();
        for ((number, mut due), settled) in offered.into_iter().zip(settled) {
            // One that was pushed out meanwhile is done as well.
            if open.remove(number).is_none() || *settled {
                continue;
            }
            if now >= later(due.held.until(), LATE) {
                given_up.push(due);
                continue;
            }
            due.at = later(now, due.pause);
            due.pause = (due.pause * 2).min(LONGEST_PAUSE);
            due.offers += 1;
            open.by_time.insert((due.at, number));
            open.by_worth.insert((due.worth(), number));
            open.all.insert(number, due);
        }
        let passed = open.passed();
        drop(open);
        given_up.iter().for_each(|due| (self.given_up)(&due.held, due.charge));
        // Outside the lock, for it may answer a flush.
        drop(passed);
    }
}

impl Due {
    /// One offer. Whether the store took it.
    async fn offer(&self, budgets: &Budgets) -> bool {
        let settling = AssertUnwindSafe(budgets.settle(&self.held, self.charge)).catch_unwind();
        let problem = match timeout(PATIENCE, settling).await {
            Ok(Ok(Ok(()))) => return true,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_)) => "the budget store panicked".into(),
            Err(_) => "the budget store took too long".into(),
        };
        // Said once of each: a store that is away for hours would fill the log.
        if self.offers == 0 {
            tracing::warn!(problem, "a budget could not be settled, and is offered again");
        }
        false
    }
}
