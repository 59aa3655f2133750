//! What processes share, and how it lies in Redis.

use std::time::Duration;

use together_inference::{
    InferenceRequest, InferenceService, Tenant,
    cache::{CacheEntry, CacheLayer, CacheValue, MemoryCache, RedisCache, RedisConfig, TieredCache},
    client::{ImageInput, RerankInput},
    cost::MemoryCosts,
    inference::{CacheKey, Kind, Origin, Source},
    testing::Together,
};

use crate::{
    books::{Books, Quarters},
    server::Server,
    support::{MINUTE, SOON, is_up, keep, key, key_of, note, note_for, patient, text},
};

#[tokio::test]
async fn what_one_process_keeps_another_one_finds() {
    let server = Server::start(&[]).await;
    let (one, other) = (patient(server.url()).await, patient(server.url()).await);
    keep(&one, &key("a"), note("a").delta(Duration::from_millis(7))).await;
    let found = other.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((text(&found).as_str(), found.origin, found.ttl), ("a", Origin::Redis, MINUTE));
    assert!(other.get(&key("b")).await.unwrap().is_none());
    let stats = other.stats();
    assert_eq!((stats.hits, stats.misses, stats.failed, stats.skipped), (1, 1, 0, 0), "{stats:?}");

    let near = TieredCache::new(MemoryCache::default(), other);
    let origins = [near.get(&key("a")).await, near.get(&key("a")).await];
    assert_eq!(origins.map(|found| found.unwrap().unwrap().origin), [Origin::Redis, Origin::Memory]);
}

#[tokio::test]
async fn services_of_two_processes_pay_once() {
    let server = Server::start(&[]).await;
    let (together, costs) = (Together::new(), MemoryCosts::new(100));
    let ask = async || {
        let cache = patient(server.url()).await;
        let service =
            InferenceService::builder(together.client()).cache(cache.clone()).cost_sink(costs.clone()).build().unwrap();
        let reply = service.complete(InferenceRequest::chat("hello").temperature(0.0)).await.unwrap();
        // The answer is kept after it is given.
        service.shutdown(MINUTE).await;
        cache.flush().await.unwrap();
        reply.source
    };
    assert_eq!([ask().await, ask().await], [Source::Miss, Source::Cache(Origin::Redis)]);
    assert_eq!(together.calls(), 1);
    Books::new(&together, &costs).add_up();
}

#[tokio::test]
async fn what_one_process_paid_of_any_kind_another_one_finds() {
    let server = Server::start(&[]).await;
    let (together, costs) = (Together::new(), MemoryCosts::new(100));
    let picture = ImageInput::new("a red sky over the sea").size(96, 64).png().seed(7);
    let requests = [
        InferenceRequest::from(picture).model("black-forest-labs/FLUX.1-schnell"),
        InferenceRequest::from(RerankInput::new("crab", ["the sea", "the sky"]))
            .model("mixedbread-ai/Mxbai-Rerank-Large-V2"),
        InferenceRequest::raw_prompt("Once upon").max_tokens(64).temperature(0.0),
        InferenceRequest::embedding(["the sky", "the sea"]),
    ];
    let ask = async |request: &InferenceRequest| {
        let cache = patient(server.url()).await;
        let service =
            InferenceService::builder(together.client()).cache(cache.clone()).cost_sink(costs.clone()).build().unwrap();
        let reply = service.complete(request).await.unwrap();
        service.shutdown(MINUTE).await;
        cache.flush().await.unwrap();
        reply
    };
    for request in &requests {
        let (first, calls) = (ask(request).await, together.calls());
        let second = ask(request).await;
        assert_eq!((first.source, second.source), (Source::Miss, Source::Cache(Origin::Redis)), "{request:?}");
        assert_eq!((&second.answer.output, together.calls()), (&first.answer.output, calls), "{request:?}");
    }
    Books::new(&together, &costs).add_up();
}

