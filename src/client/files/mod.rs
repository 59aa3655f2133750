//! Files at the provider: `/v1/files`.
//!
//! # Why an upload asks before it sends
//!
//! The API takes a file in one request, which is simple, and in three: the checksum first, then the bytes to a storage,
//! then a word that they are there. The longer way is the default, since the answer to the checksum may be "I have it":
//! an upload whose reply was lost is found again instead of made twice, and its id is the same.

mod check;
mod download;
mod remote;
mod send;
mod source;
mod upload;
mod ways;

use std::{fmt::Write, sync::Arc};

use bytes::Bytes;
use http::Method;
use serde::Deserialize;

pub use self::{
    check::{BatchFileProblems, BatchFileSummary, BatchLines, LineProblem},
    download::FileContent,
    remote::{FilePurpose, RemoteFile},
    upload::{FileUpload, UploadedFile},
};
use super::{Error, ErrorKind, TogetherClient, retry::Replay};

const PATH: &str = "/v1/files";

/// Files of a client: [`TogetherClient::files`].
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    client: &'a TogetherClient,
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes so far. It goes back when a part has to be sent again.
    pub bytes: u64,
    /// Bytes in all, where they are known.
    pub total: Option<u64>,
}

/// Who is told how far a transfer is: often, and from within it, so that it must not wait.
pub(super) type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

impl<'a> Files<'a> {
    pub(super) const fn new(client: &'a TogetherClient) -> Self {
        Self { client }
    }

    /// Every file.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`].
    pub async fn list(self) -> Result<Vec<RemoteFile>, Error> {
        self.list_where(|_| true).await
    }

    /// The files that pass a test. The list is read while it arrives, and nothing else of it is kept.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`].
    pub async fn list_where(self, keep: impl Fn(&RemoteFile) -> bool + Send + Sync) -> Result<Vec<RemoteFile>, Error> {
        self.client.list(PATH, |file: RemoteFile| keep(&file).then_some(file)).await
    }

    /// What the provider knows of a file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is none, or any other [`ErrorKind`].
    pub async fn get(self, id: &str) -> Result<RemoteFile, Error> {
        self.client.get(&format!("{PATH}/{}", segment(id)?)).await
    }

    /// Deletes a file. Whether there was one: a repeat after a lost reply finds none.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`].
    pub async fn delete(self, id: &str) -> Result<bool, Error> {
        let path = format!("{PATH}/{}", segment(id)?);
        match self.client.typed::<Deleted>(Method::DELETE, &path, Bytes::new(), Replay::Safe).await {
            Ok(answer) => Ok(answer.deleted),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[derive(Deserialize)]
struct Deleted {
    #[serde(default = "yes")]
    deleted: bool,
}

const fn yes() -> bool {
    true
}

/// An id as one segment of a path: whatever it holds, it leads to no other path.
pub(super) fn segment(id: &str) -> Result<String, Error> {
    if id.is_empty() || matches!(id, "." | "..") {
        return Err(Error::new(ErrorKind::InvalidRequest, "an id that is empty or made of dots names nothing"));
    }
    let mut path = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_to_no_other_path() {
        assert_eq!(segment("file-1_a.b~c").unwrap(), "file-1_a.b~c");
        assert_eq!(segment("../batches?x#é").unwrap(), "..%2Fbatches%3Fx%23%C3%A9");
        for id in ["", ".", ".."] {
            assert_eq!(segment(id).unwrap_err().kind(), ErrorKind::InvalidRequest);
        }
    }
}
