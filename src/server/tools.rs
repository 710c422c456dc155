//! Tools that an answer may call, as the interfaces describe them.

use super::fault::{Fault, Read};
use super::fields::{Fields, shown};
use super::schema::moved;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

/// Characters that a tool's name may have.
const LONGEST: usize = 128;

/// A function that the caller has.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tool {
    pub(super) name: String,
    description: Option<String>,
    /// The JSON schema of its arguments.
    pub(super) parameters: Value,
}

/// Which of them an answer calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Choice {
    /// Any number, or none.
    #[default]
    Auto,
    /// None.
    None,
    /// One of them.
    Required,
    /// This one.
    Named(String),
}

/// What an answer may call, or has to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tools {
    list: Vec<Tool>,
    choice: Choice,
    /// Whether one call is the most.
    is_single: bool,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: Arguments,
}

/// The arguments of a call: an object, and its JSON as it was written, of whose numbers no digit is lost.
#[derive(Clone, Debug)]
pub(super) struct Arguments {
    fields: Map<String, Value>,
    text: Box<RawValue>,
}

impl Arguments {
    /// Reads an object.
    ///
    /// # Errors
    /// Those of who reads JSON.
    pub(super) fn read(text: &str) -> serde_json::Result<Self> {
        let fields = serde_json::from_str(text)?;
        Ok(Self { fields, text: RawValue::from_string(text.trim().to_owned())? })
    }

    /// Their JSON.
    pub(super) fn text(&self) -> &RawValue {
        &self.text
    }
}

impl From<Map<String, Value>> for Arguments {
    fn from(fields: Map<String, Value>) -> Self {
        let text = to_raw_value(&fields).expect("values are valid JSON");
        Self { fields, text }
    }
}

impl Default for Arguments {
    fn default() -> Self {
        Map::new().into()
    }
}

impl PartialEq for Arguments {
    fn eq(&self, other: &Self) -> bool {
        self.text.get() == other.text.get()
    }
}

impl Tool {
    /// The fields of a function, which every interface calls alike but for `parameters`.
    pub(super) fn read(mut fields: Fields, parameters: &str) -> Read<Self> {
        let name = fields.text("name")?;
        let name = fields.needed("name", name)?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > LONGEST || !name.chars().all(is_plain) {
            let limit =
                format!("it must be 1 to {LONGEST} letters, digits, underscores and dashes");
            return Err(Fault::field(fields.path("name"), shown(&name.into()), &limit));
        }
        let description = fields.text("description")?;
        let path = fields.path(parameters);
        let parameters = match fields.take(parameters) {
            None => json!({"type": "object", "properties": {}}),
            Some(schema @ Value::Object(_)) => schema,
            Some(other) => return Err(Fault::field(path, shown(&other), "it must be an object")),
        };
        // What is called in a forced call is by its schema in any case.
        fields.flag("strict")?;
        fields.end()?;
        Ok(Self { name, description, parameters })
    }

    /// As templates have it.
    fn definition(&self) -> Value {
        let mut function = json!({"name": self.name});
        if let Some(description) = &self.description {
            function["description"] = description.as_str().into();
        }
        function["parameters"] = self.parameters.clone();
        json!({"type": "function", "function": function})
    }
}

impl Tools {
    /// Puts together what was read; the choice's field is for messages.
    pub(super) fn new(list: Vec<Tool>, choice: Choice, is_single: bool, field: &str) -> Read<Self> {
        let is_known = |name: &str| list.iter().any(|tool| tool.name == name);
        match &choice {
            Choice::Named(name) if !is_known(name) => {
                return Err(Fault::field(
                    field,
                    shown(&name.as_str().into()),
                    "no tool is called so",
                ));
            }
            Choice::Required if list.is_empty() => {
                return Err(Fault::field(field, "a call", "tools is empty"));
            }
            _ => {}
        }
        for (at, tool) in list.iter().enumerate() {
            if list[..at].iter().any(|other| other.name == tool.name) {
                let value = format!("two of the name {:?}", tool.name);
                return Err(Fault::field("tools", value, "each needs a name of its own"));
            }
        }
        Ok(Self { list, choice, is_single })
    }

