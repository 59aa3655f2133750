//! A simulator of the Together AI API, for tests and offline examples.
//!
//! [`Together`] behaves as the real API does, observed oddities included, and shares no type with the rest of the
//! crate: it reads requests and writes responses with code of its own, so that a wrong idea on one side shows on the
//! other. It is a [`Transport`](crate::client::Transport) in memory, where latency is virtual under tokio's paused
//! clock, and an HTTP server with [`serve`](Together::serve). Both go through the same code.
//!
//! - What to answer: [`on`](Together::on), [`on_model`](Together::on_model).
//! - How to fail: [`fail_next`](Together::fail_next) with a [`Fault`], [`overload`](Together::overload),
//!   [`limit`](Together::limit), [`unavailable`](Together::unavailable), [`hang`](Together::hang),
//!   [`cut_stream_after`](Together::cut_stream_after).
//! - Which models: [`add_model`](Together::add_model), [`remove_model`](Together::remove_model),
//!   [`deprecate`](Together::deprecate), [`set_price`](Together::set_price).
//! - How long: [`latency`](Together::latency), [`latency_of`](Together::latency_of),
//!   [`token_latency`](Together::token_latency).
//! - What happened: [`requests`](Together::requests), [`calls`](Together::calls), [`bill`](Together::bill),
//!   [`in_flight`](Together::in_flight), [`open_streams`](Together::open_streams).
//!
//! [`conformance`] holds the suites that an application's own policies can run; [`reply`] is an answer for an
//! [`Infer`](crate::inference::Infer) of its own.
//!
//! It simulates these; other paths are 404:
//!
//! | path | what it answers |
//! |---|---|
//! | `POST /v1/chat/completions` | prose, JSON of the schema, calls of the tools that are named; pictures are looked at |
//! | `POST /v1/completions` | the same for a prompt, in the older shape |
//! | `POST /v1/embeddings` | vectors that are near for texts that share words |
//! | `POST /v1/images/generations` | real PNG or JPEG files of the asked size |
//! | `POST /v1/rerank` | documents by the words that they share with the query |
//! | `GET /v1/models`, `/v2/supported-models`, `/v1/whoami` | its models in both forms, and whose the key is |
//!
//! Models of type `moderation` answer `safe` or `unsafe` and the category. Tokens are a quarter of the bytes of a text,
//! rounded up. A made-up answer depends on the request and the [seed](TogetherBuilder::seed) alone.

mod account;
mod ask;
mod batches;
mod bill;
mod chat;
pub mod conformance;
mod controls;
mod decide;
mod draft;
mod embeddings;
mod endpoint;
mod error;
mod faults;
mod files;
mod handler;
mod images;
mod limits;
mod listing;
mod logprobs;
mod models;
mod moderation;
mod offline;
mod on;
mod pattern;
mod picture;
mod random;
mod recorded;
mod reply;
mod rerank;
mod schema;
mod script;
mod server;
mod sse;
mod state;
mod stream;
mod together;
mod validate;
mod wire;
mod words;

#[cfg(test)]
mod tests;

pub use batches::{OnRow, SimBatch};
pub use bill::{Bill, BillLine};
pub use error::ErrorShape;
pub use faults::Fault;
pub use models::SimModel;
pub use on::On;
pub use recorded::Recorded;
pub use reply::reply;
pub use server::Server;
pub use sse::UsagePlacement;
pub use together::{Together, TogetherBuilder};
