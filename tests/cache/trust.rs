//! Who may put words into the cache, and what it tells of secrets.

use std::{
    sync::{Arc, Mutex},
    time::SystemTime,
};

use together_inference::{
    InferenceRequest, InferenceService, async_trait,
    cache::{CacheEntry, CacheLayer, CacheValue, NoCache, RedisCache, RedisConfig, TieredCache},
    cost::MemoryCosts,
    inference::{Answer, CacheKey, Kind, Origin, Source},
    notify::{Alert, AlertKind, Notifier, NotifyError},
    testing::Together,
};

use crate::{
    books::Books,
    server::Server,
    support::{MINUTE, SOON, eventually, is_up, keep, key, note, patient, text},
};

async fn signed(server: &Server, key: [u8; 32]) -> RedisCache {
    let cache = RedisConfig::new(server.url()).mac_key(key).connect().await.unwrap();
    is_up(&cache).await;
    cache
}

#[tokio::test]
async fn a_forged_value_is_a_miss_and_counted() {
    let server = Server::start(&[]).await;
    let (one, cache) = (signed(&server, [1; 32]).await, signed(&server, [1; 32]).await);
    let name = key("a").to_string();
    keep(&one, &key("a"), note("a")).await;
    assert_eq!(text(&cache.get(&key("a")).await.unwrap().unwrap()), "a");
    let good = server.bytes(&name);
    // A whole envelope of this key, by somebody without the MAC key; one whose body was changed; one that lay elsewhere.
    let by_stranger = note("forged").encode(&key("a"), SystemTime::now()).unwrap();
    let mut changed = good.clone();
    let body = changed.len() - 33;
    changed[body] ^= 1;
    let by_other = signed(&server, [2; 32]).await;
    keep(&by_other, &key("b"), note("b")).await;
    let of_other_key = server.bytes(&key("b").to_string());
    for (n, bytes) in [by_stranger, changed, of_other_key, good[..10].to_vec()].iter().enumerate() {
        server.put(&name, bytes);
        let error = cache.get(&key("a")).await.unwrap_err();
        assert!(error.to_string().contains("not signed"), "{error}");
        assert!(cache.get_many(&[key("a")]).await.is_err());
        assert_eq!(cache.stats().forged, 2 * (n as u64 + 1));
    }
    server.put(&name, &good);
    assert_eq!(text(&cache.get(&key("a")).await.unwrap().unwrap()), "a");
    // Under the name of another kind the same bytes are another one's.
    let other_kind = CacheKey::of_bytes(Kind::ModelList, None, b"a");
    assert_eq!(other_kind.hash(), key("a").hash(), "the name alone tells them apart");
    server.put(&other_kind.to_string(), &good);
    assert!(cache.get(&other_kind).await.is_err());
    let unsigned = patient(server.url()).await;
    assert!(unsigned.get(&key("a")).await.is_err(), "without the key it is no value either");
}

#[tokio::test]
async fn a_forged_answer_is_asked_anew() {
    let server = Server::start(&[]).await;
    let (together, costs) = (Together::new(), MemoryCosts::new(100));
    together.on("capital").reply("Canberra.");
    let ask = async || {
        let cache = signed(&server, [1; 32]).await;
        let service =
            InferenceService::builder(together.client()).cache(cache.clone()).cost_sink(costs.clone()).build().unwrap();
        let request = InferenceRequest::chat("The capital?").temperature(0.0);
        let reply = service.complete(request).await.unwrap();
        service.shutdown(MINUTE).await;
        cache.flush().await.unwrap();
        (reply.source, reply.to_string())
    };
    assert_eq!(ask().await, (Source::Miss, "Canberra.".into()));
    assert_eq!(ask().await, (Source::Cache(Origin::Redis), "Canberra.".into()));
    let name = server.cli(&["KEYS", "ti:infer:*"]);
    // Everything in the envelope is right, but for who made it; the tag is the former one's.
    let mut envelope = server.bytes(&name);
    let place = envelope.windows(8).position(|window| window == b"Canberra").unwrap();
    envelope[place..place + 8].copy_from_slice(b"Vladimir");
    server.put(&name, &envelope);
    assert_eq!(ask().await, (Source::Miss, "Canberra.".into()));
    Books::new(&together, &costs).add_up();
}

/// Keeps the alerts that it is given.
#[derive(Clone, Debug, Default)]
struct Alerts(Arc<Mutex<Vec<Alert>>>);

