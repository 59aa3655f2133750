//! Reading JSON that a model writes, piece by piece: what is complete, what is under way, and what can be mended.
//!
//! One machine reads whole answers and streams, so that a value which a stream has shown as complete is in the value at
//! the end. It looks at each byte once and keeps no more than the document and the piece that is undecided.
//!
//! What it mends: text, reasoning and fences around the document, trailing and missing commas, comments, quotes of the
//! wrong kind or none, line breaks and quotes inside of texts, words of Python, closing brackets that are missing.
//!
//! What has been shown is never taken back. So a document is given up for another one only while nothing is in it; after
//! that what cannot be read ends it. And one that comes after prose may be a draft, which a closing tag of reasoning
//! supersedes: nothing of it shows before the text is over.

use serde_json::{Map, Value};

use super::{
    ahead::{Ahead, Place, Verdict, is_plain_end},
    before::Before,
    text::{Escape, Step, is_ellipsis, literal},
    word::{self, Turn},
};

/// Documents nested deeper are given up, as `serde_json` does.
const MAX_DEPTH: usize = 127;
/// White space between a key and its colon.
const MAX_GAP: usize = 64;
/// A word in brackets that is no array: what follows is a tool call.
const CALL_WORD: &str = "TOOL_CALLS";

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
    Quote(u8, Ahead),
    /// In a text between three quotes, after so many of those that end it.
    Triple(u8, u8),
    /// In a word or number.
    Word,
    /// After a slash.
    Slash,
    /// In a comment to the end of the line, or to the star and slash.
    Line,
    Block(bool),
    /// What follows what has been shown cannot be read.
    Broken,
    /// The document is closed.
    Done,
}

/// Whether the document is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// It came after prose: a closing tag of reasoning would make a draft of it.
    Draft,
    /// It is, and it shows.
    Sure,
    /// It was taken for the answer, and a closing tag of reasoning came after it.
    Doubted,
    /// And then another document.
    Refuted,
}

/// Reads a document.
#[derive(Debug)]
pub(super) struct Scanner {
    start: Start,
    state: State,
    frames: Vec<Frame>,
    /// The text or word under way.
    token: String,
    /// What was read after a quote that may end a text.
    gap: String,
    /// Whether the text under way has quotes in it that were not escaped.
    quoted: bool,
    before: Before,
    trust: Trust,
    /// Whether nothing more will come.
    over: bool,
    root: Option<Value>,
}

/// A document at the end of its text.
#[derive(Debug, PartialEq)]
pub(super) struct Finished {
    pub(super) value: Value,
    /// Whether something was open, or could not be read.
    pub(super) cut: bool,
    /// Whether it could not be read to its end, so that nobody knows what was meant.
    pub(super) broken: bool,
}

impl Scanner {
    pub(super) const fn new(start: Start) -> Self {
        Self {
            start,
            state: State::Seek,
            frames: Vec::new(),
            token: String::new(),
            gap: String::new(),
            quoted: false,
            before: Before::new(),
            trust: Trust::Draft,
            over: false,
            root: None,
        }
    }

    /// The text is over: what may have been a draft was none.
    pub(super) const fn end(&mut self) {
        self.over = true;
    }

    /// Whether what was read may be shown.
    pub(super) const fn shows(&self) -> bool {
        self.over || !matches!(self.trust, Trust::Draft)
    }

    /// The open containers that may be shown, the outermost first.
    pub(super) fn frames(&self) -> &[Frame] {
        if self.shows() { &self.frames } else { &[] }
    }

    /// The document, once it is closed.
    pub(super) const fn root(&self) -> Option<&Value> {
        if self.shows() { self.root.as_ref() } else { None }
    }

    /// The text under way, if it is a value.
    pub(super) fn text(&self) -> Option<&str> {
        (self.shows() && self.in_text() && !self.wants_key()).then_some(&self.token)
    }

    const fn in_text(&self) -> bool {
        matches!(self.state, State::Text(..) | State::Quote(..) | State::Triple(..))
    }