    /// Whether an answer may call one.
    pub(super) fn are_callable(&self) -> bool {
        !self.list.is_empty() && self.choice != Choice::None
    }

    /// Whether one call is the most.
    pub(super) fn are_single(&self) -> bool {
        self.is_single
    }

    /// The tool of this name.
    pub(super) fn tool(&self, name: &str) -> Option<&Tool> {
        self.list.iter().find(|tool| tool.name == name)
    }

    /// Those that an answer may call, as templates have them.
    pub(super) fn definitions(&self) -> Vec<Value> {
        let list = if self.are_callable() { &self.list[..] } else { &[] };
        list.iter().map(Tool::definition).collect()
    }

    /// Whether the answer has to be one call.
    pub(super) fn are_forced(&self) -> bool {
        matches!(self.choice, Choice::Required | Choice::Named(_))
    }

    /// The schema of the one call that the answer has to be, if it has to be one.
    pub(super) fn forced(&self) -> Read<Option<Value>> {
        let of = |tool: &Tool, place: &str| {
            let Tool { name, parameters, .. } = tool;
            let place = format!("#{place}/properties/arguments");
            let parameters = moved(parameters, &place).map_err(|what| {
                let value = format!("given with {what} in the parameters of {name:?}");
                let limit = "a call that has to be is held to a schema that refers to places within itself alone, # and #/...";
                Fault::field("tools", value, limit)
            })?;
            Ok(json!({
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": false,
            }))
        };
        match &self.choice {
            Choice::Auto | Choice::None => Ok(None),
            Choice::Required => {
                let list = self.list.iter().enumerate();
                let all = list.map(|(at, tool)| of(tool, &format!("/anyOf/{at}")));
                Ok(Some(json!({"anyOf": all.collect::<Read<Vec<_>>>()?})))
            }
            Choice::Named(name) => self.tool(name).map(|tool| of(tool, "")).transpose(),
        }
    }
}

/// A turn's fields where it calls tools, as templates have them.
pub(super) fn calling(calls: &[Call]) -> Map<String, Value> {
    let calls: Vec<Value> = calls
        .iter()
        .map(|Call { id, name, arguments }| {
            let function = json!({"name": name, "arguments": arguments.fields});
            json!({"id": id, "type": "function", "function": function})
        })
        .collect();
    let mut fields = Map::new();
    if !calls.is_empty() {
        fields.insert("tool_calls".into(), calls.into());
    }
    fields
}

/// A turn's fields where it answers the call of this id.
pub(super) fn called(id: &str, calls: &[Call]) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("tool_call_id".into(), id.into());
    if let Some(call) = calls.iter().rev().find(|call| call.id == id) {
        fields.insert("name".into(), call.name.as_str().into());
    }
    fields
}

