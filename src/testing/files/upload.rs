//! Uploads to a presigned address: whole, or in parts.

use std::ops::RangeInclusive;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{AUTHORIZATION, ETAG, HOST, LOCATION},
    uri::Authority,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::{
        error::ApiError,
        handler::{Body, Exchange, response},
        offline::{STORAGE, reply},
        random::Random,
        state::State,
    },
    form::Form,
    missing,
    store::{File, Parts},
};

const FILE_ID: HeaderName = HeaderName::from_static("x-together-file-id");
/// Parts that an upload may have.
const PARTS: RangeInclusive<u64> = 1..=250;
/// Checksums of larger files are believed: to compute them takes an unoptimized build too long.
const CHECKED_BYTES: usize = 1 << 20;

/// `POST /v1/files`: where to put the file.
pub(in crate::testing) fn presign(
    state: &mut State,
    exchange: &Exchange<'_>,
    form: Form,
    now: Instant,
) -> Response<Body> {
    if form.file.is_some() {
        return refused("file is not allowed here: send it to /v1/files/upload");
    }
    let file = match described(state, exchange, |name| form.field(name).map(str::to_owned), now) {
        Ok(file) => file,
        Err(refusal) => return *refusal,
    };
    let id = state.store.add(exchange.shared.config.seed, file);
    let mut response = response(StatusCode::FOUND, None, Body::empty());
    let headers = response.headers_mut();
    headers.extend(HeaderValue::from_str(&address(exchange, &id)).map(|address| (LOCATION, address)));
    headers.extend(HeaderValue::from_str(&id).map(|id| (FILE_ID, id)));
    response
}

/// `POST /v1/files/multipart/initiate`: where to put its parts.
pub(in crate::testing) fn initiate(
    state: &mut State,
    exchange: &Exchange<'_>,
    body: &Value,
    now: Instant,
) -> Response<Body> {
    let number = |name: &str| body.get(name).and_then(Value::as_u64);
    let (Some(size), Some(count)) = (number("file_size"), number("num_parts").filter(|count| PARTS.contains(count)))
    else {
        return refused("file_size and num_parts (1 to 250) are required");
    };
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut file = match described(state, exchange, text, now) {
        Ok(file) => file,
        Err(refusal) => return *refusal,
    };
    let seed = exchange.shared.config.seed;
    let upload = Random::new(seed ^ state.serial.rotate_left(41)).id(32);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    file.parts = Some(Parts { upload: upload.clone(), count, size, ..Parts::default() });
    let id = state.store.add(seed, file);
    let part = |number: u32| {
        let url = address(exchange, &format!("{id}.{number}"));
        json!({"PartNumber": number, "URL": url, "Headers": {}})
    };
    let parts: Vec<_> = (1..=count).map(part).collect();
    reply(StatusCode::OK, &json!({"upload_id": upload, "file_id": id, "parts": parts}))
}

/// A file that is to come, from its description; a refusal, or where its like is.
fn described(
    state: &State,
    exchange: &Exchange<'_>,
    field: impl Fn(&str) -> Option<String>,
    now: Instant,
) -> Result<File, Box<Response<Body>>> {
    let (Some(name), Some(purpose)) = (field("file_name"), field("purpose")) else {
        return Err(Box::new(refused("file_name and purpose are required")));
    };
    let checksum = field("checksum");
    if let Some(twin) = state.store.twin(checksum.as_deref()) {
        return Err(Box::new(reply(StatusCode::CONFLICT, &json!({"file_id": twin.id}))));
    }
    let kind = field("file_type").unwrap_or_else(|| "jsonl".to_owned());
    let created = state.micros(&exchange.shared.config, now);
    Ok(File { name, kind, purpose, checksum, created, ..File::default() })
}

