//! JSON schemas of Rust types, as servers that enforce them take them.

use schemars::{Schema, generate::SchemaSettings, transform::transform_subschemas};
use serde_json::{Value, json};

use super::{JsonSchema, Tool};

impl JsonSchema {
    /// The schema of a type, under the type's name, for the server to enforce.
    ///
    /// It is written for servers that turn a schema into a grammar: references are put in place unless the type holds
    /// itself, every field is required (an `Option` may be `null`), and no other field is allowed. Doc comments become
    /// descriptions, which are instructions to the model.
    ///
    /// ```
    /// use schemars::JsonSchema;
    /// use together_inference::{client, schemars};
    ///
    /// #[derive(JsonSchema)]
    /// struct City {
    ///     name: String,
    ///     mayor: Option<String>,
    /// }
    ///
    /// let schema = client::JsonSchema::of::<City>();
    /// assert_eq!(schema.name, "City");
    /// assert_eq!(schema.schema["required"], serde_json::json!(["mayor", "name"]));
    /// assert_eq!(schema.schema["additionalProperties"], false);
    /// ```
    #[must_use]
    pub fn of<T: schemars::JsonSchema>() -> Self {
        let name: String =
            T::schema_name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(64).collect();
        Self::strict(name, schema_of::<T>())
    }
}

impl Tool {
    /// A function whose arguments are a type: the model is told its schema, and
    /// [`ToolCall::arguments`](super::ToolCall::arguments) reads them back.
    ///
    /// ```
    /// use schemars::JsonSchema;
    /// use serde::Deserialize;
    /// use together_inference::{client::{Tool, ToolCall}, schemars};
    ///
    /// #[derive(Debug, Deserialize, JsonSchema)]
    /// struct Weather {
    ///     city: String,
    /// }
    ///
    /// let tool = Tool::of::<Weather>("weather", "The weather now");
    /// let call = ToolCall::new("call_1", "weather", r#"{"city": "Lima"}"#);
    /// assert_eq!(call.arguments::<Weather>()?.city, "Lima");
    /// # let _ = tool;
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn of<T: schemars::JsonSchema>(name: impl Into<String>, description: impl Into<String>) -> Self {
        Self::function(name, description, schema_of::<T>())
    }
}

fn schema_of<T: schemars::JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    // Not every server follows references.
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    close(&mut schema);
    let mut value = schema.to_value();
    sort_required(&mut value);
    value
}

/// Makes every field required and no other one allowed, here and in all parts.
fn close(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        let names = object.get("properties").and_then(Value::as_object);
        if let Some(names) = names.map(|all| all.keys().cloned().collect::<Vec<_>>()) {
            object.insert("required".to_owned(), names.into());
            object.entry("additionalProperties").or_insert(json!(false));
        }
    }
    transform_subschemas(&mut close, schema);
}

/// The same text in every build, whatever order another crate's features give to maps.
fn sort_required(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(names)) = map.get_mut("required") {
                names.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            }
            map.values_mut().for_each(sort_required);
        }
        Value::Array(items) => items.iter_mut().for_each(sort_required),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, schemars::JsonSchema)]
    #[expect(dead_code, reason = "only its schema is read")]
    struct Order {
        /// The number on the receipt.
        number: u32,
        items: Vec<Item>,
        first: Option<Item>,
        kind: Kind,
        notes: BTreeMap<String, String>,
        #[serde(default)]
        urgent: bool,
    }

    #[derive(Deserialize, schemars::JsonSchema)]
    #[expect(dead_code, reason = "only its schema is read")]
    struct Item {
        name: String,
        parts: Vec<Tree>,
    }

    #[derive(Deserialize, schemars::JsonSchema)]
    #[expect(dead_code, reason = "only its schema is read")]
    struct Tree {
        children: Vec<Self>,
    }

    #[derive(Deserialize, schemars::JsonSchema)]
    #[serde(rename_all = "lowercase")]
    #[expect(dead_code, reason = "only its schema is read")]
    enum Kind {
        Small,
        Large { size: u32 },
    }

    #[test]
    fn a_schema_holds_its_parts_and_requires_every_field() {
        let schema = JsonSchema::of::<Order>().schema;
        assert_eq!(schema["required"], json!(["first", "items", "kind", "notes", "number", "urgent"]));
        assert_eq!(schema["properties"]["number"]["description"], "The number on the receipt.");
        assert_eq!(schema["properties"]["items"]["items"]["required"], json!(["name", "parts"]));
        assert!(schema["properties"]["notes"]["additionalProperties"].is_object(), "a map has any field");
        assert!(schema.get("$schema").is_none());
        // What holds itself cannot be put in place.
        assert!(schema.to_string().contains("$defs"), "{schema}");
        let large = &schema["properties"]["kind"]["oneOf"][1];
        assert_eq!(large["properties"]["large"]["required"], json!(["size"]));
    }
}
