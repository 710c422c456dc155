//! `<tool_call>f<arg_key>x</arg_key><arg_value>1</arg_value></tool_call>`: GLM's since 4.5. Values are JSON, but for texts.

use super::end::End;
use super::{Begins, Format, Found, call};
use crate::server::schema::{allows, kind_of_text};
use crate::server::tools::{Arguments, Call, Tools};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashMap;

const KEY: [&str; 2] = ["<arg_key>", "</arg_key>"];
const VALUE: [&str; 2] = ["<arg_value>", "</arg_value>"];

pub(super) const FORMAT: Format = Format {
    words: &["<tool_call>", KEY[0]],
    begins: Begins::Mark("<tool_call>"),
    ends: Some(End { mark: "</tool_call>", quotes: VALUE }),
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
    let parameters = &tools.tool(name)?.parameters;
    let properties = parameters.get("properties");
    let (mut written, mut places) = (Vec::new(), HashMap::new());
    while !rest.trim().is_empty() {
        let (key, behind) = between(rest, KEY)?;
        let (value, behind) = between(behind, VALUE)?;
        rest = behind;
        let key = key.trim();
        let schema = properties.and_then(|all| all.get(key)).unwrap_or(&Value::Null);
        // Of two of one name the last one counts.
        let place = *places.entry(key).or_insert(written.len());
        let argument = (key, json(value, |kind| allows(parameters, schema, kind)));
        match written.get_mut(place) {
            Some(before) => *before = argument,
            None => written.push(argument),
        }
    }
    let pair = |(key, value): &(&str, String)| format!("{}:{value}", Value::from(*key));
    let pairs: Vec<String> = written.iter().map(pair).collect();
    call(tools, name, Arguments::read(&format!("{{{}}}", pairs.join(","))).ok()?)
}

// A value as JSON: as it is written where it is of a kind that is allowed, or else as a text, which has no quotes here.
fn json(value: &str, allows: impl Fn(&str) -> bool) -> String {
    let text = || Value::from(value).to_string();
    let Ok(raw) = serde_json::from_str::<&RawValue>(value.trim()) else { return text() };
    let kind = kind_of_text(raw.get());
    let is_text = match kind {
        // Where a number might be meant too, quotes tell.
        "string" => !allows("number"),
        kind => !allows(kind),
    };
    if is_text && allows("string") { text() } else { raw.get().to_owned() }
}

// What is between two marks, of which the first begins the text, and what follows.
fn between<'a>(text: &'a str, [begin, end]: [&str; 2]) -> Option<(&'a str, &'a str)> {
    text.trim_start().strip_prefix(begin)?.split_once(end)
}
