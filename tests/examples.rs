//! The examples print what `examples/golden` says, and `ask` behaves as a command should.
//!
//! Set `BLESS=1` to write the golden files anew. A plain `cargo test` builds the examples first; where targets are
//! selected, as by `--test examples`, run `cargo build --examples --all-features` before it.

#![allow(clippy::unwrap_used, reason = "clippy takes only functions with #[test] for tests")]

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use together_inference::testing::{Fault, Server, Together};

/// A built example, cut off from the environment's keys and servers.
fn example(name: &str) -> Command {
    // This test is <profile>/deps/examples-<hash>; the examples are in <profile>/examples.
    let test = env::current_exe().unwrap();
    let path: PathBuf = test.ancestors().nth(2).unwrap().join("examples").join(name);
    let path = path.with_extension(env::consts::EXE_EXTENSION);
    assert!(path.exists(), "{} is missing: run `cargo build --examples --all-features`", path.display());
    let mut command = Command::new(path);
    for (variable, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TOGETHER_")) {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

/// Replaces what differs from run to run: times, ids and ports.
fn mask(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let in_word = |c: char| c.is_alphanumeric() || "._-".contains(c);
        let end = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        masked.push_str(mask_word(&masked, word));
        let between = tail.find(in_word).unwrap_or(tail.len());
        masked.push_str(&tail[..between]);
        rest = &tail[between..];
    }
    masked
}

fn mask_word<'a>(before: &str, word: &'a str) -> &'a str {
    let number = word.strip_suffix("ms").or_else(|| word.strip_suffix('s'));
    let is_time = number.is_some_and(|number| number.parse::<f64>().is_ok());
    let of_hex = |part: &str| part.len() >= 16 && part.chars().all(|c| c.is_ascii_hexdigit());
    let is_number = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
    match () {
        () if is_number && before.ends_with("127.0.0.1:") => "<port>",
        () if is_time || (is_number && before.ends_with("_ms\":")) => "<time>",
        () if word.starts_with("sim-") || word.starts_with("call_") || word.split('-').any(of_hex) => "<id>",
        () => word,
    }
}

fn is_golden(name: &str) {
    let output = example(name).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} ended with {}: {stderr}", output.status);
    assert!(stderr.contains("running on the simulator"), "{name} does not say what it runs on: {stderr}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/golden").join(name).with_extension("txt");
    let masked = mask(&stdout);
    if env::var_os("BLESS").is_some_and(|value| value == "1") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &masked).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(masked == golden, "{name} prints (BLESS=1 to accept):\n{masked}\nnot what {} holds", path.display());
}

#[test]
fn the_examples_print_what_their_golden_files_hold() {
    for name in [
        "axum_chat",
        "budgets",
        "cache_controls",
        "custom_cache",
        "custom_cost_sink",
        "custom_router",
        "embeddings",
        "embeddings_search",
        "explain",
        "fallback",
        "image",
        "kubernetes",
        "models",
        "multi_upstream",
        "quickstart",
        "rate_limits",
        "rerank",
        "structured",
        "tool_loop",
        "typed_stream",
        "vision",
    ] {
        is_golden(name);
    }
}

#[cfg(feature = "batch")]
#[test]
fn the_example_of_a_report_prints_what_its_golden_file_holds() {
    is_golden("cost_report");
}

/// Needs redis-server, as the example does.
#[cfg(feature = "redis")]
#[test]
fn the_example_of_a_shared_cache_prints_what_its_golden_file_holds() {
    is_golden("redis_cache");
}

