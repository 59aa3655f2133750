//! Files and batches of a provider in memory, with what goes wrong on the way.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _};
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use together_inference::{
    TogetherClient,
    client::{Body, ClientBuilder, TransportError, TransportErrorKind},
};

use crate::support::{Answer, faked};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It never arrives.
    LoseRequest,
    /// It is obeyed, but nobody learns of it.
    LoseReply,
    /// It is refused.
    Status(u16),
    /// It is sent on, to the storage's other host.
    SendOn(u16),
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `POST /v1/files`.
    pub what: String,
    pub host: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, (Value, Vec<u8>)>,
    checksums: BTreeMap<String, String>,
    jobs: Vec<Value>,
    seen: Vec<Seen>,
    faults: Vec<(String, Fault)>,
    /// Jobs from this one on are not in the list yet.
    listed: Option<usize>,
    parts: BTreeMap<u64, Vec<u8>>,
}

#[derive(Clone, Default)]
pub struct Provider {
    state: Arc<Mutex<State>>,
    at_once: Arc<AtomicUsize>,
    pub most_at_once: Arc<AtomicUsize>,
}

fn respond(status: u16, body: &Value) -> Response<Body> {
    Response::builder().status(status).body(Body::from(body.to_string())).unwrap()
}

/// The value of a form's field.
fn field<'a>(form: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = form.split_once(&format!("name=\"{name}\"\r\n\r\n"))?;
    Some(rest.split_once("\r\n--")?.0)
}

impl Provider {
    pub fn builder(&self) -> ClientBuilder {
        let provider = self.clone();
        faked(move |request| {
            let provider = provider.clone();
            async move { provider.answer(request).await }.boxed()
        })
    }

    pub fn client(&self) -> TogetherClient {
        self.builder().build().unwrap()
    }

    /// The next request of this kind meets a fault.
    pub fn fault(&self, what: &str, fault: Fault) {
        self.state.lock().unwrap().faults.push((what.to_owned(), fault));
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// What was asked so far, forgetting it.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().seen).into_iter().map(|seen| seen.what).collect()
    }

    pub fn jobs(&self) -> Vec<Value> {
        self.state.lock().unwrap().jobs.clone()
    }

    pub fn job(&self, job: Value) {
        self.state.lock().unwrap().jobs.push(job);
    }

    pub fn change(&self, at: usize, change: impl FnOnce(&mut Value)) {
        change(&mut self.state.lock().unwrap().jobs[at]);
    }

    /// Knows no content of a file any more: what is uploaded again becomes another file.
    pub fn forget_checksums(&self) {
        self.state.lock().unwrap().checksums.clear();
    }

    /// How many jobs the list shows; all unless set.
    pub fn list_only(&self, jobs: Option<usize>) {
        self.state.lock().unwrap().listed = jobs;
    }

    pub fn file(&self, id: &str, content: &[u8]) {
        self.state.lock().unwrap().files.insert(id.to_owned(), (json!({"id": id}), content.to_vec()));
    }

    pub fn content(&self, id: &str) -> Vec<u8> {
        self.state.lock().unwrap().files[id].1.clone()
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, mut body) = request.into_parts();
        let host = parts.uri.host().unwrap().to_owned();
        let path = parts.uri.path().to_owned();
        let what = format!("{} {path}", parts.method);
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    self.at_once.fetch_sub(1, Ordering::SeqCst);
                    return Err(error);
                }
            };
            bytes.extend_from_slice(&piece);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        let seen = Seen { what: what.clone(), host, headers: parts.headers, body: bytes };
        let state = &mut *self.state.lock().unwrap();
        state.seen.push(seen.clone());
        let lost = || Err(TransportError::new(TransportErrorKind::Interrupted, "lost"));
        let fault = state.faults.iter().position(|(at, _)| what.starts_with(&**at)).map(|at| state.faults.remove(at).1);
        match fault {
            Some(Fault::LoseRequest) => lost(),
            Some(Fault::Status(status)) => Ok(respond(status, &json!({"error": {"message": "no", "type": "x"}}))),
            Some(Fault::SendOn(status)) => {
                let to = format!("https://other.storage.example{path}");
                Ok(Response::builder().status(status).header("location", to).body(Body::empty()).unwrap())
            }
            Some(Fault::LoseReply) => {
                state.obey(&seen, &path);
                lost()
            }
            None => Ok(state.obey(&seen, &path)),
        }
    }
}

