//! Downloads, whole or from a byte on.

use std::ops::Range;

use bytes::Bytes;
use futures_util::stream;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, RANGE},
};
use tokio::time::Instant;

use super::{
    super::{handler::response, state::State},
    missing,
};
use crate::client::{Body, TransportError, TransportErrorKind};

/// Bytes that leave at once.
const CHUNK: usize = 64 << 10;

/// `GET /v1/files/{id}/content`.
pub(in crate::testing) fn content(state: &mut State, id: &str, headers: &HeaderMap, now: Instant) -> Response<Body> {
    let Some(bytes) = state.store.get(id, now).and_then(|file| file.content.clone()) else { return missing() };
    let total = bytes.len();
    let asked = headers.get(RANGE).and_then(|range| range.to_str().ok());
    let range = asked.and_then(|range| range.strip_prefix("bytes=")).map(|range| parsed(range, total));
    let (status, range) = match range {
        None => (StatusCode::OK, 0..total),
        Some(Some(range)) => (StatusCode::PARTIAL_CONTENT, range),
        Some(None) => {
            let mut response = response(StatusCode::RANGE_NOT_SATISFIABLE, None, Body::empty());
            response.headers_mut().extend(header(&format!("bytes */{total}")).map(|range| (CONTENT_RANGE, range)));
            return response;
        }
    };
    let cut = (state.store.cuts.0 > 0).then_some(state.store.cuts.1);
    state.store.cuts.0 = state.store.cuts.0.saturating_sub(1);
    let length = range.len();
    let said = (status == StatusCode::PARTIAL_CONTENT)
        .then(|| header(&format!("bytes {}-{}/{total}", range.start, range.end.saturating_sub(1))))
        .flatten();
    let mut response = response(status, Some("application/octet-stream"), body(&bytes.slice(range), cut));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.extend(said.map(|said| (CONTENT_RANGE, said)));
    response
}

/// The bytes in chunks, broken off after `cut` of them.
fn body(bytes: &Bytes, cut: Option<usize>) -> Body {
    let sent = cut.map_or_else(|| bytes.clone(), |cut| bytes.slice(..cut.min(bytes.len())));
    let starts = (0..sent.len()).step_by(CHUNK);
    let mut chunks: Vec<_> = starts.map(|start| Ok(sent.slice(start..(start + CHUNK).min(sent.len())))).collect();
    chunks.extend(
        cut.map(|_| Err(TransportError::new(TransportErrorKind::Interrupted, "the simulator broke the download off"))),
    );
    Body::stream(stream::iter(chunks))
}

/// `a-b`, `a-` or `-n` within that many bytes.
fn parsed(range: &str, total: usize) -> Option<Range<usize>> {
    let (start, end) = range.split_once('-')?;
    let range = match (start.parse::<usize>(), end.parse::<usize>()) {
        (Ok(start), Ok(end)) => start..end.checked_add(1)?.min(total),
        (Ok(start), Err(_)) if end.is_empty() => start..total,
        (Err(_), Ok(last)) if start.is_empty() => total.saturating_sub(last)..total,
        _ => return None,
    };
    (!range.is_empty()).then_some(range)
}

fn header(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::parsed;

    #[test]
    fn a_range_is_of_the_bytes_that_are_there() {
        assert_eq!(parsed("0-1", 10), Some(0..2));
        assert_eq!(parsed("4-", 10), Some(4..10));
        assert_eq!(parsed("4-99", 10), Some(4..10));
        assert_eq!(parsed("-3", 10), Some(7..10));
        for odd in ["10-", "5-4", "x", "a-b", "-", "0-1,3-4"] {
            assert_eq!(parsed(odd, 10), None, "{odd}");
        }
        assert_eq!(parsed("0-", 0), None);
    }
}
