//! The client keeps its promises: on recorded answers, against the simulator, and against a server that misbehaves.
//!
//! Tests of waits run on virtual time over an in-memory transport. Tests on sockets scale the time-outs down, wait for
//! events, and bound time from above only, five times loose.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy takes only functions with #[test] for tests")]

#[path = "../common/fault.rs"]
mod fault;

mod batches;
mod bounds;
mod cuts;
mod dialect;
mod fault_server;
mod files;
mod fold;
mod malformed;
mod network;
mod odd;
mod plane;
mod provider;
mod recorded;
mod requests;
mod retries;
mod secrets;
mod simulated;
mod stalls;
mod support;
mod tls;
mod wire;

#[path = "../sdk/requests.rs"]
#[expect(dead_code, reason = "the contract's test uses what is not used here")]
mod plausible;
