//! `/v1/responses`, as far as text goes.

use super::{common, error, role, text, tools};
use crate::generate::{End, Turn};
use crate::server::answering::{Finish, Item, Part, Text, Usage, Whole};
use crate::server::ask::{Ask, Prompt, Wishes, check_model, turn};
use crate::server::fault::{Fault, Kind, Read};
use crate::server::fields::{Fields, shown};
use crate::server::form::Form;
use crate::server::frame::{Frame, Shape};
use crate::server::tools::{Call, called, calling};
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
    let given = [fields.get("tools"), fields.get("tool_choice"), fields.get("parallel_tool_calls")];
    let tools = tools::read(&mut fields, tools::Shape::Beside)?;
    let form = Form::beside(form(&mut fields)?, &tools, "text.format")?;
    let wishes = Wishes { max_tokens, form, ..Wishes::read(&mut fields, 2.0)? };
    common(&mut fields)?;
    // Nothing is stored, so that what is asked for by an id later is not found.
    fields.only("store", &[true.into(), false.into()])?;
    fields.only("background", &[false.into()])?;
    fields.only("truncation", &["disabled".into()])?;
    fields.only("include", &[json!([])])?;
    fields.end()?;
    let mut turns: Vec<Turn> = instructions.into_iter().map(|text| turn("system", text)).collect();
    turns.extend(turns_of(input)?);
    let shape = Response::new(naming.clone(), max_tokens, given);
    Ok((Ask { prompt: Prompt::Messages(turns), wishes, tools, stream }, Box::new(shape)))
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
    let (mut turns, mut all) = (Vec::new(), Vec::<Call>::new());
    // Those of the answer that is last so far.
    let mut last: Vec<Call> = Vec::new();
    for (at, item) in items.into_iter().enumerate() {
        let path = format!("input[{at}]");
        let mut fields = Fields::of(&path, item)?;
        // What clients send back of an answer.
        fields.pass(&["id", "status"]);
        let kind = fields.text("type")?.unwrap_or_else(|| "message".into());
        match kind.as_str() {
            "message" => last.clear(),
            "function_call" => {
                let id = fields.text("call_id")?;
                let id = fields.needed("call_id", id)?;
                let call = tools::read_call(id, fields)?;
                all.push(call.clone());
                last.push(call);
                // Several of an answer, and its text, are one turn.
                if turns.last().is_none_or(|turn: &Turn| turn.role != "assistant") {
                    turns.push(turn("assistant", String::new()));
                }
                if let Some(turn) = turns.last_mut() {
                    turn.fields = calling(&last);
                }
                continue;
            }
            "function_call_output" => {
                last.clear();
                let id = fields.text("call_id")?;
                let id = fields.needed("call_id", id)?;
                let output = fields.take("output");
                let output = fields.needed("output", output)?;
                let output = text(&fields.path("output"), output, &["input_text"])?;
                fields.end()?;
                turns.push(Turn { fields: called(&id, &all), ..turn("tool", output) });
                continue;
            }
            other => {
                let limit = "only message, function_call and function_call_output are supported";
                return Err(Fault::field(fields.path("type"), shown(&other.into()), limit));
            }
        }
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
    /// `tools`, `tool_choice` and `parallel_tool_calls`, as they were asked for.
    given: [Option<Value>; 3],
    /// Events so far.
    events: u64,
    /// Items of the stream that have ended.
    output: Vec<Value>,
    /// The text of the message that the stream is in.
    text: Option<String>,
}

impl Response {
    pub(super) fn new(naming: Naming, max_tokens: Option<u32>, given: [Option<Value>; 3]) -> Self {
        Self { naming, max_tokens, given, events: 0, output: Vec::new(), text: None }
    }

