//! `/v1/chat/completions`.

use super::{common, error, logprobs, reason, role, routed, stream, text, tools, usage};
use crate::generate::Turn;
use crate::server::answering::{Finish, Part, Text, Whole};
use crate::server::ask::{Ask, Prompt, Wishes, check_model, turn};
use crate::server::fault::{Fault, Read};
use crate::server::fields::Fields;
use crate::server::form::Form;
use crate::server::frame::{Frame, Shape};
use crate::server::logprobs::Entry;
use crate::server::tools::{Call, called, calling};
use crate::server::{Boxed, Naming};
use serde_json::{Map, Value, json};

/// Reads a request.
pub(in crate::server) fn read(body: &[u8], naming: &Naming) -> Read<(Ask, Boxed)> {
    let mut fields = Fields::body(body)?;
    check_model(&mut fields, &naming.model)?;
    let messages = fields.list("messages")?;
    let messages = fields.needed("messages", messages)?;
    let (stream, include_usage) = stream(&mut fields)?;
    let max_tokens = fields.tokens("max_tokens")?;
    let max_tokens = fields.tokens("max_completion_tokens")?.or(max_tokens);
    let logprobs = logprobs::read_chat(&mut fields)?;
    let form = fields.object("response_format")?;
    let form = form.map(|form| Form::read(form, Some("json_schema"))).transpose()?.flatten();
    let tools = tools::read(&mut fields, tools::Shape::Within)?;
    let form = Form::beside(form, &tools, "response_format")?;
    let wishes = Wishes { max_tokens, logprobs, form, ..Wishes::read_open_ai(&mut fields)? };
    common(&mut fields)?;
    routed(&mut fields)?;
    // Nothing is stored, which is what false asks for; true asks for a look at it later.
    fields.only("store", &[false.into()])?;
    fields.only("logit_bias", &[json!({})])?;
    fields.only("modalities", &[json!(["text"])])?;
    fields.end()?;
    let has_logprobs = logprobs.is_some();
    let shape = Chat { naming: naming.clone(), include_usage, has_logprobs, calls: 0 };
    let prompt = Prompt::Messages(turns(messages)?);
    Ok((Ask { prompt, wishes, tools, stream }, Box::new(shape)))
}

fn turns(messages: Vec<Value>) -> Read<Vec<Turn>> {
    if messages.is_empty() {
        return Err(Fault::field("messages", "[]", "at least one is needed"));
    }
    let (mut turns, mut all) = (Vec::new(), Vec::new());
    for (at, message) in messages.into_iter().enumerate() {
        let mut fields = Fields::of(&format!("messages[{at}]"), message)?;
        let said = fields.text("role")?;
        let said = fields.needed("role", said)?;
        let (role, mut known) = match said.as_str() {
            "tool" => {
                let id = fields.text("tool_call_id")?;
                let id = fields.needed("tool_call_id", id)?;
                fields.pass(&["name"]);
                ("tool", called(&id, &all))
            }
            said => (role(&fields.path(""), said)?, Map::new()),
        };
        if role == "assistant" {
            // What clients send back of an answer. Templates leave earlier reasoning out.
            fields.pass(&["reasoning_content"]);
            fields.only("annotations", &[json!([])])?;
            let calls = tools::calls(&mut fields)?;
            known = calling(&calls);
            all.extend(calls);
        }
        let content = match fields.take("content") {
            None if role == "assistant" && !known.is_empty() => String::new(),
            content => {
                let content = fields.needed("content", content)?;
                text(&fields.path("content"), content, &["text"])?
            }
        };
        fields.end()?;
        turns.push(Turn { fields: known, ..turn(role, content) });
    }
    Ok(turns)
}

fn shown(call: &Call) -> Value {
    let function = json!({"name": call.name, "arguments": call.arguments.text().get()});
    json!({"id": call.id, "type": "function", "function": function})
}

#[derive(Debug)]
pub(super) struct Chat {
    pub(super) naming: Naming,
    pub(super) include_usage: bool,
    pub(super) has_logprobs: bool,
    /// Those of the stream so far.
    pub(super) calls: usize,
}

impl Chat {
    fn chunk(&self, choices: Value, used: Value) -> Frame {
        let Naming { id, created, model } = &self.naming;
        let mut chunk = json!({
            "id": format!("chatcmpl-{id}"),
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = used;
        }
        Frame::Data(chunk)
    }

    fn delta(&self, delta: Value, finish: Option<&str>) -> Frame {
        self.delta_of(delta, Value::Null, finish)
    }

    fn delta_of(&self, delta: Value, logprobs: Value, finish: Option<&str>) -> Frame {
        let choice =
            json!({"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish});
        self.chunk(json!([choice]), Value::Null)
    }

    fn logprobs(&self, entries: &[Entry]) -> Value {
        if self.has_logprobs { logprobs::of_chat(entries) } else { Value::Null }
    }
}

impl Shape for Chat {
    fn begin(&mut self, _: u32) -> Vec<Frame> {
        vec![self.delta(json!({"role": "assistant", "content": ""}), None)]
    }

    fn part(&mut self, part: Part) -> Vec<Frame> {
        match part {
            Part::Prefill { .. } => Vec::new(),
            Part::Reasoning(text) => vec![self.delta(json!({"reasoning_content": text}), None)],
            Part::Text(Text { text, logprobs }) => {
                vec![self.delta_of(json!({"content": text}), self.logprobs(&logprobs), None)]
            }
            Part::Call(call) => {
                let mut called = shown(&call);
                called["index"] = self.calls.into();
                self.calls += 1;
                vec![self.delta(json!({"tool_calls": [called]}), None)]
            }
            Part::End(Finish { end, usage: used, .. }) => {
                let reason = reason(end, self.calls > 0);
                let mut frames = vec![self.delta(json!({}), Some(reason))];
                if self.include_usage {
                    frames.push(self.chunk(json!([]), usage(&used)));
                }
                frames.push(Frame::Done);
                frames
            }
            Part::Failed(fault) => vec![Frame::Data(error(&fault))],
        }
    }

    fn whole(&self, whole: &Whole) -> String {
        let Naming { id, created, model } = &self.naming;
        let Text { text, logprobs } = whole.all_text();
        let mut message = json!({"role": "assistant", "content": text, "refusal": null});
        if !whole.reasoning.is_empty() {
            message["reasoning_content"] = whole.reasoning.as_str().into();
        }
        let calls: Vec<Value> = whole.calls().map(shown).collect();
        let has_calls = !calls.is_empty();
        if has_calls {
            message["tool_calls"] = calls.into();
            if text.is_empty() {
                message["content"] = Value::Null;
            }
        }
        let choice = json!({
            "index": 0,
            "message": message,
            "logprobs": self.logprobs(&logprobs),
            "finish_reason": reason(whole.finish.end, has_calls),
        });
        let object = json!({
            "id": format!("chatcmpl-{id}"),
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [choice],
            "usage": usage(&whole.finish.usage),
        });
        object.to_string()
    }
}
