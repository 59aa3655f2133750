//! A cache that processes share, and what happens when it goes away.
//!
//! `cargo run --example redis_cache --features redis` starts a Redis of its own and two processes that ask the same; set
//! `TOGETHER_API_KEY` for the real API. Needs `redis-server` (`apt-get install redis-server`, `brew install redis`).
#![expect(clippy::print_stdout, reason = "the output is the example")]

#[path = "../common/mod.rs"]
mod common;
mod server;

use std::{env, error::Error, process::Command, time::Duration};

use together_inference::{
    InferenceRequest, InferenceService, TogetherClient,
    cache::{CacheLayer, MemoryCache, RedisCache, TieredCache},
    testing::Server,
};
use tokio::time::{Instant, sleep};

use server::RedisServer;

const AUSTRALIA: &str = "What is the capital of Australia?";
const MONGOLIA: &str = "What is the capital of Mongolia?";
const PERU: &str = "What is the capital of Peru?";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A process of the example's own: `worker <name> <question>`.
    if let [_, worker, name, question] = &*env::args().collect::<Vec<_>>()
        && worker == "worker"
    {
        return work(name, question).await;
    }
    let (mut client, simulator) = common::client()?;
    let mut api = None;
    if let Some(together) = &simulator {
        for (question, answer) in [("Australia", "Canberra."), ("Mongolia", "Ulaanbaatar."), ("Peru", "Lima.")] {
            together.on(question).reply(answer);
        }
        // On a socket, so that the other processes reach it too. Whoever is asked is part of what an answer is kept under.
        let server = together.serve().await?;
        client = TogetherClient::builder().base_url(server.base_url()).api_key("any").build()?;
        api = Some(server);
    }
    let api_url = api.as_ref().map(Server::base_url);
    let mut redis = RedisServer::start()?;
    let url = redis.url();

    println!("Two processes ask the same:");
    run_worker("one", AUSTRALIA, &url, api_url.as_deref())?;
    run_worker("two", AUSTRALIA, &url, api_url.as_deref())?;
    if let Some(together) = &simulator {
        println!("the simulator was called {} time(s)", together.calls());
    }

    let shared = RedisCache::connect(&url).await?;
    let cache = TieredCache::new(MemoryCache::new(64 << 20), shared.clone());
    let service = InferenceService::builder(client).cache(cache).build()?;
    println!("\nThis process asks, and then Redis is stopped:");
    ask(&service, "this", AUSTRALIA).await?;
    redis.stop()?;
    ask(&service, "this", AUSTRALIA).await?;
    ask(&service, "this", MONGOLIA).await?;
    println!("Redis is {}", if shared.stats().is_connected { "in reach" } else { "out of reach" });

    println!("\nRedis is started again:");
    redis.run()?;
    let started = Instant::now();
    while !shared.stats().is_connected && started.elapsed() < Duration::from_secs(10) {
        sleep(Duration::from_millis(10)).await;
    }
    println!("back within 5 s: {}", shared.stats().is_connected && started.elapsed() < Duration::from_secs(5));
    ask(&service, "this", PERU).await?;
    service.shutdown(Duration::from_secs(5)).await;
    shared.flush().await?;
    run_worker("three", PERU, &url, api_url.as_deref())?;

    println!("\nNo call failed. {} connections in all.", shared.stats().connections);
    Ok(())
}

async fn ask(service: &InferenceService, name: &str, question: &str) -> Result<(), Box<dyn Error>> {
    // Temperature 0 makes the answer cacheable; `allow_cached(true)` would do the same at any temperature.
    let reply = service.complete(InferenceRequest::chat(question).temperature(0.0).max_tokens(300)).await?;
    println!("process {name}: {question} {reply} [{} {}]", reply.cost(), reply.source());
    Ok(())
}

/// What a process does: one question.
async fn work(name: &str, question: &str) -> Result<(), Box<dyn Error>> {
    let (client, _) = common::client()?;
    let redis = RedisCache::from_env().await?;
    let cache = TieredCache::new(MemoryCache::new(64 << 20), redis.clone());
    let service = InferenceService::builder(client).cache(cache).build()?;
    ask(&service, name, question).await?;
    // The cache is written after the answer is given: a program that ends at once must let it finish.
    service.shutdown(Duration::from_secs(5)).await;
    redis.flush().await?;
    Ok(())
}

/// Runs such a process to its end.
fn run_worker(name: &str, question: &str, redis: &str, api: Option<&str>) -> Result<(), Box<dyn Error>> {
    let mut worker = Command::new(env::current_exe()?);
    worker.args(["worker", name, question]).env("REDIS_URL", redis);
    if let Some(url) = api {
        // The simulator takes any key.
        worker.env("TOGETHER_BASE_URL", url).env("TOGETHER_API_KEY", "any");
    }
    let status = worker.status()?;
    if status.success() { Ok(()) } else { Err(format!("process {name} ended with {status}").into()) }
}