/// Scenario: ten thousand vectors of 4 kB lie in Redis, more than it sends in the patience of one look-up.
/// Expected: whoever asks next pays for none of them.
#[tokio::test]
async fn ten_thousand_vectors_are_found_by_a_service() {
    let server = Server::start(&[]).await;
    let (together, costs) = (Together::new(), MemoryCosts::new(100));
    let ask = async || {
        let cache = RedisConfig::new(server.url()).queue_bytes(256 << 20).operation_timeout(SOON).connect();
        let cache = cache.await.unwrap();
        is_up(&cache).await;
        let builder = InferenceService::builder(together.client()).cache(cache.clone()).cost_sink(costs.clone());
        let service = builder.tokenizer(Quarters).build().unwrap();
        let texts: Vec<_> = (0..10_000).map(|n| format!("text number {n}")).collect();
        let source = service.complete(InferenceRequest::embedding(texts)).await.unwrap().source;
        service.shutdown(MINUTE).await;
        cache.flush().await.unwrap();
        (source, together.calls())
    };
    assert_eq!(ask().await, (Source::Miss, 40));
    assert_eq!(ask().await, (Source::Cache(Origin::Redis), 40));
    Books::new(&together, &costs).add_up();
}

#[tokio::test]
async fn a_value_may_be_kept_for_ever() {
    let server = Server::start(&[]).await;
    let cache = patient(server.url()).await;
    for (n, ttl) in
        [Duration::MAX, Duration::from_millis(i64::MAX as u64), MINUTE * 60 * 24 * 365 * 100].iter().enumerate()
    {
        keep(&cache, &key([n as u8]), note_for(*ttl, "x").kept_for(Duration::MAX)).await;
        assert!(cache.get(&key([n as u8])).await.unwrap().is_some(), "{ttl:?}");
    }
}

#[tokio::test]
async fn a_page_of_vectors_is_kept_and_found_whole_and_in_order() {
    let server = Server::start(&[]).await;
    let (one, other) = (patient(server.url()).await, patient(server.url()).await);
    let vector = |n: u16| CacheValue::Embedding((0..1_024_u16).map(|at| f32::from(n) + f32::from(at)).collect());
    let of = |n: u16| CacheKey::of_bytes(Kind::Embedding, None, &n.to_le_bytes());
    let page = (0..1_000).map(|n| (of(n), CacheEntry::new(vector(n), MINUTE))).collect();
    one.set_many(page).await.unwrap();
    one.flush().await.unwrap();
    assert_eq!((one.stats().written, one.stats().waiting), (1_000, 0));
    let asked: Vec<_> = (0..1_500).rev().map(of).collect();
    let found = other.get_many(&asked).await.unwrap();
    assert!(found[..500].iter().all(Option::is_none));
    for (found, n) in found[500..].iter().zip((0..1_000).rev()) {
        assert_eq!(found.as_ref().unwrap().value, vector(n), "{n}");
    }
    assert_eq!((other.stats().hits, other.stats().misses), (1_000, 500));
}

