//! The controls of a running simulator: answers, faults, models, time.

use std::time::Duration;

use super::{
    faults::{ANY_MODEL, Fault},
    limits::PromptCache,
    models::SimModel,
    on::On,
    sse::UsagePlacement,
    together::Together,
};

/// # What it answers
impl Together {
    /// Starts a script for requests whose last user message contains this text; `""` is contained in all.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.on("").reply("I do not know");
    /// together.on("refund").reply("5 days");
    /// let answer = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("a refund")).await?;
    /// assert_eq!(answer.text(), "5 days", "of two that fit, the one told last");
    /// # Ok(())
    /// # }
    /// ```
    pub fn on(&self, text: impl Into<String>) -> On<'_> {
        On::text(&self.shared, text.into())
    }

    /// Starts a script for requests that ask for this model.
    ///
    /// ```
    /// let together = together_inference::testing::Together::new();
    /// together.on_model("zai-org/GLM-5.3").reply("from the large model");
    /// ```
    pub fn on_model(&self, id: impl Into<String>) -> On<'_> {
        self.on("").model(id)
    }

    /// Where streams have their usage, from now on.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceService, UsageSource, testing::{Together, UsagePlacement}};
    ///
    /// let together = Together::new();
    /// together.usage_placement(UsagePlacement::Never);
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let reply = service.stream("hi").await?.finish().await?;
    /// assert_eq!(reply.usage_source, UsageSource::Counted);
    /// # Ok(())
    /// # }
    /// ```
    pub fn usage_placement(&self, placement: UsagePlacement) {
        self.shared.lock().usage = placement;
    }

    /// Makes embeddings report their usage. By the contract they do not, and neither do they here unless told so.
    pub fn embedding_usage(&self) {
        self.shared.lock().embedding_usage = true;
    }

    /// Lets streams arrive in parts of at most this many bytes, cut inside lines and inside characters, as a network
    /// may do it. Faults and latencies still count whole chunks.
    pub fn fragment_streams(&self, bytes: usize) {
        self.shared.lock().fragment = bytes;
    }

    /// Keeps a prompt cache from now on: messages at the start of a conversation that the model has seen before count
    /// as cached tokens. Without it no token is ever cached.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.prompt_cache();
    /// let (client, ask) = (together.client(), ChatRequest::new("zai-org/GLM-5.3").system("Be brief.").user("hi"));
    /// let mut cached = Vec::new();
    /// for _ in 0..2 {
    ///     cached.push(client.chat().create(&ask).await?.usage.map_or(0, |usage| usage.cached));
    /// }
    /// assert!(cached[0] == 0 && cached[1] > 0, "{cached:?}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn prompt_cache(&self) {
        self.shared.lock().prompt_cache = Some(PromptCache::default());
    }
}

/// # How it fails
impl Together {
    /// Lets the next `count` inference calls fail. Faults are used up in the order they were planned.
    ///
    /// ```
    /// use together_inference::testing::{Fault, Together};
    ///
    /// let together = Together::new();
    /// together.fail_next(2, Fault::status(503));
    /// together.fail_next(1, Fault::cut_after(3));
    /// ```
    pub fn fail_next(&self, count: u32, fault: Fault) {
        self.fail_next_at(ANY_MODEL, count, fault);
    }

    /// Lets the next `count` inference calls that ask for this model fail.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next_of("zai-org/GLM-5.3", 3, Fault::status(503));
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let request = InferenceRequest::chat("hi").models(["zai-org/GLM-5.3", "Qwen/Qwen3.7-Max"]);
    /// let reply = service.complete(request).await?;
    /// assert_eq!(reply.model(), &"Qwen/Qwen3.7-Max");
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail_next_of(&self, model: &str, count: u32, fault: Fault) {
        self.shared.lock().faults.plan_next(ANY_MODEL, Some(model), count, fault);
    }

