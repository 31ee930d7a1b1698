//! Whether an answer is what the document says: as much of JSON Schema as the document uses.

use serde_json::Value;

/// What speaks against a value's being of a schema.
pub fn objections(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    check(document, schema, value, at, &mut found);
    found
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(to) = schema["$ref"].as_str() {
        let target = document.pointer(to.trim_start_matches('#')).expect("a reference that leads somewhere");
        return check(document, target, value, at, found);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        check(document, part, value, at, found);
    }
    for choice in ["oneOf", "anyOf"] {
        if let Some(parts) = schema[choice].as_array()
            && !parts.iter().any(|part| objections(document, part, value, at).is_empty())
        {
            found.push(format!("{at}: fits none of {choice}: {value}"));
        }
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(some) => some.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|name| is_a(name, value)) {
        found.push(format!("{at}: {value} is not {types:?}"));
    }
    if let Some(known) = schema["enum"].as_array()
        && !known.contains(value)
    {
        found.push(format!("{at}: {value} is none of {known:?}"));
    }
    if let Value::Object(fields) = value {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                found.push(format!("{at}: has no {name}"));
            }
        }
        for (name, field) in fields {
            let known = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
            if let Some(known) = known.filter(|known| known.is_object()) {
                check(document, known, field, &format!("{at}.{name}"), found);
            }
        }
    }
    if let (Value::Array(items), Some(of)) = (value, schema.get("items")) {
        for (place, item) in items.iter().enumerate() {
            check(document, of, item, &format!("{at}[{place}]"), found);
        }
    }
}

fn is_a(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

/// Every field of a value that its schema does not know, so that the document is whole.
pub fn unknown_fields(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let Value::Object(fields) = value else {
        let of = &resolve(document, schema)["items"];
        return value
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|item| unknown_fields(document, of, item, at))
            .collect();
    };
    let mut known = Vec::new();
    properties(document, schema, &mut known);
    if known.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (name, field) in fields {
        match known.iter().find(|(known, _)| *known == name) {
            Some((_, schema)) => found.extend(unknown_fields(document, schema, field, &format!("{at}.{name}"))),
            None => found.push(format!("{at}.{name}")),
        }
    }
    found
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(to) => document.pointer(to.trim_start_matches('#')).expect("a reference that leads somewhere"),
        None => schema,
    }
}

fn properties<'a>(document: &'a Value, schema: &'a Value, into: &mut Vec<(&'a String, &'a Value)>) {
    let schema = resolve(document, schema);
    into.extend(schema["properties"].as_object().into_iter().flatten());
    for parts in ["allOf", "oneOf", "anyOf"] {
        for part in schema[parts].as_array().into_iter().flatten() {
            properties(document, part, into);
        }
    }
}
