//! Rows out of the bytes of a result file.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memchr;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Row;
use crate::types::Text;

/// The most bytes of a row: what the provider takes for a line, and a tenth more.
const MAX_ROW_BYTES: usize = 11_000_000;

/// Cuts a file into rows as its pieces come.
#[derive(Debug, Default)]
pub(super) struct Rows {
    partial: Vec<u8>,
    /// The row that comes is too long: it is passed over.
    skipping: bool,
}

impl Rows {
    /// Adds the rows that end within this piece.
    pub(super) fn push(&mut self, mut piece: &[u8], rows: &mut impl Extend<Row>) {
        while let Some(end) = memchr(b'\n', piece) {
            let (line, rest) = piece.split_at(end);
            rows.extend(self.row(line));
            piece = rest.get(1..).unwrap_or_default();
        }
        self.keep(piece);
    }

    /// The last row, if the file does not end with a line break.
    pub(super) fn end(&mut self) -> Option<Row> {
        self.row(b"")
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.skipping || self.partial.len() + piece.len() > MAX_ROW_BYTES {
            (self.skipping, self.partial) = (true, Vec::new());
        } else {
            self.partial.extend_from_slice(piece);
        }
    }

    fn row(&mut self, end: &[u8]) -> Option<Row> {
        if self.partial.is_empty() && !self.skipping && end.len() <= MAX_ROW_BYTES {
            return parse(end);
        }
        self.keep(end);
        if std::mem::take(&mut self.skipping) {
            return Some(malformed(format!("it has more than {MAX_ROW_BYTES} bytes")));
        }
        let row = parse(&self.partial);
        self.partial.clear();
        row
    }
}

fn malformed(problem: impl Into<Box<str>>) -> Row {
    Row::Malformed { problem: problem.into() }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    custom_id: Option<Text<'a>>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    status_code: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Failure<'a> {
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

/// An empty line is no row. What is wrong is said without quoting the row.
fn parse(line: &[u8]) -> Option<Row> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return None;
    }
    Some(read(line).unwrap_or_else(malformed))
}

fn read(line: &[u8]) -> Result<Row, String> {
    let not_json = |error: serde_json::Error| format!("it is not the JSON of a row (column {})", error.column());
    let wire: Wire<'_> = serde_json::from_slice(line).map_err(not_json)?;
    let custom_id: Box<str> = match wire.custom_id {
        Some(id) if !id.0.is_empty() => id.0.into(),
        _ => return Err("it has no custom_id".to_owned()),
    };
    if let Some(response) = wire.response {
        let response: Response<'_> =
            serde_json::from_str(response.get()).map_err(|_| "its response is not an object".to_owned())?;
        let status = response.status_code.and_then(status).ok_or("its response has no status")?;
        let body = response.body.ok_or("its response has no body")?;
        return Ok(Row::Answer { custom_id, status, body: Bytes::copy_from_slice(body.get().as_bytes()) });
    }
    let error = wire.error.ok_or("it has neither a response nor an error")?;
    let (code, message) = match serde_json::from_str::<Failure<'_>>(error.get()) {
        Ok(failure) => (failure.code.map(said).unwrap_or_default(), failure.message.map(said).unwrap_or_default()),
        Err(_) => (Cow::default(), said(error)),
    };
    Ok(Row::Error { custom_id, code: code.into(), message: message.into() })
}

/// A status, written as a number or as text.
fn status(value: &RawValue) -> Option<u16> {
    value.get().trim_matches('"').parse().ok()
}

/// A text as it is, anything else as it is written.
fn said(value: &RawValue) -> Cow<'_, str> {
    match serde_json::from_str::<Text<'_>>(value.get()) {
        Ok(text) => text.0,
        Err(_) => Cow::Borrowed(value.get()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(file: &[u8], piece: usize) -> Vec<Row> {
        let (mut rows, mut found) = (Rows::default(), Vec::new());
        file.chunks(piece).for_each(|piece| rows.push(piece, &mut found));
        found.extend(rows.end());
        found
    }

    fn error(code: &str, message: &str) -> Row {
        Row::Error { custom_id: "é".into(), code: code.into(), message: message.into() }
    }

    #[test]
    fn rows_of_every_shape_are_read_wherever_the_file_is_cut() {
        let lines = [
            r#"{"id":"br_1","custom_id":"1","response":{"status_code":200,"body":{"a": [1.50,"é"]}}}"#,
            "",
            r#"{"custom_id":"a\"b","error":null,"response":{"status_code":"400","body":"no"},"usage":{}}"#,
            r#"{"id":"br_2","custom_id":"é","response":null,"error":{"message":"no\nway","code":"batch_client_error"}}"#,
            "{\"custom_id\":\"é\",\"error\":{\"code\":42}}\r",
            r#"{"custom_id":"é","error":"down"}"#,
            r#"{"custom_id":"é","error":{"code":null,"message":{"a":1}}}"#,
        ];
        let expected = [
            Row::Answer { custom_id: "1".into(), status: 200, body: "{\"a\": [1.50,\"é\"]}".into() },
            Row::Answer { custom_id: "a\"b".into(), status: 400, body: "\"no\"".into() },
            error("batch_client_error", "no\nway"),
            error("42", ""),
            error("", "down"),
            error("", "{\"a\":1}"),
        ];
        let file = lines.join("\n");
        for piece in 1..=file.len() {
            assert_eq!(rows(file.as_bytes(), piece), expected, "pieces of {piece}");
        }
        assert_eq!(rows(format!("{file}\n").as_bytes(), 7), expected, "an end of line adds no row");
    }

    #[test]
    fn what_is_no_row_harms_no_other() {
        for bad in [
            "x",
            "{\"custom_id\":\"1\",\"response\":{\"status_code\":200,\"body\":{",
            "[]",
            "{}",
            "{\"custom_id\":7,\"error\":\"x\"}",
            "{\"custom_id\":\"\",\"error\":\"x\"}",
            "{\"custom_id\":\"1\"}",
            "{\"custom_id\":\"1\",\"response\":7}",
            "{\"custom_id\":\"1\",\"response\":{\"body\":{}}}",
            "{\"custom_id\":\"1\",\"response\":{\"status_code\":99999,\"body\":{}}}",
            "{\"custom_id\":\"1\",\"response\":{\"status_code\":200}}",
        ] {
            let file = format!("{bad}\n{{\"custom_id\":\"é\",\"error\":\"down\"}}\n");
            let read = rows(file.as_bytes(), 5);
            assert!(
                matches!(&read[..], [Row::Malformed { .. }, last] if *last == error("", "down")),
                "{bad}: {read:?}"
            );
        }
    }

    #[test]
    fn a_row_has_eleven_megabytes_and_not_one_byte_more() {
        let row = |bytes: usize| {
            let mut row = b"{\"custom_id\":\"1\",\"error\":\"".to_vec();
            row.resize(bytes - 2, b'x');
            row.extend_from_slice(b"\"}");
            row
        };
        for piece in [1 << 16, usize::MAX] {
            for (bytes, fits) in [(MAX_ROW_BYTES, true), (MAX_ROW_BYTES + 1, false), (2 * MAX_ROW_BYTES, false)] {
                let file = [row(bytes), b"\n{\"custom_id\":\"\xC3\xA9\",\"error\":\"down\"}".to_vec()].concat();
                let read = rows(&file, piece.min(file.len()));
                assert_eq!(matches!(read[0], Row::Error { .. }), fits, "{bytes}");
                assert_eq!(read[1..], [error("", "down")]);
            }
        }
    }
}
