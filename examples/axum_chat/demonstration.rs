//! What a browser would receive, printed.

use std::{error::Error, time::Duration};

use reqwest::header;
use together_inference::testing::{Fault, Together};

/// What a browser would see: an answer, one that is left half-way, and refusals.
pub(crate) async fn demonstrate(url: &str, simulator: Option<&Together>) -> Result<(), Box<dyn Error>> {
    if let Some(together) = simulator {
        together.on("sky").reply("Blue light scatters most.");
        together.token_latency(Duration::from_millis(20));
    }
    let http = reqwest::Client::builder().no_proxy().build()?;
    let ask = |prompt: String| http.post(format!("{url}/chat")).body(prompt).send();

    println!("\na question:");
    show(ask("Why is the sky blue?".to_owned()).await?).await?;

    println!("\na visitor who leaves after the first event:");
    let mut response = ask("Tell me a story about a lighthouse.".to_owned()).await?;
    response.chunk().await?;
    println!("  {}, then gone", response.status());
    drop(response);

    println!("\na prompt that may cost more than the handler allows:");
    show(ask("all work and no play ".repeat(50_000)).await?).await?;

    if let Some(together) = simulator {
        println!("\na provider that is busy:");
        together.fail_next(3, Fault::status(429).retry_after(Duration::from_secs(30)));
        show(ask("Why is the sky blue?".to_owned()).await?).await?;
    }
    println!();
    Ok(())
}

async fn show(response: reqwest::Response) -> Result<(), Box<dyn Error>> {
    println!("  {}", response.status());
    if let Some(wait) = response.headers().get(header::RETRY_AFTER) {
        println!("  retry-after: {}", wait.to_str()?);
    }
    for line in response.text().await?.lines().filter(|line| !line.is_empty()) {
        println!("  {line}");
    }
    Ok(())
}
