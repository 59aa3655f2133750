use super::*;
use crate::types::SeededRng;

const SECOND: Duration = Duration::from_secs(1);

struct Route {
    ejection: Ejection,
    rng: SeededRng,
    now: Instant,
    dispatched: u64,
    answered: u64,
}

impl Route {
    fn new() -> Self {
        let (ejection, rng) = (Ejection::default(), SeededRng::new(7));
        Self { ejection, rng, now: Instant::now(), dispatched: 0, answered: 0 }
    }

    fn ask(&self, alone: bool) -> Pass {
        self.ejection.ask(self.now, || alone, &self.rng)
    }

    fn dispatch(&mut self) -> u64 {
        self.dispatched += 1;
        self.dispatched - 1
    }

    fn end(&mut self, number: u64, verdict: Verdict) -> Option<Turn> {
        let turn = self.ejection.ended(&self.of(Some(number), false, verdict), &self.rng);
        self.answered += u64::from(verdict == Verdict::Well);
        turn
    }

    fn probed(&mut self, verdict: Verdict) -> Option<Turn> {
        let number = self.dispatch();
        self.ejection.ended(&self.of(Some(number), true, verdict), &self.rng)
    }

    fn of(&self, number: Option<u64>, probe: bool, verdict: Verdict) -> End {
        End { number, dispatched: self.dispatched, answered: self.answered, at: self.now, probe, verdict }
    }

    fn call(&mut self, verdict: Verdict) -> Option<Turn> {
        self.now += SECOND / 10;
        let number = self.dispatch();
        self.end(number, verdict)
    }

    fn ejected() -> Self {
        let mut route = Self::new();
        let turns: Vec<_> = (0..5).map(|_| route.call(Verdict::Ill)).collect();
        assert_eq!(turns, [None, None, None, None, Some(Turn::Ejected)]);
        route
    }

    /// Lets the time of an ejection pass.
    fn wait(&mut self) {
        self.now += SECOND * 3;
    }
}

#[test]
fn five_failures_in_a_row_eject_and_a_success_between_them_does_not() {
    let mut route = Route::new();
    for _ in 0..4 {
        (0..4).for_each(|_| assert_eq!(route.call(Verdict::Ill), None));
        route.call(Verdict::Well);
    }
    assert_eq!(route.ejection.availability(), Availability::Admitted);
    assert_eq!(Route::ejected().ejection.availability(), Availability::Ejected);
}

#[test]
fn five_failures_at_once_may_be_chance_and_ten_are_not() {
    let mut route = Route::new();
    let numbers: Vec<_> = (0..10).map(|_| route.dispatch()).collect();
    let turns: Vec<_> = numbers.into_iter().map(|number| route.end(number, Verdict::Ill)).collect();
    assert_eq!(turns.iter().position(Option::is_some), Some(9));
}

#[test]
fn a_late_success_from_before_the_streak_does_not_end_it() {
    let mut route = Route::new();
    let (early, during) = (route.dispatch(), route.dispatch());
    (0..3).for_each(|_| assert_eq!(route.call(Verdict::Ill), None));
    route.end(early, Verdict::Well);
    assert_eq!(route.call(Verdict::Ill), None);
    assert_eq!(route.end(during, Verdict::Ill), Some(Turn::Ejected), "they are five in a row by now");
}

#[test]
fn failures_around_attempts_that_are_still_out_are_no_streak() {
    // Errors come at once and answers take a while: of ten failures with answers under way none says "in a row".
    let mut route = Route::new();
    for _ in 0..9 {
        route.dispatch();
        assert_eq!(route.call(Verdict::Ill), None);
        route.answered += 1;
    }
}

#[test]
fn what_says_nothing_about_health_neither_ends_nor_makes_a_streak() {
    let mut route = Route::new();
    for _ in 0..100 {
        assert_eq!(route.call(Verdict::Nothing), None);
    }
    (0..4).for_each(|_| assert_eq!(route.call(Verdict::Ill), None));
    route.call(Verdict::Nothing);
    assert_eq!(route.call(Verdict::Ill), Some(Turn::Ejected));
}

#[test]
fn half_of_twenty_attempts_in_ten_seconds_eject() {
    let mut route = Route::new();
    let turns: Vec<_> = (0..20).map(|n| route.call(if n % 2 == 0 { Verdict::Ill } else { Verdict::Well })).collect();
    let at = turns.iter().position(|turn| *turn == Some(Turn::Ejected));
    assert!(at.is_none_or(|at| at >= 18), "{at:?}");
    assert!(at.is_some() || route.call(Verdict::Ill) == Some(Turn::Ejected));

    let mut slow = Route::new();
    for n in 0..40 {
        slow.now += SECOND * 2;
        assert_eq!(slow.call(if n % 2 == 0 { Verdict::Ill } else { Verdict::Well }), None, "ten in ten seconds");
    }
}

#[test]
fn a_tenth_that_fails_never_ejects_by_its_share() {
    let mut route = Route::new();
    for n in 0..10_000 {
        route.now += SECOND / 50;
        assert_eq!(route.call(if n % 10 == 0 { Verdict::Ill } else { Verdict::Well }), None);
    }
}

