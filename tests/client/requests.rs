//! What is written reads back, unknown fields included.

use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use together_inference::{
    client::{ChatInput, Content, Function, JsonSchema, Message, Part, ResponseFormat, Tool, ToolCall, ToolChoice},
    types::Role,
};

fn again<T: Serialize + DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z \"\\\\é\u{1f980}]{0,8}", 1 => ".{0,4}", 1 => Just("\u{0}\u{1f980}\"\\\u{2028}".to_owned())]
}

/// Short decimals, as people write them.
fn decimal() -> impl Strategy<Value = f64> {
    (-2_000..2_000_i32).prop_map(|thousandths| f64::from(thousandths) / 1_000.0)
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        decimal().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![vec(inner.clone(), 0..3).prop_map(Value::from), map_of(inner).prop_map(Value::from)]
    })
}

fn map_of(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    btree_map(text(), values, 0..3).prop_map(|map| map.into_iter().collect())
}

/// Fields with names that no version of the API has.
fn unknown() -> impl Strategy<Value = Map<String, Value>> {
    btree_map("x_[a-z]{1,6}", value(), 0..3).prop_map(|map| map.into_iter().collect())
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        text().prop_map(Part::Text),
        text().prop_map(Part::ImageUrl),
        text().prop_map(Part::VideoUrl),
        text().prop_map(Part::AudioUrl),
        (text(), text()).prop_map(|(data, format)| Part::InputAudio { data, format }),
        (unknown(), text()).prop_map(|(mut fields, kind)| {
            fields.insert("type".to_owned(), format!("x_{kind}").into());
            Part::Other(fields)
        }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let content = option::of(prop_oneof![text().prop_map(Content::Text), vec(part(), 0..4).prop_map(Content::Parts)]);
    let role = prop_oneof!["system|user|assistant|tool", "x_[a-z]{0,5}"];
    let call = (text(), text(), text()).prop_map(|(id, name, arguments)| ToolCall::new(id, name, arguments));
    let optional = || option::of(text());
    let texts = (optional(), optional(), optional(), optional());
    let fields = (role, content, vec(call, 0..3), texts, unknown());
    fields.prop_map(|(role, content, calls, (name, id, reasoning, content_form), extra)| {
        let mut message = Message::new(Role::from(&*role), "");
        message.content = content;
        message.tool_calls = calls;
        message.name = name;
        message.tool_call_id = id;
        message.reasoning = reasoning;
        message.reasoning_content = content_form;
        message.extra = extra;
        message
    })
}

fn tool() -> impl Strategy<Value = Tool> {
    let texts = (text(), option::of(text()), text());
    let fields = (texts, option::of(map_of(value())), unknown(), unknown());
    fields.prop_map(|((name, description, kind), parameters, of_function, extra)| {
        let mut tool = Tool::function(name, "", Value::Null);
        tool.kind = kind;
        tool.function.description = description;
        tool.function.parameters = parameters.map(Value::from);
        tool.function.extra = of_function;
        tool.extra = extra;
        tool
    })
}

fn tool_choice() -> impl Strategy<Value = ToolChoice> {
    prop_oneof![
        Just(ToolChoice::Auto),
        Just(ToolChoice::None),
        Just(ToolChoice::Required),
        text().prop_map(ToolChoice::Function),
        "x_[a-z]{0,6}".prop_map(|text| ToolChoice::Other(text.into())),
        unknown().prop_map(|map| ToolChoice::Other(map.into())),
        Just(ToolChoice::Other(json!({"type": "function", "function": {"name": "f", "strict": true}}))),
    ]
}

fn response_format() -> impl Strategy<Value = ResponseFormat> {
    let schema = (text(), option::of(text()), value(), option::of(any::<bool>()));
    let schema = schema.prop_map(|(name, description, schema, strict)| {
        let mut built = JsonSchema::strict(name, schema);
        built.description = description;
        built.strict = strict;
        ResponseFormat::JsonSchema(built)
    });
    prop_oneof![
        Just(ResponseFormat::Text),
        Just(ResponseFormat::JsonObject),
        schema,
        text().prop_map(ResponseFormat::Regex),
        unknown().prop_map(ResponseFormat::Other),
        Just(ResponseFormat::Other(
            json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {}}, "x": 1})
                .as_object()
                .unwrap()
                .clone()
        )),
    ]
}

