//! Names of things. Cloning one is a reference count.

use std::{borrow::Borrow, fmt, num::ParseIntError, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Declares a name: an immutable, cheaply cloned string of its own type, so that a model never stands where a tenant
/// should.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(Arc::from(name))
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(Arc::from(name))
            }
        }

        impl From<&Self> for $name {
            fn from(name: &Self) -> Self {
                name.clone()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name! {
    /// A model as the API names it, such as `zai-org/GLM-5.3`: the organisation, a slash, the name. Not checked here;
    /// an unknown one is refused by whoever is asked for it.
    ///
    /// ```
    /// use together_inference::ModelId;
    ///
    /// let model = ModelId::from("zai-org/GLM-5.3");
    /// assert_eq!(model, "zai-org/GLM-5.3");
    /// assert_eq!(serde_json::to_string(&model)?, "\"zai-org/GLM-5.3\"");
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    ModelId
}
name! {
    /// A server that models are called on; the first client of a service is `together`.
    UpstreamId
}
name! {
    /// Whose request it is. Cached answers and budgets never cross tenants. Compared byte by byte; an empty one is
    /// refused when the request is used.
    ///
    /// ```
    /// use together_inference::Tenant;
    ///
    /// assert_ne!(Tenant::from("acme"), Tenant::from("Acme"));
    /// assert_eq!(Tenant::from("acme").as_str(), "acme");
    /// ```
    Tenant
}
name! {
    /// A conversation or agent run that several requests belong to: a label of cost records. It changes neither the
    /// answer nor what it is cached under.
    SessionId
}

impl UpstreamId {
    /// The id of a service's first client.
    ///
    /// ```
    /// use together_inference::UpstreamId;
    ///
    /// assert_eq!(UpstreamId::together(), "together");
    /// ```
    #[must_use]
    pub fn together() -> Self {
        Self::from("together")
    }
}

/// A model on an upstream: what prices, limits, health and cache keys belong to.
///
/// ```
/// use together_inference::RouteId;
///
/// let route = RouteId::new("local", "qwen3-8b");
/// assert_eq!(route.to_string(), "local/qwen3-8b");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteId {
    upstream: UpstreamId,
    model: ModelId,
}

impl RouteId {
    /// The model on the upstream.
    ///
    /// ```
    /// use together_inference::{RouteId, UpstreamId};
    ///
    /// let route = RouteId::new(UpstreamId::together(), "zai-org/GLM-5.3");
    /// // The model's name may hold a slash; the first one ends the upstream's.
    /// assert_eq!(route.to_string(), "together/zai-org/GLM-5.3");
    /// ```
    pub fn new(upstream: impl Into<UpstreamId>, model: impl Into<ModelId>) -> Self {
        Self { upstream: upstream.into(), model: model.into() }
    }

    /// Where the model is called.
    ///
    /// ```
    /// use together_inference::RouteId;
    ///
    /// assert_eq!(RouteId::new("local", "qwen3-8b").upstream().as_str(), "local");
    /// ```
    #[must_use]
    pub const fn upstream(&self) -> &UpstreamId {
        &self.upstream
    }

    /// The model.
    ///
    /// ```
    /// use together_inference::RouteId;
    ///
    /// assert_eq!(RouteId::new("together", "zai-org/GLM-5.3").model().as_str(), "zai-org/GLM-5.3");
    /// ```
    #[must_use]
    pub const fn model(&self) -> &ModelId {
        &self.model
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.upstream, self.model)
    }
}

impl fmt::Debug for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Identifies one request of the service (a call of `complete` or `stream`).
///
/// ```
/// use together_inference::types::RequestId;
///
/// assert_eq!(RequestId::new(7).to_string(), format!("{:032x}", 7), "32 hexadecimal digits");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(u128);

/// Identifies one attempt: what a cost record is idempotent by.
///
/// ```
/// use together_inference::types::{AttemptId, RequestId};
///
/// let attempt = RequestId::new(7).attempt(0);
/// assert_eq!(AttemptId::new(attempt.value()), attempt, "a store may keep the number");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId(u128);

impl RequestId {
    /// The id with this value.
    #[must_use]
    pub const fn new(value: u128) -> Self {
        Self(value)
    }

    /// The attempt with this number (from 0) of this request.
    ///
    /// The same number gives the same id, so that a record that is written twice counts once.
    ///
    /// ```
    /// use together_inference::types::RequestId;
    ///
    /// let request = RequestId::new(7);
    /// assert_eq!(request.attempt(1), request.attempt(1));
    /// assert_ne!(request.attempt(1), request.attempt(0));
    /// ```
    #[must_use]
    pub const fn attempt(self, number: u16) -> AttemptId {
        // Plus one, so that the first attempt does not have its request's number.
        AttemptId(self.0 ^ ((number as u128 + 1) << 112))
    }

    /// The id as a number.
    #[must_use]
    pub const fn value(self) -> u128 {
        self.0
    }
}

/// Identifies a trace of the application's, as the W3C's `traceparent` header does.
///
/// ```
/// use together_inference::types::TraceId;
///
/// let trace: TraceId = "4bf92f3577b34da6a3ce929d0e0e4736".parse()?;
/// assert_eq!(trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// # Ok::<(), std::num::ParseIntError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TraceId(u128);

impl TraceId {
    /// The id with this value.
    #[must_use]
    pub const fn new(value: u128) -> Self {
        Self(value)
    }

    /// The id as a number.
    #[must_use]
    pub const fn value(self) -> u128 {
        self.0
    }
}

impl FromStr for TraceId {
    type Err = ParseIntError;

    /// Reads hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl AttemptId {
    /// The id with this value.
    #[must_use]
    pub const fn new(value: u128) -> Self {
        Self(value)
    }

    /// The id as a number.
    #[must_use]
    pub const fn value(self) -> u128 {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
