//! Vectors are paid once: a book embedded twice, and once more with two new sentences in it.
//!
//! `cargo run --example embeddings` runs on the simulator; set `TOGETHER_API_KEY` for the real API.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{error::Error, time::Duration};

use together_inference::{InferenceService, Price, RouteId, Usd, usd};

const BOOK: &str = include_str!("data/northanger_abbey.txt");
const MODEL: &str = "intfloat/multilingual-e5-large-instruct";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (client, _) = common::client()?;
    // The model list does not always say a price: this is what the price page says.
    let price = Price::per_million(usd!("0.02"), Usd::ZERO);
    let service = InferenceService::builder(client)
        .embedding_model(MODEL)
        .price(&RouteId::new("together", MODEL), price)
        .build()?;

    let book: Vec<String> = BOOK.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let more = ["She read more than one novel.", "Bath was full of strangers."].map(str::to_owned);
    let revised: Vec<String> = book.iter().cloned().chain(more).collect();

    println!("{:<22} {:>5} {:>12} {:>12}  from", "run", "texts", "cost", "saved");
    for (run, texts) in [("first", &book), ("second", &book), ("two sentences more", &revised)] {
        let reply = service.embed(texts.clone()).await?;
        let (cost, saved) = (reply.cost().to_string(), reply.saved.to_string());
        println!("{run:<22} {:>5} {cost:>12} {saved:>12}  {}", reply.vectors().len(), reply.source());
    }
    service.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
