//! What is repeated, when, and how often, on virtual time.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, future::ready};
use proptest::prelude::*;
use together_inference::{
    TogetherClient,
    client::{Body, CallOptions, Error, ErrorKind, RetryPolicy},
    testing::{ErrorShape, Fault, Together},
    types::{ManualClock, SeededRng},
};
use tokio::time::{Instant, sleep};

use crate::support::{MODEL, faked, hello, response};

const SECOND: Duration = Duration::from_secs(1);
/// Sun, 06 Nov 1994 08:49:37 GMT
const NOVEMBER_1994: Duration = Duration::from_secs(784_111_777);

fn client_of(together: &Together) -> TogetherClient {
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + NOVEMBER_1994));
    TogetherClient::builder().api_key("key").transport(together.clone()).clock(clock).build().unwrap()
}

/// A call that is first refused with 429 and this header: how long it took, and what came of it.
async fn refused_with(header: &str, value: &str) -> (Duration, Result<(), Error>, u64) {
    let together = Together::new();
    together.fail_next(1, Fault::status(429).header(header, value));
    let client = client_of(&together);
    let started = Instant::now();
    let outcome = client.chat().create(&hello()).await.map(drop);
    (started.elapsed(), outcome, together.calls())
}

#[tokio::test(start_paused = true)]
async fn a_servers_hint_is_waited_for_exactly_and_a_tenth_longer_at_most() {
    for (header, value, seconds) in [
        ("x-ratelimit-reset", "2.5", 2.5),
        ("x-ratelimit-reset", "60", 60.0),
        ("retry-after", "2", 2.0),
        ("retry-after", "0.25", 0.25),
        ("retry-after-ms", "1500", 1.5),
        ("retry-after", "Sun, 06 Nov 1994 08:49:44 GMT", 7.0),
    ] {
        for _ in 0..20 {
            let (elapsed, outcome, calls) = refused_with(header, value).await;
            assert!(outcome.is_ok() && calls == 2, "{header}: {value}");
            // Timers have a resolution of a millisecond.
            let bounds = Duration::from_secs_f64(seconds)..=Duration::from_secs_f64(seconds * 1.1 + 0.002);
            assert!(bounds.contains(&elapsed), "{header}: {value}: {elapsed:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_that_makes_no_sense_leaves_the_wait_to_the_client() {
    let garbage = "x".repeat(4 << 10);
    for header in ["x-ratelimit-reset", "retry-after", "retry-after-ms"] {
        for value in ["-1", "NaN", "inf", "1e400", "0", "", "soon", "1,5", "0x10", &garbage] {
            let (elapsed, outcome, calls) = refused_with(header, value).await;
            assert!(outcome.is_ok() && calls == 2, "{header}: {value}");
            assert!(elapsed <= Duration::from_millis(502), "{header}: {value}: {elapsed:?}");
        }
    }
    let (elapsed, outcome, _) = refused_with("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT").await;
    assert!(outcome.is_ok() && elapsed <= Duration::from_millis(502), "a date in the past: {elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hint_over_a_minute_fails_at_once_and_is_told() {
    for (header, value, seconds) in [
        ("x-ratelimit-reset", "1e9", 1e9),
        ("x-ratelimit-reset", "60.5", 60.5),
        ("retry-after", "61", 61.0),
        ("retry-after-ms", "60001", 60.001),
        ("retry-after", "Sun, 06 Nov 1994 09:49:37 GMT", 3_600.0),
    ] {
        let (elapsed, outcome, calls) = refused_with(header, value).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), calls, elapsed), (ErrorKind::RateLimited, 1, Duration::ZERO), "{header}: {value}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs_f64(seconds)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_hint_makes_a_call_panic_or_hang(
        header in prop::sample::select(vec!["x-ratelimit-reset", "retry-after", "retry-after-ms", "x-should-retry"]),
        value in prop_oneof!["\\PC{0,40}", any::<f64>().prop_map(|number| number.to_string())],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (elapsed, _, calls) = runtime.block_on(refused_with(header, &value));
        prop_assert!(elapsed <= Duration::from_millis(66_002) && (1..=2).contains(&calls));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_makes_no_more_attempts_than_it_may() {
    for fault in [
        Fault::status(429),
        Fault::status(500),
        Fault::status(503),
        Fault::status(524).shape(ErrorShape::Html),
        Fault::refuse(),
        Fault::disconnect(),
        Fault::error_in_ok(),
        Fault::empty_choices(),
        Fault::null(),
        Fault::garbage(),
    ] {
        for attempts in 1..=5 {
            let together = Together::new();
            together.fail_next(100, fault.clone());
            let (client, request) = (client_of(&together), hello());
            let options = CallOptions::default().attempts(attempts);
            client.chat().create_with(request.model(), request.input(), &options).await.unwrap_err();
            assert_eq!(together.calls(), u64::from(attempts), "{fault:?}");
            client.chat().stream_with(request.model(), request.input(), &options).await.unwrap_err();
            assert_eq!(together.calls(), u64::from(2 * attempts), "{fault:?}, streamed");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_not_multiplied() {
    let together = Together::new();
    together.overload(MODEL);
    let client = client_of(&together);
    for _ in 0..100 {
        client.chat().create(&hello()).await.unwrap_err();
    }
    assert_eq!(together.calls(), 110, "a bucket of ten repeats and no more");
    together.restore(MODEL);
    client.chat().create(&hello()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_would_fail_again_is_asked_once() {
    let context = "This model's maximum context length is 8192 tokens";
    for (fault, kind) in [
        (Fault::status(400), ErrorKind::InvalidRequest),
        (Fault::status(400).code("model_not_available"), ErrorKind::ModelNotAvailable),
        (Fault::status(400).message(context), ErrorKind::ContextLength),
        (Fault::status(401), ErrorKind::Authentication),
        (Fault::status(402), ErrorKind::PaymentRequired),
        (Fault::status(403), ErrorKind::PermissionDenied),
        (Fault::status(403).message(context), ErrorKind::ContextLength),
        (Fault::status(404), ErrorKind::NotFound),
        (Fault::status(404).code("model_not_found"), ErrorKind::ModelNotAvailable),
        (Fault::status(409), ErrorKind::Conflict),
        (Fault::status(413), ErrorKind::InvalidRequest),
        (Fault::status(422), ErrorKind::InvalidRequest),
        (Fault::status(500).header("x-should-retry", "false"), ErrorKind::Server),
    ] {
        for stream in [false, true] {
            let together = Together::new();
            together.fail_next(100, fault.clone());
            let (client, started) = (client_of(&together), Instant::now());
            let error = match stream {
                true => client.chat().stream(&hello()).await.map(drop).unwrap_err(),
                false => client.chat().create(&hello()).await.map(drop).unwrap_err(),
            };
            assert_eq!((error.kind(), together.calls()), (kind, 1), "{fault:?}");
            assert_eq!(started.elapsed(), Duration::ZERO);
            assert!(!error.is_retryable() && !error.may_be_billed(), "{error:?}");
        }
    }
}

/// A client whose every attempt fails with 503 after a while, and when its attempts started.
fn failing(seed: u64, latency: Duration) -> (TogetherClient, Arc<Mutex<Vec<Instant>>>) {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&starts);
    let answer = move |_| {
        seen.lock().unwrap().push(Instant::now());
        let fails = sleep(latency).map(|()| Ok(response(503, "application/json", Body::empty())));
        fails.boxed()
    };
    let mut retry = RetryPolicy::default();
    retry.attempts = 100;
    (faked(answer).retry(retry).rng(Arc::new(SeededRng::new(seed))).build().unwrap(), starts)
}

/// Scenario: 200 calls with a deadline against a server that always fails.
/// Expected: no attempt starts at or after the deadline, and no call outlives it by more than 10 ms.
#[tokio::test(start_paused = true)]
async fn no_attempt_starts_after_the_deadline() {
    let mut repeated = 0;
    for seed in 0..200 {
        let (client, starts) = failing(seed, Duration::from_millis(seed % 50 * 10));
        let (request, deadline) = (hello(), Instant::now() + SECOND);
        let options = CallOptions::default().deadline(deadline);
        let outcome = match seed % 2 {
            0 => client.chat().create_with(request.model(), request.input(), &options).await.map(drop),
            _ => client.chat().stream_with(request.model(), request.input(), &options).await.map(drop),
        };
        outcome.unwrap_err();
        assert!(Instant::now() <= deadline + Duration::from_millis(10), "{:?}", deadline.elapsed());
        let starts = starts.lock().unwrap();
        assert!(starts.iter().all(|start| *start < deadline));
        repeated += starts.len() - 1;
    }
    assert!(repeated > 200);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_sends_nothing() {
    let (client, starts) = failing(1, Duration::ZERO);
    let request = hello();
    let options = CallOptions::default().deadline(Instant::now());
    let error = client.chat().create_with(request.model(), request.input(), &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(starts.lock().unwrap().is_empty());
}

/// Scenario: the server never answers; the deadline is 3 s away.
/// Expected: one attempt, and a time-out at the deadline, not at the first-byte time-out.
#[tokio::test(start_paused = true)]
async fn a_deadline_shortens_the_time_outs() {
    let together = Together::new();
    together.hang();
    let (client, request, started) = (client_of(&together), hello(), Instant::now());
    let options = CallOptions::default().within(3 * SECOND);
    let error = client.chat().create_with(request.model(), request.input(), &options).await.unwrap_err();
    assert_eq!((error.kind(), together.calls()), (ErrorKind::Timeout, 1));
    assert!(started.elapsed() <= 3 * SECOND + Duration::from_millis(10));
    assert_eq!(together.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_may_create_something_is_not_repeated_after_it_left() {
    for (status, attempts) in [(503, 1), (500, 1), (429, 3)] {
        let count = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&count);
        let client = faked(move |_| {
            *seen.lock().unwrap() += 1;
            ready(Ok(response(status, "application/json", Body::empty()))).boxed()
        });
        let outcome = client.build().unwrap().post::<serde_json::Value>("/v1/batches", &serde_json::json!({})).await;
        outcome.unwrap_err();
        assert_eq!(*count.lock().unwrap(), attempts, "{status}");
    }
}
