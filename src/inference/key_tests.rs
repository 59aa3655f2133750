//! A key is equal exactly when the request means the same, on random requests.

use std::{cell::Cell, collections::HashMap, fmt::Write};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

use super::{CacheKey, InferenceRequest, Input};
use crate::{
    client::{ChatInput, Content, FunctionCall, JsonSchema, Message, Part, ResponseFormat, Tool, ToolCall, ToolChoice},
    types::{ModelId, Priority, Rng, Role, RouteId, SeededRng, UpstreamId},
};

/// A request on its way: everything that a key is made of.
#[derive(Clone, Debug)]
struct Call {
    request: InferenceRequest,
    route: RouteId,
    host: &'static str,
}

impl Call {
    fn key(&self) -> CacheKey {
        CacheKey::inference(&self.request, &self.route, self.host)
    }

    fn input(&self) -> &ChatInput {
        self.request.as_chat().unwrap()
    }

    fn input_mut(&mut self) -> &mut ChatInput {
        let Input::Chat(input) = &mut self.request.input else { unreachable!("a conversation") };
        input
    }

    fn with(&self, request: InferenceRequest) -> Self {
        Self { request, ..self.clone() }
    }

    /// What decides the answer. One answer is what is asked for by default.
    fn meaning(&self) -> impl PartialEq + use<> {
        let mut input = self.input().clone();
        input.n.get_or_insert(1);
        let InferenceRequest { tenant, model, upstream, .. } = self.request.clone();
        (input, tenant, model, upstream, self.route.clone(), self.host)
    }
}

/// Few letters, so that texts often begin alike or are the same.
fn text() -> impl Strategy<Value = String> {
    vec(select(vec!['a', 'b', ':', '1', 'é', '\0']), 0..4).prop_map(String::from_iter)
}

/// Whole numbers and halves: every spelling of them is read exactly.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-3_i64..3).prop_map(Value::from),
        (-1_000_000_000_000_i64..1_000_000_000_000).prop_map(Value::from),
        (-4_i32..4).prop_map(|whole| json!(f64::from(whole) + 0.5)),
        Just(json!(u64::MAX)),
    ]
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), number(), text().prop_map(Value::from)];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((text(), inner), 0..3).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// An object: JSON has no word that tells a schema of `null` from none.
fn schema() -> impl Strategy<Value = Value> {
    vec((text(), json_value()), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![text().prop_map(Part::Text), text().prop_map(Part::ImageUrl)]
}

fn tool_call() -> impl Strategy<Value = ToolCall> {
    (text(), text(), text()).prop_map(|(id, name, arguments)| ToolCall {
        id,
        kind: "function".into(),
        function: FunctionCall { name, arguments },
    })
}

fn message() -> impl Strategy<Value = Message> {
    let content = prop_oneof![3 => text().prop_map(Content::Text), 1 => vec(part(), 0..3).prop_map(Content::Parts)];
    let role = select(vec![Role::User, Role::Assistant, Role::System, Role::Tool]);
    (role, option::of(content), option::of(text()), option::of(text()), vec(tool_call(), 0..2)).prop_map(
        |(role, content, name, tool_call_id, tool_calls)| {
            let mut message = Message::new(role, "");
            (message.content, message.name) = (content, name);
            (message.tool_call_id, message.tool_calls) = (tool_call_id, tool_calls);
            message
        },
    )
}

fn format() -> impl Strategy<Value = ResponseFormat> {
    prop_oneof![
        Just(ResponseFormat::Text),
        Just(ResponseFormat::JsonObject),
        text().prop_map(ResponseFormat::Regex),
        (text(), json_value()).prop_map(|(name, schema)| ResponseFormat::JsonSchema(JsonSchema::strict(name, schema))),
    ]
}

fn tool() -> impl Strategy<Value = Tool> {
    (text(), text(), schema()).prop_map(|(name, does, parameters)| Tool::function(name, does, parameters))
}

fn chat_input() -> impl Strategy<Value = ChatInput> {
    let sampling = (option::of(0_u32..3), option::of(0_u64..3), option::of(0_u16..3), option::of(1_u32..3));
    let extra = option::of(json_value()).prop_map(|value| value.map(|value| ("top_a".to_owned(), value)));
    let choice = select(vec![ToolChoice::Auto, ToolChoice::Required, ToolChoice::Function("a".into())]);
    let asked = (vec(message(), 1..4), vec(text(), 0..3), option::of(format()), vec(tool(), 0..3), option::of(choice));
    (asked, sampling, extra).prop_map(
        |((messages, stop, response_format, tools, tool_choice), (max_tokens, seed, tenths, n), extra)| ChatInput {
            messages,
            stop,
            response_format,
            tools,
            tool_choice,
            max_tokens,
            seed,
            temperature: tenths.map(|tenths| f64::from(tenths) / 10.0),
            n,
            extra: extra.into_iter().collect(),
            ..ChatInput::default()
        },
    )
}

fn call() -> impl Strategy<Value = Call> {
    let small = || select(vec!["", "a", "b", "ab"]);
    let scope = (option::of(small()), option::of(small()), option::of(small()));
    let place = (small(), small(), select(vec!["api", "api2"]));
    (chat_input(), scope, place).prop_map(|(input, (tenant, model, on), (upstream, served, host))| {
        let mut request = InferenceRequest::chat("");
        request.input = Input::Chat(input);
        request = tenant.into_iter().fold(request, InferenceRequest::tenant);
        request = model.into_iter().fold(request, InferenceRequest::model);
        request = on.into_iter().fold(request, InferenceRequest::upstream);
        Call { request, route: RouteId::new(upstream, served), host }
    })
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) })
}

