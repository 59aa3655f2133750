//! Redis that is not there, hangs, or comes and goes: calls never fail, and hardly wait.

use std::time::{Duration, Instant};

use together_inference::{
    InferenceRequest, InferenceService,
    cache::{CacheLayer, RedisCache, RedisConfig},
    cost::MemoryCosts,
    inference::Source,
    testing::Together,
};

use crate::{
    books::Books,
    fake::Fake,
    server::Server,
    support::{SOON, connected, eventually, keep, key, note, text, timed},
};

/// The cache is back this soon after Redis is, and some more on a busy machine.
const BACK: Duration = Duration::from_secs(5 + 3);

/// The mean of a thousand look-ups that all must miss.
async fn mean_of_misses(cache: &RedisCache) -> Duration {
    let begun = Instant::now();
    for _ in 0..1_000 {
        assert!(!timed(cache, &key("a")).await.1);
    }
    begun.elapsed() / 1_000
}

async fn no_call_fails(cache: &RedisCache) {
    let (together, costs) = (Together::new(), MemoryCosts::new(100));
    let builder = InferenceService::builder(together.client()).cost_sink(costs.clone());
    let service = builder.cache(cache.clone()).build().unwrap();
    for n in 0..20 {
        let reply = service.complete(InferenceRequest::chat(format!("hello {n}")).temperature(0.0)).await.unwrap();
        assert_eq!(reply.source, Source::Miss);
    }
    assert!(service.flush().await);
    Books::new(&together, &costs).add_up();
}

#[tokio::test]
async fn a_frozen_server_costs_five_look_ups_fifty_milliseconds_and_the_rest_nothing() {
    let server = Server::start(&[]).await;
    let cache = connected(server.url()).await;
    keep(&cache, &key("a"), note("a")).await;
    server.freeze();
    for _ in 0..5 {
        let (took, found) = timed(&cache, &key("a")).await;
        assert!(!found && took < Duration::from_millis(250), "{took:?}");
    }
    let stats = cache.stats();
    assert_eq!((stats.failed, stats.pauses, stats.is_connected), (5, 1, false), "{stats:?}");
    let mean = mean_of_misses(&cache).await;
    assert!(mean < Duration::from_millis(1), "{mean:?}");
    no_call_fails(&cache).await;

    server.thaw();
    let back = Instant::now();
    assert!(eventually(BACK, async || timed(&cache, &key("a")).await.1).await, "{:?}", cache.stats());
    println!("back {:?} after the server", back.elapsed());
    assert_eq!(cache.stats().pauses, 1);
}

#[tokio::test]
async fn calls_that_come_together_on_a_frozen_server_wait_once() {
    let server = Server::start(&[]).await;
    let cache = connected(server.url()).await;
    server.freeze();
    let begun = Instant::now();
    let keys: Vec<_> = (0..64_u8).map(|n| key([n])).collect();
    futures_util::future::join_all(keys.iter().map(|key| timed(&cache, key))).await;
    assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
    // The server need not be frozen for a page of a few hundred to be late as well.
    let keys: Vec<_> = (0..250_u8).map(|n| key([n])).collect();
    assert!(cache.get_many(&keys).await.unwrap().iter().all(Option::is_none));
    cache.set(&key("a"), note("a")).await.unwrap();
    cache.flush().await.unwrap();
    assert!(cache.remove(&key("a")).await.is_err(), "who removes must know that it is still there");
    server.thaw();
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_none() {
    let fake = Fake::raw(|_| None).await;
    let begun = Instant::now();
    let cache = RedisCache::connect(fake.url()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(1_250), "{:?}", begun.elapsed());
    let mean = mean_of_misses(&cache).await;
    assert!(mean < Duration::from_millis(1), "{mean:?}");
    no_call_fails(&cache).await;
    assert!(!cache.stats().is_connected && cache.stats().connections == 0);
}

#[tokio::test]
async fn a_server_that_is_down_from_the_start_is_used_when_it_comes_and_again_when_it_comes_back() {
    let mut server = Server::stopped(&[]);
    let cache = RedisCache::connect(server.url()).await.unwrap();
    no_call_fails(&cache).await;
    assert!(cache.stats().dropped > 0 && cache.stats().waiting == 0, "{:?}", cache.stats());
    for life in 1..=2 {
        server.run().await;
        let up = Instant::now();
        assert!(eventually(BACK, async || cache.stats().is_connected).await, "{:?}", cache.stats());
        println!("back {:?} after the server", up.elapsed());
        keep(&cache, &key("a"), note("a")).await;
        assert!(timed(&cache, &key("a")).await.1);
        assert_eq!(cache.stats().connections, life);
        server.kill();
        // The first one to ask finds out.
        assert!(eventually(SOON, async || !timed(&cache, &key("a")).await.1).await);
        no_call_fails(&cache).await;
    }
}

#[test]
fn a_cache_outlives_the_runtime_that_it_was_made_on() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (server, cache) = first.block_on(async {
        let server = Server::start(&[]).await;
        let cache = connected(server.url()).await;
        cache.set(&key("a"), note("written by another runtime's task")).await.unwrap();
        (server, cache)
    });
    drop(first);
    runtime().block_on(async {
        cache.flush().await.unwrap();
        let other = connected(server.url()).await;
        assert!(
            eventually(SOON, async || {
                timed(&cache, &key("b")).await;
                cache.stats().is_connected
            })
            .await
        );
        keep(&cache, &key("b"), note("b")).await;
        assert_eq!(text(&other.get(&key("b")).await.unwrap().unwrap()), "b");
    });
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_before_anything_is_tried() {
    let secret = "hunter2";
    for (config, reason) in [
        (RedisConfig::new(format!("http://app:{secret}@127.0.0.1")), "cannot be used"),
        (RedisConfig::new(format!("redis://app:{secret}@127.0.0.1:port")), "cannot be used"),
        (RedisConfig::new("redis://127.0.0.1").mac_key(secret), "at least 16 bytes"),
        (RedisConfig::sentinel("main", Vec::<String>::new()), "no sentinel"),
        (RedisConfig::cluster(Vec::<String>::new()), "cannot be used"),
    ] {
        assert!(!format!("{config:?}").contains(secret));
        let error = config.connect().await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(!format!("{error:?} {error}").contains(secret), "{error:?}");
    }
}
