//! The same calls by hand: reqwest and `serde_json`, typed, with the same time-outs and fields.

use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

pub struct Client {
    http: reqwest::Client,
    url: String,
}

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: [Message<'a>; 1],
    max_tokens: u32,
    temperature: f64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'a str,
    content: &'a str,
}

#[derive(Serialize)]
struct Embed<'a> {
    model: &'a str,
    input: &'a [String],
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed as an application would")]
struct Embedded {
    model: String,
    data: Vec<Vector>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed as an application would")]
struct Vector {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed as an application would")]
struct Completion {
    id: String,
    model: String,
    created: u64,
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed as an application would")]
struct Choice {
    index: u32,
    message: Option<Turn>,
    delta: Option<Turn>,
    finish_reason: Option<String>,
    seed: Option<u64>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed as an application would")]
struct Turn {
    role: Option<String>,
    content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<serde_json::Value>>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed as an application would")]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    cached_tokens: Option<u64>,
}

impl Client {
    pub fn new(base_url: &str) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .pool_idle_timeout(Duration::from_secs(60))
            .user_agent("by-hand/1.0")
            .build()
            .expect("a client");
        Self { http, url: format!("{base_url}/chat/completions") }
    }

    async fn send(&self, model: &str, prompt: &str, temperature: f64, stream: bool) -> reqwest::Response {
        let messages = [Message { role: "user", content: prompt }];
        let body =
            serde_json::to_vec(&Request { model, messages, max_tokens: 200, temperature, stream }).expect("json");
        let request =
            self.http.post(&self.url).bearer_auth("bench").header("content-type", "application/json").body(body);
        let response =
            tokio::time::timeout(Duration::from_secs(120), request.send()).await.expect("in time").expect("sent");
        assert!(response.status().is_success());
        response
    }

    pub async fn chat(&self, model: &str, prompt: &str, temperature: f64) -> String {
        let response = self.send(model, prompt, temperature, false).await;
        let body =
            tokio::time::timeout(Duration::from_secs(60), response.bytes()).await.expect("in time").expect("body");
        let completion: Completion = serde_json::from_slice(&body).expect("a completion");
        let first = completion.choices.into_iter().next().expect("a choice");
        first.message.and_then(|message| message.content).unwrap_or_default()
    }

    pub async fn embed(&self, model: &str, input: &[String]) -> Vec<Vec<f32>> {
        let body = serde_json::to_vec(&Embed { model, input }).expect("json");
        let url = self.url.replace("/chat/completions", "/embeddings");
        let request = self.http.post(url).bearer_auth("bench").header("content-type", "application/json").body(body);
        let response =
            tokio::time::timeout(Duration::from_secs(120), request.send()).await.expect("in time").expect("sent");
        assert!(response.status().is_success());
        let body =
            tokio::time::timeout(Duration::from_secs(60), response.bytes()).await.expect("in time").expect("body");
        let embedded: Embedded = serde_json::from_slice(&body).expect("vectors");
        embedded.data.into_iter().map(|vector| vector.embedding).collect()
    }

    /// Collects text, splits at blank lines, parses each event.
    pub async fn stream(&self, model: &str, prompt: &str) -> usize {
        let response = self.send(model, prompt, 0.7, true).await;
        let (mut body, mut buffer, mut bytes) = (response.bytes_stream(), String::new(), 0);
        while let Some(chunk) = tokio::time::timeout(Duration::from_secs(60), body.next()).await.expect("in time") {
            buffer.push_str(std::str::from_utf8(&chunk.expect("chunk")).expect("text"));
            while let Some(end) = buffer.find("\n\n") {
                let event: String = buffer.drain(..end + 2).collect();
                let Some(data) = event.trim().strip_prefix("data: ") else { continue };
                if data == "[DONE]" {
                    return bytes;
                }
                let chunk: Completion = serde_json::from_str(data).expect("a chunk");
                bytes += chunk
                    .choices
                    .first()
                    .and_then(|choice| choice.delta.as_ref())
                    .and_then(|delta| delta.content.as_ref())
                    .map_or(0, String::len);
            }
        }
        bytes
    }
}
