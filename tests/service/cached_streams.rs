//! Streams and the cache: one answer, read whole or in pieces.

use futures_util::FutureExt;
use together_inference::{
    Cost, InferenceRequest, InferenceResponse, InferenceService, Usd, async_trait,
    client::{Body, Tool, Transport, TransportError},
    inference::{Origin, Source},
    testing::{Fault, Together},
    types::FinishReason,
};
use tokio::time::Instant;

use crate::{
    doubles::client,
    world::{World, ask, ms, muse, secs, settle},
};

const MEMORY: Source = Source::Cache(Origin::Memory);

/// Reads a stream to its end: its pieces, and the whole.
async fn read(world: &World, request: InferenceRequest) -> (Vec<String>, InferenceResponse) {
    let mut stream = world.service.stream(request).await.unwrap();
    let mut pieces = Vec::new();
    while let Some(delta) = stream.next().await {
        let delta = delta.unwrap();
        if !delta.text().is_empty() {
            pieces.push(delta.text().to_owned());
        }
    }
    let text = pieces.concat();
    assert_eq!(stream.text(), text);
    let reply = stream.finish().await.unwrap();
    settle().await;
    (pieces, reply)
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_read_to_its_end_is_there_for_the_next_stream_and_the_next_call() {
    let world = World::new();
    world
        .sim
        .on("story")
        .reply("Once upon a time there was a cache that never forgot what it had paid for. ".repeat(4));
    let (live, first) = read(&world, ask("story")).await;
    assert_eq!(first.source, Source::Miss);
    let whole = world.service.complete(ask("story")).await.unwrap();
    assert_eq!((whole.source, whole.text()), (MEMORY, &*live.concat()));
    let (replayed, again) = read(&world, ask("story")).await;
    assert!(replayed.len() > 2, "in pieces: {replayed:?}");
    assert_eq!(replayed.concat(), live.concat());
    assert_eq!((again.source, again.cost(), again.saved), (MEMORY, Cost::Known(Usd::ZERO), first.cost()));
    assert!(again.timings.first_token.is_some() && again.attempts.is_empty());
    assert_eq!(world.calls(), 1);
    let records = world.at_rest().await;
    assert_eq!(records.len(), 3, "one for each");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_came_whole_can_be_read_in_pieces_with_its_tool_calls() {
    let world = World::new();
    let tool = Tool::function("get_weather", "", serde_json::json!({"type": "object", "properties": {}}));
    let request = || ask("weather?").tool(tool.clone());
    world.sim.on("weather").reply_tool("get_weather", serde_json::json!({"city": "Paris"}));
    let whole = world.service.complete(request()).await.unwrap();
    assert_eq!(whole.tool_calls().len(), 1);
    let (_, replayed) = read(&world, request()).await;
    assert_eq!((replayed.source, replayed.tool_calls()), (MEMORY, whole.tool_calls()));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_whole_is_never_kept() {
    let world = World::new();
    world.sim.on("long").reply("word ".repeat(200));
    // Cut by the length.
    let (_, cut) = read(&world, ask("long").max_tokens(5)).await;
    assert_eq!(cut.finish(), Some(&FinishReason::Length));
    assert_eq!(read(&world, ask("long").max_tokens(5)).await.1.source, Source::Miss);
    // Dropped by its reader.
    let mut stream = world.service.stream(ask("long")).await.unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    assert_eq!(read(&world, ask("long")).await.1.source, Source::Miss);
    // Broken on its way.
    world.sim.fail_next(1, Fault::cut_after(3));
    let mut stream = world.service.stream(ask("long, once more")).await.unwrap();
    while let Some(Ok(_)) = stream.next().await {}
    assert!(stream.finish().await.is_err());
    assert_eq!(read(&world, ask("long, once more")).await.1.source, Source::Miss);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_answers_at_random_is_not_kept() {
    let world = World::new();
    for _ in 0..2 {
        let (_, reply) = read(&world, muse("a joke")).await;
        assert!(!reply.source.is_cached());
    }
    assert_eq!(world.calls(), 2);
    world.at_rest().await;
}

/// Answers every request with the same stream.
#[derive(Debug)]
struct Pieces(&'static str);

#[async_trait]
impl Transport for Pieces {
    async fn send(&self, _: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        let response = http::Response::builder().header("content-type", "text/event-stream");
        Ok(response.body(Body::from(self.0.to_owned())).unwrap())
    }
}

/// A service that is answered by these pieces alone.
fn answered_by(pieces: &'static str) -> InferenceService {
    InferenceService::builder(client(Pieces(pieces))).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_in_an_error_is_never_kept() {
    let world = World::new();
    world.sim.on("long").reply("word ".repeat(200));
    for _ in 0..2 {
        world.sim.fail_next(1, Fault::error_after(3));
        let mut stream = world.service.stream(ask("long")).await.unwrap();
        while let Some(Ok(_)) = stream.next().await {}
        assert!(stream.finish().await.is_err());
        settle().await;
    }
    assert_eq!(world.calls(), 2);
    assert_eq!(read(&world, ask("long")).await.1.source, Source::Miss);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_provider_moderated_is_never_kept() {
    let service = answered_by(concat!(
        r#"data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"I will"}}]}"#,
        "\n\n",
        r#"data: {"id":"1","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"content_filter"}]}"#,
        "\n\ndata: [DONE]\n\n",
    ));
    for _ in 0..2 {
        let reply = service.stream(ask("a")).await.unwrap().finish().await.unwrap();
        assert_eq!((reply.finish(), reply.source), (Some(&"content_filter".into()), Source::Miss));
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_out_of_the_cache_that_is_held_unread_does_not_hold_up_a_shutdown() {
    let world = World::new();
    world.service.complete(ask("a")).await.unwrap();
    let mut held = world.service.stream(ask("a")).await.unwrap();
    let begun = Instant::now();
    let drained = world.service.shutdown(secs(1)).await;
    assert!(begun.elapsed() < ms(1) && drained.cancelled == 0, "{:?}: {drained:?}", begun.elapsed());
    assert!(held.next().await.unwrap().is_ok(), "it can still be read");
    world.at_rest().await;
}

#[test]
fn a_cacheable_stream_can_be_read_to_its_end_outside_of_a_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let service = InferenceService::builder(Together::new().client()).build().unwrap();
    let mut stream = runtime.block_on(service.stream(ask("a"))).unwrap();
    while let Some(delta) = stream.next().now_or_never().expect("the simulator does not let anybody wait") {
        delta.unwrap();
    }
    assert_eq!(stream.finish().now_or_never().unwrap().unwrap().source, Source::Miss);
    runtime.block_on(async {
        service.shutdown(secs(5)).await;
        assert_eq!(service.health().in_flight, 0);
    });
}
