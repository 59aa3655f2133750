//! What becomes of rows, told in advance.

use std::fmt;

use super::super::state::Shared;

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowEffect {
    /// It is in the error file, with this code and message.
    Error(String, String),
    /// It is in the output file, with this status.
    Status(u16),
    /// It is in neither file.
    Missing,
    /// It is there twice.
    Twice,
    /// It is there, but no JSON.
    Malformed,
    /// It is there without its `custom_id`.
    Nameless,
    /// Beside it is one that nobody asked for.
    Alien,
}

/// What was told of rows; the last told wins.
#[derive(Debug, Default)]
pub(super) struct RowScripts(Vec<(Cue, RowEffect)>);

#[derive(Debug)]
struct Cue {
    text: String,
    /// How often it still applies; always when not set.
    times: Option<u32>,
}

impl Cue {
    fn matches(&self, id: &str, prompt: &str) -> bool {
        self.times != Some(0) && (id == self.text || prompt.contains(&self.text))
    }
}

impl RowScripts {
    /// What becomes of the row with this `custom_id` and this last user message.
    pub(super) fn take(&mut self, id: &str, prompt: &str) -> Option<RowEffect> {
        let (cue, effect) = self.0.iter_mut().rev().find(|(cue, _)| cue.matches(id, prompt))?;
        cue.times = cue.times.map(|times| times.saturating_sub(1));
        Some(effect.clone())
    }
}

/// The start of a script for rows of batches: which ones. Its other methods say what becomes of them.
///
/// Of several that apply the one told last wins, for any number of rows unless [`times`](Self::times) limits it.
///
/// ```
/// let together = together_inference::testing::Together::new();
/// together.on_batch_row("refund").times(2).fails();
/// together.on_batch_row("row-17").missing();
/// together.on_batch_row("bad").refuses("Maximum four stop sequences allowed");
/// ```
#[must_use = "a script that says nothing of the row does nothing"]
pub struct OnRow<'t> {
    shared: &'t Shared,
    cue: Cue,
}

impl<'t> OnRow<'t> {
    pub(super) const fn new(shared: &'t Shared, text: String) -> Self {
        Self { shared, cue: Cue { text, times: None } }
    }

    /// Only for the next `count` rows that it applies to.
    pub const fn times(mut self, count: u32) -> Self {
        self.cue.times = Some(count);
        self
    }

    /// A failure that a repeat may heal: `Internal server error` under the code `batch_client_error`.
    pub fn fails(self) {
        self.refuses("Internal server error");
    }

    /// A failure with the code `timeout`.
    pub fn times_out(self) {
        self.error("timeout", "Request timeout");
    }

    /// A failure with this message under the code `batch_client_error`.
    pub fn refuses(self, message: &str) {
        self.error("batch_client_error", message);
    }

    /// A row of the error file with this code and message.
    pub fn error(self, code: &str, message: &str) {
        self.tell(RowEffect::Error(code.to_owned(), message.to_owned()));
    }

    /// A row of the output file with this status and an error as its body. It is not charged.
    pub fn status(self, status: u16) {
        self.tell(RowEffect::Status(status));
    }

    /// No row in either file, and no charge.
    pub fn missing(self) {
        self.tell(RowEffect::Missing);
    }

    /// The same row twice; charged once.
    pub fn twice(self) {
        self.tell(RowEffect::Twice);
    }

    /// A line of the output file that is no JSON. It is not charged.
    pub fn malformed(self) {
        self.tell(RowEffect::Malformed);
    }

    /// A row of the output file without its `custom_id`. It is not charged.
    pub fn nameless(self) {
        self.tell(RowEffect::Nameless);
    }

    /// The row, and one more whose `custom_id` nobody sent.
    pub fn alien(self) {
        self.tell(RowEffect::Alien);
    }

    fn tell(self, effect: RowEffect) {
        let mut state = self.shared.settled();
        state.batches.rows.0.push((self.cue, effect));
    }
}

impl fmt::Debug for OnRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnRow").field("cue", &self.cue).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_meant_by_its_whole_id_or_a_part_of_its_prompt() {
        let mut scripts = RowScripts::default();
        scripts.0.push((Cue { text: "row-1".into(), times: None }, RowEffect::Missing));
        scripts.0.push((Cue { text: "refund".into(), times: Some(1) }, RowEffect::Twice));
        assert_eq!(scripts.take("row-10", "hi"), None);
        assert_eq!(scripts.take("row-1", "a refund"), Some(RowEffect::Twice));
        assert_eq!(scripts.take("row-1", "a refund"), Some(RowEffect::Missing));
    }
}
