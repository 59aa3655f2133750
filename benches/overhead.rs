//! What the crate costs beside doing the same by hand: `cargo bench --bench overhead`, or `-- hit` for some of it. With
//! `--features redis` that of the cache in Redis as well; it needs `redis-server`. With `--features sqlite` that of the
//! ledger, with `--features batch` that of batches.
//!
//! Every figure is a ratio of two things measured in one run, in interleaved pairs: ours, then by hand, then ours… The
//! upstream is a fixed response from another thread. CPU is that of the measuring thread alone, which runs everything of
//! the client: tasks, recorder, leaders. Allocations are counted over one pass of each side.

#[cfg(feature = "batch")]
mod batches;
mod budgets;
mod by_hand;
mod caching;
#[cfg(feature = "sqlite")]
mod ledger;
mod lists;
mod plane;
#[cfg(feature = "redis")]
mod shared;
mod upstream;

use std::{
    alloc::System,
    future::Future,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use cpu_time::ThreadTime;
use futures_util::{StreamExt, stream};
use moka::future::Cache;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use together_inference::{
    InferenceRequest, InferenceService, TogetherClient,
    cache::{CacheEntry, CacheLayer, CacheValue, MemoryCache},
    client::{Body, CallOptions, ChatRequest, ErrorKind, Transport, TransportError},
    inference::{CacheKey, Kind},
    limit::{self, Limits},
};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PAIRS: usize = 15;
const IN_FLIGHT: usize = 64;
const MODEL: &str = "deepseek-ai/DeepSeek-V4.1-Flash";
const QUESTION: &str = "Why is the sky blue, and why is it red in the evening? Answer in three sentences.";

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    #[cfg(feature = "batch")]
    if batches::serve_if_asked(&runtime) {
        return;
    }
    println!("{:<44} {:>9} {:>7} {:>15} {:>9} {:>11}", "", "ratio", "bound", "quartiles", "wall", "allocations");
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word));
    // Before the others' upstream takes memory.
    #[cfg(feature = "batch")]
    if runs("batch plan") {
        batches::planning(&runtime);
    }
    #[cfg(feature = "batch")]
    if runs("batch settle") {
        batches::settling(&runtime);
    }
    let upstream = upstream::start();
    let client = TogetherClient::builder().base_url(upstream.base_url()).api_key("bench").build().expect("a client");
    let hand = by_hand::Client::new(&upstream.base_url());
    if runs("chat") {
        chat(&runtime, &client, &hand);
    }
    if runs("uncacheable") {
        uncacheable(&runtime, &client, &hand);
    }
    if runs("miss") {
        cacheable_miss(&runtime, &client, &hand);
    }
    if runs("stream") {
        streams(&runtime, &client, &hand);
    }
    if runs("hit") {
        hits(&runtime, &client);
    }
    if runs("follower") {
        caching::followers(&runtime);
        caching::questions(&runtime);
    }
    if runs("memory") {
        caching::memory(&runtime);
    }
    if runs("vectors") {
        caching::vectors(&runtime);
    }
    if runs("line") {
        huge_line(&runtime, &upstream.base_url());
    }
    if runs("array") {
        amplifying_array();
    }
    if runs("rank") {
        ranks(&runtime);
    }
    if runs("admit") {
        admissions(&runtime);
    }
    if runs("budget") {
        budgets::in_process();
        #[cfg(feature = "redis")]
        budgets::in_redis(&runtime);
        #[cfg(feature = "postgres")]
        budgets::in_postgres(&runtime);
    }
    if runs("embeddings") {
        plane::embeddings(&runtime, &client, &hand);
    }
    if runs("image") {
        plane::image();
    }
    if runs("stream_as") {
        plane::stream_as();
    }
    if runs("repair") {
        plane::repair();
    }
    if runs("list") {
        lists::jobs(&runtime);
    }
    #[cfg(feature = "sqlite")]
    if runs("ledger") {
        ledger::ledger(&runtime);
    }
    #[cfg(feature = "sqlite")]
    if runs("service with a ledger") {
        ledger::calls(&runtime, &client, &hand);
    }
    #[cfg(feature = "redis")]
    if runs("redis") {
        shared::redis(&runtime);
    }
    if runs("size") {
        future_size(&client);
    }
}

