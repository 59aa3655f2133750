//! A long list, read while it arrives: at no time are more than one of its rows and one piece of it in memory.

use bytes::Bytes;
use futures_util::StreamExt;
use http::Method;
use memchr::memchr2;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::{
    CallOptions, Error, ErrorKind, TogetherClient,
    call::{Call, Success, late},
    error_body::error_in_success,
    retry::Replay,
};
use crate::types::later;

/// The most bytes of a list.
const MAX_LIST_BYTES: usize = 64 << 20;
/// The most bytes of one row.
const MAX_ROW_BYTES: usize = 1 << 20;
/// How much of the beginning is kept, to see the error that stands in the place of a list.
const HEAD_BYTES: usize = 4 << 10;

impl TogetherClient {
    /// Gets a list, bare or in an object, and keeps what `keep` makes of its rows. A row that is no `T` is left out.
    pub(super) async fn list<T: DeserializeOwned + Send, K: Send>(
        &self,
        path: &str,
        keep: impl Fn(T) -> Option<K> + Send + Sync,
    ) -> Result<Vec<K>, Error> {
        let call =
            Call { method: Method::GET, path, body: Bytes::new(), model: None, stream: false, replay: Replay::Safe };
        self.with_retry(&call, &CallOptions::default(), async |options| {
            let success = self.attempt(&call, options).await?;
            let (status, id) = (success.status, success.request_id());
            let read = self.read_list(success, &keep).await;
            read.map_err(|error| match error.kind() {
                ErrorKind::Interrupted | ErrorKind::Timeout => error.with_request_id(id.as_deref()),
                _ => error.with_status(status).with_request_id(id.as_deref()),
            })
        })
        .await
    }

    async fn read_list<T: DeserializeOwned, K>(
        &self,
        success: Success,
        keep: &(impl Fn(T) -> Option<K> + Sync),
    ) -> Result<Vec<K>, Error> {
        let Success { mut body, until, status, .. } = success;
        let (mut kept, mut rows, mut read, mut head) = (Vec::new(), Rows::default(), 0, Vec::new());
        let started = Instant::now();
        loop {
            let by = until.min(later(Instant::now(), self.timeouts().idle));
            let Ok(next) = timeout_at(by, body.next()).await else {
                return Err(late("the list is not complete", started));
            };
            let Some(chunk) = next else { break };
            let chunk = chunk?;
            read += chunk.len();
            if read > MAX_LIST_BYTES {
                return Err(Error::new(ErrorKind::TooLarge, format!("the list is over {MAX_LIST_BYTES} bytes")));
            }
            let room = HEAD_BYTES.saturating_sub(head.len()).min(chunk.len());
            head.extend_from_slice(chunk.get(..room).unwrap_or_default());
            rows.push(&chunk, |row| kept.extend(serde_json::from_slice(row).ok().and_then(keep)))?;
        }
        match rows.end() {
            End::List => Ok(kept),
            End::Cut => Err(Error::new(ErrorKind::Interrupted, "the list ends before its end")),
            End::Other => Err(match error_in_success(&head) {
                Some(error) => Error::inside_success(status, error, head.into()),
                None => Error::new(ErrorKind::Malformed, "the response holds no list").with_body(head.into()),
            }),
        }
    }
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    List,
    Cut,
    Other,
}

/// Finds the objects that are rows: those in the outermost list, or in a list of the outermost object.
#[derive(Debug, Default)]
struct Rows {
    /// The beginning of a row whose end has not come yet.
    partial: Vec<u8>,
    depth: usize,
    in_row: bool,
    text: Text,
    /// The depth inside of the list whose rows are found.
    list: Option<usize>,
    has_list: bool,
}

/// Whether the next byte is one of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Text {
    #[default]
    No,
    Yes,
    /// And it means nothing by itself.
    Escaped,
}

