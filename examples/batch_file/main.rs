//! A file of requests in, a file of answers out: as a batch, at the batch price, resumed by the same command.
//!
//! `cargo run --features batch --example batch_file -- in.jsonl out.jsonl` runs on the simulator; set `TOGETHER_API_KEY`
//! for the real API, or what `cargo run --example simulator` prints for a simulator that outlives the command. Lines are
//! the API's own (`custom_id`, `body`), `OpenAI`'s, or `{"prompt": "…"}`.
//!
//! Failures are written to `out.errors.jsonl`. Ctrl-C leaves the batch running; the same command finds it again. Ends
//! with 0 when every line has an answer, 2 when some have none, 3 when it may cost more than `--max-cost`.
#![expect(clippy::print_stdout, reason = "the output is the example")]

#[path = "../common/mod.rs"]
mod common;
mod options;
mod output;
mod view;

use std::{
    error::Error,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use futures_util::stream;
use together_inference::{
    InferenceService,
    batch::{BatchLine, BatchPlan},
    pipeline::Pipeline,
    service::{BatchOptions, BatchTicket, ErrorKind},
    store::Store,
    testing::Together,
};

use self::options::Options;

/// Where jobs go on when this process has ended.
const SERVED: &str = "`cargo run --example simulator`, which prints what to set";
/// Problems of the input that are shown.
const SHOWN: usize = 20;

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\n\n{}", options::USAGE);
            return ExitCode::from(1);
        }
    };
    match run(&options).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("batch_file: {error}");
            ExitCode::from(1)
        }
    }
}

async fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let lines = check(options)?;
    let (client, simulator) = common::client()?;
    let mut batching = BatchOptions::default();
    if let Some(together) = &simulator {
        simulate(together);
        batching = batching.poll(Duration::from_millis(200));
    }
    let store = Store::open(options.store()).await?;
    let service = InferenceService::builder(client)
        .store(&store)
        .batches_with(batching)
        .background(Pipeline::new().poll_every(Duration::from_millis(200)))
        .build()?;
    let code = submit(options, &service, lines, simulator.is_some()).await;
    service.shutdown(Duration::from_secs(10)).await;
    code
}

async fn submit(
    options: &Options,
    service: &InferenceService,
    lines: u64,
    is_simulated: bool,
) -> Result<ExitCode, Box<dyn Error>> {
    let mut job = service.batch_stream(stream::iter(requests(options)?)).name(options.name());
    if let Some(deadline) = options.deadline {
        job = job.deadline(deadline);
    }
    if let Some(most) = options.max_cost {
        job = job.max_cost(most);
    }
    eprintln!("reading {lines} lines");
    show(options, job.estimate().await?);
    let ticket = match job.submit().await {
        Ok(ticket) => ticket,
        Err(error) if matches!(error.kind(), ErrorKind::OverBudget | ErrorKind::Unpriced) => {
            eprintln!("{error}");
            return Ok(ExitCode::from(3));
        }
        Err(error) if error.kind() == ErrorKind::NameTaken => {
            let store = options.store();
            let hint = format!("{} belongs to another input; remove {}", options.output.display(), store.display());
            return Err(format!("{error}\n{hint}").into());
        }
        Err(error) => return Err(error.into()),
    };
    tokio::select! {
        done = finish(options, ticket.clone()) => done,
        _ = tokio::signal::ctrl_c() => {
            if is_simulated {
                println!("\nthe simulator ends with this process, and with it the job of batch {}; see {SERVED}", ticket.id());
            } else {
                println!("\nbatch {} goes on at the provider; the same command comes back to it:", ticket.id());
                println!("  {}", options.command());
            }
            Ok(ExitCode::from(130))
        }
    }
}

async fn finish(options: &Options, ticket: BatchTicket) -> Result<ExitCode, Box<dyn Error>> {
    let bar = view::Bar::new();
    let (written, ()) = tokio::join!(output::write(&ticket, &options.output), view::follow(&ticket, &bar));
    written?;
    let report = ticket.await?;
    println!("{report}");
    if !report.is_complete() {
        println!("failures: {}", output::errors_path(&options.output).display());
    }
    println!("answers: {}", options.output.display());
    Ok(ExitCode::from(if report.is_complete() { 0 } else { 2 }))
}

/// Says what is going to happen.
fn show(options: &Options, plan: &BatchPlan) {
    println!("{plan}");
    if options.compare {
        println!("in realtime the same costs {}: {} more", plan.realtime, plan.saved());
    }
    for (index, why) in plan.refused.iter().take(SHOWN) {
        println!("  line {} cannot be sent: {why}", index + 1);
    }
}

/// Reads the input once, so that what is wrong with it is said before anything is written or sent.
fn check(options: &Options) -> Result<u64, Box<dyn Error>> {
    let (mut lines, mut problems) = (0, Vec::new());
    for (number, line) in (1..).zip(open(&options.input)?.lines()) {
        let line = line.map_err(|error| format!("line {number} of {}: {error}", options.input.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        lines += 1;
        if let Err(problem) = BatchLine::from_json(&line) {
            problems.push(format!("line {number}: {problem}"));
        }
    }
    if problems.is_empty() {
        return Ok(lines);
    }
    let more = problems.len().saturating_sub(SHOWN);
    problems.truncate(SHOWN);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    Err(format!("{} is no batch file:\n  {}", options.input.display(), problems.join("\n  ")).into())
}

fn open(path: &Path) -> Result<BufReader<File>, Box<dyn Error>> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

/// The requests of the input, read as they are wanted.
fn requests(options: &Options) -> Result<impl Iterator<Item = BatchLine> + use<>, Box<dyn Error>> {
    let (model, task) = (options.model.clone(), options.task);
    let lines = open(&options.input)?.lines().map_while(Result::ok).filter(|line| !line.trim().is_empty());
    // Checked before.
    Ok(lines.filter_map(|line| BatchLine::from_json(&line).ok()).map(move |mut line| {
        if let Some(model) = &model {
            line.request = line.request.model(model.as_str());
        }
        if let Some(task) = task {
            line.request = line.request.task(task);
        }
        line
    }))
}

/// A simulator that takes seconds, not minutes.
fn simulate(together: &Together) {
    together.batch_validation(Duration::from_millis(500));
    together.batch_time(Duration::from_secs(2));
}
