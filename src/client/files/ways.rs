//! The three ways in which a file is sent.

use std::{fmt::Write, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderName, HeaderValue, Method, Uri, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    PATH, RemoteFile, UploadedFile, segment,
    send::{Meter, Parcel, location},
    source::Source,
};
use crate::{
    client::{
        CallOptions, Error, ErrorKind, TogetherClient,
        call::{Call, Success, uri},
        http::Elsewhere,
        record::Record,
        retry::Replay,
        transport::Body,
    },
    types::Rng,
};

/// How often a storage may send an upload on.
const MAX_HOPS: usize = 20;
/// How many parts are sent at the same time.
const AT_ONCE: usize = 4;
/// The most parts of a file, the size that they should have, and the least that they may have.
const MAX_PARTS: u64 = 250;
const PART: u64 = 250 << 20;
const LEAST_PART: u64 = 5 << 20;

/// A file on its way.
pub(super) struct Outgoing<'a> {
    pub(super) client: &'a TogetherClient,
    pub(super) source: Source,
    pub(super) len: u64,
    pub(super) name: &'a str,
    pub(super) purpose: &'a str,
    pub(super) file_type: &'static str,
    /// Empty where it was not needed.
    pub(super) checksum: String,
    pub(super) meter: Arc<Meter>,
}

impl Outgoing<'_> {
    /// Repeats an exchange as the client's policy allows.
    async fn repeat<T, F>(&self, replay: Replay, exchange: impl Fn() -> F + Send + Sync) -> Result<T, Error>
    where
        T: Send,
        F: Future<Output = Result<T, Error>> + Send,
    {
        let call = Call { method: Method::POST, path: "", body: Bytes::new(), model: None, stream: false, replay };
        self.client.with_retry(&call, &CallOptions::default(), |_| exchange()).await
    }

    fn parcel(&self, from: u64, len: u64) -> Parcel {
        Parcel { before: Bytes::new(), file: self.source.part(from, len).stream(len), len, after: Bytes::new() }
    }

    /// A form, the file's own fields before it, and what ends it.
    fn form(&self, rng: &dyn Rng, checksum: bool) -> Form {
        let boundary = format!("----together-inference-{:032x}", rng.next_u128());
        let checksum = checksum.then_some(("checksum", &*self.checksum));
        let fields = [("purpose", self.purpose), ("file_name", self.name), ("file_type", self.file_type)];
        let mut text = String::new();
        for (name, value) in fields.into_iter().chain(checksum) {
            let head = "Content-Disposition: form-data; name";
            // Writing to a text cannot fail.
            let _ = write!(text, "--{boundary}\r\n{head}=\"{name}\"\r\n\r\n{value}\r\n");
        }
        Form { boundary, text }
    }
}

struct Form {
    boundary: String,
    text: String,
}

impl Form {
    fn request(&self, client: &TogetherClient, path: &str) -> Result<http::Request<()>, Error> {
        let mut request = client.request_of(Method::POST, path, Body::empty())?.map(|_| ());
        let kind = HeaderValue::from_str(&format!("multipart/form-data; boundary={}", self.boundary));
        let kind = kind.map_err(|_| Error::new(ErrorKind::Config, "the boundary of the form is no header"))?;
        request.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok(request)
    }
}

// ---- in one request

pub(super) async fn in_one_request(outgoing: &Outgoing<'_>) -> Result<UploadedFile, Error> {
    let Outgoing { client, len, name, .. } = outgoing;
    // A second file of the same content costs nothing, but is a surprise: what may have arrived is not sent again.
    outgoing
        .repeat(Replay::Unsafe, async || {
            let Form { boundary, text } = outgoing.form(client.rng(), false);
            let part =
                format!("form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: application/octet-stream");
            let before = format!("{text}--{boundary}\r\nContent-Disposition: {part}\r\n\r\n").into();
            let after = format!("\r\n--{boundary}--\r\n").into();
            let request = Form { boundary, text: String::new() }.request(client, &format!("{PATH}/upload"))?;
            let parcel = Parcel { before, after, ..outgoing.parcel(0, *len) };
            let sent = client.deliver(request, parcel, &outgoing.meter).await?;
            match known(client, sent).await? {
                Known::New(success) => Ok(UploadedFile { file: read(client, success).await?, existed: false }),
                Known::Had(id) => Ok(UploadedFile { file: client.files().get(&id).await?, existed: true }),
            }
        })
        .await
}

// ---- by its checksum