/// The value as JSON with the fields of every object the other way round, numbers spelled in another way if asked.
fn spell(value: &Value, numbers: bool, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                spell(item, numbers, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (at, (name, item)) in map.iter().rev().enumerate() {
                write!(out, "{}{}: ", if at == 0 { "" } else { ", " }, json!(name)).unwrap();
                spell(item, numbers, out);
            }
            out.push('}');
        }
        Value::Number(number) if numbers => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) if whole % 2 == 0 => write!(out, "{whole}.0").unwrap(),
            (Some(whole), _) => write!(out, "{whole}e0").unwrap(),
            (None, Some(half)) if half.abs() < 100.0 => write!(out, "{half:e}").unwrap(),
            _ => write!(out, "{number}").unwrap(),
        },
        other => write!(out, "{other}").unwrap(),
    }
}

fn respelled(value: &Value) -> Value {
    let mut text = String::new();
    spell(value, true, &mut text);
    serde_json::from_str(&text).unwrap()
}

/// The same request with its free JSON written in another way.
fn rewritten(request: &InferenceRequest) -> InferenceRequest {
    let mut request = request.clone();
    let Input::Chat(input) = &mut request.input else { unreachable!("a conversation") };
    let parameters = input.tools.iter_mut().filter_map(|tool| tool.function.parameters.as_mut());
    parameters.for_each(|value| *value = respelled(value));
    input.extra.values_mut().for_each(|value| *value = respelled(value));
    if let Some(ResponseFormat::JsonSchema(schema)) = &mut input.response_format {
        schema.schema = respelled(&schema.schema);
    }
    request
}

#[test]
fn copies_spellings_and_journeys_through_json_keep_the_key() {
    let outcome = runner(5_000).run(&call(), |call| {
        let key = call.key();
        prop_assert_eq!(call.clone().key(), key);
        prop_assert_eq!(call.with(rewritten(&call.request)).key(), key, "another spelling");
        let value = serde_json::to_value(&call.request).unwrap();
        let mut turned = String::new();
        spell(&value, false, &mut turned);
        for text in [value.to_string(), turned] {
            let back: InferenceRequest = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(call.with(back).key(), key, "{}", text);
        }
        // How it is served does not change what is answered.
        let elsewhere = call.request.clone().priority(Priority::Batch).tag("a", "b").session("s").deferrable();
        prop_assert_eq!(call.with(elsewhere).key(), key, "how it is served");
        Ok(())
    });
    outcome.unwrap();
}

