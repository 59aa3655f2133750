//! A week of mixed traffic on the simulator, kept in a ledger: who spent what, on which models, what the cache and a batch
//! saved and what has no price. Draws the spend by day and writes every record into a CSV file.
//!
//! `cargo run --example cost_report --features batch -- [ledger.db] [records.csv]`; a folder of its own unless named.

use std::{
    env,
    error::Error,
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use together_inference::{
    InferenceRequest, InferenceService, RouteId, Task, Tier, Usd,
    cost::{By, Format, Ledger, Report, ReportQuery},
    pipeline::Pipeline,
    router::{CatalogRouter, ModelRoute},
    service::BatchOptions,
    store::Store,
    testing::{Fault, SimModel, Together},
    types::{Clock, ManualClock, Rng, SeededRng},
};

const GLM: &str = "zai-org/GLM-5.3";
const PRO: &str = "deepseek-ai/DeepSeek-V4-Pro-0813";
const FLASH: &str = "deepseek-ai/DeepSeek-V4.1-Flash";

/// What a batch costs less on GLM, made up like all of this.
const PERCENT_OFF: u8 = 50;
/// Lines of that batch.
const TICKETS: u32 = 120;

const DAY: Duration = Duration::from_secs(86_400);
/// Monday, 16 November 2026, 00:00 UTC.
const MONDAY: Duration = Duration::from_secs(1_794_787_200);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    eprintln!("(a made-up week: running on the simulator, nothing is spent)");
    let folder = env::temp_dir().join(format!("together-inference-cost-report-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let named = |at: usize, name: &str| env::args().nth(at).map_or_else(|| folder.join(name), PathBuf::from);
    let (path, csv) = (named(1, "ledger.db"), named(2, "records.csv"));

    let start = SystemTime::UNIX_EPOCH + MONDAY;
    let ledger = Ledger::keep_records(&Store::open(&path).await?, DAY * 3_650);
    // A store has a ledger of its own, which forgets what is as old as this week may be: batches have another.
    let batches = Store::open(folder.join("batches.db")).await?;
    let together = a_week(&batches, &ledger, start).await?;
    let week = ReportQuery::new(start..start + 7 * DAY);
    let total = ledger.report(&week).await?.total;

    println!("The week from 16 November 2026\n");
    for by in [By::Model, By::Tenant, By::Task] {
        println!("{}", ledger.report(&week.clone().by(by)).await?);
    }
    let asked = total.attempts - total.failed + total.hits + total.followers;
    println!("{asked} answers. Not spent, thanks to");
    println!("{:>12}  the cache: it had {} of them", total.saved, total.hits);
    println!("{:>12}  the batch: {TICKETS} of them were {PERCENT_OFF} % off\n", total.batch_saved);
    println!("{} attempts failed or were repeated elsewhere, at no cost.", total.failed);
    if total.unpriced > 0 {
        println!(
            "{} attempts have no price: set one with .price(route, price), Price::FREE if it costs nothing.",
            total.unpriced
        );
    }
    println!("\nSpend by day");
    chart(&ledger.report(&week.clone().by(By::Day)).await?);

    let records = ledger.export(start..start + 7 * DAY, Format::Csv, File::create(&csv)?).await?;
    let billed = Usd::from_nanos(together.bill().nano_usd);
    println!("\n{records} records come to {}; the provider bills {billed}.", total.known);
    println!("The difference is that of the embeddings: no tokens are reported for them, so that they are counted.");
    eprintln!("the ledger is {}, the records are in {}", path.display(), csv.display());
    Ok(())
}

/// A clock that is moved on by hand and goes on by itself, as those who work on a batch need it.
#[derive(Debug)]
struct WeekClock(ManualClock, Instant);

impl Clock for WeekClock {
    fn now(&self) -> SystemTime {
        self.0.now() + self.1.elapsed()
    }
}

/// Makes the calls of a week: the clock is moved, and only the batch waits, for a moment.
async fn a_week(batches: &Store, ledger: &Ledger, start: SystemTime) -> Result<Together, Box<dyn Error>> {
    let together = Together::new();
    together.batch_validation(Duration::from_millis(20));
    together.batch_time(Duration::from_millis(20));
    together.batch_discount(GLM, PERCENT_OFF);
    let local = Together::builder().models([SimModel::chat("acme/house-8b").price(0, 0)]).build();
    let (clock, rng) = (Arc::new(WeekClock(ManualClock::new(start), Instant::now())), SeededRng::new(16));
    // A server of one's own that nobody has told the price of.
    let house = ModelRoute::new("local", "acme/house-8b").task(Task::Chat).tier(Tier::Small);
    let service = InferenceService::builder(together.client())
        .upstream("local", local.client())
        .router(CatalogRouter::builtin().with(house))
        .embedding_model("intfloat/multilingual-e5-large-instruct")
        .batch_percent_off(&RouteId::new("together", GLM), PERCENT_OFF)
        .store(batches)
        .cost_sink(ledger.clone())
        .batches_with(BatchOptions::default().poll(Duration::from_millis(20)))
        .background(Pipeline::new().poll_every(Duration::from_millis(10)))
        .clock(Arc::clone(&clock) as _)
        .build()?;
    service.refresh_catalogue().await;
    for day in 0..7_u32 {
        // Less at the weekend.
        let calls = if day < 5 { 90 } else { 25 };
        for call in 0..calls {
            let draw = |of: u128| u32::try_from(rng.next_u128() % of).unwrap_or(0);
            if call % 30 == 7 {
                together.fail_next(1, Fault::status(503));
            }
            service.complete(request(draw(10), draw(40))).await?;
            clock.0.advance(DAY / calls);
        }
        // In the night to Saturday the tickets of the week are sorted: nobody waits for that.
        if day == 4 {
            service.submit_batch((0..TICKETS).map(ticket)).await?.await?;
        }
    }
    service.shutdown(Duration::from_secs(10)).await;
    Ok(together)
}

/// One of the kinds of calls that the week is made of; `question` tells it from others of its kind.
fn request(kind: u32, question: u32) -> InferenceRequest {
    let tenant = ["acme", "bcme", "cyberdyne"].get(question as usize % 3).copied().unwrap_or("acme");
    // Models by name, in order of preference: the table is the same in every run.
    let request = match kind {
        // Support: the same questions again and again.
        0..=3 => InferenceRequest::chat(format!("How do I return order type {question}?"))
            .temperature(0.0)
            .models([FLASH, GLM]),
        4..=5 => InferenceRequest::chat(format!("Write a slogan for product {question}")).models([GLM, PRO]),
        6 => InferenceRequest::code(format!("fn f{question}() {{}}")).max_tokens(200).models([PRO, GLM]),
        7..=8 => InferenceRequest::embedding([format!("document {question}")]),
        _ => InferenceRequest::chat(format!("Sum up meeting {question}")).model(RouteId::new("local", "acme/house-8b")),
    };
    request.tenant(tenant)
}

/// A line of the batch.
fn ticket(number: u32) -> InferenceRequest {
    InferenceRequest::chat(format!("Sort ticket {number}"))
        .model(GLM)
        .max_tokens(20)
        .tenant("acme")
        .tag("job", "tickets")
}

/// A bar a day, the longest forty characters.
fn chart(report: &Report) {
    let most = report.rows.iter().map(|row| row.sums.known.nanos()).max().unwrap_or(0).max(1);
    for row in &report.rows {
        let known = row.sums.known;
        let bar = "█".repeat(usize::try_from(known.nanos() * 40 / most).unwrap_or(0));
        println!("{}  {bar:<40}  {known}", row.labels.first().map_or("", |day| &**day));
    }
}
