//! What works in the background of a service: today the worker that carries out batches.
//!
//! A [`Pipeline`] is given to the builder and starts with the first call, or with the first ticket that is awaited. It
//! does what it finds in the service's store, whoever put it there: any number of processes with the same store share
//! the work, and what one of them had begun that is killed another one ends.

mod batch_worker;

use std::{future::Future, pin::Pin, time::Duration};

use crate::service::{Background, WeakService};

/// How often the worker looks into the store where nothing tells it to.
const LOOK: Duration = Duration::from_secs(1);

/// Carries out what a service's store holds: give it to
/// [`ServiceBuilder::background`](crate::service::ServiceBuilder::background).
///
/// ```
/// use std::time::Duration;
/// use together_inference::pipeline::Pipeline;
///
/// let pipeline = Pipeline::new().poll_every(Duration::from_millis(100));
/// ```
#[derive(Clone, Debug)]
pub struct Pipeline {
    look: Duration,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self::new()
    }
}

impl Pipeline {
    /// A worker that looks into the store every second. The provider is asked after jobs every thirty seconds, however
    /// many there are: [`BatchOptions`](crate::service::BatchOptions) says so.
    #[must_use]
    pub const fn new() -> Self {
        Self { look: LOOK }
    }

    /// Sets how often it looks into the store where nothing of its own process tells it to; 0 counts as a millisecond.
    #[must_use]
    pub const fn poll_every(mut self, time: Duration) -> Self {
        self.look = if time.is_zero() { Duration::from_millis(1) } else { time };
        self
    }
}

impl Background for Pipeline {
    fn run(&self, service: WeakService) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(batch_worker::work(service, self.look))
    }
}
