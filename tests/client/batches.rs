//! Batches: one job for a chunk whatever is lost on the way, and every row of its files.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use http::Response;
use serde_json::{Value, json};
use together_inference::{
    batch::{BatchError, BatchSubmitter, Chunk, ChunkBody, Phase, RemoteId, RemoteStatus, Row, TogetherBatches},
    client::{BatchStatus, Body, CancelledBatch, CreateBatch, ErrorKind, TransportError, TransportErrorKind},
    types::ManualClock,
};

use crate::{
    provider::{Fault, Provider},
    support::faked,
};

const T0: SystemTime = SystemTime::UNIX_EPOCH;

struct World {
    provider: Provider,
    clock: Arc<ManualClock>,
    batches: TogetherBatches,
}

fn world() -> World {
    let (provider, clock) = (Provider::default(), Arc::new(ManualClock::new(T0)));
    let batches = TogetherBatches::new(provider.client()).clock(clock.clone());
    World { provider, clock, batches }
}

fn chunk() -> Chunk {
    let line = "{\"custom_id\":\"a-1-0\",\"body\":{\"model\":\"m\",\"messages\":[]}}\n";
    Chunk::new("labels/2026 1", "m", 1, ChunkBody::Bytes(line.into()))
}

fn lists(asked: &[String]) -> usize {
    asked.iter().filter(|asked| *asked == "GET /v1/batches").count()
}

fn creates(asked: &[String]) -> usize {
    asked.iter().filter(|asked| *asked == "POST /v1/batches").count()
}

// ---- the client

#[tokio::test(start_paused = true)]
async fn a_job_is_created_once_whatever_becomes_of_the_reply() {
    for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::Status(500), Fault::Status(503), Fault::Status(504)] {
        let provider = Provider::default();
        provider.fault("POST /v1/batches", fault);
        let error = provider.client().batches().create(&CreateBatch::new("f")).await.unwrap_err();
        assert!(error.is_retryable(), "{fault:?}");
        assert_eq!(creates(&provider.asked()), 1, "{fault:?}");
    }
    let provider = Provider::default();
    provider.fault("POST /v1/batches", Fault::Status(429));
    let created = provider.client().batches().create(&CreateBatch::new("f")).await.unwrap();
    assert_eq!((created.job.id.as_str(), created.warning.as_deref()), ("job-0", Some("slow today")));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_has_ended_cannot_be_stopped_and_says_how_it_ended() {
    let provider = Provider::default();
    let client = provider.client();
    client.batches().create(&CreateBatch::new("f")).await.unwrap();
    let CancelledBatch::Asked(job) = client.batches().cancel("job-0").await.unwrap() else { panic!() };
    assert_eq!(job.status, BatchStatus::Cancelling);
    provider.change(0, |job| job["status"] = json!("CANCELLED"));
    let ended = client.batches().cancel("job-0").await.unwrap();
    assert_eq!(ended, CancelledBatch::Ended(Some(BatchStatus::Cancelled)));
    assert_eq!(client.batches().cancel("job-9").await.unwrap_err().kind(), ErrorKind::NotFound);
}

fn listed(n: usize) -> String {
    let status = if n % 1_000 == 7 { "PAUSED" } else { "COMPLETED" };
    format!(
        r#"{{"id":"{n:036}","user_id":"user_789xyz012","input_file_id":"file-{n:030}","file_size_bytes":1048576,"status":"{status}","job_deadline":"2024-01-15T15:30:00.123456Z","created_at":"2024-01-15T14:30:00.123456Z","endpoint":"/v1/chat/completions","progress":100,"model_id":"Qwen/Qwen3.5-9B","output_file_id":"file-output-{n:030}","error_file_id":null,"completed_at":"2024-01-15T15:45:30.123456Z"}}"#
    )
}

