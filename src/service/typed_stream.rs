//! A typed answer that can be seen while it is written.

use std::{fmt, sync::Arc};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use super::{
    Error, InferenceService, InferenceStream, TenantService, Typed,
    state::State,
    structured::{cut_short, not_of_type, request_for, was_cut},
};
use crate::inference::{InferenceRequest, Parsed, Partial, parse_value, start_of};

/// A typed answer in pieces: what of it is complete, after each of them.
///
/// It holds and gives back what an [`InferenceStream`] does. Nothing of it is a `T` before its end:
/// [`finish`](Self::finish) gives that.
pub struct TypedStream<T> {
    stream: InferenceStream,
    partial: Partial<T>,
    failed: bool,
    request: InferenceRequest,
    start: crate::inference::Start,
    state: Arc<State>,
    /// The runtime of the call: the end may be read outside of any.
    runtime: Option<Handle>,
}

impl<T> fmt::Debug for TypedStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedStream")
            .field("stream", &self.stream)
            .field("partial", &self.partial)
            .finish_non_exhaustive()
    }
}

impl InferenceService {
    /// Answers a request with a value of a type that can be seen while it is written. Temperature 0 unless the request
    /// sets one. It resolves at the first piece, as [`stream`](Self::stream) does.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use schemars::JsonSchema;
    /// use serde::Deserialize;
    /// use together_inference::{InferenceService, schemars, testing::Together};
    ///
    /// #[derive(Debug, Deserialize, JsonSchema)]
    /// struct City {
    ///     name: String,
    ///     districts: Vec<String>,
    /// }
    ///
    /// let together = Together::new();
    /// together.on("Peru").reply(r#"{"name": "Lima", "districts": ["Barranco", "Miraflores"]}"#);
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let mut stream = service.stream_as::<City>("The largest city of Peru?").await?;
    /// let mut seen = Vec::new();
    /// while let Some(partial) = stream.next().await {
    ///     let name: Option<String> = partial?.get("/name");
    ///     seen.push(name.is_some());
    /// }
    /// assert!(!seen[0] && seen[seen.len() - 1], "the name was complete before the end");
    /// assert_eq!(stream.finish().await?.value.districts.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream).
    ///
    /// # Cancellation
    ///
    /// As [`stream`](Self::stream).
    pub async fn stream_as<T>(&self, request: impl Into<InferenceRequest>) -> Result<TypedStream<T>, Error>
    where
        T: JsonSchema + DeserializeOwned,
    {
        let (request, schema) = request_for::<T>(request.into());
        let start = start_of(&schema.schema);
        let stream = self.stream(&request).await?;
        let (state, runtime) = (Arc::clone(&self.state), Handle::try_current().ok());
        Ok(TypedStream { stream, partial: Partial::starting(start), failed: false, request, start, state, runtime })
    }
}

impl<T> TypedStream<T> {
    /// Waits for the next piece and shows what is complete; `None` at the end of a whole answer. Pieces that add nothing
    /// to the document, such as reasoning, show the same again.
    ///
    /// A document that comes after prose may be a draft within reasoning: it shows once, when the answer is whole.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no piece.
    pub async fn next(&mut self) -> Option<Result<&Partial<T>, Error>> {
        match self.stream.next().await {
            Some(Ok(delta)) => {
                self.partial.push(delta.text());
                Some(Ok(&self.partial))
            }
            Some(Err(error)) => {
                self.failed = true;
                Some(Err(error))
            }
            None if self.failed => None,
            None => self.partial.end().then_some(Ok(&self.partial)),
        }
    }

    /// What is complete so far.
    #[must_use]
    pub const fn partial(&self) -> &Partial<T> {
        &self.partial
    }

    /// The stream beneath: its text and model so far.
    #[must_use]
    pub const fn stream(&self) -> &InferenceStream {
        &self.stream
    }
}

impl<T: JsonSchema + DeserializeOwned> TypedStream<T> {
    /// Reads to the end and gives the value, with what it cost. A stream is not asked for again; what is not of the type
    /// does not stay in the cache.
    ///
    /// # Errors
    ///
    /// The stream's first error; [`InvalidOutput`](super::ErrorKind::InvalidOutput), which keeps the text, when the
    /// answer is not of the type or was cut at `max_tokens`.
    pub async fn finish(self) -> Result<Typed<T>, Error> {
        let Self { mut stream, request, start, state, runtime, .. } = self;
        while let Some(delta) = stream.next().await {
            delta?;
        }
        let reply = stream.finish().await?;
        // As the plain call reads it: one machine reads both, so that nothing of it differs from what was shown.
        match parse_value(reply.text(), start) {
            Ok(Parsed { value, mended }) if !(mended && was_cut(&reply)) => Ok(Typed::once(value, reply, mended)),
            _ if was_cut(&reply) => Err(cut_short(&request, &reply)),
            outcome => {
                let error = not_of_type::<T>(&reply, outcome.err().as_ref(), "answered with");
                if let Some(runtime) = runtime {
                    let tasks = state.tasks.clone();
                    let forgotten = async move { state.forget(&request, &reply.asked).await };
                    // In vain where the runtime is gone, and with it the task that keeps the answer.
                    let _ = tasks.spawn_on(forgotten, &runtime).await;
                }
                Err(error)
            }
        }
    }
}

impl TenantService {
    /// [`InferenceService::stream_as`] for this tenant.
    ///
    /// # Errors
    ///
    /// As there, and for a request of another tenant.
    pub async fn stream_as<T>(&self, request: impl Into<InferenceRequest>) -> Result<TypedStream<T>, Error>
    where
        T: JsonSchema + DeserializeOwned,
    {
        self.service().stream_as(self.stamp(request.into())?).await
    }
}
