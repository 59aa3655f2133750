//! How traffic moves when a route fails, slows down or changes its price, and how it comes back: the router and the
//! ejection together, on a clock of their own.
//!
//! Four routes, the first the best by price; answers take a second by the median with a spread of a quarter, and one in
//! five hundred fails. After a minute the first route has its fault for two minutes.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    CatalogRouter, Ejection, End, ModelRoute, ModelRouter, Observation, Outcome, Pass, RouteAsk, Turn, Verdict,
};
use crate::{
    InferenceRequest, Price, Priority, RouteId, Tier, Usage, Usd,
    client::ErrorKind,
    types::{Rng, SeededRng},
};

const ROUTES: usize = 4;
const PRICES: [i64; ROUTES] = [1_000, 1_300, 1_700, 2_200];
const WARM: f64 = 60.0;
const FAULT: f64 = 120.0;
const AFTER: f64 = 300.0;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Outage,
    Slow,
    Grey,
    AllSlow,
}

/// What one run brought.
#[derive(Clone, Copy, Debug)]
struct Outcomes {
    /// Share of calls during the fault whose first attempt failed or took twice as long as expected.
    bad: f64,
    shift: f64,
    back: f64,
    /// Changes of the first choice.
    switches: usize,
    /// Share of calls during the fault that the best route kept.
    kept: f64,
    /// Calls that nobody answered.
    failed: usize,
}

struct Call {
    first: usize,
    bad: bool,
    answered: bool,
    at: f64,
}

/// An attempt under way, the one that ends first on top.
struct Attempt {
    ends: f64,
    call: usize,
    route: usize,
    number: u64,
    probe: bool,
    tried: usize,
    dispatched: f64,
    tokens: u64,
    fails: bool,
}

impl PartialEq for Attempt {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Attempt {}

impl PartialOrd for Attempt {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Attempt {
    fn cmp(&self, other: &Self) -> Ordering {
        self.ends.total_cmp(&other.ends).then_with(|| (self.call, self.tried).cmp(&(other.call, other.tried)))
    }
}

struct World {
    router: Arc<CatalogRouter>,
    ids: Vec<RouteId>,
    ejections: Vec<Ejection>,
    dispatched: Vec<u64>,
    answered: Vec<u64>,
    rng: SeededRng,
    fault: Fault,
    start: Instant,
    calls: Vec<Call>,
    under_way: BinaryHeap<Reverse<Attempt>>,
    request: InferenceRequest,
    leader: Option<RouteId>,
    /// Who stands first only to be tried out, by the last ranking.
    trial: Option<usize>,
    switches: usize,
}

fn model_route(at: usize, price: i64) -> ModelRoute {
    let each = Price::per_million(Usd::from_nanos(price * 1_000_000), Usd::from_nanos(price * 1_000_000));
    let mut route = ModelRoute::new("together", format!("m{at}")).tier(Tier::Large).price(each);
    route.latency_p50 = Some(Duration::from_secs(1));
    route
}

impl World {
    fn new(fault: Fault, seed: u64) -> Self {
        let routes = PRICES.iter().enumerate().map(|(at, price)| model_route(at, *price));
        let router = routes.fold(CatalogRouter::empty(), CatalogRouter::with);
        Self {
            router: Arc::new(router),
            ids: (0..ROUTES).map(|at| RouteId::new("together", format!("m{at}"))).collect(),
            ejections: (0..ROUTES).map(|_| Ejection::default()).collect(),
            dispatched: vec![0; ROUTES],
            answered: vec![0; ROUTES],
            rng: SeededRng::new(seed),
            fault,
            start: Instant::now(),
            calls: Vec::new(),
            under_way: BinaryHeap::new(),
            request: InferenceRequest::chat("why?").priority(Priority::Realtime),
            leader: None,
            trial: None,
            switches: 0,
        }
    }

    fn instant(&self, at: f64) -> Instant {
        self.start + Duration::from_secs_f64(at)
    }

    /// A normal deviate.
    fn normal(&self) -> f64 {
        let (one, two) = (self.rng.next_f64().max(1e-12), self.rng.next_f64());
        (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * two).cos()
    }

    fn order(&mut self, at: f64) -> Vec<usize> {
        let ask = RouteAsk { now: self.instant(at), ..RouteAsk::new(&self.request) };
        let ranking = self.router.rank_now(&ask).unwrap();
        let leader = ranking.candidates.iter().find(|one| !one.trial).map(|one| one.route.clone());
        if self.leader.is_some() && self.leader != leader {
            self.switches += 1;
        }
        self.leader = leader;
        let place = |route: &RouteId| self.ids.iter().position(|id| id == route).unwrap();
        self.trial = ranking.candidates.iter().find(|one| one.trial).map(|one| place(&one.route));
        ranking.candidates.iter().map(|one| place(&one.route)).collect()
    }