pub(super) async fn by_checksum(outgoing: &Outgoing<'_>) -> Result<UploadedFile, Error> {
    let client = outgoing.client;
    let ask = async || {
        let Form { boundary, mut text } = outgoing.form(client.rng(), true);
        let _ = write!(text, "--{boundary}--\r\n");
        let request = Form { boundary, text: String::new() }.request(client, PATH)?;
        let form = Parcel { before: text.into(), len: 0, ..outgoing.parcel(0, 0) };
        let answer = client.deliver(request, form, &outgoing.meter).await?;
        if !(300..400).contains(&answer.status) {
            return match known(client, answer).await? {
                Known::Had(id) => Ok(Place::Had(id)),
                Known::New(_) => Err(Error::new(ErrorKind::Malformed, "the server names no place for the file")),
            };
        }
        let id = answer.headers.get("x-together-file-id").and_then(|id| id.to_str().ok());
        let id = id.ok_or_else(|| Error::new(ErrorKind::Malformed, "the server names no id for the file"))?;
        Ok(Place::At(location(&answer, &uri(client.base(), PATH)?)?, id.to_owned()))
    };
    // Asking twice leaves at most a name without a file.
    let (place, id) = match outgoing.repeat(Replay::Safe, ask).await? {
        Place::Had(id) => return Ok(UploadedFile { file: client.files().get(&id).await?, existed: true }),
        Place::At(place, id) => (place, id),
    };
    outgoing.repeat(Replay::Safe, async || put(outgoing, &place, &[], 0, outgoing.len).await.map(|_| ())).await?;
    let path = format!("{PATH}/{}/preprocess", segment(&id)?);
    let file = client.typed(Method::POST, &path, Bytes::new(), Replay::Safe).await?;
    Ok(UploadedFile { file, existed: false })
}

enum Place {
    At(Uri, String),
    Had(String),
}

/// Puts a range of the file where it belongs, without the key, and follows the storage to where it sends it.
async fn put(
    outgoing: &Outgoing<'_>,
    place: &Uri,
    headers: &[(HeaderName, HeaderValue)],
    from: u64,
    len: u64,
) -> Result<Success, Error> {
    let mut to = place.clone();
    for _ in 0..=MAX_HOPS {
        let mut request = http::Request::new(());
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = to.clone();
        request.headers_mut().extend(headers.iter().cloned());
        request.extensions_mut().insert(Elsewhere);
        let sent = outgoing.client.deliver(request, outgoing.parcel(from, len), &outgoing.meter).await?;
        match sent.status {
            200..=299 => return Ok(sent),
            301 | 302 | 303 | 307 | 308 => to = location(&sent, &to)?,
            status => return Err(refused_by_storage(status)),
        }
    }
    Err(Error::new(ErrorKind::Redirected, "the storage sends the file on and on"))
}

/// A storage's refusal says nothing of the API's key: its link has run out, or it does not like the file.
fn refused_by_storage(status: u16) -> Error {
    let kind = match ErrorKind::of_status(status) {
        kind @ (ErrorKind::Server | ErrorKind::Overloaded | ErrorKind::RateLimited | ErrorKind::Timeout) => kind,
        _ => ErrorKind::InvalidRequest,
    };
    Error::new(kind, "the storage does not take the file").with_status(status)
}

// ---- whether the provider has it

enum Known {
    New(Success),
    Had(String),
}

/// Tells a success from "I have it", and both from an error.
async fn known(client: &TogetherClient, answer: Success) -> Result<Known, Error> {
    let status = answer.status;
    if (200..300).contains(&status) {
        return Ok(Known::New(answer));
    }
    let error = client.refused(answer, None).await;
    if status == 409 {
        let had: Option<Had> = serde_json::from_slice(error.body()).ok();
        if let Some(had) = had.filter(|had| !had.file_id.is_empty()) {
            return Ok(Known::Had(had.file_id));
        }
    }
    Err(error)
}

#[derive(Deserialize)]
struct Had {
    file_id: String,
}

async fn read(client: &TogetherClient, success: Success) -> Result<RemoteFile, Error> {
    let raw = client.read_json(success).await?;
    serde_json::from_slice(&raw).map_err(|error| Error::of_json(&error, raw))
}

// ---- in parts

#[derive(Serialize)]
struct Initiate<'a> {
    file_name: &'a str,
    file_size: u64,
    num_parts: u64,
    purpose: &'a str,
    file_type: &'a str,
    checksum: &'a str,
}

#[derive(Deserialize)]
struct Initiated {
    upload_id: String,
    file_id: String,
    parts: Vec<Map<String, Value>>,
}

#[derive(Serialize)]
struct InParts<'a> {
    upload_id: &'a str,
    file_id: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Done>,
}

#[derive(Clone, Serialize)]
struct Done {
    part_number: u64,
    etag: String,
}

/// Where a part goes.
struct Part {
    number: u64,
    place: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
}

