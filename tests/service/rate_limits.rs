//! The provider's limit: kept to, used up, found again when it changes, and nobody else's business.
//!
//! Both generations of its headers: `told`, where every answer names the limit, and `learned`, where only a refusal says
//! how long to wait.

use std::{fmt, time::Duration};

use together_inference::{
    InferenceService, Price, Priority, TogetherClient, async_trait,
    client::{Body, Transport, TransportError},
    limit::Limits,
    service::{ErrorKind, RouteHealth},
    testing::{Fault, Together},
};
use tokio::time::{Instant, sleep, sleep_until};

use super::world::{LARGE, MID, World, ms, muse, route, secs, spawn};

/// The simulator without its headers about limits, but for the one of a refusal.
#[derive(Debug)]
struct Quiet(Together);

#[async_trait]
impl Transport for Quiet {
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        let mut response = self.0.send(request).await?;
        if response.status().is_success() {
            let about_limits = |name: &&http::HeaderName| name.as_str().contains("limit");
            let names: Vec<_> = response.headers().keys().filter(about_limits).cloned().collect();
            names.iter().for_each(|name| drop(response.headers_mut().remove(name)));
        }
        Ok(response)
    }
}

/// A provider with a limit, and a service that calls it.
struct Limited {
    sim: Together,
    service: InferenceService,
}

/// What happened within some time.
#[derive(Clone, Copy)]
struct Tally {
    answered: f64,
    refused: f64,
    seconds: f64,
}

impl Tally {
    /// What share of a limit was used, and what share of what went out was refused.
    fn shares(self, limit: u32) -> (f64, f64) {
        (self.answered / self.seconds / f64::from(limit), self.refused / (self.answered + self.refused))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100.0 * self.refused / (self.answered + self.refused);
        write!(f, "{:.2} answered a second, {share:.2} % refused", self.answered / self.seconds)
    }
}

impl Limited {
    fn new(told: bool, limit: u32) -> Self {
        Self::with(told, limit, Limits::default())
    }

    fn with(told: bool, limit: u32, limits: Limits) -> Self {
        let sim = Together::new();
        let quiet = || TogetherClient::builder().api_key("k").transport(Quiet(sim.clone())).build().unwrap();
        let client = if told { sim.client() } else { quiet() };
        sim.limit(MID, limit);
        sim.latency(ms(200));
        let service = InferenceService::builder(client).limits(limits).build().unwrap();
        Self { sim, service }
    }

    fn route(&self) -> RouteHealth {
        let routes = self.service.health().routes;
        routes.into_iter().find(|health| health.route == route(MID)).unwrap()
    }

    fn limit(&self) -> f64 {
        self.route().requests_per_second.unwrap_or(f64::INFINITY)
    }

    /// Offers so many calls a second for so long; calls that are turned away are nobody's.
    async fn offer(&self, calls_per_second: u32, time: Duration) -> Tally {
        let before = self.count();
        let (start, gap) = (Instant::now(), Duration::from_secs(1) / calls_per_second);
        let mut at = start;
        while at < start + time {
            sleep_until(at).await;
            spawn(self.service.complete(muse("q").model(MID).deadline(secs(20))));
            at += gap;
        }
        let after = self.count();
        let seconds = start.elapsed().as_secs_f64();
        Tally { answered: after.0 - before.0, refused: after.1 - before.1, seconds }
    }

    fn count(&self) -> (f64, f64) {
        let routes = self.service.health().routes;
        let of = |count: fn(&RouteHealth) -> u64| routes.iter().map(count).sum::<u64>() as f64;
        (of(|route| route.answered), of(|route| route.throttled))
    }