    /// Lets the next `count` requests to this path fail, such as `/v1/models`; for one of its methods alone as
    /// `POST /v1/batches`, for any id as `/v1/files/*/content`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{Body, Transport}, testing::{ErrorShape, Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next_at("GET /v1/batches/*", 1, Fault::status(500).shape(ErrorShape::Text));
    /// let id = together.add_batch([]);
    /// let get = || http::Request::get(format!("/v1/batches/{id}")).header("authorization", "Bearer any");
    /// assert_eq!(together.send(get().body(Body::empty())?).await?.status(), 500);
    /// assert_eq!(together.send(get().body(Body::empty())?).await?.status(), 200);
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail_next_at(&self, path: &str, count: u32, fault: Fault) {
        self.shared.lock().faults.plan_next(path, None, count, fault);
    }

    /// Lets a share of the inference calls for this model fail, `0.1` for one in ten, until [`heal`](Self::heal). Which
    /// ones depends on the seed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_share_of("zai-org/GLM-5.3", 0.1, Fault::status(400));
    /// let (client, ask) = (together.client(), ChatRequest::new("zai-org/GLM-5.3").user("hi"));
    /// let mut failed = 0;
    /// for _ in 0..200 {
    ///     failed += u32::from(client.chat().create(&ask).await.is_err());
    /// }
    /// assert!((5..40).contains(&failed), "about one in ten: {failed}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail_share_of(&self, model: &str, share: f64, fault: Fault) {
        self.shared.lock().faults.plan_share(ANY_MODEL, Some(model), share, fault);
    }

    /// Answers for this model with 503, until [`restore`](Self::restore).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let together = Together::new();
    /// together.overload("zai-org/GLM-5.3");
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let pinned = InferenceRequest::chat("hi").model("zai-org/GLM-5.3");
    /// assert!(service.complete(&pinned).await.is_err(), "a pinned model has no fallback");
    /// together.restore("zai-org/GLM-5.3");
    /// assert!(service.complete(&pinned).await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn overload(&self, model: &str) {
        self.shared.lock().overloaded.insert(model.to_owned());
    }

    /// Answers for this model with 429 beyond this many requests per second, until [`restore`](Self::restore). A
    /// refusal has the error type `dynamic_request_limited` and `x-ratelimit-reset` in seconds; every answer
    /// the rate-limit headers.
    ///
    /// ```
    /// let together = together_inference::testing::Together::new();
    /// together.limit("zai-org/GLM-5.3", 2);
    /// ```
    pub fn limit(&self, model: &str, requests_per_second: u32) {
        self.shared.lock().limits.set(model, requests_per_second);
    }

    /// Answers for this model with 400 `model_not_available`, though `/v1/models` lists it, until
    /// [`restore`](Self::restore).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ChatRequest, ErrorKind}, testing::Together};
    ///
    /// let together = Together::new();
    /// together.unavailable("zai-org/GLM-5.3");
    /// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
    /// assert_eq!((error.kind(), together.calls()), (ErrorKind::ModelNotAvailable, 1), "no repeat would help");
    /// # Ok(())
    /// # }
    /// ```
    pub fn unavailable(&self, model: &str) {
        self.shared.lock().unavailable.insert(model.to_owned());
    }

    /// Ends overload, limit and unavailability of this model.
    pub fn restore(&self, model: &str) {
        let mut state = self.shared.lock();
        state.overloaded.remove(model);
        state.unavailable.remove(model);
        state.limits.lift(model);
    }

    /// Breaks every stream after this many chunks, until [`heal`](Self::heal).
    pub fn cut_stream_after(&self, chunks: usize) {
        self.shared.lock().cut_after = Some(chunks);
    }

    /// Never answers an inference call again, until [`heal`](Self::heal); those that arrived before that stay
    /// unanswered.
    pub fn hang(&self) {
        self.shared.lock().hangs = true;
    }

    /// Ends every planned fault, cut, loss and hang, and what was planned for batches but their durations. Models stay
    /// as they are: [`restore`](Self::restore).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::{Fault, Together}};
    ///
    /// let together = Together::new();
    /// together.fail_next(1_000, Fault::status(500));
    /// together.heal();
    /// together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await?;
    /// assert_eq!(together.calls(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn heal(&self) {
        let mut state = self.shared.settled();
        state.faults.clear();
        state.wire.clear();
        state.batches.heal();
        state.store.redirects = 0;
        state.store.cuts = (0, 0);
        state.cut_after = None;
        state.hangs = false;
    }
}

