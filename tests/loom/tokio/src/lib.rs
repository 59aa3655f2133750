//! What the modelled files use of tokio, made of loom's parts.

pub mod sync {
    use std::{
        future::poll_fn,
        task::{Poll, Waker},
    };

    use loom::sync::Mutex;

    /// `Notify` with one waiter at a time, as every waiter of a queue has its own.
    #[derive(Debug, Default)]
    pub struct Notify(Mutex<State>);

    #[derive(Debug, Default)]
    struct State {
        permit: bool,
        waker: Option<Waker>,
    }

    impl Notify {
        pub fn new() -> Self {
            Self::default()
        }

        pub fn notify_one(&self) {
            let waker = {
                let mut state = self.0.lock().unwrap();
                state.permit = true;
                state.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }

        pub async fn notified(&self) {
            poll_fn(|cx| {
                let mut state = self.0.lock().unwrap();
                if std::mem::take(&mut state.permit) {
                    return Poll::Ready(());
                }
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
        }
    }
}

pub mod time {
    pub use std::time::Instant;

    /// Never: no model waits for time.
    #[derive(Debug)]
    pub struct Elapsed;

    pub async fn timeout_at<F: Future>(_: Instant, future: F) -> Result<F::Output, Elapsed> {
        Ok(future.await)
    }
}
