//! When an attempt may go out.
//!
//! Each route of a service has a lane. An attempt goes out when there is a place (so many at a time), when the quotas of
//! the application allow it, and when the provider will: its limit is read from its headers where it sends some, and
//! learned from its refusals (429) where not. A refusal that says for how long also stops the lane for so long.
//!
//! Who cannot go at once waits, in order of arrival within a priority. A realtime call goes before a standard one that
//! came up to two seconds earlier, and before a batch call that came up to ten seconds earlier: so none is passed for
//! ever. A bounded number waits; more are refused at once, and so is who would be too late for its deadline even if
//! everything went as it does now. Dropping a waiting call leaves the queue, dropping a permit frees its place.
//!
//! A lane belongs to one service, upstream and model, and so to one key: what another one uses or is refused is not seen
//! here, except in what the provider says.
//!
//! # Why the rate and not the latency
//!
//! The latency of a completion is mostly the length of its answer: a limiter that slows down because answers got longer
//! slows down for nothing. Concurrency and the provider's own refusals say what latency cannot.
//!
//! # Why a refusal is no failure
//!
//! 429 says that we are too fast, 503 that they are too slow. The first changes the pace and leaves the route's health
//! alone; the second does the opposite.

mod bucket;
mod ceiling;
mod config;
mod lane;
mod pace;
mod queue;
mod sent;

use std::time::Duration;

pub use self::config::Limits;
pub(crate) use self::lane::{Ask, Lane, Permit, Refused};
use crate::types::FOREVER;

/// A number of seconds, however large.
fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number.max(0.0)).map_or(FOREVER, |wait| wait.min(FOREVER))
}

/// So many turns that nobody else waits for, each taken and given back: for the benchmark.
#[cfg(feature = "testing")]
#[doc(hidden)]
pub async fn turns(limits: Limits, count: u32) {
    use crate::types::{Priority, Usage};
    let lane = Lane::new(limits);
    let deadline = tokio::time::Instant::now() + FOREVER;
    let ask = Ask { priority: Priority::Standard, prompt: 100, max_answer: Some(200), deadline };
    let usage = Usage { prompt: 100, completion: 50, ..Usage::default() };
    for _ in 0..count {
        if let Ok(permit) = lane.admit(&ask).await {
            permit.used(&usage);
        }
    }
}
