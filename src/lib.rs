//! The inference layer for teams that run open models in production: an embeddable client and service for Together AI's
//! OpenAI-compatible API, or any server that speaks the same.
//!
//! Add the crate, call [`InferenceService::complete`], and get the right model for the task and priority, cached answers
//! where they are safe, fallback when a model fails, and the true cost of every call.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! use together_inference::{InferenceRequest, InferenceService, testing::Together};
//!
//! // Offline here, on the crate's own simulator; `InferenceService::from_env()?` calls the real API.
//! let together = Together::new();
//! together.on("sky").reply("Rayleigh scattering.");
//! let service = InferenceService::builder(together.client()).build()?;
//!
//! let reply = service.complete(InferenceRequest::chat("Why is the sky blue?")).await?;
//! println!("{reply} [{} {} {}]", reply.model(), reply.cost(), reply.source());
//! println!("{}", reply.decision());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # The parts
//!
//! | room | what is in it |
//! |---|---|
//! | [`service`] | [`InferenceService`]: the facade, each call one readable path |
//! | [`router`] | which model: [`router::ModelRouter`], [`router::CatalogRouter`] |
//! | [`cache`] | answers that need not be paid twice: [`cache::CacheLayer`], [`cache::MemoryCache`] |
//! | [`cost`] | records, prices, budgets, the ledger: [`cost::CostSink`], [`cost::BudgetStore`] |
//! | [`limit`] | when an attempt may go out: [`limit::Limits`] |
//! | [`notify`] | who is told: [`notify::LogNotifier`], [`notify::Webhook`] |
//! | [`events`], [`batch`] | a durable queue's seam, the batch API's seam and the overflow's |
//! | [`inference`] | the words of a call: [`InferenceRequest`], [`InferenceResponse`] |
//! | `store` | (feature) where what must not be lost outlives the process |
//! | [`client`] | the wire, usable by itself: [`TogetherClient`] |
//! | `testing` | (feature) a simulator of the API, and conformance suites for policies of one's own |
//!
//! # Features
//!
//! | feature | default | gives |
//! |---|---|---|
//! | `rustls` | yes | TLS |
//! | `schema` | yes | [`InferenceService::complete_as`]: typed answers by JSON schema |
//! | `batch` | no | the journal of batches, which outlives the process; needs a store: brings `sqlite` |
//! | `postgres` | no | the [`cost`] ledger and budgets in a database that many machines share |
//! | `redis` | no | [`cache`]'s `RedisCache` and [`cost`]'s `RedisBudgets`: what processes share |
//! | `sqlite` | no | the [`cost`] ledger in a file that survives a crash |
//! | `testing` | no | the simulator and the conformance suites |
//!
//! # Errors, cancellation, panics
//!
//! Every fallible call returns a typed error that says what failed, on which model, whether a repeat makes sense. Every
//! future may be dropped at any point: nothing leaks, and what was sent is recorded. A policy of the application's own
//! that panics fails its call, not the process.

#![forbid(unsafe_code)]
#![warn(missing_debug_implementations, missing_docs, unreachable_pub)]
#![warn(
    clippy::pedantic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::clone_on_ref_ptr,
    clippy::disallowed_methods,
    clippy::future_not_send,
    clippy::indexing_slicing,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unwrap_used
)]
#![allow(
    clippy::module_name_repetitions,
    clippy::must_use_candidate,
    clippy::needless_for_each,
    clippy::return_self_not_must_use,
    clippy::single_match_else,
    reason = "taste: full names, setters that return Self, closures at the end of a chain, both arms of a match"
)]
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::similar_names,
        clippy::doc_markdown,
        clippy::unchecked_time_subtraction,
        reason = "tests may spawn and name freely"
    )
)]

pub mod batch;
pub mod cache;
pub mod client;
pub mod cost;
pub mod events;
pub mod inference;
pub mod limit;
pub mod notify;
#[cfg(feature = "batch")]
pub mod pipeline;
pub mod router;
pub mod service;
#[cfg(any(feature = "postgres", feature = "redis", feature = "sqlite"))]
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;

pub use async_trait::async_trait;
pub use client::TogetherClient;
pub use inference::{InferenceRequest, InferenceResponse};
#[cfg(feature = "schema")]
pub use schemars;
#[cfg(feature = "schema")]
pub use service::Typed;
pub use service::{InferenceService, InferenceStream};
pub use types::{
    Cost, FinishReason, ModelId, Price, Priority, RouteId, SessionId, Task, Tenant, Tier, UpstreamId, Usage,
    UsageSource, Usd, parse_usd,
};

/// The README's code runs with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So does that of the page on batches.
#[cfg(all(doctest, feature = "batch"))]
#[doc = include_str!("../docs/batches.md")]
struct BatchPage;

/// So does that of the page on other servers.
#[cfg(doctest)]
#[doc = include_str!("../docs/upstreams.md")]
struct Upstreams;
