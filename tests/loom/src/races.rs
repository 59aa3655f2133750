//! The models: a few threads each, every order of their steps.

use std::{
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use loom::{
    future::block_on,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::{
    ejection::{Ejection, End, Pass, Turn, Verdict},
    limit::{Ask, Lane, Limits},
    retry_budget::RetryBudget,
    types::{FOREVER, Priority, Rng},
};

struct Half;

impl Rng for Half {
    fn next_f64(&self) -> f64 {
        0.5
    }
}

/// Two repeats for which the bucket has enough for one: one is granted, and what a success returns is not lost.
pub fn a_bucket_grants_no_more_than_it_has() {
    let budget = Arc::new(RetryBudget::default());
    (0..9).for_each(|_| assert!(budget.try_spend()));
    let spend = |budget: &Arc<RetryBudget>| {
        let budget = Arc::clone(budget);
        thread::spawn(move || budget.try_spend())
    };
    let (one, other) = (spend(&budget), spend(&budget));
    budget.succeeded(false);
    let granted = [one.join().unwrap(), other.join().unwrap()].into_iter().filter(|granted| *granted).count();
    assert_eq!((granted, budget.left()), (1, 1));
}

fn ask() -> Ask {
    Ask { priority: Priority::Standard, prompt: 1, max_answer: None, deadline: Instant::now() + FOREVER }
}

/// One place and three callers: never two at a time, and everybody has a turn.
pub fn a_place_goes_from_one_to_the_next() {
    let lane = Arc::new(Lane::new(Limits::default().concurrency(1)));
    let inside = Arc::new(AtomicUsize::new(0));
    let call = |lane: &Arc<Lane>| {
        let (lane, inside) = (Arc::clone(lane), Arc::clone(&inside));
        thread::spawn(move || {
            let permit = block_on(lane.admit(&ask())).unwrap();
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
            inside.fetch_sub(1, Ordering::SeqCst);
            drop(permit);
        })
    };
    let calls = [call(&lane), call(&lane)];
    calls.into_iter().for_each(|call| call.join().unwrap());
    let health = lane.health();
    assert_eq!((health.in_flight, health.waiting), (0, 0));
}

/// A caller who leaves while its turn comes: the turn is the next one's.
pub fn a_turn_of_one_who_leaves_is_not_lost() {
    let lane = Arc::new(Lane::new(Limits::default().concurrency(1)));
    let held = block_on(lane.admit(&ask())).unwrap();
    let leaver = {
        let lane = Arc::clone(&lane);
        thread::spawn(move || {
            let ask = ask();
            let mut waiting = Box::pin(lane.admit(&ask));
            // Looks once, and goes; whatever it got it gives back.
            drop(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        })
    };
    let stayer = {
        let lane = Arc::clone(&lane);
        thread::spawn(move || drop(block_on(lane.admit(&ask())).unwrap()))
    };
    drop(held);
    leaver.join().unwrap();
    stayer.join().unwrap();
    let health = lane.health();
    assert_eq!((health.in_flight, health.waiting), (0, 0));
}

fn ill(number: u32, at: Instant, probe: bool) -> End {
    let number = u64::from(number);
    End { number: Some(number), dispatched: number + 1, answered: 0, at, probe, verdict: Verdict::Ill }
}

/// Two callers at the moment when a probe is due: one probes, and the end of it is seen by whoever asks then.
pub fn a_half_open_route_has_one_probe() {
    let (ejection, start) = (Arc::new(Ejection::default()), Instant::now());
    let fail = |number: u32| {
        let at = start + Duration::from_millis(100) * number;
        ejection.ended(&ill(number, at, false), &Half)
    };
    let turns: Vec<_> = (0..5).map(fail).collect();
    assert_eq!(turns.last(), Some(&Some(Turn::Ejected)));
    let due = start + Duration::from_secs(5);
    let probe = |ejection: &Arc<Ejection>| {
        let ejection = Arc::clone(ejection);
        thread::spawn(move || {
            let pass = ejection.ask(due, || true, &Half);
            if pass == Pass::Probe {
                ejection.ended(&ill(9, due, true), &Half);
            }
            pass == Pass::Probe
        })
    };
    let probes = [probe(&ejection), probe(&ejection)];
    let probes = probes.into_iter().map(|probe| probe.join().unwrap());
    assert_eq!(probes.filter(|probed| *probed).count(), 1);
    assert!(!ejection.is_admitted());
}

/// An end that ejects beside a caller who asks: afterwards nobody goes.
pub fn an_ejection_is_seen_by_who_asks_after_it() {
    let (ejection, start) = (Arc::new(Ejection::default()), Instant::now());
    let at = move |number: u32| start + Duration::from_millis(100) * number;
    (0..4).for_each(|number| {
        assert_eq!(ejection.ended(&ill(number, at(number), false), &Half), None);
    });
    let ends = {
        let ejection = Arc::clone(&ejection);
        thread::spawn(move || ejection.ended(&ill(4, at(4), false), &Half))
    };
    let asks = {
        let ejection = Arc::clone(&ejection);
        thread::spawn(move || ejection.ask(at(4), || true, &Half))
    };
    assert_eq!(ends.join().unwrap(), Some(Turn::Ejected));
    assert_ne!(asks.join().unwrap(), Pass::Probe);
    assert!(matches!(ejection.ask(at(4), || true, &Half), Pass::Away(_)));
}
