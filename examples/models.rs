//! The models that can be asked: price, context, abilities, tier, and what is going away.
//!
//! `cargo run --example models -- [--task chat] [--json]` lists the shipped catalogue, brought up to date from the
//! simulator's lists; set `TOGETHER_API_KEY` for the real API's.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{env, error::Error, sync::Arc};

use serde_json::json;
use together_inference::{
    InferenceService, Task,
    router::{CatalogRouter, Known, ModelRoute, ModelRouter, RouteState},
    types::Rate,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let task = args.iter().position(|arg| arg == "--task").and_then(|at| args.get(at + 1));
    let task = task.map(|task| task.parse::<Task>()).transpose()?;
    let (client, _) = common::client()?;
    let router = Arc::new(CatalogRouter::builtin());
    let service = InferenceService::builder(client).router(Arc::clone(&router)).build()?;
    let refreshed = service.refresh_catalogue().await;
    for failure in &refreshed.failures {
        eprintln!("(the list of {} could not be read, what is shipped is shown: {})", failure.upstream, failure.error);
    }

    let mut routes = router.routes();
    routes.retain(|route| task.is_none_or(|task| route.tasks.contains(&task)));
    routes
        .sort_by_key(|route| (route.tasks.first().copied(), route.tier, route.price.map(|price| price.output.picos())));
    if args.iter().any(|arg| arg == "--json") {
        routes.iter().for_each(|route| println!("{}", json_line(route)));
        return Ok(());
    }
    println!(
        "{:<39} {:<9} {:<5} {:>8} {:>7} {:>7} {:>7}  {:<4} {:<4} {:<4} {:<4} state",
        "model", "task", "tier", "context", "$/M in", "out", "cached", "tool", "json", "see", "mind"
    );
    routes.iter().for_each(|route| println!("{}", line(route)));
    println!("\n{} models; {} new and {} changed by the lists", routes.len(), refreshed.new, refreshed.changed);
    Ok(())
}

fn line(route: &ModelRoute) -> String {
    let can = &route.capabilities;
    let tasks: Vec<&str> = route.tasks.iter().map(|task| task.as_str()).collect();
    let price = |of: Option<Rate>| of.map_or_else(|| "?".to_owned(), dollars);
    let (input, output) = (route.price.map(|price| price.input), route.price.map(|price| price.output));
    let cached = route.price.and_then(|price| price.cached_input);
    format!(
        "{:<39} {:<9} {:<5} {:>8} {:>7} {:>7} {:>7}  {:<4} {:<4} {:<4} {:<4} {}",
        route.id().model().as_str(),
        tasks.join(","),
        route.tier.map_or("-", |tier| tier.as_str()),
        route.context.map_or_else(|| "?".to_owned(), |tokens| tokens.to_string()),
        price(input),
        price(output),
        price(cached),
        known(can.tools),
        known(can.json_schema),
        known(can.vision),
        known(can.reasoning),
        state(route),
    )
}

/// `0.15` of `$0.15/M`: the heading says the unit.
fn dollars(rate: Rate) -> String {
    rate.to_string().trim_start_matches('$').trim_end_matches("/M").to_owned()
}

const fn known(known: Known) -> &'static str {
    match known {
        Known::Yes => "yes",
        Known::No => "no",
        _ => "?",
    }
}

fn state(route: &ModelRoute) -> String {
    match &route.state {
        RouteState::Live if route.deprecated => "deprecated".to_owned(),
        RouteState::Live => "live".to_owned(),
        RouteState::Preview => "preview".to_owned(),
        RouteState::Retired { to: Some(to) } => format!("retired -> {}", to.model()),
        _ => "retired".to_owned(),
    }
}

fn json_line(route: &ModelRoute) -> serde_json::Value {
    let can = &route.capabilities;
    json!({
        "model": route.id().model(),
        "upstream": route.id().upstream(),
        "tasks": route.tasks,
        "tier": route.tier,
        "context": route.context,
        "usd_per_million": {
            "input": route.price.map(|price| dollars(price.input)),
            "output": route.price.map(|price| dollars(price.output)),
            "cached_input": route.price.and_then(|price| price.cached_input).map(dollars),
        },
        "tools": known(can.tools),
        "json_schema": known(can.json_schema),
        "vision": known(can.vision),
        "reasoning": known(can.reasoning),
        "state": state(route),
    })
}
