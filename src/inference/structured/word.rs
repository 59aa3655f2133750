//! Keys and values without quotes.

use super::text::{is_ellipsis, is_literal, is_number};

/// A longer key without quotes is prose.
const MAX_NAME: usize = 64;

/// What a character means to the word before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is part of the word.
    GoesOn,
    /// The word ended before it, without this many bytes at its end.
    Ends(usize),
    /// The word ended, and this character began a comment.
    Comment { block: bool, trim: usize },
    /// This is no document.
    Breaks,
}

/// A word that is a key: one name, up to its colon.
pub(super) fn key(word: &str, c: char) -> Turn {
    match c {
        ':' if is_name(word.trim()) => Turn::Ends(0),
        ':' | ',' | '{' | '}' | '[' | ']' | '"' => Turn::Breaks,
        _ if word.len() >= MAX_NAME || !c.is_whitespace() && word.ends_with(char::is_whitespace) => Turn::Breaks,
        _ => Turn::GoesOn,
    }
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && !is_ellipsis(word)
}

/// A word that is a value. It counts as a number only where no more of it can follow: `10 apples` is a text.
pub(super) fn value(word: &str, c: char, object: bool) -> Turn {
    // Where a comma follows a number, it may belong to it: `10,000` is no JSON, and not 10. After other words it ends them.
    if let Some(number) = word.strip_suffix(',') {
        let goes_on = c.is_ascii_digit() && !number.ends_with(char::is_whitespace);
        return if goes_on { Turn::GoesOn } else { Turn::Ends(1) };
    }
    match c {
        ',' if object && is_number(word.trim()) => Turn::GoesOn,
        ',' | '{' | '}' | '[' | ']' => Turn::Ends(0),
        '/' | '*' if word.ends_with('/') => comment(word, c == '*'),
        '#' if spaced(word) && is_literal(word.trim()) => Turn::Comment { block: false, trim: 0 },
        _ if c.is_whitespace() || !spaced(word) => Turn::GoesOn,
        _ => after_space(word, c, object),
    }
}

/// After two characters that begin a comment, unless they are part of a URL.
fn comment(word: &str, block: bool) -> Turn {
    let before = word.strip_suffix('/').unwrap_or(word);
    if spaced(before) || is_literal(before) { Turn::Comment { block, trim: 1 } } else { Turn::GoesOn }
}

fn after_space(word: &str, c: char, object: bool) -> Turn {
    let blank = word.len() - word.trim_end().len();
    let line = word.get(word.len() - blank..).is_some_and(|blank| blank.contains('\n'));
    let plain = word.trim();
    let ends = match c {
        '/' => false,
        _ if line => true,
        '"' | '\'' => is_literal(plain) || c == '"' && !plain.contains(char::is_whitespace),
        // The comma was forgotten.
        '-' | '0'..='9' => !object && is_literal(plain),
        _ => false,
    };
    if ends { Turn::Ends(0) } else { Turn::GoesOn }
}

fn spaced(word: &str) -> bool {
    word.ends_with(char::is_whitespace)
}
