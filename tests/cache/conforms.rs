//! The suite of the trait, on every kind of layer.

use std::{sync::Arc, time::Duration};

use together_inference::{
    cache::{CacheLayer, MemoryCache, RedisCache, RedisConfig, TieredCache},
    testing::conformance::{CacheProfile, cache_layer},
};

use crate::{
    server::{Cluster, Server},
    support::{SOON, is_up, patient},
};

async fn conforms(layer: &dyn CacheLayer) {
    let pace = |time: Duration| -> futures_core::future::BoxFuture<'static, ()> { Box::pin(tokio::time::sleep(time)) };
    cache_layer(layer, CacheProfile::KeepsOld, &pace).await.unwrap();
}

async fn signed(server: &Server) -> RedisCache {
    let cache = RedisConfig::new(server.url()).mac_key([7; 32]).operation_timeout(SOON).connect().await.unwrap();
    is_up(&cache).await;
    cache
}

#[tokio::test]
async fn memory_keeps_every_promise_in_real_time() {
    conforms(&MemoryCache::default()).await;
}

#[tokio::test]
async fn one_server_keeps_every_promise() {
    let server = Server::start(&[]).await;
    let cache: Arc<dyn CacheLayer> = Arc::new(patient(server.url()).await);
    conforms(&cache).await;
}

#[tokio::test]
async fn one_server_with_signatures_keeps_every_promise() {
    let server = Server::start(&[]).await;
    conforms(&signed(&server).await).await;
}

#[tokio::test]
async fn tiers_before_a_server_keep_every_promise() {
    let server = Server::start(&[]).await;
    let redis = patient(server.url()).await;
    conforms(&TieredCache::new(MemoryCache::default(), redis.clone())).await;
    // Without the near layer's help.
    redis.flush().await.unwrap();
    conforms(&TieredCache::new(MemoryCache::new(1), signed(&server).await)).await;
}

#[tokio::test]
async fn a_cluster_keeps_every_promise() {
    let cluster = Cluster::start(0).await;
    let cache = RedisConfig::cluster(cluster.urls()).operation_timeout(SOON).connect().await.unwrap();
    is_up(&cache).await;
    conforms(&cache).await;
}
