//! Typed answers: a support mail becomes a value of a Rust type.
//!
//! `cargo run --example structured` runs on the simulator; set `TOGETHER_API_KEY` for the real API.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{error::Error, time::Duration};

use serde::Deserialize;
use serde_json::json;
use together_inference::{
    InferenceRequest, InferenceService,
    schemars::{self, JsonSchema},
    service::{Repair, Typed},
    testing::Together,
};

/// A support mail, sorted. Doc comments go into the schema: they are instructions to the model.
#[derive(Debug, Deserialize, JsonSchema)]
struct Ticket {
    /// At most ten words.
    summary: String,
    category: Category,
    /// Only if the mail names an order.
    order: Option<Order>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Category {
    Billing,
    Delivery,
    Other,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Order {
    number: u32,
    items: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (client, simulator) = common::client()?;
    if let Some(together) = &simulator {
        script(together);
    }
    let service = InferenceService::builder(client).build()?;

    for mail in [
        "Order 4711 (two lamps and a rug) was due on Monday and is not here. Where is it?",
        "Hello! You charged my card twice this month. Please give one payment back.",
    ] {
        let request = InferenceRequest::chat(mail).system("Sort this support mail.").max_tokens(300);
        let Typed { value: ticket, reply, repair, .. } = service.complete_as::<Ticket>(request).await?;
        println!("{mail}");
        println!("  {:?}: {}", ticket.category, ticket.summary);
        match &ticket.order {
            Some(order) => println!("  order {}: {}", order.number, order.items.join(", ")),
            None => println!("  no order named"),
        }
        // A first answer that is not a Ticket is sent back once with the error; that is a call of its own.
        println!(
            "  [{} {}{}]\n",
            reply.model(),
            reply.cost(),
            if repair == Repair::AskedAgain { ", at the second attempt" } else { "" }
        );
    }

    service.shutdown(Duration::from_secs(5)).await;
    println!("spent {}, answers that had to be repaired included", service.costs().known);
    Ok(())
}

/// What the simulated model says: a good answer, and one that needs a repair.
fn script(together: &Together) {
    let order = json!({"number": 4711, "items": ["lamp", "lamp", "rug"]});
    together.on("4711").reply_json(json!({"summary": "Order is late", "category": "delivery", "order": order}));
    // The request for a repair quotes the error; the mail itself is then no longer the last turn.
    together.on("not valid").reply_json(json!({"summary": "Card was charged twice", "category": "billing"}));
    together.on("charged").reply_json(json!({"summary": "Card was charged twice", "category": "payments"}));
}
