//! What a file of a job's lines must hold, checked before it is sent: the provider reads it much later, and one bad line
//! fails all of them.

use std::{borrow::Cow, collections::HashMap, fmt};

use memchr::memchr;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::source::len_of;

/// The most lines of a job.
const MAX_LINES: u64 = 50_000;
/// The most bytes of a job.
const MAX_BYTES: u64 = 100_000_000;
/// The most bytes of a line.
const MAX_LINE_BYTES: usize = 10_000_000;
/// The most bytes of a `custom_id`.
const MAX_ID_BYTES: usize = 64;
/// How many problems are kept; the rest is counted.
const KEPT_PROBLEMS: usize = 20;

/// Checks the lines of a job as they come, in pieces cut anywhere.
///
/// Each line must be a JSON object with a `custom_id` of at most 64 bytes that no other line has and a `body` with its
/// `model`; 50,000 lines, 100 MB and 10 MB a line at most. Empty lines are no lines.
///
/// ```
/// use together_inference::client::BatchLines;
///
/// let mut lines = BatchLines::new();
/// lines.push(b"{\"custom_id\":\"1\",\"body\":{\"model\":\"zai-org/GLM-5.3\",\"messages\":[]}}\n");
/// lines.push(b"{\"custom_id\":\"1\",\"body\":{\"model\":\"zai-org/GLM-5.3\",\"messages\":[]}}\n");
/// let problems = lines.finish().unwrap_err();
/// assert_eq!(problems.to_string(), "line 2: the custom_id is that of line 1");
/// ```
#[derive(Debug, Default)]
pub struct BatchLines {
    partial: Vec<u8>,
    /// The line that is being read is too long: it is passed over.
    skipping: bool,
    /// The number of the line that ended last, empty ones included.
    number: u64,
    lines: u64,
    bytes: u64,
    ids: HashMap<Box<str>, u64>,
    problems: Vec<LineProblem>,
    found: u64,
}

/// What a file that has no problem holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchFileSummary {
    /// Lines that are not empty.
    pub lines: u64,
    /// Bytes in all.
    pub bytes: u64,
}

/// What is wrong with a line.
///
/// Its `Display` quotes nothing of the line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LineProblem {
    /// Which line, the first being 1; 0 for the file as a whole.
    pub line: u64,
    /// What is wrong.
    pub problem: Cow<'static, str>,
}

impl fmt::Display for LineProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.problem),
            line => write!(f, "line {line}: {}", self.problem),
        }
    }
}

/// What is wrong with a file: the first twenty problems, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchFileProblems {
    /// The first ones, by line.
    pub first: Vec<LineProblem>,
    /// How many there are.
    pub found: u64,
}

impl fmt::Display for BatchFileProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.first.len().min(3);
        for (at, problem) in self.first.iter().take(shown).enumerate() {
            write!(f, "{}{problem}", if at == 0 { "" } else { "; " })?;
        }
        match self.found.saturating_sub(len_of(shown)) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for BatchFileProblems {}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    custom_id: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct LineBody<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
}

impl BatchLines {
    /// A check of a file that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks the next piece.
    pub fn push(&mut self, mut piece: &[u8]) {
        self.bytes += len_of(piece.len());
        while let Some(end) = memchr(b'\n', piece) {
            let (line, rest) = piece.split_at(end);
            self.line(line);
            piece = rest.get(1..).unwrap_or_default();
        }
        self.keep(piece);
    }

    /// What the file holds.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn finish(mut self) -> Result<BatchFileSummary, BatchFileProblems> {
        if !self.partial.is_empty() || self.skipping {
            self.line(b"");
        }
        if self.lines > MAX_LINES {
            self.found(0, format!("{} lines are more than the {MAX_LINES} of a job", self.lines));
        }
        if self.bytes > MAX_BYTES {
            self.found(0, format!("{} bytes are more than the {MAX_BYTES} of a job", self.bytes));
        }
        if self.lines == 0 {
            self.found(0, "there are no lines");
        }
        match self.found {
            0 => Ok(BatchFileSummary { lines: self.lines, bytes: self.bytes }),
            found => Err(BatchFileProblems { first: self.problems, found }),
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.skipping {
            return;
        }
        if self.partial.len() + piece.len() > MAX_LINE_BYTES {
            (self.skipping, self.partial) = (true, Vec::new());
        } else {
            self.partial.extend_from_slice(piece);
        }
    }

