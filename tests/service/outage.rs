//! Outages: what they cost, who answers meanwhile, and how soon everything is as before.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use together_inference::{
    InferenceRequest, InferenceService, Priority,
    client::RetryPolicy,
    limit::Limits,
    notify::AlertKind,
    router::{Availability, Override},
    service::{Error, ErrorKind, RouteHealth},
    testing::{Fault, Together},
    types::{Clock, ManualClock, Rng, SeededRng},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    doubles::Alerts,
    world::{LARGE, MID, SMALL, World, ask, ms, muse, route, secs, spawn},
};

type Call = JoinHandle<Result<together_inference::InferenceResponse, Error>>;

/// Offers so many calls a second for so long. They end by themselves.
async fn offer(world: &World, rate: u32, time: Duration, request: impl Fn() -> InferenceRequest) -> Vec<Call> {
    let (start, gap) = (Instant::now(), secs(1) / rate);
    let mut calls = Vec::new();
    while start.elapsed() < time {
        calls.push(world.spawn(request()));
        sleep_until(start + gap * u32::try_from(calls.len()).unwrap()).await;
    }
    calls
}

/// Offers, waits for the ends, and says how many were answered of how many.
async fn answered(world: &World, rate: u32, time: Duration, request: impl Fn() -> InferenceRequest) -> (u32, u32) {
    let calls = offer(world, rate, time, request).await;
    let (mut good, all) = (0, u32::try_from(calls.len()).unwrap());
    for call in calls {
        good += u32::from(call.await.unwrap().is_ok());
    }
    (good, all)
}

fn broken(world: &World, models: &[&str]) {
    for model in models {
        world.sim.fail_share_of(model, 1.0, Fault::status(500));
    }
}

fn health(world: &World, model: &str) -> RouteHealth {
    world.service.health().routes.into_iter().find(|known| known.route == route(model)).unwrap()
}

const RATES: [u32; 3] = [2, 10, 100];

