//! Requests of every kind with every field that the types have, by a fixed seed.

use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};
use together_inference::client::{
    ChatInput, Document, EmbeddingInput, ImageInput, JsonSchema, Lora, Message, Part, PromptInput, RerankInput,
    ResponseFormat, Tool, ToolCall, ToolChoice,
};

/// So many values of a strategy, the same in every run.
pub(crate) fn sample<T>(strategy: &impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 ,.é]{1,16}"
}

fn number(low: f64, high: f64) -> impl Strategy<Value = f64> {
    (0..=1_000_u32).prop_map(move |share| low + (high - low) * f64::from(share) / 1_000.0)
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        text().prop_map(Part::Text),
        Just(Part::ImageUrl("https://acme.example/a.png".into())),
        Just(Part::VideoUrl("https://acme.example/a.mp4".into())),
        Just(Part::AudioUrl("https://acme.example/a.mp3".into())),
        Just(Part::InputAudio { data: "AAAA".into(), format: "wav".into() }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let call = (text(), text()).prop_map(|(id, name)| ToolCall::new(id, name, "{}"));
    prop_oneof![
        text().prop_map(Message::system),
        text().prop_map(Message::user),
        vec(part(), 1..4).prop_map(Message::user),
        (text(), option::of(text()), option::of(text())).prop_map(|(said, thought, other)| {
            let mut message = Message::assistant(said);
            message.reasoning = thought;
            message.reasoning_content = other;
            message
        }),
        vec(call, 1..3).prop_map(|calls| {
            let mut message = Message::assistant("");
            message.content = None;
            message.tool_calls = calls;
            message
        }),
        (text(), text()).prop_map(|(id, result)| Message::tool(id, result)),
    ]
}

fn tool() -> impl Strategy<Value = Tool> {
    (text(), text()).prop_map(|(name, says)| Tool::function(name, says, json!({"type": "object", "properties": {}})))
}

fn format() -> impl Strategy<Value = ResponseFormat> {
    prop_oneof![
        Just(ResponseFormat::Text),
        Just(ResponseFormat::JsonObject),
        text().prop_map(|name| ResponseFormat::JsonSchema(JsonSchema::strict(name, json!({"type": "object"})))),
        Just(ResponseFormat::Regex("(yes|no)".into())),
    ]
}

fn choice() -> impl Strategy<Value = ToolChoice> {
    let plain = select(vec![ToolChoice::Auto, ToolChoice::None, ToolChoice::Required]);
    prop_oneof![plain, text().prop_map(ToolChoice::Function)]
}

prop_compose! {
    fn sampling()(
        floats in (
            option::of(number(0.0, 2.0)), option::of(number(0.0, 1.0)), option::of(number(0.0, 1.0)),
            option::of(number(0.5, 2.0)), option::of(number(-2.0, 2.0)), option::of(number(-2.0, 2.0)),
        ),
        numbers in (
            option::of(1..100_000_u32), option::of(1..200_i32), option::of(any::<u64>()), option::of(1..=128_u32),
            option::of(0..=20_u8),
        ),
        bias in btree_map("[0-9]{1,5}", number(-100.0, 100.0), 0..3),
        stop in vec(text(), 0..3),
        echo in option::of(any::<bool>()),
        safety in option::of(Just("meta-llama/Llama-Guard-4-12B".to_owned())),
    ) -> PromptInput {
        let mut input = PromptInput::new("Once upon a time");
        (input.temperature, input.top_p, input.min_p, input.repetition_penalty, input.presence_penalty,
            input.frequency_penalty) = floats;
        (input.max_tokens, input.top_k, input.seed, input.n, input.logprobs) = numbers;
        input.logit_bias = bias;
        input.stop = stop;
        input.echo = echo;
        input.safety_model = safety;
        input
    }
}

prop_compose! {
    pub(crate) fn prompt()(input in sampling(), prompt in text()) -> PromptInput {
        let mut input = input;
        input.prompt = prompt;
        input
    }
}

prop_compose! {
    pub(crate) fn chat()(
        sampling in sampling(),
        messages in vec(message(), 1..5),
        tools in vec(tool(), 0..3),
        form in (option::of(format()), option::of(choice())),
        behavior in option::of(select(vec!["truncate", "error"])),
        effort in option::of(select(vec!["low", "medium", "high"])),
        flags in (option::of(any::<bool>()), any::<bool>(), any::<bool>(), any::<bool>()),
    ) -> ChatInput {
        let mut input = ChatInput::default();
        input.messages = messages;
        input.tools = tools;
        (input.response_format, input.tool_choice) = form;
        input.context_length_exceeded_behavior = behavior.map(str::to_owned);
        input.reasoning_effort = effort.map(str::to_owned);
        input.reasoning = flags.0;
        input.compliance = flags.1.then(|| "hipaa".to_owned());
        input.chat_template_kwargs = flags.2.then(|| json!({"thinking": true}).as_object().cloned().unwrap_or_default());
        input.function_call = flags.3.then(|| json!({"name": "f"}));
        let PromptInput { temperature, top_p, top_k, min_p, seed, n, logprobs, echo, stop, max_tokens, .. } = sampling;
        (input.temperature, input.top_p, input.top_k, input.min_p) = (temperature, top_p, top_k, min_p);
        (input.seed, input.n, input.logprobs, input.echo) = (seed, n, logprobs, echo);
        (input.stop, input.max_tokens, input.logit_bias) = (stop, max_tokens, sampling.logit_bias);
        input.repetition_penalty = sampling.repetition_penalty;
        input.presence_penalty = sampling.presence_penalty;
        input.frequency_penalty = sampling.frequency_penalty;
        input.safety_model = sampling.safety_model;
        input
    }
}

pub(crate) fn embedding() -> impl Strategy<Value = EmbeddingInput> {
    vec(text(), 1..5).prop_map(EmbeddingInput::new)
}

prop_compose! {
    pub(crate) fn image()(
        prompt in text(),
        numbers in (
            option::of(64..=2_048_u32), option::of(64..=2_048_u32), option::of(1..=50_u32), option::of(1..=4_u32),
            option::of(any::<u64>()),
        ),
        guidance in option::of(number(1.0, 10.0)),
        texts in (option::of(text()), option::of(Just("https://acme.example/a.png".to_owned()))),
        references in vec(Just("https://acme.example/b.png".to_owned()), 0..3),
        loras in vec(number(0.0, 2.0).prop_map(|scale| Lora::new("https://acme.example/lora", scale)), 0..3),
        safety in option::of(any::<bool>()),
        forms in (option::of(select(vec!["jpeg", "png"])), option::of(select(vec!["base64", "url"]))),
    ) -> ImageInput {
        let mut input = ImageInput::new(prompt);
        (input.width, input.height, input.steps, input.n, input.seed) = numbers;
        input.guidance_scale = guidance;
        (input.negative_prompt, input.image_url) = texts;
        input.reference_images = references;
        input.image_loras = loras;
        input.disable_safety_checker = safety;
        input.output_format = forms.0.map(str::to_owned);
        input.response_format = forms.1.map(str::to_owned);
        input
    }
}

prop_compose! {
    pub(crate) fn rerank()(
        query in text(),
        texts in vec(text(), 1..4),
        objects in any::<bool>(),
        top_n in option::of(1..5_u32),
        returns in option::of(any::<bool>()),
        fields in vec(text(), 0..3),
    ) -> RerankInput {
        let document = |text: String| match objects {
            true => Document::Fields([("text".to_owned(), Value::from(text))].into_iter().collect()),
            false => Document::Text(text),
        };
        let mut input = RerankInput::new(query, texts.into_iter().map(document));
        input.top_n = top_n;
        input.return_documents = returns;
        input.rank_fields = fields;
        input
    }
}