    /// A line whose end has come; its beginning may be in `partial`.
    fn line(&mut self, end: &[u8]) {
        self.number += 1;
        if !self.partial.is_empty() || self.skipping || end.len() > MAX_LINE_BYTES {
            self.keep(end);
            if std::mem::take(&mut self.skipping) {
                self.lines += 1;
                self.found(self.number, format!("it has more than the {MAX_LINE_BYTES} bytes of a line"));
                return;
            }
            let mut whole = std::mem::take(&mut self.partial);
            self.whole(&whole);
            whole.clear();
            self.partial = whole;
        } else {
            self.whole(end);
        }
    }

    fn whole(&mut self, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        self.lines += 1;
        // More lines than a job takes are counted, but their ids are not kept.
        if self.lines <= MAX_LINES
            && let Err(problem) = self.check(line)
        {
            self.found(self.number, problem);
        }
    }

    fn check(&mut self, line: &[u8]) -> Result<(), Cow<'static, str>> {
        let text =
            std::str::from_utf8(line).map_err(|error| format!("byte {} is not UTF-8", error.valid_up_to() + 1))?;
        if !text.trim_start().starts_with('{') {
            return Err("it is not a JSON object".into());
        }
        let line: Line<'_> = serde_json::from_str(text)
            .map_err(|error| format!("it is not a JSON object (column {})", error.column()))?;
        let id = line.custom_id.and_then(text_of).filter(|id| !id.is_empty()).ok_or("it has no custom_id")?;
        if id.len() > MAX_ID_BYTES {
            return Err(format!("its custom_id has more than {MAX_ID_BYTES} bytes").into());
        }
        if let Some(other) = self.ids.get(&*id) {
            return Err(format!("the custom_id is that of line {other}").into());
        }
        self.ids.insert(id.into(), self.number);
        let body = line.body.filter(|body| body.get().starts_with('{')).ok_or("it has no body")?;
        let body: LineBody<'_> = serde_json::from_str(body.get()).map_err(|_| "its body cannot be read")?;
        let model = body.model.and_then(text_of).filter(|model| !model.is_empty());
        model.map(|_| ()).ok_or_else(|| "its body has no model".into())
    }

    fn found(&mut self, line: u64, problem: impl Into<Cow<'static, str>>) {
        self.found += 1;
        if self.problems.len() < KEPT_PROBLEMS {
            self.problems.push(LineProblem { line, problem: problem.into() });
        }
    }
}

