//! Batches as a client sees them, under a paused clock.

use std::{collections::BTreeSet, time::Duration};

use futures_util::StreamExt;
use http::Request;
use serde_json::{Value, json};

use super::super::{Fault, SimModel, Together};
use crate::client::{Body, Transport, TransportErrorKind};

const MODEL: &str = "zai-org/GLM-5.3";
const SECOND: Duration = Duration::from_secs(1);

fn line(id: &str, text: &str) -> String {
    json!({"custom_id": id, "body": {"model": MODEL, "messages": [{"role": "user", "content": text}]}}).to_string()
}

fn lines(count: usize) -> Vec<String> {
    (0..count).map(|number| line(&format!("row-{number}"), &format!("what is {number}?"))).collect()
}

fn add(together: &Together, lines: &[String]) -> String {
    together.add_batch(lines.iter().map(String::as_str))
}

async fn call(together: &Together, method: &str, path: &str, body: &str) -> (u16, Value) {
    let request = Request::builder().method(method).uri(path).header("authorization", "Bearer key");
    let response = together.send(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let chunks: Vec<_> = response.into_body().collect().await;
    let bytes: Vec<u8> = chunks.into_iter().flat_map(Result::unwrap).collect();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn get(together: &Together, id: &str) -> Value {
    let (status, job) = call(together, "GET", &format!("/v1/batches/{id}"), "").await;
    assert_eq!(status, 200);
    job
}

/// The rows of a file that a job names.
fn rows(together: &Together, job: &Value, field: &str) -> Vec<Value> {
    let Some(id) = job[field].as_str() else { return Vec::new() };
    let file = together.file(id).unwrap();
    let lines = file.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap_or_default()).collect()
}

fn ids(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["custom_id"].as_str().unwrap_or_default()).collect()
}

async fn finished(together: &Together, lines: &[String]) -> Value {
    let id = add(together, lines);
    tokio::time::sleep(425 * SECOND).await;
    get(together, &id).await
}