#[tokio::test(start_paused = true)]
async fn a_total_outage_is_asked_hardly_more_often_than_a_healthy_service() {
    // Scenario: everything fails for 30 s, at three rates, without ejection.
    // Expected: the retry budget alone keeps the load at 1.2, 1.05 and 1.02 times the calls.
    for (rate, most) in RATES.into_iter().zip([1.2, 1.05, 1.02]) {
        let world = World::new();
        world.service.force(&route(LARGE), Some(Override::Admit));
        world.sim.latency(ms(200));
        broken(&world, &[LARGE]);
        let (good, all) = answered(&world, rate, secs(30), || muse("why?").model(LARGE)).await;
        let load = world.calls() as f64 / f64::from(all);
        println!("{rate:>3} a second: {load:.3} times the load");
        assert!(good == 0 && load <= most, "{rate}: {load}");
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn ejection_takes_the_load_off_and_finds_the_recovery_at_once() {
    // Scenario: everything fails for 30 s, at three rates; then all is well for 80 s.
    // Expected: a quarter of the load at most where there is any to speak of, the first answer within 2.5 s after the
    // recovery, and 2 % of the calls after it refused at most.
    for (rate, most) in RATES.into_iter().zip([0.35, 0.25, 0.25]) {
        let world = World::new();
        world.sim.latency(ms(200));
        broken(&world, &[LARGE]);
        let (good, all) = answered(&world, rate, secs(30), || muse("why?").model(LARGE)).await;
        let load = world.calls() as f64 / f64::from(all);
        world.sim.heal();
        let start = Instant::now();
        let calls = offer(&world, rate, secs(80), || muse("why?").model(LARGE)).await;
        let (mut first, mut refused, all) = (None, 0, calls.len());
        for (number, call) in calls.into_iter().enumerate() {
            let at = secs(1) / rate * u32::try_from(number).unwrap();
            match call.await.unwrap() {
                Ok(reply) => first = first.or(Some(at + reply.timings.total)),
                Err(_) => refused += 1,
            }
        }
        let (first, share) = (first.unwrap(), f64::from(refused) / all as f64);
        println!("{rate:>3} a second: {load:.3} times the load, back after {first:?}, {share:.4} refused then");
        assert!(good == 0 && load <= most, "{rate}: {load}");
        assert!(first <= ms(2_500), "{rate}: {first:?}");
        assert!(share <= 0.02, "{rate}: {share}");
        assert!(start.elapsed() >= secs(80));
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_calls_that_fail_one_time_in_ten_nearly_all_are_answered() {
    // Scenario: a tenth of all attempts fails, at three rates, for five minutes at least; no other model to go to.
    // Expected: 99.8 % are answered, for 12 % more attempts at most, and nothing is ejected for long.
    for rate in RATES {
        let world = World::new();
        world.sim.latency(ms(200));
        world.sim.fail_share_of(LARGE, 0.1, Fault::status(500));
        let time = secs(u64::from(10_000 / rate).max(300));
        let (good, all) = answered(&world, rate, time, || muse("why?").model(LARGE)).await;
        let (share, load) = (f64::from(good) / f64::from(all), world.calls() as f64 / f64::from(all));
        println!("{rate:>3} a second: {:.3} % of {all} answered, {load:.3} times the load", share * 100.0);
        assert!(share >= 0.998, "{rate}: {share}");
        assert!(load <= 1.12, "{rate}: {load}");
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_others_answer_an_outage_is_hardly_seen() {
    // Scenario: the first of three models fails for a minute at 50 calls a second, and comes back.
    // Expected: 99.9 % are answered; once it is ejected its calls take no longer than others; 90 % go there again within
    // ten seconds of the recovery, and nothing goes back and forth.
    let world = World::new();
    world.sim.latency(ms(200));
    let request = || muse("why?").models([LARGE, MID, SMALL]);
    answered(&world, 50, secs(5), request).await;
    broken(&world, &[LARGE]);
    let (good, all) = answered(&world, 50, secs(60), request).await;
    assert!(f64::from(good) / f64::from(all) >= 0.999, "{good} of {all}");
    assert_eq!(health(&world, LARGE).availability, Availability::Ejected);
    let start = Instant::now();
    let reply = world.service.complete(request()).await.unwrap();
    assert!(start.elapsed() <= ms(401) && reply.model().as_str() != LARGE, "{:?}", start.elapsed());
    let failed = health(&world, LARGE).failed;
    assert!(failed <= 50, "{failed} failures: a streak, what was under way, and a probe every two seconds");
    world.sim.heal();
    answered(&world, 50, secs(10), request).await;
    let mut there = 0;
    for call in offer(&world, 50, secs(2), request).await {
        there += u32::from(call.await.unwrap().unwrap().model().as_str() == LARGE);
    }
    assert!(there >= 90, "{there} of 100");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn where_all_are_ejected_calls_fail_at_once_and_probes_go_on() {
    let world = World::new();
    world.sim.latency(ms(100));
    let models = [LARGE, MID, SMALL];
    broken(&world, &models);
    answered(&world, 20, secs(5), || muse("why?").models(models)).await;
    let (start, calls) = (Instant::now(), world.calls());
    let mut ejected = None;
    for _ in 0..10 {
        match world.service.complete(muse("why?").models(models)).await {
            Err(error) if error.kind() == ErrorKind::Ejected => ejected = Some(error),
            other => assert!(other.is_err()),
        }
    }
    let error = ejected.unwrap();
    assert!(error.is_retryable() && error.status_hint() == 503, "{error}");
    assert!(error.retry_after().unwrap() <= ms(2_400), "{error:?}");
    assert!(error.attempts().is_empty() && error.decision().is_some());
    assert!(start.elapsed() <= ms(300) && world.calls() <= calls + 3, "probes at most");
    sleep(secs(3)).await;
    let probed = world.service.complete(muse("why?").models(models)).await.unwrap_err();
    let routes: std::collections::HashSet<_> = probed.attempts().iter().map(|attempt| &attempt.route).collect();
    assert_eq!(probed.attempts().len(), routes.len(), "a probe of each at most: {probed}");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_hundred_callers_of_a_broken_model_three_find_out_whether_it_is_back() {
    let world = World::with(|builder| builder.retry(RetryPolicy::none()));
    world.sim.fail_next(5, Fault::status(503));
    for _ in 0..5 {
        world.service.complete(muse("why?").model(LARGE)).await.unwrap_err();
        sleep(ms(100)).await;
    }
    sleep(secs(3)).await;
    world.sim.latency(secs(30));
    let before = world.calls();
    for _ in 0..10 {
        let calls: Vec<_> = (0..100).map(|_| world.spawn(muse("why?").model(LARGE))).collect();
        sleep(ms(2_500)).await;
        let refused = calls.iter().filter(|call| call.is_finished()).count();
        assert!(refused >= 99, "{refused}: all but a probe were refused at once");
    }
    assert_eq!(world.calls() - before, 3, "probes that hang are not added to");
    sleep(secs(60)).await;
    world.service.complete(muse("why?").model(LARGE)).await.unwrap();
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_grey_failure_counts_like_any_other() {
    for fault in [Fault::error_in_ok(), Fault::empty_choices(), Fault::null(), Fault::garbage()] {
        let world = World::new();
        world.sim.fail_next_of(LARGE, 1_000, fault.clone());
        for _ in 0..6 {
            let reply = world.service.complete(ask("why?").allow_cached(false).models([LARGE, MID])).await.unwrap();
            assert_eq!(reply.model().as_str(), MID, "{fault:?}");
            sleep(ms(100)).await;
        }
        assert_eq!((health(&world, LARGE).failed, world.sim.calls_to(LARGE)), (5, 5), "{fault:?}");
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_gives_up_early_ejects_nobody() {
    let world = World::new();
    world.sim.latency(secs(1));
    for _ in 0..50 {
        world.service.complete(muse("why?").model(LARGE).deadline(ms(100))).await.unwrap_err();
    }
    assert_eq!(health(&world, LARGE).availability, Availability::Admitted);
    world.sim.hang();
    for _ in 0..5 {
        world.service.complete(muse("why?").model(LARGE).deadline(secs(10))).await.unwrap_err();
    }
    assert_eq!(health(&world, LARGE).availability, Availability::Ejected, "ten seconds of silence are a failure");
}

#[tokio::test(start_paused = true)]
async fn our_rate_and_their_capacity_are_two_things() {
    // Scenario: refusals for our rate (429), and for their capacity (503).
    // Expected: the first slow down and eject nobody, the second eject and slow nothing down.
    let world = World::new();
    world.sim.fail_next_of(LARGE, 200, Fault::status(429));
    answered(&world, 20, secs(5), || muse("why?").models([LARGE, MID])).await;
    let refused = health(&world, LARGE);
    assert_eq!(refused.availability, Availability::Admitted);
    assert!(refused.throttled >= 5 && refused.requests_per_second.is_some(), "{refused:?}");
    world.at_rest().await;

    let world = World::new();
    world.sim.fail_next_of(LARGE, 200, Fault::status(503));
    answered(&world, 20, secs(5), || muse("why?").models([LARGE, MID])).await;
    let overloaded = health(&world, LARGE);
    assert_eq!(overloaded.availability, Availability::Ejected);
    assert_eq!((overloaded.throttled, overloaded.requests_per_second), (0, None), "{overloaded:?}");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_key_is_stopped_with_one_alert_and_tried_once_a_minute() {
    for (status, kind, alert) in [
        (401, ErrorKind::UpstreamAuthentication, AlertKind::KeyUnauthorized),
        (402, ErrorKind::UpstreamPayment, AlertKind::KeyPaymentRequired),
    ] {
        let alerts = Alerts::default();
        let world = World::with(|builder| builder.notifier(alerts.clone()));
        world.sim.fail_next(3, Fault::status(status));
        for number in 0..10 {
            let error = world.service.complete(muse("why?")).await.unwrap_err();
            assert_eq!((error.kind(), error.attempts().len()), (kind, usize::from(number == 0)), "{error}");
        }
        assert_eq!(world.calls(), 1);
        for _ in 0..2 {
            sleep(secs(61)).await;
            for _ in 0..10 {
                assert_eq!(world.service.complete(muse("why?")).await.unwrap_err().kind(), kind);
            }
        }
        assert_eq!(world.calls(), 3, "one a minute");
        sleep(secs(61)).await;
        // A refusal of another kind shows that the key is taken again.
        world.sim.fail_next(1, Fault::status(422));
        world.service.complete(muse("why?")).await.unwrap_err();
        world.service.complete(muse("why?")).await.unwrap();
        world.service.complete(muse("why?")).await.unwrap();
        world.at_rest().await;
        assert_eq!(alerts.kinds(), [alert]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_ejection_is_told_once() {
    let alerts = Alerts::default();
    let world = World::with(|builder| builder.notifier(alerts.clone()));
    broken(&world, &[LARGE]);
    answered(&world, 20, secs(20), || muse("why?").models([LARGE, MID])).await;
    world.at_rest().await;
    assert_eq!(alerts.kinds(), [AlertKind::BreakerOpen]);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_takes_ten_times_as_long_to_begin_loses_its_calls_and_none_that_runs_is_repeated() {
    let world = World::with(|builder| builder);
    world.sim.latency(ms(500));
    let request = || muse("why?").priority(Priority::Realtime);
    let read = async || {
        let stream = world.service.stream(request()).await.unwrap();
        stream.finish().await.unwrap()
    };
    for _ in 0..30 {
        read().await;
        sleep(ms(500)).await;
    }
    let first = read().await.route;
    world.sim.latency_of(first.model().as_str(), secs(5));
    let (mut there, before) = (0, world.calls());
    for _ in 0..60 {
        there += u32::from(read().await.route == first);
        sleep(ms(500)).await;
    }
    assert!(there <= 15, "{there} of 60 waited for the slow one");
    assert_eq!(world.calls() - before, 60, "one attempt each");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn fifty_services_do_not_come_back_together() {
    // Scenario: fifty services of their own call one provider twice a second each; it fails for ten seconds.
    // Expected: after the recovery no tenth of a second sees more than three times the calls of the others on average.
    let sim = Together::new();
    sim.latency(ms(200));
    let rng = SeededRng::new(7);
    let services: Vec<_> = (0..50)
        .map(|seed| InferenceService::builder(sim.client()).rng(Arc::new(SeededRng::new(seed))).build().unwrap())
        .collect();
    for service in services {
        let wait = ms(rng.next_u64() % 500);
        spawn(async move {
            sleep(wait).await;
            loop {
                spawn(service.complete(muse("why?").model(LARGE).deadline(secs(20))));
                sleep(ms(500)).await;
            }
        });
    }
    sleep(secs(5)).await;
    sim.overload(LARGE);
    sleep(secs(10)).await;
    sim.restore(LARGE);
    let mut tenths = Vec::new();
    for _ in 0..100 {
        let before = sim.calls();
        sleep(ms(100)).await;
        tenths.push(sim.calls() - before);
    }
    let (peak, mean) = (tenths.iter().max().unwrap(), tenths.iter().sum::<u64>() as f64 / 100.0);
    assert!(*peak as f64 <= 3.0 * mean, "{peak} of {mean}: {tenths:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_changes_no_wait_and_no_age() {
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + secs(1_795_608_000)));
    let limits = Limits::default().requests_per_second(2);
    let world = World::with(|builder| builder.clock(Arc::clone(&clock) as Arc<dyn Clock>).limits(limits));
    world.service.complete(ask("kept").model(LARGE)).await.unwrap();
    for jump in [3_600_i64, -7_200, 3_600] {
        let now = clock.now();
        let by = secs(jump.unsigned_abs());
        clock.set(if jump > 0 { now + by } else { now - by });
        let start = Instant::now();
        for _ in 0..4 {
            world.service.complete(muse("why?").model(LARGE)).await.unwrap();
        }
        assert!((ms(1_400)..=ms(2_100)).contains(&start.elapsed()), "{:?}", start.elapsed());
        let kept = world.service.complete(ask("kept").model(LARGE)).await.unwrap();
        assert_eq!(kept.source().to_string(), "memory");
    }
    let health = world.service.health();
    assert!(health.routes.iter().all(|route| route.predicted_wait <= secs(1)), "{health:?}");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn health_says_what_is_known_of_each_route() {
    let world = World::new();
    world.sim.latency(ms(500));
    let request = || muse("why?").models([LARGE, MID]);
    for _ in 0..10 {
        world.service.complete(request()).await.unwrap();
    }
    let well = world.service.health();
    assert!(well.is_ready() && !well.is_degraded(), "{well:?}");
    let known = health(&world, LARGE);
    assert!(known.success.unwrap() > 0.98 && known.seconds.unwrap() > 0.0, "{known:?}");
    broken(&world, &[LARGE]);
    answered(&world, 20, secs(3), request).await;
    let ill = world.service.health();
    assert!(ill.is_ready() && ill.is_degraded(), "{ill:?}");
    world.service.begin_shutdown();
    assert!(!world.service.health().is_ready());
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_streams_lets_a_route_back_at_its_first_token() {
    let world = World::with(|builder| builder.retry(RetryPolicy::none()));
    world.sim.fail_next(5, Fault::status(503));
    for _ in 0..5 {
        world.service.complete(muse("why?").model(LARGE)).await.unwrap_err();
        sleep(ms(100)).await;
    }
    sleep(secs(3)).await;
    world.sim.token_latency(secs(5));
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(world.service.stream(muse("a long story").model(LARGE)).await.unwrap());
    }
    assert_eq!(health(&world, LARGE).availability, Availability::Returning, "none of them is over");
    for stream in streams {
        stream.finish().await.unwrap();
    }
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn two_models_that_fail_together_come_back_together() {
    // Scenario: both models of a request fail for ten seconds, twenty calls a second; then both are well.
    // Expected: from the second probe's time on every call is answered, and the second model, which is never the first
    // choice, is let back as well.
    let world = World::new();
    world.sim.latency(ms(100));
    let request = || muse("why?").models([LARGE, MID]);
    broken(&world, &[LARGE, MID]);
    answered(&world, 20, secs(10), request).await;
    world.sim.heal();
    answered(&world, 20, secs(3), request).await;
    let (good, all) = answered(&world, 20, secs(10), request).await;
    assert_eq!(good, all, "none is refused while they return");
    answered(&world, 20, secs(20), request).await;
    for model in [LARGE, MID] {
        assert_eq!(health(&world, model).availability, Availability::Admitted, "{model}");
    }
    broken(&world, &[LARGE]);
    let (good, all) = answered(&world, 20, secs(5), request).await;
    // The outage used up the second one's retry budget, which only its own answers fill: until the first one is ejected
    // some calls have nowhere to go.
    assert!(good + 10 >= all, "the other one takes over: {good} of {all}");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_wants_the_first_token_at_once_ejects_nobody() {
    let world = World::new();
    world.sim.latency(secs(1));
    for _ in 0..50 {
        let request = muse("why?").model(LARGE).first_token(ms(100));
        world.service.stream(request).await.unwrap_err();
        sleep(ms(100)).await;
    }
    assert_eq!(health(&world, LARGE).availability, Availability::Admitted);
    world.at_rest().await;
}