/// One side of a pair: CPU and wall time, and allocations, of a pass.
#[derive(Clone, Copy, Default)]
struct Pass {
    cpu: Duration,
    wall: Duration,
    allocations: usize,
}

fn pass(runtime: &Runtime, work: impl Future<Output = ()>) -> Pass {
    let region = Region::new(ALLOCATOR);
    let (cpu, wall) = (ThreadTime::now(), Instant::now());
    runtime.block_on(work);
    Pass { cpu: cpu.elapsed(), wall: wall.elapsed(), allocations: region.change().allocations }
}

/// Interleaved passes of both sides. `calls` is how many calls a pass makes.
struct Pairs {
    ours: Vec<Pass>,
    theirs: Vec<Pass>,
    calls: u32,
}

fn pairs<A: Future<Output = ()>, B: Future<Output = ()>>(
    runtime: &Runtime,
    calls: u32,
    ours: impl Fn() -> A,
    theirs: impl Fn() -> B,
) -> Pairs {
    // One pass each to open connections and warm caches.
    pass(runtime, ours());
    pass(runtime, theirs());
    let mut pairs = Pairs { ours: Vec::new(), theirs: Vec::new(), calls };
    for _ in 0..PAIRS {
        pairs.ours.push(pass(runtime, ours()));
        pairs.theirs.push(pass(runtime, theirs()));
    }
    pairs
}

impl Pairs {
    fn ratios(&self, of: impl Fn(&Pass) -> f64, extra: f64) -> [f64; 3] {
        let mut ratios: Vec<f64> =
            self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| (of(ours) - extra) / of(theirs)).collect();
        ratios.sort_by(f64::total_cmp);
        [ratios[PAIRS / 4], ratios[PAIRS / 2], ratios[PAIRS * 3 / 4]]
    }

    /// Prints the CPU ratio against its bound. `extra` is CPU of ours, in seconds a pass, that is not held against it.
    fn report(&self, name: &str, bound: f64, extra: f64) {
        self.line(name, self.ratios(|pass| pass.cpu.as_secs_f64(), extra), bound);
    }

    /// Prints the ratio of wall time against its bound, where waiting for another process is most of it.
    #[cfg(feature = "redis")]
    fn report_wall(&self, name: &str, bound: f64) {
        self.line(name, self.ratios(|pass| pass.wall.as_secs_f64(), 0.0), bound);
    }

    fn line(&self, name: &str, [low, median, high]: [f64; 3], bound: f64) {
        let [_, wall, _] = self.ratios(|pass| pass.wall.as_secs_f64(), 0.0);
        let each = |passes: &[Pass]| {
            let mut cpu: Vec<_> = passes.iter().map(|pass| pass.cpu).collect();
            cpu.sort();
            (cpu[PAIRS / 2].as_secs_f64() * 1e6 / f64::from(self.calls), passes[0].allocations / self.calls as usize)
        };
        let ((ours, ours_allocations), (theirs, their_allocations)) = (each(&self.ours), each(&self.theirs));
        let verdict = if median <= bound { "" } else { "  MISSED" };
        println!(
            "{name:<44} {median:>8.3}x {bound:>6.2}x {:>15} {wall:>8.3}x {:>11}  ({ours:.2} / {theirs:.2} us){verdict}",
            format!("{low:.3}-{high:.3}"),
            format!("{ours_allocations}/{their_allocations}"),
        );
    }
}

/// Makes `calls` calls, 64 at a time.
async fn many<F: Future<Output = ()>>(calls: u32, call: impl Fn(u32) -> F) {
    stream::iter((0..calls).map(call)).buffer_unordered(IN_FLIGHT).collect::<()>().await;
}

