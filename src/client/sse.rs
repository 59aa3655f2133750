//! Server-sent events out of chunks of bytes.
//!
//! The parser looks at each byte once and copies only what a chunk border cuts: the data of an event on one line, as
//! Together sends it, is a slice of the chunk it came in. A line, an event and the whole stream are bounded, so that a
//! server can make it neither hold much nor work long.
//!
//! It follows the [standard](https://html.spec.whatwg.org/multipage/server-sent-events.html) but for two points: an
//! event whose data is empty is not dispatched (here it carries nothing and must not pass for progress), and the data
//! is not decoded (the JSON parser checks its UTF-8).

use std::{collections::VecDeque, mem};

use bytes::{Buf as _, Bytes};

use super::Caps;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// The name the server gave it; `None` for a plain message (no name, or "message").
    pub(crate) name: Option<String>,
    /// The data, never empty; it keeps the chunk it is a slice of alive.
    pub(crate) data: Bytes,
}

/// A bound was broken. The parser is of no use afterwards: it repeats the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SseError {
    /// A line, finished or not, is longer than allowed.
    #[error("a line of the event stream is longer than {limit} bytes")]
    LineTooLong {
        /// The bound.
        limit: usize,
    },
    /// The data lines of one event sum up to more than allowed.
    #[error("an event of the event stream is larger than {limit} bytes")]
    EventTooLarge {
        /// The bound.
        limit: usize,
    },
    /// One event has more lines than allowed.
    #[error("an event of the event stream has more than {limit} lines")]
    TooManyLines {
        /// The bound.
        limit: usize,
    },
    /// The stream goes on beyond what is allowed.
    #[error("the event stream is longer than {limit} bytes")]
    StreamTooLarge {
        /// The bound.
        limit: usize,
    },
}

/// An incremental parser: [`feed`](Self::feed) a chunk, then take events until there is none.
#[derive(Debug)]
pub(crate) struct SseParser {
    caps: Caps,
    /// Fed and not yet scanned.
    chunks: VecDeque<Bytes>,
    /// The beginning of a line whose end has not come, at most `caps.sse_line_bytes` bytes.
    carry: Vec<u8>,
    /// The last line ended with CR: an LF right behind belongs to it.
    after_cr: bool,
    /// A line has been read, so that a byte order mark can no longer follow.
    started: bool,
    /// Bytes scanned so far.
    scanned: usize,
    event: PartialEvent,
    failed: Option<SseError>,
}

impl SseParser {
    /// A parser at the beginning of a stream.
    pub(crate) fn new(caps: Caps) -> Self {
        Self {
            caps,
            chunks: VecDeque::new(),
            carry: Vec::new(),
            after_cr: false,
            started: false,
            scanned: 0,
            event: PartialEvent::default(),
            failed: None,
        }
    }

    /// Hands over the next bytes of the stream. The work is done in [`next_event`](Self::next_event).
    pub(crate) fn feed(&mut self, chunk: Bytes) {
        if !chunk.is_empty() && self.failed.is_none() {
            self.chunks.push_back(chunk);
        }
    }

