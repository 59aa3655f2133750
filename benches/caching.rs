//! The figures of what need not be paid twice: followers, a full cache, vectors of which most are there.

use std::{collections::HashMap, hint::black_box, sync::Arc};

use bytes::Bytes;
use cpu_time::ThreadTime;
use futures_util::future::join_all;
use moka::future::Cache;
use together_inference::{
    InferenceRequest, InferenceService, Price, RouteId, TogetherClient, async_trait,
    cache::{CacheEntry, CacheLayer, CacheValue, MemoryCache},
    client::{Body, Transport, TransportError},
    inference::{CacheKey, Kind},
    testing::Together,
};
use tokio::runtime::Runtime;

use crate::{MODEL, PAIRS, pass};

/// A thousand callers of one question: what each costs but the one that pays.
pub fn followers(runtime: &Runtime) {
    const CALLERS: u32 = 1_000;
    let mut each = Vec::new();
    for run in 0..PAIRS {
        let sim = Together::new();
        let service = InferenceService::builder(sim.client()).build().expect("a service");
        let ask = || InferenceRequest::chat(format!("question {run}")).temperature(0.0);
        let ready: Vec<_> = (0..CALLERS).map(|_| service.complete(ask())).collect();
        let alone = pass(runtime, async { drop(service.complete(InferenceRequest::chat("another one")).await) });
        let together = pass(runtime, async {
            black_box(join_all(ready).await);
        });
        assert_eq!(sim.calls(), 2, "one call for all of them, beside the other one");
        each.push((together.cpu.saturating_sub(alone.cpu)).as_secs_f64() * 1e6 / f64::from(CALLERS - 1));
    }
    each.sort_by(f64::total_cmp);
    let median = each[PAIRS / 2];
    println!("{:<44} {median:>7.2} us  {}", "a follower of a thousand", verdict(median <= 3.0, "3 us"));
}

/// A hundred thousand questions, each by two callers: no slot is left.
pub fn questions(runtime: &Runtime) {
    const WAVES: u32 = 100;
    let sim = Together::new();
    let service = InferenceService::builder(sim.client()).build().expect("a service");
    let asked = pass(runtime, async {
        for wave in 0..WAVES {
            let both = |n: u32| (0..2).map(move |_| InferenceRequest::chat((wave * 1_000 + n).to_string()));
            let ask = |request: InferenceRequest| service.complete(request.model(MODEL).temperature(0.0));
            for reply in join_all((0..1_000).flat_map(both).map(ask)).await {
                reply.expect("an answer");
            }
        }
    });
    let left = service.health().coalescing;
    assert_eq!((sim.calls(), left), (u64::from(WAVES) * 1_000, 0), "each is paid once");
    let each = asked.cpu.as_secs_f64() * 1e6 / f64::from(WAVES * 2_000);
    println!("{:<44} {each:>7.2} us  each, the simulator's answer included", "100,000 questions by two callers each");
}

/// A memory cache that gets a million entries: its weight against its bound, and what a hit costs in a small and a large.
pub fn memory(runtime: &Runtime) {
    const BOUND: u64 = 256 << 20;
    let full = MemoryCache::new(BOUND);
    runtime.block_on(fill(&full, 1_000_000));
    let weight = runtime.block_on(full.weight()) as f64 / BOUND as f64;
    println!(
        "{:<44} {weight:>7.3}x  {}",
        "weight of a full memory cache",
        verdict(weight <= 1.1, "1.10x of its bound")
    );
    drop(full);

    let [small, large] = [1_000, 1_000_000].map(|entries| Filled::new(runtime, entries));
    let [few, many] = [small.hits(runtime), large.hits(runtime)];
    for (name, of) in [("ours", 0), ("a bare moka", 1), ("a bare HashMap", 2)] {
        let (few, many) = (few[of], many[of]);
        println!(
            "{:<44} {:>7.3}x  {few:.0} ns of 1,000, {many:.0} ns of 1,000,000",
            format!("a hit in a large cache, {name}"),
            many / few
        );
    }
    let more = (many[0] / few[0]) / (many[1] / few[1]);
    println!("{:<44} {more:>7.3}x  {}", "its growth against that of a bare moka", verdict(more <= 1.1, "1.10x"));
}

fn key(n: u32) -> CacheKey {
    CacheKey::of_bytes(Kind::Inference, None, &n.to_le_bytes())
}

fn value(n: u32) -> Vec<u8> {
    vec![b'x'; 200 + (n % 400) as usize]
}

async fn fill(cache: &MemoryCache, entries: u32) {
    for n in 0..entries {
        let entry = CacheEntry::new(CacheValue::Json(Bytes::from(value(n))), Kind::Inference.ttl());
        cache.set(&key(n), entry).await.expect("set");
    }
}

