//! A picture from a text, written to a file, with its price.
//!
//! `cargo run --example image -- "a lighthouse under a red sky" picture.png` runs on the simulator, which paints a sky of
//! the colour that is named; set `TOGETHER_API_KEY` for the real API.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{env, error::Error, path::PathBuf, time::Duration};

use together_inference::{InferenceRequest, InferenceService, Price, RouteId, client::ImageInput, usd};

const MODEL: &str = "black-forest-labs/FLUX.1-schnell";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let prompt = args.next().unwrap_or_else(|| "a lighthouse under a red sky".to_owned());
    let path = args.next().map_or_else(|| env::temp_dir().join("together-inference-picture.png"), PathBuf::from);

    let (client, _) = common::client()?;
    // Pictures are not priced in the model list: the application says what the price page says.
    let price = Price::per_megapixel(usd!("0.0027"));
    let service = InferenceService::builder(client).price(&RouteId::new("together", MODEL), price).build()?;

    let input = ImageInput::new(&prompt).size(768, 512).steps(4).seed(7).png();
    let request = || InferenceRequest::image_generation(input.clone()).model(MODEL);
    let reply = service.image(request()).await?;
    let file =
        reply.images().first().and_then(|image| image.bytes()).ok_or("the picture did not come with the answer")?;
    tokio::fs::write(&path, file).await?;
    println!("{prompt}");
    println!("  {} pixels in {} bytes [{} {}]", reply.usage().pixels, file.len(), reply.model(), reply.cost());
    println!("  {}", path.file_name().unwrap_or_default().display());

    // With a seed the same picture is paid once.
    let again = service.image(request()).await?;
    println!("Asked again: [{} {}, saved {}]", again.cost(), again.source(), again.saved);
    service.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