    /// Reads more.
    pub(super) fn push(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            if self.ends_plainly(rest) {
                self.put_text();
                continue;
            }
            let read = match &mut self.state {
                State::Text(quote, escape) => {
                    let quote = *quote;
                    let (read, ended) = escape.read(rest, quote, &mut self.token);
                    if ended {
                        self.state = State::Quote(quote, Ahead::START);
                    }
                    read
                }
                State::Quote(_, ahead) => match ahead.run(rest, self.gap.len()) {
                    0 => self.step(rest),
                    run => {
                        self.gap.push_str(rest.get(..run).unwrap_or_default());
                        run
                    }
                },
                _ => self.step(rest),
            };
            rest = rest.get(read.max(1)..).unwrap_or_default();
        }
    }

    /// Whether a text has just ended as valid JSON has it, by what stands there already.
    fn ends_plainly(&self, rest: &str) -> bool {
        matches!(self.state, State::Quote(_, Ahead::START))
            && self.gap.is_empty()
            && !self.wants_key()
            && is_plain_end(rest, self.in_object())
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
            State::Quote(..) if self.wants_key() => return self.key_end(c),
            State::Quote(quote, ahead) => self.quote(quote, ahead, c),
            State::Triple(quote, run) => self.triple(quote, run, c),
            State::Word => return self.word(c),
            State::Slash => return self.comment(c),
            State::Line if c == '\n' => self.state = State::Next,
            State::Block(true) if c == '/' => self.state = State::Next,
            State::Block(_) => self.state = State::Block(c == '*'),
            State::Broken | State::Done => self.after(c),
            State::Line | State::Text(..) => {}
        }
        false
    }

    const fn opens(&self, c: char) -> bool {
        match self.start {
            Start::Any => matches!(c, '{' | '['),
            Start::Object => c == '{',
            Start::Array => c == '[',
        }
    }

    fn seek(&mut self, c: char) {
        if self.opens(c) && self.before.may_begin() {
            self.trust = if self.before.is_clean() { Trust::Sure } else { Trust::Draft };
            self.open(c);
        } else {
            self.before.read(c);
        }
    }

    /// After the document: the end of reasoning makes a draft of it, unless it has been shown.
    fn after(&mut self, c: char) {
        match self.trust {
            Trust::Refuted => return,
            Trust::Doubted if self.opens(c) => self.trust = Trust::Refuted,
            _ => {}
        }
        if !self.before.read(c) {
            return;
        }
        if self.trust == Trust::Draft {
            self.root = None;
            self.reset(State::Seek);
            self.frames.clear();
        } else {
            self.trust = Trust::Doubted;
        }
    }

    fn reset(&mut self, state: State) {
        self.token.clear();
        self.gap.clear();
        self.quoted = false;
        self.state = state;
    }

    fn open(&mut self, c: char) {
        if self.frames.len() >= MAX_DEPTH {
            if self.frames.iter().all(Frame::is_empty) {
                self.frames.clear();
            }
            self.reset(State::Broken);
            return;
        }
        self.frames.push(if c == '{' {
            Frame::Object { map: Map::new(), key: None }
        } else {
            Frame::Array(Vec::new())
        });
        self.state = State::Next;
    }

    /// What cannot be read ends the document. One with nothing in it was none: looks for another one.
    fn break_off(&mut self) {
        if !self.frames.iter().all(Frame::is_empty) {
            self.reset(State::Broken);
            return;
        }
        self.frames.clear();
        self.before.give_back(self.token.trim() == CALL_WORD);
        self.reset(State::Seek);
    }

    fn wants_key(&self) -> bool {
        matches!(self.frames.last(), Some(Frame::Object { key: None, .. }))
    }

    fn in_object(&self) -> bool {
        matches!(self.frames.last(), Some(Frame::Object { .. }))
    }

    fn next(&mut self, c: char) -> bool {
        let key = self.wants_key();
        match c {
            // A comma too many says nothing; a key without a value neither.
            ',' => {
                if let Some(Frame::Object { key, .. }) = self.frames.last_mut() {
                    *key = None;
                }
            }
            _ if c.is_whitespace() => {}
            ':' => return self.break_and_look(),
            '{' | '[' if key => return self.break_and_look(),
            '{' | '[' => self.open(c),
            '}' | ']' => self.close(c),
            '"' => self.state = State::Text(b'"', Escape::None),
            '\'' => self.state = State::Text(b'\'', Escape::None),
            '/' => self.state = State::Slash,
            '#' if key || !self.in_object() => self.state = State::Line,
            _ => {
                self.state = State::Word;
                return true;
            }
        }
        false
    }

    fn break_and_look(&mut self) -> bool {
        self.break_off();
        true
    }

    fn comment(&mut self, c: char) -> bool {
        self.state = match c {
            '/' => State::Line,
            '*' => State::Block(false),
            _ => return self.break_and_look(),
        };
        false
    }

    fn colon(&mut self, c: char) -> bool {
        match c {
            ':' => self.state = State::Next,
            _ if c.is_whitespace() => {}
            _ => return self.break_and_look(),
        }
        false
    }

    /// After a key nothing but a colon comes.
    fn key_end(&mut self, c: char) -> bool {
        if c.is_whitespace() && self.gap.len() < MAX_GAP {
            self.gap.push(c);
            return false;
        }
        self.gap.clear();
        if c != ':' {
            return self.break_and_look();
        }
        self.put_text();
        true
    }

    /// A quote ends a text if what may follow a text follows; else it is part of it.
    fn quote(&mut self, quote: u8, ahead: Ahead, c: char) {
        if self.token.is_empty() && self.gap.is_empty() && c == char::from(quote) {
            self.quoted = true;
            self.state = State::Triple(quote, 0);
            return;
        }
        match ahead.look(c, &self.gap, self.place(quote)) {
            Verdict::More(ahead) => {
                self.gap.push(c);
                self.state = State::Quote(quote, ahead);
            }
            Verdict::Ends => {
                let gap = std::mem::take(&mut self.gap);
                self.put_text();
                self.push(&gap);
                self.push(c.encode_utf8(&mut [0; 4]));
            }
            Verdict::GoesOn => {
                let gap = std::mem::take(&mut self.gap);
                self.token.push(char::from(quote));
                self.quoted = true;
                self.state = State::Text(quote, Escape::None);
                self.push(&gap);
                self.push(c.encode_utf8(&mut [0; 4]));
            }
        }
    }

    fn place(&self, quote: u8) -> Place {
        let object = self.in_object();
        let is_other = |frame: &Frame| matches!(frame, Frame::Object { .. }) != object;
        Place {
            object,
            root: self.frames.len() == 1,
            other: self.frames.iter().any(is_other),
            quote: char::from(quote),
        }
    }

    fn triple(&mut self, quote: u8, run: u8, c: char) {
        let same = c == char::from(quote);
        if same && run == 2 {
            return self.put_text();
        }
        if !same {
            (0..run).for_each(|_| self.token.push(char::from(quote)));
            self.token.push(c);
        }
        self.state = State::Triple(quote, if same { run + 1 } else { 0 });
    }

    fn word(&mut self, c: char) -> bool {
        let key = self.wants_key();
        let turn = if key { word::key(&self.token, c) } else { word::value(&self.token, c, self.in_object()) };
        match turn {
            Turn::GoesOn => {
                self.token.push(c);
                return false;
            }
            Turn::Breaks => return self.break_and_look(),
            Turn::Ends(_) if key => {
                self.token.truncate(self.token.trim_end().len());
                self.put_text();
                return true;
            }
            Turn::Ends(less) => {
                self.put_word(less);
                return true;
            }
            Turn::Comment { block, trim } => {
                self.put_word(trim);
                if matches!(self.state, State::Next) {
                    self.state = if block { State::Block(false) } else { State::Line };
                }
            }
        }
        false
    }

    /// A word that is a value, without some bytes at its end.
    fn put_word(&mut self, less: usize) {
        let word = self.token.get(..self.token.len().saturating_sub(less)).unwrap_or_default().trim();
        // What a model left out nobody can know.
        if is_ellipsis(word) || word == CALL_WORD {
            return self.break_off();
        }
        let value = literal(word);
        self.token.clear();
        self.put(value);
    }

    /// A text is the key of an object, or a value.
    fn put_text(&mut self) {
        self.quoted = false;
        let text = std::mem::take(&mut self.token);
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

    /// Ends the input: closes what is open.
    pub(super) fn finish(mut self) -> Option<Finished> {
        let cut = !self.frames.is_empty();
        let mut broken = matches!(self.state, State::Broken) || self.trust == Trust::Refuted;
        if cut && !self.wants_key() {
            if self.in_text() {
                // Where no quote ended the text, those within it may have.
                broken |= self.quoted;
                self.put_text();
            } else if matches!(self.state, State::Word) {
                self.put_cut_word();
            }
        }
        while !self.frames.is_empty() {
            self.pop();
        }
        Some(Finished { value: self.root?, cut: cut || broken, broken })
    }

    /// A word at the end may be the start of another one: only a whole one counts.
    fn put_cut_word(&mut self) {
        let word = std::mem::take(&mut self.token);
        match literal(word.trim_end_matches(',').trim()) {
            Value::String(_) => {}
            value => self.put(value),
        }
    }
}

impl Frame {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Object { map, .. } => map.is_empty(),
            Self::Array(items) => items.is_empty(),
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
