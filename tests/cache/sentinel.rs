//! A master that sentinels know, and its successor.

use std::time::{Duration, Instant};

use together_inference::cache::RedisConfig;

use crate::{
    server::{Server, free_port},
    support::{eventually, is_up, keep, key, note, timed},
};

#[tokio::test]
async fn the_successor_is_found_by_any_sentinel_that_lives() {
    let mut master = Server::start(&[]).await;
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", master.port)]).await;
    let linked = async || replica.cli(&["INFO", "replication"]).contains("master_link_status:up");
    assert!(eventually(Duration::from_secs(20), linked).await);
    let sentinel = Server::sentinel("main", master.port).await;
    let knows = async || sentinel.cli(&["INFO", "sentinel"]).contains("slaves=1");
    assert!(eventually(Duration::from_secs(20), knows).await, "{}", sentinel.cli(&["INFO", "sentinel"]));

    let urls = [format!("redis://127.0.0.1:{}", free_port()), sentinel.url()];
    let cache = RedisConfig::sentinel("main", urls.clone()).connect().await.unwrap();
    is_up(&cache).await;
    keep(&cache, &key("a"), note("a")).await;
    master.cli(&["WAIT", "1", "2000"]);

    let unknown = RedisConfig::sentinel("other", urls).connect().await.unwrap();
    assert!(!unknown.stats().is_connected);

    master.kill();
    let died = Instant::now();
    let back = eventually(Duration::from_secs(30), async || timed(&cache, &key("a")).await.1).await;
    assert!(back, "{:?}\n{}", cache.stats(), sentinel.cli(&["INFO", "sentinel"]));
    println!("the successor answers after {:?}", died.elapsed());
    keep(&cache, &key("b"), note("b")).await;
    assert!(replica.info("connected_clients") > 0 && replica.cli(&["ROLE"]).starts_with("master"));
}
