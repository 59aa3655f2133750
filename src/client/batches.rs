//! Jobs of many requests: `/v1/batches`.

use std::{fmt, time::SystemTime};

use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Map, Value};

use super::{Error, ErrorKind, TogetherClient, files::segment, record::Record, retry::Replay};
use crate::types::Unknown;

const PATH: &str = "/v1/batches";

/// Jobs of a client: [`TogetherClient::batches`].
#[derive(Clone, Copy, Debug)]
pub struct Batches<'a> {
    client: &'a TogetherClient,
}

/// What makes a job.
///
/// ```
/// use together_inference::client::CreateBatch;
///
/// let job = CreateBatch::new("file-1");
/// assert_eq!(serde_json::to_value(&job)?["endpoint"], "/v1/chat/completions");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CreateBatch {
    /// The path that every line goes to.
    pub endpoint: String,
    /// The file of the lines.
    pub input_file_id: String,
    /// The time that is asked for. Together takes it for a day, whatever it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_window: Option<String>,
    /// Which of one's jobs go first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// The model. It does not stand in for one that is missing in a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
}

impl CreateBatch {
    /// Chat requests that are in this file.
    pub fn new(input_file_id: impl Into<String>) -> Self {
        Self {
            endpoint: super::chat::PATH.to_owned(),
            input_file_id: input_file_id.into(),
            completion_window: None,
            priority: None,
            model_id: None,
        }
    }

    /// Sets the path that every line goes to.
    #[must_use]
    pub fn endpoint(mut self, path: impl Into<String>) -> Self {
        self.endpoint = path.into();
        self
    }

    /// Sets which of one's jobs go first.
    #[must_use]
    pub const fn priority(mut self, priority: i64) -> Self {
        self.priority = Some(priority);
        self
    }
}

/// How far a job is.
///
/// ```
/// use together_inference::client::BatchStatus;
///
/// assert_eq!(BatchStatus::from("CANCELING"), BatchStatus::Cancelling);
/// assert!(BatchStatus::from("COMPLETED").is_final());
/// assert_eq!(BatchStatus::from("PAUSED").as_str(), "PAUSED");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BatchStatus {
    /// Its lines are read.
    Validating,
    /// It runs.
    InProgress,
    /// It ended by itself; single lines may have failed.
    Completed,
    /// It ended without answers: [`BatchJob::error`] says why.
    Failed,
    /// Its time ran out.
    Expired,
    /// It is being stopped.
    Cancelling,
    /// It was stopped.
    Cancelled,
    /// A value that this version does not know.
    Other(Unknown),
}

impl BatchStatus {
    /// The value as the API writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Validating => "VALIDATING",
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Expired => "EXPIRED",
            Self::Cancelling => "CANCELING",
            Self::Cancelled => "CANCELLED",
            Self::Other(text) => text.as_str(),
        }
    }

    /// Whether the job has ended, and nothing about it changes any more.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Expired | Self::Cancelled)
    }
}

impl From<&str> for BatchStatus {
    /// Reads a status in either case and every spelling that was seen.
    fn from(text: &str) -> Self {
        match &*text.to_ascii_uppercase() {
            "VALIDATING" => Self::Validating,
            "IN_PROGRESS" => Self::InProgress,
            "COMPLETED" => Self::Completed,
            "FAILED" => Self::Failed,
            "EXPIRED" => Self::Expired,
            "CANCELING" | "CANCELLING" => Self::Cancelling,
            "CANCELLED" | "CANCELED" => Self::Cancelled,
            _ => Self::Other(Unknown::new(text)),
        }
    }
}

impl fmt::Display for BatchStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A job as the API tells of it. A field that is not of its type counts as absent and stays in [`extra`](Self::extra).
///
/// ```
/// use together_inference::client::{BatchJob, BatchStatus};
///
/// let job: BatchJob = serde_json::from_str(r#"{"id":"b-1","status":"IN_PROGRESS","progress":71.75,"region":"eu"}"#)?;
/// assert_eq!((job.status, job.progress), (BatchStatus::InProgress, Some(71.75)));
/// assert_eq!(job.extra["region"], "eu");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BatchJob {
    /// Its id.
    pub id: String,
    /// How far it is.
    pub status: BatchStatus,
    /// The same in percent. There is no count of requests.
    pub progress: Option<f64>,
    /// The file of its lines.
    pub input_file_id: Option<String>,
    /// The file of the answers, once there are any.
    pub output_file_id: Option<String>,
    /// The file of the errors, once there are any.
    pub error_file_id: Option<String>,
    /// Why it failed as a whole.
    pub error: Option<String>,
    /// The path that its lines go to.
    pub endpoint: Option<String>,
    /// The model, where one was said for the whole job.
    pub model_id: Option<String>,
    /// Bytes of the input file.
    pub file_size_bytes: Option<u64>,
    /// When it was created.
    pub created_at: Option<SystemTime>,
    /// When it ended.
    pub completed_at: Option<SystemTime>,
    /// When it expires.
    pub job_deadline: Option<SystemTime>,
    /// Whose it is.
    pub user_id: Option<String>,
    /// The project that it belongs to.
    pub project_id: Option<String>,
    /// The organization that it belongs to.
    pub organization_id: Option<String>,
    /// Fields that this version does not know.
    pub extra: Map<String, Value>,
}