/// `PUT` to a presigned address. Its key is a file's id, or that with `.` and the number of a part.
pub(in crate::testing) fn put(state: &mut State, exchange: &Exchange<'_>, key: &str, bytes: Bytes) -> Response<Body> {
    if exchange.parts.headers.contains_key(AUTHORIZATION) {
        return denied(StatusCode::BAD_REQUEST, "InvalidArgument", "Only one auth mechanism allowed");
    }
    let signed = exchange
        .parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .any(|pair| pair.strip_prefix("X-Amz-Signature=").is_some_and(|signature| signature == sign(key)));
    if !signed {
        return denied(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", "The signature does not match");
    }
    if state.store.redirects > 0 {
        state.store.redirects -= 1;
        let mut response = response(StatusCode::TEMPORARY_REDIRECT, None, Body::empty());
        let address = HeaderValue::from_str(&address(exchange, key));
        response.headers_mut().extend(address.map(|address| (LOCATION, address)));
        return response;
    }
    let (id, part) = key.split_once('.').map_or((key, None), |(id, part)| (id, part.parse::<u32>().ok()));
    let Some(file) = state.store.hidden(id) else {
        return denied(StatusCode::NOT_FOUND, "NoSuchKey", "The specified key does not exist");
    };
    let tag = blake3::hash(&bytes).to_hex();
    match (&mut file.parts, part) {
        (Some(parts), Some(part)) => drop(parts.stored.insert(part, (tag.to_string(), bytes))),
        (None, None) => {
            if !agrees(file.checksum.as_deref(), &bytes) {
                return denied(StatusCode::BAD_REQUEST, "BadDigest", "The checksum is of other bytes");
            }
            file.content = Some(bytes);
        }
        _ => return denied(StatusCode::BAD_REQUEST, "InvalidRequest", "The upload is not in parts"),
    }
    let mut response = response(StatusCode::OK, None, Body::empty());
    response.headers_mut().extend(HeaderValue::from_str(&format!("\"{tag}\"")).map(|tag| (ETAG, tag)));
    response
}

/// `POST /v1/files/multipart/complete`.
pub(in crate::testing) fn complete(state: &mut State, body: &Value) -> Response<Body> {
    let Some(file) = of_upload(state, body) else { return missing() };
    let Some(parts) = &file.parts else { return missing() };
    let named = body.get("parts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_stored = |part: &Value| {
        let number = part.get("part_number").and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
        let stored = number.and_then(|number| parts.stored.get(&number));
        stored.is_some_and(|(tag, _)| part.get("etag").and_then(Value::as_str) == Some(tag))
    };
    let all = u32::try_from(named.len()) == Ok(parts.count) && parts.stored.len() == named.len();
    if !all || !named.iter().all(is_stored) {
        return refused("parts must name each part that was uploaded, with its etag");
    }
    let content: Vec<u8> = parts.stored.values().flat_map(|(_, bytes)| bytes).copied().collect();
    if u64::try_from(content.len()) != Ok(parts.size) || !agrees(file.checksum.as_deref(), &content) {
        return refused("the parts are not the file that was announced");
    }
    (file.content, file.parts) = (Some(content.into()), None);
    reply(StatusCode::OK, &json!({"file": file.to_json()}))
}

/// `POST /v1/files/multipart/abort`.
pub(in crate::testing) fn abort(state: &mut State, body: &Value) -> Response<Body> {
    let Some(id) = of_upload(state, body).map(|file| file.id.clone()) else { return missing() };
    state.store.remove(&id);
    reply(StatusCode::OK, &json!({}))
}

/// The file of the upload that a body names.
fn of_upload<'a>(state: &'a mut State, body: &Value) -> Option<&'a mut File> {
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    state.store.by_upload(text("upload_id")?, text("file_id")?)
}

/// Whether the bytes are those of a checksum, as far as it is looked at.
fn agrees(checksum: Option<&str>, bytes: &[u8]) -> bool {
    let Some(checksum) = checksum.filter(|_| bytes.len() <= CHECKED_BYTES) else { return true };
    let hash = hmac_sha256::Hash::hash(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    checksum.eq_ignore_ascii_case(&hex)
}

/// The presigned address of a key, at the host that was asked.
fn address(exchange: &Exchange<'_>, key: &str) -> String {
    let uri = &exchange.parts.uri;
    let host = exchange.parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = uri.authority().map(Authority::as_str).or(host).unwrap_or("simulated.invalid");
    let scheme = uri.scheme_str().unwrap_or("http");
    format!("{scheme}://{host}{STORAGE}{key}?X-Amz-Expires=3600&X-Amz-Signature={}", sign(key))
}

fn sign(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex().chars().take(32).collect()
}

pub(super) fn refused(message: &'static str) -> Response<Body> {
    let (kind, body) = ApiError::new(StatusCode::BAD_REQUEST, message).body("");
    response(StatusCode::BAD_REQUEST, kind, body)
}

/// An error of the storage, which is not the API.
fn denied(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let body = format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    response(status, Some("application/xml"), body)
}
