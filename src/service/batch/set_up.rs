//! What the builder is told of batches.

use std::{path::PathBuf, sync::Arc};

use super::{BatchOptions, Batches};
use crate::{
    batch::{BatchSubmitter, Journal, TogetherBatches},
    client::TogetherClient,
    events::EventQueue,
    service::{BuildError, ServiceBuilder},
    store::Store,
    types::UpstreamId,
};

/// What was said of batches so far.
#[derive(Debug, Default)]
pub(in crate::service) struct BatchSetup {
    submitters: Vec<(UpstreamId, Arc<dyn BatchSubmitter>)>,
    options: BatchOptions,
    folder: Option<PathBuf>,
}

impl ServiceBuilder {
    /// Has the service carry out batches, on its first client: [`TogetherBatches`]. They are kept in the
    /// [`store`](Self::store), their requests and answers in files beside it, readable by their owner alone. Add
    /// [`.background(Pipeline::new())`](Self::background) to at least one service of the store.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceService, service::BuildError, testing::Together};
    ///
    /// let without_store = InferenceService::builder(Together::new().client()).batches().build();
    /// assert!(matches!(without_store, Err(BuildError::Batches(_))));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn batches(self) -> Self {
        self.batches_with(BatchOptions::default())
    }

    /// The same, with options.
    #[must_use]
    pub fn batches_with(mut self, options: BatchOptions) -> Self {
        self.batches.get_or_insert_default().options = options;
        self
    }

    /// Sets who takes batches to an upstream; on the first client it is [`TogetherBatches`] unless set, on others nobody.
    #[must_use]
    pub fn batch_submitter(
        mut self,
        upstream: impl Into<UpstreamId>,
        submitter: impl BatchSubmitter + 'static,
    ) -> Self {
        self.batches.get_or_insert_default().submitters.push((upstream.into(), Arc::new(submitter)));
        self
    }

    /// Sets the folder for the files of batches: beside the file of the store unless set. Where the store is a server it
    /// must be set, to one that all workers see.
    #[must_use]
    pub fn batch_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.batches.get_or_insert_default().folder = Some(folder.into());
        self
    }

    /// Sets the queue that is told when a batch is over: a job `batch-completed` in the queue `together-events`, once a
    /// batch, when its answers are stored and its costs recorded. Its payload has the batch's id.
    #[must_use]
    pub fn events(mut self, queue: impl EventQueue + 'static) -> Self {
        self.events = Some(Arc::new(queue));
        self
    }
}

/// What a service has for batches.
pub(in crate::service) fn set_up(
    setup: Option<BatchSetup>,
    store: Option<&Store>,
    upstreams: &[(UpstreamId, TogetherClient)],
) -> Result<Option<Batches>, BuildError> {
    let Some(BatchSetup { mut submitters, options, folder }) = setup else { return Ok(None) };
    let store = store.ok_or_else(|| BuildError::Batches("they need a store; add .store(&store)".into()))?;
    let journal = Journal::new(store, folder).map_err(|error| BuildError::Batches(error.to_string().into()))?;
    if let Some((first, client)) = upstreams.first()
        && !submitters.iter().any(|(upstream, _)| upstream == first)
    {
        submitters.push((first.clone(), Arc::new(TogetherBatches::new(client.clone()))));
    }
    Ok(Some(Batches::new(journal, submitters, options)))
}
