//! The simulator on a socket.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{Router, extract::Request, response::IntoResponse, serve::ListenerExt};
use futures_util::{StreamExt, stream};
use http::Response;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::client::{Body, Transport, TransportError, TransportErrorKind};

/// A simulator that listens on a socket. Dropping it stops it and breaks its connections.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{TogetherClient, client::ChatRequest, testing::Together};
///
/// let together = Together::new();
/// together.on("sky").reply("Rayleigh scattering.");
/// let server = together.serve().await?;
/// let client = TogetherClient::builder().api_key("any").base_url(&server.base_url()).build()?;
/// let answer = client.chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("Why is the sky blue?")).await?;
/// assert_eq!(answer.text(), "Rayleigh scattering.");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<io::Result<()>>>,
}

impl Server {
    pub(super) async fn start(address: SocketAddr, transport: Arc<dyn Transport>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        // Without it, Nagle's algorithm holds the small chunks of a stream back.
        let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
        let stop = CancellationToken::new();
        let relay = Relay { transport, stop: stop.clone() };
        let router = Router::new().fallback(move |request: Request| relay.clone().handle(request));
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        #[expect(clippy::disallowed_methods, reason = "the one task of the simulator, owned and joined by Server")]
        let task = tokio::spawn(serving.into_future());
        Ok(Self { address, stop, task: Some(task) })
    }

    /// What to give a client as base URL: `http://127.0.0.1:<port>/v1`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The address it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, breaks open streams and requests without an answer, and waits until all connections are closed.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // It fails only if it panicked or was aborted; either way it is over.
            drop(task.await);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Passes requests from the socket to the simulator, until it is stopped.
#[derive(Clone, Debug)]
struct Relay {
    transport: Arc<dyn Transport>,
    stop: CancellationToken,
}

impl Relay {
    async fn handle(self, request: Request) -> axum::response::Response {
        let request =
            request.map(|body| Body::stream(body.into_data_stream().map(|chunk| chunk.map_err(|_| broken()))));
        let response = match self.stop.run_until_cancelled(self.transport.send(request)).await {
            Some(Ok(response)) => response,
            // HTTP has no word for it: a body that breaks before its first byte closes the connection.
            Some(Err(_)) | None => Response::new(Body::stream(stream::iter([Err(broken())]))),
        };
        response.map(|body| self.until_stopped(body)).into_response()
    }

    /// The body; once the server is stopped, it breaks.
    fn until_stopped(self, body: Body) -> axum::body::Body {
        let chunks = stream::unfold(Some((body, self.stop)), |state| async move {
            let (mut body, stop) = state?;
            match stop.run_until_cancelled(body.next()).await {
                Some(Some(Ok(chunk))) => Some((Ok(chunk), Some((body, stop)))),
                Some(Some(Err(error))) => Some((Err(error), None)),
                Some(None) => None,
                None => Some((Err(broken()), None)),
            }
        });
        axum::body::Body::from_stream(chunks)
    }
}

fn broken() -> TransportError {
    TransportError::new(TransportErrorKind::Interrupted, "the connection broke")
}
