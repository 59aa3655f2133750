//! Vectors, pictures, rankings and raw prompts through the service.

use std::sync::Arc;

use together_inference::{
    Cost, InferenceRequest, InferenceService, Price, RouteId, Task, Usage, UsageSource, Usd, async_trait,
    cache::{CacheEntry, CacheError, CacheLayer},
    client::{ImageInput, RerankInput},
    cost::Ending,
    inference::{Bypass, CacheKey, Origin, Source},
    router::{CatalogRouter, ModelRoute},
    service::ErrorKind,
    testing::{SimModel, Together},
    usd,
};

use tokio::time::sleep;

use crate::{
    doubles::Quarters,
    world::{World, muse, poll_at_most, route, secs},
};

#[derive(Clone, Copy, Debug)]
enum How {
    Fails,
    Panics,
    Hangs,
}

/// A cache that is of no use.
#[derive(Debug)]
struct BrokenCache(How);

impl BrokenCache {
    async fn breaks<T>(&self) -> Result<T, CacheError> {
        match self.0 {
            How::Fails => Err(CacheError::new("broken")),
            How::Panics => panic!("broken"),
            How::Hangs => std::future::pending().await,
        }
    }
}

#[async_trait]
impl CacheLayer for BrokenCache {
    async fn get(&self, _: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        self.breaks().await
    }

    async fn set(&self, _: &CacheKey, _: CacheEntry) -> Result<(), CacheError> {
        self.breaks().await
    }

    async fn remove(&self, _: &CacheKey) -> Result<(), CacheError> {
        self.breaks().await
    }
}

const E5: &str = "intfloat/multilingual-e5-large-instruct";
const FLUX: &str = "black-forest-labs/FLUX.1-schnell";
const RERANK: &str = "mixedbread-ai/Mxbai-Rerank-Large-V2";

/// A world in which vectors, pictures and rankings have the prices that the simulator bills.
fn world() -> World {
    World::with(|builder| {
        builder
            .tokenizer(Quarters)
            .price(&route(E5), Price::per_million(usd!("0.02"), Usd::ZERO))
            .price(&route(RERANK), Price::per_million(usd!("0.10"), Usd::ZERO))
            .price(&route(FLUX), Price::per_megapixel(usd!("0.0027")))
    })
}

fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("text number {number}")).collect()
}

