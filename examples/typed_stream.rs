//! A typed answer that is shown while it is written.
//!
//! `cargo run --example typed_stream` runs on the simulator; set `TOGETHER_API_KEY` for the real API.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{error::Error, time::Duration};

use serde::Deserialize;
use together_inference::{
    InferenceRequest, InferenceService,
    schemars::{self, JsonSchema},
};

/// A trip, planned.
#[derive(Debug, Deserialize, JsonSchema)]
struct Trip {
    title: String,
    days: Vec<Day>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Day {
    place: String,
    /// Two or three things to do.
    plan: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (client, simulator) = common::client()?;
    if let Some(together) = &simulator {
        together.on("Peru").reply(
            r#"{"title": "Three days in Peru", "days": [
                {"place": "Lima", "plan": ["walk through Barranco", "eat ceviche"]},
                {"place": "Cusco", "plan": ["rest", "see the market of San Pedro"]},
                {"place": "Machu Picchu", "plan": ["rise early"]}]}"#,
        );
    }
    let service = InferenceService::builder(client).build()?;
    let request = InferenceRequest::chat("Three days in Peru, please.").max_tokens(600);
    let mut stream = service.stream_as::<Trip>(request).await?;

    // A value is shown once it is complete, and never taken back.
    let (mut titled, mut shown) = (false, 0);
    while let Some(partial) = stream.next().await {
        let trip = partial?;
        if let Some(title) = trip.get::<String>("/title").filter(|_| !titled) {
            println!("{title}");
            titled = true;
        }
        while let Some(day) = trip.get::<Day>(&format!("/days/{shown}")) {
            shown += 1;
            println!("  day {shown}, {}: {}", day.place, day.plan.join(", "));
        }
    }
    let trip = stream.finish().await?;
    let Trip { title, days } = trip.value;
    println!("{title}: {} days [{} {}]", days.len(), trip.reply.model(), trip.reply.cost());
    service.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
