//! Typed answers: a type's schema, and reading a value back.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::de::DeserializeOwned;

use crate::client::JsonSchema as Schema;

/// The JSON schema of a type, under the type's name.
pub(crate) fn schema_of<T: JsonSchema>() -> Schema {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    let name: String =
        T::schema_name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(64).collect();
    Schema::strict(name, schema.to_value())
}

/// Reads a value out of a model's text: the text itself, without the Markdown fence that some models put around it.
///
/// # Errors
///
/// The first error of the text as JSON of the type.
pub(crate) fn parse_value<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(unfenced(text))
}

fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inner.strip_prefix("json").unwrap_or(inner).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_not_part_of_the_value() {
        for text in ["[1,2]", " [1,2]\n", "```json\n[1,2]\n```", "```\n[1,2]```"] {
            assert_eq!(parse_value::<Vec<u8>>(text).unwrap(), [1, 2]);
        }
        assert!(parse_value::<Vec<u8>>("```").is_err());
    }
}
