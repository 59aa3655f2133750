//! The key, the prompt and the answer show nowhere.

use std::{
    fmt::{self, Write as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::ready};
use together_inference::{
    TogetherClient,
    client::{Body, ChatRequest, ClientBuilder, Error},
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{
    fault::FaultServer,
    support::{Answer, MODEL, at, faked, json, quick_retries, response, shown, sse},
};

const KEY: &str = "sk-canary-key";
const PROMPT: &str = "canary-prompt";
const ANSWER: &str = "canary-answer";
/// The last chunk of a stream.
const END: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// Writes down every span and event of every level, with all fields.
#[derive(Clone, Default)]
struct Capture {
    text: Arc<Mutex<String>>,
    spans: Arc<AtomicU64>,
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Capture {
    fn note(&self, metadata: &Metadata<'_>, record: impl FnOnce(&mut Fields<'_>)) {
        let mut text = self.text.lock().unwrap();
        let _ = write!(text, "{} {} {}", metadata.level(), metadata.target(), metadata.name());
        record(&mut Fields(&mut text));
        text.push('\n');
    }

    fn take(&self) -> String {
        std::mem::take(&mut *self.text.lock().unwrap())
    }
}

impl Subscriber for Capture {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        self.note(attributes.metadata(), |fields| attributes.record(fields));
        span::Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut Fields(&mut self.text.lock().unwrap()));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        self.note(event.metadata(), |fields| event.record(fields));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn secret_request() -> ChatRequest {
    ChatRequest::new(MODEL).system(PROMPT).user(format!("{PROMPT}?"))
}

fn completion() -> String {
    format!(r#"{{"id":"x","choices":[{{"index":0,"message":{{"content":"{ANSWER}"}},"finish_reason":"stop"}}]}}"#)
}

fn event(content: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}}}}]}}\n\n")
}

/// Makes a plain call and a streamed one; what a log could show of them.
async fn both(client: &TogetherClient) -> (String, Vec<Error>) {
    let (request, mut shows, mut errors) = (secret_request(), format!("{client:?} {client:#?}"), Vec::new());
    let _ = write!(shows, "{:?} {:?}", client.chat(), client.models());
    errors.extend(client.chat().create(&request).await.err());
    match client.chat().stream(&request).await {
        Err(error) => errors.push(error),
        Ok(mut stream) => {
            let _ = write!(shows, "{stream:?}");
            while let Some(delta) = stream.next().await {
                errors.extend(delta.err());
            }
            let _ = write!(shows, "{stream:?}");
        }
    }
    (shows, errors)
}

/// An error that quotes the prompt.
fn echo(more: &str) -> String {
    format!(
        r#"{{"error":{{"message":"bad request: {PROMPT}","type":"invalid_request_error","param":"{PROMPT}",{more}}}}}"#
    )
}

type Answering = fn() -> Answer;

