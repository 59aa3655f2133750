//! A live stream: one event per poll, until it ends, breaks or is dropped.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
    vec,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use serde_json::json;

use super::{
    ask::tokens_in,
    bill::Tokens,
    chat::Completion,
    error::ApiError,
    faults::StreamFault,
    sse::{Piece, event},
    state::Shared,
};
use crate::client::{Body, TransportError, TransportErrorKind};

/// How a stream is delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    /// The wait before each event but the first.
    pub(super) gap: Duration,
    /// The most bytes that arrive at once.
    pub(super) fragment: usize,
    pub(super) fault: Option<StreamFault>,
}

/// The body that streams these pieces.
pub(super) fn body(shared: Arc<Shared>, completion: Completion, pieces: Vec<Piece>, delivery: Delivery) -> Body {
    shared.open_streams.fetch_add(1, Ordering::SeqCst);
    let account = Open { shared, completion, bytes: 0, sent_all: false, settled: false };
    let live = Live { open: account, pieces: pieces.into_iter(), delivery, sent: 0, over: false };
    let events = stream::unfold(live, |mut live| async move {
        let event = live.next().await?;
        Some((event.map(Bytes::from), live))
    });
    Body::stream(events.flat_map(move |event| stream::iter(fragments(event, delivery.fragment))))
}

/// An event in parts of at most `length` bytes, cut wherever it happens: inside a word, inside a character.
fn fragments(
    event: Result<Bytes, TransportError>,
    length: usize,
) -> impl Iterator<Item = Result<Bytes, TransportError>> {
    let (mut rest, error) = match event {
        Ok(bytes) => (bytes, None),
        Err(error) => (Bytes::new(), Some(error)),
    };
    let parts = std::iter::from_fn(move || {
        let part = rest.split_to(length.max(1).min(rest.len()));
        (!part.is_empty()).then_some(Ok(part))
    });
    parts.chain(error.map(Err))
}

struct Live {
    open: Open,
    pieces: vec::IntoIter<Piece>,
    delivery: Delivery,
    sent: usize,
    over: bool,
}

impl Live {
    async fn next(&mut self) -> Option<Result<String, TransportError>> {
        if self.over {
            return None;
        }
        match self.delivery.fault {
            Some(StreamFault::Cut(chunks)) if self.sent >= chunks => {
                self.over = true;
                // On a socket, what was written before must leave before the connection breaks.
                tokio::task::yield_now().await;
                return Some(Err(TransportError::new(TransportErrorKind::Interrupted, "the simulator cut the stream")));
            }
            Some(StreamFault::End(chunks)) if self.sent >= chunks => return None,
            Some(StreamFault::Stall(chunks)) if self.sent >= chunks => std::future::pending::<()>().await,
            Some(StreamFault::Error(chunks)) if self.sent >= chunks => {
                self.over = true;
                let error = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the engine failed while generating");
                return Some(Ok(event(&json!({"error": error.data()}))));
            }
            _ => {}
        }
        if self.pieces.as_slice().is_empty() {
            return None;
        }
        if self.sent > 0 && !self.delivery.gap.is_zero() {
            tokio::time::sleep(self.delivery.gap).await;
        }
        let piece = self.pieces.next()?;
        self.sent += 1;
        self.open.bytes += piece.bytes();
        if matches!(piece, Piece::Done) {
            self.open.sent_all = true;
            self.open.settle();
        }
        Some(Ok(piece.render(&self.open.completion)))
    }
}

/// Counts an open stream and charges what it sent: at `[DONE]`, else when it is dropped.
struct Open {
    shared: Arc<Shared>,
    completion: Completion,
    bytes: usize,
    sent_all: bool,
    settled: bool,
}

impl Open {
    fn settle(&mut self) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let Completion { id, model, price, tokens, .. } = &self.completion;
        let sent = tokens_in(self.bytes).min(tokens.completion);
        let completion = if self.sent_all { tokens.completion } else { sent };
        let tokens = Tokens { completion, ..*tokens };
        self.shared.lock().account.charge(id, model, *price, tokens, self.sent_all);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.settle();
        self.shared.open_streams.fetch_sub(1, Ordering::SeqCst);
    }
}