#[test]
fn nothing_goes_out_for_two_seconds_and_then_one_probe_at_a_time() {
    let mut route = Route::ejected();
    let Pass::Away(Some(next)) = route.ask(true) else { panic!("it is ejected") };
    assert!((1.6..=2.4).contains(&next.as_secs_f64()), "{next:?}");
    route.now += next;
    assert_eq!(route.ask(true), Pass::Probe);
    assert!(matches!(route.ask(true), Pass::Away(_)), "the next one is for later");
    route.probed(Verdict::Ill);
    assert!(matches!(route.ask(true), Pass::Away(_)), "it failed: as long as before");
}

#[test]
fn probes_that_hang_are_three_at_most() {
    let mut route = Route::ejected();
    let probes = (0..100).filter(|_| {
        route.wait();
        route.ask(true) == Pass::Probe
    });
    assert_eq!(probes.count(), 3);
    route.probed(Verdict::Nothing);
    route.wait();
    assert_eq!(route.ask(true), Pass::Probe, "one that was given up frees its slot");
}

#[test]
fn what_was_dispatched_before_a_turn_says_nothing_after_it() {
    let mut route = Route::new();
    let hanging: Vec<_> = (0..20).map(|_| route.dispatch()).collect();
    let turns = (0..5).filter_map(|_| route.call(Verdict::Ill));
    assert_eq!(turns.count(), 1);
    route.wait();
    for _ in 0..3 {
        assert_eq!(route.ask(true), Pass::Probe);
        route.probed(Verdict::Well);
    }
    for number in hanging {
        assert_eq!(route.end(number, Verdict::Ill), None);
    }
    assert_eq!(route.ejection.availability(), Availability::Returning);
}

#[test]
fn a_probe_that_never_went_out_leaves_its_turn_to_the_next() {
    let route = Route::ejected();
    let due = route.now + SECOND * 3;
    assert_eq!(route.ejection.ask(due, || true, &route.rng), Pass::Probe);
    let unused = End { at: due, ..route.of(None, true, Verdict::Nothing) };
    assert_eq!(route.ejection.ended(&unused, &route.rng), None);
    assert_eq!(route.ejection.ask(due, || true, &route.rng), Pass::Probe);
}

#[test]
fn where_others_answer_a_probe_is_one_call_of_twenty() {
    let mut route = Route::ejected();
    route.wait();
    let passes: Vec<_> = (0..42).map(|_| route.ask(false)).collect();
    let probes: Vec<_> =
        passes.iter().enumerate().filter(|(_, pass)| **pass == Pass::Probe).map(|(at, _)| at).collect();
    assert_eq!(probes, [20], "the second one is not due yet");
}

#[test]
fn three_clean_probes_let_a_route_back_by_shares() {
    let mut route = Route::ejected();
    route.wait();
    for n in 0..3 {
        assert_eq!(route.ask(true), Pass::Probe, "after a success at once");
        assert_eq!(route.probed(Verdict::Well), (n == 2).then_some(Turn::Returned));
    }
    let share = |route: &Route| (0..100).filter(|_| route.ask(false) == Pass::Go).count();
    assert_eq!(share(&route), 10);
    route.now += RAMP / 2;
    assert_eq!(share(&route), 30 * 2 - 10, "three tenths of all that asked since");
    assert_eq!(route.ask(true), Pass::Go, "nobody else would take it");
    route.now += RAMP / 2;
    assert_eq!(share(&route), 100);
    assert_eq!(route.ejection.availability(), Availability::Admitted);
}

#[test]
fn a_route_that_is_alone_has_returned_after_the_same_time() {
    let mut route = Route::ejected();
    route.wait();
    for _ in 0..3 {
        assert_eq!(route.ask(true), Pass::Probe);
        route.probed(Verdict::Well);
    }
    assert_eq!((route.ask(true), route.ejection.availability()), (Pass::Go, Availability::Returning));
    route.now += RAMP;
    assert_eq!((route.ask(true), route.ejection.availability()), (Pass::Go, Availability::Admitted));
}

#[test]
fn a_failed_probe_begins_anew_and_two_failures_end_a_return() {
    let mut route = Route::ejected();
    route.wait();
    for verdict in [Verdict::Well, Verdict::Well, Verdict::Ill] {
        assert_eq!(route.ask(true), Pass::Probe);
        assert_eq!(route.probed(verdict), None);
    }
    route.wait();
    for _ in 0..3 {
        assert_eq!(route.ask(true), Pass::Probe);
        route.probed(Verdict::Well);
    }
    assert_eq!(route.call(Verdict::Ill), None);
    assert_eq!(route.call(Verdict::Ill), Some(Turn::Ejected));
}

#[test]
fn an_operators_word_stands_until_it_is_taken_back() {
    let mut route = Route::new();
    route.ejection.force(Some(Override::Eject));
    route.wait();
    assert_eq!((route.ask(true), route.ejection.is_admitted()), (Pass::Away(None), false));
    route.ejection.force(Some(Override::Admit));
    (0..100).for_each(|_| assert_eq!(route.call(Verdict::Ill), None));
    assert_eq!((route.ask(false), route.ejection.is_admitted()), (Pass::Go, true));
    route.ejection.force(None);
    assert_eq!(route.ejection.availability(), Availability::Admitted);
    assert_eq!((0..5).filter_map(|_| route.call(Verdict::Ill)).count(), 1);
}
