//! Answers in pieces.

use together_inference::{
    Priority, Usage, UsageSource,
    client::ErrorKind as Wire,
    inference::{Bypass, Source},
    router::{CatalogRouter, ModelRouter, Observation, Outcome},
    service::ErrorKind,
    testing::Fault,
};
use tokio::time::{Instant, sleep};

use crate::world::{LARGE, MID, SMALL, World, ms, muse, route, secs};

#[tokio::test(start_paused = true)]
async fn a_stream_begins_with_its_first_delta() {
    // Scenario: an upstream that takes 300 ms to begin and 50 ms for each piece.
    // Expected: the call resolves after 300 ms, the pieces add up to the answer.
    let world = World::new();
    world.sim.latency(ms(300));
    world.sim.token_latency(ms(50));
    world.sim.on("").reply("one two three");
    let start = Instant::now();
    let mut stream = world.service.stream(muse("count").model(LARGE)).await.unwrap();
    assert_eq!((start.elapsed(), world.sim.open_streams()), (ms(300), 1));
    let mut text = String::new();
    while let Some(delta) = stream.next().await {
        text.push_str(delta.unwrap().text());
        assert_eq!(stream.text(), text);
    }
    assert_eq!((text.as_str(), stream.text(), stream.model().as_str()), ("one two three", "one two three", LARGE));
    assert!(stream.next().await.is_none(), "the end stays the end");
    let reply = stream.finish().await.unwrap();
    assert_eq!(reply.timings.first_token, Some(ms(300)));
    assert!(reply.timings.total >= ms(400));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn every_refusal_is_an_error_before_the_stream() {
    for status in [400, 401, 402, 403, 404, 422, 429, 500, 503] {
        let world = World::new();
        world.sim.fail_next(3, Fault::status(status));
        let error = world.service.stream(muse("why?").model(LARGE).deadline(secs(60))).await.unwrap_err();
        assert_eq!(error.client_error().unwrap().status(), Some(status));
        assert_ne!(error.kind(), ErrorKind::Interrupted);
        sleep(secs(1)).await;
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_does_not_begin_is_replaced_before_the_first_delta() {
    // Scenario: a stream of the first model that breaks, ends, errs or stalls before its first delta.
    // Expected: the second model answers.
    for fault in [Fault::cut_after(0), Fault::end_after(0), Fault::error_after(0), Fault::stall_after(0)] {
        let world = World::new();
        world.sim.fail_next_of(LARGE, 1, fault.clone());
        let stream = world.service.stream(muse("why?").models([LARGE, MID])).await;
        let reply = stream.unwrap().finish().await.unwrap();
        assert_eq!((reply.model().as_str(), reply.attempts.len()), (MID, 2), "{fault:?}");
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_falls_back_after_the_first_delta() {
    // Scenario: a stream that breaks, ends, errs or stalls after k chunks, with other models at hand.
    // Expected: an interruption that shows its one attempt and what it cost; what arrived is there; no other call.
    let faults = [Fault::cut_after, Fault::end_after, Fault::error_after, Fault::stall_after];
    for fault in faults {
        for chunks in 1..12 {
            let world = World::new();
            world.sim.fail_next(1, fault(chunks));
            let mut stream = world.service.stream(muse("why?").models([LARGE, MID, SMALL])).await.unwrap();
            let mut deltas = 0;
            let error = loop {
                match stream.next().await.unwrap() {
                    Ok(_) => deltas += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!((deltas, error.kind()), (chunks, ErrorKind::Interrupted), "{error}");
            assert_eq!((error.attempts().len(), world.calls()), (1, 1));
            assert!(error.attempts()[0].error.is_some() && error.cost().known().is_some());
            assert!(stream.next().await.is_none());
            assert_eq!(stream.finish().await.unwrap_err().kind(), ErrorKind::Interrupted);
            let records = world.at_rest().await;
            assert_eq!((records.len(), records[0].usage_source), (1, UsageSource::Counted));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_finished_stream_is_the_answer_of_a_plain_call() {
    let tool = || {
        let parameters = serde_json::json!({"type": "object", "properties": {"city": {"type": "string"}}});
        together_inference::client::Tool::function("get_weather", "", parameters)
    };
    let requests = [
        muse("Why is the sky blue?").model(LARGE),
        muse("Why is the sky blue?").model(LARGE).n(3),
        muse("please get weather").model(LARGE).tool(tool()),
        muse("think").model(LARGE).extra("reasoning", serde_json::json!({"enabled": true})),
        muse("be short").model(LARGE).max_tokens(3),
    ];
    for request in requests {
        let world = World::new();
        world.sim.fragment_streams(3);
        let plain = world.service.complete(request.clone()).await.unwrap();
        let folded = world.service.stream(request).await.unwrap().finish().await.unwrap();
        assert_eq!(folded.answer.served, plain.answer.served);
        assert_eq!((folded.usage(), folded.cost(), folded.finish()), (plain.usage(), plain.cost(), plain.finish()));
        assert_eq!((folded.text(), folded.reasoning()), (plain.text(), plain.reasoning()));
        let names = |reply: &together_inference::InferenceResponse| {
            let calls = reply.tool_calls().iter().map(|call| (call.name().to_owned(), call.function.arguments.clone()));
            calls.collect::<Vec<_>>()
        };
        assert_eq!((folded.choices().len(), names(&folded)), (plain.choices().len(), names(&plain)));
        assert_eq!(folded.source(), Source::Upstream(Bypass::Stochastic));
        assert_eq!((folded.asked, folded.route), (plain.asked, plain.route));
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_stream_may_outlast_the_default_deadline_but_not_its_own() {
    // Scenario: a stream of three minutes; without a deadline at both priorities, with one of 20 s, and one that does not
    // begin.
    // Expected: whole without one, interrupted at 20 s with one; without one the first piece is awaited for the default.
    for priority in [Priority::Standard, Priority::Realtime] {
        let world = World::new();
        world.sim.on("").reply("word ".repeat(36));
        world.sim.token_latency(secs(5));
        let request = || muse("talk").model(LARGE).priority(priority);
        let start = Instant::now();
        let reply = world.service.stream(request()).await.unwrap().finish().await.unwrap();
        assert!(start.elapsed() >= secs(180), "{:?}", start.elapsed());
        assert_eq!(reply.attempts.len(), 1);
        let start = Instant::now();
        let bounded = world.service.stream(request().deadline(secs(20))).await.unwrap();
        assert_eq!(bounded.finish().await.unwrap_err().kind(), ErrorKind::Interrupted);
        assert_eq!(start.elapsed().as_secs(), 20);
        world.sim.fail_next(10, Fault::stall_after(0));
        let start = Instant::now();
        let error = world.service.stream(request()).await.unwrap_err();
        assert_eq!(error.attempts()[0].error, Some(Wire::Timeout));
        let default = if priority == Priority::Realtime { 60 } else { 120 };
        assert!(start.elapsed().as_secs() <= default, "{:?}", start.elapsed());
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_token_that_is_late_moves_the_call_on() {
    // Scenario: the first model takes 5 s to begin, the caller wants the first token within 2 s; the second is quick.
    // Expected: the second one's stream after 2 s.
    let world = World::new();
    world.sim.latency_of(LARGE, secs(5));
    // The second one needs time of its own: each attempt has the whole of it.
    world.sim.latency_of(MID, ms(200));
    let start = Instant::now();
    let request = muse("why?").models([LARGE, MID]).first_token(secs(2)).deadline(secs(30));
    let stream = world.service.stream(request).await;
    match stream {
        Ok(stream) => {
            assert_eq!((start.elapsed().as_secs(), stream.model().as_str()), (2, MID));
            stream.finish().await.unwrap();
        }
        Err(error) => panic!("{error}"),
    }
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_takes_his_time_makes_no_route_look_slow() {
    // Scenario: a provider of 50 ms a chunk; twenty callers that read at once, one that reads five chunks a second, two
    // that read three a minute, and one that leaves after an hour.
    // Expected: the route is expected to be as fast as before, and what has faded meanwhile makes it no slower; the records
    // say what the provider took.
    let world = World::new();
    world.sim.on("").reply("word ".repeat(20));
    world.sim.latency(ms(300));
    world.sim.token_latency(ms(50));
    let ask = || world.service.stream(muse("talk").model(LARGE));
    for _ in 0..20 {
        ask().await.unwrap().finish().await.unwrap();
    }
    let seconds = || world.service.health().routes[0].seconds.unwrap();
    let before = seconds();
    let read = async |rest| {
        let mut stream = ask().await.unwrap();
        while let Some(delta) = stream.next().await {
            delta.unwrap();
            sleep(rest).await;
        }
        assert!(stream.finish().await.unwrap().timings.total > rest * 20, "the caller's own time");
        seconds() / before
    };
    let changed = read(ms(200)).await;
    assert!((0.7..1.4).contains(&changed), "{before} s, then {changed} times as much");
    for _ in 0..2 {
        let changed = read(secs(20)).await;
        assert!(changed < 1.4, "{before} s, then {changed} times as much");
    }
    let mut left = ask().await.unwrap();
    left.next().await.unwrap().unwrap();
    sleep(secs(3_600)).await;
    drop(left);
    let records = world.at_rest().await;
    assert!(records.iter().all(|record| record.latency < secs(3)), "{records:?}");
}

#[tokio::test(start_paused = true)]
async fn what_waited_for_a_slow_reader_makes_no_route_look_fast() {
    // Scenario: a route whose answers take three seconds, and then ten whose reader came when everything was there: they
    // seem to have taken as long as their first token.
    // Expected: nothing is believed of their pace.
    let (router, usage) = (CatalogRouter::builtin(), Usage { completion: 60, ..Usage::default() });
    let observe = |took, held_up| {
        let mut seen = Observation::new(route(LARGE), Instant::now(), took, Outcome::Answered(usage));
        (seen.first_token, seen.held_up) = (Some(ms(300)), held_up);
        router.observe(&seen);
        router.expects(&route(LARGE), Instant::now()).unwrap().seconds
    };
    let before = (0..20).fold(0.0, |_, _| observe(secs(3), ms(0)));
    let after = (0..10).fold(0.0, |_, _| observe(ms(300), secs(6)));
    assert!((0.7..1.4).contains(&(after / before)), "{before} s, then {after} s");
}