    /// The next complete event, or `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// [`SseError`] when the stream breaks a bound; where it does so depends on its bytes only, not on the chunks.
    pub(crate) fn next_event(&mut self) -> Result<Option<SseEvent>, SseError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.advance().inspect_err(|error| {
            self.failed = Some(*error);
            self.chunks.clear();
            self.carry = Vec::new();
            self.event = PartialEvent::default();
        })
    }

    /// To be asked at the end of the stream, when no event is left: was it cut within an event or a line?
    ///
    /// What is left is no event, says the standard: its blank line is missing. The client knows by the answer's own end
    /// whether a stream is whole; only tests ask.
    #[cfg(test)]
    pub(crate) fn finish(&self) -> bool {
        !self.carry.is_empty() || !self.chunks.is_empty() || self.event.lines > 0
    }

    fn advance(&mut self) -> Result<Option<SseEvent>, SseError> {
        while let Some(line) = self.next_line()? {
            if !line.is_empty() {
                self.event.add(&line, &self.caps)?;
            } else if let Some(event) = mem::take(&mut self.event).dispatch() {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The next complete line without its end.
    fn next_line(&mut self) -> Result<Option<Bytes>, SseError> {
        let Caps { sse_line_bytes: line_limit, stream_bytes: stream_limit, .. } = self.caps;
        while let Some(chunk) = self.chunks.front_mut() {
            if chunk.is_empty() {
                self.chunks.pop_front();
                continue;
            }
            let room = stream_limit.saturating_sub(self.scanned);
            if room == 0 {
                return Err(SseError::StreamTooLarge { limit: stream_limit });
            }
            if mem::take(&mut self.after_cr) && chunk.starts_with(b"\n") {
                chunk.advance(1);
                self.scanned += 1;
                continue;
            }
            // One byte more than the line may have: it is the line's end, or the proof that it is too long.
            let line_room = line_limit.saturating_sub(self.carry.len()).saturating_add(1);
            let mut piece = chunk.slice(..chunk.len().min(room).min(line_room));
            let end = memchr::memchr2(b'\n', b'\r', &piece);
            piece.truncate(end.unwrap_or(piece.len()));
            chunk.advance(piece.len());
            self.scanned += piece.len();
            if end.is_some() {
                self.after_cr = chunk.starts_with(b"\r");
                chunk.advance(1);
                self.scanned += 1;
                return Ok(Some(self.complete(piece)));
            }
            self.carry.extend_from_slice(&piece);
            if self.carry.len() > line_limit {
                return Err(SseError::LineTooLong { limit: line_limit });
            }
        }
        Ok(None)
    }

    /// Puts the last piece of a line to what was carried over, and drops the byte order mark of the stream.
    fn complete(&mut self, piece: Bytes) -> Bytes {
        let mut line = piece;
        if !self.carry.is_empty() {
            self.carry.extend_from_slice(&line);
            line = mem::take(&mut self.carry).into();
        }
        if !mem::replace(&mut self.started, true) && line.starts_with(b"\xEF\xBB\xBF") {
            line.advance(3);
        }
        line
    }
}

/// What the lines since the last blank one have said.
#[derive(Debug, Default)]
struct PartialEvent {
    name: Option<String>,
    data: Data,
    lines: usize,
}

/// Data lines, copied only when there are several.
#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    One(Bytes),
    Joined(Vec<u8>),
}

impl PartialEvent {
    fn add(&mut self, line: &Bytes, caps: &Caps) -> Result<(), SseError> {
        if line.starts_with(b":") {
            return Ok(());
        }
        self.lines += 1;
        if self.lines > caps.sse_event_lines {
            return Err(SseError::TooManyLines { limit: caps.sse_event_lines });
        }
        if let Some(value) = field(line, b"data") {
            self.data.push(line.slice_ref(value));
            if self.data.len() > caps.sse_event_bytes {
                return Err(SseError::EventTooLarge { limit: caps.sse_event_bytes });
            }
        } else if let Some(name) = field(line, b"event") {
            self.name = match name {
                b"" | b"message" => None,
                name => Some(String::from_utf8_lossy(name).into_owned()),
            };
        }
        Ok(())
    }

    fn dispatch(self) -> Option<SseEvent> {
        let data = match self.data {
            Data::None => Bytes::new(),
            Data::One(line) => line,
            Data::Joined(lines) => lines.into(),
        };
        (!data.is_empty()).then_some(SseEvent { name: self.name, data })
    }
}

impl Data {
    fn push(&mut self, line: Bytes) {
        *self = match mem::take(self) {
            Self::None => Self::One(line),
            Self::One(first) => Self::Joined([&*first, &*line].join(&b'\n')),
            Self::Joined(mut lines) => {
                lines.push(b'\n');
                lines.extend_from_slice(&line);
                Self::Joined(lines)
            }
        };
    }

    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(line) => line.len(),
            Self::Joined(lines) => lines.len(),
        }
    }
}

