//! The form that an answer is asked to have: text, JSON, or JSON by a schema.

use super::fault::{Fault, Read};
use super::fields::{Fields, shown};
use super::tools::Tools;
use crate::generate::{Framing, Grammar};
use serde_json::{Value, json};

/// A schema, and the field that it came in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Form {
    field: String,
    schema: Value,
}

impl Form {
    /// Reads an object with a `type`. A schema stands in the object itself, or in one within it that is called `inner`.
    pub(super) fn read(mut fields: Fields, inner: Option<&str>) -> Read<Option<Self>> {
        let kind = fields.text("type")?;
        let kind = fields.needed("type", kind)?;
        let form = match kind.as_str() {
            "text" => None,
            "json_object" => {
                Some(Self { field: fields.path("type"), schema: json!({"type": "object"}) })
            }
            "json_schema" => match inner {
                None => Some(Self::read_schema(&mut fields)?),
                Some(name) => {
                    let within = fields.object(name)?;
                    let mut within = fields.needed(name, within)?;
                    let form = Self::read_schema(&mut within)?;
                    within.end()?;
                    Some(form)
                }
            },
            other => {
                let limit = "only text, json_object and json_schema are supported";
                return Err(Fault::field(fields.path("type"), shown(&other.into()), limit));
            }
        };
        fields.end()?;
        Ok(form)
    }

    fn read_schema(fields: &mut Fields) -> Read<Self> {
        let name = fields.text("name")?;
        fields.needed("name", name)?;
        fields.text("description")?;
        // An answer is by its schema in any case.
        fields.flag("strict")?;
        let schema = fields.take("schema");
        let schema = fields.needed("schema", schema)?;
        Ok(Self { field: fields.path("schema"), schema })
    }

    /// The one call that an answer has to be, if it has to be one.
    fn forced(tools: &Tools) -> Read<Option<Self>> {
        Ok(tools.forced()?.map(|schema| Self { field: "tools".into(), schema }))
    }

    /// What an answer has to be that may call tools: one of both can be asked for.
    pub(super) fn beside(form: Option<Self>, tools: &Tools, field: &str) -> Read<Option<Self>> {
        if form.is_some() && tools.are_callable() {
            let limit = "an answer that is by a form calls no tools: leave them out, or set tool_choice to none";
            return Err(Fault::field(field, "given beside tools", limit));
        }
        form.map_or_else(|| Self::forced(tools), |form| Ok(Some(form)))
    }

    /// What answers have to be.
    pub(super) fn grammar(&self, framing: &Framing) -> Read<Grammar> {
        framing.json_schema(&self.schema).map_err(|error| {
            let field = Some(self.field.clone());
            Fault { field, ..Fault::from(error) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value, inner: Option<&str>) -> Read<Option<Form>> {
        Form::read(Fields::of("f", value).unwrap(), inner)
    }

    #[test]
    fn forms_are_read() {
        assert_eq!(read(json!({"type": "text"}), None).unwrap(), None);
        let any = read(json!({"type": "json_object"}), None).unwrap().unwrap();
        assert_eq!(any.schema, json!({"type": "object"}));
        let schema = json!({"type": "integer"});
        let body = json!({"name": "n", "description": "d", "strict": true, "schema": schema});
        let within = json!({"type": "json_schema", "json_schema": body});
        let form = read(within, Some("json_schema")).unwrap().unwrap();
        assert_eq!((form.field.as_str(), &form.schema), ("f.json_schema.schema", &schema));
        let beside = json!({"type": "json_schema", "name": "n", "strict": null, "schema": schema});
        let form = read(beside, None).unwrap().unwrap();
        assert_eq!((form.field.as_str(), &form.schema), ("f.schema", &schema));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, said) in [
            (json!({}), "f.type is missing, but it is needed"),
            (
                json!({"type": "grammar"}),
                "f.type is \"grammar\", but only text, json_object and json_schema are supported",
            ),
            (json!({"type": "json_schema"}), "f.json_schema is missing, but it is needed"),
            (
                json!({"type": "json_schema", "json_schema": {"name": "n"}}),
                "f.json_schema.schema is missing, but it is needed",
            ),
            (
                json!({"type": "json_schema", "json_schema": {"schema": {}}}),
                "f.json_schema.name is missing, but it is needed",
            ),
            (
                json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "x": 1}}),
                "f.json_schema.x is 1, but that is not supported",
            ),
            (json!({"type": "text", "x": 1}), "f.x is 1, but that is not supported"),
        ] {
            assert_eq!(read(value, Some("json_schema")).unwrap_err().message, said);
        }
    }
}
