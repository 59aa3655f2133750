//! The fields of an upload: as `multipart/form-data`, urlencoded, or in the query.

use std::collections::BTreeMap;

use bytes::Bytes;
use memchr::memmem;
use serde_json::{Map, Value, json};

/// What was sent with a form.
#[derive(Debug, Default)]
pub(in crate::testing) struct Form {
    fields: BTreeMap<String, String>,
    pub(super) file: Option<Bytes>,
}

impl Form {
    /// Reads a body of this content type; fields of the query count where the body lacks them.
    pub(in crate::testing) fn read(kind: &str, query: &str, body: &Bytes) -> Self {
        let mut form = match boundary(kind) {
            Some(boundary) => multipart(&boundary, body).unwrap_or_default(),
            None => Self { fields: pairs(&String::from_utf8_lossy(body)), file: None },
        };
        for (name, value) in pairs(query) {
            form.fields.entry(name).or_insert(value);
        }
        form
    }

    /// A field that is not empty.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// What is remembered of it.
    pub(in crate::testing) fn brief(&self) -> Value {
        let mut map: Map<_, _> = self.fields.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        if let Some(file) = &self.file {
            map.insert("file".into(), json!({"bytes": file.len()}));
        }
        Value::Object(map)
    }
}

/// The boundary that a content type names.
fn boundary(kind: &str) -> Option<String> {
    let rest = kind.strip_prefix("multipart/form-data")?;
    let named = rest.split(';').filter_map(|part| part.trim().strip_prefix("boundary=")).next()?;
    Some(named.trim_matches('"').to_owned())
}

/// The parts between the boundaries; `None` when they are not well formed.
fn multipart(boundary: &str, body: &Bytes) -> Option<Form> {
    let mut form = Form::default();
    let opening = format!("--{boundary}");
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = body.slice(memmem::find(body, opening.as_bytes())? + opening.len()..);
    while !rest.starts_with(b"--") {
        let head = memmem::find(&rest, b"\r\n\r\n")?;
        let part = rest.slice(head + 4..);
        let end = memmem::find(&part, delimiter.as_bytes())?;
        let headers = String::from_utf8_lossy(rest.get(..head)?).into_owned();
        let value = part.slice(..end);
        match parameter(&headers, "name")? {
            name if name == "file" => form.file = Some(value),
            name => drop(form.fields.insert(name, String::from_utf8_lossy(&value).into_owned())),
        }
        rest = part.slice(end + delimiter.len()..);
    }
    Some(form)
}

/// A quoted parameter of `content-disposition`.
fn parameter(headers: &str, name: &str) -> Option<String> {
    let disposition = headers.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    let parts = disposition.split(';').filter_map(|part| part.trim().split_once('='));
    parts.filter(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"').to_owned()).next()
}

/// `a=1&b=2`, percent-decoded.
fn pairs(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        let hex = more.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = hex.filter(|_| first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(if first == b'+' { b' ' } else { first }));
        rest = more.get(if escaped.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_byte_for_byte_whatever_it_contains() {
        let file = b"\r\n--x\r\n--boundary\0\xff\r\n";
        let head = "--b1\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch-api\r\n--b1\r\n\
                    Content-Disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\nContent-Type: x/y\r\n\r\n";
        let body = [head.as_bytes(), file, b"\r\n--b1--\r\n"].concat();
        let form = Form::read("multipart/form-data; boundary=\"b1\"", "", &body.into());
        assert_eq!(form.field("purpose"), Some("batch-api"));
        assert_eq!(form.file.as_deref(), Some(&file[..]));
        assert_eq!(form.brief()["file"]["bytes"], file.len());
    }

    #[test]
    fn fields_come_urlencoded_or_in_the_query() {
        let form = Form::read("application/x-www-form-urlencoded", "purpose=q&d=4", &"purpose=a%2Fb+c&x=%zz".into());
        assert_eq!((form.field("purpose"), form.field("d"), form.field("x")), (Some("a/b c"), Some("4"), Some("%zz")));
    }

    #[test]
    fn a_form_without_its_end_has_nothing() {
        let body = "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch";
        assert_eq!(Form::read("multipart/form-data; boundary=b", "", &body.into()).field("purpose"), None);
    }
}