fn faults() -> Vec<(&'static str, Answering)> {
    vec![
        ("an answer", || Ok(json(completion()))),
        ("a stream", || Ok(sse([Bytes::from(event(ANSWER)), Bytes::from(END)]))),
        ("a cut stream", || Ok(sse([Bytes::from(event(ANSWER)), Bytes::from(&b"data: {"[..])]))),
        ("broken JSON", || Ok(json(format!("{{\"choices\":[{{\"message\":{{\"content\":\"{ANSWER}")))),
        ("wrong JSON", || Ok(json(completion().replace(&format!("\"{ANSWER}\""), &format!("{{\"{ANSWER}\":1}}"))))),
        ("wrong index", || Ok(json(format!("{{\"choices\":\"{ANSWER}\",\"usage\":\"{PROMPT}\"}}")))),
        ("a broken event", || Ok(sse([Bytes::from(format!("{}data: {ANSWER}\n\n", event(ANSWER)))]))),
        ("a wrong event", || Ok(sse([Bytes::from(format!("data: {{\"choices\":\"{ANSWER}\"}}\n\n"))]))),
        ("no choices", || Ok(json(format!("{{\"prompt\":[\"{PROMPT}\"],\"choices\":[]}}")))),
        ("an echoed key", || {
            let body = format!("{{\"error\":{{\"message\":\"invalid key {KEY}\",\"param\":\"{PROMPT}\"}}}}");
            Ok(response(401, "application/json", Body::from(body)))
        }),
        ("an echoed key in a success", || Ok(json(format!("{{\"error\":\"invalid key {KEY}\"}}")))),
        ("an echoed key in a stream", || {
            Ok(sse([Bytes::from(format!("{}data: {{\"error\":\"invalid key {KEY}\"}}\n\n", event(ANSWER)))]))
        }),
        ("an echoed key as code", || {
            let body = format!("{{\"error\":{{\"message\":\"no\",\"code\":\"{KEY}\"}},\"id\":\"{KEY}\"}}");
            let mut answer = response(403, "application/json", Body::from(body));
            answer.headers_mut().insert("x-request-id", KEY.parse().unwrap());
            Ok(answer)
        }),
        ("a validation error", || {
            let body = format!("{{\"detail\":[{{\"loc\":[\"messages\"],\"input\":\"{PROMPT}\",\"msg\":\"no\"}}]}}");
            Ok(response(422, "application/json", Body::from(body)))
        }),
        ("an echoed prompt", || Ok(response(400, "application/json", Body::from(echo(r#""code":"bad_prompt""#))))),
        ("an echoed prompt of a 404", || {
            let body = format!("{{\"message\":\"no model {MODEL} for {PROMPT}\",\"type\":\"NotFoundError\"}}");
            Ok(response(404, "application/json", Body::from(body)))
        }),
        ("an echoed prompt over the context", || {
            let body = format!("{{\"error\":\"context length exceeded by {PROMPT}\"}}");
            Ok(response(400, "application/json", Body::from(body)))
        }),
        ("an echoed prompt as code", || {
            let long = format!("{PROMPT}{}", "x".repeat(64));
            let body =
                format!("{{\"error\":{{\"code\":\"{long}\",\"type\":\"no {PROMPT}\"}},\"id\":\"for {PROMPT}\"}}");
            let mut answer = response(400, "application/json", Body::from(body));
            answer.headers_mut().remove("x-request-id");
            Ok(answer)
        }),
        ("an echoed prompt as type", || {
            let body = format!("{{\"error\":{{\"type\":\"no {PROMPT}\"}}}}");
            Ok(response(429, "application/json", Body::from(body)))
        }),
        ("an echoed prompt in a page", || {
            let body = format!("<html><title>{PROMPT} is blocked</title></html>");
            Ok(response(403, "text/html", Body::from(body)))
        }),
        ("an echoed prompt in plain text", || Ok(response(500, "text/plain", Body::from(format!("no: {PROMPT}"))))),
        ("an echoed prompt in a success", || Ok(json(echo(r#""code":503"#)))),
        ("an echoed prompt beside choices", || {
            Ok(json(completion().replace("\"id\"", &format!("\"error\":\"no: {PROMPT}\",\"id\""))))
        }),
        ("an echoed prompt in a stream", || {
            Ok(sse([Bytes::from(format!("{}data: {}\n\n", event(ANSWER), echo(r#""code":503"#)))]))
        }),
        ("an echoed prompt in a named event", || {
            Ok(sse([Bytes::from(format!("{}event: error\ndata: no: {PROMPT}\n\n", event(ANSWER)))]))
        }),
        ("a redirect", || {
            let mut answer = response(302, "text/plain", Body::from(PROMPT));
            answer.headers_mut().insert("location", format!("https://u:{KEY}@x/{PROMPT}").parse().unwrap());
            Ok(answer)
        }),
        ("a busy server", || Ok(response(503, "text/plain", Body::empty()))),
    ]
}

fn secretive(answer: Answering) -> ClientBuilder {
    faked(move |_| ready(answer()).boxed()).api_key(KEY).header("x-own", format!("{KEY}-own")).retry(quick_retries())
}

#[tokio::test]
async fn nothing_shows_in_logs_or_errors() {
    let capture = Capture::default();
    let _guard = tracing::subscriber::set_default(capture.clone());
    tracing::trace!(planted = KEY, "a planted event");
    let planted = capture.take();
    assert!(planted.contains(&format!("planted={KEY:?}")), "the capture misses events: {planted:?}");
    for (name, answer) in faults() {
        let builder = secretive(answer);
        let debug = format!("{builder:?} {builder:#?}");
        let (shows, errors) = both(&builder.build().unwrap()).await;
        let errors: String = errors.iter().map(shown).collect();
        let logged = capture.take();
        for (place, text) in [("Debug", debug), ("Debug", shows), ("an error", errors), ("a log", logged)] {
            assert!(!text.contains("canary"), "{name} shows in {place}: {text}");
        }
    }
}

#[tokio::test]
async fn nothing_shows_in_logs_or_errors_of_real_connections() {
    let capture = Capture::default();
    let _guard = tracing::subscriber::set_default(capture.clone());
    let server = FaultServer::start().await;
    let mut failed = 0;
    for fault in ["ok", "status/500", "html/502", "sse-rst/2", "garbage", "redirect/302/userinfo", "big-header/1048576"]
    {
        let client = at(&server, fault).api_key(KEY).retry(quick_retries()).build().unwrap();
        let (shows, errors) = both(&client).await;
        failed += errors.len();
        let text: String = errors.iter().map(shown).chain([shows, capture.take()]).collect();
        assert!(!text.contains("canary"), "{fault}: {text}");
    }
    assert!(failed >= 11, "{failed}");
    assert!(server.requests_seen().iter().all(|seen| seen.header("authorization").unwrap().contains(KEY)));
}

#[tokio::test]
async fn a_repeat_is_logged_without_secrets() {
    let capture = Capture::default();
    let _guard = tracing::subscriber::set_default(capture.clone());
    let client = secretive(|| Ok(response(503, "text/plain", Body::from(PROMPT)))).build().unwrap();
    client.chat().create(&secret_request()).await.unwrap_err();
    // The first time, a test beside this one may be registering the event for a thread that listens to none.
    tracing::callsite::rebuild_interest_cache();
    capture.take();
    client.chat().create(&secret_request()).await.unwrap_err();
    let logged = capture.take();
    assert_eq!(logged.matches("attempt failed, repeating").count(), 2, "{logged}");
    assert!(logged.contains("overloaded") && !logged.contains("canary"), "{logged}");
}

#[test]
fn a_password_in_a_base_url_does_not_show() {
    for url in ["https://user:canary@api.example/v1", "https://canary@api.example", "https://api.example/?key=canary"] {
        let builder = TogetherClient::builder().api_key("key").base_url(url);
        assert!(!format!("{builder:?}").contains("canary"), "{builder:?}");
        let error = builder.build().unwrap_err();
        assert!(!shown(&error).contains("canary"), "{error}");
    }
}

#[tokio::test]
async fn the_words_of_the_provider_are_there_for_those_who_ask() {
    let answer: Answering = || Ok(response(400, "application/json", Body::from(echo(r#""code":"bad_prompt""#))));
    let error = secretive(answer).build().unwrap().chat().create(&secret_request()).await.unwrap_err();
    assert_eq!(error.message(), format!("bad request: {PROMPT}"));
    assert_eq!(error.body(), &echo(r#""code":"bad_prompt""#));
    let shows = format!(
        "400 invalid_request: message() has the provider's words (model {MODEL}, code bad_prompt, request request-7)"
    );
    assert_eq!(error.to_string(), shows);
    // Words of our own are shown.
    let error = secretive(|| Ok(json("{}"))).build().unwrap().chat().create(&secret_request()).await.unwrap_err();
    assert!(
        error.to_string().starts_with("200 malformed: the response holds no answer (no choices) (model "),
        "{error}"
    );
}
