//! Files are sent in three ways and come back whole.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use http::Response;
use together_inference::{
    TogetherClient,
    client::{Body, Error, ErrorKind, FilePurpose, FileUpload, RetryPolicy, TransportError, TransportErrorKind},
    types::{Rng as _, SeededRng},
};
use tokio::time::Instant;

use crate::{
    provider::{Fault, Provider},
    support::{faked, response},
};

const LINE: &str = "{\"custom_id\":\"1\",\"body\":{\"model\":\"m\"}}\n";

/// A folder of this test's own, gone after it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("together-files-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let rng = SeededRng::new(7);
    (0..bytes.div_ceil(8)).flat_map(|_| rng.next_u64().to_le_bytes()).take(bytes).collect()
}

#[tokio::test(start_paused = true)]
async fn a_file_is_asked_for_by_checksum_put_without_the_key_and_found_again() {
    let provider = Provider::default();
    let files = provider.client();
    let upload = FileUpload::bytes("/home/me/a.jsonl", LINE, FilePurpose::Batch);
    let sent = files.files().upload(&upload).await.unwrap();
    assert!(!sent.existed);
    assert_eq!((sent.file.filename.as_str(), sent.file.processed), ("a.jsonl", Some(true)));
    assert!(sent.file.extra.is_empty(), "{:?}", sent.file.extra);
    let seen = provider.seen();
    let form = String::from_utf8(seen[0].body.clone()).unwrap();
    for part in
        ["\"purpose\"\r\n\r\nbatch-api\r\n", "\"file_name\"\r\n\r\na.jsonl\r\n", "\"file_type\"\r\n\r\njsonl\r\n"]
    {
        assert!(form.contains(part), "{form}");
    }
    // sha256sum of the line.
    let checksum = sha256(LINE.as_bytes());
    assert!(form.contains(&format!("\"checksum\"\r\n\r\n{checksum}\r\n")), "{form}");
    assert_eq!(seen[0].headers["content-length"], form.len().to_string());
    assert_eq!((&*seen[1].what, &*seen[1].host), ("PUT /put/file-0", "storage.example"));
    assert_eq!(seen[1].body, LINE.as_bytes());
    assert_eq!(seen[1].headers["content-length"], "39");
    assert!(!seen[1].headers.contains_key("authorization") && seen[0].headers.contains_key("authorization"));
    assert_eq!(provider.asked(), ["POST /v1/files", "PUT /put/file-0", "POST /v1/files/file-0/preprocess"]);

    let again = files.files().upload(&upload.named("b.jsonl")).await.unwrap();
    assert!(again.existed);
    assert_eq!(again.file.id, sent.file.id);
    assert_eq!(provider.asked(), ["POST /v1/files", "GET /v1/files/file-0"], "a conflict is not asked again");
}

/// SHA-256 by the system's own tool.
fn sha256(bytes: &[u8]) -> String {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };
    let mut tool = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    tool.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(tool.wait_with_output().unwrap().stdout).unwrap()[..64].to_owned()
}

