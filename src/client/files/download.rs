//! The content of a file, resumed where a connection breaks.

use std::{
    fmt,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_core::{Stream, stream::BoxStream};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, header};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout_at},
};

use super::{Files, PATH, Progress, segment, send::location, source::len_of};
use crate::{
    client::{
        CallOptions, Error, ErrorKind, TogetherClient,
        call::{Call, Success, late, uri},
        http::Elsewhere,
        retry::Replay,
        transport::Body,
    },
    types::later,
};

/// How often a download is resumed without a byte more.
const RESUMES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often the API may send a download on.
const MAX_HOPS: usize = 5;

/// The content of a file: a stream of its bytes.
///
/// A connection that breaks is made again from where it broke, five times in a row at most. A stream that ends without
/// an error has brought all of the file.
pub struct FileContent {
    total: Option<u64>,
    stream: BoxStream<'static, Result<Bytes, Error>>,
}

impl FileContent {
    /// How many bytes the file has, where the server says it.
    #[must_use]
    pub const fn total(&self) -> Option<u64> {
        self.total
    }
}

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileContent").field("total", &self.total).finish_non_exhaustive()
    }
}

impl Stream for FileContent {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl Files<'_> {
    /// The content of a file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is none, or any other [`ErrorKind`]; the same inside the stream.
    pub async fn content(self, id: &str) -> Result<FileContent, Error> {
        let path = format!("{PATH}/{}/content", segment(id)?);
        let place = Place { client: self.client.clone(), path };
        let call = Call {
            method: Method::GET,
            path: "",
            body: Bytes::new(),
            model: None,
            stream: false,
            replay: Replay::Safe,
        };
        let first = self.client.with_retry(&call, &CallOptions::default(), async |_| place.ask(0).await).await?;
        let mut download = Download { place, at: 0, total: None, body: None, idle_tries: 0 };
        download.begin(first)?;
        let total = download.total;
        let stream = stream::try_unfold(download, async |mut download| {
            let piece = download.next().await?;
            Ok(piece.map(|piece| (piece, download)))
        });
        Ok(FileContent { total, stream: stream.boxed() })
    }

    /// Brings the content of a file to this machine and says how many bytes it has.
    ///
    /// It is written beside its place, as `<path>.part` that only this user may read, and moved there once it is whole.
    /// A file that is there already is replaced. The name that the server has for it plays no part.
    ///
    /// # Errors
    ///
    /// As [`content`](Self::content), and [`ErrorKind::LocalFile`] when it cannot be written.
    ///
    /// # Cancellation
    ///
    /// Dropping the future removes the part.
    pub async fn download_to(
        self,
        id: &str,
        path: impl AsRef<Path> + Send,
        on_progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<u64, Error> {
        let path = path.as_ref();
        let mut content = self.content(id).await?;
        let mut part = PartFile::create(path).await.map_err(|error| Error::of_file("write", path, error))?;
        let (mut written, total) = (0, content.total());
        while let Some(piece) = content.next().await {
            let piece = piece?;
            part.file.write_all(&piece).await.map_err(|error| Error::of_file("write", path, error))?;
            written += len_of(piece.len());
            on_progress(Progress { bytes: written, total });
        }
        part.keep(path).await.map_err(|error| Error::of_file("write", path, error))?;
        Ok(written)
    }
}

/// A file that is removed unless it is kept.
struct PartFile {
    file: tokio::fs::File,
    part: PathBuf,
    kept: bool,
}

impl PartFile {
    async fn create(path: &Path) -> std::io::Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        // What is there may be a link to somewhere else: it is not written through.
        match tokio::fs::remove_file(&part).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = tokio::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        options.mode(0o600);
        Ok(Self { file: options.open(&part).await?, part, kept: false })
    }

