//! A Redis Cluster: keys on all its nodes, and a master that dies.

use std::time::{Duration, Instant};

use together_inference::{
    Tenant,
    cache::{CacheLayer, RedisCache, RedisConfig},
    inference::CacheKey,
};

use crate::{
    server::{Cluster, Server},
    support::{eventually, is_up, key, key_of, note, text},
};

async fn connected(cluster: &Cluster) -> RedisCache {
    // One of the nodes is enough to find the others.
    let cache = RedisConfig::cluster([cluster.nodes[1].url()]).connect().await.unwrap();
    is_up(&cache).await;
    cache
}

async fn fill(cache: &RedisCache, keys: &[CacheKey]) {
    let page = keys.iter().enumerate().map(|(n, key)| (*key, note(n.to_string()))).collect();
    cache.set_many(page).await.unwrap();
    cache.flush().await.unwrap();
    assert_eq!(cache.stats().unwritten, 0, "{:?}", cache.stats());
}

#[tokio::test]
async fn keys_of_all_nodes_are_found_together_and_a_tenants_are_forgotten_on_all() {
    let cluster = Cluster::start(0).await;
    let (one, other) = (connected(&cluster).await, connected(&cluster).await);
    let tenant = Tenant::from("acme");
    let keys: Vec<_> = (0..500_u16).map(|n| key(n.to_le_bytes())).collect();
    let tenants: Vec<_> = (0..500_u16).map(|n| key_of(&tenant, n.to_le_bytes())).collect();
    fill(&one, &keys).await;
    fill(&one, &tenants).await;
    let found = other.get_many(&keys).await.unwrap();
    for (n, found) in found.iter().enumerate() {
        assert_eq!(text(found.as_ref().unwrap()), n.to_string());
    }
    let sizes = || cluster.nodes.iter().map(|node| node.cli(&["DBSIZE"]).parse::<usize>().unwrap()).collect::<Vec<_>>();
    assert!(sizes().iter().all(|size| *size > 200) && sizes().iter().sum::<usize>() == 1_000, "{:?}", sizes());
    other.forget_tenant(&tenant).await.unwrap();
    assert_eq!(sizes().iter().sum::<usize>(), 500);
    assert!(one.get_many(&tenants).await.unwrap().iter().all(Option::is_none));
    assert!(one.get_many(&keys).await.unwrap().iter().all(Option::is_some));
}

/// What a look-up brings that takes 100 ms at most. This timer begins after the look-up's own: a machine that is too busy
/// for this test holds up both, and the look-up, which is asked first, is over first.
async fn in_time<T>(look_up: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        answer = look_up => Some(answer),
        () = async { tokio::time::sleep(Duration::from_millis(100)).await } => None,
    }
}

/// What the end of a master costs, however it comes about.
async fn costs_misses_and_no_waiting(end: impl FnOnce(&mut Server)) {
    let mut cluster = Cluster::start(1).await;
    let cache = connected(&cluster).await;
    let keys: Vec<_> = (0..300_u16).map(|n| key(n.to_le_bytes())).collect();
    fill(&cache, &keys).await;
    for node in &cluster.nodes {
        // What the master has, its replica has.
        node.cli(&["WAIT", "1", "2000"]);
    }
    let master = cluster.a_master();
    end(&mut cluster.nodes[master]);
    let (ended, mut slowest, mut asked) = (Instant::now(), Duration::ZERO, 0);
    let all_are_back = async || {
        let mut found = 0;
        for key in &keys {
            let begun = Instant::now();
            let answer = in_time(cache.get(key)).await;
            slowest = slowest.max(begun.elapsed());
            found += usize::from(answer.unwrap_or_else(|| panic!("{slowest:?}")).is_ok_and(|found| found.is_some()));
            asked += 1;
        }
        found == keys.len()
    };
    let back = eventually(Duration::from_secs(40), all_are_back).await;
    let stats = cache.stats();
    assert!(back, "{stats:?}");
    assert_eq!(stats.hits + stats.misses + stats.skipped + stats.failed, asked, "{stats:?}");
    println!("all back after {:?}, the slowest look-up took {slowest:?}; {stats:?}", ended.elapsed());
}

#[tokio::test]
async fn a_master_that_dies_costs_misses_and_no_waiting() {
    costs_misses_and_no_waiting(Server::kill).await;
}

#[tokio::test]
async fn a_master_that_hangs_costs_misses_and_no_waiting() {
    costs_misses_and_no_waiting(|master| master.freeze()).await;
}