/// # Which models it has
impl Together {
    /// Adds a model, or replaces the one with this id.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::{SimModel, Together}};
    ///
    /// let together = Together::new();
    /// together.add_model(SimModel::chat("acme/Tiny-1B"));
    /// let answer = together.client().chat().create(&ChatRequest::new("acme/Tiny-1B").user("hi")).await?;
    /// assert_eq!(answer.model, "acme/Tiny-1B");
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_model(&self, model: SimModel) {
        let mut state = self.shared.lock();
        state.models.retain(|known| known.id() != model.id());
        state.models.push(model);
    }

    /// Removes a model: it is no longer listed, and calls for it get 404 `model_not_found`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.remove_model("zai-org/GLM-5.3");
    /// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
    /// assert_eq!(error.status(), Some(404));
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove_model(&self, id: &str) {
        self.shared.lock().models.retain(|known| known.id() != id);
    }

    /// Changes the prices of a model, in pico-dollars per token: `$0.15` per million tokens is 150,000. Its price for
    /// cached tokens stays.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceService, testing::Together};
    ///
    /// let together = Together::new();
    /// together.set_price("zai-org/GLM-5.3", 2_000_000, 6_000_000);
    /// let service = InferenceService::builder(together.client()).build()?;
    /// assert!(service.refresh_catalogue().await.prices > 10, "the service has taken the list's prices over");
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_price(&self, id: &str, input: i64, output: i64) {
        let mut state = self.shared.lock();
        if let Some(model) = state.models.iter_mut().find(|model| model.id() == id) {
            model.price.input = input;
            model.price.output = output;
        }
    }

    /// Announces on the page of deprecations that a model leaves on a day (`YYYY-MM-DD`), and what to use instead.
    pub fn announce(&self, model: &str, replacement: &str, day: &str) {
        self.shared.lock().leaving.push([model, replacement, day].map(str::to_owned));
    }

    /// Lets `to` answer for this model, as the API redirects silently: only the `model` of the response tells.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.deprecate("deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V4.1-Flash");
    /// let answer = together.client().chat().create(&ChatRequest::new("deepseek-ai/DeepSeek-V3").user("hi")).await?;
    /// assert_eq!(answer.model, "deepseek-ai/DeepSeek-V4.1-Flash");
    /// # Ok(())
    /// # }
    /// ```
    pub fn deprecate(&self, model: &str, to: &str) {
        self.shared.lock().redirects.insert(model.to_owned(), to.to_owned());
    }
}

/// # How long it takes
impl Together {
    /// The time before status and headers, from now on. Default none.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.latency(Duration::from_secs(3));
    /// let start = tokio::time::Instant::now();
    /// together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await?;
    /// assert!(start.elapsed() >= Duration::from_secs(3), "under a paused clock at once");
    /// # Ok(())
    /// # }
    /// ```
    pub fn latency(&self, latency: Duration) {
        self.shared.lock().latency = latency;
    }

    /// The time before status and headers for this model, instead of [`latency`](Self::latency).
    pub fn latency_of(&self, model: &str, latency: Duration) {
        self.shared.lock().latency_of.insert(model.to_owned(), latency);
    }

    /// The time between two chunks of a stream, from now on. Default none.
    pub fn token_latency(&self, latency: Duration) {
        self.shared.lock().token_latency = latency;
    }
}
