//! Reading JSON that a model writes, piece by piece: what is complete, what is under way, and what can be mended.
//!
//! One machine reads whole answers and streams, so that a value which a stream has shown as complete is in the value at
//! the end. It looks at each byte once and keeps no more than the document and the piece that is undecided.
//!
//! What it mends: text, reasoning and fences around the document, trailing and missing commas, comments, quotes of the
//! wrong kind or none, line breaks and quotes inside of texts, words of Python, closing brackets that are missing.

use serde_json::{Map, Value};

use super::text::{Escape, Step, is_end_of_text, literal};

/// Documents nested deeper are given up, as `serde_json` does.
const MAX_DEPTH: usize = 127;
/// White space that is looked through for what follows a quote.
const MAX_GAP: usize = 64;
/// The longest tag around reasoning.
const MAX_TAG: usize = 16;

/// Where a document may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "schema"), expect(dead_code, reason = "typed answers alone know where they begin"))]
pub(crate) enum Start {
    /// At a brace or a bracket.
    #[default]
    Any,
    /// At a brace.
    Object,
    /// At a bracket.
    Array,
}

/// A container that is still open.
#[derive(Debug)]
pub(super) enum Frame {
    Object { map: Map<String, Value>, key: Option<String> },
    Array(Vec<Value>),
}

#[derive(Debug)]
enum State {
    /// Before the document.
    Seek,
    /// A value, a key or a closing bracket may come.
    Next,
    /// After a key.
    Colon,
    /// In a text with this quote.
    Text(u8, Escape),
    /// After a quote in a text: whether it ends the text depends on what follows.
    Quote(u8),
    /// In a word or number.
    Word,
    /// After a slash.
    Slash,
    /// In a comment to the end of the line, or to the star and slash.
    Line,
    Block(bool),
    /// The document is closed.
    Done,
}

/// Reads a document.
#[derive(Debug)]
pub(super) struct Scanner {
    start: Start,
    state: State,
    frames: Vec<Frame>,
    /// The text or word under way.
    token: String,
    /// White space after a quote.
    gap: String,
    /// The end of what came before the document.
    tag: String,
    thinking: bool,
    root: Option<Value>,
}

impl Scanner {
    pub(super) const fn new(start: Start) -> Self {
        Self {
            start,
            state: State::Seek,
            frames: Vec::new(),
            token: String::new(),
            gap: String::new(),
            tag: String::new(),
            thinking: false,
            root: None,
        }
    }

    /// The open containers, the outermost first.
    pub(super) fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The document, once it is closed.
    pub(super) const fn root(&self) -> Option<&Value> {
        self.root.as_ref()
    }

    /// The text under way, if it is a value.
    pub(super) fn text(&self) -> Option<&str> {
        let in_text = matches!(self.state, State::Text(..) | State::Quote(_));
        (in_text && !self.wants_key()).then_some(&self.token)
    }

