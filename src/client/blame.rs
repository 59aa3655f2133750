//! Whose a failure is: read once, here, for whoever has to draw a conclusion from it.

use super::ErrorKind;

/// Whose a failure is.
///
/// | | what follows |
/// |---|---|
/// | [`Rate`](Self::Rate) | the limiter slows down; the route's health is not touched |
/// | [`Upstream`](Self::Upstream) | another route, or the same one later; counts for [ejection](crate::router) |
/// | [`Caller`](Self::Caller) | an error at once: the same request fails again |
/// | [`Key`](Self::Key) | the upstream's key is stopped, and somebody told |
/// | [`Model`](Self::Model) | another route; the catalogue learns |
///
/// ```
/// use together_inference::client::{Blame, ErrorKind};
///
/// assert_eq!(ErrorKind::RateLimited.blame(), Blame::Rate);
/// assert_eq!(ErrorKind::Overloaded.blame(), Blame::Upstream);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Blame {
    /// We are too fast (429).
    Rate,
    /// The server fails: it cannot be reached, is overloaded, answers nonsense or not at all.
    Upstream,
    /// The request, or how the client was set up.
    Caller,
    /// The key is not accepted (401) or its account has no credit (402).
    Key,
    /// The model is not there (`model_not_available`).
    Model,
}

impl ErrorKind {
    /// Whose a failure of this kind is.
    #[must_use]
    pub const fn blame(self) -> Blame {
        match self {
            Self::RateLimited => Blame::Rate,
            Self::Connect | Self::Timeout | Self::Interrupted | Self::Overloaded | Self::Server | Self::Malformed => {
                Blame::Upstream
            }
            Self::Authentication | Self::PaymentRequired => Blame::Key,
            Self::ModelNotAvailable => Blame::Model,
            Self::Config
            | Self::InvalidRequest
            | Self::Moderated
            | Self::ContextLength
            | Self::PermissionDenied
            | Self::NotFound
            | Self::Conflict
            | Self::TooLarge
            | Self::Redirected
            | Self::LocalFile => Blame::Caller,
        }
    }
}
