//! Waiting for what is usually there at once: a ranking, a look-up in memory, a free place.
//!
//! A timer or a waiter costs more than such a step itself, so that none is set up before the first poll has shown that
//! there is something to wait for.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};

use tokio::time::{Instant, timeout_at};

/// The output, if it is there at once.
pub(super) async fn at_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

/// The output, if it comes before the deadline.
pub(super) async fn by<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    match at_once(future.as_mut()).await {
        Some(output) => Some(output),
        None => timeout_at(deadline, future).await.ok(),
    }
}
