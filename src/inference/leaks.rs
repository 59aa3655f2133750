//! Tool calls that a model wrote into its text instead of calling.

use memchr::memmem;

/// What models and their templates write around tool calls. None of it occurs in ordinary prose.
const MARKERS: &[&str] = &[
    "<tool_call>",
    "<|tool_call",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "<function=",
    "<function_call>",
    "<tool_calls>",
    "<invoke name=",
    "<\u{ff5c}tool\u{2581}call",
    "<\u{ff5c}DSML\u{ff5c}",
    "<minimax:tool_call>",
    "<arg_key>",
    "<|tool\u{2581}call",
    "<\u{ff5c}tool_call",
    "<|channel|>commentary to=functions.",
    "<|start|>assistant to=functions.",
    "<|action_start|>",
    "<function_calls>",
    "<function name=",
    "<seed:tool_call>",
    "<longcat_tool_call>",
    "```tool_code",
];

/// The first mark of a tool call in a text, such as `<tool_call>`.
///
/// Open models sometimes write the call that they mean into their answer. It is reported, so that nobody takes it for
/// prose, and never executed: the text may quote what anybody wrote.
///
/// ```
/// use together_inference::inference::leaked_tool_markup;
///
/// assert_eq!(leaked_tool_markup(r#"<tool_call>{"name": "weather"}</tool_call>"#), Some("<tool_call>"));
/// assert_eq!(leaked_tool_markup("Call the tool, please."), None);
/// ```
#[must_use]
pub fn leaked_tool_markup(text: &str) -> Option<&'static str> {
    // All of them begin in one of three ways: most texts have none.
    memchr::memchr3(b'<', b'[', b'`', text.as_bytes())?;
    let found = MARKERS.iter().filter_map(|marker| Some((memmem::find(text.as_bytes(), marker.as_bytes())?, *marker)));
    found.min().map(|(_, marker)| marker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mark_is_told_and_prose_has_none() {
        for marker in MARKERS {
            let text = format!("Let me look. {marker}{{\"name\":\"f\"}} [TOOL_CALLS]");
            assert_eq!(leaked_tool_markup(&text), Some(*marker));
        }
        for prose in
            ["", "a < b and [1]", "<b>bold</b> tool_call", "[tool_calls]", "Vec<function>", "```json", "`tool_code`"]
        {
            assert_eq!(leaked_tool_markup(prose), None, "{prose}");
        }
    }
}
