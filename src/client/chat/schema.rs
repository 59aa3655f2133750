//! JSON schemas of Rust types, as servers that enforce them take them.

use schemars::{Schema, generate::SchemaSettings, transform::transform_subschemas};
use serde_json::{Map, Value, json};

use super::{JsonSchema, Tool};

impl JsonSchema {
    /// The schema of a type, under the type's name, for the server to enforce.
    ///
    /// It is written for servers that turn a schema into a grammar: references are put in place unless the type holds
    /// itself, every field is required (an `Option` may be `null`), and no other field is allowed unless an enum is
    /// flattened into the type. Doc comments become descriptions, which are instructions to the model.
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
    close(&mut schema, Fields::Own);
    let mut value = schema.to_value();
    sort_required(&mut value);
    value
}

/// Whose the fields of an object are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fields {
    /// All are named by one schema.
    Own,
    /// Others stand beside it and name some as well: each that closed the object would forbid what they ask for.
    Shared,
}

/// Schemas that hold for the same object as the one they stand in.
const BRANCHES: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// Makes every field required and no other one allowed, here and in all parts.
fn close(schema: &mut Schema, fields: Fields) {
    let mut branches = BRANCHES.map(|_| Value::Null);
    if let Some(object) = schema.as_object_mut() {
        let fields = if fields == Fields::Shared || is_shared(object) { Fields::Shared } else { Fields::Own };
        let names = object.get("properties").and_then(Value::as_object);
        if let Some(names) = names.map(|all| all.keys().cloned().collect::<Vec<_>>()) {
            object.insert("required".to_owned(), names.into());
            if fields == Fields::Own {
                object.entry("additionalProperties").or_insert(json!(false));
            }
        }
        // Taken out for as long as all other parts are closed.
        for (name, taken) in BRANCHES.iter().zip(&mut branches) {
            let list = object.get_mut(*name).map(Value::take).unwrap_or_default();
            *taken = close_all(list, fields);
        }
    }
    transform_subschemas(&mut |part: &mut Schema| close(part, Fields::Own), schema);
    if let Some(object) = schema.as_object_mut() {
        for (name, branch) in BRANCHES.iter().zip(branches) {
            if let Some(place) = object.get_mut(*name) {
                *place = branch;
            }
        }
    }
}

/// Whether several schemas name the fields: an enum that is flattened into a struct stands beside the struct's own.
fn is_shared(object: &Map<String, Value>) -> bool {
    let count = |name: &&str| match object.get(*name) {
        Some(Value::Array(branches)) if *name == "allOf" => branches.len(),
        Some(_) => 1,
        None => 0,
    };
    ["properties", "$ref"].iter().chain(&BRANCHES).map(count).sum::<usize>() > 1
}

fn close_all(mut list: Value, fields: Fields) -> Value {
    for branch in list.as_array_mut().into_iter().flatten() {
        if let Ok(branch) = <&mut Schema>::try_from(branch) {
            close(branch, fields);
        }
    }
    list
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

    use serde::{Deserialize, Serialize};

    use super::{super::ToolCall, *};

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

    #[derive(Serialize, Deserialize, schemars::JsonSchema)]
    enum Shape {
        Round { radius: u32 },
        Square { side: u32 },
    }

    #[derive(Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(tag = "material")]
    enum Made {
        Wood { tree: Named },
        Nest(Box<Nested>),
    }

    #[derive(Serialize, Deserialize, schemars::JsonSchema)]
    struct Named {
        name: String,
    }

    #[derive(Serialize, Deserialize, schemars::JsonSchema)]
    struct Nested {
        inner: Option<Box<Self>>,
        of: Named,
    }

    #[derive(Serialize, Deserialize, schemars::JsonSchema)]
    struct Table {
        legs: u32,
        #[serde(flatten)]
        shape: Shape,
        #[serde(flatten)]
        made: Made,
    }

    #[derive(Serialize, Deserialize, schemars::JsonSchema)]
    struct Both {
        #[serde(flatten)]
        shape: Shape,
        #[serde(flatten)]
        made: Made,
    }

    #[derive(Serialize, Deserialize, schemars::JsonSchema)]
    struct Asked {
        city: String,
        country: Option<String>,
        of: Option<Named>,
        #[serde(default)]
        urgent: bool,
    }

    /// What a tool of the type says of these arguments.
    fn checked<T: schemars::JsonSchema>(arguments: &str) -> Result<Value, String> {
        let tool = Tool::of::<T>("t", "");
        let schema = tool.function.parameters.clone().unwrap_or_default();
        tool.check(&ToolCall::new("1", "t", arguments)).map_err(|error| format!("{arguments}: {error}: {schema}"))
    }

    fn fits<T: schemars::JsonSchema + Serialize>(value: &T) {
        let written = serde_json::to_string(value).unwrap();
        assert_eq!(checked::<T>(&written).map(|_| ()), Ok(()));
    }

    #[test]
    fn a_flattened_enum_beside_fields_can_be_answered() {
        let named = || Named { name: "oak".into() };
        let nested = || Nested { inner: Some(Box::new(Nested { inner: None, of: named() })), of: named() };
        fits(&Table { legs: 4, shape: Shape::Round { radius: 1 }, made: Made::Wood { tree: named() } });
        fits(&Table { legs: 4, shape: Shape::Square { side: 1 }, made: Made::Nest(Box::new(nested())) });
        fits(&Both { shape: Shape::Square { side: 1 }, made: Made::Wood { tree: named() } });
        fits(&Made::Nest(Box::new(nested())));
        fits(&nested());
        // What is no such part stays closed.
        let odd = |tree: &str| format!(r#"{{"legs":4,"Round":{{"radius":1}},"material":"Wood","tree":{tree}}}"#);
        assert!(checked::<Table>(&odd(r#"{"name":"oak"}"#)).is_ok());
        assert!(checked::<Table>(&odd(r#"{"name":"oak","age":7}"#)).is_err());
        assert!(checked::<Table>(r#"{"legs":4,"material":"Wood","tree":{"name":"oak"}}"#).is_err(), "no shape");
        assert!(checked::<Shape>(r#"{"Round":{"radius":1},"legs":4}"#).is_err());
    }

    #[test]
    fn a_call_may_leave_out_what_its_type_does_not_need() {
        let call = r#"{"city":"Lima"}"#;
        assert!(serde_json::from_str::<Asked>(call).is_ok());
        assert_eq!(checked::<Asked>(call), Ok(json!({"city": "Lima"})));
        assert!(checked::<Asked>(r#"{"city":"Lima","of":null}"#).is_ok());
        let missing = checked::<Asked>(r#"{"country":"Peru"}"#).unwrap_err();
        assert!(missing.contains("city is missing"), "{missing}");
        assert!(checked::<Asked>(r#"{"city":"Lima","of":{}}"#).is_err());
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
