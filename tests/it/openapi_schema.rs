//! Checks a JSON value against a schema of `docs/openapi.json`: as much of JSON Schema as it uses.

use serde_json::{Value, json};

/// The value, or what its `$ref` names.
pub fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(place) => document.pointer(place.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

/// Says where `value` is not what `schema` says: as much of JSON Schema as the document uses.
pub fn check(document: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let schema = resolved(document, schema);
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = any.iter().any(|one| {
            let mut wrong = Vec::new();
            check(document, one, value, at, &mut wrong);
            wrong.is_empty()
        });
        if !fits {
            wrong.push(format!("{at}: fits none of its schemas: {value}"));
        }
        return;
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        Value::String(one) => vec![one.as_str()],
        _ => {
            wrong.push(format!("{at}: the schema has no type"));
            return;
        }
    };
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !types.contains(&found) {
        wrong.push(format!("{at}: {found}, {types:?} was expected"));
        return;
    }
    if schema["enum"]
        .as_array()
        .is_some_and(|all| !all.contains(value))
    {
        wrong.push(format!("{at}: {value} is not in the enum"));
    }
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check(
                    document,
                    &schema["items"],
                    item,
                    &format!("{at}/{index}"),
                    wrong,
                );
            }
        }
        Value::Object(members) => {
            let required = schema["required"].as_array().into_iter().flatten();
            for name in required.filter_map(Value::as_str) {
                if !members.contains_key(name) {
                    wrong.push(format!("{at}/{name}: missing"));
                }
            }
            for (name, member) in members {
                let at = format!("{at}/{name}");
                match (&schema["properties"][name], &schema["additionalProperties"]) {
                    (Value::Null, Value::Bool(false)) => wrong.push(format!("{at}: unknown")),
                    (Value::Null, Value::Null) => {}
                    (Value::Null, rest) => check(document, rest, member, &at, wrong),
                    (declared, _) => check(document, declared, member, &at, wrong),
                }
            }
        }
        Value::String(text) if schema["format"] == "date-time" => {
            let time = text.parse::<jiff::Timestamp>();
            wrong.extend(time.err().map(|error| format!("{at}: '{text}': {error}")));
        }
        _ => {}
    }
}

#[test]
fn this_check_can_fail() {
    let document = json!({"s": {"type": "object", "required": ["a"], "additionalProperties": false,
        "properties": {"a": {"type": ["string", "null"], "enum": ["x", null]},
            "b": {"type": "array", "items": {"type": "integer"}},
            "c": {"type": "object", "additionalProperties": {"type": "boolean"}},
            "d": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
            "e": {"type": "string", "format": "date-time"}}}});
    let schema = json!({"$ref": "#/s"});
    let complaints = |value: Value| {
        let mut wrong = Vec::new();
        check(&document, &schema, &value, "", &mut wrong);
        wrong.len()
    };
    let good = json!({"a": null, "b": [1], "c": {"x": true}, "d": 1, "e": "2026-01-02T03:04:05Z"});
    assert_eq!(complaints(good), 0);
    for bad in [
        json!([]),
        json!({}),
        json!({"a": 1}),
        json!({"a": "y"}),
        json!({"a": "x", "z": 1}),
        json!({"a": "x", "b": ["1"]}),
        json!({"a": "x", "c": {"x": 1}}),
        json!({"a": "x", "d": "1"}),
        json!({"a": "x", "e": "yesterday"}),
    ] {
        assert_eq!(complaints(bad.clone()), 1, "{bad}");
    }
}
