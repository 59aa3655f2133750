//! Tools: the model asks for calls, the program makes them and sends the results back.
//!
//! `cargo run --example tool_loop` runs on the simulator; set `TOGETHER_API_KEY` for the real API.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::error::Error;

use serde::Deserialize;
use serde_json::json;
use together_inference::{
    Cost, InferenceRequest, InferenceService, Usd,
    client::{Message, Tool, ToolCall},
    schemars::{self, JsonSchema},
    testing::Together,
};

/// A model that never stops asking is stopped.
const MOST_ROUNDS: usize = 4;

/// What the tool is called with.
#[derive(Deserialize, JsonSchema)]
struct City {
    /// The city's English name.
    city: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (client, simulator) = common::client()?;
    if let Some(together) = &simulator {
        script(together);
    }
    let service = InferenceService::builder(client).build()?;

    let weather = Tool::of::<City>("get_weather", "The weather in a city, now.");
    let mut request =
        InferenceRequest::chat("Is it warmer in Lisbon or in Oslo?").tool(weather.clone()).max_tokens(1_000);
    let mut cost = Cost::Known(Usd::ZERO);

    for round in 1..=MOST_ROUNDS {
        let reply = service.complete(&request).await?;
        cost = cost.plus(reply.cost());
        println!("round {round} [{} {}]", reply.model(), reply.cost());
        if reply.tool_calls().is_empty() {
            println!("  {reply}\n\nspent {cost}");
            return Ok(());
        }
        // The model's own turn goes back with the results: they refer to its calls by id.
        request = request.messages(reply.message().cloned());
        for call in reply.tool_calls() {
            let result = run(&weather, call).unwrap_or_else(|problem| format!("error: {problem}"));
            println!("  {}({}) -> {result}", call.name(), call.function.arguments);
            request = request.message(Message::tool(&call.id, result));
        }
    }
    Err(format!("no answer after {MOST_ROUNDS} rounds of tool calls; spent {cost}").into())
}

/// Runs one call. What goes wrong is text for the model: it may correct itself, so nothing here ends the program.
fn run(weather: &Tool, call: &ToolCall) -> Result<String, Box<dyn Error>> {
    match call.name() {
        "get_weather" => {
            // What the schema does not allow is told to the model in words.
            weather.check(call)?;
            let City { city } = call.arguments()?;
            match city.as_str() {
                "Lisbon" => Ok("18 degrees, sunny".to_owned()),
                "Oslo" => Ok("4 degrees, rain".to_owned()),
                _ => Err(format!("no weather station in {city}").into()),
            }
        }
        unknown => Err(format!("there is no tool named {unknown}; there is get_weather").into()),
    }
}

/// What the simulated model says: three calls at once, one of them of a tool that does not exist; then an answer.
fn script(together: &Together) {
    together.on("warmer").reply("Lisbon is warmer: 18 degrees against 4 in Oslo.");
    together.on("warmer").times(1).reply_tools([
        ("get_weather", json!({"city": "Lisbon"})),
        ("get_weather", json!({"city": "Oslo"})),
        ("get_tides", json!({"city": "Lisbon"})),
    ]);
}
