//! The simulator's handle and its builder.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use http::{Request, Response};

use super::{
    bill::{Account, Bill},
    handler::handle,
    models::{SimModel, builtin},
    recorded::{Key, Log, Recorded},
    server::Server,
    state::{Config, Shared},
};
use crate::client::{Body, TogetherClient, Transport, TransportError};

/// A simulator of the Together AI API, behind the [`Transport`] seam or on a socket.
///
/// It answers the same request in the same way every time, can be told what to answer ([`on`](Self::on)) and how to
/// fail ([`fail_next`](Self::fail_next)), and remembers what it was asked ([`requests`](Self::requests)) and what it
/// charged ([`bill`](Self::bill)). Clones are handles of the same simulator.
///
/// ```
/// use together_inference::{
///     client::{Body, Transport},
///     testing::Together,
/// };
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let together = Together::new();
/// together.on("refund").reply("5 days");
///
/// let request = http::Request::post("https://api.together.ai/v1/chat/completions")
///     .header("authorization", "Bearer any")
///     .body(Body::from(
///         r#"{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"How long does a refund take?"}]}"#,
///     ))?;
/// let response = together.send(request).await?;
///
/// assert_eq!(response.status(), 200);
/// assert_eq!(together.requests()[0].body["model"], "zai-org/GLM-5.3");
/// assert!(together.bill().nano_usd > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Together {
    pub(super) shared: Arc<Shared>,
}

impl Default for Together {
    fn default() -> Self {
        Self::new()
    }
}

impl Together {
    /// A client whose network is this simulator, in memory. No key is needed.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.on("sky").reply("Rayleigh scattering.");
    /// let ask = ChatRequest::new("zai-org/GLM-5.3").user("Why is the sky blue?");
    /// let answer = together.client().chat().create(&ask).await?;
    /// assert_eq!(answer.text(), "Rayleigh scattering.");
    /// # Ok::<(), together_inference::client::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Panics
    ///
    /// Never: the address is a constant that is valid.
    #[must_use]
    pub fn client(&self) -> TogetherClient {
        let built = TogetherClient::builder().api_key("simulated").transport(self.clone()).build();
        built.expect("the default address and this key are valid")
    }
}

impl Together {
    /// A simulator with the built-in models that accepts any key and fails never.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A simulator with other settings.
    pub const fn builder() -> TogetherBuilder {
        TogetherBuilder { seed: 0, time_scale: 1.0, key: None, models: None, wrapped_models: false }
    }

    /// Serves on a free port of 127.0.0.1, until the [`Server`] is dropped.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let server = together_inference::testing::Together::new().serve().await?;
    /// assert!(server.base_url().ends_with("/v1"));
    /// server.shutdown().await;
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// When the port can't be bound.
    pub async fn serve(&self) -> io::Result<Server> {
        self.serve_on((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Serves on this address, until the [`Server`] is dropped.
    ///
    /// # Errors
    ///
    /// When the address can't be bound.
    pub async fn serve_on(&self, address: SocketAddr) -> io::Result<Server> {
        Server::start(address, Arc::new(self.clone())).await
    }

    /// What it was asked, oldest first: the latest 10,000 requests, whatever became of them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let together = Together::new();
    /// let service = InferenceService::builder(together.client()).build()?;
    /// service.complete(InferenceRequest::chat("hi").seed(7)).await?;
    /// assert_eq!(together.requests()[0].body["seed"], 7);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.lock().log.latest()
    }

    /// How many inference calls arrived, failed ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.shared.lock().log.calls()
    }

    /// How many inference calls asked for this model (before any redirect), failed ones included.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await?;
    /// assert_eq!((together.calls_to("zai-org/GLM-5.3"), together.calls_to("Qwen/Qwen3.7-Max")), (1, 0));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn calls_to(&self, model: &str) -> u64 {
        self.shared.lock().log.calls_to(model)
    }

