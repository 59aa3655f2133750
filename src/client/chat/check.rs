//! Holding the arguments of a tool call against the tool's schema.

use std::fmt;

use serde_json::Value;

use super::{Tool, ToolCall};

/// Schemas within schemas are followed this deep; what lies deeper passes.
const MAX_DEPTH: usize = 64;

/// Arguments that do not fit their tool. Its text can be sent back to the model as the tool's result.
///
/// ```
/// use serde_json::json;
/// use together_inference::client::{Tool, ToolCall};
///
/// let city = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
/// let weather = Tool::function("weather", "The weather now", city);
/// let bad = weather.check(&ToolCall::new("call_1", "weather", r#"{"town": "Lima"}"#)).unwrap_err();
/// assert_eq!(bad.to_string(), "the arguments of weather are not valid: at the top: city is missing");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadArguments {
    tool: String,
    place: String,
    problem: String,
}

impl fmt::Display for BadArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.place.is_empty() { "the top" } else { &self.place };
        write!(f, "the arguments of {} are not valid: at {place}: {}", self.tool, self.problem)
    }
}

impl std::error::Error for BadArguments {}

impl Tool {
    /// The arguments of a call, if they are JSON that fits this tool's schema. Nothing is executed.
    ///
    /// It checks `type`, `enum`, `const`, `required`, `properties`, `additionalProperties`, `items`, lengths, bounds,
    /// `anyOf`, `oneOf`, `allOf` and references within the schema; other words of the schema are not checked. A required
    /// field that may be `null` or has a default may also be left out: [`ToolCall::arguments`] reads it.
    ///
    /// # Errors
    ///
    /// [`BadArguments`] that say where and what, when they are no JSON, do not fit, or are another tool's.
    pub fn check(&self, call: &ToolCall) -> Result<Value, BadArguments> {
        let bad = |place: String, problem: String| BadArguments { tool: self.function.name.clone(), place, problem };
        if call.name() != self.function.name {
            return Err(bad(String::new(), "they are another tool's".to_owned()));
        }
        let text = if call.function.arguments.trim().is_empty() { "{}" } else { &call.function.arguments };
        let value: Value = serde_json::from_str(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            bad(String::new(), format!("no JSON (line {line}, column {column})"))
        })?;
        if let Some(root) = &self.function.parameters {
            let mut check = Check { root, place: String::new(), depth: 0 };
            check.fits(root, &value).map_err(|problem| bad(check.place, problem))?;
        }
        Ok(value)
    }
}

struct Check<'a> {
    root: &'a Value,
    place: String,
    depth: usize,
}

type Fits = Result<(), String>;

impl<'a> Check<'a> {
    fn fits(&mut self, schema: &'a Value, value: &Value) -> Fits {
        if self.depth > MAX_DEPTH {
            return Ok(());
        }
        self.depth += 1;
        let fits = self.fits_all(schema, value);
        self.depth -= 1;
        fits
    }

    fn fits_all(&mut self, schema: &'a Value, value: &Value) -> Fits {
        if schema == &Value::Bool(false) {
            return Err("nothing is allowed here".to_owned());
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str).and_then(|to| self.resolve(to)) {
            self.fits(target, value)?;
        }
        fits_type(schema, value)?;
        fits_values(schema, value)?;
        fits_bounds(schema, value)?;
        self.fits_fields(schema, value)?;
        self.fits_items(schema, value)?;
        self.fits_choices(schema, value)
    }

    fn resolve(&self, to: &str) -> Option<&'a Value> {
        self.root.pointer(to.strip_prefix('#')?)
    }

    fn within(&mut self, name: &str, schema: &'a Value, value: &Value) -> Fits {
        let length = self.place.len();
        self.place.push('/');
        self.place.push_str(name);
        self.fits(schema, value)?;
        self.place.truncate(length);
        Ok(())
    }

    fn fits_fields(&mut self, schema: &'a Value, value: &Value) -> Fits {
        let Value::Object(fields) = value else { return Ok(()) };
        let known = schema.get("properties").and_then(Value::as_object);
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let may_lack = |name: &str| known.and_then(|known| known.get(name)).is_some_and(may_be_absent);
        let missing = |name: &&str| !fields.contains_key(*name) && !may_lack(name);
        if let Some(name) = required.filter_map(Value::as_str).find(missing) {
            return Err(format!("{name} is missing"));
        }
        let others = schema.get("additionalProperties");
        for (name, value) in fields {
            let own = known.and_then(|known| known.get(name));
            if own.is_none() && others == Some(&Value::Bool(false)) {
                return Err(format!("{name} is not a field"));
            }
            if let Some(schema) = own.or(others) {
                self.within(name, schema, value)?;
            }
        }
        Ok(())
    }

    fn fits_items(&mut self, schema: &'a Value, value: &Value) -> Fits {
        let (Value::Array(items), Some(of_items)) = (value, schema.get("items")) else { return Ok(()) };
        items.iter().enumerate().try_for_each(|(at, item)| self.within(&at.to_string(), of_items, item))
    }

    fn fits_choices(&mut self, schema: &'a Value, value: &Value) -> Fits {
        let list = |name: &str| schema.get(name).and_then(Value::as_array);
        for part in list("allOf").into_iter().flatten() {
            self.fits(part, value)?;
        }
        let Some(choices) = list("anyOf").or_else(|| list("oneOf")) else { return Ok(()) };
        let place = self.place.len();
        for choice in choices {
            if self.fits(choice, value).is_ok() {
                return Ok(());
            }
            self.place.truncate(place);
        }
        Err("none of the allowed forms".to_owned())
    }
}

