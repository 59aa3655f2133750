//! The caches keep their promises on real servers: Redis alone, as a cluster, behind a sentinel, by TLS, and while it is
//! down, hangs or talks nonsense.
//!
//! Needs `redis-server` and `redis-cli` 7 (Debian's package `redis-server`). Every test starts servers of its own on free
//! ports. Time is real: tests wait for events with a deadline, and bound time from above only, loosely.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy takes only functions with #[test] for tests")]

#[expect(dead_code, reason = "services of these tests have the provider's prices")]
#[path = "../common/books.rs"]
mod books;
mod budgets;
#[path = "../common/budgets.rs"]
mod budgets_everywhere;
mod cancelled;
mod cluster;
mod conforms;
mod down;
mod failover;
mod fake;
mod garbage;
mod sentinel;
mod server;
mod shared;
mod support;
mod tls;
mod trust;
