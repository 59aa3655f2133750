//! A handle for one tenant.

use std::sync::Arc;

use super::{Completion, Error, InferenceService, InferenceStream};
use crate::{
    inference::{Decision, InferenceRequest, InferenceResponse, InvalidRequest},
    types::Tenant,
};

/// A service that stamps every request with one tenant and refuses another one's: hand it to code that must not choose.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use together_inference::{InferenceRequest, InferenceService, service::ErrorKind, testing::Together};
///
/// let service = InferenceService::builder(Together::new().client()).build()?;
/// let acme = service.for_tenant("acme");
/// acme.complete("hello").await?;
/// let foreign = acme.complete(InferenceRequest::chat("hello").tenant("other")).await;
/// assert_eq!(foreign.unwrap_err().kind(), ErrorKind::InvalidRequest);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct TenantService {
    service: InferenceService,
    tenant: Tenant,
}

impl TenantService {
    pub(super) const fn new(service: InferenceService, tenant: Tenant) -> Self {
        Self { service, tenant }
    }

    /// Whose it is.
    #[must_use]
    pub const fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    pub(super) const fn service(&self) -> &InferenceService {
        &self.service
    }

    pub(super) fn stamp(&self, request: InferenceRequest) -> Result<InferenceRequest, Error> {
        request.stamp(&self.tenant).map_err(|_| InvalidRequest::new("tenant", "this handle is another tenant's").into())
    }

    /// [`InferenceService::complete`] for this tenant.
    ///
    /// # Errors
    ///
    /// As there, and for a request of another tenant.
    pub async fn complete(&self, request: impl Into<InferenceRequest>) -> Result<InferenceResponse, Error> {
        self.service.complete(self.stamp(request.into())?).await
    }

    /// [`InferenceService::complete_or_defer`] for this tenant.
    ///
    /// # Errors
    ///
    /// As there, and for a request of another tenant.
    pub async fn complete_or_defer(&self, request: impl Into<InferenceRequest>) -> Result<Completion, Error> {
        self.service.complete_or_defer(self.stamp(request.into())?).await
    }

    /// [`InferenceService::stream`] for this tenant.
    ///
    /// # Errors
    ///
    /// As there, and for a request of another tenant.
    pub async fn stream(&self, request: impl Into<InferenceRequest>) -> Result<InferenceStream, Error> {
        self.service.stream(self.stamp(request.into())?).await
    }

    /// [`InferenceService::complete_as`] for this tenant.
    ///
    /// # Errors
    ///
    /// As there, and for a request of another tenant.
    #[cfg(feature = "schema")]
    pub async fn complete_as<T>(&self, request: impl Into<InferenceRequest>) -> Result<super::Typed<T>, Error>
    where
        T: schemars::JsonSchema + serde::de::DeserializeOwned,
    {
        self.service.complete_as(self.stamp(request.into())?).await
    }

    /// [`InferenceService::explain`] for this tenant.
    ///
    /// # Errors
    ///
    /// As there, and for a request of another tenant.
    pub async fn explain(&self, request: &InferenceRequest) -> Result<Arc<Decision>, Error> {
        self.service.explain(&self.stamp(request.clone())?).await
    }
}
