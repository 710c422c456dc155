//! `/v1/responses`, as far as text goes.

use super::{common, error, role, text};
use crate::generate::{End, Turn};
use crate::server::answering::{Finish, Part, Usage, Whole};
use crate::server::ask::{Ask, Prompt, Wishes, check_model, turn};
use crate::server::fault::{Fault, Kind, Read};
use crate::server::fields::{Fields, shown};
use crate::server::form::Form;
use crate::server::frame::{Frame, Shape};
use crate::server::{Boxed, Naming};
use serde_json::{Value, json};

/// Reads a request.
pub(in crate::server) fn read(body: &[u8], naming: &Naming) -> Read<(Ask, Boxed)> {
    let mut fields = Fields::body(body)?;
    check_model(&mut fields, &naming.model)?;
    let input = fields.take("input");
    let input = fields.needed("input", input)?;
    let instructions = fields.text("instructions")?;
    let stream = fields.flag("stream")?.unwrap_or(false);
    let max_tokens = fields.tokens("max_output_tokens")?;
    let form = form(&mut fields)?;
    let wishes = Wishes { max_tokens, form, ..Wishes::read(&mut fields, 2.0)? };
    common(&mut fields)?;
    // Nothing is stored, so that what is asked for by an id later is not found.
    fields.only("store", &[true.into(), false.into()])?;
    fields.only("background", &[false.into()])?;
    fields.only("truncation", &["disabled".into()])?;
    fields.only("include", &[json!([])])?;
    fields.only("tools", &[json!([])])?;
    fields.only("tool_choice", &["none".into(), "auto".into()])?;
    fields.only("parallel_tool_calls", &[true.into(), false.into()])?;
    fields.end()?;
    let mut turns: Vec<Turn> = instructions.into_iter().map(|text| turn("system", text)).collect();
    turns.extend(turns_of(input)?);
    let shape = Response::new(naming.clone(), max_tokens);
    Ok((Ask { prompt: Prompt::Messages(turns), wishes, stream }, Box::new(shape)))
}

fn form(fields: &mut Fields) -> Read<Option<Form>> {
    let Some(mut text) = fields.object("text")? else { return Ok(None) };
    let form = text.object("format")?.map(|form| Form::read(form, None)).transpose()?;
    text.end()?;
    Ok(form.flatten())
}

fn turns_of(input: Value) -> Read<Vec<Turn>> {
    let items = match input {
        Value::String(text) => return Ok(vec![turn("user", text)]),
        Value::Array(items) if !items.is_empty() => items,
        other => {
            let limit = "it must be a text or a list of messages, at least one";
            return Err(Fault::field("input", shown(&other), limit));
        }
    };
    let mut turns = Vec::new();
    for (at, item) in items.into_iter().enumerate() {
        let path = format!("input[{at}]");
        let mut fields = Fields::of(&path, item)?;
        fields.only("type", &["message".into()])?;
        // What clients send back of an answer.
        fields.pass(&["id", "status"]);
        let said = fields.text("role")?;
        let said = fields.needed("role", said)?;
        let role = role(&fields.path(""), &said)?;
        let content = fields.take("content");
        let content = fields.needed("content", content)?;
        let kind = if role == "assistant" { "output_text" } else { "input_text" };
        let content = text(&fields.path("content"), content, &[kind])?;
        fields.end()?;
        turns.push(turn(role, content));
    }
    Ok(turns)
}

#[derive(Debug)]
pub(super) struct Response {
    naming: Naming,
    max_tokens: Option<u32>,
    /// Events so far.
    events: u64,
    text: String,
}

impl Response {
    pub(super) fn new(naming: Naming, max_tokens: Option<u32>) -> Self {
        Self { naming, max_tokens, events: 0, text: String::new() }
    }

