//! A value that is still being written.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::de::DeserializeOwned;
use serde_json::Value;

#[cfg(test)]
use super::scan::Finished;
use super::scan::{Frame, Scanner, Start};

/// A `T` under way: what of it is complete so far.
///
/// It never is a `T`: fields may be missing. A value that is complete stays as it is until the end; a number or word
/// counts as complete only when something follows it that may follow one. Where the text goes on in a way that nobody can
/// read, what was complete stays and nothing more comes. Values are named by JSON pointers: `/items/0/name`.
///
/// A document that begins the text, or a Markdown fence at its beginning, shows at once. One that comes after prose may be
/// a draft within reasoning: it shows when the text is over, by [`end`](Self::end).
///
/// ```
/// use together_inference::inference::Partial;
///
/// let mut order = Partial::<()>::new();
/// order.push(r#"{"number": 4711, "items": ["lamp", "ru"#);
/// assert_eq!(order.get::<u32>("/number"), Some(4711));
/// assert_eq!(order.get::<String>("/items/0").as_deref(), Some("lamp"));
/// assert_eq!(order.get::<String>("/items/1"), None, "it is still being written");
/// assert_eq!(order.text_under_way(), Some(("/items/1".to_owned(), "ru")));
/// ```
pub struct Partial<T> {
    scanner: Scanner,
    of: PhantomData<fn() -> T>,
}

impl<T> Default for Partial<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Its shape, not its texts.
impl<T> fmt::Debug for Partial<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partial")
            .field("open", &self.scanner.frames().len())
            .field("whole", &self.is_whole())
            .finish_non_exhaustive()
    }
}

impl<T> Partial<T> {
    /// Nothing yet. The document may be an object or an array.
    #[must_use]
    pub const fn new() -> Self {
        Self::starting(Start::Any)
    }

    pub(crate) const fn starting(start: Start) -> Self {
        Self { scanner: Scanner::new(start), of: PhantomData }
    }

    /// Reads more of the text.
    pub fn push(&mut self, text: &str) {
        self.scanner.push(text);
    }

    /// Says that the text is over, so that a document which came after prose shows; whether one does that did not before.
    ///
    /// ```
    /// use together_inference::inference::Partial;
    ///
    /// let mut partial = Partial::<()>::new();
    /// partial.push(r#"Perhaps {"a": 1}? No.</think> It is {"a": 2}."#);
    /// assert_eq!(partial.get::<u8>("/a"), None);
    /// assert!(partial.end());
    /// assert_eq!(partial.get::<u8>("/a"), Some(2));
    /// ```
    pub fn end(&mut self) -> bool {
        let shown = self.scanner.shows();
        self.scanner.end();
        !shown && (self.is_whole() || !self.scanner.frames().is_empty())
    }

    /// Whether the document is closed.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.scanner.root().is_some()
    }

    /// The complete value at a pointer.
    ///
    /// ```
    /// use together_inference::inference::Partial;
    ///
    /// let mut partial = Partial::<()>::new();
    /// partial.push(r#"{"a": {"b": [1, 2], "c": 3"#);
    /// assert_eq!(partial.value("/a/b").unwrap().to_string(), "[1,2]");
    /// assert!(partial.value("/a").is_none() && partial.value("/a/c").is_none(), "both may go on");
    /// ```
    #[must_use]
    pub fn value(&self, pointer: &str) -> Option<&Value> {
        if let Some(root) = self.scanner.root() {
            return root.pointer(pointer);
        }
        let mut frames = self.scanner.frames().iter();
        let mut frame = frames.next()?;
        let mut rest = pointer;
        loop {
            let (token, after) = split(rest)?;
            match child(frame, &token) {
                Child::Complete(value) => return value.pointer(after),
                Child::Open => frame = frames.next()?,
                Child::Missing => return None,
            }
            rest = after;
        }
    }

    /// The complete value at a pointer, as a type. `None` if it is not complete, or not of the type.
    #[must_use]
    pub fn get<U: DeserializeOwned>(&self, pointer: &str) -> Option<U> {
        U::deserialize(self.value(pointer)?).ok()
    }

    /// The text that is being written, with its pointer: what a user interface shows while it grows.
    #[must_use]
    pub fn text_under_way(&self) -> Option<(String, &str)> {
        let text = self.scanner.text()?;
        let mut pointer = String::new();
        for frame in self.scanner.frames() {
            match frame {
                Frame::Object { map, key } => {
                    let key = key.as_deref().unwrap_or_default();
                    // The first value of a key stays.
                    if map.contains_key(key) {
                        return None;
                    }
                    pointer.push('/');
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                }
                Frame::Array(items) => {
                    pointer.push('/');
                    pointer.push_str(&items.len().to_string());
                }
            }
        }
        Some((pointer, text))
    }

    /// A copy of everything that is complete, with what holds it. It costs as much as the document is long.
    ///
    /// ```
    /// use together_inference::inference::Partial;
    ///
    /// let mut partial = Partial::<()>::new();
    /// partial.push(r#"{"a": {"b": [1, 2], "c": 3"#);
    /// assert_eq!(partial.to_value().unwrap().to_string(), r#"{"a":{"b":[1,2]}}"#);
    /// ```
    #[must_use]
    pub fn to_value(&self) -> Option<Value> {
        if let Some(root) = self.scanner.root() {
            return Some(root.clone());
        }
        let frames = self.scanner.frames();
        // With nothing in it yet it may turn out to be prose.
        let frames = if frames.iter().all(Frame::is_empty) { frames.get(..1)? } else { frames };
        let mut inner = None;
        for frame in frames.iter().rev() {
            inner = Some(match frame {
                Frame::Object { map, key } => {
                    let mut map = map.clone();
                    if let (Some(key), Some(inner)) = (key, inner) {
                        map.entry(key.clone()).or_insert(inner);
                    }
                    Value::Object(map)
                }
                Frame::Array(items) => Value::Array(items.iter().cloned().chain(inner).collect()),
            });
        }
        inner
    }

    /// Ends the text: the document, with what was open closed.
    #[cfg(test)]
    pub(super) fn finish(self) -> Option<Finished> {
        self.scanner.finish()
    }
}

enum Child<'a> {
    Complete(&'a Value),
    Open,
    Missing,
}

fn child<'a>(frame: &'a Frame, token: &str) -> Child<'a> {
    match frame {
        Frame::Object { map, key } => match map.get(token) {
            Some(value) => Child::Complete(value),
            None if key.as_deref() == Some(token) => Child::Open,
            None => Child::Missing,
        },
        Frame::Array(items) => match token.parse::<usize>() {
            Ok(index) if index == items.len() => Child::Open,
            Ok(index) => items.get(index).map_or(Child::Missing, Child::Complete),
            Err(_) => Child::Missing,
        },
    }
}

/// The first token of a pointer, unescaped, and the rest.
fn split(pointer: &str) -> Option<(Cow<'_, str>, &str)> {
    let rest = pointer.strip_prefix('/')?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (token, after) = rest.split_at_checked(end)?;
    let token =
        if token.contains('~') { Cow::Owned(token.replace("~1", "/").replace("~0", "~")) } else { token.into() };
    Some((token, after))
}

/// Where documents of a schema begin.
#[cfg(feature = "schema")]
pub(crate) fn start_of(schema: &Value) -> Start {
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => Start::Object,
        Some("array") => Start::Array,
        _ => Start::Any,
    }
}