    /// The first route in this order that takes the call.
    fn choose(&self, order: &[usize], at: f64) -> Option<(usize, usize, bool)> {
        order.iter().enumerate().find_map(|(place, route)| {
            let alone = || !order.iter().any(|other| other != route && self.ejections[*other].is_admitted());
            match self.ejections[*route].ask(self.instant(at), alone, &self.rng) {
                Pass::Away(_) => None,
                pass => Some((place, *route, pass == Pass::Probe)),
            }
        })
    }

    fn dispatch(&mut self, call: usize, tried: usize, (route, probe): (usize, bool), at: f64) {
        if self.trial.take() == Some(route) {
            assert!(self.router.try_out(&self.ids[route], self.instant(at)), "nobody was quicker");
        }
        let number = self.dispatched[route];
        self.dispatched[route] += 1;
        let in_fault = (WARM..WARM + FAULT).contains(&at);
        let has = |fault| in_fault && self.fault == fault;
        let chance = match route {
            0 if has(Fault::Outage) => 1.0,
            0 if has(Fault::Grey) => 0.1,
            _ => 0.002,
        };
        let fails = self.rng.next_f64() < chance;
        let slow = if has(Fault::AllSlow) || (route == 0 && has(Fault::Slow)) { 3.0 } else { 1.0 };
        let length = (0.4 * self.normal()).exp();
        let nominal = 0.3 + 0.7 * length;
        let took = if fails { 0.2 } else { nominal * slow * (0.25 * self.normal()).exp() };
        if tried == 0 {
            self.calls[call].first = route;
            self.calls[call].bad = fails || took > 2.0 * nominal;
        }
        let tokens = (256.0 * length) as u64;
        self.under_way.push(Reverse(Attempt {
            ends: at + took,
            call,
            route,
            number,
            probe,
            tried,
            dispatched: at,
            tokens,
            fails,
        }));
    }

    fn end(&mut self, attempt: &Attempt) {
        let Attempt { ends, call, route, number, probe, tried, dispatched, tokens, fails } = *attempt;
        let verdict = if fails { Verdict::Ill } else { Verdict::Well };
        let now = self.instant(ends);
        let (so_far, answered) = (self.dispatched[route], self.answered[route]);
        let end = End { number: Some(number), dispatched: so_far, answered, at: now, probe, verdict };
        let turn = self.ejections[route].ended(&end, &self.rng);
        self.answered[route] += u64::from(!fails);
        let usage = Usage { prompt: 100, completion: tokens, ..Usage::default() };
        let outcome = if fails { Outcome::Failed(ErrorKind::Server) } else { Outcome::Answered(usage) };
        let took = Duration::from_secs_f64(ends - dispatched);
        let mut seen = Observation::new(self.ids[route].clone(), self.instant(dispatched), took, outcome);
        seen.ejected = turn.map(|turn| turn == Turn::Ejected);
        self.router.observe(&seen);
        if !fails {
            self.calls[call].answered = true;
        } else if tried < 2 {
            let mut order = self.order(ends);
            order.retain(|other| *other != route);
            if let Some((_, route, probe)) = self.choose(&order, ends) {
                self.dispatch(call, tried + 1, (route, probe), ends);
            }
        }
    }

