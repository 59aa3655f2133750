//! Search by meaning: the sentences of a book nearest to a question.
//!
//! `cargo run --example embeddings_search -- "a question"` runs on the simulator, whose vectors follow shared words; set
//! `TOGETHER_API_KEY` for the real API.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{env, error::Error, sync::Arc, time::Duration};

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

    let sentences: Vec<String> = BOOK.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let book = service.embed(sentences.clone()).await?;
    let size = book.vectors().first().map_or(0, |vector| vector.len());
    println!("{} sentences, {size} numbers each [{} {}]", sentences.len(), book.model(), book.cost());

    let asked: Vec<String> = env::args().skip(1).collect();
    let questions = if asked.is_empty() {
        vec!["Who was born to be a heroine?".to_owned(), "dancing at a ball in Bath".to_owned()]
    } else {
        asked
    };
    for question in &questions {
        let reply = service.embed(question.as_str()).await?;
        println!("\n{question} [{}]", reply.cost());
        for (likeness, sentence) in nearest(reply.vectors(), book.vectors(), &sentences).into_iter().take(3) {
            println!("  {likeness:.2} {sentence}");
        }
    }

    let again = service.embed(sentences).await?;
    println!("\nThe book once more: [{} {}, saved {}]", again.cost(), again.source(), again.saved);
    service.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// The sentences by their likeness to the question, nearest first.
fn nearest<'a>(question: &[Arc<[f32]>], book: &[Arc<[f32]>], sentences: &'a [String]) -> Vec<(f32, &'a str)> {
    let Some(question) = question.first() else { return Vec::new() };
    let likeness = |vector: &Arc<[f32]>| cosine(question, vector);
    let mut ranked: Vec<_> = book.iter().map(likeness).zip(sentences.iter().map(String::as_str)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()).max(f32::MIN_POSITIVE)
}
