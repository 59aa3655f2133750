//! What is on the disk, and what is done about files that come late or in parts.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use together_inference::{InferenceRequest, service::BatchOptions};

use super::{MODEL, Shop, lines, rows};
use crate::world::secs;

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test(start_paused = true)]
async fn prompts_and_answers_are_in_files_of_their_owner_alone_and_nowhere_else() {
    let shop = Shop::new().await;
    shop.sim.on("canary").reply("the bird sings");
    let ticket = shop.submit(vec![InferenceRequest::chat("a canary in a mine").model(MODEL)]).await;
    ticket.clone().await.unwrap();
    assert_eq!(rows(&ticket).await[0].result.as_ref().unwrap().text(), "the bird sings");
    shop.store.sync().await.unwrap();
    for path in files(&shop.folder.0) {
        let (bytes, mode) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().permissions().mode() & 0o777);
        assert_eq!(mode, 0o600, "{}", path.display());
        let says = |word: &[u8]| bytes.windows(word.len()).any(|part| part == word);
        let is_spool = path.to_string_lossy().contains(".batches/");
        assert!(is_spool || !(says(b"canary") || says(b"bird")), "{} holds a text", path.display());
        assert!(!path.to_string_lossy().ends_with(".in.jsonl"), "what was uploaded is still there: {}", path.display());
    }
    tokio::time::sleep(secs(60)).await;
    let kept = files(&shop.folder.0);
    assert!(!kept.iter().any(|path| path.ends_with("requests.jsonl")), "nobody reads it again: {kept:?}");
    assert_eq!(rows(&ticket).await[0].result.as_ref().unwrap().text(), "the bird sings");
    ticket.discard().await.unwrap();
    assert!(!files(&shop.folder.0).iter().any(|path| path.to_string_lossy().contains(".jsonl")));
}

#[tokio::test(start_paused = true)]
async fn a_download_that_is_cut_is_resumed_and_counts_once() {
    let shop = Shop::new().await;
    shop.sim.cut_downloads(3, 2_000);
    let report = shop.submit(lines(200)).await.await.unwrap();
    assert!(report.is_complete(), "{report}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_named_and_not_there_yet_is_waited_for() {
    let shop = Shop::with(BatchOptions::default().singly_below(0), |builder| builder).await;
    shop.sim.output_file_late(secs(300));
    shop.sim.error_file_late(secs(400));
    shop.sim.on_batch_row("line 000003.").times(1).fails();
    let report = shop.submit(lines(10)).await.await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.jobs.iter().map(|job| job.lines).collect::<Vec<_>>(), [10, 1], "{report}");
    shop.judge().await;
}