#[tokio::test]
async fn redis_drops_a_value_up_to_a_tenth_of_its_time_early() {
    let server = Server::start(&[]).await;
    let cache = patient(server.url()).await;
    let mut left = Vec::new();
    for n in 0..50_u8 {
        keep(&cache, &key([n]), note_for(MINUTE * 100, "x")).await;
        left.push(server.cli(&["PTTL", &key([n]).to_string()]).parse::<u64>().unwrap());
    }
    assert!(left.iter().all(|left| (5_390_000..=6_000_000).contains(left)), "{left:?}");
    let (least, most) = (left.iter().min().unwrap(), left.iter().max().unwrap());
    assert!(most - least > 200_000, "what is kept together must not go together: {left:?}");

    keep(&cache, &key("old"), note("x").kept_for(MINUTE * 9)).await;
    let left: u64 = server.cli(&["PTTL", &key("old").to_string()]).parse().unwrap();
    assert!((590_000..=600_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_value_that_is_too_large_is_refused_at_once() {
    let server = Server::start(&[]).await;
    let cache = patient(server.url()).await;
    let error = cache.set(&key("a"), note("x".repeat(4 << 20) + "x")).await.unwrap_err();
    assert!(error.to_string().contains("over 4194304 bytes"), "{error}");
    keep(&cache, &key("a"), note("x".repeat(4 << 20))).await;
    let other = RedisConfig::new(server.url()).operation_timeout(SOON).connect().await.unwrap();
    is_up(&other).await;
    assert_eq!(text(&other.get(&key("a")).await.unwrap().unwrap()).len(), 4 << 20);
}

#[tokio::test]
async fn what_does_not_fit_into_the_queue_is_counted_and_not_kept() {
    let server = Server::start(&[]).await;
    let cache = RedisConfig::new(server.url()).queue_bytes(100_000).connect().await.unwrap();
    is_up(&cache).await;
    // No await in between lets the writer begin.
    let page = (0..100_u8).map(|n| (key([n]), note("x".repeat(10_000)))).collect();
    cache.set_many(page).await.unwrap();
    let stats = cache.stats();
    assert!(stats.dropped >= 90 && stats.waiting <= 10, "{stats:?}");
    cache.flush().await.unwrap();
    let stats = cache.stats();
    assert_eq!((stats.written + stats.dropped, stats.waiting), (100, 0), "{stats:?}");
    assert_eq!(server.cli(&["DBSIZE"]), stats.written.to_string());
}

#[tokio::test]
async fn only_the_forgotten_tenants_values_are_gone() {
    let server = Server::start(&[]).await;
    let (one, other) = (patient(server.url()).await, patient(server.url()).await);
    let (acme, rest) = (Tenant::from("acme"), Tenant::from("rest"));
    let entries = |tenant: &Tenant| (0..3_000_u16).map(|n| (key_of(tenant, n.to_le_bytes()), note("x"))).collect();
    one.set_many(entries(&acme)).await.unwrap();
    one.set_many(entries(&rest)).await.unwrap();
    one.set(&key("nobody's"), note("x")).await.unwrap();
    one.flush().await.unwrap();
    server.put("somebody:else", b"x");
    assert_eq!(server.cli(&["DBSIZE"]), "6002");
    // Still in the queue.
    other.set(&key_of(&acme, "late"), note("x")).await.unwrap();
    other.forget_tenant(&acme).await.unwrap();
    other.flush().await.unwrap();
    assert_eq!(server.cli(&["DBSIZE"]), "3002");
    assert!(one.get(&key_of(&acme, 7_u16.to_le_bytes())).await.unwrap().is_none());
    assert!(one.get(&key_of(&rest, 7_u16.to_le_bytes())).await.unwrap().is_some());
}

#[tokio::test]
async fn a_user_with_the_documented_rights_is_enough() {
    let server = Server::start(&[]).await;
    let rights =
        ["ACL", "SETUSER", "app", "on", ">pass:w@rd", "~ti:*", "+ping", "+getrange", "+set", "+unlink", "+scan"];
    assert_eq!(server.cli(&rights), "OK");
    // The last thing that the default user may do.
    assert_eq!(server.cli(&["ACL", "SETUSER", "default", "off"]), "OK");
    let cache = patient(format!("redis://app:pass%3Aw%40rd@127.0.0.1:{}", server.port)).await;
    keep(&cache, &key("a"), note("a")).await;
    assert_eq!(cache.get_many(&[key("a"), key("b")]).await.unwrap().iter().flatten().count(), 1);
    cache.forget_tenant(&Tenant::from("acme")).await.unwrap();
    cache.remove(&key("a")).await.unwrap();
    let by_setters = RedisConfig::new(server.url()).username("app").password("pass:w@rd");
    is_up(&by_setters.connect().await.unwrap()).await;

    let wrong = RedisCache::connect(format!("redis://app:wrong@127.0.0.1:{}", server.port)).await.unwrap();
    assert!(!wrong.stats().is_connected);
    assert!(wrong.get(&key("a")).await.unwrap().is_none(), "a wrong password costs misses");
}