prop_compose! {
    fn input()(
        messages in vec(message(), 0..4),
        numbers in (option::of(any::<u32>()), option::of(any::<i32>()), option::of(any::<u64>()), option::of(0..129_u32), option::of(0..21_u8)),
        floats in vec(option::of(decimal()), 6),
        logit_bias in btree_map("[0-9]{1,5}", decimal(), 0..3),
        stop in vec(text(), 0..3),
        flags in (option::of(any::<bool>()), option::of(any::<bool>())),
        texts in vec(option::of(text()), 4),
        form in (option::of(response_format()), vec(tool(), 0..3), option::of(tool_choice())),
        open in (option::of(unknown().prop_map(Value::from)), option::of(map_of(value())), unknown()),
    ) -> ChatInput {
        let mut input = ChatInput::default();
        input.messages = messages;
        (input.max_tokens, input.top_k, input.seed, input.n, input.logprobs) = numbers;
        input.temperature = floats[0];
        input.top_p = floats[1];
        input.min_p = floats[2];
        input.repetition_penalty = floats[3];
        input.presence_penalty = floats[4];
        input.frequency_penalty = floats[5];
        input.logit_bias = logit_bias;
        input.stop = stop;
        (input.echo, input.reasoning) = flags;
        input.context_length_exceeded_behavior = texts[0].clone();
        input.compliance = texts[1].clone();
        input.safety_model = texts[2].clone();
        input.reasoning_effort = texts[3].clone();
        (input.response_format, input.tools, input.tool_choice) = form;
        (input.function_call, input.chat_template_kwargs, input.extra) = open;
        input
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_message_reads_back(message in message()) {
        prop_assert_eq!(again(&message), message);
    }

    #[test]
    fn a_tool_reads_back(tool in tool()) {
        prop_assert_eq!(again(&tool), tool);
    }

    #[test]
    fn a_tool_choice_reads_back(choice in tool_choice()) {
        prop_assert_eq!(again(&choice), choice);
    }

    #[test]
    fn a_response_format_reads_back(format in response_format()) {
        prop_assert_eq!(again(&format), format);
    }

    #[test]
    fn a_conversation_reads_back_with_every_field(input in input()) {
        prop_assert_eq!(again(&input), input);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn unknown_fields_of_a_conversation_are_kept(input in input(), unknown in unknown()) {
        let mut wire = serde_json::to_value(&input).unwrap();
        wire.as_object_mut().unwrap().extend(unknown.clone());
        let read: ChatInput = serde_json::from_value(wire.clone()).unwrap();
        prop_assert!(unknown.iter().all(|(name, value)| read.extra.get(name) == Some(value)));
        prop_assert_eq!(serde_json::to_value(&read).unwrap(), wire);
    }
}

#[test]
fn unknown_fields_at_any_depth_are_kept() {
    let wire = json!({
        "messages": [{"role": "assistant", "content": "a", "refusal": null, "audio": {"id": "x"}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "version": 2}},
        "tools": [
            {"type": "function", "function": {"name": "f", "strict": true}, "cache": "5m"},
            {"type": "function", "function": {"name": "g"}},
        ],
        "tool_choice": {"type": "allowed_tools", "tools": []},
        "x_new": {"y": [1]},
    });
    let input: ChatInput = serde_json::from_value(wire.clone()).unwrap();
    assert_eq!(input.tools[0].function.extra["strict"], true);
    assert_eq!(serde_json::to_value(&input).unwrap(), wire);
    let known = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": false}});
    let format: ResponseFormat = serde_json::from_value(known).unwrap();
    assert!(matches!(format, ResponseFormat::JsonSchema(_)), "{format:?}");
}

#[test]
fn nulls_are_absent() {
    let wire = json!({"messages": [{"role": "user", "content": null, "tool_calls": null}], "stop": null, "n": null});
    let input: ChatInput = serde_json::from_value(wire).unwrap();
    assert_eq!(input.messages[0].content, None);
    assert!(input.stop.is_empty() && input.n.is_none() && input.extra.is_empty());
    let function: Function = serde_json::from_value(json!({"name": "f", "description": null})).unwrap();
    assert_eq!((&*function.name, function.description), ("f", None));
}