    fn object(&self, status: &str, output: Value, used: Option<&Usage>) -> Value {
        let Naming { id, created, model } = &self.naming;
        json!({
            "id": format!("resp_{id}"),
            "object": "response",
            "created_at": created,
            "status": status,
            "error": null,
            "incomplete_details": null,
            "instructions": null,
            "max_output_tokens": self.max_tokens,
            "model": model,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "store": false,
            "tool_choice": "auto",
            "tools": [],
            "metadata": {},
            "usage": used.map(|used| json!({
                "input_tokens": used.prompt,
                "input_tokens_details": {"cached_tokens": used.cached},
                "output_tokens": used.answer,
                "output_tokens_details": {"reasoning_tokens": used.reasoning},
                "total_tokens": used.prompt + used.answer,
            })),
        })
    }

    fn message(&self, status: &str, content: Value) -> Value {
        json!({
            "id": format!("msg_{}", self.naming.id),
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        })
    }

    fn ended(&self, text: &str, finish: &Finish) -> Value {
        let is_whole = !matches!(finish.end, End::Length | End::ContextFull);
        let status = if is_whole { "completed" } else { "incomplete" };
        let output = json!([self.message(status, json!([output_text(text)]))]);
        let mut object = self.object(status, output, Some(&finish.usage));
        if !is_whole {
            object["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        object
    }

    fn event(&mut self, name: &'static str, mut value: Value) -> Frame {
        value["type"] = name.into();
        value["sequence_number"] = self.events.into();
        self.events += 1;
        Frame::Event(name, value)
    }

    // An event of the one part of the one message.
    fn of_text(&mut self, name: &'static str, mut value: Value) -> Frame {
        value["item_id"] = format!("msg_{}", self.naming.id).into();
        value["output_index"] = 0.into();
        value["content_index"] = 0.into();
        self.event(name, value)
    }
}

fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": []})
}

impl Shape for Response {
    fn begin(&mut self, _: u32) -> Vec<Frame> {
        let begun = json!({"response": self.object("in_progress", json!([]), None)});
        let item = self.message("in_progress", json!([]));
        vec![
            self.event("response.created", begun.clone()),
            self.event("response.in_progress", begun),
            self.event("response.output_item.added", json!({"output_index": 0, "item": item})),
            self.of_text("response.content_part.added", json!({"part": output_text("")})),
        ]
    }

    fn part(&mut self, part: Part) -> Vec<Frame> {
        match part {
            // Reasoning has no place in a text; the usage counts it.
            Part::Prefill { .. } | Part::Reasoning(_) => Vec::new(),
            Part::Text(text) => {
                self.text += &text.text;
                let delta = json!({"delta": text.text, "logprobs": []});
                vec![self.of_text("response.output_text.delta", delta)]
            }
            Part::End(finish) => {
                let text = std::mem::take(&mut self.text);
                let object = self.ended(&text, &finish);
                let status = object["status"].as_str().unwrap_or_default().to_owned();
                let item = object["output"][0].clone();
                let last = match status.as_str() {
                    "completed" => "response.completed",
                    _ => "response.incomplete",
                };
                let done = json!({"text": text, "logprobs": []});
                vec![
                    self.of_text("response.output_text.done", done),
                    self.of_text("response.content_part.done", json!({"part": output_text(&text)})),
                    self.event(
                        "response.output_item.done",
                        json!({"output_index": 0, "item": item}),
                    ),
                    self.event(last, json!({"response": object})),
                ]
            }
            Part::Failed(fault) => {
                let code = match fault.kind {
                    Kind::Busy => "rate_limit_exceeded",
                    _ => "server_error",
                };
                let mut object = self.object("failed", json!([]), None);
                object["error"] =
                    json!({"code": code, "message": error(&fault)["error"]["message"]});
                vec![self.event("response.failed", json!({"response": object}))]
            }
        }
    }

    fn whole(&self, whole: &Whole) -> Value {
        self.ended(&whole.text.text, &whole.finish)
    }
}