/// The text that a value is.
fn text_of(value: &RawValue) -> Option<Cow<'_, str>> {
    let text: crate::types::Text<'_> = serde_json::from_str(value.get()).ok()?;
    Some(text.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(pieces: &[&[u8]]) -> Result<BatchFileSummary, String> {
        let mut lines = BatchLines::new();
        pieces.iter().for_each(|piece| lines.push(piece));
        lines.finish().map_err(|problems| problems.to_string())
    }

    fn line(id: &str) -> String {
        format!("{{\"custom_id\":\"{id}\",\"body\":{{\"model\":\"m\"}}}}\n")
    }

    #[test]
    fn problems_are_told_by_line_wherever_the_file_is_cut() {
        let good = line("1");
        for (bad, problem) in [
            ("{\"custom_id\":\"é\",\"body\":{}}".as_bytes(), "line 3: its body has no model"),
            (b"{\"custom_id\":\"2\",\"body\":{\"model\":7}}", "line 3: its body has no model"),
            (b"{\"custom_id\":\"2\"}", "line 3: it has no body"),
            (b"{\"custom_id\":\"2\",\"body\":[]}", "line 3: it has no body"),
            (b"{\"custom_id\":7,\"body\":{\"model\":\"m\"}}", "line 3: it has no custom_id"),
            (b"{\"custom_id\":\"\",\"body\":{\"model\":\"m\"}}", "line 3: it has no custom_id"),
            (b"{\"body\":{\"model\":\"m\"}}", "line 3: it has no custom_id"),
            (b"{\"custom_id\":\"1\",\"body\":{\"model\":\"m\"}}", "line 3: the custom_id is that of line 1"),
            (b"{\"custom_id\":\"\xFF\"}", "line 3: byte 15 is not UTF-8"),
            (b"[1]", "line 3: it is not a JSON object"),
            (b"{\"custom_id\":", "line 3: it is not a JSON object (column 13)"),
            (b"{} {}", "line 3: it is not a JSON object (column 4)"),
        ] {
            let file = [good.as_bytes(), b"\r\n", bad, b"\n", line("9").as_bytes()].concat();
            for cut in 0..file.len() {
                let (head, tail) = file.split_at(cut);
                assert_eq!(checked(&[head, tail]).unwrap_err(), problem, "cut at {cut}");
            }
        }
        let unended = format!("{}{}", line("1"), line("2"));
        assert_eq!(checked(&[unended.trim_end().as_bytes()]).unwrap().lines, 2);
        assert_eq!(checked(&[b" \n\n"]).unwrap_err(), "there are no lines");
    }

    #[test]
    fn bounds_hold_on_both_sides() {
        let id = |len: usize| line(&"é".repeat(len / 2));
        assert!(checked(&[id(64).as_bytes()]).is_ok());
        assert_eq!(checked(&[id(66).as_bytes()]).unwrap_err(), "line 1: its custom_id has more than 64 bytes");

        let long = |bytes: usize| {
            let mut line = b"{\"custom_id\":\"1\",\"body\":{\"model\":\"m\",\"x\":\"".to_vec();
            line.resize(bytes - 3, b'x');
            line.extend_from_slice(b"\"}}\n");
            line
        };
        assert_eq!(checked(&[&long(10_000_000)]).unwrap().bytes, 10_000_001);
        for piece in [usize::MAX, 1 << 20] {
            let (line, more) = (long(10_000_001), line("2"));
            let mut pieces: Vec<&[u8]> = line.chunks(piece.min(line.len())).collect();
            pieces.push(more.as_bytes());
            assert_eq!(checked(&pieces).unwrap_err(), "line 1: it has more than the 10000000 bytes of a line");
        }

        let many = |count: usize| (0..count).map(|n| line(&n.to_string())).collect::<String>();
        assert_eq!(checked(&[many(50_000).as_bytes()]).unwrap().lines, 50_000);
        assert_eq!(checked(&[many(50_001).as_bytes()]).unwrap_err(), "50001 lines are more than the 50000 of a job");
    }

    #[test]
    fn a_file_has_a_hundred_megabytes_and_not_one_byte_more() {
        let mut lines = BatchLines::new();
        lines.push(line("1").as_bytes());
        let blank = vec![b' '; 1 << 20];
        let mut left = 100_000_000 - line("1").len();
        while left > 0 {
            let room = left.min(blank.len() - 1);
            lines.push(&blank[..room - 1]);
            lines.push(b"\n");
            left -= room;
        }
        let mut over = BatchLines { ids: HashMap::new(), partial: Vec::new(), problems: Vec::new(), ..lines };
        over.push(b"\n");
        let problems = over.finish().unwrap_err();
        assert_eq!(problems.to_string(), "100000001 bytes are more than the 100000000 of a job");
    }

    #[test]
    fn twenty_problems_are_kept_and_the_rest_is_counted() {
        let mut lines = BatchLines::new();
        lines.push("x\n".repeat(30).as_bytes());
        let problems = lines.finish().unwrap_err();
        assert_eq!((problems.first.len(), problems.found), (20, 30));
        assert!(problems.to_string().ends_with("line 3: it is not a JSON object; and 27 more"), "{problems}");
    }
}
