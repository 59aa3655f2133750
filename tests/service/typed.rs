//! Values of the caller's types.

use schemars::JsonSchema;
use serde::Deserialize;
use together_inference::{
    InferenceRequest, Price,
    client::Tool,
    inference::{Origin, Source},
    router::{Capabilities, CatalogRouter, Known, ModelRoute},
    service::{Error, ErrorKind, Repair, Typed},
    testing::Fault,
};
use tokio::time::Instant;

use crate::{
    doubles::SlowCache,
    world::{LARGE, World, in_turn, ms, muse, route, secs, settle},
};

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
struct City {
    name: String,
    inhabitants: u32,
}

async fn city(world: &World, request: InferenceRequest) -> Result<Typed<City>, Error> {
    world.service.complete_as::<City>(request).await
}

const LIMA: &str = r#"{"name":"Lima","inhabitants":10000000}"#;

#[tokio::test(start_paused = true)]
async fn a_valid_first_answer_is_the_value() {
    let world = World::new();
    world.sim.on("Peru").reply(format!("```json\n{LIMA}\n```"));
    let typed = city(&world, muse("The largest city of Peru?")).await.unwrap();
    assert_eq!((typed.value.name.as_str(), typed.value.inhabitants, typed.repaired()), ("Lima", 10_000_000, false));
    let body = world.sim.requests()[0].body.clone();
    assert_eq!(body["temperature"], 0.0, "unless it is set");
    assert_eq!(body["response_format"]["json_schema"]["name"], "City");
    assert!(body["response_format"]["json_schema"]["schema"]["properties"]["inhabitants"].is_object());
    city(&world, muse("The largest city of Peru?").temperature(0.5)).await.unwrap();
    assert_eq!(world.sim.requests()[1].body["temperature"], 0.5);
    let made_up = city(&world, muse("Any city?")).await.unwrap();
    assert!(!made_up.repaired(), "the schema alone is enough");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn one_bad_answer_is_repaired_with_a_second_call() {
    let world = World::new();
    world.sim.on("not valid for the schema").reply(LIMA);
    world.sim.on("Peru").reply(r#"{"name":"Lima","inhabitants":"ten million"}"#);
    let typed = city(&world, muse("The largest city of Peru?").model(LARGE)).await.unwrap();
    assert!(typed.repaired());
    assert_eq!((typed.value.inhabitants, world.calls()), (10_000_000, 2));
    let messages = world.sim.requests()[1].body["messages"].clone();
    assert_eq!(messages[1]["role"], "assistant");
    assert!(messages[1]["content"].as_str().unwrap().contains("ten million"));
    let records = world.at_rest().await;
    assert_eq!(records.len(), 2, "both were paid");
    assert_ne!(records[0].request, records[1].request);
    assert_eq!(typed.reply.cost(), records[1].cost);
    assert_eq!(typed.cost(), records[0].cost.plus(records[1].cost));
}

#[tokio::test(start_paused = true)]
async fn two_bad_answers_are_an_error_that_keeps_the_text() {
    let world = World::new();
    world.sim.on("").reply("Lima has a secret");
    let error = city(&world, muse("The largest city of Peru?").model(LARGE)).await.unwrap_err();
    assert_eq!((error.kind(), error.text(), world.calls()), (ErrorKind::InvalidOutput, Some("Lima has a secret"), 2));
    assert!(!error.to_string().contains("secret") && !format!("{error:?}").contains("secret"), "{error:?}");
    assert_eq!(error.attempts().len(), 2, "both calls'");
    let records = world.at_rest().await;
    assert_eq!(error.cost(), records[0].cost.plus(records[1].cost));
}

#[tokio::test(start_paused = true)]
async fn the_repair_shares_the_deadline() {
    // Scenario: a call with 3 s, an upstream that takes 2 s and whose first answer is not of the type.
    // Expected: an error at 3 s; and none but the first where nothing is left for a second.
    let world = World::new();
    world.sim.on("").reply("not JSON");
    world.sim.latency(secs(2));
    let start = Instant::now();
    let error = city(&world, muse("Peru?").model(LARGE).deadline(secs(3))).await.unwrap_err();
    assert_eq!((error.kind(), error.text()), (ErrorKind::DeadlineExceeded, Some("not JSON")), "{error}");
    assert!(error.cost().charge() > together_inference::Usd::ZERO, "the first answer was paid");
    assert!((secs(3)..=ms(3_005)).contains(&start.elapsed()), "{:?}", start.elapsed());
    tokio::time::sleep(secs(10)).await;
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_upstreams_error_is_not_repaired() {
    let world = World::new();
    world.sim.fail_next(1, Fault::status(422));
    let error = city(&world, muse("Peru?").model(LARGE)).await.unwrap_err();
    assert_eq!((error.kind(), world.calls()), (ErrorKind::Refused, 1));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_typed_answer_is_cached_like_any_other() {
    let world = World::new();
    for _ in 0..2 {
        city(&world, muse("Any city?")).await.unwrap();
    }
    assert_eq!(world.calls(), 1);
    let acme = world.service.for_tenant("acme");
    acme.complete_as::<City>(muse("Any city?")).await.unwrap();
    assert_eq!(world.calls(), 2, "for another tenant it is another question");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_type_does_not_stay_in_the_cache() {
    // Scenario: the same question twice; the answers are not of the type, with a cache in memory and one that takes turns.
    // Expected: four calls upstream, nothing from the cache.
    for slow in [false, true] {
        let world = World::with(|builder| if slow { builder.cache(SlowCache::default()) } else { builder });
        world.sim.on("").reply("Lima");
        for calls in [2, 4] {
            let error = city(&world, muse("The largest city of Peru?")).await.unwrap_err();
            assert_eq!((error.kind(), error.attempts().len()), (ErrorKind::InvalidOutput, 2));
            assert_eq!(world.calls(), calls, "{slow}");
        }
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_repaired_answer_is_asked_for_again_but_its_repair_is_kept() {
    let world = World::new();
    world.sim.on("not valid for the schema").reply(LIMA);
    world.sim.on("Peru").reply("Lima");
    let first = city(&world, muse("The largest city of Peru?")).await.unwrap();
    let again = city(&world, muse("The largest city of Peru?")).await.unwrap();
    assert!(first.repaired() && again.repaired());
    assert_eq!((world.calls(), again.reply.source()), (3, Source::Cache(Origin::Memory)));
    assert_eq!(again.cost().known().map(|cost| cost.nanos()), Some(world.sim.bill().lines[2].nano_usd));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn broken_json_is_mended_once_and_flagged() {
    let world = World::new();
    world.sim.on("Peru").reply("Sure:\n```json\n{'name': \"Lima\", inhabitants: 10000000,}\n```\nMore?");
    let typed = city(&world, muse("The largest city of Peru?")).await.unwrap();
    assert_eq!((typed.value.inhabitants, typed.repair, world.calls()), (10_000_000, Repair::Mended, 1));
    assert!(typed.repaired());
    world.sim.on("not valid for the schema").reply("{\"name\": \"Lima\", \"inhabitants\": 1");
    world.sim.on("Chile").reply("I do not know.");
    let typed = city(&world, muse("The largest city of Chile?")).await.unwrap();
    assert_eq!((typed.value.inhabitants, typed.repair, world.calls()), (1, Repair::AskedAgainAndMended, 3));
    world.at_rest().await;
}

/// Scenario: an answer that `max_tokens` cut inside of its JSON, which could be mended.
/// Expected: an error that says so and keeps the text; the model is not asked again, since it would be cut again.
#[tokio::test(start_paused = true)]
async fn what_max_tokens_cut_is_never_mended() {
    let world = World::new();
    world.sim.on("Peru").reply(LIMA);
    let error = city(&world, muse("The largest city of Peru?").max_tokens(4)).await.unwrap_err();
    assert_eq!((error.kind(), world.calls()), (ErrorKind::InvalidOutput, 1));
    let cut = error.truncated().unwrap();
    assert_eq!((cut.thinking_only, cut.used, cut.cap), (false, 4, Some(4)));
    assert!(LIMA.starts_with(error.text().unwrap()));
    let error = world.service.stream_as::<City>(muse("The largest city of Peru?").max_tokens(4)).await.unwrap();
    let error = error.finish().await.unwrap_err();
    assert_eq!((error.kind(), error.truncated().unwrap().used), (ErrorKind::InvalidOutput, 4));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_typed_stream_shows_what_is_complete_and_ends_as_the_plain_call_does() {
    let world = World::new();
    for (answer, repair) in [(LIMA, Repair::None), ("Look: {name: \"Lima\", inhabitants: 10000000,}!", Repair::Mended)]
    {
        world.sim.on("Peru").reply(answer);
        let mut stream = world.service.stream_as::<City>(muse("The largest city of Peru?")).await.unwrap();
        let (mut named, mut pieces) = (Vec::new(), 0);
        while let Some(partial) = stream.next().await {
            pieces += 1;
            named.push(partial.unwrap().get::<String>("/name"));
        }
        let first = named.iter().position(Option::is_some).unwrap();
        assert!(first > 0 && first < pieces, "complete before the end, not at the start");
        assert!(named[first..].iter().all(|name| name.as_deref() == Some("Lima")), "never taken back");
        let typed = stream.finish().await.unwrap();
        assert_eq!((typed.value.inhabitants, typed.repair), (10_000_000, repair));
    }
    let records = world.at_rest().await;
    assert_eq!(records.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_typed_stream_of_something_else_is_an_error_that_keeps_the_text_and_dropping_one_leaks_nothing() {
    let world = World::new();
    world.sim.on("Peru").reply(r#"{"name":"Lima","inhabitants":"many"}"#);
    let stream = world.service.stream_as::<City>(muse("The largest city of Peru?")).await.unwrap();
    let error = stream.finish().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.text()),
        (ErrorKind::InvalidOutput, Some(r#"{"name":"Lima","inhabitants":"many"}"#))
    );
    let mut stream = world.service.stream_as::<City>(muse("The largest city of Peru?")).await.unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    assert_eq!(world.at_rest().await.len(), 2);
}

/// Scenario: answers with drafts in their reasoning, doubled keys, broken texts and leaked tool calls.
/// Expected: what the stream ends with is what the plain call gives; no name shows that is not in the value.
#[tokio::test(start_paused = true)]
async fn a_typed_stream_gives_what_the_plain_call_gives() {
    let world = World::new();
    world.sim.on("not valid for the schema").reply("No.");
    let found = |inhabitants| Some(("Lima".to_owned(), inhabitants));
    for (number, (text, value)) in [
        (r#"Maybe {"name":"X","inhabitants":1}? No.</think>{"name":"Lima","inhabitants":2}"#, found(2)),
        (
            concat!(
                r#"<|channel|>analysis<|message|>{"name":"X","#,
                r#""inhabitants":1}<|end|><|start|>assistant<|channel|>final<|message|>{"name":"Lima","#,
                r#""inhabitants":3}"#
            ),
            found(3),
        ),
        (r#"{"name":"Lima","inhabitants":4,"name":"X"}"#, found(4)),
        (r#"{"name":"Lima","inhabitants":5,}"#, found(5)),
        (r#"{"name":"Lima","inhabitants":6, {"name":"X","inhabitants":7}"#, None),
        (r#"<tool_call>{"name":"weather","inhabitants":5}</tool_call>"#, None),
    ]
    .into_iter()
    .enumerate()
    {
        world.sim.on(format!("question {number}.")).reply(text);
        let ask = || muse(format!("question {number}.")).model(LARGE);
        let mut stream = world.service.stream_as::<City>(ask()).await.unwrap();
        let mut seen: Option<String> = None;
        while let Some(partial) = stream.next().await {
            let name = partial.unwrap().get::<String>("/name");
            assert!(seen.is_none() || name == seen, "{text}: {seen:?} then {name:?}");
            seen = name;
        }
        let streamed = stream.finish().await.map(|typed| (typed.value.name, typed.value.inhabitants));
        assert_eq!(streamed.ok(), value, "{text}");
        let plain = city(&world, ask()).await.map(|typed| (typed.value.name, typed.value.inhabitants));
        assert_eq!(plain.ok(), value, "{text}");
        assert!(value.is_none() || seen.as_deref() == Some("Lima"), "{text}: {seen:?}");
    }
    world.at_rest().await;
}

/// Scenario: the only model is known not to take a schema.
/// Expected: no route; asked for by prompt, it gets the schema in its instructions and its answer is read all the same.
#[tokio::test(start_paused = true)]
async fn a_model_without_schemas_is_left_out_or_prompted() {
    let plain = Capabilities::all().json_schema(Known::No);
    let router = CatalogRouter::empty().with(ModelRoute::new("together", LARGE).capabilities(plain));
    let world = World::with(|builder| builder.router(router).price(&route(LARGE), Price::FREE));
    world.sim.on("Peru").reply(format!("Here it is: {LIMA}"));
    let error = city(&world, muse("The largest city of Peru?")).await.unwrap_err();
    assert_eq!((error.kind(), world.calls()), (ErrorKind::NoRoute, 0));
    let asked = muse("The largest city of Peru?").system("Be brief.").json_by_prompt();
    let typed = city(&world, asked).await.unwrap();
    assert_eq!((typed.value.inhabitants, typed.repair), (10_000_000, Repair::Mended));
    let body = world.sim.requests()[0].body.clone();
    assert!(body.get("response_format").is_none());
    assert_eq!(body["messages"][0]["content"], "Be brief.");
    assert!(body["messages"][1]["content"].as_str().unwrap().contains("\"inhabitants\""), "{body}");
    world.at_rest_at_own_prices().await;
}

/// Scenario: a thousand answers that hold tool calls in their text, offered tools or not.
/// Expected: reported; never a call.
#[tokio::test(start_paused = true)]
async fn a_tool_call_in_a_text_is_reported_and_never_a_call() {
    let world = World::new();
    let tool = || Tool::function("weather", "The weather now", serde_json::json!({"type": "object"}));
    let markers = ["<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<function=weather>"];
    for round in 0..1_000_usize {
        let marker = markers[round % markers.len()];
        let call = r#"{"name": "weather", "arguments": {"city": "Lima"}}"#;
        let question = format!("weathers {round}?");
        world.sim.on(question.clone()).times(1).reply(format!("{}{marker}{call}", "Let me see. ".repeat(round % 3)));
        let request = if round % 2 == 0 { muse(question).tool(tool()) } else { muse(question) };
        let reply = world.service.complete(request).await.unwrap();
        assert!(reply.tool_calls().is_empty(), "{round}");
        assert!(reply.leaked_tool_markup().is_some(), "{round}");
    }
    // Also in an answer that is not the first one.
    world.sim.on("twice?").reply_with(in_turn(&["A plain answer.", "<tool_call>{}</tool_call>"]));
    let reply = world.service.complete(muse("twice?").n(2)).await.unwrap();
    assert_eq!((reply.text(), reply.leaked_tool_markup()), ("A plain answer.", Some("<tool_call>")));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_typed_streams_unusable_answer_does_not_stay_in_the_cache() {
    let world = World::new();
    world.sim.on("Peru").reply_with(in_turn(&["I do not know.", LIMA, "none the less"]));
    let stream = async || world.service.stream_as::<City>("The largest city of Peru?").await.unwrap().finish().await;
    assert_eq!(stream().await.unwrap_err().kind(), ErrorKind::InvalidOutput);
    settle().await;
    assert_eq!(stream().await.unwrap().reply.source, Source::Miss);
    settle().await;
    assert_eq!(stream().await.unwrap().reply.source, Source::Cache(Origin::Memory));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_unusable_answer_does_not_stay_in_the_cache_either_where_the_prompt_asks_for_the_json() {
    let world = World::new();
    world.sim.on("Peru").reply_with(in_turn(&["I do not know.", LIMA]));
    let ask = || muse("The largest city of Peru?").json_by_prompt();
    assert_eq!(city(&world, ask()).await.unwrap_err().kind(), ErrorKind::InvalidOutput);
    let typed = city(&world, ask()).await.unwrap();
    assert_eq!((typed.reply.source, typed.repair), (Source::Miss, Repair::None));
    world.at_rest().await;
}