    fn run(mut self, rate: f64, time: f64, mut at_time: impl FnMut(&Self, f64)) -> (Vec<Call>, usize) {
        let mut next = 0.0;
        loop {
            next += -self.rng.next_f64().max(1e-12).ln() / rate;
            while self.under_way.peek().is_some_and(|Reverse(attempt)| attempt.ends <= next.min(time)) {
                let Some(Reverse(attempt)) = self.under_way.pop() else { break };
                self.end(&attempt);
            }
            if next >= time {
                break;
            }
            at_time(&self, next);
            let (call, order) = (self.calls.len(), self.order(next));
            self.calls.push(Call { first: usize::MAX, bad: false, answered: false, at: next });
            if let Some((_, route, probe)) = self.choose(&order, next) {
                self.dispatch(call, 0, (route, probe), next);
            }
        }
        while let Some(Reverse(attempt)) = self.under_way.pop() {
            self.end(&attempt);
        }
        (self.calls, self.switches)
    }
}

/// The first time after `from` from which on nine of ten calls go where they should, over a second or ten calls.
fn settles(calls: &[Call], from: f64, rate: f64, there: impl Fn(&Call) -> bool) -> f64 {
    let window = rate.max(10.0) as usize;
    let after: Vec<_> = calls.iter().filter(|call| call.at >= from).collect();
    let settled = after.windows(window).find(|calls| {
        let good = calls.iter().filter(|call| there(call)).count();
        good * 10 >= window * 9
    });
    settled.map_or(f64::INFINITY, |calls| calls[0].at - from)
}

fn faulty(fault: Fault, rate: f64, seed: u64) -> Outcomes {
    let (calls, switches) = World::new(fault, seed).run(rate, WARM + FAULT + AFTER, |_, _| ());
    let during = || calls.iter().filter(|call| (WARM..WARM + FAULT).contains(&call.at));
    let share = |of: &dyn Fn(&Call) -> bool| during().filter(|call| of(call)).count() as f64 / during().count() as f64;
    Outcomes {
        bad: 100.0 * share(&|call| call.bad),
        shift: settles(&calls, WARM, rate, |call| call.first != 0),
        back: settles(&calls, WARM + FAULT, rate, |call| call.first == 0),
        switches,
        kept: share(&|call| call.first == 0),
        failed: calls.iter().filter(|call| !call.answered).count(),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const SEEDS: u64 = 20;

fn table(fault: Fault, rate: f64) -> ([f64; 3], f64, f64, usize) {
    let runs: Vec<_> = (0..SEEDS).map(|seed| faulty(fault, rate, seed)).collect();
    let of = |what: fn(&Outcomes) -> f64| median(runs.iter().map(what).collect());
    let row = [of(|run| run.bad), of(|run| run.shift), of(|run| run.back)];
    let switches = runs.iter().map(|run| run.switches as f64).sum::<f64>() / SEEDS as f64;
    let failed = runs.iter().map(|run| run.failed).sum();
    println!(
        "{fault:?} at {rate}: bad {:.1} %, shift {:.1} s, return {:.1} s; {switches:.2} switches, kept {:.2}, {failed} failed",
        row[0],
        row[1],
        row[2],
        of(|run| run.kept)
    );
    (row, switches, of(|run| run.kept), failed)
}

#[test]
fn faults_move_traffic_and_their_end_moves_it_back() {
    for (fault, fast, slow) in [
        (Fault::Outage, [3.0, 2.0, 10.0], [12.0, 25.0, 75.0]),
        (Fault::Slow, [8.0, 10.0, 15.0], [20.0, 35.0, 75.0]),
        (Fault::Grey, [3.0, 10.0, 60.0], [7.0, 60.0, 150.0]),
    ] {
        for (rate, most) in [(50.0, fast), (1.0, slow)] {
            let (row, switches, _, failed) = table(fault, rate);
            for (value, most) in row.iter().zip(most) {
                assert!(*value <= most, "{fault:?} at {rate}: {row:?}, at most {most}");
            }
            // There and back; an outage moves calls without a change of the first choice.
            assert!(switches <= 2.0 + 1.5, "{fault:?} at {rate}: {switches} switches");
            assert_eq!(failed, 0, "{fault:?} at {rate}");
        }
    }
}

#[test]
fn where_all_are_slow_the_best_keeps_its_place() {
    for rate in [50.0, 1.0] {
        let (_, switches, kept, failed) = table(Fault::AllSlow, rate);
        assert!(switches <= 4.0 && kept >= 0.8 && failed == 0, "{rate}: {switches} {kept} {failed}");
    }
}

#[test]
fn nothing_moves_where_nothing_happens() {
    for (rate, most) in [(50.0, 0.0), (1.0, 0.5)] {
        let (_, switches, ..) = table(Fault::None, rate);
        assert!(switches <= most, "{rate}: {switches}");
    }
}

#[test]
fn a_price_moves_the_next_request() {
    for rate in [50.0, 1.0] {
        let world = World::new(Fault::None, 7);
        let router = Arc::clone(&world.router);
        let mut changed = Vec::new();
        let (calls, _) = world.run(rate, 180.0, |_, at| {
            let due = [(60.0, 3 * PRICES[0]), (120.0, PRICES[0])];
            if let Some((_, price)) = due.get(changed.len()).filter(|(due, _)| at >= *due) {
                router.register(model_route(0, *price)).unwrap();
                changed.push(at);
            }
        });
        let first = |from: f64| calls.iter().find(|call| call.at >= from).map(|call| call.first);
        assert_eq!((first(changed[0]), first(changed[1])), (Some(1), Some(0)));
    }
}