pub(super) async fn in_parts(outgoing: &Outgoing<'_>, part_bytes: u64) -> Result<UploadedFile, Error> {
    let Outgoing { client, len, name: file_name, purpose, file_type, checksum, .. } = outgoing;
    let wanted = if part_bytes == 0 { PART } else { part_bytes };
    let size = wanted.max(LEAST_PART).max(len.div_ceil(MAX_PARTS));
    let num_parts = len.div_ceil(size).max(1);
    let initiate = Initiate { file_name, file_size: *len, num_parts, purpose, file_type, checksum };
    let begun: Initiated = match client.post(&format!("{PATH}/multipart/initiate"), &initiate).await {
        Ok(begun) => begun,
        Err(error) if error.kind() == ErrorKind::Conflict => {
            let had: Option<Had> = serde_json::from_slice(error.body()).ok();
            let had = had.filter(|had| !had.file_id.is_empty()).ok_or(error)?;
            return Ok(UploadedFile { file: client.files().get(&had.file_id).await?, existed: true });
        }
        Err(error) => return Err(error),
    };
    match send_parts(outgoing, &begun, num_parts, size).await {
        Ok(file) => Ok(UploadedFile { file, existed: false }),
        Err(error) => {
            let upload = InParts { upload_id: &begun.upload_id, file_id: &begun.file_id, parts: Vec::new() };
            // The parts so far would be kept, and perhaps billed, for good.
            if let Err(left) = client.post::<Value>(&format!("{PATH}/multipart/abort"), &upload).await {
                tracing::warn!(kind = left.kind().as_str(), "the parts of an upload that failed may be left behind");
            }
            Err(error)
        }
    }
}

async fn send_parts(
    outgoing: &Outgoing<'_>,
    begun: &Initiated,
    num_parts: u64,
    size: u64,
) -> Result<RemoteFile, Error> {
    let base = uri(outgoing.client.base(), PATH)?;
    let parts: Vec<Part> = begun.parts.iter().map(|part| Part::read(part, &base)).collect::<Result<_, _>>()?;
    let mut numbers: Vec<u64> = parts.iter().map(|part| part.number).collect();
    numbers.sort_unstable();
    if !numbers.into_iter().eq(1..=num_parts) {
        return Err(Error::new(ErrorKind::Malformed, "the server names other parts than it was asked for"));
    }
    let sending: Vec<_> = parts.iter().map(|part| send_part(outgoing, part, size)).collect();
    let mut done: Vec<Done> = stream::iter(sending).buffer_unordered(AT_ONCE).try_collect().await?;
    done.sort_unstable_by_key(|done| done.part_number);
    let upload = InParts { upload_id: &begun.upload_id, file_id: &begun.file_id, parts: done };
    let mut answer: Map<String, Value> = outgoing.client.post(&format!("{PATH}/multipart/complete"), &upload).await?;
    let file = answer.remove("file").unwrap_or(Value::Object(answer));
    serde_json::from_value(file).map_err(|error| Error::of_json(&error, Bytes::new()))
}

async fn send_part(outgoing: &Outgoing<'_>, part: &Part, size: u64) -> Result<Done, Error> {
    let from = (part.number - 1).saturating_mul(size);
    let len = size.min(outgoing.len.saturating_sub(from));
    let sent =
        outgoing.repeat(Replay::Safe, async || put(outgoing, &part.place, &part.headers, from, len).await).await?;
    let etag = sent.headers.get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(|etag| etag.trim_matches('"'));
    let etag = etag.filter(|etag| !etag.is_empty());
    let etag = etag.ok_or_else(|| Error::new(ErrorKind::Malformed, "the storage names no ETag for a part"))?;
    Ok(Done { part_number: part.number, etag: etag.to_owned() })
}

impl Part {
    fn read(part: &Map<String, Value>, base: &Uri) -> Result<Self, Error> {
        let odd = || Error::new(ErrorKind::Malformed, "the server names a part that has no number or no place");
        let mut record = Record(part.clone());
        let number = record.count(&["PartNumber", "part_number"]).ok_or_else(odd)?;
        let place = record.text(&["URL", "UploadURL", "url", "upload_url"]).ok_or_else(odd)?;
        let place: Uri = place.parse().map_err(|_| odd())?;
        if place.scheme_str() != Some("https") && place.scheme_str() != base.scheme_str() {
            return Err(Error::new(ErrorKind::Config, "the server sends the file to a place without https"));
        }
        let headers = record.0.get("Headers").or_else(|| record.0.get("headers")).and_then(Value::as_object);
        let headers = headers.into_iter().flatten().map(|(name, value)| {
            let name = HeaderName::try_from(name.as_str()).map_err(|_| odd())?;
            Ok((name, HeaderValue::try_from(value.as_str().unwrap_or_default()).map_err(|_| odd())?))
        });
        let headers = headers.collect::<Result<_, Error>>()?;
        Ok(Self { number, place, headers })
    }
}
