//! Every kind of call, thousands of them by a seed: records and the provider's bill agree, and no answer is empty.

use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use together_inference::{
    InferenceRequest, Price, Usd,
    client::{ImageInput, RerankInput},
    cost::Ending,
    service::ErrorKind,
    testing::Fault,
    usd,
};

use crate::{
    doubles::Quarters,
    world::{LARGE, MID, SMALL, World, in_turn, route},
};

const E5: &str = "intfloat/multilingual-e5-large-instruct";
const FLUX: &str = "black-forest-labs/FLUX.1-schnell";
const RERANK: &str = "mixedbread-ai/Mxbai-Rerank-Large-V2";

pub(crate) fn world() -> World {
    World::with(|builder| {
        builder
            .tokenizer(Quarters)
            .price(&route(E5), Price::per_million(usd!("0.02"), Usd::ZERO))
            .price(&route(RERANK), Price::per_million(usd!("0.10"), Usd::ZERO))
            .price(&route(FLUX), Price::per_megapixel(usd!("0.0027")))
    })
}

/// So many values of a strategy, the same in every run.
pub(crate) fn sample<T>(strategy: &impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[11; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

fn words() -> impl Strategy<Value = String> {
    "[a-zé ]{1,12}".prop_map(|text| format!("{text}?"))
}

/// A request of any kind, with the temperature, the number of answers and the bound that it may have.
pub(crate) fn request() -> impl Strategy<Value = InferenceRequest> {
    let sampled = |request: InferenceRequest, (n, cold, most): (u32, bool, u32)| {
        request.n(n).temperature(if cold { 0.0 } else { 0.7 }).max_tokens(most)
    };
    let options = || (1..4_u32, any::<bool>(), 1..64_u32);
    let model = || select(vec![SMALL, MID, LARGE]);
    let chat = (words(), model(), options())
        .prop_map(move |(text, model, options)| sampled(InferenceRequest::chat(text).model(model), options));
    let prompt = (words(), model(), options())
        .prop_map(move |(text, model, options)| sampled(InferenceRequest::raw_prompt(text).model(model), options));
    let embedding = prop::collection::vec(words(), 1..9).prop_map(InferenceRequest::embedding);
    let image = (words(), 1..3_u32, 1..40_u32, 1..40_u32, proptest::option::of(0..3_u64)).prop_map(
        |(text, n, width, height, seed)| {
            let input = ImageInput::new(text).size(width, height).n(n).png();
            InferenceRequest::from(seed.map_or(input.clone(), |seed| input.seed(seed))).model(FLUX)
        },
    );
    let rerank = (words(), prop::collection::vec(words(), 1..6))
        .prop_map(|(query, texts)| InferenceRequest::from(RerankInput::new(query, texts)).model(RERANK));
    prop_oneof![3 => chat, 2 => prompt, 2 => embedding, 1 => image, 2 => rerank]
}

/// Scenario: three thousand calls of every kind, plain and streamed, some answered by the cache, some refused.
/// Expected: the records of each call cost exactly what the provider billed for it, and use what it counted.
#[tokio::test(start_paused = true)]
async fn records_and_the_providers_bill_agree_over_every_kind_of_call() {
    let world = world();
    let plan = (request(), any::<bool>(), proptest::option::weighted(0.05, select(vec![429_u16, 500, 503])));
    for (request, streamed, status) in sample(&plan, 3_000) {
        if let Some(status) = status {
            world.sim.fail_next(1, Fault::status(status));
        }
        let before = world.sim.bill();
        let streams = streamed && request.max_tokens_of().is_some();
        let cost = if streams {
            match world.service.stream(&request).await {
                Ok(stream) => stream.finish().await.map(|reply| reply.cost()).unwrap_or_else(|error| error.cost()),
                Err(error) => error.cost(),
            }
        } else {
            match world.service.complete(&request).await {
                Ok(reply) => reply.cost(),
                Err(error) => error.cost(),
            }
        };
        let billed = world.sim.bill().nano_usd - before.nano_usd;
        assert_eq!(cost.known().map(Usd::nanos), Some(billed), "{request:?}");
        world.sim.heal();
    }
    let records = world.at_rest().await;
    let bill = world.sim.bill();
    let sum = |of: fn(&together_inference::Usage) -> u64| records.iter().map(|record| of(&record.usage)).sum::<u64>();
    assert_eq!(records.iter().map(|record| record.cost.charge().nanos()).sum::<i64>(), bill.nano_usd);
    assert_eq!(
        (sum(|usage| usage.prompt), sum(|usage| usage.completion)),
        (bill.prompt_tokens, bill.completion_tokens)
    );
    assert_eq!((sum(|usage| usage.images), sum(|usage| usage.pixels)), (bill.images, bill.pixels));
    assert!(records.iter().any(|record| record.ending == Ending::Hit), "some were answered by the cache");
    assert!(bill.calls > 2_000, "{}", bill.calls);
}

/// Scenario: ten thousand calls for one or two answers to models that say nothing or white space, only think, are cut, or
/// answer.
/// Expected: an answer with something in it, or an error that says what was used up; never an empty answer. Of two, those
/// that said nothing are told.
#[tokio::test(start_paused = true)]
async fn no_answer_is_empty() {
    let world = world();
    world.sim.on("silent").reply("");
    world.sim.on("thinks").reply_reasoning("Let me think about it for a very long time indeed.", "Yes.");
    world.sim.on("broods").reply_reasoning("Let me think about it for a very long time indeed.", "");
    world.sim.on("blank").reply(" \n\t");
    world.sim.on("stutters").reply_with(in_turn(&["", "Yes.", " \n", "No."]));
    let kinds = select(vec!["silent", "blank", "stutters", "thinks", "broods", "plain"]);
    let (mut answers, mut truncated, mut silent, mut half) = (0, 0, 0, 0);
    for (kind, most, streamed, n) in sample(&(kinds, 1..40_u32, any::<bool>(), 1..3_u32), 10_000) {
        let request = InferenceRequest::chat(format!("it {kind}")).model(LARGE).max_tokens(most).n(n);
        let outcome = if streamed {
            match world.service.stream(request).await {
                Ok(stream) => stream.finish().await,
                Err(error) => Err(error),
            }
        } else {
            world.service.complete(request).await
        };
        match outcome {
            Ok(reply) => {
                assert!(!reply.text().trim().is_empty(), "{kind} {most} {streamed} {n}");
                let blank = reply.choices().iter().filter(|choice| choice.text().trim().is_empty()).count();
                assert_eq!(reply.silent(), blank, "{kind} {most} {streamed} {n}");
                half += usize::from(blank == 1);
                answers += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::EmptyAnswer, "{error}");
                match error.truncated() {
                    Some(cut) => {
                        assert!(cut.used <= u64::from(most * n) && cut.cap == Some(most));
                        assert_eq!(cut.thinking_only, matches!(kind, "thinks" | "broods"), "{kind} {most}");
                        truncated += 1;
                    }
                    None => silent += 1,
                }
            }
        }
    }
    assert!(answers > 2_000 && truncated > 1_500 && silent > 2_000, "{answers} {truncated} {silent}");
    assert!(half > 500, "{half}");
    let records = world.at_rest().await;
    let charged: i64 = records.iter().map(|record| record.cost.charge().nanos()).sum();
    assert_eq!((records.len(), charged), (10_000, world.sim.bill().nano_usd), "empty ones were paid as well");
}