#[tokio::test(start_paused = true)]
async fn of_a_long_list_only_what_is_wanted_is_kept() {
    let answer = |upto: usize, end: &'static str| {
        let rows = (0..upto).map(|n| Bytes::from(format!("{}{}", if n == 0 { "[" } else { "," }, listed(n))));
        Body::stream(stream::iter(rows.chain([Bytes::from(end)]).map(Ok)))
    };
    let client = faked(move |_| async move { Ok(Response::new(answer(20_000, "]"))) }.boxed()).build().unwrap();
    let paused = client.batches().list_where(|job| !job.status.is_final()).await.unwrap();
    assert_eq!(paused.len(), 20);
    assert!(paused.iter().all(|job| job.status.as_str() == "PAUSED" && job.extra.is_empty()));
    let cut = faked(move |_| async move { Ok(Response::new(answer(100, ""))) }.boxed()).build().unwrap();
    assert_eq!(cut.batches().list().await.unwrap_err().kind(), ErrorKind::Interrupted, "a part is not the list");
    for (body, kind) in [("{\"error\":\"down\"}", ErrorKind::Server), ("<html>", ErrorKind::Malformed)] {
        let client = faked(move |_| async move { Ok(Response::new(Body::from(body))) }.boxed()).build().unwrap();
        assert_eq!(client.batches().list().await.unwrap_err().kind(), kind);
    }
}

// ---- the submitter