    async fn keep(mut self, path: &Path) -> std::io::Result<()> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        tokio::fs::rename(&self.part, path).await?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

/// Where a file is asked for.
struct Place {
    client: TogetherClient,
    path: String,
}

/// A download under way.
struct Download {
    place: Place,
    at: u64,
    total: Option<u64>,
    body: Option<Body>,
    /// Connections in a row that brought nothing.
    idle_tries: u32,
}

impl Place {
    /// Asks for the file from a byte on, once.
    async fn ask(&self, from: u64) -> Result<Success, Error> {
        let own = uri(self.client.base(), &self.path)?;
        let mut to = own;
        for hop in 0..=MAX_HOPS {
            let mut request = if hop == 0 {
                self.client.request_of(Method::GET, &self.path, Body::empty())?
            } else {
                let mut request = http::Request::new(Body::empty());
                *request.uri_mut() = to.clone();
                request.extensions_mut().insert(Elsewhere);
                request
            };
            if from > 0 {
                let range = HeaderValue::from_str(&format!("bytes={from}-"));
                let range = range.map_err(|_| Error::new(ErrorKind::Config, "the range is no header"))?;
                request.headers_mut().insert(header::RANGE, range);
            }
            let started = Instant::now();
            let by = later(started, self.client.timeouts().first_byte);
            let Ok(response) = timeout_at(by, self.client.transport().send(request)).await else {
                return Err(late("no response", started));
            };
            let (parts, body) = response?.into_parts();
            let until = later(Instant::now(), self.client.timeouts().total);
            let answer = Success { status: parts.status.as_u16(), headers: parts.headers, body, until };
            match answer.status {
                200..=299 => return Ok(answer),
                301 | 302 | 303 | 307 | 308 => to = location(&answer, &to)?,
                _ => return Err(self.client.refused(answer, None).await),
            }
        }
        Err(Error::new(ErrorKind::Redirected, "the download is sent on and on"))
    }
}

impl Download {
    fn begin(&mut self, answer: Success) -> Result<(), Error> {
        let header = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
        if answer.status == 206 {
            let range = header(header::CONTENT_RANGE).and_then(content_range);
            let (from, total) = range.ok_or_else(|| Error::new(ErrorKind::Malformed, "a part without its place"))?;
            if from != self.at || (total.is_some() && self.total.is_some() && total != self.total) {
                return Err(Error::new(ErrorKind::Malformed, "the server sends another part than was asked for"));
            }
            self.total = self.total.or(total);
            self.body = Some(answer.body);
            return Ok(());
        }
        let total = header(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        if total.is_some() && self.total.is_some() && total != self.total {
            return Err(Error::new(ErrorKind::Malformed, "the file has another length than before"));
        }
        self.total = self.total.or(total);
        // A server without ranges sends it from its beginning.
        self.body = Some(skipping(answer.body, self.at));
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let cut = match self.piece().await {
                Ok(Some(piece)) => {
                    self.idle_tries = 0;
                    self.at += len_of(piece.len());
                    if self.total.is_some_and(|total| self.at > total) {
                        return Err(Error::new(ErrorKind::Malformed, "the file is longer than the server said"));
                    }
                    return Ok(Some(piece));
                }
                Ok(None) if self.total.is_none_or(|total| self.at == total) => return Ok(None),
                Ok(None) => Error::new(ErrorKind::Interrupted, "the download ended before the file did"),
                Err(error) => error,
            };
            self.body = None;
            if self.total == Some(self.at) {
                return Ok(None);
            }
            self.resume(cut).await?;
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        let started = Instant::now();
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            match timeout_at(later(started, self.place.client.timeouts().idle), body.next()).await {
                Ok(Some(Ok(piece))) if piece.is_empty() => {}
                Ok(Some(piece)) => return Ok(Some(piece?)),
                Ok(None) => return Ok(None),
                Err(_) => return Err(late("nothing more of the file", started)),
            }
        }
    }

    /// Connects again, with longer and longer waits, until it is given up.
    async fn resume(&mut self, mut cut: Error) -> Result<(), Error> {
        while self.idle_tries < RESUMES && cut.is_retryable() {
            let wait = FIRST_WAIT.saturating_mul(1 << self.idle_tries).min(LONGEST_WAIT);
            let jitter = self.place.client.rng().next_f64().mul_add(-0.25, 1.0);
            self.idle_tries += 1;
            tracing::debug!(kind = cut.kind().as_str(), at = self.at, "the download broke off, resuming");
            tokio::time::sleep(wait.mul_f64(jitter)).await;
            match self.place.ask(self.at).await {
                Ok(answer) => return self.begin(answer),
                Err(error) => cut = error,
            }
        }
        Err(self.place.client.redacted(cut))
    }
}

/// The first byte and the whole length of `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let from = range.split_once('-')?.0.trim().parse().ok()?;
    Some((from, total.trim().parse().ok()))
}

/// A body without its first bytes.
fn skipping(body: Body, skip: u64) -> Body {
    if skip == 0 {
        return body;
    }
    let mut left = skip;
    Body::stream(body.map(move |piece| {
        piece.map(|piece| {
            let cut = left.min(len_of(piece.len()));
            left -= cut;
            piece.slice(usize::try_from(cut).unwrap_or(piece.len())..)
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        for (text, range) in [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes */10", None),
            ("5-9/10", None),
            ("bytes x-9/10", None),
        ] {
            assert_eq!(content_range(text), range, "{text}");
        }
    }
}