    fn object(&self, status: &str, output: Value, used: Option<&Usage>) -> Value {
        let Naming { id, created, model } = &self.naming;
        let [tools, choice, parallel] = &self.given;
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
            "parallel_tool_calls": parallel.clone().unwrap_or(true.into()),
            "previous_response_id": null,
            "store": false,
            "tool_choice": choice.clone().unwrap_or("auto".into()),
            "tools": tools.clone().unwrap_or(json!([])),
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

    // The message behind so many items.
    fn message(&self, before: usize, status: &str, content: Value) -> Value {
        json!({
            "id": self.message_id(before),
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        })
    }

    fn message_id(&self, before: usize) -> String {
        let id = &self.naming.id;
        match before {
            0 => format!("msg_{id}"),
            before => format!("msg_{id}_{before}"),
        }
    }

    fn ended(&self, output: Vec<Value>, finish: &Finish) -> Value {
        let mut object = self.object(status(finish.end), output.into(), Some(&finish.usage));
        if object["status"] == "incomplete" {
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

    // An event of the one part of a message.
    fn of_text(&mut self, name: &'static str, mut value: Value) -> Frame {
        value["item_id"] = self.message_id(self.output.len()).into();
        value["output_index"] = self.output.len().into();
        value["content_index"] = 0.into();
        self.event(name, value)
    }

    // An event of an item as a whole.
    fn of_item(&mut self, name: &'static str, item: &Value) -> Frame {
        self.event(name, json!({"output_index": self.output.len(), "item": item}))
    }

    // Begins a message, if the stream is in none.
    fn open(&mut self) -> Vec<Frame> {
        if self.text.is_some() {
            return Vec::new();
        }
        self.text = Some(String::new());
        let item = self.message(self.output.len(), "in_progress", json!([]));
        vec![
            self.of_item("response.output_item.added", &item),
            self.of_text("response.content_part.added", json!({"part": output_text("")})),
        ]
    }

    // Ends the message that the stream is in.
    fn close(&mut self, status: &str) -> Vec<Frame> {
        let Some(text) = self.text.take() else { return Vec::new() };
        let part = output_text(&text);
        let item = self.message(self.output.len(), status, json!([part]));
        let frames = vec![
            self.of_text("response.output_text.done", json!({"text": text, "logprobs": []})),
            self.of_text("response.content_part.done", json!({"part": part})),
            self.of_item("response.output_item.done", &item),
        ];
        self.output.push(item);
        frames
    }

    fn call(&mut self, call: &Call) -> Vec<Frame> {
        let mut frames = self.close("completed");
        let item = called_item(call);
        let mut begun = item.clone();
        (begun["arguments"], begun["status"]) = ("".into(), "in_progress".into());
        frames.push(self.of_item("response.output_item.added", &begun));
        let of = |field: &str, output: usize| json!({"item_id": item["id"], "output_index": output, field: item["arguments"]});
        let at = self.output.len();
        frames.push(self.event("response.function_call_arguments.delta", of("delta", at)));
        let mut done = of("arguments", at);
        done["name"] = call.name.as_str().into();
        frames.push(self.event("response.function_call_arguments.done", done));
        frames.push(self.of_item("response.output_item.done", &item));
        self.output.push(item);
        frames
    }
}

fn status(end: End) -> &'static str {
    match end {
        End::Length | End::ContextFull => "incomplete",
        End::StopToken | End::StopText | End::Cancelled => "completed",
    }
}

fn called_item(call: &Call) -> Value {
    json!({
        "id": format!("fc_{}", call.id),
        "type": "function_call",
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments.text().get(),
    })
}

fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": []})
}

impl Shape for Response {
    fn begin(&mut self, _: u32) -> Vec<Frame> {
        let begun = json!({"response": self.object("in_progress", json!([]), None)});
        vec![
            self.event("response.created", begun.clone()),
            self.event("response.in_progress", begun),
        ]
    }

    fn part(&mut self, part: Part) -> Vec<Frame> {
        match part {
            // Reasoning has no place in a text; the usage counts it.
            Part::Prefill { .. } | Part::Reasoning(_) => Vec::new(),
            Part::Text(Text { text, .. }) => {
                let mut frames = self.open();
                let delta = json!({"delta": text, "logprobs": []});
                frames.push(self.of_text("response.output_text.delta", delta));
                self.text.get_or_insert_default().push_str(&text);
                frames
            }
            Part::Call(call) => self.call(&call),
            Part::End(finish) => {
                // An answer without calls has a text, be it empty.
                let mut frames = if self.output.is_empty() { self.open() } else { Vec::new() };
                frames.extend(self.close(status(finish.end)));
                let output = std::mem::take(&mut self.output);
                let object = self.ended(output, &finish);
                let last = match status(finish.end) {
                    "completed" => "response.completed",
                    _ => "response.incomplete",
                };
                frames.push(self.event(last, json!({"response": object})));
                frames
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

    fn whole(&self, whole: &Whole) -> String {
        let items = whole.shown();
        let mut output = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            output.push(match item {
                Item::Call(call) => called_item(call),
                Item::Text(text) => {
                    let is_last = at + 1 == items.len();
                    let status = if is_last { status(whole.finish.end) } else { "completed" };
                    self.message(at, status, json!([output_text(&text.text)]))
                }
            });
        }
        self.ended(output, &whole.finish).to_string()
    }
}
