//! A loss of power: what the journal says that is on the disk is there, not only on its way.

use super::{Job, KILL, SMALL, Site, ended};
use crate::disk::{self, Disk};

#[tokio::test]
async fn what_the_journal_relies_on_is_flushed_before_it_says_so() {
    for site in Site::each().await {
        let job = Job { lines: SMALL.chunk, ..SMALL };
        let mut child = site.command(job, (KILL, "list"));
        disk::watch(&mut child, std::path::Path::new("/"), None);
        let (ended_well, said) = ended(child.spawn().unwrap()).await;
        assert!(ended_well, "{said}");
        let (mut disk, mut before, mut seen) = (Disk::default(), 0, Vec::new());
        let folder = site.files.0.display().to_string();
        for line in said.lines() {
            let Some(place) = line.strip_prefix("kill point ") else {
                disk.hear(line);
                continue;
            };
            let flushed = match place {
                "batch: a plan is about to stand" => Some("requests.jsonl"),
                "batch: lines are about to be uploaded" => Some(".in.jsonl"),
                "batch: a chunk is about to be settled" => Some(".out.jsonl"),
                _ => None,
            };
            if let Some(ending) = flushed {
                assert_eq!(disk.unsafe_of(ending), [""; 0], "{place}");
                assert!(disk.flushes_of(ending) + disk.flushes_of(".part") > 0, "{place}: nothing was flushed: {said}");
                let unnamed: Vec<_> = disk.unnamed().into_iter().filter(|path| path.starts_with(&folder)).collect();
                assert_eq!(unnamed, [""; 0], "{place}: names");
                seen.push(place);
            }
            // A commit of a file is safe when its log was flushed; a server's is the server's.
            match place {
                "batch: a plan is about to stand" | "batch: a chunk is about to be settled" => {
                    before = disk.flushes_of("-wal");
                }
                "batch: a plan stands" | "batch: a chunk is settled" if site.home.kind() == "SQLite" => {
                    assert!(disk.flushes_of("-wal") > before, "{place}: the log was not flushed");
                    seen.push(place);
                }
                _ => {}
            }
        }
        let all = if site.home.kind() == "SQLite" { 5 } else { 3 };
        assert_eq!(seen.len(), all, "{seen:?}");
    }
}
