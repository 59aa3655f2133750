//! A picture in the question.
//!
//! `cargo run --example vision -- photo.jpg "What is in it?"` runs on the simulator, which names size and colours of a
//! PNG; set `TOGETHER_API_KEY` for the real API. Without a file it looks at a picture that it has made before.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{env, error::Error, time::Duration};

use together_inference::{InferenceRequest, InferenceService, Price, RouteId, client::ImageInput, usd};

const PAINTER: &str = "black-forest-labs/FLUX.1-schnell";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let (path, question) = (args.next(), args.next().unwrap_or_else(|| "What do you see?".to_owned()));
    let (client, _) = common::client()?;
    let price = Price::per_megapixel(usd!("0.0027"));
    let service = InferenceService::builder(client).price(&RouteId::new("together", PAINTER), price).build()?;

    let (file, media_type) = match path {
        Some(path) => (tokio::fs::read(&path).await?, if path.ends_with(".png") { "image/png" } else { "image/jpeg" }),
        None => (painted(&service).await?, "image/png"),
    };
    let request = InferenceRequest::chat(&*question).image(&file, media_type).max_tokens(300);
    let reply = service.complete(request).await?;
    println!("{question}\n  {reply}\n  [{} {}]", reply.model(), reply.cost());
    println!("  why: {}", reply.decision());
    service.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

async fn painted(service: &InferenceService) -> Result<Vec<u8>, Box<dyn Error>> {
    let input = ImageInput::new("a blue sky over yellow fields").size(320, 200).steps(4).seed(7).png();
    let reply = service.image(InferenceRequest::image_generation(input).model(PAINTER)).await?;
    let file = reply.images().first().and_then(|image| image.bytes()).ok_or("no picture came")?;
    println!("Painted a picture of {} bytes [{} {}]", file.len(), reply.model(), reply.cost());
    Ok(file.to_vec())
}
