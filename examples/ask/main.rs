//! Asks a model from the shell: `cargo run --example ask -- "Why is the sky blue?"`; `--help` says the rest.

#[path = "../common/mod.rs"]
mod common;
mod options;

use std::{
    env, fmt,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use serde_json::{Value, json};
use together_inference::{
    InferenceResponse, InferenceService, Usd, client,
    inference::Attempt,
    service::{Error, ErrorKind},
};

/// Why there is no answer.
enum Failure {
    Usage(String),
    Call(Error),
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn usage(problem: &dyn fmt::Display) -> Failure {
    Failure::Usage(problem.to_string())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough, as `head` does.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => {
            eprintln!("ask: {error}");
            ExitCode::FAILURE
        }
        Err(Failure::Usage(problem)) => {
            eprintln!("ask: {problem}\nhint: ask --help");
            ExitCode::from(2)
        }
        Err(Failure::Call(error)) => {
            let (code, hint) = advice(&error);
            eprintln!("ask: {error}\nhint: {hint}");
            if let Some(wait) = error.retry_after() {
                eprintln!("hint: the provider asks to wait {wait:?}");
            }
            ExitCode::from(code)
        }
    }
}

/// The exit code of an error, and what to do about it.
fn advice(error: &Error) -> (u8, &'static str) {
    match error.kind() {
        ErrorKind::InvalidRequest => (3, "change the option that is named above"),
        ErrorKind::NoRoute => (3, "no model can do all that: ask for less, or name one with --model"),
        ErrorKind::OverBudget | ErrorKind::Unpriced => (3, "raise the budget, or ask for less with --max-tokens"),
        ErrorKind::Refused => (3, "the provider knows the request and does not take it; check --model"),
        ErrorKind::DeadlineExceeded => (5, "wait longer with --deadline, or ask for less with --max-tokens"),
        ErrorKind::UpstreamAuthentication => (4, "set TOGETHER_API_KEY to a key that is valid at this server"),
        ErrorKind::UpstreamPayment => (4, "the account has no credit left; add some at the provider"),
        ErrorKind::EmptyAnswer => (4, "give the answer more room with --max-tokens"),
        _ => (4, "try again later, or another server with --base-url"),
    }
}

async fn run() -> Result<(), Failure> {
    let mut out = io::stdout();
    let Some(options) = options::parse(env::args().skip(1)).map_err(Failure::Usage)? else {
        return Ok(writeln!(out, "{}", options::HELP)?);
    };
    let (client, _simulator) = common::client_at(options.base_url).map_err(|error| usage(&error))?;
    let service = InferenceService::builder(client).build().map_err(|error| usage(&error))?;

    let reply = if options.stream {
        let mut stream = service.stream(options.request).await?;
        while let Some(delta) = stream.next().await {
            let delta = delta?;
            if !options.json {
                out.write_all(delta.text().as_bytes())?;
                out.flush()?;
            }
        }
        stream.finish().await?
    } else {
        service.complete(options.request).await?
    };
    match (options.json, options.stream) {
        (true, _) => writeln!(out, "{:#}", object(&reply))?,
        (false, true) => writeln!(out)?,
        (false, false) => writeln!(out, "{reply}")?,
    }
    eprintln!("[{} {} {}; why: {}]", reply.model(), reply.cost(), reply.source(), reply.decision());
    service.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

fn object(reply: &InferenceResponse) -> Value {
    let attempt = |attempt: &Attempt| {
        json!({
            "route": attempt.route.to_string(),
            "error": attempt.error.map(client::ErrorKind::as_str),
            "status": attempt.status,
            "took_ms": attempt.took.as_millis(),
            "cost": attempt.cost.to_string(),
        })
    };
    json!({
        "text": reply.text(),
        "model": reply.model(),
        "asked": reply.asked.model(),
        "source": reply.source().to_string(),
        // Exact, as whole nano-dollars, or null; the text also says "at most" and "unpriced".
        "cost": {"nano_usd": reply.cost().known().map(Usd::nanos), "text": reply.cost().to_string()},
        "usage": reply.usage(),
        "decision": reply.decision().to_string(),
        "attempts": reply.attempts.iter().map(attempt).collect::<Vec<_>>(),
        "request_id": reply.request_id,
        "timings": {
            "total_ms": reply.timings.total.as_millis(),
            "first_token_ms": reply.timings.first_token.map(|time| time.as_millis()),
        },
    })
}
