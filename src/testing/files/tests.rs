//! Files as a client sees them.

use futures_util::StreamExt;
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};

use super::super::{Fault, Together};
use crate::client::{Body, Transport, TransportError};

async fn send(together: &Together, request: http::request::Builder, body: impl Into<Body>) -> Response<Body> {
    together.send(request.header("authorization", "Bearer key").body(body.into()).unwrap()).await.unwrap()
}

async fn bytes(response: Response<Body>) -> Vec<u8> {
    let chunks: Vec<Result<_, TransportError>> = response.into_body().collect().await;
    chunks.into_iter().flat_map(Result::unwrap).collect()
}

async fn read(response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&bytes(response).await).unwrap_or_default())
}

fn form(fields: &[(&str, &str)]) -> String {
    let part = |(name, value): &(&str, &str)| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    fields.iter().map(part).collect::<String>() + "--b--\r\n"
}

async fn post(together: &Together, path: &str, fields: &[(&str, &str)]) -> Response<Body> {
    let request = Request::post(format!("https://api.together.ai{path}"));
    send(together, request.header("content-type", "multipart/form-data; boundary=b"), form(fields)).await
}

/// Uploads by `PUT` without a key.
async fn put(together: &Together, url: &str, body: &'static str) -> Response<Body> {
    together.send(Request::put(url).body(Body::from(body)).unwrap()).await.unwrap()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers[name].to_str().unwrap()
}

const DESCRIBED: [(&str, &str); 3] = [("purpose", "batch-api"), ("file_name", "a.jsonl"), ("file_type", "jsonl")];
/// Of `hello`.
const CHECKSUM: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

#[tokio::test]
async fn a_file_is_uploaded_listed_downloaded_and_deleted() {
    let together = Together::new();
    let [purpose, name, kind] = DESCRIBED;
    let (status, file) =
        read(post(&together, "/v1/files/upload", &[purpose, name, kind, ("file", "{}\n")]).await).await;
    assert_eq!(status, 200);
    for (field, value) in [
        ("object", json!("file")),
        ("bytes", json!(3)),
        ("FileType", json!("jsonl")),
        ("filename", json!("a.jsonl")),
        ("purpose", json!("batch-api")),
        ("Processed", json!(true)),
    ] {
        assert_eq!(file[field], value, "{field}");
    }
    let id = file["id"].as_str().unwrap();
    let one = format!("/v1/files/{id}");
    assert_eq!(read(send(&together, Request::get("/v1/files"), "").await).await, (200, json!({"data": [file]})));
    assert_eq!(read(send(&together, Request::get(&one), "").await).await, (200, file.clone()));
    assert_eq!(bytes(send(&together, Request::get(format!("{one}/content")), "").await).await, b"{}\n");
    let deleted = read(send(&together, Request::delete(&one), "").await).await;
    assert_eq!(deleted, (200, json!({"id": id, "deleted": true})));
    let (status, error) = read(send(&together, Request::get(&one), "").await).await;
    assert_eq!((status, &error["error"]["type"]), (404, &json!("not_found")));
    assert_eq!(
        *together.requests()[0].body,
        json!({"purpose": "batch-api", "file_name": "a.jsonl",
        "file_type": "jsonl", "file": {"bytes": 3}})
    );
    assert_eq!(read(post(&together, "/v1/files/upload", &[purpose, name]).await).await.0, 400);
    assert_eq!((together.calls(), together.asked("GET /v1/files/*")), (0, 2));
}

#[tokio::test]
async fn a_presigned_upload_takes_no_key_and_is_found_again_by_its_checksum() {
    let together = Together::new();
    let described = [&DESCRIBED[..], &[("checksum", CHECKSUM)]].concat();
    let response = post(&together, "/v1/files", &described).await;
    assert_eq!(response.status(), 302);
    let (url, id) = (header(response.headers(), "location"), header(response.headers(), "x-together-file-id"));
    assert!(url.starts_with("https://api.together.ai/storage/"), "{url}");
    assert_eq!(post(&together, "/v1/files", &described).await.status(), 302, "nothing is uploaded yet");
    assert_eq!(send(&together, Request::post(format!("/v1/files/{id}/preprocess")), "").await.status(), 400);
    assert_eq!(send(&together, Request::put(url), "hello").await.status(), 400, "with a key");
    let unsigned = url.split('?').next().unwrap();
    assert_eq!(put(&together, unsigned, "hello").await.status(), 403);
    assert_eq!(put(&together, url, "other").await.status(), 400, "not the bytes of the checksum");
    together.redirect_uploads(1);
    let moved = put(&together, url, "hello").await;
    assert_eq!(moved.status(), 307);
    assert_eq!(put(&together, header(moved.headers(), "location"), "hello").await.status(), 200);
    let (status, file) = read(send(&together, Request::post(format!("/v1/files/{id}/preprocess")), "").await).await;
    assert_eq!((status, &file["bytes"]), (200, &json!(5)));
    assert_eq!(read(post(&together, "/v1/files", &described).await).await, (409, json!({"file_id": id})));
    together.add_file("twin", "hello");
    let query = "/v1/files?purpose=fine-tune&file_name=%2Ftmp%2Fa.jsonl&file_type=jsonl";
    let response = send(&together, Request::post(query).header("host", "localhost:1"), "").await;
    assert!(header(response.headers(), "location").starts_with("http://localhost:1/storage/"));
    let id = header(response.headers(), "x-together-file-id");
    let (_, file) = read(send(&together, Request::get(format!("/v1/files/{id}")), "").await).await;
    assert_eq!((&file["filename"], &file["processing_status"]), (&json!("/tmp/a.jsonl"), &json!("PENDING")));
}

