//! The files that the simulator holds.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::random::Random;

/// Files by id, and what befalls them.
#[derive(Debug, Default)]
pub(in crate::testing) struct Files {
    all: BTreeMap<String, File>,
    made: u64,
    /// Uploads that are still sent on to another address.
    pub(in crate::testing) redirects: u32,
    /// Downloads that still break, and after how many bytes.
    pub(in crate::testing) cuts: (u32, usize),
}

/// One file.
#[derive(Clone, Debug, Default)]
pub(in crate::testing) struct File {
    pub(super) id: String,
    pub(super) number: u64,
    pub(super) name: String,
    /// `jsonl`, `csv` or `parquet`.
    pub(super) kind: String,
    pub(super) purpose: String,
    pub(super) checksum: Option<String>,
    /// In microseconds since 1970.
    pub(super) created: i64,
    /// The bytes, once they are all there.
    pub(in crate::testing) content: Option<Bytes>,
    /// It is not to be found before this.
    pub(super) appears: Option<Instant>,
    pub(super) parts: Option<Parts>,
}

/// An upload in parts.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    pub(super) upload: String,
    pub(super) count: u32,
    pub(super) size: u64,
    /// The parts that are there, with their tags.
    pub(super) stored: BTreeMap<u32, (String, Bytes)>,
}

impl Files {
    /// Adds a file and says its id, which depends on the seed and on how many were made before.
    pub(in crate::testing) fn add(&mut self, seed: u64, mut file: File) -> String {
        self.made += 1;
        let id = format!("file-{}", Random::new(seed ^ self.made.rotate_left(29)).uuid());
        (file.id, file.number) = (id.clone(), self.made);
        self.all.insert(id.clone(), file);
        id
    }

    /// A file, if it is to be found now.
    pub(in crate::testing) fn get(&self, id: &str, now: Instant) -> Option<&File> {
        self.all.get(id).filter(|file| file.is_there(now))
    }

    /// A file, whether it is to be found or not.
    pub(super) fn hidden(&mut self, id: &str) -> Option<&mut File> {
        self.all.get_mut(id)
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<File> {
        self.all.remove(id)
    }

    /// A file of this checksum that was uploaded as a whole.
    pub(super) fn twin(&self, checksum: Option<&str>) -> Option<&File> {
        let checksum = checksum?;
        self.all.values().find(|file| file.content.is_some() && file.checksum.as_deref() == Some(checksum))
    }

    /// The file of an upload in parts.
    pub(super) fn by_upload(&mut self, upload: &str, id: &str) -> Option<&mut File> {
        let is_its = |file: &&mut File| file.parts.as_ref().is_some_and(|parts| parts.upload == upload);
        self.all.get_mut(id).filter(is_its)
    }

    /// All that are to be found, the oldest first.
    pub(super) fn listed(&self, now: Instant) -> Vec<&File> {
        let mut files: Vec<_> = self.all.values().filter(|file| file.is_there(now)).collect();
        files.sort_by_key(|file| file.number);
        files
    }
}

impl File {
    /// A file that the simulator wrote, and when it appears.
    pub(in crate::testing) fn generated(
        name: String,
        created: i64,
        content: Vec<u8>,
        appears: Option<Instant>,
    ) -> Self {
        let (kind, purpose) = ("jsonl".to_owned(), "batch-generated".to_owned());
        Self { name, kind, purpose, created, content: Some(content.into()), appears, ..Self::default() }
    }

    /// A file for batches that is there as a whole.
    pub(in crate::testing) fn uploaded(name: String, created: i64, content: Bytes) -> Self {
        let (kind, purpose) = ("jsonl".to_owned(), "batch-api".to_owned());
        Self { name, kind, purpose, created, content: Some(content), ..Self::default() }
    }

    fn is_there(&self, now: Instant) -> bool {
        self.appears.is_none_or(|appears| now >= appears)
    }

    /// As the API shows it.
    pub(super) fn to_json(&self) -> Value {
        let content = self.content.as_deref().unwrap_or_default();
        let mut shown = json!({
            "id": self.id,
            "object": "file",
            "created_at": self.created.div_euclid(1_000_000),
            "filename": self.name,
            "bytes": content.len(),
            "purpose": self.purpose,
            "FileType": self.kind,
            "Processed": self.content.is_some(),
            "LineCount": 0,
        });
        // Only training data is looked at.
        if let (true, Some(map)) = (self.purpose == "fine-tune", shown.as_object_mut()) {
            let status = if self.content.is_some() { "COMPLETED" } else { "PENDING" };
            map.insert("processing_status".into(), json!(status));
        }
        shown
    }
}
