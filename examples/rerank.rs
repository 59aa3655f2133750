//! Documents by their relevance to a question.
//!
//! `cargo run --example rerank` runs on the simulator, which counts shared words; set `TOGETHER_API_KEY` for the real API
//! (where a rerank model may need an endpoint of one's own).
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{error::Error, time::Duration};

use together_inference::{InferenceRequest, InferenceService, Price, RouteId, Usd, client::RerankInput, usd};

const MODEL: &str = "mixedbread-ai/Mxbai-Rerank-Large-V2";
const DOCUMENTS: [&str; 5] = [
    "Pandas live in the mountains of China and eat bamboo.",
    "A refund takes five working days after we have received the parcel.",
    "Llamas live in the Andes of Peru, Bolivia and Chile.",
    "Parcels are sent on the day of the order, Sundays excepted.",
    "The Andes are the longest mountain range on land.",
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (client, _) = common::client()?;
    let price = Price::per_million(usd!("0.10"), Usd::ZERO);
    let service = InferenceService::builder(client).price(&RouteId::new("together", MODEL), price).build()?;

    for query in ["Where do llamas live?", "How long does a refund take?"] {
        let input = RerankInput::new(query, DOCUMENTS).top_n(3);
        let reply = service.rerank(InferenceRequest::from(input).model(MODEL)).await?;
        println!("{query} [{} {}]", reply.model(), reply.cost());
        for ranked in reply.ranking() {
            let document = DOCUMENTS.get(ranked.index).copied().unwrap_or_default();
            println!("  {:.2} {document}", ranked.relevance_score);
        }
        println!();
    }
    service.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