#[tokio::test(start_paused = true)]
async fn a_chunk_becomes_a_job_of_its_lines() {
    let World { provider, batches, .. } = world();
    let id = batches.submit(&chunk().endpoint("/v1/completions")).await.unwrap();
    assert_eq!(id.as_str(), "job-0");
    assert_eq!(provider.jobs()[0]["endpoint"], "/v1/completions");
    let asked = provider.seen();
    assert!(String::from_utf8_lossy(&asked[0].body).contains("\r\n\r\nti-labels-2026-1.jsonl\r\n"));
    assert_eq!(lists(&provider.asked()), 0, "what was not tried is not looked for");
    let refused = batches.submit(&chunk().endpoint("/v1/embeddings")).await.unwrap_err();
    assert!(matches!(refused, BatchError::Endpoint { .. }) && provider.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_reply_is_lost_is_found_and_not_repeated() {
    // Scenario: the job is made, its reply is lost, and the list shows it 269 s later only.
    // Expected: the chunk is unresolved for as long, and then the job that was made is its job.
    let World { provider, clock, batches } = world();
    provider.fault("POST /v1/batches", Fault::LoseReply);
    provider.list_only(Some(0));
    assert!(batches.submit(&chunk()).await.unwrap_err().is_retryable());
    let tried = chunk().tried(T0);
    for (passed, left) in [(0, 270), (20, 250), (249, 1)] {
        clock.advance(Duration::from_secs(passed));
        let Err(BatchError::Unresolved { after }) = batches.submit(&tried).await else { panic!() };
        assert_eq!(after, Duration::from_secs(left));
    }
    provider.list_only(None);
    clock.advance(Duration::from_secs(30));
    assert_eq!(batches.submit(&tried).await.unwrap().as_str(), "job-0");
    let asked = provider.asked();
    assert_eq!((creates(&asked), lists(&asked)), (1, 3), "a look serves for half a minute");
    assert_eq!(asked.iter().filter(|asked| asked.starts_with("PUT")).count(), 1, "the lines are sent once");
}

#[tokio::test(start_paused = true)]
async fn a_create_that_never_arrived_is_made_after_the_grace_and_two_looks() {
    let World { provider, clock, batches } = world();
    provider.fault("POST /v1/batches", Fault::LoseRequest);
    batches.submit(&chunk()).await.unwrap_err();
    clock.advance(Duration::from_secs(269));
    assert!(matches!(batches.submit(&chunk().tried(T0)).await, Err(BatchError::Unresolved { .. })));
    clock.advance(Duration::from_secs(1));
    provider.asked();
    assert_eq!(batches.submit(&chunk().tried(T0)).await.unwrap().as_str(), "job-0");
    let asked = provider.asked();
    assert_eq!((creates(&asked), lists(&asked)), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_job_of_an_upload_at_the_same_time_is_found_by_its_name() {
    // Scenario: whoever was stopped within its upload makes a job of its file, while another uploads the same lines.
    // Expected: the other finds that job, though its own file is another one.
    let World { provider, clock, batches } = world();
    batches.submit(&chunk()).await.unwrap();
    provider.forget_checksums();
    clock.advance(Duration::from_secs(270));
    assert_eq!(batches.submit(&chunk().tried(T0)).await.unwrap().as_str(), "job-0");
    // Of other lines that have the same name it is none.
    let line = "{\"custom_id\":\"another\",\"body\":{\"model\":\"m\",\"messages\":[]}}\n";
    let other = Chunk::new("labels/2026 1", "m", 1, ChunkBody::Bytes(line.into())).tried(T0);
    assert_eq!(batches.submit(&other).await.unwrap().as_str(), "job-1");
}

#[tokio::test(start_paused = true)]
async fn of_several_jobs_the_oldest_is_adopted_and_the_others_are_cancelled() {
    let World { provider, batches, clock } = world();
    for _ in 0..4 {
        batches.submit(&chunk()).await.unwrap();
    }
    provider.change(0, |job| job["status"] = json!("FAILED"));
    provider.change(3, |job| job["status"] = json!("COMPLETED"));
    provider.job(json!({"id": "alien", "status": "IN_PROGRESS", "input_file_id": "other"}));
    provider.asked();
    assert_eq!(batches.submit(&chunk().tried(T0)).await.unwrap().as_str(), "job-1");
    let statuses: Vec<Value> = provider.jobs().iter().map(|job| job["status"].clone()).collect();
    assert_eq!(statuses, ["FAILED", "VALIDATING", "CANCELING", "COMPLETED", "IN_PROGRESS"]);
    for at in [1, 2, 3] {
        provider.change(at, |job| job["status"] = json!("FAILED"));
    }
    clock.advance(Duration::from_secs(30));
    assert_eq!(batches.submit(&chunk().tried(T0)).await.unwrap().as_str(), "job-0", "one that failed says why");
}

#[tokio::test(start_paused = true)]
async fn one_list_tells_how_many_jobs_stand_and_of_their_twins() {
    let World { provider, batches, .. } = world();
    for n in 0..1_000 {
        provider.job(json!({"id": format!("j{n}"), "status": "IN_PROGRESS", "progress": 71.75,
            "input_file_id": format!("f{}", n % 999), "output_file_id": null}));
    }
    let mut ids: Vec<RemoteId> = (0..999).map(|n| RemoteId::from(format!("j{n}"))).collect();
    let told = batches.status(&ids).await.unwrap();
    assert_eq!((told.len(), provider.asked().len()), (999, 1));
    let first = told.iter().find(|status| status.id.as_str() == "j0").unwrap();
    assert_eq!(
        (&first.phase, first.percent, first.input_file.as_deref()),
        (&Phase::InProgress, Some(71.75), Some("f0"))
    );
    assert_eq!(first.twins, ["j999".into()]);
    assert_eq!(told.iter().filter(|status| !status.twins.is_empty()).count(), 1);

    provider.list_only(Some(998));
    ids.push("unknown".into());
    let told = batches.status(&ids).await.unwrap();
    assert_eq!(told.len(), 999, "the list lags behind, and one is not known");
    let mut asked = provider.asked();
    asked.sort();
    assert_eq!(asked, ["GET /v1/batches", "GET /v1/batches/j998", "GET /v1/batches/unknown"]);
    assert_eq!(batches.status(&[]).await.unwrap(), []);
    assert!(provider.asked().is_empty());
}

async fn rows(batches: &TogetherBatches, job: &RemoteStatus) -> Result<Vec<Row>, BatchError> {
    batches.results(job).await?.try_collect().await
}

#[tokio::test(start_paused = true)]
async fn the_rows_of_both_files_come_and_the_end_counts_them() {
    let World { provider, batches, .. } = world();
    let recorded = concat!(
        r#"{"custom_id":"request-1","response":{"status_code":200,"body":{"choices":[]}}}"#,
        "\n",
        "oops\n",
        r#"{"custom_id":"req-1","error":{"message":"Invalid model specified","code":"invalid_model"}}"#,
    );
    provider.file("out", recorded.as_bytes());
    provider.file("err", br#"{"id":"br_1","custom_id":"req-5","error":{"message":"late","code":"timeout"}}"#);
    provider.file("empty", b"");
    let mut job = RemoteStatus::new("j".into(), Phase::Completed);
    assert_eq!(rows(&batches, &job).await.unwrap(), [Row::End { read: 0 }]);
    job.output_file = Some("out".into());
    job.error_file = Some("err".into());
    let read = rows(&batches, &job).await.unwrap();
    assert_eq!(read.len(), 5);
    assert_eq!(read[0], Row::Answer { custom_id: "request-1".into(), status: 200, body: "{\"choices\":[]}".into() });
    assert!(matches!(read[1], Row::Malformed { .. }));
    assert!(matches!(&read[2], Row::Error { code, .. } if **code == *"invalid_model"));
    assert!(matches!(&read[3], Row::Error { custom_id, .. } if **custom_id == *"req-5"));
    assert_eq!(read[4], Row::End { read: 4 });
    assert_eq!(rows(&batches, &job).await.unwrap(), read, "they can be read again");
    job.error_file = Some("empty".into());
    assert_eq!(rows(&batches, &job).await.unwrap().last(), Some(&Row::End { read: 3 }));

    for (output, error) in [(Some("none"), None), (Some("out"), Some("none")), (None, Some("none"))] {
        job.output_file = output.map(Into::into);
        job.error_file = error.map(Into::into);
        let missing = rows(&batches, &job).await.unwrap_err();
        assert!(matches!(missing, BatchError::NotReady { .. }), "{output:?} {error:?}");
    }
    job.phase = Phase::InProgress;
    assert!(matches!(rows(&batches, &job).await, Err(BatchError::NotReady { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_job_is_stopped_or_says_how_it_ended() {
    let World { provider, batches, .. } = world();
    let id = batches.submit(&chunk()).await.unwrap();
    assert_eq!(batches.cancel(&id).await.unwrap().phase, Phase::Cancelling);
    provider.change(0, |job| {
        job["status"] = json!("COMPLETED");
        job["output_file_id"] = json!("out");
    });
    let ended = batches.cancel(&id).await.unwrap();
    assert_eq!((ended.phase, ended.output_file.as_deref()), (Phase::Completed, Some("out")));
    assert!(matches!(batches.cancel(&"none".into()).await, Err(BatchError::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_cut_in_the_middle_come_once_each() {
    let row =
        |n: usize| format!("{{\"custom_id\":\"{n}\",\"response\":{{\"status_code\":200,\"body\":{{\"n\":{n}}}}}}}\n");
    let file: Bytes = (0..2_000).map(row).collect::<String>().into();
    let client = faked(move |request| {
        let range = request.headers().get("range").map(|range| range.to_str().unwrap().to_owned());
        let from: usize = range.map_or(0, |range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap());
        let until = (from + 5_003).min(file.len());
        let cut = Err(TransportError::new(TransportErrorKind::Interrupted, "cut"));
        let pieces = [Ok(file.slice(from..until)), cut];
        let place = format!("bytes {from}-{}/{}", file.len() - 1, file.len());
        let head = Response::builder().status(if from > 0 { 206 } else { 200 }).header("content-range", place);
        let head = if from > 0 { head } else { head.header("content-length", file.len()) };
        let answer = head.body(Body::stream(stream::iter(pieces))).unwrap();
        async move { Ok(answer) }.boxed()
    });
    let batches = TogetherBatches::new(client.build().unwrap());
    let mut job = RemoteStatus::new("j".into(), Phase::Completed);
    job.output_file = Some("out".into());
    let mut read = batches.results(&job).await.unwrap();
    for n in 0..2_000 {
        let Row::Answer { custom_id, .. } = read.next().await.unwrap().unwrap() else { panic!() };
        assert_eq!(*custom_id, *n.to_string());
    }
    assert_eq!(read.next().await.unwrap().unwrap(), Row::End { read: 2_000 });
    assert!(read.next().await.is_none());
}
