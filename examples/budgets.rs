//! Two tenants race for five dollars: what is set aside, what is spent, who is told, and the moment of refusal.
//!
//! `cargo run --example budgets` always runs on the simulator, and on virtual time.
#![expect(clippy::print_stdout, reason = "the output is the example")]

use std::{error::Error, time::Duration};

use futures_util::future::join_all;
use together_inference::{
    InferenceRequest, InferenceService, Price, RouteId, async_trait,
    cost::{Budget, Scope, Window},
    notify::{Alert, Notifier, NotifyError},
    testing::Together,
    usd,
};
use tokio::time::sleep;

const MODEL: &str = "zai-org/GLM-5.3";

/// Prints what a person should know.
#[derive(Debug)]
struct Printer;

#[async_trait]
impl Notifier for Printer {
    async fn notify(&self, alert: &Alert) -> Result<(), NotifyError> {
        println!("       alert {}: {}", alert.kind().as_str(), alert.title());
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    eprintln!("(running on the simulator, nothing is spent)");
    let together = Together::new();
    together.on("").reply("A draft of about this length. ".repeat(50));
    together.latency(Duration::from_millis(200));
    let service = InferenceService::builder(together.client())
        // A model as dear as none is, so that the race is short.
        .price(&RouteId::new("together", MODEL), Price::per_million(usd!("100"), usd!("400")))
        .budget(Budget::total(usd!("5.00")).hard())
        .budget(Budget::daily(usd!("3.00")).per_tenant().hard().alert_at([]))
        .notifier(Printer)
        .build()?;

    println!("round  tenant   answered  refused   spent  of");
    let (tenants, mut explained) = (["acme", "globex"], [false, false]);
    for round in 1..=6 {
        // Four drafts of acme and three of globex at the same time.
        let draft = |n: usize| {
            let request = InferenceRequest::chat(format!("Draft {n}")).model(MODEL).max_tokens(400);
            service.complete(request.tenant(tenants[n % 2]))
        };
        let replies = join_all((0..7).map(draft)).await;
        sleep(Duration::from_millis(1)).await;
        for (which, tenant) in tenants.into_iter().enumerate() {
            let own: Vec<_> = replies.iter().skip(which).step_by(2).collect();
            let answered = own.iter().filter(|reply| reply.is_ok()).count();
            let budgets = service.budgets().remaining(&Scope::tenant(tenant)).await?;
            for budget in budgets {
                let refused = own.len() - answered;
                println!("{round:>5}  {tenant:<8} {answered:>8} {refused:>8} {:>7}  {}", budget.spent, budget.limit);
            }
            let refusal = own.into_iter().find_map(|reply| reply.as_ref().err());
            if let Some(refusal) = refusal.filter(|_| !std::mem::replace(&mut explained[which], true)) {
                println!("       refused: {refusal}");
            }
        }
    }

    // More for the whole service, while it runs; each tenant's own amount holds as before.
    service.budgets().set(Scope::Global, Window::Total, usd!("6.00"))?;
    let more = InferenceRequest::chat("One more").model(MODEL).max_tokens(400).tenant("globex");
    let answer = service.complete(more).await?;
    println!("raised to $6.00: globex goes on, for {}", answer.cost());
    for budget in service.budgets().remaining(&Scope::Global).await? {
        println!("the whole service: {} spent, {} set aside, {} left", budget.spent, budget.reserved, budget.left());
    }
    Ok(())
}