#[tokio::test(start_paused = true)]
async fn a_job_is_validated_runs_and_completes() {
    let together = Together::new();
    let input = together.add_file("a.jsonl", lines(100).join("\n"));
    let create = json!({"endpoint": "/v1/chat/completions", "input_file_id": input, "completion_window": "24h"});
    let (status, created) = call(&together, "POST", "/v1/batches", &create.to_string()).await;
    let job = &created["job"];
    assert_eq!((status, &job["status"], &job["progress"]), (201, &json!("VALIDATING"), &json!(0.0)));
    for (field, value) in [
        ("user_id", "user_simulated"),
        ("project_id", "proj_simulated"),
        ("created_at", "2026-09-21T14:13:20.000000Z"),
        ("job_deadline", "2026-09-22T14:13:20.000000Z"),
        ("endpoint", "/v1/chat/completions"),
    ] {
        assert_eq!(job[field], value, "{field}");
    }
    assert!(job.get("output_file_id").is_none() && job["file_size_bytes"].as_u64().unwrap() > 1_000);
    let id = job["id"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 36);
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(get(&together, &id).await["status"], "IN_PROGRESS");
    tokio::time::sleep(140 * SECOND).await;
    assert_eq!(get(&together, &id).await["progress"], 33.0);
    assert_eq!(together.bill().calls, 33, "what is finished is charged");
    tokio::time::sleep(280 * SECOND).await;
    let job = get(&together, &id).await;
    assert_eq!(
        (&job["status"], &job["progress"], &job["model_id"]),
        (&json!("COMPLETED"), &json!(100.0), &json!(MODEL))
    );
    assert_eq!(job["completed_at"], "2026-09-21T14:20:25.000000Z");
    assert!(job.get("error_file_id").is_none());
    assert_eq!(call(&together, "GET", "/v1/batches", "").await.1, json!([job]));
    let rows = rows(&together, &job, "output_file_id");
    let sorted: BTreeSet<_> = ids(&rows).into_iter().collect();
    assert!(sorted.len() == 100 && ids(&rows)[..3] != ["row-0", "row-1", "row-2"], "all, in another order");
    assert!(rows.iter().all(|row| row["id"].as_str().unwrap().starts_with("br_")));
    assert!(rows.iter().all(|row| row["response"]["status_code"] == 200));
    let bill = together.bill();
    let tokens = |row: &Value| row["response"]["body"]["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(rows.iter().map(tokens).sum::<u64>(), bill.prompt_tokens + bill.completion_tokens);
    assert_eq!((bill.calls, together.calls()), (100, 0));
    assert!(bill.lines.iter().all(|line| line.batch.as_deref() == Some(&id) && line.custom_id.is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_row_is_answered_as_chat_answers() {
    let together = Together::new();
    together.on("refund").reply("5 days");
    together.on("broken").fail(500);
    together.overload(MODEL);
    together.fail_next(9, Fault::status(500));
    let job = finished(&together, &[line("a", "a refund?"), line("b", "broken")]).await;
    let output = rows(&together, &job, "output_file_id");
    assert_eq!(output[0]["response"]["body"]["choices"][0]["message"]["content"], "5 days");
    let errors = rows(&together, &job, "error_file_id");
    assert_eq!(errors[0]["error"], json!({"code": "batch_client_error", "message": "Internal Server Error"}));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_no_batch_fails_as_a_whole() {
    let together = Together::new();
    together.refuse_batches(MODEL);
    let good = line("a", "hi");
    for (file, expected) in [
        (format!("{good}\nnot JSON"), "Invalid JSON on line 2"),
        (r#"{"custom_id":"a"}"#.to_owned(), "input format error on line 1"),
        (r#"{"body":{}}"#.to_owned(), "input format error on line 1"),
        ("\n\n".to_owned(), "input format error"),
        (format!("{good}\n{good}"), "Unable to access non-serverless model zai-org/GLM-5.3."),
    ] {
        let job = finished(&together, &[file]).await;
        assert_eq!(job["status"], "FAILED");
        assert!(job["error"].as_str().unwrap().starts_with(expected), "{job}");
        assert!(job.get("output_file_id").is_none() && job.get("error_file_id").is_none());
    }
    let none = json!({"endpoint": "/v1/chat/completions", "input_file_id": "file-none"}).to_string();
    let (status, created) = call(&together, "POST", "/v1/batches", &none).await;
    assert_eq!((status, &created["job"]["status"]), (201, &json!("VALIDATING")));
    tokio::time::sleep(5 * SECOND).await;
    let job = get(&together, created["job"]["id"].as_str().unwrap()).await;
    assert_eq!((&job["status"], &job["error"]), (&json!("FAILED"), &json!("Failed to download input file")));
    assert_eq!(together.bill().calls, 0);
    for body in
        ["", "[]", r#"{"endpoint":"/v1/embeddings","input_file_id":"a"}"#, r#"{"endpoint":"/v1/chat/completions"}"#]
    {
        let (status, error) = call(&together, "POST", "/v1/batches", body).await;
        assert!(status == 400 && error["error"].is_string(), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_cannot_be_answered_fails_alone() {
    let together = Together::new();
    together.refuse_batches("acme/refused");
    let with = |id: &str, field: &str, value: Value| {
        let mut line: Value = serde_json::from_str(&line(id, "hi")).unwrap();
        line["body"][field] = value;
        line.to_string()
    };
    let job = finished(
        &together,
        &[
            line("good", "hi"),
            with("refused", "model", json!("acme/refused")),
            with("unknown", "model", json!("acme/none")),
            with("absent", "model", Value::Null),
            with("stops", "stop", json!(["a", "b", "c", "d", "e"])),
            with("tool", "tool_choice", json!({"type": "function", "function": {"name": "f"}})),
            with("hot", "temperature", json!(9)),
            line("long", &"x".repeat(10_000_000)),
        ],
    )
    .await;
    assert_eq!(job["status"], "COMPLETED");
    assert_eq!(ids(&rows(&together, &job, "output_file_id")), ["good"]);
    let errors = rows(&together, &job, "error_file_id");
    let message = |id: &str| {
        let row = errors.iter().find(|row| row["custom_id"] == id).unwrap();
        assert_eq!(row["error"]["code"], "batch_client_error");
        row["error"]["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(errors.len(), 7);
    assert_eq!(message("stops"), "Maximum four stop sequences allowed");
    assert_eq!(message("tool"), "Selected function was not found in the tools list");
    assert_eq!(message("absent"), "model is required");
    assert_eq!(message("long"), "error reading input file");
    assert!(message("refused").starts_with("Unable to access non-serverless model acme/refused"));
    assert!(message("unknown").contains("acme/none"));
    assert_eq!(together.bill().calls, 1);
}

#[tokio::test(start_paused = true)]
async fn limits_are_those_of_the_api() {
    let together = Together::new();
    together.batch_time(Duration::MAX);
    let tiny = |count: usize| {
        r#"{"custom_id":"a","body":{"model":"m"}}"#.to_owned()
            + &"\n{\"custom_id\":\"a\",\"body\":{}}".repeat(count - 1)
    };
    let size = |bytes: usize| {
        let line = r#"{"custom_id":"a","body":{"model":"m"}}"#.to_owned() + "\n";
        line.clone() + &" ".repeat(bytes - line.len())
    };
    for (file, expected) in [
        (tiny(50_000), "IN_PROGRESS"),
        (tiny(50_001), "FAILED"),
        (size(100_000_000), "IN_PROGRESS"),
        (size(100_000_001), "FAILED"),
    ] {
        let input = together.add_file("a.jsonl", file);
        let create = json!({"endpoint": "/v1/chat/completions", "input_file_id": input}).to_string();
        let (_, created) = call(&together, "POST", "/v1/batches", &create).await;
        tokio::time::sleep(5 * SECOND).await;
        let job = get(&together, created["job"]["id"].as_str().unwrap()).await;
        assert_eq!(job["status"], expected, "{job}");
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_takes_fifteen_seconds_and_keeps_what_is_finished() {
    let together = Together::new();
    let id = add(&together, &lines(100));
    let early = add(&together, &lines(10));
    let cancel = async |id: &str| call(&together, "POST", &format!("/v1/batches/{id}/cancel"), "").await;
    assert_eq!(cancel(&early).await.1["status"], "CANCELING");
    tokio::time::sleep(257 * SECOND).await;
    assert_eq!(get(&together, &early).await.get("output_file_id"), None);
    let (status, job) = cancel(&id).await;
    assert_eq!((status, &job["status"], &job["progress"]), (200, &json!("CANCELING"), &json!(60.0)));
    assert_eq!(cancel(&id).await.0, 200, "asking twice changes nothing");
    tokio::time::sleep(14 * SECOND).await;
    assert_eq!(get(&together, &id).await["status"], "CANCELING");
    tokio::time::sleep(SECOND).await;
    let job = get(&together, &id).await;
    assert_eq!(job["status"], "CANCELLED");
    assert_eq!(rows(&together, &job, "output_file_id").len(), 60);
    assert_eq!(together.bill().calls, 60);
    let terminal = json!({"error": "Cannot cancel job - already in terminal state: CANCELLED"});
    assert_eq!(cancel(&id).await, (409, terminal));
    let (status, error) = cancel("none").await;
    assert_eq!((status, &error["error"]), (404, &json!("Job not found")));
    assert!(error["request_id"].is_string());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_stuck_expires_with_what_it_has() {
    let together = Together::new();
    together.stick_batches(0.6);
    let id = add(&together, &lines(1_000));
    tokio::time::sleep(24 * 3600 * SECOND - SECOND).await;
    assert_eq!(get(&together, &id).await["progress"], 60.0);
    tokio::time::sleep(SECOND).await;
    let job = get(&together, &id).await;
    assert_eq!((&job["status"], rows(&together, &job, "output_file_id").len()), (&json!("EXPIRED"), 600));
    together.heal();
    together.expire_batches(1, 0.25);
    together.fail_batches(1, "out of luck");
    let job = finished(&together, &lines(8)).await;
    assert_eq!((&job["status"], rows(&together, &job, "output_file_id").len()), (&json!("EXPIRED"), 2));
    assert_eq!(finished(&together, &lines(8)).await["error"], "out of luck");
    assert_eq!(finished(&together, &lines(8)).await["status"], "COMPLETED");
}

#[tokio::test(start_paused = true)]
async fn rows_go_wrong_as_told() {
    let together = Together::new();
    together.on_batch_row("row-0").fails();
    together.on_batch_row("row-1").times_out();
    together.on_batch_row("row-2").refuses("no such voice");
    together.on_batch_row("row-3").error("odd", "what?");
    together.on_batch_row("row-4").missing();
    together.on_batch_row("row-5").twice();
    together.on_batch_row("row-6").malformed();
    together.on_batch_row("row-7").nameless();
    together.on_batch_row("row-8").status(429);
    together.on_batch_row("row-9").times(1).alien();
    let job = finished(&together, &lines(12)).await;
    assert_eq!((&job["status"], &job["progress"]), (&json!("COMPLETED"), &json!(100.0)));
    let errors = rows(&together, &job, "error_file_id");
    let mut codes: Vec<_> =
        errors.iter().map(|row| (row["custom_id"].as_str().unwrap(), row["error"]["code"].as_str().unwrap())).collect();
    codes.sort_unstable();
    assert_eq!(
        codes,
        [("row-0", "batch_client_error"), ("row-1", "timeout"), ("row-2", "batch_client_error"), ("row-3", "odd")]
    );
    let output = rows(&together, &job, "output_file_id");
    let mut found = ids(&output);
    found.sort_unstable();
    assert_eq!(found.len(), 9);
    assert_eq!(found[..2], ["", ""], "one is no JSON, one has no name");
    assert!(found[2].starts_with("alien-"));
    assert_eq!(found[3..], ["row-10", "row-11", "row-5", "row-5", "row-8", "row-9"]);
    let limited = output.iter().find(|row| row["custom_id"] == "row-8").unwrap();
    assert!(limited["response"]["status_code"] == 429 && limited["response"]["body"]["error"].is_object());
    let charged: Vec<_> = together.bill().lines.into_iter().filter_map(|line| line.custom_id).collect();
    assert_eq!(
        charged.into_iter().collect::<BTreeSet<_>>(),
        ["row-10", "row-11", "row-5", "row-9"].map(str::to_owned).into()
    );
    let job = finished(&together, &lines(12)).await;
    assert!(!ids(&rows(&together, &job, "output_file_id")).iter().any(|id| id.starts_with("alien")), "once");
}

#[tokio::test(start_paused = true)]
async fn lists_lag_and_files_are_late_or_empty() {
    let together = Together::new();
    together.batch_list_lag(20 * SECOND);
    together.output_file_late(30 * SECOND);
    together.error_file_late(60 * SECOND);
    together.empty_error_file();
    let id = add(&together, &lines(3));
    tokio::time::sleep(19 * SECOND).await;
    assert_eq!(call(&together, "GET", "/v1/batches", "").await.1, json!([]));
    assert_eq!(get(&together, &id).await["status"], "IN_PROGRESS");
    tokio::time::sleep(SECOND).await;
    assert_eq!(call(&together, "GET", "/v1/batches", "").await.1.as_array().unwrap().len(), 1);
    tokio::time::sleep(405 * SECOND).await;
    let job = get(&together, &id).await;
    let content = async |field: &str| {
        call(&together, "GET", &format!("/v1/files/{}/content", job[field].as_str().unwrap()), "").await.0
    };
    assert_eq!((content("output_file_id").await, content("error_file_id").await), (404, 404));
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!((content("output_file_id").await, content("error_file_id").await), (200, 404));
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!(content("error_file_id").await, 200);
}

#[tokio::test(start_paused = true)]
async fn replies_are_lost_and_late_while_the_server_acts() {
    let together = Together::new();
    let create = |together: &Together| {
        let body = json!({"endpoint": "/v1/chat/completions", "input_file_id": "file-none"}).to_string();
        let request =
            Request::post("/v1/batches").header("authorization", "Bearer key").body(Body::from(body)).unwrap();
        let together = together.clone();
        async move { together.send(request).await }
    };
    together.lose_request("POST /v1/batches", 1);
    together.lose_reply("POST /v1/batches", 1);
    together.late_reply("POST /v1/batches", 1, 60 * SECOND);
    assert_eq!(create(&together).await.unwrap_err().kind(), TransportErrorKind::Interrupted);
    assert_eq!((together.batches().len(), together.asked("POST /v1/batches")), (0, 0));
    assert_eq!(create(&together).await.unwrap_err().kind(), TransportErrorKind::Interrupted);
    assert_eq!((together.batches().len(), together.asked("POST /v1/batches")), (1, 1));
    let start = tokio::time::Instant::now();
    drop(tokio::time::timeout(SECOND, create(&together)).await);
    assert_eq!((together.batches().len(), start.elapsed()), (2, SECOND), "it has acted before the caller left");
}

#[tokio::test(start_paused = true)]
async fn a_discount_is_that_of_the_model() {
    let together = Together::new();
    together.add_model(SimModel::chat("meta-llama/Llama-3.3-70B-Instruct-Turbo").price(1_000_000, 1_000_000));
    let half = lines(1)[0].replace(MODEL, "meta-llama/Llama-3.3-70B-Instruct-Turbo");
    finished(&together, &[half]).await;
    let bill = together.bill();
    let tokens = i64::try_from(bill.prompt_tokens + bill.completion_tokens).unwrap();
    assert_eq!(bill.nano_usd, tokens * 500);
    together.batch_discount("meta-llama/Llama-3.3-70B-Instruct-Turbo", 0);
    together.forget();
    assert_eq!(together.bill().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn time_is_scaled_and_the_same_seed_gives_the_same_files() {
    let mut outputs = Vec::new();
    for _ in 0..2 {
        let together = Together::builder().seed(3).time_scale(0.01).build();
        let id = add(&together, &lines(20));
        tokio::time::sleep(Duration::from_millis(4_250)).await;
        let job = get(&together, &id).await;
        assert_eq!(
            (&job["status"], &job["completed_at"]),
            (&json!("COMPLETED"), &json!("2026-09-21T14:20:25.000000Z"))
        );
        outputs.push(together.file(job["output_file_id"].as_str().unwrap()).unwrap());
    }
    assert_eq!(outputs[0], outputs[1]);
}
