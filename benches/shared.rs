//! The figures of the cache in Redis, on a server that the benchmark starts.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use redis::{
    AsyncCommands, Client, IntoConnectionInfo,
    aio::{ConnectionManager, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use together_inference::{
    cache::{CacheEntry, CacheLayer, CacheValue, RedisCache},
    inference::{Answer, CacheKey, Kind},
};
use tokio::runtime::Runtime;

use crate::{MODEL, many, pairs};

const MINUTE: Duration = Duration::from_secs(60);
const VECTORS: u16 = 1_000;

/// A server without persistence, gone with its owner.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

pub fn start() -> (Server, String) {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port").port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]).stdout(Stdio::null());
    let server = Server(command.spawn().expect("redis-server: apt-get install redis-server"));
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "redis-server does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    (server, format!("redis://127.0.0.1:{port}"))
}

fn key(kind: Kind, n: u16) -> CacheKey {
    CacheKey::of_bytes(kind, None, &n.to_le_bytes())
}

/// What answers take that lie in Redis, and vectors, against the bare client's bytes.
pub fn redis(runtime: &Runtime) {
    let (_server, url) = start();
    let info = url.as_str().into_connection_info().expect("a URL");
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let client = Client::open(info).expect("a client");
    let cache = runtime.block_on(RedisCache::connect(&*url)).expect("a cache");
    assert!(cache.stats().is_connected);
    let manager = runtime.block_on(client.get_connection_manager()).expect("a connection");
    let plain = runtime.block_on(client.get_multiplexed_async_connection()).expect("a connection");
    gets(runtime, &cache, &manager);
    sets(runtime, &cache, &plain);
    vectors(runtime, &cache, &plain);
    let stats = cache.stats();
    assert_eq!((stats.failed, stats.skipped, stats.dropped, stats.misses), (0, 0, 0, 0), "{stats:?}");
}

fn gets(runtime: &Runtime, cache: &RedisCache, manager: &ConnectionManager) {
    let key = key(Kind::Inference, 0);
    let name = key.to_string();
    let answer = Answer::chat("word ".repeat(380), MODEL);
    runtime.block_on(async {
        cache.set(&key, CacheEntry::new(CacheValue::Inference(answer.into()), MINUTE)).await.expect("room");
        cache.flush().await.expect("written");
    });
    let ours = async || assert!(cache.get(&key).await.expect("an answer").is_some());
    let theirs = async || {
        let bytes: Vec<u8> = manager.clone().get(&name).await.expect("bytes");
        assert!(bytes.len() > 1_900);
    };
    let ours_alone = || async {
        for _ in 0..2_000 {
            ours().await;
        }
    };
    let theirs_alone = || async {
        for _ in 0..2_000 {
            theirs().await;
        }
    };
    pairs(runtime, 2_000, ours_alone, theirs_alone).report_wall("redis get, 2 KB, wall", 1.20);
    let at_once = pairs(runtime, 10_000, || many(10_000, |_| ours()), || many(10_000, |_| theirs()));
    at_once.report("redis get, 2 KB, 64 in flight", 2.00, 0.0);
}

fn sets(runtime: &Runtime, cache: &RedisCache, plain: &MultiplexedConnection) {
    const CALLS: u16 = 200;
    let json: bytes::Bytes = vec![b'x'; 50_000].into();
    let ours = || async {
        for n in 0..CALLS {
            let entry = CacheEntry::new(CacheValue::Json(json.clone()), MINUTE);
            cache.set(&key(Kind::ModelList, n), entry).await.expect("room");
            cache.flush().await.expect("written");
        }
    };
    let theirs = || async {
        for n in 0..CALLS {
            let name = key(Kind::FineTune, n).to_string();
            plain.clone().pset_ex::<_, _, ()>(name, &json[..], 60_000).await.expect("written");
        }
    };
    pairs(runtime, CALLS.into(), ours, theirs).report_wall("redis set, 50 KB, wall", 1.20);
}

fn vectors(runtime: &Runtime, cache: &RedisCache, plain: &MultiplexedConnection) {
    let keys: Vec<_> = (0..VECTORS).map(|n| key(Kind::Embedding, n)).collect();
    let names: Vec<_> = keys.iter().map(ToString::to_string).collect();
    let vector = |n: u16| CacheValue::Embedding((0..1_024_u16).map(|at| f32::from(n) + f32::from(at)).collect());
    let page = keys.iter().zip(0..).map(|(key, n)| (*key, CacheEntry::new(vector(n), MINUTE))).collect();
    runtime.block_on(async {
        cache.set_many(page).await.expect("room");
        cache.flush().await.expect("written");
    });
    let ours = || async {
        let found = cache.get_many(&keys).await.expect("vectors");
        assert!(found.iter().all(Option::is_some));
    };
    let theirs = || async {
        let pages = names.chunks(100).map(|page| async move { plain.clone().mget::<_, Vec<Vec<u8>>>(page).await });
        let found: Vec<_> = stream::iter(pages.collect::<Vec<_>>()).buffered(4).collect().await;
        assert!(found.iter().flat_map(|page| page.as_ref().expect("bytes")).all(|bytes| bytes.len() > 4_096));
    };
    pairs(runtime, 1, ours, theirs).report("redis, 1,000 vectors of 1,024", 1.60, 0.0);
}