impl State {
    fn obey(&mut self, seen: &Seen, path: &str) -> Response<Body> {
        let method = seen.what.split(' ').next().unwrap();
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method, &segments[..]) {
            ("POST", ["v1", "files"]) => self.name(seen),
            ("POST", ["v1", "files", "upload"]) => {
                let form = String::from_utf8_lossy(&seen.body).into_owned();
                let id = self.keep(field(&form, "file_name").unwrap(), "", seen.body.clone());
                respond(200, &self.files[&id].0)
            }
            ("PUT", ["put", id]) => {
                let (file, content) = self.files.get_mut(*id).unwrap();
                file["bytes"] = json!(seen.body.len());
                content.clone_from(&seen.body);
                respond(200, &Value::Null)
            }
            ("PUT", ["part", number]) => {
                let number = number.parse().unwrap();
                self.parts.insert(number, seen.body.clone());
                let answer = Response::builder().status(200).header("etag", format!("\"tag-{number}\""));
                answer.body(Body::empty()).unwrap()
            }
            ("POST", ["v1", "files", "multipart", step]) => self.multipart(step, seen),
            ("POST", ["v1", "files", id, "preprocess"]) | ("GET", ["v1", "files", id]) => match self.files.get(*id) {
                Some((file, _)) => respond(200, file),
                None => respond(404, &json!({"error": {"message": "no", "type": "not_found"}})),
            },
            ("GET", ["v1", "files", id, "content"]) => match self.files.get(*id) {
                Some((_, content)) => Response::new(Body::from(bytes::Bytes::from(content.clone()))),
                None => respond(404, &json!({"error": {"message": "no", "type": "not_found"}})),
            },
            ("DELETE", ["v1", "files", id]) => match self.files.remove(*id) {
                Some(_) => respond(200, &json!({"id": id, "deleted": true})),
                None => respond(404, &json!({"error": {"message": "no", "type": "not_found"}})),
            },
            ("GET", ["v1", "files"]) => {
                respond(200, &json!({"data": self.files.values().map(|(file, _)| file).collect::<Vec<_>>()}))
            }
            (_, ["v1", "batches", ..]) => self.batches(method, &segments[2..], &seen.body),
            _ => panic!("nothing is at {}", seen.what),
        }
    }

    fn keep(&mut self, name: &str, checksum: &str, content: Vec<u8>) -> String {
        let id = format!("file-{}", self.files.len());
        let file = json!({"id": id, "object": "file", "filename": name, "bytes": content.len(),
            "purpose": "batch-api", "created_at": 1, "FileType": "jsonl", "Processed": true, "LineCount": 0});
        self.checksums.insert(checksum.to_owned(), id.clone());
        self.files.insert(id.clone(), (file, content));
        id
    }

    fn name(&mut self, seen: &Seen) -> Response<Body> {
        let form = String::from_utf8(seen.body.clone()).unwrap();
        let checksum = field(&form, "checksum").unwrap();
        if let Some(id) = self.checksums.get(checksum) {
            return respond(409, &json!({"file_id": id}));
        }
        let id = self.keep(field(&form, "file_name").unwrap(), checksum, Vec::new());
        let answer = Response::builder().status(302).header("x-together-file-id", &id);
        answer.header("location", format!("https://storage.example/put/{id}?signed=1")).body(Body::empty()).unwrap()
    }

    fn multipart(&mut self, step: &str, seen: &Seen) -> Response<Body> {
        let asked: Value = serde_json::from_slice(&seen.body).unwrap();
        match step {
            "initiate" => {
                let count = asked["num_parts"].as_u64().unwrap();
                let part = |number: u64| {
                    json!({"PartNumber": number, "URL": format!("https://storage.example/part/{number}"),
                        "Headers": {"x-part": number.to_string()}})
                };
                // In no order.
                let parts: Vec<Value> = (1..=count).rev().map(part).collect();
                respond(200, &json!({"upload_id": "u", "file_id": "f", "parts": parts}))
            }
            "complete" => {
                let parts = asked["parts"].as_array().unwrap();
                let whole = parts.iter().flat_map(|part| {
                    let number = part["part_number"].as_u64().unwrap();
                    assert_eq!(part["etag"], format!("tag-{number}"));
                    self.parts.remove(&number).unwrap()
                });
                let whole = whole.collect();
                let id = self.keep("parts", "", whole);
                respond(200, &json!({"file": self.files[&id].0}))
            }
            _ => respond(200, &json!({})),
        }
    }

    fn batches(&mut self, method: &str, path: &[&str], body: &[u8]) -> Response<Body> {
        let missing = || respond(404, &json!({"error": "Job not found", "request_id": "r"}));
        match (method, path) {
            ("POST", []) => {
                let asked: Value = serde_json::from_slice(body).unwrap();
                let n = self.jobs.len();
                let job = json!({"id": format!("job-{n}"), "status": "VALIDATING", "progress": 0,
                    "input_file_id": asked["input_file_id"], "endpoint": asked["endpoint"],
                    "created_at": format!("2026-01-01T00:00:{n:02}.000001Z")});
                self.jobs.push(job.clone());
                respond(201, &json!({"job": job, "warning": "slow today"}))
            }
            ("GET", []) => {
                let shown = self.listed.unwrap_or(self.jobs.len()).min(self.jobs.len());
                // The newest first.
                let list: Vec<_> = self.jobs[..shown].iter().rev().collect();
                respond(200, &json!(list))
            }
            (_, [id, rest @ ..]) => {
                let Some(job) = self.jobs.iter_mut().find(|job| job["id"] == *id) else { return missing() };
                if rest == ["cancel"] {
                    let status = job["status"].as_str().unwrap().to_owned();
                    if ["COMPLETED", "FAILED", "EXPIRED", "CANCELLED"].contains(&&*status) {
                        let mut error = String::new();
                        write!(error, "Cannot cancel job - already in terminal state: {status}").unwrap();
                        return respond(409, &json!({"error": error}));
                    }
                    job["status"] = json!("CANCELING");
                }
                respond(200, job)
            }
            _ => missing(),
        }
    }
}
