//! Redis that answers nonsense: a miss, counted, and never a wrong answer.

use std::time::{Duration, SystemTime};

use together_inference::{
    cache::{CacheError, CacheLayer, RedisCache, RedisConfig},
    inference::CacheKey,
};

use crate::{
    fake::{Fake, bulk},
    server::Server,
    support::{SOON, connected, eventually, is_up, keep, key, note, note_for, text},
};

/// Each way to ask must miss; the error says what is wrong.
async fn refused(cache: &RedisCache, key: &CacheKey) -> CacheError {
    assert!(cache.get_kept(key).await.is_err());
    assert!(cache.get_many(&[*key]).await.is_err());
    cache.get(key).await.unwrap_err()
}

#[tokio::test]
async fn what_is_not_this_keys_whole_value_is_no_answer() {
    let server = Server::start(&[]).await;
    let (one, cache) = (connected(server.url()).await, connected(server.url()).await);
    let name = key("a").to_string();
    keep(&one, &key("b"), note("another key's")).await;
    let good = note("a").encode(&key("a"), SystemTime::now()).unwrap();
    let with_version = |version: u8| [&[version], &good[1..]].concat();
    let mut refusals = 0;
    for (bytes, reason) in [
        (server.bytes(&key("b").to_string()), "another key"),
        (good[..good.len() - 1].to_vec(), "cut or grew"),
        (good[..20].to_vec(), "cut"),
        ([&good[..], b"x"].concat(), "cut or grew"),
        (with_version(1), "version 1"),
        (with_version(255), "version 255"),
        (b"{\"text\":\"nonsense\"}".to_vec(), "version"),
    ] {
        server.put(&name, &bytes);
        let error = refused(&cache, &key("a")).await;
        assert!(error.to_string().contains(reason), "{error} is not {reason}");
        refusals += 3;
        assert_eq!(cache.stats().refused, refusals);
    }
    // A value of another type, and beside all this one that is good.
    server.cli(&["DEL", &name]);
    server.cli(&["LPUSH", &name, "x"]);
    assert!(refused(&cache, &key("a")).await.to_string().contains("WRONGTYPE"));
    let found = cache.get_many(&[key("a"), key("b")]).await.unwrap();
    assert!(found[0].is_none() && found[1].is_some(), "one that is refused takes nothing from the others");
    server.put(&name, &good);
    assert_eq!(text(&cache.get(&key("a")).await.unwrap().unwrap()), "a");
    let stats = cache.stats();
    assert_eq!((stats.pauses, stats.connections, stats.hits), (0, 1, 2), "{stats:?}");
}

#[tokio::test]
async fn a_value_of_half_a_gigabyte_is_not_carried_over() {
    let server = Server::start(&[]).await;
    // So patient that it would carry all of it.
    let cache = RedisConfig::new(server.url()).operation_timeout(SOON).connect().await.unwrap();
    is_up(&cache).await;
    server.cli(&["SETRANGE", &key("a").to_string(), "536870911", "x"]);
    let before = server.info("total_net_output_bytes");
    assert!(cache.get(&key("a")).await.is_err());
    assert!(cache.get_many(&[key("a")]).await.is_err());
    let sent = server.info("total_net_output_bytes") - before;
    assert!(sent < 16 << 20, "{sent} bytes");
}

#[tokio::test]
async fn errors_for_answers_are_misses_and_then_reason_to_pause() {
    for reply in ["-LOADING Redis is loading the dataset", "-MOVED 1 127.0.0.1:1", "-NOAUTH Authentication required."] {
        let line = format!("{reply}\r\n");
        let fake = Fake::start(move |_| Some(line.clone().into_bytes())).await;
        let cache = connected(fake.url()).await;
        for _ in 0..5 {
            let error = cache.get(&key("a")).await.unwrap_err().to_string();
            assert!(!error.contains("127.0.0.1"), "{error} repeats the server's own words");
        }
        assert!(cache.get(&key("a")).await.unwrap().is_none(), "{reply}");
        let stats = cache.stats();
        assert_eq!((stats.failed, stats.skipped, stats.pauses), (5, 1, 1), "{stats:?}");
    }
}

#[tokio::test]
async fn a_full_server_keeps_nothing_and_answers_as_before() {
    let server = Server::start(&[]).await;
    let cache = connected(server.url()).await;
    keep(&cache, &key("a"), note("a")).await;
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    for n in 0..10_u8 {
        cache.set(&key([n]), note("x")).await.unwrap();
        cache.flush().await.unwrap();
    }
    let stats = cache.stats();
    assert_eq!((stats.written, stats.unwritten, stats.pauses), (1, 10, 0), "{stats:?}");
    assert_eq!(text(&cache.get(&key("a")).await.unwrap().unwrap()), "a");
    assert!(cache.get(&key([1])).await.unwrap().is_none(), "what could not be written is not there");
}

#[tokio::test]
async fn a_demoted_server_is_left() {
    let (master, server) = (Server::start(&[]).await, Server::start(&[]).await);
    let cache = connected(server.url()).await;
    server.cli(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
    let left = async || {
        _ = cache.set(&key("a"), note("a")).await;
        cache.flush().await.unwrap();
        cache.stats().connections > 1
    };
    assert!(eventually(SOON, left).await, "{:?}", cache.stats());
}

#[tokio::test]
async fn bytes_that_are_no_reply_are_a_miss() {
    let value = note("a").encode(&key("a"), SystemTime::now()).unwrap();
    let whole = bulk(&value);
    let replies: [Vec<u8>; 5] = [
        b"not a reply\r\n".to_vec(),
        b"$9999999999999\r\n".to_vec(),
        b":7\r\n".to_vec(),
        b"*2\r\n$1\r\na\r\n$1\r\nb\r\n".to_vec(),
        whole[..whole.len() - 4].to_vec(),
    ];
    for reply in replies {
        let shown = String::from_utf8_lossy(&reply).into_owned();
        let fake = Fake::start(move |_| Some(reply.clone())).await;
        let cache = connected(fake.url()).await;
        for _ in 0..10 {
            let found = cache.get(&key("a")).await;
            assert!(found.is_err() || found.unwrap().is_none(), "{shown}");
        }
    }
    let fake = Fake::start(move |_| Some(whole.clone())).await;
    let cache = connected(fake.url()).await;
    assert_eq!(text(&cache.get(&key("a")).await.unwrap().unwrap()), "a", "the fake is right otherwise");
}

#[tokio::test]
async fn a_value_past_its_time_is_no_answer_even_where_redis_still_has_it() {
    let server = Server::start(&[]).await;
    let cache = connected(server.url()).await;
    let old = note_for(Duration::from_millis(1), "old");
    let bytes = old.encode(&key("a"), SystemTime::now() - Duration::from_secs(1)).unwrap();
    server.put(&key("a").to_string(), &bytes);
    assert!(cache.get(&key("a")).await.unwrap().is_none());
    assert_eq!(cache.stats().misses, 1);
}
