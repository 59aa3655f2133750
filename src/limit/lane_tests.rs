use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use proptest::{collection::vec, prelude::*, sample::select};
use tokio::time::{advance, sleep};

use super::*;

const PRIORITIES: [Priority; 3] = [Priority::Realtime, Priority::Standard, Priority::Batch];

fn ask(priority: Priority, within: Duration) -> Ask {
    Ask { priority, prompt: 10, max_answer: Some(90), deadline: Instant::now() + within }
}

fn soon() -> Ask {
    ask(Priority::Standard, SECOND)
}

fn far() -> Ask {
    ask(Priority::Standard, 60 * MINUTE)
}

fn limits() -> Limits {
    Limits::default()
}

fn throttled(hint: Option<Duration>) -> client::Error {
    client::Error::new(ErrorKind::RateLimited, "slow down").with_hints(hint, None)
}

fn counts(lane: &Lane) -> (usize, usize) {
    let health = lane.health();
    (health.in_flight, health.waiting)
}

type Waiting = Pin<Box<dyn Future<Output = Result<Permit, Refused>> + Send>>;

fn wait(lane: &Arc<Lane>, ask: Ask) -> Waiting {
    let lane = Arc::clone(lane);
    Box::pin(async move { lane.admit(&ask).await })
}

fn look(waiting: &mut Waiting) -> Option<Result<Permit, Refused>> {
    match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_permit_and_a_dropped_waiter_free_their_places() {
    let lane = Lane::new(limits().concurrency(1).max_waiting(1));
    let held = lane.admit(&soon()).await.unwrap();
    {
        let ask = soon();
        let mut waiter = Box::pin(lane.admit(&ask));
        assert!(futures_util::poll!(&mut waiter).is_pending());
        assert_eq!(counts(&lane), (1, 1));
        assert_eq!(lane.admit(&soon()).await.unwrap_err(), Refused::Full);
    }
    assert_eq!(counts(&lane), (1, 0));
    assert_eq!(lane.admit(&soon()).await.unwrap_err(), Refused::TooLate);
    drop(held);
    assert!(lane.admit(&soon()).await.is_ok());
    assert_eq!(counts(&lane), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_quota_spreads_attempts_over_the_minute_and_says_at_once_who_is_too_late() {
    let lane = Lane::new(limits().requests_per_minute(2));
    let start = Instant::now();
    for _ in 0..4 {
        lane.admit(&far()).await.unwrap();
    }
    let took = start.elapsed().as_secs_f64();
    assert!((89.0..91.0).contains(&took), "one at once, then one each 30 s: {took}");
    let asked = Instant::now();
    assert_eq!(lane.admit(&soon()).await.unwrap_err(), Refused::TooLate);
    assert_eq!(asked.elapsed(), Duration::ZERO, "not waited for");
    assert!((29..=30).contains(&lane.health().predicted_wait.as_secs()), "{:?}", lane.health());
}

#[tokio::test(start_paused = true)]
async fn who_stands_behind_too_many_is_too_late_at_once() {
    let lane = Arc::new(Lane::new(limits().requests_per_second(2)));
    drop(lane.admit(&far()).await.unwrap());
    let mut waiting: Vec<_> = (0..10).map(|_| wait(&lane, far())).collect();
    waiting.iter_mut().for_each(|waiter| assert!(look(waiter).is_none()));
    let mut late = wait(&lane, ask(Priority::Standard, Duration::from_secs(5)));
    assert!(matches!(look(&mut late), Some(Err(Refused::TooLate))), "the eleventh turn comes in 5.5 s");
    let mut urgent = wait(&lane, ask(Priority::Realtime, Duration::from_secs(5)));
    assert!(look(&mut urgent).is_none(), "this one goes before them");
    assert_eq!(counts(&lane), (0, 11));
}

#[tokio::test(start_paused = true)]
async fn turns_go_by_priority_then_by_arrival_and_age_counts() {
    let lane = Arc::new(Lane::new(limits().concurrency(1)));
    let held = lane.admit(&far()).await.unwrap();
    let far = |priority| ask(priority, 60 * MINUTE);
    let mut names = Vec::new();
    let mut queue: Vec<(&str, Waiting)> = Vec::new();
    for (name, priority, pause) in [
        ("old batch", Priority::Batch, 9),
        ("batch", Priority::Batch, 0),
        ("standard", Priority::Standard, 0),
        ("second standard", Priority::Standard, 0),
        ("realtime", Priority::Realtime, 3),
        ("late realtime", Priority::Realtime, 0),
    ] {
        let mut waiting = wait(&lane, far(priority));
        assert!(look(&mut waiting).is_none());
        queue.push((name, waiting));
        advance(Duration::from_secs(pause)).await;
    }
    drop(held);
    while !queue.is_empty() {
        let ready = queue.iter_mut().enumerate().find_map(|(at, (_, waiting))| Some((at, look(waiting)?.unwrap())));
        let (at, permit) = ready.expect("somebody goes out");
        assert_eq!(counts(&lane).0, 1);
        names.push(queue.remove(at).0);
        drop(permit);
    }
    let order = ["realtime", "old batch", "standard", "second standard", "late realtime", "batch"];
    assert_eq!(
        names, order,
        "old batch came more than ten seconds before the late ones, and two before realtime's nine"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_pauses_the_lane_for_as_long_as_it_says_but_a_minute_at_most() {
    for (hint, pause) in [(2_500, 2_500), (0, 0), (1_000_000_000, 60_000)] {
        let lane = Lane::new(limits());
        let permit = lane.admit(&far()).await.unwrap();
        permit.failed(&throttled(Some(Duration::from_millis(hint))));
        drop(permit);
        assert_eq!(lane.health().paused.as_millis(), pause);
        let start = Instant::now();
        // The slowest pace takes two seconds a turn.
        drop(lane.admit(&far()).await.unwrap());
        let (took, least) = (start.elapsed().as_millis(), pause.max(2_000));
        assert!((least..=least + 1).contains(&took), "{hint}: {took}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_other_failure_changes_anything() {
    let lane = Lane::new(limits());
    for kind in [ErrorKind::Overloaded, ErrorKind::Server, ErrorKind::Timeout, ErrorKind::PaymentRequired] {
        lane.admit(&soon()).await.unwrap().failed(&client::Error::new(kind, ""));
    }
    let health = lane.health();
    assert_eq!((health.throttled, health.requests_per_second, health.predicted_wait), (0, None, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn tokens_are_taken_as_estimated_and_put_right_by_what_was_used() {
    // Scenario: 1,000 tokens a second; the first answers use 490 each though they may use 9,990.
    // Expected: two a second go out on average, whatever they might have used.
    let lane = Lane::new(limits().tokens_per_second(1_000));
    let wide = Ask { max_answer: Some(9_990), ..far() };
    let usage = Usage { prompt: 10, completion: 490, ..Usage::default() };
    let start = Instant::now();
    for _ in 0..200 {
        let permit = lane.admit(&wide).await.unwrap();
        permit.used(&usage);
    }
    let took = start.elapsed().as_secs_f64();
    assert!((98.0..=100.5).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn one_long_answer_delays_the_next_call_and_one_that_used_less_does_not() {
    // Scenario: 1,000 tokens a second, as a quota or as told; an answer of 5,000 where 90 were expected.
    let window = client::Window { limit: Some(1_000.0), remaining: None };
    let told = RateLimits { tokens: Some(window), ..RateLimits::default() };
    for (limits, told) in [(limits().tokens_per_second(1_000), None), (limits(), Some(told))] {
        let lane = Lane::new(limits);
        let permit = lane.admit(&far()).await.unwrap();
        told.iter().for_each(|told| permit.told(told));
        permit.used(&Usage { prompt: 10, completion: 4_990, ..Usage::default() });
        drop(permit);
        let start = Instant::now();
        drop(lane.admit(&far()).await.unwrap());
        assert!((4_800..5_400).contains(&start.elapsed().as_millis()), "{:?} {told:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_when_a_place_is_free_does_not_pass_who_was_woken_for_it() {
    let lane = Arc::new(Lane::new(limits().concurrency(1)));
    let held = lane.admit(&far()).await.unwrap();
    let (mut first, mut newcomer) = (wait(&lane, far()), wait(&lane, far()));
    assert!(look(&mut first).is_none());
    drop(held);
    assert!(look(&mut newcomer).is_none());
    assert!(look(&mut first).is_some_and(|permit| permit.is_ok()));
}

#[tokio::test(start_paused = true)]
async fn two_thousand_wait_half_leave_and_no_place_is_lost() {
    let lane = Arc::new(Lane::new(limits().concurrency(8).max_waiting(2_000)));
    let held: Vec<_> = (0..8).map(|_| look(&mut wait(&lane, far())).unwrap().unwrap()).collect();
    let mut queue: VecDeque<_> = (0..2_000).map(|number| (number, wait(&lane, far()))).collect();
    queue.iter_mut().for_each(|(_, waiting)| assert!(look(waiting).is_none()));
    queue.retain(|(number, _)| number % 2 == 0);
    assert_eq!(counts(&lane), (8, 1_000));
    drop(held);
    let mut order = Vec::new();
    while let Some((number, mut waiting)) = queue.pop_front() {
        let permit = look(&mut waiting).expect("the first one goes out").unwrap();
        order.push(number);
        drop(permit);
    }
    assert!(order.is_sorted() && order.len() == 1_000, "in order of arrival");
    assert_eq!(counts(&lane), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_is_woken_for_a_place_and_the_next_one_when_it_leaves() {
    let lane = Arc::new(Lane::new(limits().concurrency(1)));
    let held = lane.admit(&far()).await.unwrap();
    let (first, mut second) = (Task::new(&lane), Task::new(&lane));
    assert!(!first.is_woken() && !second.is_woken());
    drop(held);
    assert!(first.is_woken() && !second.is_woken(), "no storm");
    drop(first);
    assert!(second.is_woken(), "it left without taking its turn");
    assert!(second.poll().is_some_and(|permit| permit.is_ok()));
}

/// A waiter that was polled once, and whether it was woken since.
struct Task {
    waiting: Waiting,
    woken: Arc<Flag>,
}

#[derive(Default)]
struct Flag(std::sync::atomic::AtomicBool);

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Task {
    fn new(lane: &Arc<Lane>) -> Self {
        let mut task = Self { waiting: wait(lane, far()), woken: Arc::default() };
        assert!(task.poll().is_none());
        task
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn poll(&mut self) -> Option<Result<Permit, Refused>> {
        let waker = Arc::clone(&self.woken).into();
        match self.waiting.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }
}

/// A step of a random schedule.
#[derive(Clone, Debug)]
enum Step {
    Come(Priority),
    /// Of those that wait or are out, by their place in the list.
    Leave(usize),
    End(usize),
    Throttled(usize),
    Told(usize, u32),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => select(PRIORITIES.to_vec()).prop_map(Step::Come),
        1 => any::<usize>().prop_map(Step::Leave),
        3 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::Throttled),
        1 => (any::<usize>(), 1_u32..50).prop_map(|(at, limit)| Step::Told(at, limit)),
        4 => (1_u64..3_000).prop_map(Step::Pass),
    ]
}

/// Everything there is to a lane, driven from outside.
struct Yard {
    lane: Arc<Lane>,
    limits: Limits,
    waiting: Vec<(u64, Priority, Instant, Waiting)>,
    out: Vec<Permit>,
    went: Vec<Instant>,
    arrivals: u64,
    last: [u64; 3],
}

impl Yard {
    /// Lets everybody go who can, and checks what must hold.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        loop {
            // The order in which a runtime polls them must not matter.
            let mut ready = self.waiting.iter_mut().enumerate().rev();
            let ready = ready.find_map(|(at, (.., waiting))| Some((at, look(waiting)?)));
            let Some((at, done)) = ready else { break };
            let (number, priority, came, _) = self.waiting.remove(at);
            let Ok(permit) = done else { continue };
            self.out.push(permit);
            self.went.push(Instant::now());
            let index = PRIORITIES.iter().position(|other| *other == priority).unwrap();
            prop_assert!(self.last[index] < number, "{priority:?} calls overtook each other");
            self.last[index] = number;
            // Nobody who came later than the longest patience may have passed anybody.
            let passed = self.waiting.iter().map(|(_, _, earlier, _)| came.saturating_duration_since(*earlier));
            prop_assert!(passed.max().unwrap_or_default() <= Duration::from_secs(10), "passed for too long");
        }
        self.check()
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let health = self.lane.health();
        prop_assert_eq!(health.in_flight, self.out.len(), "permits are conserved");
        prop_assert_eq!(health.waiting, self.waiting.len());
        prop_assert!(health.in_flight <= self.limits.concurrency as usize && health.waiting <= self.limits.max_waiting);
        let within = |time| self.went.iter().filter(|at| at.elapsed() < time).count();
        prop_assert!(within(SECOND) <= self.limits.requests_per_second.unwrap() as usize, "in a second");
        prop_assert!(within(MINUTE) <= self.limits.requests_per_minute.unwrap() as usize, "in a minute");
        Ok(())
    }

    async fn take(&mut self, step: Step) {
        let pick = |at: usize, len: usize| (len > 0).then(|| at % len);
        match step {
            Step::Come(priority) => {
                let mut waiting = wait(&self.lane, ask(priority, 10 * MINUTE));
                // Its place is that of its first poll.
                match look(&mut waiting) {
                    Some(Ok(permit)) => {
                        self.out.push(permit);
                        self.went.push(Instant::now());
                    }
                    Some(Err(_)) => {}
                    None => {
                        self.arrivals += 1;
                        self.waiting.push((self.arrivals, priority, Instant::now(), waiting));
                    }
                }
            }
            Step::Leave(at) => drop(pick(at, self.waiting.len()).map(|at| self.waiting.remove(at))),
            Step::End(at) => drop(pick(at, self.out.len()).map(|at| self.out.remove(at))),
            Step::Throttled(at) => {
                if let Some(at) = pick(at, self.out.len()) {
                    self.out[at].failed(&throttled(Some(Duration::from_millis(at as u64 * 100))));
                }
            }
            Step::Told(at, limit) => {
                let window = client::Window { limit: Some(limit.into()), remaining: None };
                let limits = RateLimits { requests: Some(window), ..RateLimits::default() };
                if let Some(at) = pick(at, self.out.len()) {
                    self.out[at].told(&limits);
                }
            }
            Step::Pass(millis) => {
                // In small steps, so that turns are taken when they come.
                for _ in 0..millis.div_ceil(50) {
                    sleep(Duration::from_millis(50)).await;
                    self.settle().unwrap();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_ceilings_hold_order_is_kept_and_nothing_is_lost(
        concurrency in 1_u32..6,
        per_second in 1_u32..12,
        per_minute in 1_u32..120,
        steps in vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let limits = limits().concurrency(concurrency).requests_per_second(per_second);
            let limits = limits.requests_per_minute(per_minute).max_waiting(20);
            let lane = Arc::new(Lane::new(limits));
            let (waiting, out, went) = (Vec::new(), Vec::new(), Vec::new());
            let mut yard = Yard { lane, limits, waiting, out, went, arrivals: 0, last: [0; 3] };
            for step in steps {
                yard.take(step).await;
                yard.settle()?;
            }
            // Whoever still waits gets a turn once places come free.
            for _ in 0..yard.limits.max_waiting {
                if yard.waiting.is_empty() {
                    break;
                }
                yard.out.clear();
                let left = yard.waiting.len();
                sleep(2 * MINUTE).await;
                yard.settle()?;
                prop_assert!(yard.waiting.len() < left, "somebody waits for ever");
            }
            yard.out.clear();
            prop_assert_eq!(counts(&yard.lane), (0, 0));
            Ok(())
        })?;
    }
}