/// Takes one field over from another call.
type Cross = fn(&mut Call, &Call);

fn first(call: &mut Call) -> &mut Message {
    call.input_mut().messages.first_mut().unwrap()
}

fn first_of(call: &Call) -> Message {
    call.input().messages.first().unwrap().clone()
}

/// Every field that is promised to change the key.
const FIELDS: [(&str, Cross); 21] = [
    ("served model", |call, other| call.route = RouteId::new(call.route.upstream(), other.route.model())),
    ("served upstream", |call, other| call.route = RouteId::new(other.route.upstream(), call.route.model())),
    ("host", |call, other| call.host = other.host),
    ("tenant", |call, other| call.request.tenant.clone_from(&other.request.tenant)),
    ("model", |call, other| call.request.model.clone_from(&other.request.model)),
    ("upstream", |call, other| call.request.upstream.clone_from(&other.request.upstream)),
    ("messages", |call, other| call.input_mut().messages.clone_from(&other.input().messages)),
    ("role", |call, other| first(call).role = first_of(other).role),
    ("content", |call, other| first(call).content = first_of(other).content),
    ("name", |call, other| first(call).name = first_of(other).name),
    ("tool call id", |call, other| first(call).tool_call_id = first_of(other).tool_call_id),
    ("tool calls", |call, other| first(call).tool_calls = first_of(other).tool_calls),
    ("tools", |call, other| call.input_mut().tools.clone_from(&other.input().tools)),
    ("order of tools", |call, _| call.input_mut().tools.reverse()),
    ("tool choice", |call, other| call.input_mut().tool_choice.clone_from(&other.input().tool_choice)),
    ("temperature and seed", |call, other| {
        call.input_mut().temperature = other.input().temperature;
        call.input_mut().seed = other.input().seed;
    }),
    ("max_tokens", |call, other| call.input_mut().max_tokens = other.input().max_tokens),
    ("stop", |call, other| call.input_mut().stop.clone_from(&other.input().stop)),
    ("n", |call, other| call.input_mut().n = other.input().n),
    ("response_format", |call, other| call.input_mut().response_format.clone_from(&other.input().response_format)),
    ("extra", |call, other| call.input_mut().extra.clone_from(&other.input().extra)),
];

#[test]
fn a_field_changes_the_key_exactly_when_it_changes_the_meaning() {
    let changes: [Cell<u32>; FIELDS.len()] = Default::default();
    let outcome = runner(2_500).run(&(call(), call()), |(call, other)| {
        let (key, meaning) = (call.key(), call.meaning());
        for ((field, cross), changes) in FIELDS.iter().zip(&changes) {
            let mut crossed = call.clone();
            cross(&mut crossed, &other);
            let same = crossed.meaning() == meaning;
            prop_assert_eq!(crossed.key() == key, same, "{}: {:?}", field, crossed);
            changes.set(changes.get() + u32::from(!same));
        }
        Ok(())
    });
    outcome.unwrap();
    for ((field, _), changes) in FIELDS.iter().zip(&changes) {
        assert!((100..=2_500).contains(&changes.get()), "{field} changed {} times", changes.get());
    }
}

#[test]
fn two_tenants_never_share_a_key() {
    let route = RouteId::new(UpstreamId::together(), ModelId::from("m"));
    let rng = SeededRng::new(7);
    let mut seen = HashMap::new();
    for _ in 0..1_000_000 {
        let draw = rng.next_u64();
        // One name begins with the other, and prompts go on where names end.
        let tenant = if draw & 1 == 0 { "acme" } else { "acme2" };
        let prompt = format!("2{:x}", draw >> 40);
        let key = CacheKey::inference(&InferenceRequest::chat(prompt.as_str()).tenant(tenant), &route, "api");
        let owner = seen.entry(key).or_insert_with(|| (tenant, prompt.clone()));
        assert_eq!(*owner, (tenant, prompt));
    }
    assert!(seen.len() > 900_000, "{} different pairs", seen.len());
}