#[tokio::test(start_paused = true)]
async fn each_text_is_asked_for_once_and_cached_by_itself() {
    let world = world();
    let first = world.service.embed(["sky", "sea", "sky"]).await.unwrap();
    assert_eq!((first.vectors().len(), first.source, first.usage_source), (3, Source::Miss, UsageSource::Counted));
    assert_eq!(first.vectors()[0], first.vectors()[2]);
    assert_eq!(world.sim.requests()[0].body["input"].as_array().unwrap().len(), 2, "each once");

    let second = world.service.embed(["sun", "sea"]).await.unwrap();
    assert_eq!(world.sim.requests()[1].body["input"], serde_json::json!(["sun"]), "the other one is cached");
    assert_eq!(second.vectors()[1], first.vectors()[1], "to the last bit");
    assert!(second.saved.known().unwrap() > Usd::ZERO && second.source == Source::Miss);

    let third = world.service.embed(["sky", "sun"]).await.unwrap();
    assert_eq!((third.source, third.cost(), world.calls()), (Source::Cache(Origin::Memory), Cost::Known(Usd::ZERO), 2));
    let records = world.at_rest().await;
    let hits = records.iter().filter(|record| record.ending == Ending::Hit).count();
    assert_eq!((records.len(), hits), (4, 2), "a record an attempt, and one of $0 a call with a hit");
    let billed: i64 = records.iter().map(|record| record.cost.charge().nanos()).sum();
    assert_eq!(billed, world.sim.bill().nano_usd);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_texts_go_in_parts_and_come_back_in_order() {
    let world = world();
    let all = texts(0..10_000);
    let reply = world.service.embed(all.clone()).await.unwrap();
    assert_eq!((reply.vectors().len(), world.calls()), (10_000, 40));
    for at in [0, 255, 256, 9_999] {
        let alone = world.service.embed(all[at].as_str()).await.unwrap();
        assert_eq!(alone.vectors()[0], reply.vectors()[at], "{at}");
    }
    assert_eq!(reply.cost().known().unwrap().nanos(), world.sim.bill().nano_usd);
    assert_eq!(reply.usage().prompt, world.sim.bill().prompt_tokens);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_part_that_fails_keeps_what_came_before_it() {
    let world = world();
    world.sim.on("text number 300").fail(400);
    let error = world.service.embed(texts(0..400)).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts().len()), (ErrorKind::Refused, 2));
    assert!(error.cost().known().unwrap() > Usd::ZERO, "the first part was paid");
    assert_eq!(world.service.embed(texts(0..256)).await.unwrap().source, Source::Cache(Origin::Memory));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn vectors_stay_within_their_tenant_and_out_of_the_cache_if_asked() {
    let world = world();
    world.service.embed(["sky"]).await.unwrap();
    let other = world.service.for_tenant("acme").embed(["sky"]).await.unwrap();
    assert_eq!(other.source, Source::Miss);
    let fresh = world.service.embed(InferenceRequest::embedding(["sky"]).allow_cached(false)).await.unwrap();
    assert_eq!((fresh.source, world.calls()), (Source::Upstream(Bypass::Asked), 3));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn all_vectors_are_one_models_whatever_the_router_finds_later() {
    let together = Together::new();
    together.add_model(SimModel::of_kind("acme/embed", "embedding"));
    let router = Arc::new(CatalogRouter::builtin());
    let service = InferenceService::builder(together.client()).router(Arc::clone(&router)).build().unwrap();
    assert_eq!(service.embed("sky").await.unwrap().model(), &E5);
    let better = ModelRoute::new("together", "acme/embed").task(Task::Embedding).price(Price::FREE).quality_score(1.0);
    together_inference::router::ModelRouter::register(&*router, better).unwrap();
    assert_eq!(service.embed("sea").await.unwrap().model(), &E5);
    let named = service.embed(InferenceRequest::embedding(["sea"]).model("acme/embed")).await.unwrap();
    assert_eq!(named.model(), &"acme/embed", "unless another one is named");
    let of_builder = InferenceService::builder(together.client()).embedding_model("acme/embed").build().unwrap();
    assert_eq!(of_builder.embed("sky").await.unwrap().model(), &"acme/embed");
}

#[tokio::test(start_paused = true)]
async fn vectors_fall_back_to_the_same_model_elsewhere_and_to_no_other() {
    let (first, second) = (Together::new(), Together::new());
    second.add_model(SimModel::of_kind("acme/embed", "embedding"));
    let router = CatalogRouter::builtin()
        .with(ModelRoute::new("second", E5).task(Task::Embedding))
        .with(ModelRoute::new("second", "acme/embed").task(Task::Embedding));
    let service = InferenceService::builder(first.client())
        .upstream("second", second.client())
        .router(router)
        .embedding_model(E5);
    let service = service.build().unwrap();
    first.overload(E5);
    second.overload(E5);
    let error = service.embed("sky").await.unwrap_err();
    assert!(error.attempts().iter().all(|attempt| *attempt.route.model() == E5), "{error}");
    second.restore(E5);
    assert_eq!(service.embed("sun").await.unwrap().model(), &E5);
    first.restore(E5);
    // A model that one upstream does not have may be had on the other.
    for (lacks, has) in [(&first, "second"), (&second, "together")] {
        lacks.unavailable(E5);
        let reply = service.embed(format!("text of {has}").as_str()).await.unwrap();
        assert_eq!((reply.model().as_str(), reply.route.upstream().as_str()), (E5, has));
        lacks.restore(E5);
    }
    assert_eq!(second.calls_to("acme/embed") + first.calls_to("acme/embed"), 0);
}

/// A service with two embedding models, and its simulator.
fn two_models() -> (Together, InferenceService) {
    let together = Together::new();
    together.add_model(SimModel::of_kind("acme/embed", "embedding"));
    let router = CatalogRouter::builtin().with(ModelRoute::new("together", "acme/embed").task(Task::Embedding));
    let service = InferenceService::builder(together.client()).router(router).build().unwrap();
    (together, service)
}

/// Scenario: a fallback answers for a model that is overloaded; then that model is back.
/// Expected: nobody gets the fallback's vector as the model's, neither from the cache nor beside fresh ones.
#[tokio::test(start_paused = true)]
async fn a_vector_is_cached_under_the_model_that_made_it() {
    let (together, service) = two_models();
    let either = |texts: &[&str]| InferenceRequest::embedding(texts.iter().copied()).models([E5, "acme/embed"]);
    let pinned = |texts: &[&str]| InferenceRequest::embedding(texts.iter().copied()).model(E5);
    together.overload(E5);
    let fallback = service.embed(either(&["sky"])).await.unwrap();
    assert_eq!(fallback.model(), &"acme/embed");
    together.restore(E5);
    let cached = service.embed(pinned(&["sky", "sea"])).await.unwrap();
    let fresh = service.embed(pinned(&["sky", "sea"]).allow_cached(false)).await.unwrap();
    assert_eq!((cached.model().as_str(), cached.vectors()), (E5, fresh.vectors()));
    let inputs = || together.requests().iter().rev().map(|one| one.body["input"].clone()).collect::<Vec<_>>();
    assert_eq!(inputs()[1], serde_json::json!(["sky", "sea"]), "what the fallback said is not what the model says");
    let of_acme = service.embed(InferenceRequest::embedding(["sky"]).model("acme/embed")).await.unwrap();
    assert_eq!((of_acme.source, of_acme.vectors()), (Source::Cache(Origin::Memory), fallback.vectors()));
    // What is cached of the one is not put beside what the other makes.
    together.overload(E5);
    let mixed = service.embed(either(&["sky", "sun"])).await.unwrap();
    assert_eq!((mixed.model().as_str(), &mixed.vectors()[0]), ("acme/embed", &fallback.vectors()[0]));
    assert_eq!(inputs()[0], serde_json::json!(["sky", "sun"]));
}

/// Scenario: 600 texts in three parts; the first model fails at the second part.
/// Expected: the other model makes all vectors; what the first one's cost stays on the bill.
#[tokio::test(start_paused = true)]
async fn one_model_makes_all_parts_of_a_call() {
    let (together, service) = two_models();
    together.on("text number 300").model(E5).fail(503);
    let ask = || InferenceRequest::embedding(texts(0..600)).models([E5, "acme/embed"]);
    let reply = service.embed(ask()).await.unwrap();
    assert_eq!((reply.model().as_str(), reply.vectors().len()), ("acme/embed", 600));
    let alone = InferenceRequest::embedding(texts(0..600)).model("acme/embed").allow_cached(false);
    assert_eq!(service.embed(alone).await.unwrap().vectors(), reply.vectors());
    let answered =
        |model: &str| reply.attempts.iter().filter(|one| one.error.is_none() && *one.route.model() == model).count();
    assert_eq!((answered(E5), answered("acme/embed")), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn explaining_a_request_for_vectors_fixes_no_model() {
    let (together, local) = (Together::new(), Together::new());
    local.add_model(SimModel::of_kind("acme/embed", "embedding"));
    let router = CatalogRouter::builtin().with(ModelRoute::new("local", "acme/embed").task(Task::Embedding));
    let service = InferenceService::builder(together.client()).upstream("local", local.client()).router(router);
    let service = service.build().unwrap();
    service.explain(&InferenceRequest::embedding(["a"]).upstream("together")).await.unwrap();
    let reply = service.embed(InferenceRequest::embedding(["b"]).upstream("local")).await.unwrap();
    assert_eq!(reply.model(), &"acme/embed");
}

#[tokio::test(start_paused = true)]
async fn a_text_that_cannot_fit_is_named_before_anything_is_sent() {
    let world = world();
    let long = "word ".repeat(5_000);
    let error = world.service.embed(["short", &long]).await.unwrap_err();
    assert_eq!((error.kind(), world.calls()), (ErrorKind::InvalidRequest, 0));
    assert!(error.to_string().contains("text 1 is too long") && error.to_string().contains("514"), "{error}");
    // One that may fit is the provider's to judge.
    let error = world.service.embed("word ".repeat(600).as_str()).await.unwrap_err();
    assert_eq!((error.kind(), world.calls()), (ErrorKind::Refused, 1));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_cache_costs_calls_and_no_vectors() {
    for how in [How::Fails, How::Panics, How::Hangs] {
        let world = World::with(|builder| {
            builder.price(&route(E5), Price::per_million(usd!("0.02"), Usd::ZERO)).cache(BrokenCache(how))
        });
        for _ in 0..2 {
            assert_eq!(world.service.embed(["sky", "sea"]).await.unwrap().vectors().len(), 2);
            // A layer that hangs is written to behind the answers, and given up.
            sleep(secs(1)).await;
        }
        assert_eq!(world.calls(), 2);
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_for_vectors_leaks_nothing_and_is_recorded() {
    for polls in 1..12 {
        let world = world();
        world.sim.latency(secs(1));
        let request = InferenceRequest::embedding(texts(0..600)).allow_cached(false);
        let done = poll_at_most(polls, world.service.embed(request)).await;
        let records = world.at_rest().await;
        let open = records.iter().filter(|record| record.ending == Ending::Cancelled).count();
        assert!(open <= 1 && (done.is_some() || polls < 12), "{polls}: {records:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_dropped_call_whose_vectors_others_may_want_the_part_under_way_is_finished_and_no_other() {
    for polls in 1..12 {
        let world = world();
        world.sim.latency(secs(1));
        let done = poll_at_most(polls, world.service.embed(texts(0..600))).await;
        let begun = world.calls();
        sleep(secs(10)).await;
        let records = world.at_rest().await;
        assert!(records.iter().all(|record| record.ending == Ending::Answered), "{polls}: {records:?}");
        let most = if done.is_some() { 3 } else { begun.max(1) };
        assert!(world.calls() <= most, "{polls}: {} calls", world.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn a_picture_is_priced_by_what_was_made_and_cached_only_with_a_seed() {
    let world = world();
    let picture = |seed: Option<u64>| {
        let input = ImageInput::new("a red sky over the sea").size(96, 64).png();
        InferenceRequest::from(seed.map_or(input.clone(), |seed| input.clone().seed(seed))).model(FLUX)
    };
    let reply = world.service.image(picture(None)).await.unwrap();
    let size = imagesize(reply.images()[0].bytes().unwrap());
    assert_eq!((size, reply.usage_source), ((96, 64), UsageSource::Counted));
    assert_eq!(reply.usage(), Usage { images: 1, pixels: 96 * 64, ..reply.usage() });
    assert_eq!(reply.cost().known().unwrap().nanos(), world.sim.bill().nano_usd);
    world.service.image(picture(None)).await.unwrap();
    assert_eq!(world.calls(), 2, "another picture each time");
    let first = world.service.image(picture(Some(7))).await.unwrap();
    let second = world.service.image(picture(Some(7))).await.unwrap();
    assert_eq!((second.source, world.calls()), (Source::Cache(Origin::Memory), 3));
    assert_eq!(first.images(), second.images());
    let records = world.at_rest().await;
    let billed: i64 = records.iter().map(|record| record.cost.charge().nanos()).sum();
    assert_eq!(billed, world.sim.bill().nano_usd);
}

/// Width and height of a PNG.
fn imagesize(png: &[u8]) -> (u32, u32) {
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[tokio::test(start_paused = true)]
async fn several_pictures_cost_several_times_and_links_cost_what_was_asked() {
    let world = world();
    let input = ImageInput::new("a boat").size(100, 50).n(3).url();
    let reply = world.service.image(InferenceRequest::from(input).model(FLUX)).await.unwrap();
    assert_eq!((reply.images().len(), reply.usage().pixels), (3, 15_000));
    assert!(reply.images()[0].url().is_some() && !format!("{reply:?}").contains("/simulated/"));
    assert_eq!(reply.cost().known().unwrap().nanos(), world.sim.bill().nano_usd);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn the_task_and_a_text_are_enough() {
    let world = world();
    let embedded = world.service.complete(InferenceRequest::new(Task::Embedding).prompt("the sky")).await.unwrap();
    assert_eq!(embedded.vectors().len(), 1);
    let image = InferenceRequest::new(Task::Image).prompt("the sky").model(FLUX);
    assert_eq!(world.service.complete(image).await.unwrap().images().len(), 1);
    let chat = world.service.complete(InferenceRequest::new(Task::Chat).prompt("the sky")).await.unwrap();
    assert!(!chat.text().is_empty() && chat.images().is_empty() && chat.vectors().is_empty());
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn documents_come_back_by_relevance_and_are_cached() {
    let world = world();
    let input =
        RerankInput::new("Where do llamas live?", ["Bread is baked.", "Llamas live in Peru.", "A llama."]).top_n(2);
    let ask = || InferenceRequest::from(input.clone()).model(RERANK);
    let reply = world.service.rerank(ask()).await.unwrap();
    assert_eq!(reply.ranking().iter().map(|ranked| ranked.index).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(
        (reply.usage_source, world.service.rerank(ask()).await.unwrap().source),
        (UsageSource::Reported, Source::Cache(Origin::Memory))
    );
    let records = world.at_rest().await;
    assert_eq!(records[0].cost.charge().nanos(), world.sim.bill().nano_usd);
}

#[tokio::test(start_paused = true)]
async fn a_raw_prompt_is_continued_plain_and_streamed() {
    let world = World::new();
    world.sim.on("Once upon").reply(" a time there was a crab.");
    let ask = || InferenceRequest::raw_prompt("Once upon").max_tokens(64).n(2);
    let plain = world.service.complete(ask()).await.unwrap();
    assert_eq!((plain.text(), plain.choices().len()), (" a time there was a crab.", 2));
    let mut stream = world.service.stream(ask()).await.unwrap();
    while let Some(delta) = stream.next().await {
        delta.unwrap();
    }
    let streamed = stream.finish().await.unwrap();
    assert_eq!((streamed.text(), streamed.usage(), streamed.choices().len()), (plain.text(), plain.usage(), 2));
    assert!(world.sim.requests().iter().all(|request| request.path == "/v1/completions"));
    let records = world.at_rest().await;
    let billed: i64 = records.iter().map(|record| record.cost.charge().nanos()).sum();
    assert_eq!(billed, world.sim.bill().nano_usd);
}

#[tokio::test(start_paused = true)]
async fn what_has_no_stream_says_so_and_a_bound_holds_over_all_parts() {
    let world = world();
    let error = world.service.stream(InferenceRequest::embedding(["sky"])).await.unwrap_err();
    assert_eq!((error.kind(), error.invalid().unwrap().field), (ErrorKind::InvalidRequest, "stream"));
    let cheap = InferenceRequest::embedding(texts(0..1_000)).max_cost(usd!("0.0000001"));
    assert_eq!(world.service.embed(cheap).await.unwrap_err().kind(), ErrorKind::NoRoute);
    assert_eq!(world.calls(), 0);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_explained_is_not_made() {
    let world = world();
    for (request, model) in [
        (InferenceRequest::embedding(["sky"]), E5),
        (InferenceRequest::image_generation("sky").model(FLUX), FLUX),
        (muse("hi").model(RouteId::new("together", "m")), "m"),
    ] {
        let decision = world.service.explain(&request).await.unwrap();
        assert_eq!(decision.ranked[0].route.model(), &model);
    }
    assert_eq!(world.calls(), 0);
}
