//! What is to be sent, and how it is sent.

use std::{fmt, path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::{
    BatchLines, FilePurpose, Files, OnProgress, Progress, RemoteFile,
    send::Meter,
    source::Source,
    ways::{self, Outgoing},
};
use crate::client::{Error, ErrorKind};

/// Above this the storage takes a file in parts only.
const ONE_PUT: u64 = 5 << 30;
/// The most bytes of a file: 50.1 GiB.
const MOST: u64 = 53_794_465_382;

/// A file to send.
///
/// ```
/// use together_inference::client::{FilePurpose, FileUpload};
///
/// let upload = FileUpload::bytes("labels.jsonl", "{}\n", FilePurpose::Eval)
///     .on_progress(|so_far| println!("{} of {:?} bytes", so_far.bytes, so_far.total));
/// assert_eq!(upload.name(), "labels.jsonl");
/// assert_eq!(FileUpload::path("/home/me/secret plans/labels.jsonl", FilePurpose::Batch).name(), "labels.jsonl");
/// ```
#[derive(Clone)]
pub struct FileUpload {
    source: Source,
    name: String,
    purpose: FilePurpose,
    way: Way,
    check: bool,
    on_progress: Option<OnProgress>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Auto,
    OneRequest,
    Parts(u64),
}

/// A file that the provider has.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct UploadedFile {
    /// The file.
    pub file: RemoteFile,
    /// The provider had the same content already: its file is this one, and nothing was sent.
    pub existed: bool,
}

impl fmt::Debug for FileUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileUpload")
            .field("name", &self.name)
            .field("purpose", &self.purpose)
            .field("way", &self.way)
            .finish_non_exhaustive()
    }
}

impl FileUpload {
    fn new(source: Source, name: &str, purpose: FilePurpose) -> Self {
        let check = purpose == FilePurpose::Batch;
        Self { source, name: base_name(name), purpose, way: Way::Auto, check, on_progress: None }
    }

    /// Bytes at hand, under this name.
    pub fn bytes(name: impl AsRef<str>, bytes: impl Into<Bytes>, purpose: FilePurpose) -> Self {
        Self::new(Source::Bytes(bytes.into()), name.as_ref(), purpose)
    }

    /// A file of this machine. It is sent while it is read: none of it is kept in memory.
    pub fn path(path: impl Into<PathBuf>, purpose: FilePurpose) -> Self {
        let path = path.into();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self::new(Source::File { path, offset: 0, len: None }, &name, purpose)
    }

    /// A range of a file of this machine.
    pub fn range(path: impl Into<PathBuf>, offset: u64, len: u64, purpose: FilePurpose) -> Self {
        let path = path.into();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self::new(Source::File { path, offset, len: Some(len) }, &name, purpose)
    }

    /// Sets the name that the provider shows. Folders are cut off: they are nobody's business.
    #[must_use]
    pub fn named(mut self, name: impl AsRef<str>) -> Self {
        self.name = base_name(name.as_ref());
        self
    }

    /// The name that the provider shows.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends it in one request, without asking whether the provider has it.
    #[must_use]
    pub const fn in_one_request(mut self) -> Self {
        self.way = Way::OneRequest;
        self
    }

    /// Sends it in parts of this size, four at a time, as a file over 5 GiB always is: 5 MiB at least, and not more than
    /// 250 of them.
    #[must_use]
    pub const fn in_parts(mut self, part_bytes: u64) -> Self {
        self.way = Way::Parts(part_bytes);
        self
    }

    /// Leaves out the check of a job's lines, which reads the file once.
    #[must_use]
    pub const fn unchecked(mut self) -> Self {
        self.check = false;
        self
    }

    /// Tells how far it is, often and from within the transfer: the function must not wait.
    #[must_use]
    pub fn on_progress(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Arc::new(tell));
        self
    }

    fn file_type(&self) -> &'static str {
        match self.name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase()).as_deref() {
            Some("csv") => "csv",
            Some("parquet") => "parquet",
            _ => "jsonl",
        }
    }
}

/// The last part of a path, of either kind, as a name that breaks no header.
fn base_name(path: &str) -> String {
    let name = path.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or("file");
    name.chars().map(|char| if char.is_control() || char == '"' { '_' } else { char }).collect()
}

impl Files<'_> {
    /// Sends a file, unless the provider has the same content already.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use together_inference::{TogetherClient, client::{ErrorKind, FilePurpose, FileUpload}};
    ///
    /// let client = TogetherClient::builder().api_key("key").build().unwrap();
    /// // The lines of a job are checked before anything is sent.
    /// let upload = FileUpload::bytes("labels.jsonl", "{\"custom_id\":\"1\"}\n", FilePurpose::Batch);
    /// let error = client.files().upload(&upload).await.unwrap_err();
    /// assert_eq!((error.kind(), error.message()), (ErrorKind::InvalidRequest, "line 1: it has no body"));
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidRequest`] for a job's lines that would fail, with their numbers, and for a file that is
    /// too long, before anything is sent; [`ErrorKind::LocalFile`] when it cannot be read; any other [`ErrorKind`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future abandons the upload. Another one of the same content starts anew.
    pub async fn upload(self, upload: &FileUpload) -> Result<UploadedFile, Error> {
        let len = upload.source.len().await?;
        if len > MOST {
            return Err(Error::new(ErrorKind::InvalidRequest, format!("{len} bytes are more than a file may have")));
        }
        let way = match upload.way {
            Way::Auto if len > ONE_PUT => Way::Parts(0),
            way => way,
        };
        let lines = upload.check.then(BatchLines::new);
        let digest = match (way, &lines) {
            (Way::OneRequest, None) => None,
            _ => Some(upload.source.digest(lines).await?),
        };
        if let Some(problems) = digest.as_ref().and_then(|digest| digest.problems.as_ref()) {
            return Err(Error::new(ErrorKind::InvalidRequest, problems.to_string()));
        }
        let len = digest.as_ref().map_or(len, |digest| digest.len);
        let outgoing = Outgoing {
            client: self.client,
            // A file that grows while it is sent is sent as it was.
            source: upload.source.part(0, len),
            len,
            name: &upload.name,
            purpose: upload.purpose.as_str(),
            file_type: upload.file_type(),
            checksum: digest.map(|digest| digest.checksum).unwrap_or_default(),
            meter: Meter::new(len, upload.on_progress.clone()),
        };
        match way {
            Way::OneRequest => ways::in_one_request(&outgoing).await,
            Way::Auto => ways::by_checksum(&outgoing).await,
            Way::Parts(size) => ways::in_parts(&outgoing, size).await,
        }
        .map_err(|error| self.client.redacted(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_last_part_of_a_path() {
        for (path, name) in [
            ("a.jsonl", "a.jsonl"),
            ("/home/me/a.jsonl", "a.jsonl"),
            ("C:\\me\\a.csv", "a.csv"),
            ("folder/", "folder"),
            ("a\r\nx: \"y\".jsonl", "a__x: _y_.jsonl"),
            ("", "file"),
        ] {
            assert_eq!(base_name(path), name);
        }
    }

    #[test]
    fn the_type_is_read_off_the_name() {
        for (name, kind) in [("a.CSV", "csv"), ("a.parquet", "parquet"), ("a.jsonl", "jsonl"), ("a", "jsonl")] {
            assert_eq!(FileUpload::bytes(name, "", FilePurpose::Eval).file_type(), kind);
        }
    }
}
