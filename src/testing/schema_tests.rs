use super::*;

/// A validator that shares nothing with the generator.
fn check(schema: &Value, value: &Value, root: &Value) -> Result<(), String> {
    let fail = |why: &str| Err(format!("{why}: {value} against {schema}"));
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        return check(root.pointer(&target[1..]).unwrap(), value, root);
    }
    if schema.get("const").is_some_and(|constant| constant != value) {
        return fail("const");
    }
    if schema.get("enum").is_some_and(|options| !options.as_array().unwrap().contains(value)) {
        return fail("enum");
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(branches) = list(schema, key)
            && !branches.iter().any(|branch| check(branch, value, root).is_ok())
        {
            return fail(key);
        }
    }
    for part in list(schema, "allOf").unwrap_or_default() {
        check(part, value, root)?;
    }
    let kinds: Vec<&str> = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().map(|kind| kind.as_str().unwrap()).collect(),
        _ => vec![],
    };
    let is = |kind: &&str| match *kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => value.is_null(),
    };
    if !kinds.is_empty() && !kinds.iter().any(is) {
        return fail("type");
    }
    check_bounds(schema, value)?;
    if let Some(items) = value.as_array() {
        if size(schema, "minItems").is_some_and(|least| items.len() < least)
            || size(schema, "maxItems").is_some_and(|most| items.len() > most)
        {
            return fail("items");
        }
        for item in items {
            schema.get("items").map_or(Ok(()), |schema| check(schema, item, root))?;
        }
    }
    if let Some(object) = value.as_object() {
        let missing = |name: &Value| !object.contains_key(name.as_str().unwrap());
        if list(schema, "required").unwrap_or_default().iter().any(missing) {
            return fail("required");
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, value) in object {
            match properties.and_then(|properties| properties.get(name)) {
                Some(schema) => check(schema, value, root)?,
                None if schema.get("additionalProperties") == Some(&json!(false)) => return fail("additional"),
                None => {}
            }
        }
    }
    Ok(())
}

fn check_bounds(schema: &Value, value: &Value) -> Result<(), String> {
    let fail = |why: &str| Err(format!("{why}: {value} against {schema}"));
    if let Some(number) = value.as_f64() {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        if bound("minimum").is_some_and(|bound| number < bound)
            || bound("maximum").is_some_and(|bound| number > bound)
            || bound("exclusiveMinimum").is_some_and(|bound| number <= bound)
            || bound("exclusiveMaximum").is_some_and(|bound| number >= bound)
            || bound("multipleOf").is_some_and(|step| (number / step).fract().abs() > 1e-9)
        {
            return fail("range");
        }
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count();
        if size(schema, "minLength").is_some_and(|least| length < least)
            || size(schema, "maxLength").is_some_and(|most| length > most)
        {
            return fail("length");
        }
    }
    Ok(())
}

fn examples_satisfy(schema: &Value) {
    for seed in 0..200 {
        let value = example(schema, "free text", &mut Random::new(seed));
        check(schema, &value, schema).unwrap();
    }
}

#[test]
fn examples_satisfy_objects_enums_and_arrays() {
    examples_satisfy(&json!({
        "type": "object",
        "properties": {
            "mood": {"enum": ["good", "bad"]},
            "tags": {"type": "array", "items": {"type": "string", "minLength": 12, "maxLength": 14}, "minItems": 2},
            "few": {"type": "array", "items": {"type": "boolean"}, "maxItems": 1},
            "kind": {"const": "order"},
            "note": {"type": ["string", "null"]},
            "place": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
                      "additionalProperties": false},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
        "required": ["mood", "tags", "kind", "place"],
        "additionalProperties": false,
    }));
}

#[test]
fn examples_satisfy_numeric_bounds() {
    for schema in [
        json!({"type": "integer", "minimum": 0, "maximum": 255}),
        json!({"type": "integer", "minimum": 3.5, "maximum": 4.5}),
        json!({"type": "integer", "exclusiveMinimum": 6, "exclusiveMaximum": 8}),
        json!({"type": "integer", "multipleOf": 7, "minimum": 10}),
        json!({"type": "integer", "maximum": -5}),
        json!({"type": "integer", "minimum": 0, "maximum": u64::MAX}),
        json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX}),
        json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        json!({"type": "number", "maximum": -1}),
        json!({"type": "number", "multipleOf": 0.5, "minimum": 0.2}),
    ] {
        examples_satisfy(&schema);
    }
}

#[test]
fn examples_satisfy_references_and_branches_even_recursive_ones() {
    examples_satisfy(&json!({
        "type": "object",
        "properties": {
            "tree": {"$ref": "#/$defs/Node"},
            "shape": {"oneOf": [
                {"type": "object", "properties": {"type": {"const": "circle"}, "r": {"type": "number"}},
                 "required": ["type", "r"]},
                {"type": "object", "properties": {"type": {"const": "square"}}, "required": ["type"]},
            ]},
            "maybe": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
            "both": {"allOf": [{"$ref": "#/$defs/Named"}], "properties": {"x": {"type": "integer"}}},
        },
        "required": ["tree", "shape", "maybe", "both"],
        "$defs": {
            "Named": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            "Node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
                },
                "required": ["value", "next", "children"],
            },
        },
    }));
}

#[test]
fn a_schema_of_infinite_depth_ends() {
    let schema = json!({"type": "object", "properties": {"again": {"$ref": "#"}}, "required": ["again"]});
    assert!(example(&schema, "x", &mut Random::new(1)).is_object());
}

#[test]
fn unique_items_are_unique() {
    let schema = json!({"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 3, "uniqueItems": true});
    let Value::Array(mut items) = example(&schema, "x", &mut Random::new(1)) else { panic!("an array") };
    items.sort_by_key(Value::as_u64);
    assert_eq!(items, [1, 2, 3]);
}
