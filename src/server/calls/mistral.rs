//! `[TOOL_CALLS]`, and behind it a list of calls as JSON or, of later models, `f[ARGS]{"x": 1}`: Mistral's.

use super::{Begins, Format, Found, Written, call, json_call};
use crate::server::tools::{Arguments, Tools};
use serde_json::Deserializer;
use serde_json::value::RawValue;

const MARK: &str = "[TOOL_CALLS]";
const ARGUMENTS: &str = "[ARGS]";
const ID: &str = "[CALL_ID]";

pub(super) const FORMAT: Format = Format {
    words: &[MARK],
    begins: Begins::Mark(MARK),
    ends: None,
    marks: &[ARGUMENTS, ID],
    read,
};

fn read(text: &str, tools: &Tools) -> Found {
    let calls =
        if text.trim_start().starts_with('[') { list(text, tools) } else { named(text, tools) };
    calls.map_or(Found::Text, Found::Calls)
}

fn list(text: &str, tools: &Tools) -> Option<Vec<super::Call>> {
    let list: Vec<Written<'_>> = serde_json::from_str(text).ok()?;
    let calls: Option<Vec<_>> = list.iter().map(|written| json_call(tools, written)).collect();
    calls.filter(|calls| !calls.is_empty())
}

fn named(text: &str, tools: &Tools) -> Option<Vec<super::Call>> {
    let mut calls = Vec::new();
    let mut rest = text.trim();
    loop {
        let brace = rest.find('{')?;
        let name = rest[..brace].trim();
        // Some name the call too.
        let name = name.strip_suffix(ARGUMENTS).unwrap_or(name).split(ID).next()?.trim();
        let mut values = Deserializer::from_str(&rest[brace..]).into_iter::<&RawValue>();
        let arguments = Arguments::read(values.next()?.ok()?.get()).ok()?;
        calls.push(call(tools, name, arguments)?);
        rest = rest[brace + values.byte_offset()..].trim_start();
        if rest.is_empty() {
            return Some(calls);
        }
        rest = rest.strip_prefix(MARK)?;
    }
}
