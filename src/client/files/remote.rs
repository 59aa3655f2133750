//! A file as the API tells of it.

use std::{fmt, time::SystemTime};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value};

use crate::{client::record::Record, types::Unknown};

/// What a file is for.
///
/// ```
/// use together_inference::client::FilePurpose;
///
/// assert_eq!(FilePurpose::from("batch-api"), FilePurpose::Batch);
/// assert_eq!(FilePurpose::from("calibration").as_str(), "calibration");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FilePurpose {
    /// Lines of a job.
    Batch,
    /// What a job wrote.
    BatchGenerated,
    /// Examples to learn from.
    FineTune,
    /// Examples to judge by.
    Eval,
    /// A value that this version does not know.
    Other(Unknown),
}

impl FilePurpose {
    /// The value as the API writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Batch => "batch-api",
            Self::BatchGenerated => "batch-generated",
            Self::FineTune => "fine-tune",
            Self::Eval => "eval",
            Self::Other(text) => text.as_str(),
        }
    }
}

impl From<&str> for FilePurpose {
    fn from(text: &str) -> Self {
        match text {
            "batch-api" => Self::Batch,
            "batch-generated" => Self::BatchGenerated,
            "fine-tune" => Self::FineTune,
            "eval" => Self::Eval,
            other => Self::Other(Unknown::new(other)),
        }
    }
}

impl fmt::Display for FilePurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A file as the API tells of it. A field that is not of its type counts as absent and stays in [`extra`](Self::extra).
///
/// ```
/// use together_inference::client::{FilePurpose, RemoteFile};
///
/// let json = r#"{"id":"file-1","filename":"a.jsonl","bytes":12,"purpose":"batch-api","FileType":"jsonl"}"#;
/// let file: RemoteFile = serde_json::from_str(json)?;
/// assert_eq!((file.bytes, file.purpose), (Some(12), FilePurpose::Batch));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RemoteFile {
    /// Its id.
    pub id: String,
    /// The name that it was given. It may be anything: no path of this machine.
    pub filename: String,
    /// Its size.
    pub bytes: Option<u64>,
    /// What it is for.
    pub purpose: FilePurpose,
    /// When it came.
    pub created_at: Option<SystemTime>,
    /// `jsonl`, `csv`, `parquet`, … (open).
    pub file_type: Option<String>,
    /// Whether it came whole, where the API still says so.
    pub processed: Option<bool>,
    /// How many lines it has.
    pub line_count: Option<u64>,
    /// How far its check is: `PENDING`, `RUNNING`, `COMPLETED`, `FAILED`, `INVALID_FORMAT`, … (open). Files of batches
    /// are not checked.
    pub processing_status: Option<String>,
    /// What the check found.
    pub validation_report: Option<Value>,
    /// Fields that this version does not know.
    pub extra: Map<String, Value>,
}

impl<'de> Deserialize<'de> for RemoteFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut record = Record(Map::deserialize(deserializer)?);
        let id = record.text(&["id"]).ok_or_else(|| D::Error::missing_field("id"))?;
        if record.0.get("object").is_some_and(|object| object == "file") {
            record.0.remove("object");
        }
        Ok(Self {
            id,
            filename: record.text(&["filename"]).unwrap_or_default(),
            bytes: record.count(&["bytes"]),
            purpose: FilePurpose::from(&*record.text(&["purpose"]).unwrap_or_default()),
            created_at: record.time("created_at"),
            file_type: record.text(&["FileType", "file_type"]),
            processed: record.flag("Processed"),
            line_count: record.count(&["LineCount", "line_count"]),
            processing_status: record.text(&["processing_status"]),
            validation_report: record.0.remove("validation_report").filter(|report| !report.is_null()),
            extra: record.0,
        })
    }
}
