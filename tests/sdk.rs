//! The official clients, unchanged, against the simulator: they must not tell it from the API.
//!
//! `scripts/sdk-test` installs them and runs these tests; a plain `cargo test` does not, since they need Python, Node and
//! what it installs.
#![allow(clippy::unwrap_used, reason = "clippy takes only functions with #[test] for tests")]

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::json;
use together_inference::{
    client::CallOptions,
    testing::{Fault, SimModel, Together},
};

#[path = "sdk/requests.rs"]
mod requests;

/// Where `scripts/sdk-test` has put the clients.
fn installed() -> PathBuf {
    let folder = env::var_os("TOGETHER_SDK_DIR").expect("TOGETHER_SDK_DIR is not set: run scripts/sdk-test");
    PathBuf::from(folder)
}

/// What the scripts ask for, beside what is made up.
fn simulator() -> Together {
    let together = Together::builder().api_key("secret").time_scale(0.01).build();
    together.batch_time(Duration::from_secs(20));
    together.add_model(SimModel::chat("acme/dedicated"));
    together.unavailable("acme/dedicated");
    together.add_model(SimModel::chat("intfloat/multilingual-e5-large-instruct-chat").context(256));
    together.on("the refund").reply("5 days");
    together.on("Once upon").reply(" a time.");
    together.on("limit me").fault(Fault::status(429).rate_limit_reset(Duration::from_secs(1)));
    together.on("overload me").fail(503);
    together.on("fail once").reply("back");
    together.on("fail once").times(1).fault(Fault::status(503).retry_after_ms(Duration::from_millis(1)));
    together.on("break off").fault(Fault::error_after(2));
    together
}

/// Runs a script against a simulator of its own, and holds the two's ideas of what happened against each other.
async fn run(program: &Path, script: &str, client: &str) {
    let together = simulator();
    let server = together.serve().await.unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(script);
    let mut command = Command::new(program);
    command.arg(script).arg(client).arg(server.base_url()).stdin(Stdio::null());
    command.env("TOGETHER_SDK_DIR", installed()).env("NO_PROXY", "127.0.0.1").env_remove("TOGETHER_API_KEY");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output.unwrap_or_else(|error| panic!("{} cannot be run: {error}", program.display()));
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success(),
        "{client}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let bill = together.bill();
    assert!(said.lines().filter(|line| line.starts_with("ok ")).count() >= 27, "{client} made too few calls");
    assert_eq!((bill.images, bill.pixels), (3, 3 * 64 * 48), "what was made is billed, whoever asked");
    assert_eq!(bill.nano_usd, bill.lines.iter().map(|line| line.nano_usd).sum::<i64>());
    assert_eq!(together.open_streams(), 0);
    server.shutdown().await;
}

fn python() -> PathBuf {
    installed().join("python/bin/python")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/sdk-test installs the clients and runs it"]
async fn togethers_python_client_takes_the_simulator_for_the_api() {
    run(&python(), "check.py", "together").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/sdk-test installs the clients and runs it"]
async fn openais_python_client_takes_the_simulator_for_the_api() {
    run(&python(), "check.py", "openai").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/sdk-test installs the clients and runs it"]
async fn togethers_typescript_client_takes_the_simulator_for_the_api() {
    run(Path::new("node"), "check.mjs", "together").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/sdk-test installs the clients and runs it"]
async fn openais_typescript_client_takes_the_simulator_for_the_api() {
    run(Path::new("node"), "check.mjs", "openai").await;
}

/// Requests of each kind.
const EACH: usize = 600;

/// Scenario: the client sends thousands of requests of every kind, with every field that its types have.
/// Expected: each is of the API's contract, but for the differences that docs/spec-validation.md lists with their reasons.
#[tokio::test]
#[ignore = "scripts/sdk-test installs the validator and runs it"]
async fn what_the_client_sends_is_of_the_contract_or_listed() {
    let together = Together::new();
    let (client, model, once) = (together.client(), "acme/any".into(), CallOptions::default().attempts(1));
    // Whatever the answer is: what was sent is what matters.
    for input in requests::sample(&requests::chat(), EACH) {
        drop(client.chat().create_with(&model, &input, &once).await);
        drop(client.chat().stream_with(&model, &input, &once).await);
    }
    for input in requests::sample(&requests::prompt(), EACH) {
        drop(client.completions().create_with(&model, &input, &once).await);
        drop(client.completions().stream_with(&model, &input, &once).await);
    }
    for input in requests::sample(&requests::embedding(), EACH) {
        drop(client.embeddings().create_with(&model, &input, &once).await);
    }
    for input in requests::sample(&requests::image(), EACH) {
        drop(client.images().generate_with(&model, &input, &once).await);
    }
    for input in requests::sample(&requests::rerank(), EACH) {
        drop(client.rerank().create_with(&model, &input, &once).await);
    }
    let sent = together.requests();
    assert_eq!(sent.len(), 7 * EACH);
    let lines: String = sent.iter().map(|one| format!("{}\n", json!({"path": one.path, "body": *one.body}))).collect();
    let file = installed().join(format!("requests-{}.jsonl", std::process::id()));
    std::fs::write(&file, lines).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let arguments = [root.join("tests/sdk/contract.py"), root.join("tests/data/openapi-2026-08.json"), file.clone()];
    let output = Command::new(python()).args(arguments).arg(root.join("docs/spec-validation.md")).output().unwrap();
    std::fs::remove_file(file).unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "not of the contract: {}", String::from_utf8_lossy(&output.stderr));
}
