//! What stands around a document: prose, fences, reasoning, and the marks of tool calls.

use super::super::leaks::leaked_tool_markup;

/// The longest tag around reasoning, with room to spare.
const MAX_TAG: usize = 16;
/// The longest name of a channel that is kept.
const MAX_CHANNEL: usize = 64;
/// Prose is looked through in pieces of this size, and this much of each is kept for the next one.
const PIECE: usize = 1_024;
const OVERLAP: usize = 64;

/// Reads what is outside of the document.
///
/// Some models write their reasoning into the text: between tags, before a closing tag alone, or in a channel of
/// Harmony's. A document within it is a draft, not the answer.
#[derive(Debug, Default)]
pub(super) struct Before {
    tag: String,
    /// The name of a channel under way: `<|channel|>` … `<|message|>`.
    channel: Option<String>,
    /// What was read since the answer began, as far as it was not looked through.
    lead: String,
    thinking: bool,
    prose: bool,
    called: bool,
}

impl Before {
    pub(super) const fn new() -> Self {
        Self { tag: String::new(), channel: None, lead: String::new(), thinking: false, prose: false, called: false }
    }

    /// Reads a character; whether the answer proper begins after it.
    pub(super) fn read(&mut self, c: char) -> bool {
        if c == '<' || self.tag.len() >= MAX_TAG {
            self.tag.clear();
        }
        if c == '<' || !self.tag.is_empty() {
            self.tag.push(c);
        } else if let Some(name) = self.channel.as_mut().filter(|name| name.len() < MAX_CHANNEL) {
            name.push(c);
        }
        if !self.thinking {
            self.lead.push(c);
            if self.lead.len() >= PIECE {
                self.look_through();
            }
        }
        let answers = c == '>' && self.ends_tag();
        if answers {
            *self = Self::new();
        }
        answers
    }

    /// Whether the tag that just closed ends the reasoning.
    fn ends_tag(&mut self) -> bool {
        let tag = std::mem::take(&mut self.tag);
        match tag.as_str() {
            "<think>" | "<thinking>" => self.thinking = true,
            "</think>" | "</thinking>" => return true,
            "<|channel|>" => self.channel = Some(String::new()),
            "<|message|>" => {
                if let Some(name) = self.channel.take() {
                    self.thinking = !name.trim_start().starts_with("final");
                    return !self.thinking;
                }
            }
            _ => {}
        }
        false
    }

    fn look_through(&mut self) {
        let lead = self.lead.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        self.prose |= !matches!(lead, "" | "```" | "```json" | "```JSON");
        self.called |= leaked_tool_markup(lead).is_some();
        if self.prose || self.lead.len() >= PIECE {
            let from = self.lead.len().saturating_sub(OVERLAP);
            let from = (from..self.lead.len()).find(|at| self.lead.is_char_boundary(*at)).unwrap_or(self.lead.len());
            self.lead.drain(..from);
        }
    }

    /// Whether a document may begin here: not within reasoning, and not after the mark of a tool call, whose arguments
    /// it would be.
    pub(super) fn may_begin(&mut self) -> bool {
        if self.thinking {
            return false;
        }
        self.look_through();
        self.tag.clear();
        !self.called
    }

    /// Whether nothing but a fence came before: what begins here is the answer, and no draft.
    pub(super) const fn is_clean(&self) -> bool {
        !self.prose
    }

    /// What was taken for a document was prose, or the mark of a call.
    pub(super) const fn give_back(&mut self, call: bool) {
        self.prose = true;
        self.called |= call;
    }
}