/// Whether a type reads a field of this schema where there is none.
fn may_be_absent(schema: &Value) -> bool {
    let is_null = |value: &Value| value == "null";
    let null_type = match schema.get("type") {
        Some(Value::Array(names)) => names.iter().any(is_null),
        name => name.is_some_and(is_null),
    };
    let choices = || ["anyOf", "oneOf"].iter().filter_map(|name| schema.get(name)?.as_array()).flatten();
    null_type || schema.get("default").is_some() || choices().any(|choice| choice.get("type").is_some_and(is_null))
}

fn fits_type(schema: &Value, value: &Value) -> Fits {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => true,
    };
    match schema.get("type") {
        Some(Value::String(name)) if !is(name) => Err(format!("must be {name}")),
        Some(Value::Array(names)) if !names.iter().filter_map(Value::as_str).any(is) => {
            let names: Vec<_> = names.iter().filter_map(Value::as_str).collect();
            Err(format!("must be {}", names.join(" or ")))
        }
        _ => Ok(()),
    }
}

fn fits_values(schema: &Value, value: &Value) -> Fits {
    if let Some(Value::Array(allowed)) = schema.get("enum")
        && !allowed.contains(value)
    {
        let allowed: Vec<_> = allowed.iter().take(20).map(Value::to_string).collect();
        return Err(format!("must be one of {}", allowed.join(", ")));
    }
    match schema.get("const") {
        Some(only) if only != value => Err(format!("must be {only}")),
        _ => Ok(()),
    }
}

fn fits_bounds(schema: &Value, value: &Value) -> Fits {
    let size = match value {
        Value::String(text) => Some((text.chars().count(), "minLength", "maxLength", "characters")),
        Value::Array(items) => Some((items.len(), "minItems", "maxItems", "items")),
        _ => None,
    };
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    if let Some((size, least, most, what)) = size {
        let size = u32::try_from(size).map_or(f64::MAX, f64::from);
        if bound(least).is_some_and(|least| size < least) || bound(most).is_some_and(|most| size > most) {
            return Err(format!("has {size} {what}, which is too few or too many"));
        }
    }
    let Some(number) = value.as_f64() else { return Ok(()) };
    let low = bound("minimum").is_some_and(|least| number < least)
        || bound("exclusiveMinimum").is_some_and(|least| number <= least);
    let high = bound("maximum").is_some_and(|most| number > most)
        || bound("exclusiveMaximum").is_some_and(|most| number >= most);
    if low || high { Err(format!("{number} is out of bounds")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: Value, arguments: &str) -> Result<Value, String> {
        let tool = Tool::function("f", "", schema);
        tool.check(&ToolCall::new("1", "f", arguments)).map_err(|bad| bad.to_string())
    }

    #[test]
    fn what_fits_passes_and_what_does_not_is_named() {
        let schema = || {
            json!({
                "type": "object",
                "properties": {
                    "city": {"type": "string", "minLength": 1},
                    "days": {"type": "integer", "minimum": 1, "maximum": 14},
                    "unit": {"enum": ["C", "F"]},
                    "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 2},
                    "at": {"anyOf": [{"type": "null"}, {"type": "object", "required": ["lat"]}]},
                },
                "required": ["city"],
                "additionalProperties": false,
                "$defs": {"tag": {"type": ["string", "null"]}},
            })
        };
        let good = r#"{"city":"Lima","days":3.0,"unit":"C","tags":["a",null],"at":{"lat":1}}"#;
        assert!(check(schema(), good).is_ok());
        for (arguments, place) in [
            ("not json", "no JSON"),
            ("[]", "the top: must be object"),
            ("{}", "city is missing"),
            (r#"{"city":""}"#, "/city: has 0 characters"),
            (r#"{"city":"a","days":1.5}"#, "/days: must be integer"),
            (r#"{"city":"a","days":15}"#, "/days: 15 is out of bounds"),
            (r#"{"city":"a","unit":"K"}"#, "/unit: must be one of"),
            (r#"{"city":"a","tags":["a",1]}"#, "/tags/1: must be string or null"),
            (r#"{"city":"a","tags":["a","b","c"]}"#, "/tags: has 3 items"),
            (r#"{"city":"a","at":{}}"#, "/at: none of the allowed forms"),
            (r#"{"city":"a","x":1}"#, "x is not a field"),
        ] {
            let error = check(schema(), arguments).unwrap_err();
            assert!(error.contains(place), "{arguments}: {error}");
        }
        assert_eq!(check(json!({"type": "object"}), ""), Ok(json!({})), "no arguments are none");
    }

    #[test]
    fn a_schema_that_holds_itself_ends() {
        let schema = json!({"$ref": "#", "type": "object"});
        assert!(check(schema, "{}").is_ok());
    }
}
