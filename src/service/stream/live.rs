//! What a stream under way holds, where a shutdown can reach it too.
//!
//! A stream that its caller holds without reading it is polled by nobody: whoever ends it must come from outside. The
//! service therefore knows its live streams, and both sides end one under its lock, whoever is first.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::task_tracker::TaskTrackerToken,
};

use crate::{
    client::{ChatStream, Delta, Error, ErrorKind},
    inference::Attempt,
    service::settle::Settlement,
    types::Usage,
};

/// The streams under way.
#[derive(Default)]
pub(in crate::service) struct LiveStreams {
    held: Mutex<HashMap<u64, Weak<Mutex<Held>>>>,
    next: AtomicU64,
}

impl fmt::Debug for LiveStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveStreams").field("streams", &self.lock().len()).finish()
    }
}

impl LiveStreams {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<Mutex<Held>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every stream now: connections are closed, places freed, records written.
    pub(in crate::service) fn cut(&self) {
        let live: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        live.iter().for_each(|held| lock(held).cut());
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that a stream took and gives back when it ends.
pub(super) struct Open {
    pub(super) stream: ChatStream,
    pub(super) settlement: Settlement,
    /// Counts the call among those that a shutdown waits for.
    pub(super) in_flight: TaskTrackerToken,
}

enum Held {
    Open(Box<Open>),
    /// It was cut by a shutdown, which its reader has not heard of yet.
    Cut(Attempt),
    Over,
}

impl Held {
    fn cut(&mut self) {
        let Self::Open(open) = mem::replace(self, Self::Over) else { return };
        let Open { stream, mut settlement, in_flight } = *open;
        drop(stream);
        let cost = settlement.cancelled();
        *self = Self::Cut(settlement.attempt(Some(ErrorKind::Interrupted), Some(200), cost));
        // Last: whoever waits for it finds everything settled.
        drop(in_flight);
    }
}

/// What a poll brought. All but a delta is the end.
pub(super) enum Step {
    Delta(Delta),
    Ended(Box<Open>),
    Failed(Error, Box<Open>),
    Cut(Attempt),
}

/// A stream under way.
pub(super) struct Live {
    held: Arc<Mutex<Held>>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    id: u64,
    streams: Arc<LiveStreams>,
}

impl Live {
    pub(super) fn new(open: Open, streams: &Arc<LiveStreams>, cancel: &CancellationToken) -> Self {
        let held = Arc::new(Mutex::new(Held::Open(Box::new(open))));
        let id = streams.next.fetch_add(1, Ordering::Relaxed);
        streams.lock().insert(id, Arc::downgrade(&held));
        // A shutdown says so before it cuts: one of both sees the other.
        if cancel.is_cancelled() {
            lock(&held).cut();
        }
        Self { held, cancelled: Box::pin(cancel.clone().cancelled_owned()), id, streams: Arc::clone(streams) }
    }

    /// The next step. `count` says what has been used with each delta.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, count: impl FnOnce(&Delta) -> Usage) -> Poll<Step> {
        let mut held = lock(&self.held);
        if let Held::Open(open) = &mut *held {
            open.settlement.asked();
            match Pin::new(&mut open.stream).poll_next(cx) {
                Poll::Ready(Some(Ok(delta))) => {
                    open.settlement.progress(count(&delta));
                    open.settlement.handed_over();
                    return Poll::Ready(Step::Delta(delta));
                }
                Poll::Pending if self.cancelled.as_mut().poll(cx).is_pending() => return Poll::Pending,
                Poll::Pending => held.cut(),
                Poll::Ready(ended) => {
                    let Held::Open(open) = mem::replace(&mut *held, Held::Over) else { return Poll::Pending };
                    return Poll::Ready(match ended {
                        Some(Err(error)) => Step::Failed(error, open),
                        _ => Step::Ended(open),
                    });
                }
            }
        }
        match mem::replace(&mut *held, Held::Over) {
            Held::Cut(attempt) => Poll::Ready(Step::Cut(attempt)),
            _ => Poll::Pending,
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.id);
    }
}