    /// Reads more.
    pub(super) fn push(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            let read = match &mut self.state {
                State::Done => return,
                State::Text(quote, escape) => {
                    let quote = *quote;
                    let (read, ended) = escape.read(rest, quote, &mut self.token);
                    if ended {
                        self.state = State::Quote(quote);
                    }
                    read
                }
                _ => self.step(rest),
            };
            rest = rest.get(read.max(1)..).unwrap_or_default();
        }
    }

    /// Reads one character that is in no text; answers its length.
    fn step(&mut self, rest: &str) -> usize {
        let Some(c) = rest.chars().next() else { return 0 };
        while self.take(c) {}
        c.len_utf8()
    }

    /// Takes a character; whether it is to be looked at again.
    fn take(&mut self, c: char) -> bool {
        match self.state {
            State::Seek => self.seek(c),
            State::Next => return self.next(c),
            State::Colon => return self.colon(c),
            State::Quote(quote) => return self.quote(quote, c),
            State::Word => return self.word(c),
            State::Slash => self.comment(c),
            State::Line if c == '\n' => self.state = State::Next,
            State::Block(true) if c == '/' => self.state = State::Next,
            State::Block(_) => self.state = State::Block(c == '*'),
            State::Line | State::Text(..) | State::Done => {}
        }
        false
    }

    fn seek(&mut self, c: char) {
        if self.thinking || c == '<' || !self.tag.is_empty() {
            self.seek_tag(c);
        }
        let opens = match self.start {
            Start::Any => matches!(c, '{' | '['),
            Start::Object => c == '{',
            Start::Array => c == '[',
        };
        if opens && !self.thinking {
            self.open(c);
        }
    }

    /// Reasoning between tags may hold brackets of its own.
    fn seek_tag(&mut self, c: char) {
        if c == '<' || self.tag.len() >= MAX_TAG {
            self.tag.clear();
        }
        if c == '<' || !self.tag.is_empty() {
            self.tag.push(c);
        }
        if c == '>' {
            match self.tag.as_str() {
                "<think>" | "<thinking>" => self.thinking = true,
                "</think>" | "</thinking>" => self.thinking = false,
                _ => {}
            }
            self.tag.clear();
        }
    }

    fn open(&mut self, c: char) {
        if self.frames.len() >= MAX_DEPTH {
            self.give_up();
            self.state = State::Done;
            return;
        }
        self.frames.push(if c == '{' {
            Frame::Object { map: Map::new(), key: None }
        } else {
            Frame::Array(Vec::new())
        });
        self.state = State::Next;
    }

    /// What was taken for a document is none: looks for another one.
    fn give_up(&mut self) {
        self.frames.clear();
        self.token.clear();
        self.gap.clear();
        self.state = State::Seek;
    }

    fn wants_key(&self) -> bool {
        matches!(self.frames.last(), Some(Frame::Object { key: None, .. }))
    }

    fn next(&mut self, c: char) -> bool {
        match c {
            // A comma too many says nothing.
            ',' => {}
            _ if c.is_whitespace() => {}
            '{' | '[' if self.wants_key() => self.give_up(),
            '{' | '[' => self.open(c),
            '}' | ']' => self.close(c),
            '"' => self.state = State::Text(b'"', Escape::None),
            '\'' => self.state = State::Text(b'\'', Escape::None),
            '/' => self.state = State::Slash,
            ':' => self.give_up(),
            _ => {
                self.state = State::Word;
                return true;
            }
        }
        false
    }

    fn comment(&mut self, c: char) {
        self.state = match c {
            '/' => State::Line,
            '*' => State::Block(false),
            _ => return self.give_up(),
        };
    }

    fn colon(&mut self, c: char) -> bool {
        match c {
            ':' => self.state = State::Next,
            _ if c.is_whitespace() => {}
            _ => {
                self.give_up();
                return true;
            }
        }
        false
    }

    /// A quote ends a text if what may follow a text follows; else it is part of it.
    fn quote(&mut self, quote: u8, c: char) -> bool {
        if c.is_whitespace() && self.gap.len() < MAX_GAP {
            self.gap.push(c);
            return false;
        }
        if is_end_of_text(c, self.wants_key()) || self.gap.len() >= MAX_GAP {
            self.gap.clear();
            let text = std::mem::take(&mut self.token);
            self.put_text(text);
            return true;
        }
        self.token.push(char::from(quote));
        self.token.push_str(&std::mem::take(&mut self.gap));
        self.state = State::Text(quote, Escape::None);
        self.push(c.encode_utf8(&mut [0; 4]));
        false
    }

    fn word(&mut self, c: char) -> bool {
        let ends = match c {
            ',' | '}' | ']' | '{' | '[' | '"' => true,
            ':' => self.wants_key(),
            _ => c == '\n' || c.is_whitespace() && self.token.parse::<f64>().is_ok(),
        };
        if !ends {
            self.token.push(c);
            return false;
        }
        let word = std::mem::take(&mut self.token);
        if self.wants_key() {
            self.put_text(word.trim().to_owned());
        } else {
            self.put(literal(word.trim()));
        }
        true
    }

    /// A text is the key of an object, or a value.
    fn put_text(&mut self, text: String) {
        if let Some(Frame::Object { key: key @ None, .. }) = self.frames.last_mut() {
            *key = Some(text);
            self.state = State::Colon;
        } else {
            self.put(Value::String(text));
        }
    }

    /// A complete value. The first one of a key stays, since it has been shown.
    fn put(&mut self, value: Value) {
        self.state = State::Next;
        match self.frames.last_mut() {
            Some(Frame::Array(items)) => items.push(value),
            Some(Frame::Object { map, key }) => {
                if let Some(key) = key.take() {
                    map.entry(key).or_insert(value);
                }
            }
            None => {
                self.root = Some(value);
                self.state = State::Done;
            }
        }
    }

    /// Closes the innermost container of this kind, and what is still open within it.
    fn close(&mut self, c: char) {
        let is_kind = |frame: &Frame| matches!(frame, Frame::Object { .. }) == (c == '}');
        if self.frames.iter().any(is_kind) {
            while let Some(kind) = self.frames.last().map(is_kind) {
                self.pop();
                if kind {
                    return;
                }
            }
        }
    }

    fn pop(&mut self) {
        let value = match self.frames.pop() {
            // A key without a value says nothing.
            Some(Frame::Object { map, .. }) => Value::Object(map),
            Some(Frame::Array(items)) => Value::Array(items),
            None => return,
        };
        self.put(value);
    }

    /// Ends the input: closes what is open, and gives the document with whether something was.
    pub(super) fn finish(mut self) -> Option<(Value, bool)> {
        let cut = !self.frames.is_empty();
        if !self.frames.is_empty() {
            let token = std::mem::take(&mut self.token);
            match self.state {
                State::Text(..) | State::Quote(_) if !self.wants_key() => self.put(Value::String(token)),
                State::Word if !self.wants_key() => self.put_cut_word(token.trim()),
                _ => {}
            }
        }
        while !self.frames.is_empty() {
            self.pop();
        }
        Some((self.root?, cut))
    }

    /// A word at the end may be the start of another one: only a whole one counts.
    fn put_cut_word(&mut self, word: &str) {
        match literal(word) {
            Value::String(_) => {}
            value => self.put(value),
        }
    }
}

impl Escape {
    /// Reads a part of a text into `token`: how many bytes, and whether they end with its quote.
    fn read(&mut self, rest: &str, quote: u8, token: &mut String) -> (usize, bool) {
        let bytes = rest.as_bytes();
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match self.step(*byte, token) {
                Step::Escaped => at += 1,
                Step::Plain => {
                    let tail = bytes.get(at..).unwrap_or_default();
                    let end = memchr::memchr2(quote, b'\\', tail).unwrap_or(tail.len());
                    token.push_str(rest.get(at..at + end).unwrap_or_default());
                    at += end;
                    match tail.get(end) {
                        Some(b'\\') => {
                            self.begin();
                            at += 1;
                        }
                        Some(_) => return (at + 1, true),
                        None => {}
                    }
                }
            }
        }
        (at, false)
    }
}
