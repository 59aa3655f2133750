//! Every cost is the simulator's own bill, to the nano-dollar.

use std::panic::AssertUnwindSafe;

use serde_json::json;
use together_inference::{
    Cost, InferenceRequest, UsageSource, Usd,
    client::{JsonSchema, ResponseFormat, Tool},
    cost::{CostRecord, CostSink, Ending, MemoryCosts},
    inference::count_tokens,
    testing::UsagePlacement,
    types::AttemptId,
};

use crate::{
    books::Books,
    doubles::Quarters,
    world::{LARGE, MID, SMALL, World, muse},
};

const THINKER: &str = "moonshotai/Kimi-K3";
const MODELS: [&str; 4] = [LARGE, MID, SMALL, THINKER];

fn schema() -> ResponseFormat {
    ResponseFormat::JsonSchema(JsonSchema::strict(
        "city",
        json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}),
    ))
}

/// Calls of all kinds, each different from the others, with starts of conversations in common.
fn varied(number: usize) -> InferenceRequest {
    let request = muse(format!("question {number}: {}", "and why ".repeat(number % 7)))
        .system("You answer with care, at some length, and never without an example.".repeat(1 + number % 3))
        .model(MODELS[number % MODELS.len()]);
    match number % 6 {
        0 => request,
        1 => request.n(3),
        2 => request.user("please get weather").tool(Tool::function(
            "get_weather",
            "The weather of a city",
            json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}),
        )),
        3 => request.response_format(schema()),
        4 => request.extra("reasoning", json!({"enabled": true})),
        _ => request.max_tokens(5),
    }
}

#[tokio::test(start_paused = true)]
async fn every_answer_costs_what_the_provider_bills() {
    let world = World::new();
    world.sim.prompt_cache();
    let mut cached = 0;
    for number in 0..240 {
        let before = world.sim.bill().nano_usd;
        let reply = world.service.complete(varied(number)).await.unwrap();
        let bill = world.sim.bill();
        assert_eq!(reply.cost(), Cost::Known(Usd::from_nanos(bill.nano_usd - before)), "call {number}");
        assert_eq!(reply.usage_source, UsageSource::Reported);
        let (line, usage) = (bill.lines.last().unwrap(), reply.usage());
        assert_eq!(
            (usage.prompt, usage.cached, usage.completion),
            (line.prompt_tokens, line.cached_tokens, line.completion_tokens)
        );
        cached += usage.cached;
    }
    assert!(cached > 1_000, "the prompt cache was used: {cached}");
    let records = world.at_rest().await;
    assert_eq!((records.len(), world.costs.known().nanos()), (240, world.sim.bill().nano_usd));
    assert_eq!(world.service.costs().known, world.costs.known());
}

