//! x
#![forbid(unsafe_code)]

pub mod cache;
pub mod client;
pub mod cost;
pub mod inference;
pub mod router;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;

pub use client::TogetherClient;
pub use inference::{InferenceRequest, InferenceResponse};
pub use types::{Cost, ModelId, Price, Priority, RouteId, Task, Tenant, Tier, Usage, UsageSource, Usd, parse_usd};