#[async_trait]
impl Notifier for Alerts {
    async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
        self.0.lock().unwrap().push(alert.clone());
        Ok(())
    }
}

#[tokio::test]
async fn somebody_hears_that_values_are_forged_and_once() {
    for tiered in [false, true] {
        let server = Server::start(&[]).await;
        let (together, alerts, costs) = (Together::new(), Alerts::default(), MemoryCosts::new(100));
        let cache = signed(&server, [1; 32]).await;
        let builder = InferenceService::builder(together.client()).notifier(alerts.clone()).cost_sink(costs.clone());
        let builder =
            if tiered { builder.cache(TieredCache::new(NoCache, cache.clone())) } else { builder.cache(cache.clone()) };
        let service = builder.build().unwrap();
        let requests = || [InferenceRequest::chat("hi").temperature(0.0), InferenceRequest::embedding(["the sky"])];
        for request in requests() {
            service.complete(request).await.unwrap();
        }
        // Others are told of other things: a model of the catalogue has no price.
        let tampered = || alerts.0.lock().unwrap().iter().filter(|it| it.kind() == AlertKind::CacheTampered).count();
        assert!(service.flush().await && tampered() == 0);
        eventually(SOON, async || cache.flush().await.is_ok() && server.cli(&["DBSIZE"]) == "2").await;
        for name in server.cli(&["KEYS", "ti:*"]).lines() {
            server.put(name, b"whatever somebody else may have written here, however long");
        }
        for request in requests() {
            assert_eq!(service.complete(request).await.unwrap().source, Source::Miss);
        }
        service.shutdown(MINUTE).await;
        Books::new(&together, &costs).add_up();
        assert_eq!(tampered(), 1);
        let told = alerts.0.lock().unwrap();
        let told = told.iter().find(|alert| alert.kind() == AlertKind::CacheTampered).unwrap();
        assert!(told.title().contains("somebody else writes"), "{told:?}");
    }
}

#[tokio::test]
async fn tenants_share_nothing() {
    let server = Server::start(&[]).await;
    let (together, costs) = (Together::new(), MemoryCosts::new(100));
    let cache = patient(server.url()).await;
    let service =
        InferenceService::builder(together.client()).cache(cache.clone()).cost_sink(costs.clone()).build().unwrap();
    let ask = async |request: InferenceRequest| service.complete(request.temperature(0.0)).await.unwrap().source;
    // The last two would be one, were tenant and prompt only joined.
    for (tenant, prompt) in [("a", "x"), ("b", "x"), ("a", "b:c"), ("a:b", "c")] {
        assert_eq!(ask(InferenceRequest::chat(prompt).tenant(tenant)).await, Source::Miss);
    }
    assert_eq!(ask(InferenceRequest::chat("x")).await, Source::Miss);
    cache.flush().await.unwrap();
    let names = server.cli(&["KEYS", "ti:*"]);
    assert_eq!(names.lines().count(), 5, "{names}");
    for (tenant, prompt) in [("a", "x"), ("b", "x"), ("a", "b:c"), ("a:b", "c")] {
        assert_eq!(ask(InferenceRequest::chat(prompt).tenant(tenant)).await, Source::Cache(Origin::Redis));
    }
    assert!(service.flush().await);
    Books::new(&together, &costs).add_up();
}

#[tokio::test]
async fn nothing_that_is_shown_holds_a_secret() {
    let server = Server::start(&["--requirepass", "hunter2hunter2"]).await;
    let mac_key = "hunter2 and some more of it";
    let url = format!("redis://:hunter2hunter2@127.0.0.1:{}", server.port);
    let good = RedisConfig::new(&url).mac_key(mac_key).connect().await.unwrap();
    let refused = RedisConfig::new(server.url()).username("x").password("hunter2").connect().await.unwrap();
    is_up(&good).await;
    good.set(&key("a"), CacheEntry::new(CacheValue::Inference(Answer::chat("x", "m").into()), MINUTE)).await.unwrap();
    let config = RedisConfig::new(url).password("hunter2").mac_key(mac_key);
    let errors = [refused.remove(&key("a")).await.unwrap_err(), refused.forget_tenant(&"t".into()).await.unwrap_err()];
    let shown = format!("{good:?} {refused:?} {config:?} {errors:?} {good:#?} {config:#?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