#[tokio::test(start_paused = true)]
async fn each_step_of_an_upload_is_repeated_when_it_is_lost() {
    for (what, fault) in [
        ("POST /v1/files", Fault::LoseRequest),
        ("POST /v1/files", Fault::Status(503)),
        ("PUT", Fault::LoseReply),
        ("PUT", Fault::Status(503)),
        ("PUT", Fault::SendOn(307)),
        ("PUT", Fault::SendOn(301)),
        ("POST /v1/files/file-0/preprocess", Fault::LoseReply),
    ] {
        let provider = Provider::default();
        provider.fault(what, fault);
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&told);
        let upload = FileUpload::bytes("a.jsonl", LINE, FilePurpose::Batch)
            .on_progress(move |progress| telling.lock().unwrap().push((progress.bytes, progress.total)));
        provider.client().files().upload(&upload).await.unwrap();
        assert_eq!(provider.content("file-0"), LINE.as_bytes(), "{what} {fault:?}");
        assert!(told.lock().unwrap().iter().all(|told| *told == (39, Some(39))), "{what} {fault:?}: {told:?}");
        let seen = provider.seen();
        assert_eq!(seen.len(), 4, "{what} {fault:?}");
        for seen in seen {
            assert_eq!(seen.headers.contains_key("authorization"), seen.host == "api.together.ai", "{seen:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_storages_refusal_is_no_fault_of_the_key() {
    for status in [400, 401, 403, 404] {
        let provider = Provider::default();
        provider.fault("PUT", Fault::Status(status));
        let upload = FileUpload::bytes("a.jsonl", LINE, FilePurpose::Batch);
        let error = provider.client().files().upload(&upload).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::InvalidRequest, Some(status)));
        assert!(!format!("{error} {error:?}").contains("storage.example"), "the link is a secret");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_is_never_sent_in_the_open() {
    let redirect = || {
        let answer = Response::builder().status(302).header("x-together-file-id", "f");
        answer.header("location", "http://storage.example/put").body(Body::empty()).unwrap()
    };
    let client = faked(move |_| async move { Ok(redirect()) }.boxed()).build().unwrap();
    let upload = FileUpload::bytes("a.jsonl", LINE, FilePurpose::Batch);
    assert_eq!(client.files().upload(&upload).await.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test(start_paused = true)]
async fn lines_that_would_fail_are_told_before_anything_is_sent() {
    let provider = Provider::default();
    let twice = format!("{LINE}\n{LINE}");
    let upload = FileUpload::bytes("a.jsonl", twice, FilePurpose::Batch);
    let error = provider.client().files().upload(&upload).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::InvalidRequest, "line 3: the custom_id is that of line 1"));
    assert_eq!(provider.asked(), Vec::<String>::new());
    provider.client().files().upload(&upload.unchecked()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_range_of_a_file_is_sent_in_one_request() {
    let (provider, folder) = (Provider::default(), Folder::new("range"));
    let path = folder.0.join("all \"of\" it.jsonl");
    let content = noise(1_000_000);
    fs::write(&path, &content).unwrap();
    let upload = FileUpload::range(&path, 100, 700_000, FilePurpose::Eval).in_one_request();
    let sent = provider.client().files().upload(&upload).await.unwrap();
    assert_eq!(sent.file.filename, "all _of_ it.jsonl");
    let seen = &provider.seen()[0];
    assert_eq!(seen.what, "POST /v1/files/upload");
    assert_eq!(seen.headers["content-length"], seen.body.len().to_string());
    let kind = seen.headers["content-type"].to_str().unwrap().to_owned();
    let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
    let end = format!("\r\n--{boundary}--\r\n");
    let body = seen.body.strip_suffix(end.as_bytes()).unwrap();
    assert!(body.ends_with(&content[100..700_100]));
    let head = String::from_utf8(body[..body.len() - 700_000].to_vec()).unwrap();
    assert!(
        head.ends_with(
            "name=\"file\"; filename=\"all _of_ it.jsonl\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
    );
    assert_eq!(head.matches(boundary).count(), 4);

    // What may have arrived is not sent again: there would be two files.
    provider.asked();
    provider.fault("POST /v1/files/upload", Fault::LoseReply);
    provider.client().files().upload(&upload).await.unwrap_err();
    assert_eq!(provider.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_long_file_is_sent_in_parts_four_at_a_time() {
    let (provider, folder) = (Provider::default(), Folder::new("parts"));
    let path = folder.0.join("long.jsonl");
    let content = noise((5 << 20) * 6 + 17);
    fs::write(&path, &content).unwrap();
    let most = Arc::new(AtomicU64::new(0));
    let telling = Arc::clone(&most);
    let upload = FileUpload::path(&path, FilePurpose::Eval).in_parts(1).on_progress(move |progress| {
        telling.fetch_max(progress.bytes, Ordering::SeqCst);
    });
    provider.fault("PUT /part/3", Fault::LoseReply);
    let sent = provider.client().files().upload(&upload).await.unwrap();
    assert!(provider.content(&sent.file.id) == content);
    assert!(most.load(Ordering::SeqCst) <= content.len() as u64);
    assert_eq!(provider.most_at_once.load(Ordering::SeqCst), 4);
    let seen = provider.seen();
    assert_eq!(seen.len(), 1 + 7 + 1 + 1);
    let parts: Vec<_> = seen.iter().filter(|seen| seen.what.starts_with("PUT")).collect();
    assert!(parts.iter().all(|seen| !seen.headers.contains_key("authorization")));
    assert!(parts.iter().all(|seen| seen.what.ends_with(seen.headers["x-part"].to_str().unwrap())));

    provider.asked();
    provider.fault("PUT /part/5", Fault::Status(403));
    provider.client().files().upload(&upload).await.unwrap_err();
    let asked = provider.asked();
    assert_eq!(asked.last().unwrap(), "POST /v1/files/multipart/abort");
    assert!(!asked.iter().any(|asked| asked.ends_with("complete")));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_read_is_this_machines_fault() {
    let (provider, folder) = (Provider::default(), Folder::new("unread"));
    let missing = FileUpload::path(folder.0.join("none.jsonl"), FilePurpose::Batch);
    let path = folder.0.join("short.jsonl");
    fs::write(&path, LINE).unwrap();
    let short = FileUpload::range(&path, 0, 40, FilePurpose::Eval);
    let short_at_once = short.clone().in_one_request();
    for (upload, requests) in [(missing, 0), (short, 0), (short_at_once, 0)] {
        let error = provider.client().files().upload(&upload).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LocalFile, "{upload:?}");
        assert!(!error.is_retryable());
        assert_eq!(provider.asked().len(), requests);
    }
}

/// A network that takes an upload a piece at a time, and then nothing.
async fn upload_at(pace: Duration, pieces: usize) -> Result<Duration, Error> {
    let started = Instant::now();
    let client = faked(move |request| {
        async move {
            let mut body = request.into_body();
            for _ in 0..pieces {
                tokio::time::sleep(pace).await;
                if body.next().await.is_none() {
                    let json = r#"{"id":"f","filename":"a","bytes":1,"purpose":"eval"}"#;
                    return Ok(response(200, "application/json", Body::from(json)));
                }
            }
            std::future::pending().await
        }
        .boxed()
    });
    let client = client.retry(RetryPolicy::none()).build().unwrap();
    let upload = FileUpload::bytes("a.jsonl", vec![b'x'; 1_000_000], FilePurpose::Eval).in_one_request();
    client.files().upload(&upload).await.map(|_| started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stands_still_ends_and_a_slow_one_does_not() {
    // Scenario: pieces are taken every 59 s, and in another run no more after the second one.
    // Expected: the slow upload ends well after more than five minutes; the other one fails a minute after that piece.
    assert!(upload_at(Duration::from_secs(59), 100).await.unwrap() > Duration::from_secs(300));
    let started = Instant::now();
    let error = upload_at(Duration::from_secs(59), 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(started.elapsed().as_secs(), 59 * 2 + 60);
}

// ---- downloads

/// A server that cuts each answer after so many bytes.
fn cutting(content: Bytes, cuts: Vec<usize>, ranges: bool) -> (TogetherClient, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (asking, cuts) = (Arc::clone(&asked), Mutex::new(cuts.into_iter()));
    let client = faked(move |request| {
        let range = request.headers().get("range").map(|range| range.to_str().unwrap().to_owned());
        let from: usize =
            range.as_deref().map_or(0, |range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap());
        asking.lock().unwrap().push(range.unwrap_or_default());
        let from = if ranges { from } else { 0 };
        let rest = content.slice(from..);
        let cut = cuts.lock().unwrap().next().map_or(rest.len(), |cut| cut.min(rest.len()));
        let mut pieces: Vec<_> = rest[..cut].chunks(7_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        if cut < rest.len() {
            pieces.push(Err(TransportError::new(TransportErrorKind::Interrupted, "cut")));
        }
        let head = if from > 0 {
            let place = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
            Response::builder().status(206).header("content-range", place)
        } else {
            Response::builder().header("content-length", content.len())
        };
        let answer = head.body(Body::stream(stream::iter(pieces))).unwrap();
        async move { Ok(answer) }.boxed()
    });
    (client.build().unwrap(), asked)
}

async fn whole(client: &TogetherClient) -> Result<Vec<u8>, Error> {
    let content = client.files().content("f").await?;
    content
        .try_fold(Vec::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn a_download_that_is_cut_comes_whole() {
    let content = Bytes::from(noise(200_000));
    let rng = SeededRng::new(11);
    for ranges in [true, false] {
        let cuts: Vec<usize> =
            (1..=20).map(|n| if ranges { 1 + rng.next_u64() as usize % 9_000 } else { n * 9_000 }).collect();
        let (client, asked) = cutting(content.clone(), cuts, ranges);
        assert!(whole(&client).await.unwrap() == content, "ranges {ranges}");
        assert_eq!(asked.lock().unwrap().len(), 21);
    }
    let (client, asked) = cutting(Bytes::new(), Vec::new(), true);
    assert_eq!((whole(&client).await.unwrap(), asked.lock().unwrap().len()), (Vec::new(), 1));
}

#[tokio::test(start_paused = true)]
async fn a_download_that_moves_no_more_is_given_up_after_five_tries() {
    let (client, asked) = cutting(noise(100).into(), vec![10, 0, 0, 0, 0, 0, 0], true);
    let started = Instant::now();
    assert_eq!(whole(&client).await.unwrap_err().kind(), ErrorKind::Interrupted);
    assert_eq!(*asked.lock().unwrap(), ["", "bytes=10-", "bytes=10-", "bytes=10-", "bytes=10-", "bytes=10-"]);
    let waited = started.elapsed().as_secs_f64();
    assert!((0.75 * 31.0..=31.0).contains(&waited), "{waited}");
}

#[tokio::test(start_paused = true)]
async fn a_part_of_another_file_is_not_taken_for_the_rest() {
    for (status, place) in [(206, "bytes 9-99/100"), (206, "bytes 10-99/101"), (206, "bytes 10-98"), (200, "")] {
        let client = faked(move |request| {
            let head = if request.headers().contains_key("range") {
                Response::builder().status(status).header("content-range", place).header("content-length", 101)
            } else {
                Response::builder().header("content-length", 100)
            };
            let pieces =
                [Ok(Bytes::from(vec![b'x'; 10])), Err(TransportError::new(TransportErrorKind::Interrupted, ""))];
            let answer = head.body(Body::stream(stream::iter(pieces))).unwrap();
            async move { Ok(answer) }.boxed()
        });
        let error = whole(&client.build().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{status} {place}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_downloaded_file_appears_whole_or_not_at_all() {
    let folder = Folder::new("down");
    let path = folder.0.join("out.jsonl");
    let content = Bytes::from(noise(50_000));
    let elsewhere = folder.0.join("elsewhere");
    fs::write(&elsewhere, "precious").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(&elsewhere, folder.0.join("out.jsonl.part")).unwrap();
    let (client, _) = cutting(content.clone(), vec![20_000], true);
    let told = Mutex::new(Vec::new());
    let tell = |progress: together_inference::client::Progress| told.lock().unwrap().push(progress.bytes);
    assert_eq!(client.files().download_to("f", &path, tell).await.unwrap(), 50_000);
    assert!(fs::read(&path).unwrap() == content);
    assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
    assert!(told.lock().unwrap().is_sorted() && told.lock().unwrap().last() == Some(&50_000));
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);

    let (client, _) = cutting(noise(50_000).into(), vec![20_000, 0, 0, 0, 0, 0], true);
    client.files().download_to("f", folder.0.join("cut"), |_| ()).await.unwrap_err();
    let provider = Provider::default();
    let missing = provider.client().files().download_to("f", folder.0.join("none"), |_| ()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let mut names = folder.names();
    names.sort();
    assert_eq!(names, ["elsewhere", "out.jsonl"]);
}

#[tokio::test(start_paused = true)]
async fn files_are_listed_and_deleted() {
    let provider = Provider::default();
    let client = provider.client();
    client.files().upload(&FileUpload::bytes("a.jsonl", LINE, FilePurpose::Batch)).await.unwrap();
    let listed = client.files().list().await.unwrap();
    assert_eq!((listed.len(), &listed[0].purpose, listed[0].line_count), (1, &FilePurpose::Batch, Some(0)));
    assert!(client.files().delete("file-0").await.unwrap());
    assert!(!client.files().delete("file-0").await.unwrap(), "a repeat finds none");
    assert_eq!(client.files().get("file-0").await.unwrap_err().kind(), ErrorKind::NotFound);
}
