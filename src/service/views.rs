//! The other tasks by their names: each is [`complete`](InferenceService::complete) with its task set.

use std::future::Future;

use super::{Error, InferenceService, TenantService};
use crate::{
    inference::{InferenceRequest, InferenceResponse},
    types::Task,
};

impl InferenceService {
    /// The vectors of some texts: [`InferenceResponse::vectors`], in the texts' order.
    ///
    /// All requests that name no model use one: the builder's
    /// [`embedding_model`](super::ServiceBuilder::embedding_model), or the router's first choice when the first request
    /// came. Vectors are cached for a day, each by its text; texts that are not cached go to the provider together, each
    /// once, at most 256 a call.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let together = Together::new();
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let reply = service.embed(["the sky", "the sea"]).await?;
    /// assert_eq!(reply.vectors().len(), 2);
    ///
    /// // One text will do; it is cached, so that nothing is paid.
    /// let again = service.embed("the sky").await?;
    /// assert_eq!(again.vectors()[0], reply.vectors()[0]);
    /// assert_eq!(together.calls(), 1);
    ///
    /// // Everything that a request can say goes with it.
    /// service.embed(InferenceRequest::embedding(["the sun"]).tenant("acme")).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error`] of any kind. A text that is surely too long is an
    /// [`InvalidRequest`](super::ErrorKind::InvalidRequest) that names its index and the limit. Where one of several
    /// calls fails, the vectors of those before it stay cached and their cost is on the error.
    ///
    /// # Cancellation
    ///
    /// Dropping the future abandons the call that is under way, which is recorded at its upper bound.
    pub fn embed(
        &self,
        texts: impl Into<InferenceRequest>,
    ) -> impl Future<Output = Result<InferenceResponse, Error>> + Send + 'static {
        self.complete(texts.into().task(Task::Embedding))
    }

    /// Pictures from text: [`InferenceResponse::images`]. Cached only with a seed, or where the request allows it.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use together_inference::{InferenceService, client::ImageInput, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let reply = service.image(ImageInput::new("a lighthouse at dusk").size(64, 48).png()).await?;
    /// let png = reply.images()[0].bytes().unwrap();
    /// assert_eq!(&png[1..4], b"PNG");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`complete`](Self::complete).
    ///
    /// # Cancellation
    ///
    /// As [`complete`](Self::complete).
    pub fn image(
        &self,
        image: impl Into<InferenceRequest>,
    ) -> impl Future<Output = Result<InferenceResponse, Error>> + Send + 'static {
        self.complete(image.into().task(Task::Image))
    }

    /// Documents by their relevance to a query: [`InferenceResponse::ranking`], best first. Cached as answers are.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let documents = ["Pandas live in China.", "Llamas live in Peru."];
    /// let ask = InferenceRequest::rerank("Where do llamas live?", documents).model("mixedbread-ai/Mxbai-Rerank-Large-V2");
    /// let reply = service.rerank(ask).await?;
    /// assert_eq!(reply.ranking()[0].index, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`complete`](Self::complete); [`NoRoute`](super::ErrorKind::NoRoute) where no rerank model is known and the
    /// request names none.
    ///
    /// # Cancellation
    ///
    /// As [`complete`](Self::complete).
    pub fn rerank(
        &self,
        documents: impl Into<InferenceRequest>,
    ) -> impl Future<Output = Result<InferenceResponse, Error>> + Send + 'static {
        self.complete(documents.into().task(Task::Rerank))
    }
}

impl TenantService {
    /// [`InferenceService::embed`] for this tenant.
    ///
    /// # Errors
    ///
    /// As there, and for a request of another tenant.
    pub async fn embed(&self, texts: impl Into<InferenceRequest>) -> Result<InferenceResponse, Error> {
        self.complete(texts.into().task(Task::Embedding)).await
    }

    /// [`InferenceService::image`] for this tenant.
    ///
    /// # Errors
    ///
    /// As there, and for a request of another tenant.
    pub async fn image(&self, image: impl Into<InferenceRequest>) -> Result<InferenceResponse, Error> {
        self.complete(image.into().task(Task::Image)).await
    }

    /// [`InferenceService::rerank`] for this tenant.
    ///
    /// # Errors
    ///
    /// As there, and for a request of another tenant.
    pub async fn rerank(&self, documents: impl Into<InferenceRequest>) -> Result<InferenceResponse, Error> {
        self.complete(documents.into().task(Task::Rerank)).await
    }
}