    /// What it charged so far.
    ///
    /// A failed call costs nothing. A stream is charged when it has sent `[DONE]`; one that was cut or dropped, at
    /// that moment, with the whole prompt and the part of the answer that was sent. An answer in one piece whose
    /// caller left before it was ready is not charged. A row of a batch is charged when it is finished.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceService, testing::Together};
    ///
    /// let together = Together::new();
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let reply = service.complete("hi").await?;
    /// assert_eq!(reply.cost().known().map(|cost| cost.nanos()), Some(together.bill().nano_usd));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn bill(&self) -> Bill {
        self.shared.settled().account.bill()
    }

    /// Forgets requests, counts and the bill; keeps scripts, faults, files and batches.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("warm up")).await?;
    /// together.forget();
    /// assert_eq!((together.calls(), together.bill().nano_usd), (0, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn forget(&self) {
        let mut state = self.shared.settled();
        state.log = Log::default();
        state.account = Account::default();
    }

    /// Requests being handled: arrived, not yet answered, not given up.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// Streams that are neither at their end nor dropped.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let together = Together::new();
    /// let stream = together.client().chat().stream(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await?;
    /// assert_eq!(together.open_streams(), 1);
    /// drop(stream);
    /// assert_eq!(together.open_streams(), 0);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.shared.open_streams.load(Ordering::SeqCst)
    }
}

/// Shows little: it holds thousands of requests.
impl fmt::Debug for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (in_flight, open_streams) = (self.in_flight(), self.open_streams());
        f.debug_struct("Together")
            .field("in_flight", &in_flight)
            .field("open_streams", &open_streams)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for Together {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, TransportError> {
        handle(&self.shared, request).await
    }
}

/// Settings of a [`Together`] that don't change while it runs.
///
/// ```
/// use together_inference::testing::{SimModel, Together};
///
/// let together = Together::builder().seed(7).api_key("secret").models([SimModel::chat("acme/Tiny-1B")]).build();
/// assert_eq!(together.calls(), 0);
/// ```
#[derive(Clone, Debug)]
#[must_use = "call build"]
pub struct TogetherBuilder {
    seed: u64,
    time_scale: f64,
    key: Option<Key>,
    models: Option<Vec<SimModel>>,
    wrapped_models: bool,
}

impl TogetherBuilder {
    /// What made-up answers, ids and shares of faults depend on. Default 0.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::Together};
    ///
    /// let ask = ChatRequest::new("zai-org/GLM-5.3").user("Why is the sky blue?");
    /// let mut texts = Vec::new();
    /// for _ in 0..2 {
    ///     let together = Together::builder().seed(7).build();
    ///     texts.push(together.client().chat().create(&ask).await?.text().to_owned());
    /// }
    /// assert_eq!(texts[0], texts[1]);
    /// # Ok(())
    /// # }
    /// ```
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Multiplies every latency, and the second that limits are counted in: 0.01 runs a hundred times faster.
    /// Default 1; a factor that is negative or no number is ignored.
    pub const fn time_scale(mut self, factor: f64) -> Self {
        self.time_scale = factor;
        self
    }

    /// The only key that is accepted; others get 401. By default any is.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ChatRequest, ErrorKind}, testing::Together};
    ///
    /// let together = Together::builder().api_key("secret").build();
    /// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Authentication, "the simulator's own client has the key `simulated`");
    /// # Ok(())
    /// # }
    /// ```
    pub fn api_key(mut self, key: &str) -> Self {
        self.key = Some(Key::new(key));
        self
    }

    /// The models to serve instead of the built-in ones.
    pub fn models(mut self, models: impl IntoIterator<Item = SimModel>) -> Self {
        self.models = Some(models.into_iter().collect());
        self
    }

    /// Lists models as `{"object":"list","data":[…]}` instead of a bare array.
    pub const fn model_list_wrapped(mut self) -> Self {
        self.wrapped_models = true;
        self
    }

    /// The simulator.
    #[must_use]
    pub fn build(self) -> Together {
        let Self { seed, time_scale, key, models, wrapped_models } = self;
        let config = Config { seed, time_scale, key, wrapped_models };
        Together { shared: Arc::new(Shared::new(config, models.unwrap_or_else(builtin))) }
    }
}
