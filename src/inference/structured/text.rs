//! Texts and words of a document: escapes, and what stands for what.

use serde_json::Value;

/// An escape in a text, as far as it has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Escape {
    #[default]
    None,
    /// After a backslash; the first half of a pair may wait for its other.
    Begun(Option<u16>),
    /// In the four digits after `\u`.
    Hex { high: Option<u16>, digits: u8, code: u16 },
    /// After the first half of a pair.
    Half(u16),
}

/// What became of a byte.
pub(super) enum Step {
    /// It is part of an escape.
    Escaped,
    /// It is not.
    Plain,
}

impl Escape {
    /// A backslash.
    pub(super) const fn begin(&mut self) {
        *self = Self::Begun(None);
    }

    pub(super) fn step(&mut self, byte: u8, token: &mut String) -> Step {
        match *self {
            Self::None => return Step::Plain,
            Self::Half(high) if byte == b'\\' => *self = Self::Begun(Some(high)),
            Self::Half(_) => {
                token.push(char::REPLACEMENT_CHARACTER);
                *self = Self::None;
                return Step::Plain;
            }
            Self::Begun(high) if byte == b'u' => *self = Self::Hex { high, digits: 0, code: 0 },
            Self::Begun(high) => return self.simple(high, byte, token),
            Self::Hex { high, digits, code } => return self.hex(byte, (high, digits, code), token),
        }
        Step::Escaped
    }

    fn simple(&mut self, high: Option<u16>, byte: u8, token: &mut String) -> Step {
        if high.is_some() {
            token.push(char::REPLACEMENT_CHARACTER);
        }
        *self = Self::None;
        token.push(match byte {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'"' | b'\\' | b'/' | b'\'' => char::from(byte),
            // No escape of JSON: the backslash stands for itself.
            _ => {
                token.push('\\');
                return Step::Plain;
            }
        });
        Step::Escaped
    }

    fn hex(&mut self, byte: u8, (high, digits, code): (Option<u16>, u8, u16), token: &mut String) -> Step {
        let Some(digit) = char::from(byte).to_digit(16).and_then(|digit| u16::try_from(digit).ok()) else {
            token.push(char::REPLACEMENT_CHARACTER);
            *self = Self::None;
            return Step::Plain;
        };
        let code = code << 4 | digit;
        if digits < 3 {
            *self = Self::Hex { high, digits: digits + 1, code };
            return Step::Escaped;
        }
        *self = Self::None;
        match (high, code) {
            (Some(high), 0xdc00..=0xdfff) => {
                let pair = char::decode_utf16([high, code]).next().and_then(Result::ok);
                token.push(pair.unwrap_or(char::REPLACEMENT_CHARACTER));
                return Step::Escaped;
            }
            (Some(_), _) => token.push(char::REPLACEMENT_CHARACTER),
            (None, _) => {}
        }
        if (0xd800..0xdc00).contains(&code) {
            *self = Self::Half(code);
        } else {
            token.push(char::from_u32(u32::from(code)).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        Step::Escaped
    }
}

/// What a word without quotes means: a number, a word of JSON or Python, or else itself.
pub(super) fn literal(word: &str) -> Value {
    constant(word).or_else(|| number(word)).unwrap_or_else(|| Value::String(word.to_owned()))
}

/// Whether a word means something else than itself.
pub(super) fn is_literal(word: &str) -> bool {
    constant(word).is_some() || is_number(word)
}

/// Whether a word is a number.
pub(super) fn is_number(word: &str) -> bool {
    let plain = word.strip_prefix('+').unwrap_or(word);
    is_numeric(plain) && plain.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Whether a word only stands for something that was left out.
pub(super) fn is_ellipsis(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| matches!(c, '.' | '…'))
}

fn constant(word: &str) -> Option<Value> {
    match word {
        "true" | "True" | "TRUE" => Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => Some(Value::Bool(false)),
        "null" | "None" | "NULL" | "undefined" | "NaN" | "Infinity" | "-Infinity" => Some(Value::Null),
        _ => None,
    }
}

/// JSON's own numbers, with a plus or a bare point put right.
fn number(word: &str) -> Option<Value> {
    let plain = word.strip_prefix('+').unwrap_or(word);
    if !is_numeric(plain) {
        return None;
    }
    if let Ok(value @ Value::Number(_)) = serde_json::from_str(plain) {
        return Some(value);
    }
    plain.parse::<f64>().ok().filter(|value| value.is_finite()).map(Value::from)
}

fn is_numeric(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E'))
        && word.bytes().any(|byte| byte.is_ascii_digit())
}
