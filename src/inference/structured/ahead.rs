//! Whether a quote ends a text, by what follows it.
//!
//! Models forget to escape quotes. One that ends a text is followed by what JSON has there: after a comma in an object,
//! say, a key and its colon. Until that is there nothing is decided, and the text does not show as complete.

use super::text::is_literal;

/// As much is looked at; what is longer is as valid JSON would have it.
const MAX_LOOK: usize = 256;

/// Where the text stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// In an object; else in an array.
    pub(super) object: bool,
    /// In the outermost container.
    pub(super) root: bool,
    /// Whether a container of the other kind is open around it.
    pub(super) other: bool,
    /// The quote that the text began with.
    pub(super) quote: char,
}

/// How far it was looked ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// After white space alone, and whether there was some, and a new line.
    Start {
        blank: bool,
        line: bool,
    },
    Comma,
    Slash,
    /// In a key with this quote.
    Key {
        quote: char,
        escaped: bool,
    },
    /// In a word: a key, or an array's literal.
    Word,
    /// After a key, or after a closing bracket.
    Colon,
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The quote ends the text.
    Ends,
    /// It is part of the text.
    GoesOn,
    More(Ahead),
}

use Verdict::{Ends, GoesOn, More};

impl Ahead {
    pub(super) const START: Self = Self::Start { blank: false, line: false };

    /// How many bytes of this say nothing yet: those within a key, up to its end.
    pub(super) fn run(self, rest: &str, seen: usize) -> usize {
        let Self::Key { quote, escaped: false } = self else { return 0 };
        let end = rest.bytes().position(|byte| char::from(byte) == quote || byte == b'\\').unwrap_or(rest.len());
        let most = end.min(MAX_LOOK.saturating_sub(seen));
        // As many as one by one: the last character may pass the bound.
        (most..=end).find(|at| rest.is_char_boundary(*at)).unwrap_or(end)
    }

    /// Looks at one more character after those of `seen`.
    pub(super) fn look(self, c: char, seen: &str, place: Place) -> Verdict {
        if seen.len() >= MAX_LOOK {
            return if matches!(self, Self::Word | Self::Key { quote: '\'', .. }) { GoesOn } else { Ends };
        }
        match self {
            Self::Start { blank, line } => start(c, blank, line, place),
            Self::Comma if place.object => comma_in_object(c),
            Self::Comma => comma_in_array(c, place),
            Self::Slash if matches!(c, '/' | '*') => Ends,
            Self::Key { quote, escaped: true } => More(Self::Key { quote, escaped: false }),
            Self::Key { quote, .. } if c == '\\' => More(Self::Key { quote, escaped: true }),
            Self::Key { quote, .. } if c == quote => More(Self::Colon),
            Self::Key { .. } => More(self),
            Self::Word => word(c, seen, place),
            Self::Colon if c == ':' => Ends,
            Self::Colon if c.is_whitespace() => More(self),
            Self::Slash | Self::Colon => GoesOn,
            Self::Close => close(c),
        }
    }
}

const fn key(quote: char) -> Verdict {
    More(Ahead::Key { quote, escaped: false })
}

fn start(c: char, blank: bool, line: bool, place: Place) -> Verdict {
    match c {
        ',' => More(Ahead::Comma),
        '/' => More(Ahead::Slash),
        '}' | ']' if (c == '}') == place.object => {
            if place.root {
                Ends
            } else {
                More(Ahead::Close)
            }
        }
        '}' | ']' if place.other => More(Ahead::Close),
        // The comma was forgotten.
        '"' | '\'' if blank && place.object => key(c),
        '"' if blank => Ends,
        '\'' if blank && place.quote == c => Ends,
        _ if c.is_whitespace() => More(Ahead::Start { blank: true, line: line || c == '\n' }),
        _ if line && place.object && is_of_name(c) => More(Ahead::Word),
        _ => GoesOn,
    }
}

fn comma_in_object(c: char) -> Verdict {
    match c {
        '"' | '\'' => key(c),
        '}' => Ends,
        '/' => More(Ahead::Slash),
        _ if c == ',' || c.is_whitespace() => More(Ahead::Comma),
        _ if is_of_name(c) => More(Ahead::Word),
        _ => GoesOn,
    }
}

fn comma_in_array(c: char, place: Place) -> Verdict {
    match c {
        '"' | '{' | '[' | ']' | '-' | '0'..='9' => Ends,
        '\'' if place.quote == c => Ends,
        '/' => More(Ahead::Slash),
        _ if c == ',' || c.is_whitespace() => More(Ahead::Comma),
        _ if is_of_name(c) => More(Ahead::Word),
        _ => GoesOn,
    }
}

fn word(c: char, seen: &str, place: Place) -> Verdict {
    match c {
        _ if is_of_name(c) => More(Ahead::Word),
        ':' if place.object => Ends,
        _ if c.is_whitespace() && place.object => More(Ahead::Colon),
        _ if place.object => GoesOn,
        _ => {
            let from = seen.rfind(|c: char| !is_of_name(c)).map_or(0, |at| at + 1);
            if is_literal(seen.get(from..).unwrap_or_default()) { Ends } else { GoesOn }
        }
    }
}

fn close(c: char) -> Verdict {
    match c {
        ',' | '}' | ']' | '/' | '"' | '`' | '\n' => Ends,
        _ if c.is_whitespace() => More(Ahead::Close),
        _ => GoesOn,
    }
}

/// Whether what stands behind a quote shows at one look that it ends a text: in an object a comma, a key and its colon, in an
/// array a comma and a value, in both a bracket and what goes on. It is what [`Ahead::look`] comes to as well, character by character.
pub(super) fn is_plain_end(rest: &str, object: bool) -> bool {
    let rest = rest.trim_ascii_start();
    if let Some(outer) = rest.strip_prefix(if object { '}' } else { ']' }) {
        return outer.starts_with([',', '}', ']']);
    }
    let Some(value) = rest.strip_prefix(',').map(str::trim_ascii_start) else { return false };
    if !object {
        return value.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '"' | '{' | '[' | '-'));
    }
    let Some(key) = value.strip_prefix('"') else { return false };
    let name = key.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    name < MAX_LOOK / 2
        && key
            .get(name..)
            .and_then(|rest| rest.strip_prefix('"'))
            .is_some_and(|rest| rest.trim_ascii_start().starts_with(':'))
}

/// Whether a key without quotes may hold it.
fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '$' | '.')
}
