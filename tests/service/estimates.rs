//! What a call would cost, said before it: the simulator's own bill is the judge.

use together_inference::{
    Cost, InferenceRequest, ModelId, Price, UsageSource, Usd,
    client::ImageInput,
    inference::CountTokens,
    service::ErrorKind,
    testing::{Fault, SimModel, UsagePlacement},
    usd,
};

use crate::{
    doubles::Quarters,
    plane_money::{request, sample, world},
    world::{LARGE, MID, SMALL, World, ask, muse, route},
};

const E5: &str = "intfloat/multilingual-e5-large-instruct";
const FLUX: &str = "black-forest-labs/FLUX.1-schnell";

/// Scenario: three thousand calls of every kind, each estimated before it is made.
/// Expected: the estimate sends nothing, what is expected is never above the bound, and no bill is.
#[tokio::test(start_paused = true)]
async fn no_bill_is_above_the_bound_of_its_estimate() {
    let world = world();
    for request in sample(&request(), 3_000) {
        let (calls, billed) = (world.calls(), world.sim.bill().nano_usd);
        let estimates = world.service.estimate(&request).await.unwrap();
        assert_eq!(world.calls(), calls, "an estimate sends nothing");
        for one in &estimates.candidates {
            assert!(one.expected.charge() <= one.at_most.charge(), "{one}");
            assert!(
                one.prompt_tokens() <= one.prompt_tokens_at_most()
                    && one.output_tokens() <= one.output_tokens_at_most()
            );
        }
        let reply = world.service.complete(&request).await;
        let billed = Usd::from_nanos(world.sim.bill().nano_usd - billed);
        let Ok(reply) = reply else { continue };
        let estimate = estimates.candidates.iter().find(|one| one.route == reply.route).unwrap();
        assert!(billed <= estimate.at_most.charge(), "{billed} was billed for {estimate} of {request:?}");
        assert!(estimate.is_bounded, "all of them say max_tokens, or have no answer: {estimate}");
    }
    world.at_rest().await;
}

/// Scenario: a thousand texts at a price of less than a nano-dollar a token, which are four calls.
/// Expected: the bound covers the rounding of each of them.
#[tokio::test(start_paused = true)]
async fn the_bound_of_many_texts_covers_every_call() {
    let tiny = Price::per_million(usd!("0.000003"), Usd::ZERO);
    let world = World::with(|builder| builder.price(&route(E5), tiny).tokenizer(Quarters));
    let texts: Vec<String> = (0..1_000).map(|number| format!("text {number}")).collect();
    let request = InferenceRequest::embedding(texts).model(E5);
    let estimates = world.service.estimate(&request).await.unwrap();
    let reply = world.service.embed(request).await.unwrap();
    assert_eq!(world.calls(), 4);
    assert!(reply.cost().charge() <= estimates.chosen().unwrap().at_most.charge(), "{estimates}");
    world.at_rest_at_own_prices().await;
}

#[tokio::test(start_paused = true)]
async fn an_estimate_says_what_it_does_not_know() {
    let world = World::new();
    world.sim.add_model(SimModel::chat("acme/unheard-of"));
    let unpriced = world.service.estimate(&muse("hi").model("acme/unheard-of")).await.unwrap();
    let chosen = unpriced.chosen().unwrap();
    assert_eq!((chosen.expected, chosen.at_most, chosen.price), (Cost::Unpriced, Cost::Unpriced, None));
    assert!(unpriced.cheapest().is_none() && unpriced.to_string().contains("unpriced"), "{unpriced}");
    // The provider is not told where to stop: what is assumed is no bound.
    let open = world.service.estimate(&muse("hi").model(LARGE)).await.unwrap();
    let chosen = open.chosen().unwrap();
    assert!(!chosen.is_bounded && chosen.output_tokens_at_most() == 4_096, "{open}");
    assert!(open.to_string().contains("if it says 4096 tokens"), "{open}");
    // A ceiling does not stop the question of what it would have to be.
    let dear = muse("hi").model(LARGE).max_tokens(100).max_cost(usd!("0.000001"));
    let estimates = world.service.estimate(&dear).await.unwrap();
    let needed = estimates.chosen().unwrap().at_most.charge();
    assert_eq!(world.service.complete(&dear).await.unwrap_err().kind(), ErrorKind::NoRoute);
    world.service.complete(dear.max_cost(needed)).await.unwrap();
    assert!(format!("{estimates:#}").lines().count() >= 3, "{estimates:#}");
    world.at_rest().await;
}

