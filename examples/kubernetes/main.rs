//! A web service that a cluster can start, watch and stop: readiness, health, and an end under load that loses nothing.
//!
//! `cargo run --example kubernetes` starts it on the simulator, calls it, and stops it as a cluster would: it says that it
//! is not ready, finishes what runs, and goes. `examples/kubernetes/pod.yaml` has the probes that belong to it.
#![expect(clippy::print_stdout, reason = "the output is the example")]

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use together_inference::{InferenceService, service::Drained, testing::Together};
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};

/// How long load balancers take to see that an instance is not ready: a little more than the probe's period.
const NOTICE: Duration = Duration::from_secs(1);
/// How long running calls have: below the pod's `terminationGracePeriodSeconds`.
const GRACE: Duration = Duration::from_secs(25);

async fn ready(State(service): State<InferenceService>) -> StatusCode {
    // Not the providers' state: their outage must not take every instance out of service.
    if service.health().is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn health(State(service): State<InferenceService>) -> String {
    let health = service.health();
    let state = if health.is_degraded() { "degraded" } else { "well" };
    format!("{state}, {} calls in flight", health.in_flight)
}

async fn ask(State(service): State<InferenceService>, question: String) -> (StatusCode, String) {
    match service.complete(question).await {
        Ok(reply) => (StatusCode::OK, reply.to_string()),
        Err(error) => {
            let status = StatusCode::from_u16(error.status_hint()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, error.public_message().to_owned())
        }
    }
}

/// Serves until it is told to stop, and then ends in order.
async fn serve(listener: TcpListener, service: InferenceService, stop: Arc<Notify>) -> Result<Drained, std::io::Error> {
    let app = Router::new()
        .route("/readyz", get(ready))
        .route("/health", get(health))
        .route("/ask", post(ask))
        .with_state(service.clone());
    let stopped = {
        let service = service.clone();
        async move {
            stop.notified().await;
            // First not ready, and still serving what comes until nobody sends any more.
            service.begin_shutdown();
            tokio::time::sleep(NOTICE).await;
        }
    };
    axum::serve(listener, app).with_graceful_shutdown(stopped).await?;
    Ok(service.shutdown(GRACE).await)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    eprintln!("(running on the simulator, nothing is spent)");
    let together = Together::new();
    together.latency(Duration::from_millis(500));
    let service = InferenceService::builder(together.client()).build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    // In a real one: tokio::signal::unix::signal(SignalKind::terminate()).
    let stop = Arc::new(Notify::new());
    let server = tokio::spawn(serve(listener, service.clone(), Arc::clone(&stop)));

    println!("ready before: {}", call(address, "GET", "/readyz", "").await?.0);
    let mut calls = JoinSet::new();
    for number in 0..20 {
        calls.spawn(async move {
            call(address, "POST", "/ask", &format!("Question {number}")).await.map_err(|error| error.to_string())
        });
    }
    while service.health().in_flight < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("health: {}", call(address, "GET", "/health", "").await?.1);
    stop.notify_one();
    while service.health().is_ready() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("told to stop: ready {}", call(address, "GET", "/readyz", "").await?.0);
    println!("a late call: {}", call(address, "POST", "/ask", "One more?").await?.0);
    let mut answered = 0;
    while let Some(reply) = calls.join_next().await {
        answered += u32::from(reply??.0 == 200);
    }
    println!("answered of those that ran: {answered} of 20");
    let drained = server.await??;
    println!("drained: {} cancelled, {} records lost", drained.cancelled, drained.records_lost);
    println!("the simulator's bill has {} calls, the service's {}", together.bill().calls, service.costs().attempts);
    Ok(())
}

/// What a probe or a caller sees: the status and the body.
async fn call(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<(u16, String), Box<dyn Error>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await?;
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
    Ok((status, body.to_owned()))
}
