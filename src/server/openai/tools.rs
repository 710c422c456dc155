//! Tools, and calls that are sent back, in OpenAI's shapes.

use crate::server::fault::{Fault, Read};
use crate::server::fields::{Fields, shown};
use crate::server::tools::{Call, Choice, Tool, Tools, arguments};
use serde_json::Value;

/// Where a function's fields stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// In an object of their own: chats.
    Within,
    /// Beside the type: responses.
    Beside,
}

const FUNCTION: &str = "function";

// The fields of a function, whose type is told.
fn function(mut fields: Fields, shape: Shape) -> Read<Fields> {
    let kind = fields.text("type")?;
    let kind = fields.needed("type", kind)?;
    if kind != FUNCTION {
        let limit = "only function is supported";
        return Err(Fault::field(fields.path("type"), shown(&kind.into()), limit));
    }
    if shape == Shape::Beside {
        return Ok(fields);
    }
    let within = fields.object(FUNCTION)?;
    let within = fields.needed(FUNCTION, within)?;
    fields.end()?;
    Ok(within)
}

/// The tools of a request, and which of them are to be called.
pub(super) fn read(fields: &mut Fields, shape: Shape) -> Read<Tools> {
    let mut list = Vec::new();
    for (at, tool) in fields.list("tools")?.unwrap_or_default().into_iter().enumerate() {
        let tool = Fields::of(&format!("tools[{at}]"), tool)?;
        list.push(Tool::read(function(tool, shape)?, "parameters")?);
    }
    let choice = match fields.take("tool_choice") {
        None => Choice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Choice::Auto,
            "none" => Choice::None,
            "required" => Choice::Required,
            other => {
                let limit = "it must be auto, none, required or a function";
                return Err(Fault::field("tool_choice", shown(&other.into()), limit));
            }
        },
        Some(object) => {
            let mut named = function(Fields::of("tool_choice", object)?, shape)?;
            let name = named.text("name")?;
            let name = named.needed("name", name)?;
            named.end()?;
            Choice::Named(name)
        }
    };
    let is_parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    Tools::new(list, choice, !is_parallel, "tool_choice")
}

/// The calls of an answer that a client sends back.
pub(super) fn calls(message: &mut Fields) -> Read<Vec<Call>> {
    let path = message.path("tool_calls");
    let mut calls = Vec::new();
    for (at, call) in message.list("tool_calls")?.unwrap_or_default().into_iter().enumerate() {
        let mut call = Fields::of(&format!("{path}[{at}]"), call)?;
        call.pass(&["index"]);
        let id = call.text("id")?;
        let id = call.needed("id", id)?;
        calls.push(read_call(id, function(call, Shape::Within)?)?);
    }
    Ok(calls)
}

/// A call's name and arguments.
pub(super) fn read_call(id: String, mut fields: Fields) -> Read<Call> {
    let name = fields.text("name")?;
    let name = fields.needed("name", name)?;
    let text = fields.text("arguments")?.unwrap_or_default();
    let arguments = arguments(&fields.path("arguments"), &text)?;
    fields.end()?;
    Ok(Call { id, name, arguments })
}
