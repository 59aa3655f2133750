//! JSON that satisfies a JSON schema: the subset that structured answers and tools use.
//!
//! `pattern`, `not`, `if` and `patternProperties` are not understood.

use serde_json::{Map, Value, json};

use super::random::Random;

/// From this depth on, everything that may be left out is.
const SHALLOW: u32 = 5;
/// A schema that insists on infinite depth gets `null` here.
const DEEPEST: u32 = 40;

/// A value that satisfies `schema`; free text in it is `text`.
pub(super) fn example(schema: &Value, text: &str, random: &mut Random) -> Value {
    Maker { root: schema, text, random }.value(schema, 0)
}

struct Maker<'a> {
    root: &'a Value,
    text: &'a str,
    random: &'a mut Random,
}

impl<'a> Maker<'a> {
    fn value(&mut self, schema: &'a Value, depth: u32) -> Value {
        if depth > DEEPEST {
            return Value::Null;
        }
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(options) = list(schema, "enum") {
            return self.random.pick(options).cloned().unwrap_or_default();
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            return self.resolve(target).map_or(Value::Null, |schema| self.value(schema, depth + 1));
        }
        let branch = list(schema, "anyOf").or_else(|| list(schema, "oneOf"));
        if let Some(branches) = branch {
            let picked = self.branch(branches, depth).map(|branch| self.value(branch, depth + 1));
            return self.with_own_properties(schema, picked.unwrap_or_default(), depth);
        }
        if let Some(parts) = list(schema, "allOf") {
            let merged = parts.iter().map(|part| self.value(part, depth + 1)).reduce(merge).unwrap_or_default();
            return self.with_own_properties(schema, merged, depth);
        }
        self.typed(schema, depth)
    }

    fn typed(&mut self, schema: &'a Value, depth: u32) -> Value {
        match self.kind(schema, depth) {
            "object" => Value::Object(self.object(schema, depth)),
            "array" => self.array(schema, depth),
            "string" => Value::String(self.string(schema)),
            "integer" => self.integer(schema),
            "number" => self.number(schema),
            "boolean" => Value::Bool(self.random.below(2) == 1),
            _ => Value::Null,
        }
    }

    /// The type to produce, guessed from the keywords when none is named.
    fn kind(&mut self, schema: &'a Value, depth: u32) -> &'a str {
        match schema.get("type") {
            Some(Value::String(kind)) => kind,
            Some(Value::Array(kinds)) if depth > SHALLOW && kinds.iter().any(|kind| kind == "null") => "null",
            Some(Value::Array(kinds)) => self.random.pick(kinds).and_then(Value::as_str).unwrap_or("null"),
            _ if schema.get("properties").is_some() => "object",
            _ if schema.get("items").is_some() || schema.get("prefixItems").is_some() => "array",
            _ if schema.get("minimum").is_some() || schema.get("maximum").is_some() => "number",
            _ => "string",
        }
    }

    fn resolve(&self, target: &str) -> Option<&'a Value> {
        self.root.pointer(target.strip_prefix('#')?)
    }