impl<'de> Deserialize<'de> for BatchJob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut record = Record(Map::deserialize(deserializer)?);
        let id = record.text(&["id"]).ok_or_else(|| D::Error::missing_field("id"))?;
        let status = record.text(&["status"]).unwrap_or_default();
        Ok(Self {
            id,
            status: BatchStatus::from(&*status),
            progress: record.number("progress"),
            input_file_id: record.text(&["input_file_id"]),
            output_file_id: record.text(&["output_file_id"]),
            error_file_id: record.text(&["error_file_id"]),
            error: record.text(&["error"]),
            endpoint: record.text(&["endpoint"]),
            model_id: record.text(&["model_id"]),
            file_size_bytes: record.count(&["file_size_bytes"]),
            created_at: record.time("created_at"),
            completed_at: record.time("completed_at"),
            job_deadline: record.time("job_deadline"),
            user_id: record.text(&["user_id"]),
            project_id: record.text(&["project_id"]),
            organization_id: record.text(&["organization_id"]),
            extra: record.0,
        })
    }
}

/// A job that was created.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CreatedBatch {
    /// The job.
    pub job: BatchJob,
    /// What the provider warns of.
    pub warning: Option<String>,
}

impl<'de> Deserialize<'de> for CreatedBatch {
    /// In its wrapper, as the API sends it, or bare.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut record = Record(Map::deserialize(deserializer)?);
        let job = match record.0.remove("job") {
            Some(job) => job,
            None => Value::Object(std::mem::take(&mut record.0)),
        };
        let job = BatchJob::deserialize(job).map_err(D::Error::custom)?;
        Ok(Self { job, warning: record.text(&["warning"]) })
    }
}

/// What became of a request to stop a job.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CancelledBatch {
    /// It is being stopped, or was just now.
    Asked(Box<BatchJob>),
    /// It had ended before: nothing changes. How it ended, where the provider says it.
    Ended(Option<BatchStatus>),
}

impl<'a> Batches<'a> {
    pub(super) const fn new(client: &'a TogetherClient) -> Self {
        Self { client }
    }

    /// Creates a job. The provider checks nothing yet: a bad file shows as a job that fails.
    ///
    /// It is never asked for again once the request may have left: there would be two jobs. After such an error look in
    /// [`list_where`](Self::list_where) for a job of the file; [`TogetherBatches`](crate::batch::TogetherBatches) does.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`].
    pub async fn create(self, batch: &CreateBatch) -> Result<CreatedBatch, Error> {
        self.client.post(PATH, batch).await
    }

    /// A job.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is none, or any other [`ErrorKind`].
    pub async fn get(self, id: &str) -> Result<BatchJob, Error> {
        let path = format!("{PATH}/{}", segment(id)?);
        self.client.get::<CreatedBatch>(&path).await.map(|found| found.job)
    }

    /// Every job. An account may have ten thousands: [`list_where`](Self::list_where) keeps what one looks for.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`].
    pub async fn list(self) -> Result<Vec<BatchJob>, Error> {
        self.list_where(|_| true).await
    }

    /// The jobs that pass a test. The list is read while it arrives, and nothing else of it is kept.
    ///
    /// The provider's list may lag behind: a job that was just created may not be there yet.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`].
    pub async fn list_where(self, keep: impl Fn(&BatchJob) -> bool + Send + Sync) -> Result<Vec<BatchJob>, Error> {
        self.client.list(PATH, |job: BatchJob| keep(&job).then_some(job)).await
    }

    /// Asks the provider to stop a job. What it had finished is billed, and may stay readable.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is none, or any other [`ErrorKind`]. A job that has ended is no error.
    pub async fn cancel(self, id: &str) -> Result<CancelledBatch, Error> {
        let path = format!("{PATH}/{}/cancel", segment(id)?);
        match self.client.typed::<CreatedBatch>(Method::POST, &path, Bytes::new(), Replay::Safe).await {
            Ok(found) => Ok(CancelledBatch::Asked(Box::new(found.job))),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let word = error.message().rsplit(' ').next().map(BatchStatus::from);
                Ok(CancelledBatch::Ended(word.filter(BatchStatus::is_final)))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_with_every_field_and_what_is_not_known_is_kept() {
        let json = r#"{"job":{"id":"b","user_id":"u","project_id":"p","organization_id":"o","input_file_id":"i",
            "file_size_bytes":1048576,"status":"CANCELLING","job_deadline":"2024-01-15T15:30:00.000001Z",
            "created_at":"2024-01-15T14:30:00Z","endpoint":"/v1/chat/completions","progress":75,"model_id":null,
            "output_file_id":"","error_file_id":"e","error":{"odd":1},"completed_at":"soon","new":[1]},"warning":"w"}"#;
        let created: CreatedBatch = serde_json::from_str(json).unwrap();
        let job = created.job;
        assert_eq!(created.warning.as_deref(), Some("w"));
        assert_eq!(
            (job.status, job.progress, job.file_size_bytes),
            (BatchStatus::Cancelling, Some(75.0), Some(1 << 20))
        );
        assert_eq!((job.output_file_id.as_deref(), job.error_file_id.as_deref()), (None, Some("e")));
        assert!(job.job_deadline > job.created_at && job.completed_at.is_none() && job.error.is_none());
        let kept: Vec<_> = job.extra.keys().map(String::as_str).collect();
        assert_eq!(kept, ["completed_at", "error", "new", "output_file_id"]);
        assert!(serde_json::from_str::<CreatedBatch>(r#"{"job":{"status":"FAILED"}}"#).is_err(), "no id");
        assert_eq!(serde_json::from_str::<CreatedBatch>(r#"{"id":"b"}"#).unwrap().job.id, "b");
    }
}