#[test]
fn masking_takes_times_ids_and_ports_and_nothing_else() {
    for (text, masked) in [
        ("took 12ms of 1.5s", "took <time> of <time>"),
        (r#"{"at_ms":1795564255245,"n":7}"#, r#"{"at_ms":<time>,"n":7}"#),
        ("017dc6c1d82434e3edc979b65119bdbb", "<id>"),
        ("call_x1 sim-00000001", "<id> <id>"),
        ("http://127.0.0.1:37165/v1", "http://127.0.0.1:<port>/v1"),
        ("$0.0000267 for 4711 words, GLM-5.3", "$0.0000267 for 4711 words, GLM-5.3"),
    ] {
        assert_eq!(mask(text), masked);
    }
}

/// `ask` against the server, which takes any key but insists on one.
fn asking(server: &Server) -> Command {
    let mut command = example("ask");
    command.env("TOGETHER_BASE_URL", server.base_url()).env("TOGETHER_API_KEY", "any");
    command
}

fn ask(server: &Server, args: &[&str]) -> Output {
    asking(server).args(args).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// The output ended with this code, said nothing on stdout and this on stderr.
#[track_caller]
fn refused(output: &Output, code: i32, hint: &str) {
    assert_eq!((output.status.code(), stdout(output)), (Some(code), ""), "{}", stderr(output));
    assert!(stderr(output).contains(hint), "{hint:?} is not in {}", stderr(output));
}

#[tokio::test(flavor = "multi_thread")]
async fn ask_prints_the_answer_on_stdout_and_its_cost_on_stderr() {
    let together = Together::new();
    together.on("sky").reply("Rayleigh\nscattering.");
    let server = together.serve().await.unwrap();
    for args in [&["Why is", "the sky blue?"][..], &["--stream", "Why is the sky blue?"], &["--", "sky"]] {
        let output = ask(&server, args);
        assert_eq!((output.status.code(), stdout(&output)), (Some(0), "Rayleigh\nscattering.\n"), "{args:?}");
        assert!(stderr(&output).contains("$0.0000"), "{}", stderr(&output));
    }
    let bodies: Vec<_> = together.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies[0]["messages"][0]["content"], "Why is the sky blue?");
    assert_eq!(bodies[1]["stream"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn ask_reads_the_prompt_from_stdin() {
    let together = Together::new();
    let server = together.serve().await.unwrap();
    let mut child =
        asking(&server).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(together.requests()[0].body["messages"][0]["content"], "from a pipe");
}

#[tokio::test(flavor = "multi_thread")]
async fn ask_sends_what_its_options_say() {
    let together = Together::new();
    let server = together.serve().await.unwrap();
    let url = server.base_url();
    let options = "--model zai-org/GLM-5.3 --task code --priority batch --temperature 0.5 --max-tokens 9 --tenant acme";
    let mut args: Vec<_> = options.split(' ').collect();
    args.extend(["--system", "Be brief.", "--base-url", &url, "hello"]);
    let output = example("ask").env("TOGETHER_API_KEY", "any").args(args).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let body = &together.requests()[0].body;
    assert_eq!((&body["model"], &body["temperature"]), (&"zai-org/GLM-5.3".into(), &0.5.into()));
    assert_eq!((&body["max_tokens"], &body["messages"][0]["content"]), (&9.into(), &"Be brief.".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn ask_prints_one_json_object() {
    let together = Together::new();
    together.on("sky").reply("Rayleigh scattering.");
    let server = together.serve().await.unwrap();
    for args in [&["--json", "sky"][..], &["--json", "--stream", "sky"]] {
        let output = ask(&server, args);
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        let fields: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
        let wanted =
            ["asked", "attempts", "cost", "decision", "model", "request_id", "source", "text", "timings", "usage"];
        assert_eq!(fields, wanted);
        assert_eq!(object["text"], "Rayleigh scattering.");
        assert!(object["cost"]["nano_usd"].as_i64().unwrap() > 0);
        assert_eq!(object["timings"]["first_token_ms"].is_u64(), args.contains(&"--stream"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ask_ends_with_the_code_of_its_failure_and_a_hint() {
    let together = Together::new();
    let server = together.serve().await.unwrap();
    refused(&ask(&server, &["--colour", "blue"]), 2, "ask --help");
    refused(&ask(&server, &["--task", "sing", "x"]), 2, "chat, code");
    refused(&ask(&server, &["--max-tokens"]), 2, "needs a value");
    refused(&ask(&server, &[]), 2, "no prompt");
    refused(&ask(&server, &["--base-url", "http://example.com", "x"]), 2, "use https");
    refused(&ask(&server, &["--temperature", "3", "x"]), 3, "between 0 and 2");
    refused(&ask(&server, &["--model", "no/such", "x"]), 3, "check --model");
    assert_eq!(together.calls(), 1, "what is refused here is never sent");

    together.fail_next(1, Fault::status(401));
    refused(&ask(&server, &["x"]), 4, "TOGETHER_API_KEY");
    together.fail_next(3, Fault::status(429).retry_after(Duration::from_secs(90)));
    refused(&ask(&server, &["x"]), 4, "wait 90s");
    together.fail_next(3, Fault::status(500));
    refused(&ask(&server, &["x"]), 4, "try again later");
    together.hang();
    refused(&ask(&server, &["--deadline", "1", "x"]), 5, "--deadline");
}

#[test]
fn ask_explains_itself() {
    let output = example("ask").arg("--help").output().unwrap();
    assert!(output.status.success() && stdout(&output).contains("exit codes:"));
}

#[test]
fn the_simulator_serves_on_a_socket_with_the_settings_it_prints() {
    let mut child =
        example("simulator").args(["--port", "0", "--key", "secret"]).stdout(Stdio::piped()).spawn().unwrap();
    let (mut line, mut printed) = (String::new(), BufReader::new(child.stdout.take().unwrap()));
    printed.read_line(&mut line).unwrap();
    let settings = line.trim().strip_prefix("export ").unwrap().split(' ').map(|pair| pair.split_once('=').unwrap());
    let output = example("ask").envs(settings).arg("hello").output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("hello"));
}