fn chat(runtime: &Runtime, client: &TogetherClient, hand: &by_hand::Client) {
    const CALLS: u32 = 2_000;
    let request = ChatRequest::new(MODEL).user(QUESTION).temperature(0.7).max_tokens(200);
    let ours =
        || many(CALLS, |_| async { assert!(!client.chat().create(&request).await.expect("answer").text().is_empty()) });
    let theirs = || many(CALLS, |_| async { assert!(!hand.chat(MODEL, QUESTION, 0.7).await.is_empty()) });
    pairs(runtime, CALLS, ours, theirs).report("client chat, 64 in flight", 1.10, 0.0);
}

fn service(client: &TogetherClient) -> InferenceService {
    InferenceService::builder(client.clone()).build().expect("a service")
}

fn uncacheable(runtime: &Runtime, client: &TogetherClient, hand: &by_hand::Client) {
    const CALLS: u32 = 2_000;
    let service = service(client);
    let request = || InferenceRequest::chat(QUESTION).temperature(0.7).max_tokens(200);
    let ours =
        || many(CALLS, |_| async { assert!(!service.complete(request()).await.expect("answer").text().is_empty()) });
    let theirs = || many(CALLS, |_| async { assert!(!hand.chat(MODEL, QUESTION, 0.7).await.is_empty()) });
    pairs(runtime, CALLS, ours, theirs).report("service, uncacheable call", 1.15, 0.0);
}

