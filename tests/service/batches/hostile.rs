//! Names that were chosen to do harm.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use cpu_time::ThreadTime;
use futures_util::StreamExt;
use together_inference::{
    async_trait,
    client::{BatchLines, Body, Transport, TransportError},
    testing::Together,
};

use super::{Folder, Shop, check, line, lines, rows};

/// A provider that names every file after a way out of the folder it is meant for.
#[derive(Clone, Debug)]
struct Misnaming(Together);

const EVIL: &str = "../../../../../../tmp/evil.jsonl";

#[async_trait]
impl Transport for Misnaming {
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        let path = request.uri().path().to_owned();
        let mut response = self.0.send(request).await?;
        if path.ends_with("/content") {
            let named = format!("attachment; filename=\"{EVIL}\"; filename*=UTF-8''..%2f..%2fevil.jsonl");
            response.headers_mut().insert("content-disposition", named.parse().unwrap());
            response.headers_mut().insert("content-location", EVIL.parse().unwrap());
            return Ok(response);
        }
        if !path.starts_with("/v1/files") {
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        let pieces: Vec<_> = body.collect().await;
        let bytes = pieces.into_iter().map(Result::unwrap).collect::<Vec<_>>().concat();
        let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
            return Ok(http::Response::from_parts(parts, Body::from(bytes::Bytes::from(bytes))));
        };
        if value.get("filename").is_some() {
            value["filename"] = EVIL.into();
        }
        parts.headers.remove("content-length");
        Ok(http::Response::from_parts(parts, Body::from(value.to_string())))
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test(start_paused = true)]
async fn no_name_of_a_file_leads_out_of_the_folder_that_it_is_written_to() {
    let shop = Shop::new().await;
    let before: Vec<PathBuf> = files(&shop.folder.0);
    let service = shop.over(Misnaming(shop.sim.clone()));
    let names = [EVIL, "/etc/cron.d/evil", "..", "a/../../b", "C:\\evil", "evil\0", ".bashrc", "-rf"];
    let requests: Vec<_> = names.iter().zip(0..).map(|(name, number)| (*name, line(number))).collect();
    let ticket = service.batch(requests).name(EVIL).submit().await.unwrap();
    let report = ticket.clone().await.unwrap();
    check(&report);
    assert!(report.is_complete(), "{report}");
    assert_eq!(service.find_batch_named(EVIL).await.unwrap().id(), ticket.id());
    let read = rows(&ticket).await;
    assert_eq!(read.iter().map(|row| row.id.as_deref().unwrap()).collect::<Vec<_>>(), names);

    // What is new is in the batch's own folder, and for nobody else to read.
    let own = shop.folder.0.join("inference.db.batches").join(ticket.id().as_str());
    for path in files(&shop.folder.0).iter().filter(|path| !before.contains(path)) {
        let is_store = path.file_name().unwrap().to_string_lossy().starts_with("inference.db");
        assert!(is_store || path.parent() == Some(&*own), "{}", path.display());
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    assert!(!Path::new("/tmp/evil.jsonl").exists());

    // A download goes where the caller says, whatever the server calls it.
    let output = shop.sim.batch_json(&shop.sim.batches()[0].id)["output_file_id"].as_str().unwrap().to_owned();
    let target = Folder::new();
    let client = together_inference::TogetherClient::builder().api_key("any").transport(Misnaming(shop.sim.clone()));
    let client = client.build().unwrap();
    client.files().download_to(&output, target.0.join("mine.jsonl"), |_| ()).await.unwrap();
    assert_eq!(files(&target.0), [target.0.join("mine.jsonl")]);
    // Nor is an id a path.
    for id in ["../models", "..", "a/../../batches", "%2e%2e/models"] {
        client.files().download_to(id, target.0.join("other"), |_| ()).await.unwrap_err();
    }
    for sent in shop.sim.requests() {
        let parts: Vec<_> = sent.path.split('/').collect();
        assert!(!parts.contains(&".."), "{}", sent.path);
        assert!(!sent.path.ends_with("/content") || parts.len() == 5, "{}", sent.path);
    }
    assert!(service.flush().await);
    shop.judge().await;
}

/// Texts that a table without a secret would keep in one place: `Aa` and `BB` are the same to hashes that multiply by 31.
fn colliding(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|number| (0..20).map(|bit| if number >> bit & 1 == 0 { "Aa" } else { "BB" }).collect())
}

fn scattered(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("{:040}", u64::from(number) * 0x9E37_79B9))
}

#[test]
fn a_hundred_thousand_names_that_collide_cost_as_much_as_others() {
    let spent = |names: Vec<String>| {
        let begun = ThreadTime::now();
        for job in names.chunks(50_000) {
            let mut lines = BatchLines::new();
            for name in job {
                lines.push(format!("{{\"custom_id\":\"{name}\",\"body\":{{\"model\":\"m\"}}}}\n").as_bytes());
            }
            assert_eq!(lines.finish().unwrap().lines, 50_000);
        }
        begun.elapsed().as_secs_f64()
    };
    // One that grew with the square would take thousands of times as long.
    let pair = || spent(colliding(100_000).collect()) / spent(scattered(100_000).collect());
    let ratio = (0..3).map(|_| pair()).fold(f64::INFINITY, f64::min);
    assert!(ratio < 3.0, "{ratio}");
}

/// A provider that repeats each row of a job under other spellings of its name, among rows of nobody.
#[derive(Clone, Debug)]
struct Respelling(Together);

#[async_trait]
impl Transport for Respelling {
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        let is_content = request.uri().path().ends_with("/content");
        let response = self.0.send(request).await?;
        if !is_content {
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        let pieces: Vec<_> = body.collect().await;
        let bytes = pieces.into_iter().map(Result::unwrap).collect::<Vec<_>>().concat();
        let mut rows = String::new();
        for row in String::from_utf8(bytes).unwrap().lines() {
            for spelling in ["-00-", "-0-0", "-0-+", "-+0-"] {
                rows += &row.replacen("-0-", spelling, 1);
                rows += "\n";
            }
            rows += row;
            rows += "\n";
        }
        for name in colliding(2_000) {
            rows += &format!("{{\"custom_id\":\"{name}\",\"error\":\"none\"}}\n");
        }
        parts.headers.remove("content-length");
        Ok(http::Response::from_parts(parts, Body::from(rows)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_under_another_spelling_of_its_name_is_nobodys_and_is_not_paid() {
    let shop = Shop::new().await;
    let service = shop.over(Respelling(shop.sim.clone()));
    let ticket = service.submit_batch(lines(20)).await.unwrap();
    let report = ticket.clone().await.unwrap();
    check(&report);
    assert!(report.is_complete() && report.double_billed == 0, "{report}");
    assert!(service.flush().await);
    assert_eq!(shop.costs.records().len(), 20);
    shop.judge().await;
}
