//! Files and batches against the simulator, whose own list of jobs is the judge.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::TryStreamExt as _;
use together_inference::{
    batch::{BatchError, BatchSubmitter, Chunk, ChunkBody, RemoteId, RemoteStatus, Row, TogetherBatches},
    client::{FilePurpose, FileUpload},
    testing::{Fault, Together, conformance},
    types::ManualClock,
};

const MODEL: &str = "zai-org/GLM-5.3";

fn lines(name: &str, count: usize) -> String {
    let line = |n| {
        format!(
            "{{\"custom_id\":\"{name}-1-{n}\",\"body\":{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"user\",\"content\":\"hi {n}\"}}]}}}}\n"
        )
    };
    (0..count).map(line).collect()
}

fn chunk(name: &str, count: usize) -> Chunk {
    Chunk::new(name, MODEL, count as u64, ChunkBody::Bytes(lines(name, count).into()))
}

async fn ended(batches: &TogetherBatches, id: &RemoteId) -> RemoteStatus {
    loop {
        match batches.status(std::slice::from_ref(id)).await {
            Ok(mut told) => {
                let status = told.pop().expect("a job that was submitted is known");
                if status.phase.is_final() {
                    return status;
                }
            }
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn batches_of_the_api_keep_every_promise_of_a_submitter() {
    let together = Together::new();
    let batches = TogetherBatches::new(together.client());
    let jobs = || together.batches().len();
    let pace = |time| -> futures_util::future::BoxFuture<'static, ()> { Box::pin(tokio::time::sleep(time)) };
    conformance::batch_submitter(&batches, &MODEL.into(), &jobs, &pace).await.unwrap();
    let shared: Arc<dyn BatchSubmitter> = Arc::new(batches);
    conformance::batch_submitter(&shared, &MODEL.into(), &jobs, &pace).await.unwrap();
}

/// Submits a chunk as a worker does: again and again, once the first try is known to have been made.
async fn until_submitted(batches: &TogetherBatches, clock: &ManualClock) -> RemoteId {
    let mut chunk = chunk("c", 3);
    let first = SystemTime::UNIX_EPOCH;
    for _ in 0..20 {
        match batches.submit(&chunk).await {
            Ok(id) => return id,
            Err(BatchError::Unresolved { after }) => {
                tokio::time::sleep(after).await;
                clock.advance(after);
            }
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
        chunk = chunk.tried(first);
    }
    panic!("it is never submitted")
}

#[tokio::test(start_paused = true)]
async fn whatever_is_lost_one_job_comes_of_a_chunk() {
    // Scenario: each exchange of a submission is lost in turn, before it is obeyed or after, while the list lags.
    // Expected: one job, whose rows are those of the lines.
    let places = [
        "POST /v1/files",
        "PUT /*",
        "PUT /*/*",
        "PUT /*/*/*",
        "POST /v1/files/*/preprocess",
        "POST /v1/batches",
        "GET /v1/batches",
    ];
    for place in places {
        for lost_reply in [false, true] {
            for (lag, count) in [(0, 1), (20, 1), (119, 1), (0, 3), (119, 3)] {
                let (together, clock) = (Together::new(), Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH)));
                together.batch_list_lag(Duration::from_secs(lag));
                if lost_reply {
                    together.lose_reply(place, count)
                } else {
                    together.lose_request(place, count)
                }
                let batches = TogetherBatches::new(together.client()).clock(clock.clone());
                let id = until_submitted(&batches, &clock).await;
                let what = format!("{place} lost {count} times, the reply: {lost_reply}, lag {lag} s");
                assert_eq!(together.batches().len(), 1, "{what}");
                let job = ended(&batches, &id).await;
                let rows: Vec<Row> = batches.results(&job).await.unwrap().try_collect().await.unwrap();
                assert_eq!(rows.last(), Some(&Row::End { read: 3 }), "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_lags_longer_than_the_grace_shows_the_twin_later() {
    let (together, clock) = (Together::new(), Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH)));
    together.batch_list_lag(Duration::from_secs(400));
    together.lose_reply("POST /v1/batches", 1);
    let batches = TogetherBatches::new(together.client()).clock(clock.clone());
    let id = until_submitted(&batches, &clock).await;
    assert_eq!(together.batches().len(), 2);
    tokio::time::sleep(Duration::from_secs(200)).await;
    let status = batches.status(std::slice::from_ref(&id)).await.unwrap().pop().unwrap();
    let [twin] = &status.twins[..] else { panic!("{status:?}") };
    batches.cancel(twin).await.unwrap();
    ended(&batches, twin).await;
    let status = batches.status(&[id]).await.unwrap().pop().unwrap();
    assert_eq!(status.twins, std::slice::from_ref(twin), "what it did before it ended is to be read as well");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_cannot_be_asked_after_hides_no_other() {
    let together = Together::new();
    let batches = TogetherBatches::new(together.client());
    let [one, other] = [(); 2].map(|()| RemoteId::from(together.add_batch([])));
    // No list shows them: each is asked for by itself.
    together.batch_list_lag(Duration::from_secs(100));
    together.fail_next_at("GET /v1/batches/*", 1, Fault::status(403));
    let told = batches.status(&[one.clone(), other.clone()]).await.unwrap();
    assert_eq!((told.len(), told.iter().filter(|job| job.is_unheard()).count()), (2, 1), "{told:?}");
    let told = batches.status(&[one, other, RemoteId::from("unknown")]).await.unwrap();
    assert_eq!(told.len(), 2, "one that the provider does not know is left out: {told:?}");
    assert!(told.iter().all(|job| !job.is_unheard()), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn downloads_that_are_cut_bring_the_same_rows() {
    let together = Together::new();
    let batches = TogetherBatches::new(together.client());
    let id = batches.submit(&chunk("d", 200)).await.unwrap();
    let job = ended(&batches, &id).await;
    let whole: Vec<Row> = batches.results(&job).await.unwrap().try_collect().await.unwrap();
    assert_eq!(whole.last(), Some(&Row::End { read: 200 }));
    for bytes in [1, 100, 1_000, 4_321] {
        together.cut_downloads(10, bytes);
        let cut: Vec<Row> = batches.results(&job).await.unwrap().try_collect().await.unwrap();
        assert!(cut == whole, "cut after {bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_arrives_whole_in_each_way() {
    let together = Together::new();
    let client = together.client();
    let content = lines("ways", 20_000);
    let upload = |name: &str| FileUpload::bytes(name, content.clone(), FilePurpose::Batch).unchecked();
    together.redirect_uploads(1);
    let first = client.files().upload(&upload("a.jsonl")).await.unwrap();
    assert!(!first.existed);
    assert!(client.files().upload(&upload("b.jsonl")).await.unwrap().existed);
    let parts = FileUpload::bytes("c.jsonl", content.clone() + "\n", FilePurpose::Batch).unchecked().in_parts(1);
    let in_parts = client.files().upload(&parts).await.unwrap();
    let at_once = client.files().upload(&upload("d.jsonl").in_one_request()).await.unwrap();
    assert_eq!(together.file(&first.file.id).unwrap(), content);
    assert_eq!(together.file(&in_parts.file.id).unwrap(), content.clone() + "\n");
    assert_eq!(together.file(&at_once.file.id).unwrap(), content);
}
