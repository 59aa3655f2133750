//! What works beside the calls of a service: started at its first use, stopped when it shuts down.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

use super::{InferenceService, state::State};

/// Works in the background of a service. [`Pipeline`](crate::pipeline::Pipeline) is the one that comes with the crate.
///
/// It is started on the runtime of the first call, and again by a later one if that runtime is gone.
/// [`shutdown`](InferenceService::shutdown) asks it to stop and waits for it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{future::Future, pin::Pin, time::Duration};
/// use together_inference::{InferenceService, service::{Background, WeakService}, testing::Together};
///
/// /// Says every minute how many calls are under way.
/// #[derive(Debug)]
/// struct Pulse;
///
/// impl Background for Pulse {
///     fn run(&self, service: WeakService) -> Pin<Box<dyn Future<Output = ()> + Send>> {
///         Box::pin(async move {
///             while service.rest(Duration::from_secs(60)).await {
///                 let Some(service) = service.upgrade() else { return };
///                 println!("{} calls", service.health().in_flight);
///             }
///         })
///     }
/// }
///
/// let service = InferenceService::builder(Together::new().client()).background(Pulse).build()?;
/// service.complete("hi").await?;
/// service.shutdown(Duration::from_secs(1)).await;
/// # Ok(())
/// # }
/// ```
pub trait Background: Send + Sync + fmt::Debug {
    /// Works until the service stops. It holds the service only while it does something with it.
    fn run(&self, service: WeakService) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// A service that may be gone, for what works beside it.
#[derive(Clone, Debug)]
pub struct WeakService {
    state: Weak<State>,
    stop: CancellationToken,
}

impl WeakService {
    /// The service, unless nobody holds it any more.
    #[must_use]
    pub fn upgrade(&self) -> Option<InferenceService> {
        self.state.upgrade().map(|state| InferenceService { state })
    }

    /// Returns when the service shuts down.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Waits for so long; `false` where the service shuts down meanwhile.
    pub async fn rest(&self, time: std::time::Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stopped() => false,
            () = tokio::time::sleep(time) => true,
        }
    }
}

/// Everything in the background, and whether it runs.
#[derive(Debug)]
pub(super) struct Backgrounds {
    all: Vec<Arc<dyn Background>>,
    running: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Backgrounds {
    pub(super) fn new(all: Vec<Arc<dyn Background>>) -> Self {
        Self { all, running: Arc::default(), stop: CancellationToken::new() }
    }

    /// Whether there are any.
    #[cfg(feature = "batch")]
    pub(super) fn are_some(&self) -> bool {
        !self.all.is_empty()
    }

    /// Asks everything to stop.
    pub(super) fn end(&self) {
        self.stop.cancel();
    }
}

impl State {
    /// Starts what works in the background on this runtime, unless it runs.
    pub(super) fn ensure_background(self: &Arc<Self>) {
        let backgrounds = &self.backgrounds;
        if backgrounds.all.is_empty() || backgrounds.stop.is_cancelled() {
            return;
        }
        if backgrounds.running.load(Ordering::Acquire) || backgrounds.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let running = Arc::new(Running(Arc::clone(&backgrounds.running)));
        for background in &backgrounds.all {
            let service = WeakService { state: Arc::downgrade(self), stop: backgrounds.stop.clone() };
            let (work, running) = (background.run(service), Arc::clone(&running));
            let cancel = self.cancel.clone();
            self.tasks.spawn(async move {
                let _running = running;
                tokio::select! {
                    () = work => {}
                    // The deadline of a shutdown has passed.
                    () = cancel.cancelled() => {}
                }
            });
        }
    }
}

/// Says that nothing runs when the last of it has ended, however it did.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