#[tokio::test]
async fn an_upload_in_parts_is_whole_when_each_part_is_named_with_its_tag() {
    let together = Together::new();
    let call = async |path: &str, body: Value| {
        read(send(&together, Request::post(format!("/v1/files/multipart/{path}")), body.to_string()).await).await
    };
    let description = json!({"file_name": "a.jsonl", "file_size": 5, "num_parts": 2, "purpose": "batch-api",
        "file_type": "jsonl", "checksum": CHECKSUM});
    let (status, started) = call("initiate", description.clone()).await;
    assert_eq!(status, 200);
    let mut parts = Vec::new();
    for (part, bytes) in started["parts"].as_array().unwrap().iter().zip(["hel", "lo"]) {
        let response = put(&together, part["URL"].as_str().unwrap(), bytes).await;
        let tag = header(response.headers(), "etag").trim_matches('"').to_owned();
        parts.push(json!({"part_number": part["PartNumber"], "etag": tag}));
    }
    let ids = json!({"upload_id": started["upload_id"], "file_id": started["file_id"]});
    let with = |parts: &[Value]| {
        let mut body = ids.clone();
        body["parts"] = json!(parts);
        body
    };
    assert_eq!(call("complete", with(&parts[..1])).await.0, 400);
    let (status, done) = call("complete", with(&parts)).await;
    assert_eq!((status, &done["file"]["bytes"]), (200, &json!(5)));
    let id = started["file_id"].as_str().unwrap();
    assert_eq!(together.file(id).as_deref(), Some(&b"hello"[..]));
    assert_eq!(call("initiate", description.clone()).await, (409, json!({"file_id": id})));
    let mut other = description;
    other["checksum"] = json!("another");
    let (_, started) = call("initiate", other).await;
    assert_eq!(call("abort", started.clone()).await.0, 200);
    assert_eq!(call("abort", started).await.0, 404);
}

#[tokio::test]
async fn a_download_can_be_resumed_where_it_broke() {
    let together = Together::new();
    let whole: String = (0..40_000).map(|number| format!("{number}\n")).collect();
    let id = together.add_file("a.jsonl", whole.clone());
    let url = format!("/v1/files/{id}/content");
    together.cut_downloads(1, 100_000);
    let cut = send(&together, Request::get(&url), "").await;
    assert_eq!(header(cut.headers(), "content-length"), whole.len().to_string());
    let mut got: Vec<u8> = Vec::new();
    let mut body = cut.into_body();
    while let Some(Ok(chunk)) = body.next().await {
        got.extend_from_slice(&chunk);
    }
    assert_eq!(got.len(), 100_000);
    let rest = send(&together, Request::get(&url).header("range", "bytes=100000-"), "").await;
    assert_eq!(rest.status(), 206);
    let range = format!("bytes 100000-{}/{}", whole.len() - 1, whole.len());
    assert_eq!(header(rest.headers(), "content-range"), range);
    got.extend_from_slice(&bytes(rest).await);
    assert!(got == whole.as_bytes());
    let beyond = send(&together, Request::get(&url).header("range", "bytes=9999999-"), "").await;
    assert_eq!(beyond.status(), 416);
}

#[tokio::test]
async fn faults_of_inference_pass_files_by_and_theirs_pass_it_by() {
    let together = Together::new();
    together.fail_next(1, Fault::status(503));
    together.hang();
    assert_eq!(send(&together, Request::get("/v1/files"), "").await.status(), 200);
    together.heal();
    together.fail_next_at("POST /v1/files", 1, Fault::status(429));
    assert_eq!(send(&together, Request::get("/v1/files"), "").await.status(), 200);
    assert_eq!(post(&together, "/v1/files", &DESCRIBED).await.status(), 429);
    assert_eq!(post(&together, "/v1/files", &DESCRIBED).await.status(), 302);
    assert_eq!(send(&together, Request::put("/v1/files"), "").await.status(), 405);
    let keyless = Request::get("/v1/files").body(Body::empty()).unwrap();
    assert_eq!(together.send(keyless).await.unwrap().status(), 401);
}

#[tokio::test]
async fn an_upload_of_more_than_a_hundred_megabytes_is_taken() {
    let together = Together::new();
    let response = post(&together, "/v1/files", &DESCRIBED).await;
    let url = header(response.headers(), "location");
    let body = Body::from(bytes::Bytes::from(vec![b' '; 120 << 20]));
    let status = together.send(Request::put(url).body(body).unwrap()).await.unwrap().status();
    assert_eq!(status, 200);
    assert_eq!(*together.requests()[1].body, json!({"bytes": 120 << 20}));
}
