//! OpenAI's interfaces.

pub(super) mod chat;
pub(super) mod completions;
mod logprobs;
pub(super) mod responses;
mod tools;

use super::answering::Usage;
use super::fault::{Fault, Kind, Read};
use super::fields::{Fields, shown};
use crate::generate::End;
use serde_json::{Value, json};

/// A fault in OpenAI's shape.
pub(super) fn error(fault: &Fault) -> Value {
    let (class, code) = match fault.kind {
        Kind::Invalid | Kind::TooLarge | Kind::MediaType | Kind::SlowBody | Kind::Method => {
            ("invalid_request_error", Value::Null)
        }
        Kind::TooLong => ("invalid_request_error", "context_length_exceeded".into()),
        Kind::NotFound if fault.field.as_deref() == Some("model") => {
            ("invalid_request_error", "model_not_found".into())
        }
        Kind::NotFound | Kind::Host => ("invalid_request_error", Value::Null),
        Kind::Key => ("invalid_request_error", "invalid_api_key".into()),
        Kind::Busy => ("rate_limit_error", "rate_limit_exceeded".into()),
        Kind::Broken | Kind::Crowded | Kind::Stopping | Kind::TimedOut => {
            ("server_error", Value::Null)
        }
    };
    let (message, param) = (&fault.message, &fault.field);
    json!({"error": {"message": message, "type": class, "param": param, "code": code}})
}

/// Why an answer ended, in OpenAI's words. Calls are what it was ended for, unless it was cut off.
fn reason(end: End, has_calls: bool) -> &'static str {
    match end {
        End::StopToken | End::StopText if has_calls => "tool_calls",
        End::StopToken | End::StopText | End::Cancelled => "stop",
        End::Length | End::ContextFull => "length",
    }
}

fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.answer,
        "total_tokens": usage.prompt + usage.answer,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}

/// Whether the answer comes in a stream, and whether that ends with the usage.
fn stream(fields: &mut Fields) -> Read<(bool, bool)> {
    let stream = fields.flag("stream")?.unwrap_or(false);
    let Some(mut options) = fields.object("stream_options")? else { return Ok((stream, false)) };
    if !stream {
        return Err(Fault::field("stream_options", "given", "stream is not true"));
    }
    let usage = options.flag("include_usage")?.unwrap_or(false);
    // Padding against who measures the length of encrypted events.
    options.only("include_obfuscation", &[false.into()])?;
    options.end()?;
    Ok((stream, usage))
}

// What all of these take without asking for more than there is.
fn common(fields: &mut Fields) -> Read<()> {
    fields.pass(&["user", "metadata", "safety_identifier", "prompt_cache_key"]);
    fields.only("n", &[1.into()])?;
    fields.only("service_tier", &["auto".into(), "default".into()])
}

// What sglang-router adds to chats and completions on their way, with the values that ask for what is done anyway.
fn routed(fields: &mut Fields) -> Read<()> {
    for off in ["no_stop_trim", "continue_final_message", "return_hidden_states"] {
        fields.only(off, &[false.into()])?;
    }
    for on in ["skip_special_tokens", "separate_reasoning", "stream_reasoning"] {
        fields.only(on, &[true.into()])?;
    }
    Ok(())
}

/// The text of a message: a text, or parts of one of these types.
fn text(path: &str, content: Value, types: &[&str]) -> Read<String> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => {
            return Err(Fault::field(path, shown(&other), "it must be a text or a list of parts"));
        }
    };
    let mut whole = String::new();
    for (at, part) in parts.into_iter().enumerate() {
        let path = format!("{path}[{at}]");
        let mut part = Fields::of(&path, part)?;
        let kind = part.text("type")?;
        let kind = part.needed("type", kind)?;
        if !types.contains(&kind.as_str()) {
            let value = shown(&kind.into());
            let limit = format!("only {} is supported", types.join(" and "));
            return Err(Fault::field(format!("{path}.type"), value, &limit));
        }
        let text = part.text("text")?;
        whole += &part.needed("text", text)?;
        part.only("annotations", &[json!([])])?;
        part.only("logprobs", &[json!([])])?;
        part.end()?;
    }
    Ok(whole)
}

/// The role that templates know.
fn role(path: &str, role: &str) -> Read<&'static str> {
    match role {
        "system" | "developer" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        other => {
            let limit = "only system, developer, user, assistant and tool are supported";
            Err(Fault::field(format!("{path}role"), shown(&other.into()), limit))
        }
    }
}

#[cfg(test)]
mod tests;
