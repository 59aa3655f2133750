//! `POST /v1/images/generations`.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{ask::Ask, bill::Tokens, error::ApiError, models::SimModel, picture::Picture, random::Random};

/// The largest side of a picture.
const MAX_SIDE: u64 = 2_048;
/// Where links to pictures point, on the simulator itself.
pub(super) const FOLDER: &str = "/simulated/images/";

/// What is asked for.
struct Wanted<'a> {
    prompt: &'a str,
    width: u64,
    height: u64,
    n: u64,
    png: bool,
    url: bool,
}

fn wanted(ask: Ask<'_>) -> Wanted<'_> {
    let text = |name| ask.field(name).and_then(Value::as_str).unwrap_or_default();
    // OpenAI's clients say the size in one word.
    let in_one_word = text("size").split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    let side = |name, of_size: Option<u64>| ask.field(name).and_then(Value::as_u64).or(of_size).unwrap_or(1_024);
    Wanted {
        prompt: text("prompt"),
        width: side("width", in_one_word.map(|(width, _)| width)),
        height: side("height", in_one_word.map(|(_, height)| height)),
        n: ask.field("n").and_then(Value::as_u64).unwrap_or(1),
        png: text("output_format") == "png",
        // The API's own default is a link.
        url: !matches!(text("response_format"), "base64" | "b64_json"),
    }
}

pub(super) fn prompt(ask: Ask<'_>) -> &str {
    wanted(ask).prompt
}

pub(super) fn validate(ask: Ask<'_>) -> Result<(), ApiError> {
    let Wanted { prompt, width, height, n, .. } = wanted(ask);
    if prompt.trim().is_empty() {
        return Err(ApiError::bad_request("prompt", "prompt is required"));
    }
    for (name, side) in [("width", width), ("height", height)] {
        if ask.field(name).is_some_and(|value| !value.is_u64()) || !(1..=MAX_SIDE).contains(&side) {
            return Err(ApiError::bad_request(name, format!("{name} must be an integer between 1 and {MAX_SIDE}")));
        }
    }
    if !(1..=4).contains(&n) {
        return Err(ApiError::bad_request("n", "n must be between 1 and 4"));
    }
    let steps = ask.field("steps");
    if steps.is_some_and(|steps| !steps.as_u64().is_some_and(|steps| (1..=50).contains(&steps))) {
        return Err(ApiError::bad_request("steps", "steps must be between 1 and 50"));
    }
    let one_of = |name: &'static str, known: &[&str]| match ask.field(name) {
        Some(value) if !value.as_str().is_some_and(|value| known.contains(&value)) => {
            Err(ApiError::bad_request(name, format!("{name} must be one of {}", known.join(", "))))
        }
        _ => Ok(()),
    };
    one_of("output_format", &["jpeg", "png"])?;
    one_of("response_format", &["base64", "b64_json", "url"])
}

/// What is billed: pictures and their pixels.
pub(super) fn tokens(ask: Ask<'_>) -> Tokens {
    let Wanted { width, height, n, .. } = wanted(ask);
    Tokens { images: n, pixels: width * height * n, ..Tokens::default() }
}

/// The answer, and the files that its links point to.
pub(super) fn answer(ask: Ask<'_>, model: &SimModel, id: &str, mut random: Random) -> (Value, Vec<(String, Vec<u8>)>) {
    let Wanted { prompt, width, height, n, png, url } = wanted(ask);
    let seed = ask.field("seed").and_then(Value::as_u64).unwrap_or_else(|| random.next());
    let side = |pixels: u64| u32::try_from(pixels).unwrap_or_default();
    let (mut files, mut data) = (Vec::new(), Vec::new());
    for index in 0..n {
        let picture = Picture::of(prompt, seed.wrapping_add(index), side(width), side(height));
        let file = if png { picture.to_png() } else { picture.to_jpeg() }.unwrap_or_default();
        if url {
            let name = format!("{id}-{index}.{}", if png { "png" } else { "jpg" });
            data.push(json!({"index": index, "type": "url", "url": format!("{FOLDER}{name}")}));
            files.push((name, file));
        } else {
            data.push(json!({"index": index, "type": "b64_json", "b64_json": BASE64_STANDARD.encode(file)}));
        }
    }
    (json!({"id": id, "object": "list", "model": model.id(), "data": data}), files)
}