impl Rows {
    fn push(&mut self, chunk: &[u8], mut row: impl FnMut(&[u8])) -> Result<(), Error> {
        let (mut at, mut from) = (0, 0);
        while let Some(byte) = chunk.get(at) {
            if self.text == Text::Escaped {
                self.text = Text::Yes;
                at += 1;
                continue;
            }
            if self.text == Text::Yes {
                let rest = chunk.get(at..).unwrap_or_default();
                let Some(found) = memchr2(b'"', b'\\', rest) else { break };
                at += found + 1;
                self.text = if rest.get(found) == Some(&b'"') { Text::No } else { Text::Escaped };
                continue;
            }
            match byte {
                b'"' => self.text = Text::Yes,
                b'{' | b'[' => {
                    if *byte == b'{' && self.list == Some(self.depth) {
                        (self.in_row, from) = (true, at);
                    } else if *byte == b'[' && self.list.is_none() && self.depth <= 1 {
                        (self.list, self.has_list) = (Some(self.depth + 1), true);
                    }
                    self.depth += 1;
                }
                b'}' | b']' => {
                    let Some(depth) = self.depth.checked_sub(1) else { return Err(unbalanced()) };
                    self.depth = depth;
                    if self.in_row && self.list == Some(depth) {
                        self.in_row = false;
                        self.found(chunk.get(from..=at).unwrap_or_default(), &mut row);
                    } else if self.list == Some(depth + 1) {
                        self.list = None;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        if self.in_row {
            self.partial.extend_from_slice(chunk.get(from..).unwrap_or_default());
            if self.partial.len() > MAX_ROW_BYTES {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!("a row of the list is over {MAX_ROW_BYTES} bytes"),
                ));
            }
        }
        Ok(())
    }

    fn found(&mut self, end: &[u8], row: &mut impl FnMut(&[u8])) {
        if self.partial.is_empty() {
            row(end);
        } else {
            self.partial.extend_from_slice(end);
            row(&self.partial);
            self.partial.clear();
        }
    }

    const fn end(&self) -> End {
        match (self.has_list, self.depth) {
            (_, 1..) => End::Cut,
            (true, 0) => End::List,
            (false, 0) => End::Other,
        }
    }
}

fn unbalanced() -> Error {
    Error::new(ErrorKind::Malformed, "the list closes more than it opens")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(json: &str, piece: usize) -> (Vec<String>, End) {
        let (mut found, mut rows) = (Vec::new(), Rows::default());
        for chunk in json.as_bytes().chunks(piece) {
            rows.push(chunk, |row| found.push(String::from_utf8(row.to_vec()).unwrap())).unwrap();
        }
        (found, rows.end())
    }

    #[test]
    fn rows_are_found_wherever_the_list_is_cut_into_pieces() {
        let one = r#"{"id":"a\"]}\\","n":[{"x":"{"}],"o":{"p":[]}}"#;
        let two = "{\"id\":\"é\"}";
        for json in [format!("[{one}, {two}]"), format!(" {{\"object\":\"list\",\"data\" : [{one},\n{two}] }}\n")] {
            for piece in 1..=json.len() {
                let (found, end) = rows(&json, piece);
                assert_eq!((found, end), (vec![one.to_owned(), two.to_owned()], End::List), "pieces of {piece}");
            }
        }
        for (json, end) in [
            ("[]", End::List),
            ("{\"data\":[]}", End::List),
            ("[{\"id\":\"a\"}", End::Cut),
            ("{\"data\":[", End::Cut),
            ("{\"error\":\"no\"}", End::Other),
            ("", End::Other),
            ("<html>", End::Other),
            ("null", End::Other),
        ] {
            assert_eq!(rows(json, 3).1, end, "{json}");
        }
        assert!(Rows::default().push(b"]", |_| {}).is_err());
    }

    #[test]
    fn a_row_that_never_ends_is_not_kept() {
        let mut rows = Rows::default();
        rows.push(b"[{\"a\":\"", |_| {}).unwrap();
        let piece = vec![b'x'; 1 << 18];
        let cut = (0..5).find_map(|_| rows.push(&piece, |_| {}).err()).unwrap();
        assert_eq!(cut.kind(), ErrorKind::TooLarge);
    }
}