    /// Any branch; far down, the one that ends soonest.
    fn branch(&mut self, branches: &'a [Value], depth: u32) -> Option<&'a Value> {
        if depth <= SHALLOW {
            return self.random.pick(branches);
        }
        let null = branches.iter().find(|branch| branch.get("type").is_some_and(|kind| kind == "null"));
        null.or_else(|| branches.iter().min_by_key(|branch| branch.to_string().matches("\"$ref\"").count()))
    }

    fn with_own_properties(&mut self, schema: &'a Value, value: Value, depth: u32) -> Value {
        if value.is_object() && schema.get("properties").is_some() {
            return merge(Value::Object(self.object(schema, depth)), value);
        }
        value
    }

    fn object(&mut self, schema: &'a Value, depth: u32) -> Map<String, Value> {
        let required: Vec<_> = list(schema, "required").unwrap_or_default().iter().filter_map(Value::as_str).collect();
        let mut object = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flat_map(sorted) {
            if required.contains(&name.as_str()) || (depth < SHALLOW && self.random.below(2) == 1) {
                object.insert(name.clone(), self.value(property, depth + 1));
            }
        }
        self.additional(schema, depth, &mut object);
        object
    }

    /// Properties that no name was given for: as many as the schema asks, and one if it describes them.
    fn additional(&mut self, schema: &'a Value, depth: u32, object: &mut Map<String, Value>) {
        let wanted = size(schema, "minProperties").unwrap_or_default();
        let described = schema.get("additionalProperties").filter(|schema| schema.is_object());
        let wanted = wanted.max(usize::from(described.is_some() && depth < SHALLOW && object.is_empty()));
        for index in object.len()..wanted {
            let value = match described {
                Some(schema) => self.value(schema, depth + 1),
                None => json!(self.text),
            };
            object.insert(format!("key{index}"), value);
        }
    }

    fn array(&mut self, schema: &'a Value, depth: u32) -> Value {
        let least = size(schema, "minItems").unwrap_or_default();
        let most = size(schema, "maxItems").unwrap_or(least.max(3));
        let extra = if depth > SHALLOW { 0 } else { self.random.below(most.saturating_sub(least) + 1) };
        let length = (least + extra).min(most);
        let prefix = list(schema, "prefixItems").unwrap_or_default();
        let rest = schema.get("items").filter(|items| items.is_object());
        let unique = schema.get("uniqueItems").and_then(Value::as_bool).unwrap_or_default();
        let mut items = Vec::with_capacity(length);
        // Unique items come from chance: a bounded number of tries, then a shorter array.
        for _ in 0..length * 16 {
            if items.len() == length {
                break;
            }
            let item = match prefix.get(items.len()).or(rest) {
                Some(schema) => self.value(schema, depth + 1),
                None => json!(self.text),
            };
            if !unique || !items.contains(&item) {
                items.push(item);
            }
        }
        Value::Array(items)
    }

    fn string(&mut self, schema: &Value) -> String {
        match schema.get("format").and_then(Value::as_str) {
            Some("date-time") => return "2026-11-24T09:30:00Z".into(),
            Some("date") => return "2026-11-24".into(),
            Some("time") => return "09:30:00Z".into(),
            Some("duration") => return "PT5M".into(),
            Some("email") => return format!("{}@example.com", self.random.id(6)),
            Some("uri" | "url" | "uri-reference") => return format!("https://example.com/{}", self.random.id(6)),
            Some("hostname") => return "example.com".into(),
            Some("ipv4") => return "192.0.2.1".into(),
            Some("ipv6") => return "2001:db8::1".into(),
            Some("uuid") => return self.uuid(),
            _ => {}
        }
        let least = size(schema, "minLength").unwrap_or_default();
        let most = size(schema, "maxLength").unwrap_or(usize::MAX);
        let mut text: String = self.text.chars().take(most).collect();
        let missing = least.saturating_sub(text.chars().count());
        text.push_str(&self.random.id(missing));
        text
    }

    fn uuid(&mut self) -> String {
        let (high, low) = (self.random.next(), self.random.next());
        let node = low & 0xffff_ffff_ffff;
        format!("{:08x}-{:04x}-4{:03x}-a{:03x}-{node:012x}", high >> 32, high >> 16 & 0xffff, high & 0xfff, low >> 52)
    }

    fn integer(&mut self, schema: &Value) -> Value {
        let step = whole(schema, "multipleOf").filter(|step| *step > 0).unwrap_or(1);
        let above = whole(schema, "exclusiveMinimum").map(|bound| bound.saturating_add(1));
        let below = whole(schema, "exclusiveMaximum").map(|bound| bound.saturating_sub(1));
        let high = floor(schema, "maximum").into_iter().chain(below).min();
        let low = ceil(schema, "minimum").into_iter().chain(above).max();
        let low = low.unwrap_or_else(|| high.map_or(1, |high| high.min(1)));
        let high = high.unwrap_or_else(|| low.saturating_add(step.saturating_mul(100)));
        let first = low.div_euclid(step) + i64::from(low.rem_euclid(step) > 0);
        let count = (high.div_euclid(step)).saturating_sub(first).saturating_add(1).clamp(1, 1_000);
        let offset = self.random.below(usize::try_from(count).unwrap_or(1));
        json!((first + i64::try_from(offset).unwrap_or_default()) * step)
    }

    fn number(&mut self, schema: &Value) -> Value {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        let exclusive = bound("exclusiveMinimum").is_some() || bound("exclusiveMaximum").is_some();
        let low = bound("minimum").into_iter().chain(bound("exclusiveMinimum")).reduce(f64::max);
        let high = bound("maximum").into_iter().chain(bound("exclusiveMaximum")).reduce(f64::min);
        let low = low.unwrap_or_else(|| high.map_or(0.0, |high| high.min(0.0)));
        let high = high.unwrap_or(low + 100.0);
        if let Some(step) = bound("multipleOf").filter(|step| *step > 0.0) {
            let first = (low / step).ceil() * step;
            return json!(if exclusive && first <= low { first + step } else { first });
        }
        // Never an end of the interval, so that an exclusive bound holds.
        json!(low + (high - low) * (0.01 + 0.98 * self.random.unit()))
    }
}

/// The entries of an object in an order that does not depend on the map.
fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(name, _)| *name);
    entries
}

fn merge(mut one: Value, other: Value) -> Value {
    match (&mut one, other) {
        (Value::Object(one), Value::Object(other)) => one.extend(other),
        (one, other) => *one = other,
    }
    one
}

fn list<'a>(schema: &'a Value, name: &str) -> Option<&'a [Value]> {
    schema.get(name).and_then(Value::as_array).map(Vec::as_slice)
}

fn size(schema: &Value, name: &str) -> Option<usize> {
    schema.get(name).and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok())
}

fn whole(schema: &Value, name: &str) -> Option<i64> {
    floor(schema, name)
}

fn floor(schema: &Value, name: &str) -> Option<i64> {
    schema.get(name).and_then(|bound| bound.as_i64().or_else(|| truncate(bound.as_f64()?.floor())))
}

fn ceil(schema: &Value, name: &str) -> Option<i64> {
    schema.get(name).and_then(|bound| bound.as_i64().or_else(|| truncate(bound.as_f64()?.ceil())))
}

/// A whole float as an integer; the bounds of schemas are small, so the text of it will do.
fn truncate(bound: f64) -> Option<i64> {
    if bound.abs() >= 9e18 {
        return Some(if bound > 0.0 { i64::MAX } else { i64::MIN });
    }
    format!("{bound:.0}").parse().ok()
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
