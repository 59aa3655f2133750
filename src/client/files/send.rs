//! One request that carries a file: watched, so that a transfer that stalls ends and one that moves does not.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Uri, header};
use tokio::time::{Instant, timeout_at};

use super::{OnProgress, Progress, source::len_of};
use crate::{
    client::{
        Error, ErrorKind, TogetherClient,
        call::Success,
        transport::{Body, TransportError, TransportErrorKind},
    },
    types::later,
};

/// The longest that a transfer may stand still.
const STALL: Duration = Duration::from_secs(60);

/// How much of an upload was handed to the network, all of its requests together.
pub(super) struct Meter {
    sent: AtomicU64,
    total: u64,
    on_progress: Option<OnProgress>,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("sent", &self.sent).field("total", &self.total).finish_non_exhaustive()
    }
}

impl Meter {
    pub(super) fn new(total: u64, on_progress: Option<OnProgress>) -> Arc<Self> {
        Arc::new(Self { sent: AtomicU64::new(0), total, on_progress })
    }

    fn moved(&self, bytes: u64) {
        let sent = self.sent.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if let Some(tell) = &self.on_progress {
            tell(Progress { bytes: sent, total: Some(self.total) });
        }
    }
}

/// What one request has sent.
struct Pulse {
    meter: Arc<Meter>,
    sent: AtomicU64,
    len: u64,
    last: Mutex<Instant>,
    failed: Mutex<Option<Error>>,
    /// How long the answer may take once all was handed over.
    patience: Duration,
}

impl Pulse {
    /// Something of it went out, be it of the wrapping.
    fn beat(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn moved(&self, bytes: u64) {
        self.beat();
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.meter.moved(bytes);
    }

    /// When the next sign of life is due.
    fn due(&self) -> Instant {
        let over = self.sent.load(Ordering::Relaxed) >= self.len;
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        later(last, if over { self.patience.max(STALL) } else { STALL })
    }

    fn fails(&self, error: Error) -> TransportError {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        TransportError::new(TransportErrorKind::Interrupted, "the file cannot be read")
    }

    /// Nothing of it has arrived after all.
    fn take_back(&self) {
        self.meter.sent.fetch_sub(self.sent.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// A body of known length: what comes before the file, the file, what comes after it.
pub(super) struct Parcel {
    pub(super) before: Bytes,
    pub(super) file: BoxStream<'static, Result<Bytes, Error>>,
    /// Of the file alone.
    pub(super) len: u64,
    pub(super) after: Bytes,
}

impl TogetherClient {
    /// Sends a request whose body is a parcel, once, and gives back whatever status comes.
    pub(super) async fn deliver(
        &self,
        mut request: http::Request<()>,
        parcel: Parcel,
        meter: &Arc<Meter>,
    ) -> Result<Success, Error> {
        let Parcel { before, file, len, after } = parcel;
        let length = len_of(before.len()).saturating_add(len).saturating_add(len_of(after.len()));
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        let pulse = Arc::new(Pulse {
            meter: Arc::clone(meter),
            sent: AtomicU64::new(0),
            len,
            last: Mutex::new(Instant::now()),
            failed: Mutex::default(),
            patience: self.timeouts().first_byte,
        });
        let (beating, wrapping) = (Arc::clone(&pulse), Arc::clone(&pulse));
        let file = file.map(move |piece| {
            let piece = piece.map_err(|error| beating.fails(error))?;
            beating.moved(len_of(piece.len()));
            Ok(piece)
        });
        let whole = |bytes: Bytes| stream::iter((!bytes.is_empty()).then_some(Ok(bytes)));
        let before = whole(before).inspect(move |_| wrapping.beat());
        let body = Body::stream(before.chain(file).chain(whole(after)));
        let sent = self.watched(request.map(|()| body), &pulse).await;
        if !sent.as_ref().is_ok_and(|sent| (200..300).contains(&sent.status)) {
            pulse.take_back();
        }
        sent
    }

    async fn watched(&self, request: http::Request<Body>, pulse: &Pulse) -> Result<Success, Error> {
        let mut sending = pin!(self.transport().send(request));
        let response = loop {
            let due = pulse.due();
            match timeout_at(due, &mut sending).await {
                Ok(response) => break response,
                Err(_) if pulse.due() > due => {}
                Err(_) => return Err(stalled()),
            }
        };
        let (parts, body) = response
            .map_err(|error| {
                let own = pulse.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
                own.unwrap_or_else(|| error.into())
            })?
            .into_parts();
        let until = later(Instant::now(), self.timeouts().total);
        Ok(Success { status: parts.status.as_u16(), headers: parts.headers, body, until })
    }
}

fn stalled() -> Error {
    Error::new(ErrorKind::Timeout, format!("the upload stood still for {} s", STALL.as_secs()))
}

/// Where a redirect leads from the API's own address.
pub(super) fn location(success: &Success, from: &Uri) -> Result<Uri, Error> {
    let none = || Error::new(ErrorKind::Malformed, "the server names no place to go on").with_status(success.status);
    let text = success.headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).ok_or_else(none)?;
    let to: Uri = text.parse().map_err(|_| none())?;
    if to.authority().is_none() {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = to.into_parts().path_and_query;
        return Uri::from_parts(parts).map_err(|_| none());
    }
    // What the key was kept from the network for is not sent in the open either.
    match to.scheme_str() {
        Some("https") => Ok(to),
        Some("http") if from.scheme_str() == Some("http") => Ok(to),
        _ => Err(Error::new(ErrorKind::Config, "the server sends the file to a place without https")),
    }
}
