//! The simulator on a socket, for any client of the API: `cargo run --example simulator -- --port 8080 [--key KEY]`.
//!
//! Without `--port` it takes a free one; without `--key` it accepts any key. Ctrl-C ends it and prints its bill.
#![expect(clippy::print_stdout, reason = "the output is the example")]

use std::{env, error::Error, net::Ipv4Addr};

use together_inference::{Usd, testing::Together};

const USAGE: &str = "usage: simulator [--port PORT] [--key KEY]";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (mut port, mut builder, mut key) = (0, Together::builder(), None);
    let mut args = env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--port" => port = value.parse()?,
            "--key" => {
                builder = builder.api_key(&value);
                key = Some(value);
            }
            _ => return Err(USAGE.into()),
        }
    }
    let together = builder.build();
    let server = together.serve_on((Ipv4Addr::LOCALHOST, port).into()).await?;
    let (url, key) = (server.base_url(), key.unwrap_or_else(|| "any".to_owned()));

    println!("export TOGETHER_BASE_URL={url} TOGETHER_API_KEY={key}");
    let body = r#"{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"Why is the sky blue?"}]}"#;
    let headers = format!(r#"-H "authorization: Bearer {key}" -H "content-type: application/json""#);
    println!("curl {url}/chat/completions {headers} -d '{body}'");
    println!("Ctrl-C ends it.");
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    let spent = Usd::from_nanos(together.bill().nano_usd);
    println!("\n{} calls, worth {spent}", together.calls());
    Ok(())
}
