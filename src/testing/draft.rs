//! What an answer says, before it has a shape on the wire.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{
    ask::{Ask, name_of},
    picture,
    random::Random,
    schema,
    script::Reply,
};

/// The content of one choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Draft {
    pub(super) text: String,
    pub(super) reasoning: Option<String>,
    pub(super) tools: Vec<ToolCall>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToolCall {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: String,
}

const OPENINGS: &[&str] = &[
    "Here is the short answer on",
    "The main thing to know about",
    "A good way to look at",
    "In a few words, about",
    "There are two sides to",
];
const MIDDLES: &[&str] = &[
    "it depends on the context, and the details matter less than they seem.",
    "most of it follows from one simple rule that is easy to check.",
    "start with the common case, then look at the exceptions.",
    "the usual advice holds here as well.",
    "three causes explain nearly all of it.",
];
const CLOSINGS: &[&str] = &[
    "Ask for more detail if you need it.",
    "That is enough for most purposes.",
    "An example makes it clear.",
    "",
    "Measure before you decide.",
];

/// The scripted answer, or one made up from the request and `random` alone.
pub(super) fn draft(ask: Ask<'_>, reply: Option<&Reply>, thinks: bool, random: &mut Random) -> Draft {
    match reply {
        Some(Reply::Text(text)) => Draft { text: text.clone(), ..Draft::default() },
        Some(Reply::With(answer)) => Draft { text: answer(ask.body()), ..Draft::default() },
        Some(Reply::Reasoning { thinking, text }) => {
            Draft { text: text.clone(), reasoning: Some(thinking.clone()), ..Draft::default() }
        }
        Some(Reply::Tools(calls)) => {
            let tools = calls.iter().map(|(name, arguments)| call(name, arguments, random)).collect();
            Draft { tools, ..Draft::default() }
        }
        Some(Reply::Fail(_)) | None => {
            let reasoning = thinks.then(|| format!("The user asks about {}. I should be brief.", topic(ask)));
            Draft { reasoning, ..made_up(ask, random) }
        }
    }
}

fn made_up(ask: Ask<'_>, random: &mut Random) -> Draft {
    let topic = topic(ask);
    if let Some(result) = ask.tool_result() {
        let text = format!("According to the tool, the result for {topic} is: {}", first(&result, 400));
        return Draft { text, ..Draft::default() };
    }
    let wanted = ask.wanted_tools();
    if !wanted.is_empty() {
        let mut made_call = |function: &Value| {
            let parameters = function.get("parameters").filter(|schema| schema.is_object());
            let arguments = parameters.map_or_else(|| json!({}), |schema| schema::example(schema, &topic, random));
            call(name_of(function), &arguments, random)
        };
        return Draft { tools: wanted.into_iter().map(&mut made_call).collect(), ..Draft::default() };
    }
    if let Some(seen) = seen(ask) {
        return Draft { text: format!("I see {seen}."), ..Draft::default() };
    }
    if let Some(choice) = ask.pattern().and_then(first_choice) {
        return Draft { text: choice, ..Draft::default() };
    }
    let text = match (ask.response_type(), ask.schema()) {
        ("json_schema" | "json_object", Some(schema)) => schema::example(schema, &topic, random).to_string(),
        ("json_schema" | "json_object", _) => json!({"answer": prose(&topic, random), "topic": topic}).to_string(),
        _ => prose(&topic, random),
    };
    Draft { text, ..Draft::default() }
}

/// What is in the pictures that the request shows.
fn seen(ask: Ask<'_>) -> Option<String> {
    let describe = |url: &str| match url.split_once(";base64,") {
        Some((_, data)) => BASE64_STANDARD.decode(data).ok().and_then(|file| picture::described(&file)),
        None => Some(format!("the picture at {url}")),
    };
    let pictures: Vec<_> = ask.image_urls().into_iter().filter_map(describe).collect();
    // A schema is answered as a schema, pictures or not.
    (!pictures.is_empty() && ask.response_type() == "text").then(|| pictures.join(", and "))
}

/// A text that matches a pattern of plain alternatives, such as `(yes|no)`.
fn first_choice(pattern: &str) -> Option<String> {
    let plain = pattern.trim_start_matches(['^', '(']).trim_end_matches(['$', ')']);
    let choice = plain.split('|').next().unwrap_or_default();
    let simple = plain.chars().all(|c| c.is_alphanumeric() || matches!(c, '|' | ' ' | '_' | '-'));
    (simple && !choice.is_empty()).then(|| choice.to_owned())
}

fn call(name: &str, arguments: &Value, random: &mut Random) -> ToolCall {
    let id = format!("call_{}", random.id(24));
    ToolCall { id, name: name.to_owned(), arguments: arguments.to_string() }
}

fn prose(topic: &str, random: &mut Random) -> String {
    let [opening, middle, closing] = [OPENINGS, MIDDLES, CLOSINGS].map(|all| *random.pick(all).unwrap_or(&""));
    format!("{opening} {topic}: {middle} {closing}").trim_end().to_owned()
}

/// The first words of what the user said last.
fn topic(ask: Ask<'_>) -> String {
    let text = ask.last_user_text();
    let words: Vec<_> = text.split_whitespace().take(8).collect();
    let topic = words.join(" ");
    let topic = first(topic.trim_end_matches(|c: char| c.is_ascii_punctuation()), 80);
    if topic.is_empty() { "that".to_owned() } else { topic.to_owned() }
}

/// The longest start of `text` of at most that many bytes.
pub(super) fn first(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_speaks_of_the_topic_and_depends_on_the_seed_alone() {
        let body = json!({"messages": [{"role": "user", "content": "Why is the sky blue?"}]});
        let say = |seed| draft(Ask::new(&body), None, false, &mut Random::new(seed)).text;
        assert!(say(1).contains("Why is the sky blue"), "{}", say(1));
        assert_eq!(say(1), say(1));
        assert!((2..20).any(|seed| say(seed) != say(1)));
    }

    #[test]
    fn after_a_tool_message_the_answer_uses_the_result() {
        let body = json!({
            "messages": [
                {"role": "user", "content": "use get_weather"},
                {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
            ],
            "tools": [{"type": "function", "function": {"name": "get_weather"}}],
        });
        let draft = draft(Ask::new(&body), None, false, &mut Random::new(1));
        assert!(draft.tools.is_empty() && draft.text.contains("18 degrees"));
    }

    #[test]
    fn text_is_never_cut_inside_a_character() {
        assert_eq!(first("aé", 2), "a");
        assert_eq!(first("aé", 3), "aé");
        assert_eq!(first("aé", 99), "aé");
        assert_eq!(first("é", 1), "");
    }
}