/// The arguments of a call that is sent back, which are JSON in a text.
pub(super) fn arguments(path: &str, text: &str) -> Read<Arguments> {
    let blank = text.trim().is_empty();
    let read = if blank { Ok(Arguments::default()) } else { Arguments::read(text) };
    read.map_err(|_| Fault::field(path, shown(&text.into()), "it must be a JSON object as a text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(value: Value) -> Read<Tool> {
        Tool::read(Fields::of("tools[0]", value).unwrap(), "parameters")
    }

    #[test]
    fn templates_get_what_the_caller_said_in_one_shape() {
        let parameters = json!({"type": "object", "properties": {"z": {}, "a": {}}});
        let one = tool(
            json!({"parameters": parameters, "name": "f-1", "description": "d", "strict": true}),
        );
        let tools = Tools::new(vec![one.unwrap()], Choice::Auto, false, "tool_choice").unwrap();
        assert_eq!(
            serde_json::to_string(&tools.definitions()).unwrap(),
            r#"[{"type":"function","function":{"name":"f-1","description":"d","parameters":{"type":"object","properties":{"z":{},"a":{}}}}}]"#
        );
        let none = Tools { choice: Choice::None, ..tools.clone() };
        assert!(none.definitions().is_empty() && !none.are_callable() && tools.are_callable());
        let bare = tool(json!({"name": "f"})).unwrap();
        assert_eq!(bare.parameters, json!({"type": "object", "properties": {}}));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, said) in [
            (json!({}), "tools[0].name is missing, but it is needed"),
            (
                json!({"name": "a b"}),
                "tools[0].name is \"a b\", but it must be 1 to 128 letters, digits, underscores and dashes",
            ),
            (
                json!({"name": "f", "parameters": []}),
                "tools[0].parameters is [], but it must be an object",
            ),
            (json!({"name": "f", "x": 1}), "tools[0].x is 1, but that is not supported"),
        ] {
            assert_eq!(tool(value).unwrap_err().message, said);
        }
        let one = || tool(json!({"name": "f"})).unwrap();
        let of = |list, choice| Tools::new(list, choice, false, "tool_choice").unwrap_err().message;
        assert_eq!(
            of(vec![one()], Choice::Named("g".into())),
            "tool_choice is \"g\", but no tool is called so"
        );
        assert_eq!(of(vec![], Choice::Required), "tool_choice is a call, but tools is empty");
        assert_eq!(
            of(vec![one(), one()], Choice::Auto),
            "tools is two of the name \"f\", but each needs a name of its own"
        );
    }

    #[test]
    fn a_call_that_has_to_be_is_by_the_schemas_of_the_arguments() {
        let with = |name: &str, property: Value| {
            tool(json!({"name": name, "parameters": {"properties": {"x": property}, "$defs": {"d": {}}}})).unwrap()
        };
        let list = vec![
            with("f", json!({"$ref": "#/$defs/d"})),
            with("g", json!({"items": {"$ref": "#"}})),
        ];
        let forced = |choice| {
            Tools::new(list.clone(), choice, false, "tool_choice").unwrap().forced().unwrap()
        };
        assert_eq!(forced(Choice::Auto), None);
        let named = forced(Choice::Named("f".into())).unwrap();
        assert_eq!(named["properties"]["name"], json!({"const": "f"}));
        let refers = |schema: &Value| schema["properties"]["arguments"]["properties"]["x"].clone();
        assert_eq!(refers(&named), json!({"$ref": "#/properties/arguments/$defs/d"}));
        let any = &forced(Choice::Required).unwrap()["anyOf"];
        assert_eq!(refers(&any[0]), json!({"$ref": "#/anyOf/0/properties/arguments/$defs/d"}));
        assert_eq!(refers(&any[1]), json!({"items": {"$ref": "#/anyOf/1/properties/arguments"}}));
        let list = vec![with("f", json!({})), with("g", json!({"$ref": "other.json"}))];
        let of = |choice| Tools::new(list.clone(), choice, false, "tool_choice").unwrap();
        assert!(
            of(Choice::Auto).forced().is_ok() && of(Choice::Named("f".into())).forced().is_ok()
        );
        let said = of(Choice::Required).forced().unwrap_err().message;
        let start =
            "tools is given with the reference \"other.json\" in the parameters of \"g\", but ";
        assert!(said.starts_with(start), "{said}");
    }

    #[test]
    fn arguments_are_objects() {
        assert_eq!(arguments("a", " ").unwrap(), Arguments::default());
        let read = arguments("a", " {\"x\": 1.0}").unwrap();
        assert_eq!((&read.fields["x"], read.text().get()), (&json!(1.0), "{\"x\": 1.0}"));
        for text in ["[1]", "{", "7"] {
            let said = arguments("a", text).unwrap_err().message;
            assert!(said.ends_with("but it must be a JSON object as a text"), "{said}");
        }
    }
}