/// The value, if the line is about this field. A line without a colon is a field with an empty value.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    if rest.is_empty() {
        return Some(rest);
    }
    let value = rest.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    const RECORDED: [&str; 2] = [
        include_str!("../../tests/data/recorded/chat_stream_text.sse"),
        include_str!("../../tests/data/recorded/chat_stream_tool_call.sse"),
    ];

    type Outcome = Result<(Vec<SseEvent>, bool), SseError>;

    fn parse<'a>(caps: Caps, chunks: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut parser = SseParser::new(caps);
        let mut events = Vec::new();
        for chunk in chunks {
            parser.feed(Bytes::copy_from_slice(chunk));
            while let Some(event) = parser.next_event()? {
                events.push(event);
            }
        }
        Ok((events, parser.finish()))
    }

    fn bounds(line: usize, event: usize, lines: usize, stream: usize) -> Caps {
        Caps {
            sse_line_bytes: line,
            sse_event_bytes: event,
            sse_event_lines: lines,
            stream_bytes: stream,
            ..Caps::default()
        }
    }

    fn whole(stream: &[u8]) -> Vec<SseEvent> {
        parse(Caps::default(), [stream]).unwrap().0
    }

    fn event(name: Option<&str>, data: &str) -> SseEvent {
        SseEvent { name: name.map(str::to_owned), data: Bytes::copy_from_slice(data.as_bytes()) }
    }

    /// The same rules without thought for speed, bounds or chunks.
    fn reference(stream: &str) -> Vec<SseEvent> {
        let text = stream.strip_prefix('\u{feff}').unwrap_or(stream).replace("\r\n", "\n").replace('\r', "\n");
        let mut lines: Vec<&str> = text.split('\n').collect();
        lines.pop();
        let (mut events, mut name, mut data) = (Vec::new(), "", Vec::new());
        for line in lines {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            match field {
                "data" => data.push(value.strip_prefix(' ').unwrap_or(value)),
                "event" => name = value.strip_prefix(' ').unwrap_or(value),
                _ if line.is_empty() => {
                    let joined = mem::take(&mut data).join("\n");
                    let name = Some(mem::take(&mut name)).filter(|name| !["", "message"].contains(name));
                    events.extend((!joined.is_empty()).then(|| event(name, &joined)));
                }
                _ => {}
            }
        }
        events
    }

    #[test]
    fn recorded_streams_read_the_same_wherever_they_are_cut() {
        for recorded in RECORDED {
            for ending in ["\n", "\r\n", "\r"] {
                let stream = format!("\u{feff}{}", recorded.replace('\n', ending)).into_bytes();
                let expected: Vec<_> = recorded.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
                let expected: Vec<_> = expected.into_iter().map(|data| event(None, data)).collect();
                assert!(expected.len() >= 4 && expected.last() == Some(&event(None, "[DONE]")));
                for cut in 0..=stream.len() {
                    let (head, tail) = stream.split_at(cut);
                    let outcome = parse(Caps::default(), [head, tail]);
                    assert_eq!(outcome, Ok((expected.clone(), false)), "cut at {cut} with {ending:?}");
                }
                assert_eq!(parse(Caps::default(), stream.chunks(1)), Ok((expected, false)));
            }
        }
    }

    #[test]
    fn the_rules_of_the_standard_hold() {
        assert_eq!(whole(b"data\n\ndata:\n\n:only a comment\n\nevent: x\n\n"), []);
        assert_eq!(whole(b"data:a\ndata: b\ndata:  c\ndata\n\n"), [event(None, "a\nb\n c\n")]);
        assert_eq!(
            whole(b"event: error\nid: 7\nretry: 9\nDATA: no\ndatax: no\ndata: x\n\n"),
            [event(Some("error"), "x")]
        );
        assert_eq!(whole(b"event: a\nevent: message\ndata: x\n\n"), [event(None, "x")]);
        assert_eq!(whole(b"event: a\n\ndata: a name does not outlive its event\n\n")[0].name, None);
        assert_eq!(whole(b"data: \xEF\xBB\xBFx\r\r"), [event(None, "\u{feff}x")]);
        assert_eq!(whole(b"\n\xEF\xBB\xBFdata: a mark behind the beginning is none\n\n"), []);
    }

    #[test]
    fn an_event_on_one_line_is_a_slice_of_its_chunk() {
        let chunk = Bytes::from_static(b"data: one\n\nevent: n\ndata: two\n\ndata: thr");
        let mut parser = SseParser::new(Caps::default());
        parser.feed(chunk.clone());
        for text in ["one", "two"] {
            let data = parser.next_event().unwrap().unwrap().data;
            assert_eq!(data, text);
            assert!(chunk.as_ptr_range().contains(&data.as_ptr()), "{text} was copied");
        }
        parser.feed(Bytes::from_static(b"ee\n\n"));
        assert_eq!(parser.next_event(), Ok(Some(event(None, "three"))));
    }

    #[test]
    fn what_is_left_at_the_end_is_told_but_not_dispatched() {
        for (stream, left) in [("", false), ("data: x\n\n", false), ("data: x\r\n\r", false), ("data: x\n", true)] {
            assert_eq!(parse(Caps::default(), [stream.as_bytes()]).unwrap().1, left, "{stream:?}");
        }
        assert_eq!(parse(Caps::default(), [b"data: x".as_slice()]), Ok((vec![], true)));
        assert_eq!(parse(Caps::default(), [b": comment\n".as_slice()]), Ok((vec![], false)));
    }

    /// Rescanning or recopying the carried line would take minutes: a mebibyte comes byte by byte.
    #[test]
    fn a_line_without_end_fails_at_its_bound_after_linear_work() {
        let caps = Caps::default();
        let mut parser = SseParser::new(caps);
        for fed in 1..=caps.sse_line_bytes + 1 {
            parser.feed(Bytes::from_static(b"a"));
            let expected = if fed > caps.sse_line_bytes {
                Err(SseError::LineTooLong { limit: caps.sse_line_bytes })
            } else {
                Ok(None)
            };
            assert_eq!(parser.next_event(), expected);
        }
        parser.feed(Bytes::from_static(b"\n\ndata: x\n\n"));
        assert!(parser.next_event().is_err(), "an error must last");
        let huge = vec![b'a'; 40 << 20];
        assert_eq!(parse(caps, [huge.as_slice()]), Err(SseError::LineTooLong { limit: caps.sse_line_bytes }));
    }

    #[test]
    fn every_bound_is_exact() {
        let caps = bounds(10, 8, 3, 30);
        let outcome = |stream: &str| {
            let outcome = parse(caps, [stream.as_bytes()]).map(|(events, _)| events.len());
            assert_eq!(parse(caps, stream.as_bytes().chunks(1)).map(|(events, _)| events.len()), outcome);
            outcome
        };
        assert_eq!(outcome("data: 1234\n\n"), Ok(1));
        assert_eq!(outcome("data: 12345\n\n"), Err(SseError::LineTooLong { limit: 10 }));
        assert_eq!(outcome("data:1234\ndata:678\n\n"), Ok(1));
        assert_eq!(outcome("data:1234\ndata:6789\n\n"), Err(SseError::EventTooLarge { limit: 8 }));
        assert_eq!(outcome("data\nx\nid\n:\n:\n\n"), Ok(0));
        assert_eq!(outcome("data\nx\nid\ny\n\n"), Err(SseError::TooManyLines { limit: 3 }));
        assert_eq!(outcome(&"data\n\n".repeat(5)), Ok(0));
        assert_eq!(outcome(&format!("{}\n", "data\n\n".repeat(5))), Err(SseError::StreamTooLarge { limit: 30 }));
    }

    #[test]
    fn empty_data_lines_and_comments_are_bounded() {
        let caps = Caps::default();
        let lines = "data:\n".repeat(100_000);
        assert_eq!(parse(caps, lines.as_bytes().chunks(4096)), Err(SseError::TooManyLines { limit: 10_000 }));
        let comments = ": keep-alive\n".repeat(1_000_000);
        assert_eq!(parse(caps, comments.as_bytes().chunks(16_384)), Ok((vec![], false)));
        let more = [comments.as_bytes(); 3];
        assert_eq!(parse(caps, more), Err(SseError::StreamTooLarge { limit: caps.stream_bytes }));
    }

    proptest! {
        #[test]
        fn any_stream_in_any_chunks_reads_as_the_reference(
            parts in vec(select(vec![
                "data:", "data", "data: ", "event:", "id:", ":", " ", "x", "message", "é", "\u{feff}", "\n", "\r",
                "\r\n", "\n\n", "\r\r", "\r\n\r\n",
            ]), 0..60),
            sizes in vec(1_usize..7, 1..60),
        ) {
            let stream: String = parts.concat();
            let (mut rest, mut chunks) = (stream.as_bytes(), Vec::new());
            for size in sizes.iter().cycle() {
                let (chunk, tail) = rest.split_at(rest.len().min(*size));
                chunks.push(chunk);
                rest = tail;
                if rest.is_empty() { break; }
            }
            prop_assert_eq!(parse(Caps::default(), chunks).unwrap().0, reference(&stream));
        }

        #[test]
        fn chunks_never_change_the_outcome(
            stream in vec(select(b"data:event \r\n\xEF\xBB\xBFx".to_vec()), 0..80),
            cut in 0_usize..80,
        ) {
            let caps = bounds(9, 7, 2, 40);
            let (head, tail) = stream.split_at(cut.min(stream.len()));
            prop_assert_eq!(parse(caps, [head, tail]), parse(caps, [stream.as_slice()]));
        }
    }
}
