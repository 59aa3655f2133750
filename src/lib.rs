//! x
#![forbid(unsafe_code)]

pub mod client;
pub mod inference;
pub mod router;
pub mod types;

pub use client::TogetherClient;
pub use inference::{InferenceRequest, InferenceResponse};
pub use types::{Cost, ModelId, Price, Priority, RouteId, Task, Tenant, Tier, Usage, Usd, parse_usd};
