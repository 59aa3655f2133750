//! The inference layer for Together AI's OpenAI-compatible API.
#![forbid(unsafe_code)]

pub mod batch;
pub mod cache;
pub mod client;
pub mod cost;
pub mod events;
pub mod inference;
pub mod limit;
pub mod notify;
pub mod router;
pub mod service;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;

pub use async_trait::async_trait;
pub use client::TogetherClient;
pub use inference::{InferenceRequest, InferenceResponse};
#[cfg(feature = "schema")]
pub use schemars;
pub use service::InferenceService;
pub use types::{
    Cost, FinishReason, ModelId, Price, Priority, RouteId, SessionId, Task, Tenant, Tier, UpstreamId, Usage,
    UsageSource, Usd, parse_usd,
};
