//! Answers told in advance.

use std::{fmt, sync::Arc};

use serde_json::Value;

use super::faults::Fault;

/// A scripted answer.
pub(super) enum Reply {
    Text(String),
    Reasoning { thinking: String, text: String },
    Tools(Vec<(String, Value)>),
    With(Box<dyn Fn(&Value) -> String + Send + Sync>),
    Fail(Fault),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text",
            Self::Reasoning { .. } => "Reasoning",
            Self::Tools(_) => "Tools",
            Self::With(_) => "With",
            Self::Fail(_) => "Fail",
        })
    }
}

/// When to give an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Cue {
    pub(super) text: String,
    pub(super) model: Option<String>,
    pub(super) times: Option<u32>,
}

/// All scripted answers. The one told last wins, so that a test can override its fixture.
#[derive(Debug, Default)]
pub(super) struct Scripts(Vec<(Cue, Arc<Reply>)>);

impl Scripts {
    pub(super) fn push(&mut self, cue: Cue, reply: Reply) {
        self.0.push((cue, Arc::new(reply)));
    }

    pub(super) fn take(&mut self, text: &str, model: &str) -> Option<Arc<Reply>> {
        let (cue, reply) = self.0.iter_mut().rev().find(|(cue, _)| cue.matches(text, model))?;
        if let Some(times) = &mut cue.times {
            // Not below 0: a cue that is used up does not match.
            *times -= 1;
        }
        Some(Arc::clone(reply))
    }
}

impl Cue {
    fn matches(&self, text: &str, model: &str) -> bool {
        self.times != Some(0) && text.contains(&self.text) && self.model.as_deref().is_none_or(|wanted| wanted == model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_told_wins_until_it_is_used_up() {
        let mut scripts = Scripts::default();
        scripts.push(Cue::default(), Reply::Text("always".into()));
        let cue = Cue { text: "refund".into(), model: Some("m".into()), times: Some(1) };
        scripts.push(cue, Reply::Text("once".into()));
        let mut take = |text, model| match scripts.take(text, model).as_deref() {
            Some(Reply::Text(text)) => text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(take("a refund", "other"), "always");
        assert_eq!(take("a refund", "m"), "once");
        assert_eq!(take("a refund", "m"), "always");
    }
}