/// Scenario: a route answers with about forty tokens each time.
/// Expected: until it has done so five times 256 are expected of an answer, from then on what it had on average.
#[tokio::test(start_paused = true)]
async fn what_a_route_answers_is_expected_of_it() {
    let world = World::new();
    world.sim.on("").reply("word ".repeat(32));
    let expected = async || {
        let estimates = world.service.estimate(&muse("next").model(MID)).await.unwrap();
        estimates.chosen().unwrap().output_tokens()
    };
    for number in 0..5 {
        assert_eq!(expected().await, 256);
        world.service.complete(muse(number.to_string()).model(MID)).await.unwrap();
    }
    let average = world.sim.bill().completion_tokens.div_ceil(5);
    assert_eq!(expected().await, average);
    let two = world.service.estimate(&muse("next").model(MID).n(2)).await.unwrap();
    assert_eq!(two.chosen().unwrap().output_tokens(), 2 * average, "each of two answers");
    let short = world.service.estimate(&muse("next").model(MID).max_tokens(7)).await.unwrap();
    assert_eq!(short.chosen().unwrap().output_tokens(), 7, "never above what is allowed");
    world.at_rest().await;
}

/// A tokenizer that finds a token a word, exactly or so it says.
#[derive(Debug)]
struct Words {
    is_exact: bool,
}

impl CountTokens for Words {
    fn count(&self, model: &ModelId, text: &str) -> Option<u64> {
        assert!(!text.contains("panic"), "on purpose");
        (*model == LARGE).then(|| text.split_whitespace().count() as u64)
    }

    fn is_exact(&self, _: &ModelId) -> bool {
        self.is_exact
    }
}

/// Scenario: an application brings a tokenizer, one that is exact and one that is not, for one of two models.
/// Expected: both say what is expected; only the exact one narrows the bound; a panic of it costs nobody an answer.
#[tokio::test(start_paused = true)]
async fn a_tokenizer_of_ones_own_counts_and_bounds_only_if_it_is_exact() {
    let question = "one two three four";
    for is_exact in [false, true] {
        let world = World::with(|builder| builder.tokenizer(Words { is_exact }));
        let estimates = world.service.estimate(&muse(question).models([LARGE, MID]).max_tokens(9)).await.unwrap();
        let [large, mid] = &estimates.candidates[..] else { panic!("{estimates:#}") };
        assert_eq!(large.prompt_tokens(), 4 + 4);
        assert_eq!(large.prompt_tokens_at_most(), if is_exact { 4 + 16 } else { question.len() as u64 + 16 });
        assert_ne!(mid.prompt_tokens(), 0, "the estimate counts for models that it does not know");

        world.sim.usage_placement(UsagePlacement::Never);
        world.sim.on("one").reply("five six seven");
        let stream = world.service.stream(muse(question).model(LARGE)).await.unwrap();
        let reply = stream.finish().await.unwrap();
        assert_eq!((reply.usage().prompt, reply.usage().completion), (8, 3), "counted by it");
        assert_eq!(reply.usage_source, UsageSource::Counted);
        world.service.complete(muse("panic now").model(LARGE)).await.unwrap();
        world.at_rest().await;
    }
}

