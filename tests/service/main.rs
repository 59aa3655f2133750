//! What the service promises, checked through its public API on the simulator and on virtual time.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that fails should say where")]

mod alerts;
mod attempts;
#[cfg(feature = "batch")]
mod batches;
#[path = "../common/books.rs"]
mod books;
mod budgets;
#[path = "../common/budgets.rs"]
mod budgets_everywhere;
mod cache_control;
mod cache_policy;
mod cached_streams;
mod cancellation;
mod catalogue;
mod ceilings;
mod coalescing;
#[cfg(all(target_os = "linux", feature = "sqlite"))]
mod disk;
mod doubles;
mod dues;
mod estimates;
mod invalidation;
mod invariants;
mod keys;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod ledger;
mod live;
mod money;
mod money_edges;
mod odd_answers;
mod outage;
mod overflow;
mod panics;
mod plane;
mod plane_money;
mod prices;
mod rate_limits;
mod seeds;
mod shape;
mod shutdown;
mod sinks;
mod streams;
mod thrift;
mod traces;
mod trials;
#[cfg(feature = "schema")]
mod typed;
mod validation;
mod vectors;
mod webhooks;
mod world;