#[tokio::test(start_paused = true)]
async fn every_stream_costs_what_the_provider_bills_wherever_its_usage_stands() {
    let world = World::new();
    world.sim.prompt_cache();
    let placements = [
        UsagePlacement::FinalChunk,
        UsagePlacement::TrailingChunk,
        UsagePlacement::InChoice,
        UsagePlacement::Twice,
        UsagePlacement::AfterFinish,
    ];
    for (round, placement) in placements.into_iter().enumerate() {
        world.sim.usage_placement(placement);
        world.sim.fragment_streams([usize::MAX, 7, 1, 64, 500][round]);
        for number in 0..24 {
            let before = world.sim.bill().nano_usd;
            let stream = world.service.stream(varied(number * 5 + round)).await.unwrap();
            let reply = stream.finish().await.unwrap();
            let billed = Usd::from_nanos(world.sim.bill().nano_usd - before);
            assert_eq!(reply.cost(), Cost::Known(billed), "{placement:?} {number}");
            assert_eq!(reply.usage_source, UsageSource::Reported, "{placement:?} {number}");
        }
    }
    let records = world.at_rest().await;
    assert_eq!((records.len(), world.costs.known().nanos()), (120, world.sim.bill().nano_usd));
    assert!(records.iter().all(|record| record.ending == Ending::Answered && record.first_token.is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_redirect_is_priced_as_served_and_shown() {
    let world = World::new();
    world.sim.deprecate(LARGE, MID);
    for streams in [false, true] {
        let before = world.sim.bill().nano_usd;
        let reply = if streams {
            world.service.stream(muse("why?").model(LARGE)).await.unwrap().finish().await.unwrap()
        } else {
            world.service.complete(muse("why?").model(LARGE)).await.unwrap()
        };
        assert_eq!(reply.cost().known().unwrap().nanos(), world.sim.bill().nano_usd - before);
        assert_eq!((reply.model().as_str(), reply.route.model().as_str()), (MID, LARGE));
    }
    for record in world.at_rest().await {
        assert_eq!((record.model().as_str(), record.route.model().as_str()), (MID, LARGE));
    }
}

#[tokio::test(start_paused = true)]
async fn usage_that_is_missing_is_counted_and_flagged() {
    let world = World::new();
    world.sim.usage_placement(UsagePlacement::Never);
    let text = "Rayleigh scattering does it, as the short waves are bent the most.";
    world.sim.on("").reply(text);
    let request = muse("Why is the sky blue?").model(LARGE);
    let reply = world.service.stream(request).await.unwrap().finish().await.unwrap();
    assert_eq!(reply.usage_source, UsageSource::Counted);
    assert_eq!(reply.usage().completion, count_tokens(text).max(text.split(' ').count() as u64));
    assert!(reply.cost().known().is_some_and(|usd| usd > Usd::ZERO));
    let records = world.at_rest().await;
    assert_eq!((records.len(), records[0].usage_source), (1, UsageSource::Counted));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_is_one_record_of_what_had_arrived() {
    // Scenario: a stream of twenty tokens, a token a chunk, dropped after each number of them.
    // Expected: one record, flagged as counted, within a chunk of what the provider bills; the whole one is reported.
    let text = format!("aaaa{}", " bbb".repeat(19));
    for kept in 0..=20 {
        let world = World::with(|builder| builder.tokenizer(Quarters));
        world.sim.on("").reply(text.clone());
        let mut stream = world.service.stream(muse("Why?").model(LARGE)).await.unwrap();
        for _ in 0..kept {
            stream.next().await.unwrap().unwrap();
        }
        drop(stream);
        let records = world.at_rest().await;
        let line = world.sim.bill().lines[0].clone();
        assert_eq!((records.len(), world.sim.bill().calls), (1, 1));
        let record = &records[0];
        assert_eq!((record.usage_source, record.ending), (UsageSource::Counted, Ending::Cancelled), "{kept}");
        assert!(record.usage.completion.abs_diff(line.completion_tokens) <= 1, "{kept}: {record:?} {line:?}");
        assert_eq!(record.usage.prompt, line.prompt_tokens);
        assert!(record.cost.known().is_some_and(|usd| usd > Usd::ZERO), "never $0");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_stream_is_one_record_of_what_had_arrived() {
    let text = format!("aaaa{}", " bbb".repeat(19));
    for kept in 1..=20 {
        let world = World::new();
        world.sim.on("").reply(text.clone());
        world.sim.cut_stream_after(kept);
        let stream = world.service.stream(muse("Why?").model(LARGE)).await.unwrap();
        let error = stream.finish().await.unwrap_err();
        let (records, bill) = (world.at_rest().await, world.sim.bill());
        assert_eq!((records.len(), error.attempts().len()), (1, 1));
        assert_eq!(records[0].usage_source, UsageSource::Counted);
        assert!(records[0].usage.completion.abs_diff(bill.lines[0].completion_tokens) <= 1);
        assert_eq!(error.cost(), records[0].cost);
    }
}

/// What every test's books are compared by refuses records that are wrong, be it by a nano-dollar.
#[tokio::test(start_paused = true)]
async fn records_that_are_not_the_bill_are_noticed() {
    let world = World::with(|builder| builder.tokenizer(Quarters));
    world.service.complete(muse("why?").model(LARGE)).await.unwrap();
    let mut stream = world.service.stream(muse("Why?").model(MID)).await.unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    let right = world.at_rest().await;
    let adds_up = async |records: &[CostRecord]| {
        let costs = MemoryCosts::new(100);
        costs.record(records).await.unwrap();
        // Whoever panics has compared.
        let books = Books::new(&world.sim, &costs);
        std::panic::catch_unwind(AssertUnwindSafe(|| drop(books.add_up()))).is_ok()
    };
    assert!(adds_up(&right).await);
    let [told, counted] = &right[..] else { panic!("{right:?}") };
    let with = |record: &CostRecord, edit: fn(&mut CostRecord)| {
        let mut record = record.clone();
        edit(&mut record);
        record
    };
    let unknown = |record: &mut CostRecord, at_most: Usd| {
        record.usage_source = UsageSource::UpperBound;
        record.cost = Cost::Unknown { at_most };
    };
    let mut low = told.clone();
    unknown(&mut low, told.cost.charge() - Usd::from_nanos(1));
    let mut enough = told.clone();
    unknown(&mut enough, told.cost.charge());
    assert!(adds_up(&[enough, counted.clone()]).await, "a bound that is just enough");
    let other = |edit: fn(&mut CostRecord)| with(told, edit);
    for (wrong, records) in [
        (
            "a nano-dollar too much",
            [other(|it| it.cost = Cost::Known(it.cost.charge() + Usd::from_nanos(1))), counted.clone()],
        ),
        ("a token too little", [other(|it| it.usage.completion -= 1), counted.clone()]),
        ("another model", [other(|it| it.served = Some(MID.into())), counted.clone()]),
        ("a bound below what is billed", [low, counted.clone()]),
        ("counted far off", [told.clone(), with(counted, |it| it.usage.completion += 20)]),
        ("a hit that is not free", [told.clone(), with(counted, |it| it.ending = Ending::Hit)]),
        ("nothing of what is billed", [told.clone(), with(counted, |it| it.usage_source = UsageSource::None)]),
    ] {
        assert!(!adds_up(&records).await, "{wrong}");
    }
    assert!(!adds_up(&right[..1]).await, "one is missing");
    let twice = with(told, |it| it.attempt = AttemptId::new(7));
    assert!(!adds_up(&[told.clone(), twice, counted.clone()]).await, "one that was not billed");
}
