//! JSON schemas, as far as the server itself reads them.

use serde_json::Value;

/// References that are followed at most, of which some go in circles.
const DEEPEST: u32 = 16;

/// A schema that was whole, as part of another one at this place: what it refers to within itself has moved.
///
/// # Errors
/// What it refers to, or is referred to by, that is not a place within it.
pub(super) fn moved(schema: &Value, place: &str) -> Result<Value, String> {
    let mut schema = schema.clone();
    // A name for the whole of it changes nothing, since only places within it are taken.
    if let Value::Object(fields) = &mut schema
        && fields.get("$id").is_some_and(Value::is_string)
    {
        fields.remove("$id");
    }
    move_within(&mut schema, place)?;
    Ok(schema)
}

fn move_within(schema: &mut Value, place: &str) -> Result<(), String> {
    match schema {
        Value::Object(fields) => {
            fields.iter_mut().try_for_each(|(name, value)| match (name.as_str(), value) {
                // Values, not schemas, whatever they look like.
                ("const" | "enum" | "default" | "examples" | "example", _) => Ok(()),
                // Schemas by names, which may be any of these words.
                (
                    "properties" | "patternProperties" | "$defs" | "definitions"
                    | "dependentSchemas" | "dependencies",
                    Value::Object(parts),
                ) => parts.values_mut().try_for_each(|part| move_within(part, place)),
                ("$ref", Value::String(text)) if text == "#" || text.starts_with("#/") => {
                    *text = format!("{place}{}", text[1..].trim_end_matches('/'));
                    Ok(())
                }
                ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(text)) => {
                    Err(format!("the reference {text:?}"))
                }
                // Places below it would be within it.
                ("$id", Value::String(text)) => Err(format!("a part of the name {text:?}")),
                (_, part) => move_within(part, place),
            })
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| move_within(item, place)),
        _ => Ok(()),
    }
}

/// Whether a part of a schema allows values of a kind: `null`, `boolean`, `number`, `string`, `array` or `object`. What is not
/// understood allows all.
pub(super) fn allows(whole: &Value, part: &Value, kind: &str) -> bool {
    allows_within(whole, part, kind, DEEPEST)
}

fn allows_within(whole: &Value, part: &Value, kind: &str, deepest: u32) -> bool {
    let Value::Object(part) = part else { return part != &Value::Bool(false) };
    let Some(deepest) = deepest.checked_sub(1) else { return true };
    let allows = |part: &Value| allows_within(whole, part, kind, deepest);
    let is_kind = |name: &Value| name == kind || kind == "number" && name == "integer";
    if kind == "null" && part.get("nullable") == Some(&Value::Bool(true)) {
        return true;
    }
    part.iter().all(|(name, value)| match (name.as_str(), value) {
        ("type", Value::Array(names)) => names.iter().any(is_kind),
        ("type", name) => is_kind(name),
        ("const", value) => kind_of(value) == kind,
        ("enum", Value::Array(values)) => values.iter().any(|value| kind_of(value) == kind),
        ("anyOf" | "oneOf", Value::Array(parts)) => parts.iter().any(allows),
        ("allOf", Value::Array(parts)) => parts.iter().all(allows),
        ("$ref", Value::String(place)) => {
            place.strip_prefix('#').and_then(|place| whole.pointer(place)).is_none_or(allows)
        }
        _ => true,
    })
}

/// The kind of a value, as schemas call it.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The kind of a value that is valid JSON.
pub(super) fn kind_of_text(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'n') => "null",
        Some(b't' | b'f') => "boolean",
        Some(b'"') => "string",
        Some(b'[') => "array",
        Some(b'{') => "object",
        _ => "number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_within_move_and_others_are_named() {
        let schema = json!({"$id": "https://x.org/s", "properties": {"a": {"$ref": "#/$defs/d"}, "$ref": {"items": {"$ref": "#"}}}});
        let moved_to = json!({"properties": {"a": {"$ref": "#/p/$defs/d"}, "$ref": {"items": {"$ref": "#/p"}}}});
        assert_eq!(moved(&schema, "#/p").unwrap(), moved_to);
        // What is a value stays as it is; a property that is called so is a schema.
        let value = json!({"$ref": "#/a", "$id": "a"});
        let values = json!({"const": value, "enum": [value], "default": value, "items": {"examples": [value]}});
        assert_eq!(moved(&values, "#/p").unwrap(), values);
        for name in ["const", "enum", "default", "examples", "properties", "$defs"] {
            for names in ["properties", "patternProperties", "$defs", "dependentSchemas"] {
                let part = json!({"items": {names: {name: {"$ref": "#/a"}}}});
                let moved_to = json!({"items": {names: {name: {"$ref": "#/p/a"}}}});
                assert_eq!(moved(&part, "#/p").unwrap(), moved_to);
            }
        }
        for (part, named) in [
            (json!({"$ref": "#name"}), "the reference \"#name\""),
            (json!({"$ref": "$defs/d"}), "the reference \"$defs/d\""),
            (json!({"$ref": "https://x.org/s#/a"}), "the reference \"https://x.org/s#/a\""),
            (json!({"$ref": ""}), "the reference \"\""),
            (json!([{"$dynamicRef": "#d"}]), "the reference \"#d\""),
            (json!({"$id": "part"}), "a part of the name \"part\""),
        ] {
            assert_eq!(moved(&json!({"items": part}), "#/p").unwrap_err(), named);
        }
    }

    #[test]
    fn kinds_are_allowed_as_the_schema_says() {
        let whole =
            json!({"$defs": {"text": {"type": "string"}, "round": {"$ref": "#/$defs/round"}}});
        for (part, allowed) in [
            (json!({"type": "string"}), "string"),
            (json!({"type": ["string", "null"]}), "null string"),
            (json!({"type": "integer"}), "number"),
            (json!({"anyOf": [{"type": "string"}, {"type": "null"}]}), "null string"),
            (json!({"oneOf": [{"type": "boolean"}, {"$ref": "#/$defs/text"}]}), "boolean string"),
            (
                json!({"allOf": [{"type": ["string", "array"]}, {"type": ["array", "object"]}]}),
                "array",
            ),
            (json!({"enum": ["a", 1]}), "number string"),
            (json!({"const": "1"}), "string"),
            (json!({"type": "string", "nullable": true}), "null string"),
            (json!({"$ref": "#/$defs/text"}), "string"),
            (json!({"$ref": "#/$defs/round"}), "null boolean number string array object"),
            (json!({"description": "x"}), "null boolean number string array object"),
            (json!(true), "null boolean number string array object"),
            (json!(false), ""),
        ] {
            let kinds = ["null", "boolean", "number", "string", "array", "object"];
            let found: Vec<&str> =
                kinds.into_iter().filter(|kind| allows(&whole, &part, kind)).collect();
            assert_eq!(found.join(" "), allowed, "{part}");
        }
        for text in ["null", "true", "-1e3", "\"a\"", "[]", "{}"] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(kind_of_text(text), kind_of(&value));
        }
    }
}
