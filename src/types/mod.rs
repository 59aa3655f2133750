//! The ground: ids, money, tasks and usage that every room speaks of.

mod chance;
mod clock;
mod cost;
mod ids;
mod money;
mod open;
mod price;
mod secret;
pub(crate) mod sync;
mod task;
mod usage;

pub use chance::{Rng, SeededRng, SystemRng};
pub use clock::{Clock, ManualClock, SystemClock};
pub(crate) use clock::{FOREVER, later, rfc3339};
pub use cost::Cost;
pub use ids::{AttemptId, ModelId, RequestId, RouteId, SessionId, Tenant, TraceId, UpstreamId};
pub use money::{ParseUsdError, Usd, parse_usd};
pub(crate) use open::Text;
pub use open::{FinishReason, Role, Unknown};
pub use price::{Price, Rate};
pub(crate) use secret::Secret;
pub use task::{ParseTaskError, Priority, Task, Tier};
pub use usage::{Usage, UsageSource};

/// An error of a user's own type, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
