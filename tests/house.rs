//! What holds for the crate as a whole: imports point down, the contract's fields are all there, the tree stays lean.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use together_inference::{
    client::{ChatInput, EmbeddingInput, ImageInput, PromptInput, RerankInput},
    router::{CatalogRouter, ModelRouter},
};

/// Rooms by floor, lowest first. A room may use what stands below its own floor, and itself.
const FLOORS: [&[&str]; 7] = [
    &["types"],
    &["client", "store"],
    &["inference"],
    &["router", "cache", "limit", "cost", "batch", "fine_tune", "events", "notify", "telemetry"],
    &["service"],
    &["pipeline"],
    &["dashboard", "testing"],
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let nested = folders.iter().flat_map(|folder| sources(folder));
    files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs")).chain(nested).collect()
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The rooms that a text of code names by a `crate::` path, nested braces included.
fn named_rooms(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        // `$crate::` in a macro is the user's view of the root.
        if code[..at].ends_with('$') {
            continue;
        }
        if let Some(inner) = rest.strip_prefix('{') {
            first_segments(inner, &mut rooms);
        } else {
            rooms.extend(leading_name(rest));
        }
    }
    rooms
}

fn leading_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The first segment of each path in a braced list, up to its closing brace.
fn first_segments(list: &str, rooms: &mut BTreeSet<String>) {
    let (mut depth, mut fresh) = (1, true);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            c if fresh && depth == 1 && (c.is_ascii_alphanumeric() || c == '_') => {
                rooms.extend(leading_name(&list[at..]));
                fresh = false;
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

fn without_comments(code: &str) -> String {
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// What a file may not use, as `room uses other`.
fn violations(file: &str, code: &str) -> Vec<String> {
    let room = file.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
    let Some(own) = floor(&room) else { return Vec::new() };
    let code = without_comments(code);
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    // A test beside the code may use anything.
    if file.ends_with("tests.rs") {
        return Vec::new();
    }
    let allowed = |used: &str| used == room || floor(used).is_none_or(|floor| floor < own);
    let mut bad: Vec<_> = named_rooms(code)
        .into_iter()
        .filter(|used| !allowed(used))
        .map(|used| format!("{file}: {room} uses {used}"))
        .collect();
    if room == "testing" && !file.contains("conformance") {
        // A simulator that shares types shares bugs: of the wire it names the seam alone.
        let lines = code.lines().filter(|line| line.contains("crate::client") && !line.contains("Transport"));
        bad.extend(lines.map(|line| format!("{file}: the simulator uses more than the transport: {}", line.trim())));
    }
    bad
}

#[test]
fn imports_point_down() {
    let src = root().join("src");
    let files = sources(&src);
    assert!(files.len() > 30, "the sources were not found");
    let bad: Vec<_> = files
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
            violations(&name, &fs::read_to_string(path).unwrap())
        })
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn an_import_that_points_up_or_sideways_is_found_however_it_is_written() {
    for code in [
        "use crate::service::Error;",
        "use crate::{types::Usd, service::{self, Error}};",
        "use crate::{\n    types::{Cost, Usd},\n    cache::{\n        CacheEntry,\n    },\n};",
        "fn f() { crate::service::x() }",
    ] {
        assert_eq!(violations("router/catalog.rs", code).len(), 1, "{code}");
    }
    for code in [
        "use crate::{types::Usd, inference::{Answer, Decision}};",
        "// use crate::service::Error;",
        "$crate::service::x()",
    ] {
        assert_eq!(violations("router/catalog.rs", code), Vec::<String>::new(), "{code}");
    }
    assert_eq!(violations("testing/chat.rs", "use crate::client::Message;").len(), 1);
}

/// A value of each field of the contract's requests.
fn sample(name: &str) -> Value {
    match name {
        "messages" => json!([{"role": "user", "content": "hi"}]),
        "stop" | "input" | "documents" | "rank_fields" | "reference_images" => json!(["a"]),
        "tools" => json!([{"type": "function", "function": {"name": "f"}}]),
        "image_loras" => json!([{"path": "a", "scale": 0.5}]),
        "logit_bias" => json!({"1": 0.5}),
        "response_format" => json!({"type": "json_object"}),
        "reasoning" => json!({"enabled": true}),
        "chat_template_kwargs" => json!({"a": 1}),
        "tool_choice" | "function_call" => json!("auto"),
        "echo" | "disable_safety_checker" | "return_documents" => json!(true),
        "compliance"
        | "context_length_exceeded_behavior"
        | "safety_model"
        | "reasoning_effort"
        | "prompt"
        | "negative_prompt"
        | "query"
        | "image_url"
        | "output_format" => json!("x"),
        "max_tokens" | "n" | "top_k" | "logprobs" | "seed" | "width" | "height" | "steps" | "top_n" => json!(1),
        _ => json!(0.5),
    }
}

/// Each field of a request's schema is read into a field of its own, not into `extra`, and written back as it was.
fn typed<T: DeserializeOwned + Serialize>(schema: &Value, required: &[&str], extra: impl Fn(&T) -> usize) {
    let fields = schema["properties"].as_object().expect("the contract was not found");
    assert!(fields.len() > 1);
    // Set by the client itself, or by the request around the input.
    for name in fields.keys().filter(|name| !["model", "stream"].contains(&name.as_str())) {
        // Pictures have a format of the same name that is a word.
        let value = |name: &str| match (name, fields.contains_key("guidance_scale")) {
            ("response_format", true) => json!("url"),
            _ => sample(name),
        };
        let names = required.iter().copied().chain([name.as_str()]);
        let asked = Value::Object(names.map(|name| (name.to_owned(), value(name))).collect());
        let input: T = serde_json::from_value(asked.clone()).unwrap();
        assert_eq!(extra(&input), 0, "{name} has no field of its own");
        assert_eq!(serde_json::to_value(&input).unwrap(), asked, "{name}");
    }
}

#[test]
fn every_request_field_of_the_contract_is_typed() {
    let spec = fs::read_to_string(root().join("tests/data/openapi-2026-08.json")).unwrap();
    let spec: Value = serde_json::from_str(&spec).unwrap();
    let schemas = &spec["components"]["schemas"];
    typed::<ChatInput>(&schemas["ChatCompletionRequest"], &[], |input| input.extra.len());
    typed::<PromptInput>(&schemas["CompletionRequest"], &["prompt"], |input| input.extra.len());
    typed::<RerankInput>(&schemas["RerankRequest"], &["query", "documents"], |input| input.extra.len());
    let images = "/paths/~1images~1generations/post/requestBody/content/application~1json/schema";
    typed::<ImageInput>(spec.pointer(images).unwrap(), &["prompt"], |input| input.extra.len());
    // The contract has nothing but `input` and the model.
    typed::<EmbeddingInput>(&schemas["EmbeddingsRequest"], &[], |input| input.extra.len());
}

/// `scripts/renew-catalogue` on lists of five kinds: what it says, and the catalogue that it leaves.
#[test]
fn the_catalogue_is_renewed_from_the_lists_of_others() {
    let data = root().join("tests/data/catalogue");
    let copy = std::env::temp_dir().join(format!("together-inference-catalogue-{}.tsv", std::process::id()));
    fs::copy(data.join("before.tsv"), &copy).unwrap();
    // Not in the order of trust, which is the script's own.
    let lists = ["models_dev.json", "litellm.json", "v1.json", "v2.json", "genai_prices.json"];
    let renew = |more: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(root().join("scripts/renew-catalogue")).args(["--date", "2026-03-04", "--catalogue"]).arg(&copy);
        command.args(lists.map(|list| data.join(list))).args(more);
        command.output().expect("python3 is missing: apt-get install python3")
    };
    let would = renew(&["--check"]);
    assert_eq!(fs::read(&copy).unwrap(), fs::read(data.join("before.tsv")).unwrap(), "a check writes nothing");
    let done = renew(&[]);
    let again = renew(&["--check"]);
    let (after, _) = (fs::read_to_string(&copy).unwrap(), fs::remove_file(&copy));
    assert_eq!([would, done.clone(), again].map(|run| run.status.code()), [Some(1), Some(0), Some(0)]);
    let golden = |name: &str| fs::read_to_string(data.join(name)).unwrap();
    assert_eq!(String::from_utf8(done.stdout).unwrap(), golden("said.txt"));
    assert_eq!(after, golden("after.tsv"));
    let routes = CatalogRouter::from_tsv(&after).unwrap().routes();
    assert_eq!(routes.len(), 4);
    assert!(routes.iter().all(|route| route.price.is_some()), "{routes:?}");
}

#[test]
fn the_default_tree_is_lean() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<_> = tree.lines().map(|line| line.split(" (").next().unwrap_or_default()).collect();
    println!("{} crates in the default build", crates.len());
    assert!(crates.len() <= 150, "{} crates", crates.len());
    for unwanted in ["openssl v", "openssl-sys v", "native-tls v", "axum v"] {
        assert!(!crates.iter().any(|name| name.starts_with(unwanted)), "{unwanted} is in the default build");
    }
}