fn cacheable_miss(runtime: &Runtime, client: &TogetherClient, hand: &by_hand::Client) {
    const CALLS: u32 = 2_000;
    let service = service(client);
    let next = std::sync::atomic::AtomicU64::new(0);
    let question = || format!("{QUESTION} {}", next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let ours = || {
        many(CALLS, |_| async {
            let request = InferenceRequest::chat(question()).temperature(0.0).max_tokens(200);
            assert!(!service.complete(request).await.expect("answer").text().is_empty());
        })
    };
    let theirs = || many(CALLS, |_| async { assert!(!hand.chat(MODEL, &question(), 0.0).await.is_empty()) });
    // The bare parts of a miss: hash, look up, insert, spawn.
    let cache: Cache<[u8; 32], Arc<str>> = Cache::builder().max_capacity(64 << 20).weigher(|_, _| 512).build();
    let answer: Arc<str> = Arc::from("answer");
    let mut bare: Vec<f64> = (0..PAIRS)
        .map(|_| {
            let parts = many(CALLS, |_| async {
                let key = *blake3::hash(question().as_bytes()).as_bytes();
                let found = cache.get(&key).await;
                let (cache, answer) = (cache.clone(), Arc::clone(&answer));
                let led = tokio::spawn(async move { cache.insert(key, answer).await }).await;
                black_box((found, led.expect("spawned")));
            });
            pass(runtime, parts).cpu.as_secs_f64()
        })
        .collect();
    bare.sort_by(f64::total_cmp);
    pairs(runtime, CALLS, ours, theirs).report(
        "service, cacheable miss (less 1.2x bare parts)",
        1.15,
        1.2 * bare[PAIRS / 2],
    );
}

fn streams(runtime: &Runtime, client: &TogetherClient, hand: &by_hand::Client) {
    const CALLS: u32 = 200;
    let request = ChatRequest::new(MODEL).user("stream").temperature(0.7).max_tokens(200);
    let ours = || {
        many(CALLS, |_| async {
            let mut stream = client.chat().stream(&request).await.expect("stream");
            let mut bytes = 0;
            while let Some(delta) = stream.next().await {
                bytes += delta.expect("delta").text().len();
            }
            assert_eq!(bytes, upstream::STREAM_TEXT_BYTES);
        })
    };
    let theirs =
        || many(CALLS, |_| async { assert_eq!(hand.stream(MODEL, "stream").await, upstream::STREAM_TEXT_BYTES) });
    pairs(runtime, CALLS, ours, theirs).report("stream of 256 chunks", 0.85, 0.0);
}

fn hits(runtime: &Runtime, client: &TogetherClient) {
    const CALLS: u32 = 20_000;
    for (bytes, bound) in [(1_000, 2.1), (10_000, 2.8), (100_000, 1.6)] {
        let service = service(client);
        let prompt = "x".repeat(bytes);
        let requests =
            || (0..CALLS / bytes_factor(bytes)).map(|_| InferenceRequest::chat(prompt.as_str()).temperature(0.0));
        runtime.block_on(async {
            service.complete(InferenceRequest::chat(prompt.as_str()).temperature(0.0)).await.expect("miss")
        });
        let layer = MemoryCache::default();
        let key = CacheKey::of_bytes(Kind::Inference, None, prompt.as_bytes());
        let entry = CacheEntry::new(CacheValue::Json("{}".into()), Duration::from_secs(3_600));
        runtime.block_on(async { layer.set(&key, entry).await.expect("set") });
        // Requests are made outside the measured time on both sides.
        let calls = CALLS / bytes_factor(bytes);
        let mut pairs = Pairs { ours: Vec::new(), theirs: Vec::new(), calls };
        for _ in 0..PAIRS {
            let ready: Vec<_> = requests().collect();
            pairs.ours.push(pass(runtime, async {
                for request in ready {
                    black_box(service.complete(request).await.expect("hit"));
                }
            }));
            let cache = bare_cache(runtime, &prompt);
            let ready: Vec<_> = (0..calls).map(|_| prompt.clone()).collect();
            pairs.theirs.push(pass(runtime, async {
                // Owned on both sides: whoever asks a question also lets go of it.
                for prompt in ready {
                    let key = *blake3::hash(black_box(prompt.as_bytes())).as_bytes();
                    black_box(cache.get(&key).await.expect("there"));
                }
            }));
        }
        pairs.report(&format!("memory hit through complete, {} KB", bytes / 1_000), bound, 0.0);
    }
}

fn bytes_factor(bytes: usize) -> u32 {
    if bytes >= 100_000 { 10 } else { 1 }
}

fn bare_cache(runtime: &Runtime, prompt: &str) -> Cache<[u8; 32], Arc<str>> {
    let cache = Cache::builder().max_capacity(64 << 20).weigher(|_, _: &Arc<str>| 512).build();
    runtime.block_on(cache.insert(*blake3::hash(prompt.as_bytes()).as_bytes(), Arc::from("answer")));
    cache
}

/// A turn of the limiter that nobody else waits for, taken and given back.
fn admissions(runtime: &Runtime) {
    const TURNS: u32 = 100_000;
    const BOUND_NANOS: f64 = 1_000.0;
    let quotas = Limits::default().requests_per_second(u32::MAX).requests_per_minute(u32::MAX);
    let quotas = quotas.tokens_per_second(u32::MAX).tokens_per_minute(u32::MAX);
    for (name, limits) in [("admit, uncontended", Limits::default()), ("admit, uncontended, four quotas", quotas)] {
        let passes = (0..PAIRS).map(|_| pass(runtime, limit::turns(limits, TURNS)).cpu);
        let mut nanos: Vec<_> = passes.map(|cpu| cpu.as_secs_f64() * 1e9 / f64::from(TURNS)).collect();
        nanos.sort_by(f64::total_cmp);
        let median = nanos[PAIRS / 2];
        let verdict = if median <= BOUND_NANOS { "" } else { "  MISSED" };
        println!("{name:<44} {median:>7.0}ns {BOUND_NANOS:>6.0}ns{verdict}");
    }
}

fn huge_line(runtime: &Runtime, base_url: &str) {
    let client = TogetherClient::builder().base_url(base_url).api_key("bench").build().expect("a client");
    let request = ChatRequest::new(MODEL).user("huge line");
    let region = Region::new(ALLOCATOR);
    let cpu = ThreadTime::now();
    let error = runtime.block_on(client.chat().stream(&request)).expect_err("a line of 8 MiB");
    let (cpu, change) = (cpu.elapsed(), region.change());
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let verdict = if cpu <= Duration::from_millis(20) { "" } else { "  MISSED" };
    println!(
        "8 MiB line without newline: {error}\n  {:.2} ms CPU (at most 20), {:.1} MiB allocated in all{verdict}",
        cpu.as_secs_f64() * 1e3,
        change.bytes_allocated as f64 / f64::from(1 << 20),
    );
}

/// Sixteen times as large in memory as on the wire, if every zero became a value.
fn amplifying_array() {
    let body =
        format!(r#"{{"choices":[{{"message":{{"content":"a"}},"logprobs":{{"a":[{}0]}}}}]}}"#, "0,".repeat(7 << 20));
    let bytes = body.len();
    let canned = Canned(body.into());
    let client = TogetherClient::builder().api_key("bench").transport(canned).build().expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let region = Region::new(ALLOCATOR);
    let answer = runtime.block_on(client.chat().create_with(
        &MODEL.into(),
        ChatRequest::new(MODEL).user("x").input(),
        &CallOptions::default().attempts(1),
    ));
    let allocated = region.change().bytes_allocated;
    assert_eq!(answer.expect_err("too many values").kind(), ErrorKind::Malformed);
    println!(
        "array of {:.0} MiB that would grow: refused, {:.1} MiB allocated in all",
        bytes as f64 / f64::from(1 << 20),
        allocated as f64 / f64::from(1 << 20)
    );
}

/// Answers everything from memory.
#[derive(Debug)]
struct Canned(bytes::Bytes);

#[together_inference::async_trait]
impl Transport for Canned {
    async fn send(&self, _: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        Ok(http::Response::new(Body::from(self.0.clone())))
    }
}

fn future_size(client: &TogetherClient) {
    let service = service(client);
    let call = service.complete("hi");
    println!("size of complete's future: {} bytes (at most 2048)", size_of_val(&call));
}

/// How long the default router takes to rank: from what it finished before, anew after a result, and with a trial.
fn ranks(runtime: &Runtime) {
    use together_inference::{
        Price, RouteId, Tier, Usage, parse_usd,
        router::{CatalogRouter, ModelRoute, ModelRouter, Observation, Outcome, RouteAsk},
    };
    const ROUNDS: u32 = 20_000;
    let price = |n: u32| {
        let usd = parse_usd(&format!("0.{n:02}")).expect("a price");
        Price::per_million(usd, usd)
    };
    let router = (10..60).fold(CatalogRouter::empty(), |router, n| {
        router.with(ModelRoute::new("together", format!("acme/model-{n}")).tier(Tier::Mid).price(price(n)))
    });
    let request = InferenceRequest::chat(QUESTION);
    let each = |name: &str, work: &dyn Fn(u32)| {
        let started = Instant::now();
        (0..ROUNDS).for_each(work);
        let nanos = started.elapsed().as_nanos() / u128::from(ROUNDS);
        println!("{name:<44} {nanos:>6}ns   5000ns{}", if nanos > 5_000 { "  MISSED" } else { "" });
    };
    let rank = |ask: &RouteAsk<'_>| black_box(runtime.block_on(router.rank(ask)).expect("a ranking"));
    each("rank of 50 routes, finished before", &|_| drop(rank(&RouteAsk::new(&request))));
    let seen = |n: u32| {
        let usage = Usage { completion: 200, ..Usage::default() };
        let route = RouteId::new("together", format!("acme/model-{}", 10 + n % 50));
        let took = Duration::from_secs(1);
        Observation::new(route, tokio::time::Instant::now(), took, Outcome::Answered(usage))
    };
    let observations: Vec<_> = (0..50).map(seen).collect();
    each("observe", &|n| router.observe(&observations[(n % 50) as usize]));
    let start = tokio::time::Instant::now();
    each("rank of 50 routes, anew", &|n| {
        router.observe(&observations[(n % 50) as usize]);
        let mut ask = RouteAsk::new(&request);
        ask.now = start + Duration::from_millis(300) * n;
        drop(rank(&ask));
    });
}
