//! The crate's own files as they are, and around them as little as they need.
#![allow(dead_code, unused_imports, missing_docs, reason = "a model uses a part of each file")]

#[path = "../../../src/router/ejection.rs"]
mod ejection;
#[path = "../../../src/limit/mod.rs"]
mod limit;
#[path = "../../../src/client/retry_budget.rs"]
mod retry_budget;

pub mod races;

/// What the files know of the client.
mod client {
    use std::time::Duration;

    #[derive(Debug)]
    pub struct Error;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ErrorKind {
        RateLimited,
    }

    impl Error {
        pub fn kind(&self) -> ErrorKind {
            ErrorKind::RateLimited
        }

        pub fn retry_after(&self) -> Option<Duration> {
            None
        }

        pub fn code(&self) -> Option<&str> {
            None
        }
    }

    #[derive(Clone, Copy, Debug, Default)]
    pub struct RateLimits {
        pub requests: Option<Window>,
        pub requests_dynamic: Option<Window>,
        pub tokens: Option<Window>,
        pub tokens_dynamic: Option<Window>,
    }

    #[derive(Clone, Copy, Debug, Default)]
    pub struct Window {
        pub limit: Option<f64>,
        pub remaining: Option<f64>,
    }
}

/// And of the ground.
mod types {
    use std::time::{Duration, Instant};

    pub mod sync {
        pub use loom::sync::{
            Mutex, MutexGuard,
            atomic::{AtomicBool, AtomicI64, Ordering},
        };
    }

    pub const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

    pub fn later(from: Instant, by: Duration) -> Instant {
        from.checked_add(by.min(FOREVER)).unwrap_or(from)
    }

    #[derive(Clone, Copy, Debug)]
    pub enum Priority {
        Realtime,
        Standard,
        Batch,
    }

    #[derive(Clone, Copy, Debug, Default)]
    pub struct Usage {
        pub prompt: u64,
        pub completion: u64,
    }

    pub trait Rng {
        fn next_f64(&self) -> f64;
    }
}
