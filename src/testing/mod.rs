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
//! It simulates `POST /v1/chat/completions` and `GET /v1/models`; other paths are 404. Tokens are a quarter of the
//! bytes of a text, rounded up. A made-up answer depends on the request and the [seed](TogetherBuilder::seed) alone; it
//! satisfies a JSON schema that was asked for, and calls a tool that the request names or requires.

mod ask;
mod bill;
mod chat;
pub mod conformance;
mod controls;
mod decide;
mod draft;
mod error;
mod faults;
mod handler;
mod limits;
mod models;
mod on;
mod random;
mod recorded;
mod reply;
mod schema;
mod script;
mod server;
mod sse;
mod state;
mod stream;
mod together;
mod validate;

#[cfg(test)]
mod tests;

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
