//! Whose money it is.

use std::fmt;

use crate::{
    inference::InferenceRequest,
    types::{RouteId, SessionId, Tenant, UpstreamId},
};

/// What a budget is about. It is read from the typed fields of a request and from the route alone: nothing that a
/// prompt or an extra field says changes whose money is spent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scope {
    /// Everything.
    Global,
    /// The credential of an upstream: its client holds one key.
    Key(UpstreamId),
    /// A tenant.
    Tenant(Tenant),
    /// A label of requests.
    Tag(Box<str>, Box<str>),
    /// A model on an upstream.
    Model(RouteId),
    /// A session.
    Session(SessionId),
}

impl Scope {
    /// The scope of a tenant.
    ///
    /// ```
    /// use together_inference::cost::Scope;
    ///
    /// assert_eq!(Scope::tenant("acme").to_string(), "tenant acme");
    /// ```
    pub fn tenant(tenant: impl Into<Tenant>) -> Self {
        Self::Tenant(tenant.into())
    }

    /// Every scope that an attempt falls into, in the fixed order in which they are reserved.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, RouteId, cost::Scope};
    ///
    /// let request = InferenceRequest::chat("hi").tenant("acme").tag("team", "search");
    /// let scopes = Scope::of(&request, &RouteId::new("together", "m"));
    /// assert_eq!(scopes.len(), 5, "{scopes:?}");
    /// assert_eq!((&scopes[0], &scopes[2]), (&Scope::Global, &Scope::tenant("acme")));
    /// ```
    #[must_use]
    pub fn of(request: &InferenceRequest, route: &RouteId) -> Vec<Self> {
        let mut scopes = vec![Self::Global, Self::Key(route.upstream().clone())];
        scopes.extend(request.tenant_of().cloned().map(Self::Tenant));
        scopes.extend(request.tags_of().map(|(name, value)| Self::Tag(name.into(), value.into())));
        scopes.push(Self::Model(route.clone()));
        scopes.extend(request.session_of().cloned().map(Self::Session));
        scopes
    }

    /// A name that no other scope has, however they are called.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Global => "global".into(),
            Self::Key(upstream) => format!("key:{upstream}"),
            Self::Tenant(tenant) => format!("tenant:{tenant}"),
            Self::Tag(name, value) => format!("tag:{}:{name}:{value}", name.len()),
            Self::Model(route) => format!("model:{}:{route}", route.upstream().as_str().len()),
            Self::Session(session) => format!("session:{session}"),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("the whole service"),
            Self::Key(upstream) => write!(f, "the key of {upstream}"),
            Self::Tenant(tenant) => write!(f, "tenant {tenant}"),
            Self::Tag(name, value) => write!(f, "{name}={value}"),
            Self::Model(route) => write!(f, "{route}"),
            Self::Session(session) => write!(f, "session {session}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_scopes_have_one_name() {
        let tag = |name: &str, value: &str| Scope::Tag(name.into(), value.into()).key();
        assert_ne!(tag("a:b", "c"), tag("a", "b:c"));
        let model = |upstream: &str, model: &str| Scope::Model(RouteId::new(upstream, model)).key();
        assert_ne!(model("a/b", "c"), model("a", "b/c"));
        assert_ne!(Scope::tenant("x").key(), Scope::Session("x".into()).key());
    }
}
