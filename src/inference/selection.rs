//! Which models a request names.

use serde::{Deserialize, Serialize};

use crate::types::{ModelId, RouteId, UpstreamId};

/// Which models may serve a request.
///
/// ```
/// use together_inference::InferenceRequest;
///
/// assert!(InferenceRequest::chat("hi").selection().is_any());
/// let preferred = InferenceRequest::chat("hi").models(["zai-org/GLM-5.3", "Qwen/Qwen3.7-Max"]);
/// assert_eq!(preferred.selection().named().len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Selection {
    /// Whatever the router finds best.
    #[default]
    Any,
    /// This one and no other.
    Pin(ModelRef),
    /// These, in this order.
    Prefer(Vec<ModelRef>),
}

impl Selection {
    /// Whether the router is free to choose.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }

    /// The models named, in order of preference; empty if the router is free to choose.
    #[must_use]
    pub fn named(&self) -> &[ModelRef] {
        match self {
            Self::Any => &[],
            Self::Pin(one) => std::slice::from_ref(one),
            Self::Prefer(list) => list,
        }
    }
}

/// A model, on a certain upstream or on any.
///
/// ```
/// use together_inference::{RouteId, inference::ModelRef};
///
/// let anywhere = ModelRef::from("qwen3-8b");
/// let ours = ModelRef::from(RouteId::new("local", "qwen3-8b"));
/// let theirs = RouteId::new("together", "qwen3-8b");
/// assert!(anywhere.matches(&theirs) && !ours.matches(&theirs));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelRef {
    /// Where, if it matters.
    pub upstream: Option<UpstreamId>,
    /// Which.
    pub model: ModelId,
}

impl ModelRef {
    /// Whether the route is this model.
    #[must_use]
    pub fn matches(&self, route: &RouteId) -> bool {
        self.model == *route.model() && self.upstream.as_ref().is_none_or(|upstream| upstream == route.upstream())
    }
}

impl From<&str> for ModelRef {
    fn from(model: &str) -> Self {
        ModelId::from(model).into()
    }
}

impl From<String> for ModelRef {
    fn from(model: String) -> Self {
        ModelId::from(model).into()
    }
}

impl From<ModelId> for ModelRef {
    fn from(model: ModelId) -> Self {
        Self { upstream: None, model }
    }
}

impl From<&ModelId> for ModelRef {
    fn from(model: &ModelId) -> Self {
        model.clone().into()
    }
}

impl From<RouteId> for ModelRef {
    fn from(route: RouteId) -> Self {
        Self { upstream: Some(route.upstream().clone()), model: route.model().clone() }
    }
}
