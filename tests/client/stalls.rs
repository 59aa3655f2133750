//! Silence, slowness and time-outs of streams, on virtual time.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::ready, stream};
use http::Response;
use together_inference::{
    TogetherClient,
    client::{Body, CallOptions, ErrorKind, RetryPolicy, Timeouts},
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    fault::{FaultServer, event, good_sse},
    support::{at, collect, faked, hello, hundredth, response},
};

const SECOND: Duration = Duration::from_secs(1);

/// An event stream of these pieces, each that long after the one before.
fn paced(gap: Duration, pieces: impl Iterator<Item = Bytes> + Send + 'static) -> Response<Body> {
    let pieces = stream::iter(pieces).then(move |piece| async move {
        sleep(gap).await;
        Ok(piece)
    });
    response(200, "text/event-stream", Body::stream(pieces))
}

fn client(answer: impl Fn() -> Response<Body> + Send + Sync + 'static) -> TogetherClient {
    faked(move |_| ready(Ok(answer())).boxed()).retry(RetryPolicy::none()).build().unwrap()
}

fn near(elapsed: Duration, expected: Duration) -> bool {
    (expected..expected + Duration::from_millis(5)).contains(&elapsed)
}

/// Scenario: after two deltas only comments arrive, one a second.
/// Expected: the stream fails a minute after the second delta.
#[tokio::test(start_paused = true)]
async fn comments_do_not_keep_a_stream_alive() {
    let deltas = (0..2).map(|index| Bytes::from(event(index)));
    let comments = std::iter::repeat_n(Bytes::from_static(b": keep-alive\n\n"), 1_000);
    let client = client(move || paced(SECOND, deltas.clone().chain(comments.clone())));
    let mut stream = client.chat().stream(&hello()).await.unwrap();
    for _ in 0..2 {
        stream.next().await.unwrap().unwrap();
    }
    let started = Instant::now();
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(near(started.elapsed(), 60 * SECOND), "{:?}", started.elapsed());
    assert!(stream.next().await.is_none());
}

/// Scenario: an event arrives byte by byte, a byte a second, slower than an event a minute.
/// Expected: the stream fails after a minute; with time-outs a hundredth as long, after 0.6 s.
#[tokio::test(start_paused = true)]
async fn bytes_do_not_keep_a_stream_alive() {
    for (timeouts, gap, expected) in
        [(None, SECOND, 60 * SECOND), (Some(hundredth()), SECOND / 100, Duration::from_millis(600))]
    {
        let drip = move |_| {
            let bytes = event(0).into_bytes().into_iter().map(|byte| Bytes::from(vec![byte]));
            ready(Ok(paced(gap, bytes))).boxed()
        };
        let mut builder = faked(drip).retry(RetryPolicy::none());
        if let Some(timeouts) = timeouts {
            builder = builder.timeouts(timeouts);
        }
        let started = Instant::now();
        let error = collect(&builder.build().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(near(started.elapsed(), expected), "{:?}", started.elapsed());
    }
}

/// Scenario: a delta every 59 s, for ever.
/// Expected: no delta is late, and the stream fails after ten minutes in total.
#[tokio::test(start_paused = true)]
async fn an_endless_stream_ends_at_its_total_time() {
    let client = client(|| paced(59 * SECOND, (0..).map(|index| Bytes::from(event(index)))));
    let started = Instant::now();
    let mut stream = client.chat().stream(&hello()).await.unwrap();
    for _ in 0..10 {
        stream.next().await.unwrap().unwrap();
    }
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(near(started.elapsed(), 600 * SECOND), "{:?}", started.elapsed());
}

/// Scenario: the reader takes 90 s over each delta; the next one arrives a millisecond after it is asked for.
/// Expected: a slow reader is no slow server; the stream ends well.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_taken_for_a_silent_server() {
    let stream = good_sse();
    let events: Vec<_> = stream.split_inclusive("\n\n").map(|event| Bytes::from(event.to_owned())).collect();
    let client = client(move || paced(SECOND / 1_000, events.clone().into_iter()));
    let mut stream = client.chat().stream(&hello()).await.unwrap();
    let mut text = String::new();
    while let Some(delta) = stream.next().await {
        text += delta.unwrap().text();
        sleep(90 * SECOND).await;
    }
    assert_eq!(text, "w0 w1 w2 ");
}

/// Scenario: the server goes silent while a slow reader waits.
/// Expected: the silence is measured from when the reader began to wait.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_left_even_by_a_slow_reader() {
    let client = client(|| {
        let pieces = stream::iter([Ok(Bytes::from(event(0)))]).chain(stream::pending());
        response(200, "text/event-stream", Body::stream(pieces))
    });
    let mut stream = client.chat().stream(&hello()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    sleep(90 * SECOND).await;
    let started = Instant::now();
    // A reader that looks away in between does not start the minute anew.
    for _ in 0..3 {
        assert!(tokio::time::timeout(15 * SECOND, stream.next()).await.is_err());
    }
    assert_eq!(stream.next().await.unwrap().unwrap_err().kind(), ErrorKind::Timeout);
    assert!(near(started.elapsed(), 60 * SECOND), "{:?}", started.elapsed());
}