/// The memory cache and what it is made of, each with the same entries.
struct Filled {
    ours: MemoryCache,
    moka: Cache<[u8; 32], Arc<[u8]>>,
    map: HashMap<[u8; 32], Arc<[u8]>>,
    entries: u32,
}

impl Filled {
    fn new(runtime: &Runtime, entries: u32) -> Self {
        let ours = MemoryCache::new(4 << 30);
        runtime.block_on(fill(&ours, entries));
        let weigher = |_: &[u8; 32], value: &Arc<[u8]>| value.len() as u32;
        let moka = Cache::builder().max_capacity(4 << 30).weigher(weigher).time_to_live(Kind::Inference.ttl()).build();
        runtime.block_on(async {
            for n in 0..entries {
                moka.insert(*key(n).hash(), Arc::from(value(n))).await;
            }
        });
        let map = (0..entries).map(|n| (*key(n).hash(), Arc::from(value(n)))).collect();
        Self { ours, moka, map, entries }
    }

    /// Nanoseconds of a hit in each, in interleaved passes.
    fn hits(&self, runtime: &Runtime) -> [f64; 3] {
        const HITS: usize = 100_000;
        // The same few keys of each, so that the processor's own caches are as warm.
        let keys: Vec<_> = (0..1_000).map(|n| key(n * (self.entries / 1_000))).collect();
        let asked = || keys.iter().cycle().take(HITS);
        let mut passes: [Vec<f64>; 3] = Default::default();
        for _ in 0..PAIRS {
            let ours = pass(runtime, async {
                for key in asked() {
                    black_box(self.ours.get(key).await.expect("a look-up").expect("a hit"));
                }
            });
            let moka = pass(runtime, async {
                for key in asked() {
                    black_box(self.moka.get(key.hash()).await.expect("a hit"));
                }
            });
            let map = pass(runtime, async {
                for key in asked() {
                    black_box(self.map.get(key.hash()).cloned().expect("a hit"));
                }
            });
            passes.iter_mut().zip([ours, moka, map]).for_each(|(all, pass)| all.push(pass.cpu.as_secs_f64()));
        }
        passes.map(|mut all| {
            all.sort_by(f64::total_cmp);
            all[PAIRS / 2] * 1e9 / HITS as f64
        })
    }
}

/// Ten thousand texts of which nine tenths are there, against all of them anew.
pub fn vectors(runtime: &Runtime) {
    const TEXTS: usize = 10_000;
    let service = || {
        let route = RouteId::new("together", "m");
        let builder = InferenceService::builder(canned()).embedding_model("m").price(&route, Price::FREE);
        builder.cache(MemoryCache::new(1 << 30)).build().expect("a service")
    };
    let texts = |from: usize| -> Vec<String> { (from..from + TEXTS).map(|n| format!("text number {n}")).collect() };
    let mut ratios: Vec<f64> = (0..5)
        .map(|_| {
            let service = service();
            let embed = |texts: Vec<String>| {
                let cpu = ThreadTime::now();
                let reply = runtime.block_on(service.embed(texts)).expect("vectors");
                assert_eq!(black_box(reply.vectors()).len(), TEXTS);
                cpu.elapsed().as_secs_f64()
            };
            let (all, tenth) = (embed(texts(0)), embed(texts(TEXTS / 10)));
            tenth / all
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[2];
    println!("{:<44} {median:>7.3}x  {}", "10,000 texts, 90 % of them cached", verdict(median <= 0.2, "0.20x"));
}

fn verdict(is_within: bool, bound: &str) -> String {
    if is_within { format!("(bound {bound})") } else { format!("(bound {bound})  MISSED") }
}

/// Answers any number of texts with as many vectors of 1,024 numbers.
#[derive(Debug)]
struct Vectors(String);

fn canned() -> TogetherClient {
    let numbers = (0..1_024).map(|n| format!("{:.6}", f64::from(n).sin())).collect::<Vec<_>>().join(",");
    TogetherClient::builder().api_key("bench").transport(Vectors(numbers)).build().expect("a client")
}

#[async_trait]
impl Transport for Vectors {
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        let texts =
            serde_json::from_slice::<serde_json::Value>(request.body().as_bytes().expect("bytes")).expect("JSON");
        let count = texts["input"].as_array().map_or(1, Vec::len);
        let each = |n: usize| format!(r#"{{"object":"embedding","index":{n},"embedding":[{}]}}"#, self.0);
        let data = (0..count).map(each).collect::<Vec<_>>().join(",");
        let body = format!(r#"{{"object":"list","model":"m","data":[{data}]}}"#);
        Ok(http::Response::new(Body::from(body)))
    }
}
