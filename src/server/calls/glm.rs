//! `<tool_call>f<arg_key>x</arg_key><arg_value>1</arg_value></tool_call>`: GLM's since 4.5. Values are JSON, but for texts.

use super::{Begins, Format, Found, call};
use crate::server::tools::{Call, Tools};
use serde_json::{Map, Value};

const KEY: [&str; 2] = ["<arg_key>", "</arg_key>"];
const VALUE: [&str; 2] = ["<arg_value>", "</arg_value>"];

pub(super) const FORMAT: Format = Format {
    words: &["<tool_call>", KEY[0]],
    begins: Begins::Mark("<tool_call>"),
    ends: Some("</tool_call>"),
    marks: &[KEY[0], KEY[1], VALUE[0], VALUE[1]],
    read,
};

fn read(text: &str, tools: &Tools) -> Found {
    match parse(text, tools) {
        Some(call) => Found::Calls(vec![call]),
        // Cut within a value.
        None if text.matches(VALUE[0]).count() > text.matches(VALUE[1]).count() => Found::Part,
        None => Found::Text,
    }
}

fn parse(text: &str, tools: &Tools) -> Option<Call> {
    let (name, mut rest) = text.split_at(text.find(KEY[0]).unwrap_or(text.len()));
    let name = name.trim();
    let properties = tools.tool(name)?.parameters.get("properties");
    let mut arguments = Map::new();
    while !rest.trim().is_empty() {
        let (key, behind) = between(rest, KEY)?;
        let (value, behind) = between(behind, VALUE)?;
        rest = behind;
        let key = key.trim();
        let kind = properties.and_then(|all| all.get(key)).and_then(|one| one.get("type"));
        let is_text = kind.is_some_and(|kind| kind == "string");
        let value = match serde_json::from_str(value.trim()) {
            Ok(value) if !is_text => value,
            _ => Value::from(value),
        };
        arguments.insert(key.to_owned(), value);
    }
    call(tools, name, arguments)
}

// What is between two marks, of which the first begins the text, and what follows.
fn between<'a>(text: &'a str, [begin, end]: [&str; 2]) -> Option<(&'a str, &'a str)> {
    text.trim_start().strip_prefix(begin)?.split_once(end)
}