/// Scenario: the first choice may cost more than a request allows, the next one does not; a text, a picture and
/// vectors. Expected: what is affordable answers without anything being sent to the dear one; where nothing is, the
/// error says what each would cost and what to change.
#[tokio::test(start_paused = true)]
async fn a_ceiling_goes_to_a_cheaper_model_or_says_what_it_would_have_to_be() {
    let world = world();
    let request = muse("Why?").models([LARGE, SMALL]).max_tokens(100);
    let estimates = world.service.estimate(&request).await.unwrap();
    let [large, small] = [0, 1].map(|at| estimates.candidates[at].at_most.charge());
    assert!(small < large);
    let reply = world.service.complete(request.clone().max_cost(small)).await.unwrap();
    assert_eq!((reply.model().as_str(), reply.attempts.len(), world.sim.calls_to(LARGE)), (SMALL, 1, 0));

    let picture = InferenceRequest::from(ImageInput::new("a lighthouse").size(1_000, 1_000).n(2)).model(FLUX);
    let vectors = InferenceRequest::embedding(["sky", "sea"]).model(E5);
    for request in [request, picture, vectors] {
        let (calls, estimates) = (world.calls(), world.service.estimate(&request).await.unwrap());
        let least = estimates.candidates.iter().map(|one| one.at_most.charge()).min().unwrap();
        let ceiling = least - Usd::from_nanos(1);
        let error = world.service.complete(request.clone().max_cost(ceiling)).await.unwrap_err();
        let too_dear = error.too_dear().unwrap();
        assert_eq!((too_dear.ceiling, too_dear.least().unwrap().1), (ceiling, least), "{error}");
        assert!(error.to_string().contains(&format!("set max_cost to {least}")), "{error}");
        assert!(error.no_route().is_some_and(|nobody| !nobody.rejected.is_empty()));
        assert_eq!(world.calls(), calls, "refused before anything was sent");
        world.service.complete(request.max_cost(least)).await.unwrap();
    }
    world.at_rest().await;
}

/// Scenario: an attempt is lost after it may have been billed, under a ceiling that has room for one attempt.
/// Expected: no second one, and the error of the first; with room for two the second one answers.
#[tokio::test(start_paused = true)]
async fn a_ceiling_holds_over_all_attempts_together() {
    for (room, answers) in [(1, false), (2, true)] {
        let world = World::new();
        let request = muse("Why?").models([MID, LARGE]).max_tokens(100);
        let estimates = world.service.estimate(&request).await.unwrap();
        let both = estimates.candidates.iter().map(|one| one.at_most.charge());
        let ceiling = if room == 2 { both.sum() } else { both.max().unwrap() };
        world.sim.fail_next(1, Fault::disconnect());
        let reply = world.service.complete(request.max_cost(ceiling)).await;
        assert_eq!(reply.is_ok(), answers, "{reply:?}");
        if let Err(error) = reply {
            assert_eq!((error.kind(), error.attempts().len()), (ErrorKind::Upstream, 1), "{error}");
        }
        let charged: Usd = world.at_rest().await.iter().map(|record| record.cost.charge()).sum();
        assert!(charged <= ceiling, "{charged} {ceiling}");
    }
}

/// Scenario: the price rises over the ceiling between two calls, by the application's word.
/// Expected: the next call is refused, at once and before anything is sent; a pinned model is not exchanged.
#[tokio::test(start_paused = true)]
async fn a_ceiling_is_held_against_the_price_of_now() {
    let world = World::new();
    let request = ask("Why?").model(MID).max_tokens(50);
    let estimates = world.service.estimate(&request).await.unwrap();
    let request = request.max_cost(estimates.chosen().unwrap().at_most.charge());
    world.service.complete(request.clone()).await.unwrap();
    let dear = Price::per_million(usd!("100"), usd!("100"));
    world.service.set_price(&route(MID), dear);
    let error = world.service.complete(request.user("now?")).await.unwrap_err();
    assert!(error.too_dear().is_some_and(|too_dear| too_dear.candidates.len() == 1), "{error}");
    assert_eq!(world.calls(), 1);
    world.at_rest().await;
}

/// Scenario: an answer is not of the type that was asked for, under a ceiling that each of two calls keeps by itself.
/// Expected: where both together may be over it the model is not asked again, and the answer is on the error.
#[cfg(feature = "schema")]
#[tokio::test(start_paused = true)]
async fn a_ceiling_holds_over_an_answer_and_the_one_that_mends_it() {
    let world = World::new();
    world.sim.on("").reply("forty-two");
    let request = ask("How many of them? ".repeat(400)).model(MID).max_tokens(50);
    let bound = world.service.estimate(&request).await.unwrap().chosen().unwrap().at_most.charge();
    let a_tenth_more = Usd::from_nanos(bound.nanos() * 11 / 10);
    for (ceiling, calls) in [(bound + bound, 2), (a_tenth_more, 3)] {
        let error = world.service.complete_as::<u32>(request.clone().max_cost(ceiling)).await.unwrap_err();
        assert_eq!((error.text(), world.calls()), (Some("forty-two"), calls), "{error}");
        assert!(error.cost().charge() <= ceiling);
    }
    world.at_rest().await;
}