/// Scenario: a role arrives at once, and the first text after 20 s.
/// Expected: a first-token deadline of 10 s fails at 10 s, one of 30 s holds no more once the text is there.
#[tokio::test(start_paused = true)]
async fn the_first_token_deadline_ends_with_the_first_token() {
    let role = r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
    let client = client(move || {
        let late = stream::once(sleep(20 * SECOND)).map(|()| Ok(Bytes::from(event(0))));
        let later = stream::once(sleep(40 * SECOND)).map(|()| Ok(Bytes::from(good_sse())));
        let role = stream::iter([Ok(Bytes::from(format!("{role}\n\n")))]);
        response(200, "text/event-stream", Body::stream(role.chain(late).chain(later)))
    });
    let (request, started) = (hello(), Instant::now());
    let options = CallOptions::default().first_token(started + 10 * SECOND);
    let error = client.chat().stream_with(request.model(), request.input(), &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(near(started.elapsed(), 10 * SECOND), "{:?}", started.elapsed());
    let options = CallOptions::default().first_token(Instant::now() + 30 * SECOND);
    let stream = client.chat().stream_with(request.model(), request.input(), &options).await.unwrap();
    assert_eq!(stream.collect().await.unwrap().text(), "w0 w0 w1 w2 ");
}

/// Scenario: after `[DONE]` the server leaves the connection open.
/// Expected: the stream ends all the same, at once.
#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_done_mark() {
    let client = client(|| {
        let pieces = stream::iter([Ok(Bytes::from(good_sse()))]).chain(stream::pending());
        response(200, "text/event-stream", Body::stream(pieces))
    });
    let started = Instant::now();
    assert_eq!(collect(&client).await.unwrap().text(), "w0 w1 w2 ");
    assert!(started.elapsed() < SECOND);
}

/// Scenario: the deadline passes in the middle of a stream that makes progress.
/// Expected: the stream fails at the deadline.
#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_stream_under_way() {
    let client = client(|| paced(SECOND, (0..).map(|index| Bytes::from(event(index)))));
    let (request, started) = (hello(), Instant::now());
    let options = CallOptions::default().within(Duration::from_millis(4_500));
    let mut stream = client.chat().stream_with(request.model(), request.input(), &options).await.unwrap();
    let mut received = 0;
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(_) => received += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((received, error.kind()), (4, ErrorKind::Timeout));
    assert!(near(started.elapsed(), Duration::from_millis(4_500)), "{:?}", started.elapsed());
    sleep_until(started + 9 * SECOND).await;
    assert!(stream.next().await.is_none());
}

/// Scenario: every time-out, wait and deadline is `Duration::MAX`.
/// Expected: that means for ever; nothing overflows.
#[tokio::test(start_paused = true)]
async fn the_longest_durations_panic_nowhere() {
    let (mut timeouts, mut retry, max) = (Timeouts::default(), RetryPolicy::default(), Duration::MAX);
    (timeouts.connect, timeouts.first_byte, timeouts.stream_first_byte) = (max, max, max);
    (timeouts.idle, timeouts.total, timeouts.pool_idle) = (max, max, max);
    (retry.base, retry.cap, retry.max_hint) = (max, max, max);
    let options = CallOptions::default().within(max);
    let (client, request) = (faked(|_| ready(Ok(paced(SECOND, [good_sse().into()].into_iter()))).boxed()), hello());
    let client = client.timeouts(timeouts).retry(retry).build().unwrap();
    let stream = client.chat().stream_with(request.model(), request.input(), &options).await.unwrap();
    assert_eq!(stream.collect().await.unwrap().text(), "w0 w1 w2 ");
    for hint in ["", "1e300", "18446744073709551615"] {
        let busy = move |_| {
            let mut response = response(503, "text/plain", Body::empty());
            response.headers_mut().insert("retry-after", hint.parse().unwrap());
            ready(Ok(response)).boxed()
        };
        let client = faked(busy).timeouts(timeouts).retry(retry).build().unwrap();
        let call = client.chat().create_with(request.model(), request.input(), &options);
        let _ = tokio::time::timeout(SECOND, call).await;
    }
    // The same over a real connection.
    let server = FaultServer::start().await;
    let client = at(&server, "ok").timeouts(timeouts).build().unwrap();
    for _ in 0..2 {
        client.chat().create_with(request.model(), request.input(), &options).await.unwrap();
    }
}

/// Scenario: every answer has ended, and the server neither sends `[DONE]` nor closes the connection.
/// Expected: the stream ends well after a few seconds, and never later than its deadline; a late usage is waited for.
#[tokio::test(start_paused = true)]
async fn a_finished_stream_ends_without_its_done_mark() {
    let open = |pause: Duration| {
        faked(move |_| {
            let head = good_sse().replace("data: [DONE]\n\n", "");
            let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":7}}"#;
            let usage = stream::once(sleep(pause)).map(move |()| Ok(Bytes::from(format!("{usage}\n\n"))));
            let comments = stream::repeat(()).then(|()| sleep(SECOND)).map(|()| Ok(Bytes::from_static(b": hm\n\n")));
            let pieces = stream::iter([Ok(Bytes::from(head))]).chain(usage).chain(comments);
            ready(Ok(response(200, "text/event-stream", Body::stream(pieces)))).boxed()
        })
    };
    for (pause, deadline, total, took) in [(4, 600, 14, 9), (6, 600, 5, 5), (4, 2, 5, 2)] {
        let (client, request, started) = (open(pause * SECOND).build().unwrap(), hello(), Instant::now());
        let options = CallOptions::default().within(deadline * SECOND);
        let stream = client.chat().stream_with(request.model(), request.input(), &options).await.unwrap();
        let answer = stream.collect().await.unwrap();
        assert_eq!((answer.text(), answer.usage.unwrap().total()), ("w0 w1 w2 ", total));
        assert!(near(started.elapsed(), took * SECOND), "{:?}", started.elapsed());
    }
}
