//! A web handler that streams answers to a browser as server-sent events.
//!
//! `cargo run --example axum_chat -- --port 3000` serves a page on <http://127.0.0.1:3000>. Without arguments it asks
//! itself, prints what a browser would receive, and ends.
#![expect(clippy::print_stdout, reason = "the output is the example")]

#[path = "../common/mod.rs"]
mod common;
mod demonstration;

use std::{convert::Infallible, env, error::Error, future::IntoFuture, net::Ipv4Addr, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response, Sse, sse::Event},
    routing::{get, post},
};
use futures_util::{Stream, stream};
use serde_json::json;
use together_inference::{
    InferenceRequest, InferenceService, Priority,
    cost::MemoryCosts,
    service::{self, InferenceStream},
    usd,
};
use tokio::net::TcpListener;

/// The prompt is the body, as text. The response starts when the model has: until then a refusal can still be a status.
async fn chat(State(service): State<InferenceService>, prompt: String) -> Result<impl IntoResponse, Refusal> {
    let request = InferenceRequest::chat(prompt)
        .priority(Priority::Realtime)
        .max_tokens(1_000)
        // Whoever pastes a book pays nothing, and neither do we.
        .max_cost(usd!("0.05"));
    Ok(Sse::new(events(service.stream(request).await?)))
}

/// Deltas as events. The stream lives in the response's body: a browser that leaves drops both, which ends the call at
/// the provider and records what had arrived.
fn events(stream: InferenceStream) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(Some(stream), |stream| async {
        let mut stream = stream?;
        while let Some(delta) = stream.next().await {
            match delta {
                // As JSON, since an event's data must not hold line breaks of its own.
                Ok(delta) if !delta.text().is_empty() => {
                    return Some((Ok(Event::default().data(json!(delta.text()).to_string())), Some(stream)));
                }
                Ok(_) => {}
                Err(error) => return Some((Ok(broken(&error)), None)),
            }
        }
        let end = match stream.finish().await {
            Ok(reply) => Event::default().event("end").data(format!("{} {}", reply.model(), reply.cost())),
            Err(error) => broken(&error),
        };
        Some((Ok(end), None))
    })
}

/// The status is sent already: what breaks later is an event.
fn broken(error: &service::Error) -> Event {
    Event::default().event("error").data(error.public_message())
}

/// An error as a response. Visitors see its public message; the full one, with models and limits, is for the log.
struct Refusal(service::Error);

impl From<service::Error> for Refusal {
    fn from(error: service::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        eprintln!("refused: {}", self.0);
        let status = StatusCode::from_u16(self.0.status_hint()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let mut response = (status, self.0.public_message()).into_response();
        if let Some(wait) = self.0.retry_after() {
            // In whole seconds, and never sooner than the provider asks.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = env::args().skip(1).collect();
    let port = match &args[..] {
        [] => None,
        [flag, port] if flag == "--port" => Some(port.parse()?),
        _ => return Err("usage: axum_chat [--port PORT]".into()),
    };
    let (client, simulator) = common::client()?;
    let costs = MemoryCosts::default();
    let service = InferenceService::builder(client).cost_sink(costs.clone()).build()?;
    let app = Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/chat", post(chat))
        .with_state(service.clone());

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.unwrap_or(0))).await?;
    let url = format!("http://{}", listener.local_addr()?);
    println!("serving {url}");
    let server = axum::serve(listener, app).into_future();
    if port.is_some() {
        tokio::select! {
            ended = server => ended?,
            stopped = tokio::signal::ctrl_c() => stopped?,
        }
    } else {
        tokio::select! {
            ended = server => ended?,
            shown = demonstration::demonstrate(&url, simulator.as_ref()) => shown?,
        }
    }

    // Answers that are under way may end, and every record is handed over.
    service.shutdown(Duration::from_secs(10)).await;
    for record in costs.records() {
        println!("{}: {} tokens, {}", record.ending.as_str(), record.completion_tokens(), record.cost);
    }
    Ok(())
}