    /// Offers until the limit is found within 15 %, and says how long that took.
    async fn find(&self, limit: u32, calls_per_second: u32) -> Duration {
        let start = Instant::now();
        let near = |found: f64| (found / f64::from(limit) - 1.0).abs() <= 0.15;
        while !near(self.limit()) && start.elapsed() < secs(120) {
            self.offer(calls_per_second, ms(100)).await;
        }
        start.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn far_too_much_is_held_to_the_limit_and_the_limit_is_used() {
    // Scenario: a limit of 10 to 100 a second, several times as many calls offered for 70 s; answers that take 0.2 s, or 3.
    // Expected: after 10 s at most 2 % are refused, and at least 90 % of the limit is used.
    for told in [true, false] {
        for (limit, times, latency) in [(10, 10, 200), (100, 2, 200), (20, 3, 3_000)] {
            // Slow answers are to hold up nothing.
            let limited = Limited::with(told, limit, Limits::default().concurrency(1_000));
            limited.sim.latency(ms(latency));
            limited.offer(limit * times, secs(10)).await;
            let tally = limited.offer(limit * times, secs(60)).await;
            let (used, refused) = tally.shares(limit);
            println!("limit {limit:>3}, told: {told:<5}: {tally}, {:.1} % of the limit used", used * 100.0);
            assert!(used >= 0.9, "told: {told}, limit {limit}: {used:.3} used");
            assert!(refused <= 0.02, "told: {told}, limit {limit}: {refused:.4} refused");
            assert!(!told || refused == 0.0, "a limit that is told is not passed");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_halves_is_found_in_ten_seconds_and_one_that_doubles_in_thirty() {
    for told in [true, false] {
        for limit in [20, 60] {
            let limited = Limited::new(told, limit);
            limited.offer(limit * 2, secs(30)).await;
            limited.sim.limit(MID, limit / 2);
            let down = limited.find(limit / 2, limit * 2).await;
            limited.offer(limit * 2, secs(30)).await;
            limited.sim.limit(MID, limit);
            let up = limited.find(limit, limit * 2).await;
            println!("limit {limit:>3}, told: {told:<5}: halved found in {down:?}, doubled in {up:?}");
            assert!(down <= secs(10), "told: {told}, limit {limit}: {down:?} down");
            assert!(up <= secs(30), "told: {told}, limit {limit}: {up:?} up");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_follows_success_is_not_talked_down() {
    // Scenario: each second allows twice what was answered in the seconds before, at least 5 and at most 40; 60 calls a
    // second are offered.
    // Expected: we come up to the 40 within a minute, and then use 80 % of it.
    for told in [true, false] {
        let limited = Limited::new(told, 5);
        let mut answered = Vec::new();
        let mut late = Tally { answered: 0.0, refused: 0.0, seconds: 0.0 };
        for second in 0..120 {
            let tally = limited.offer(60, secs(1)).await;
            answered.push(tally.answered);
            let recent = &answered[answered.len().saturating_sub(5)..];
            let rate = recent.iter().sum::<f64>() / recent.len() as f64;
            limited.sim.limit(MID, (1..=40).rev().find(|limit| f64::from(*limit) <= rate * 2.0).unwrap_or(5).max(5));
            if second >= 60 {
                late.answered += tally.answered;
                late.refused += tally.refused;
                late.seconds += tally.seconds;
            }
        }
        println!("dynamic, told: {told:<5}: {late} in the second minute");
        assert!(late.shares(40).0 >= 0.8, "told: {told}: {late}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_hundred_calls_at_once_are_all_answered() {
    // Scenario: nothing is known of a limit of 10 a second, and 200 calls come in one moment.
    // Expected: each is answered in the end, within a tenth more than the 20 s that it takes, and no call is lost to the
    // retry budget: being too fast is no failure.
    for told in [true, false] {
        let limited = Limited::new(told, 10);
        let start = Instant::now();
        let call = || spawn(limited.service.complete(muse("q").model(MID).deadline(secs(120))));
        let calls: Vec<_> = (0..200).map(|_| call()).collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        let (took, (_, refused)) = (start.elapsed(), limited.count());
        println!("told: {told:<5}: 200 calls in {took:?}, {refused} refused");
        assert!(took < secs(25), "{took:?}");
        assert!(refused <= 64.0, "only what went out before anything was known");
        assert_eq!(limited.route().retry_budget, 50);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_stops_its_lane_for_as_long_as_it_says_and_no_other() {
    let world = World::new();
    world.sim.fail_next(1, Fault::status(429).rate_limit_reset(secs(7)));
    let refused = world.spawn(muse("q").model(MID));
    sleep(ms(100)).await;
    let paused = world.service.health().routes[0].paused;
    assert!((ms(6_800)..=secs(7)).contains(&paused), "{paused:?}");
    let start = Instant::now();
    world.service.complete(muse("other").model(LARGE)).await.unwrap();
    assert!(start.elapsed() < ms(100), "another model is not held up");
    world.service.complete(muse("q").model(MID)).await.unwrap();
    assert!(start.elapsed() >= ms(6_800), "nothing goes out before");
    refused.await.unwrap().unwrap();
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn their_overload_is_not_our_rate() {
    let world = World::new();
    world.sim.overload(MID);
    for _ in 0..3 {
        world.service.complete(muse("q").model(MID)).await.unwrap_err();
    }
    let health = &world.service.health().routes[0];
    assert_eq!((health.throttled, health.requests_per_second, health.paused), (0, None, Duration::ZERO));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn too_many_tokens_slow_tokens_down_and_requests_not() {
    let world = World::new();
    let fault = Fault::status(429).kind("dynamic_token_limited");
    world.service.complete(muse("q").model(MID)).await.unwrap();
    world.sim.fail_next(1, fault);
    world.service.complete(muse("q").model(MID)).await.unwrap();
    let health = &world.service.health().routes[0];
    assert_eq!((health.throttled, health.requests_per_second), (1, None));
    assert!(health.tokens_per_second.is_some());
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn two_clients_never_share_a_limit() {
    let (sim, other) = (Together::new(), Together::new());
    let build = |sim: &Together| InferenceService::builder(sim.client()).build().unwrap();
    let (training, production) = (build(&sim), build(&other));
    sim.fail_next(1, Fault::status(429).rate_limit_reset(secs(30)));
    let slowed = spawn(training.complete(muse("q").model(MID)));
    sleep(ms(100)).await;
    let start = Instant::now();
    production.complete(muse("q").model(MID)).await.unwrap();
    assert!(start.elapsed() < secs(1));
    let of = |service: &InferenceService| service.health().routes[0].throttled;
    assert_eq!((of(&training), of(&production)), (1, 0));
    slowed.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_would_be_too_late_is_told_at_once_and_another_model_is_asked_if_there_is_one() {
    let world = World::with(|builder| builder.limits_of(route(MID), Limits::default().requests_per_minute(1)));
    world.service.complete(muse("first").model(MID)).await.unwrap();
    let (start, within) = (Instant::now(), |question| muse(question).deadline(secs(30)));
    let error = world.service.complete(within("second").model(MID)).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::DeadlineExceeded, Duration::ZERO));
    let reply = world.service.complete(within("third").models([MID, LARGE])).await.unwrap();
    assert_eq!((reply.model().as_str(), start.elapsed() < secs(1)), (LARGE, true));
    let health = world.service.health();
    let mid = health.routes.iter().find(|health| health.route == route(MID)).unwrap();
    assert!((secs(59)..=secs(60)).contains(&mid.predicted_wait), "{:?}", mid.predicted_wait);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_overrun_queue_is_bounded_and_the_rest_is_refused_at_once() {
    // Scenario: 10,000 calls at a concurrency of 64, with room for 1,024 to wait.
    let world = World::new();
    world.sim.latency(secs(1));
    let start = Instant::now();
    let calls: Vec<_> = (0..10_000).map(|_| world.spawn(muse("q").model(MID).deadline(secs(100)))).collect();
    sleep(ms(1)).await;
    let (done, open): (Vec<_>, Vec<_>) = calls.into_iter().partition(|call| call.is_finished());
    assert_eq!((done.len(), open.len()), (10_000 - 64 - 1_024, 64 + 1_024));
    for refused in done {
        assert_eq!(refused.await.unwrap().unwrap_err().kind(), ErrorKind::Overloaded);
    }
    for admitted in open {
        admitted.await.unwrap().unwrap();
    }
    assert_eq!(start.elapsed().as_secs(), 17, "64 a second");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn urgent_calls_go_first_and_batch_calls_are_not_starved() {
    // Scenario: a quota of ten a second, twenty realtime calls a second for a minute, and one batch call at its start.
    // Expected: the batch call is answered though the others would fill every turn.
    let limits = Limits::default().requests_per_second(10);
    let world = World::with(|builder| builder.limits(limits));
    let ask = |priority| muse("q").model(MID).priority(priority).deadline(secs(300));
    let start = Instant::now();
    world.service.complete(ask(Priority::Realtime)).await.unwrap();
    let batch = {
        let call = world.service.complete(ask(Priority::Batch));
        spawn(async move { call.await.map(|_| Instant::now()) })
    };
    let mut urgent = Vec::new();
    while start.elapsed() < secs(60) {
        urgent.push(world.spawn(ask(Priority::Realtime)));
        sleep(ms(50)).await;
    }
    let waited = batch.await.unwrap().unwrap() - start;
    assert!((secs(10)..secs(25)).contains(&waited), "{waited:?}");
    for call in urgent {
        call.await.unwrap().unwrap();
    }
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_answer_tells_of_the_limit() {
    let e5 = "intfloat/multilingual-e5-large-instruct";
    let world = World::with(|builder| builder.embedding_model(e5).price(&route(e5), Price::FREE));
    world.sim.limit(MID, 30);
    world.sim.limit(e5, 40);
    let told = |model: &str| {
        let routes = world.service.health().routes;
        routes.into_iter().find(|health| health.route == route(model)).unwrap().requests_per_second
    };
    world.service.stream(muse("q").model(MID)).await.unwrap().finish().await.unwrap();
    assert_eq!(told(MID), Some(30.0), "a stream");
    world.service.embed("the sky").await.unwrap();
    assert_eq!(told(e5), Some(40.0), "vectors");
    world.at_rest().await;
}

#[test]
fn a_bound_that_lets_nothing_out_is_refused_by_its_name() {
    let none = Limits::default();
    for (limits, name) in [
        (none.concurrency(0), "concurrency(0)"),
        (none.requests_per_second(0), "requests_per_second(0)"),
        (none.requests_per_minute(0), "requests_per_minute(0)"),
        (none.tokens_per_second(0), "tokens_per_second(0)"),
        (none.tokens_per_minute(0), "tokens_per_minute(0)"),
    ] {
        let builder = || InferenceService::builder(Together::new().client());
        for refused in [builder().limits(limits).build(), builder().limits_of(route(MID), limits).build()] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("at least 1"), "{message}");
        }
    }
    assert!(InferenceService::builder(Together::new().client()).limits(none.max_waiting(0)).build().is_ok());
}
