//! Messages, and how many tokens they have.

use super::error;
use crate::generate::{End, Turn};
use crate::server::answering::{Finish, Item, Part, Text, Usage, Whole};
use crate::server::ask::{Ask, Prompt, Wishes, check_model, turn};
use crate::server::fault::{Fault, Read};
use crate::server::fields::{Fields, shown};
use crate::server::form::Form;
use crate::server::frame::{Frame, Shape};
use crate::server::tools::{Arguments, Call, Choice, Tool, Tools, called, calling};
use crate::server::{Boxed, Naming};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Reads a request.
pub(in crate::server) fn read(body: &[u8], naming: &Naming) -> Read<(Ask, Boxed)> {
    let mut fields = Fields::body(body)?;
    let (prompt, tools) = conversation(&mut fields, naming)?;
    let form = Form::beside(None, &tools, "tools")?;
    let max_tokens = fields.tokens("max_tokens")?;
    let max_tokens = Some(fields.needed("max_tokens", max_tokens)?);
    let stop = Wishes::read_stops(&mut fields, "stop_sequences")?;
    let wishes = Wishes { max_tokens, stop, form, ..Wishes::read(&mut fields, 1.0)? };
    let stream = fields.flag("stream")?.unwrap_or(false);
    fields.pass(&["metadata"]);
    fields.only("service_tier", &["auto".into(), "standard_only".into()])?;
    fields.end()?;
    let shape = Message { naming: naming.clone(), block: None, blocks: 0, has_calls: false };
    Ok((Ask { prompt, wishes, tools, stream }, Box::new(shape)))
}

/// Reads a question how many tokens a conversation has, and the tools that it may call.
pub(in crate::server) fn count(body: &[u8], naming: &Naming) -> Read<(Prompt, Tools)> {
    let mut fields = Fields::body(body)?;
    let asked = conversation(&mut fields, naming)?;
    fields.end()?;
    Ok(asked)
}

fn conversation(fields: &mut Fields, naming: &Naming) -> Read<(Prompt, Tools)> {
    check_model(fields, &naming.model)?;
    let messages = fields.list("messages")?;
    let messages = fields.needed("messages", messages)?;
    if messages.is_empty() {
        return Err(Fault::field("messages", "[]", "at least one is needed"));
    }
    let tools = tools(fields)?;
    let unthinking = fields.turned_off("thinking", &json!({"type": "disabled"}))?;
    let mut turns: Vec<Turn> = Vec::new();
    if let Some(system) = fields.take("system") {
        turns.push(turn("system", Content::read("system", system, "system")?.text));
    }
    let mut all = Vec::new();
    for (at, message) in messages.into_iter().enumerate() {
        let mut fields = Fields::of(&format!("messages[{at}]"), message)?;
        let said = fields.text("role")?;
        let role = fields.needed("role", said)?;
        if role != "user" && role != "assistant" {
            let limit = "it must be user or assistant; system is a field of its own";
            return Err(Fault::field(fields.path("role"), shown(&role.into()), limit));
        }
        let content = fields.take("content");
        let content = fields.needed("content", content)?;
        let content = Content::read(&fields.path("content"), content, &role)?;
        fields.end()?;
        all.extend(content.calls.iter().cloned());
        let has_results = !content.results.is_empty();
        for (id, result) in content.results {
            turns.push(Turn { fields: called(&id, &all), ..turn("tool", result) });
        }
        if has_results && content.text.is_empty() {
            continue;
        }
        let next = Turn { fields: calling(&content.calls), ..turn(&role, content.text) };
        // The interface takes them as one.
        match turns.last_mut().filter(|last| last.role == role && last.fields.is_empty()) {
            Some(last) => {
                last.content = format!("{}\n\n{}", last.content, next.content);
                last.fields = next.fields;
            }
            None => turns.push(next),
        }
    }
    if turns.last().is_some_and(|last| last.role == "assistant") {
        let limit = "that is not supported: the last message must be the user's";
        return Err(Fault::field("messages", "ended by an assistant's", limit));
    }
    let prompt = if unthinking { Prompt::Unthinking(turns) } else { Prompt::Messages(turns) };
    Ok((prompt, tools))
}

fn tools(fields: &mut Fields) -> Read<Tools> {
    let mut list = Vec::new();
    for (at, tool) in fields.list("tools")?.unwrap_or_default().into_iter().enumerate() {
        let mut tool = Fields::of(&format!("tools[{at}]"), tool)?;
        tool.only("type", &["custom".into()])?;
        tool.pass(&["cache_control"]);
        list.push(Tool::read(tool, "input_schema")?);
    }
    let Some(mut choice) = fields.object("tool_choice")? else {
        return Tools::new(list, Choice::Auto, false, "tool_choice");
    };
    let kind = choice.text("type")?;
    let kind = match choice.needed("type", kind)?.as_str() {
        "auto" => Choice::Auto,
        "any" => Choice::Required,
        "none" => Choice::None,
        "tool" => {
            let name = choice.text("name")?;
            Choice::Named(choice.needed("name", name)?)
        }
        other => {
            let limit = "it must be auto, any, tool or none";
            return Err(Fault::field("tool_choice.type", shown(&other.into()), limit));
        }
    };
    let is_single = choice.flag("disable_parallel_tool_use")?.unwrap_or(false);
    choice.end()?;
    Tools::new(list, kind, is_single, "tool_choice")
}

/// What a message says.
#[derive(Debug, Default)]
struct Content {
    text: String,
    calls: Vec<Call>,
    /// What was called, by its call's name, gave this.
    results: Vec<(String, String)>,
}

impl Content {
    /// A text, or blocks: of it, of calls and thoughts in an answer, which are left out as templates do, and of what calls gave.
    fn read(path: &str, content: Value, role: &str) -> Read<Self> {
        let blocks = match content {
            Value::String(text) => return Ok(Self { text, ..Self::default() }),
            Value::Array(blocks) => blocks,
            other => {
                let limit = "it must be a text or a list of blocks";
                return Err(Fault::field(path, shown(&other), limit));
            }
        };
        let mut whole = Self::default();
        for (at, block) in blocks.into_iter().enumerate() {
            let path = format!("{path}[{at}]");
            let mut block = Fields::of(&path, block)?;
            let kind = block.text("type")?;
            let kind = block.needed("type", kind)?;
            // Whatever conversations share is kept without being asked for.
            block.pass(&["cache_control"]);
            match (kind.as_str(), role) {
                ("text", _) => {
                    let text = block.text("text")?;
                    whole.text += &block.needed("text", text)?;
                    block.only("citations", &[json!([])])?;
                    block.end()?;
                }
                ("thinking", "assistant") => {}
                ("tool_use", "assistant") => whole.calls.push(called_by(block)?),
                ("tool_result", "user") => whole.results.push(result_of(block)?),
                (other, _) => {
                    let value = shown(&other.into());
                    let limit = match role {
                        "assistant" => "only text, thinking and tool_use are supported",
                        "user" => "only text and tool_result are supported",
                        _ => "only text is supported",
                    };
                    return Err(Fault::field(format!("{path}.type"), value, limit));
                }
            }
        }
        Ok(whole)
    }
}

fn called_by(mut block: Fields) -> Read<Call> {
    let (id, name) = (block.text("id")?, block.text("name")?);
    let (id, name) = (block.needed("id", id)?, block.needed("name", name)?);
    let arguments = match block.take("input") {
        None => Arguments::default(),
        Some(Value::Object(arguments)) => arguments.into(),
        Some(other) => {
            return Err(Fault::field(block.path("input"), shown(&other), "it must be an object"));
        }
    };
    block.end()?;
    Ok(Call { id, name, arguments })
}

// The name of the call, and what it gave.
fn result_of(mut block: Fields) -> Read<(String, String)> {
    let id = block.text("tool_use_id")?;
    let id = block.needed("tool_use_id", id)?;
    let path = block.path("content");
    let text = match block.take("content") {
        None => String::new(),
        Some(content) => Content::read(&path, content, "tool")?.text,
    };
    let is_error = block.flag("is_error")?.unwrap_or(false);
    block.end()?;
    // Templates have no other place for it.
    Ok((id, if is_error { format!("Error: {text}") } else { text }))
}

/// Blocks of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
}

#[derive(Debug)]
struct Message {
    naming: Naming,
    /// The block that the stream is in.
    block: Option<Block>,
    blocks: usize,
    has_calls: bool,
}

// Calls are what an answer was ended for, unless it was cut off.
fn reason(finish: &Finish, has_calls: bool) -> &'static str {
    match finish.end {
        End::StopToken if has_calls => "tool_use",
        End::StopToken | End::Cancelled => "end_turn",
        End::StopText => "stop_sequence",
        End::Length | End::ContextFull => "max_tokens",
    }
}

// The tokens that were there already are not among the input's.
fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.answer,
    })
}

/// A message, whose calls may have numbers that no [`Value`] holds.
#[derive(Serialize)]
struct Object<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Shown<'a>>,
    stop_reason: Option<&'static str>,
    stop_sequence: Option<&'a str>,
    usage: Value,
}

/// A block of a message.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Shown<'a> {
    Thinking { thinking: &'a str, signature: &'static str },
    Text { text: &'a str },
    ToolUse { id: &'a str, name: &'a str, input: &'a RawValue },
}

impl Message {
    fn object<'a>(
        &'a self,
        content: Vec<Shown<'a>>,
        used: &Usage,
        finish: Option<(&'a Finish, bool)>,
    ) -> Object<'a> {
        Object {
            id: format!("msg_{}", self.naming.id),
            kind: "message",
            role: "assistant",
            model: &self.naming.model,
            content,
            stop_reason: finish.map(|(finish, has_calls)| reason(finish, has_calls)),
            stop_sequence: finish.and_then(|(finish, _)| finish.stop.as_deref()),
            usage: usage(used),
        }
    }

    fn close(&mut self) -> Option<Frame> {
        self.block.take()?;
        self.blocks += 1;
        Some(event("content_block_stop", json!({"index": self.blocks - 1})))
    }

    // Begins a block, if the stream is not in it.
    fn open(&mut self, block: Block) -> Vec<Frame> {
        let mut frames = Vec::new();
        if self.block != Some(block) {
            frames.extend(self.close());
            self.block = Some(block);
            let empty = match block {
                Block::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
                Block::Text => json!({"type": "text", "text": ""}),
            };
            let start = json!({"index": self.blocks, "content_block": empty});
            frames.push(event("content_block_start", start));
        }
        frames
    }

    // A call is a block of its own.
    fn call(&mut self, call: &Call) -> Vec<Frame> {
        let mut frames: Vec<Frame> = self.close().into_iter().collect();
        let Call { id, name, arguments } = call;
        let empty = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
        let start = json!({"index": self.blocks, "content_block": empty});
        frames.push(event("content_block_start", start));
        let delta = json!({"type": "input_json_delta", "partial_json": arguments.text().get()});
        frames.push(event("content_block_delta", json!({"index": self.blocks, "delta": delta})));
        frames.push(event("content_block_stop", json!({"index": self.blocks})));
        self.blocks += 1;
        self.has_calls = true;
        frames
    }

    // Text of a block, which may have to be begun.
    fn delta(&mut self, block: Block, delta: &Value) -> Vec<Frame> {
        let mut frames = self.open(block);
        let delta = json!({"index": self.blocks, "delta": delta});
        frames.push(event("content_block_delta", delta));
        frames
    }
}

fn event(name: &'static str, mut value: Value) -> Frame {
    value["type"] = name.into();
    Frame::Event(name, value)
}

impl Shape for Message {
    fn begin(&mut self, prompt_tokens: u32) -> Vec<Frame> {
        // What of it was there already is not known yet; the end says it.
        let read = Usage { prompt: prompt_tokens, ..Usage::default() };
        let message = self.object(Vec::new(), &read, None);
        vec![event("message_start", json!({"message": message}))]
    }

    fn part(&mut self, part: Part) -> Vec<Frame> {
        match part {
            Part::Prefill { .. } => Vec::new(),
            Part::Reasoning(text) => {
                self.delta(Block::Thinking, &json!({"type": "thinking_delta", "thinking": text}))
            }
            Part::Text(text) => {
                self.delta(Block::Text, &json!({"type": "text_delta", "text": text.text}))
            }
            Part::Call(call) => self.call(&call),
            Part::End(finish) => {
                // An answer without calls has a text, be it empty.
                let mut frames = if self.has_calls { Vec::new() } else { self.open(Block::Text) };
                frames.extend(self.close());
                let reason = reason(&finish, self.has_calls);
                let delta = json!({"stop_reason": reason, "stop_sequence": finish.stop});
                let ended = json!({"delta": delta, "usage": usage(&finish.usage)});
                frames.push(event("message_delta", ended));
                frames.push(event("message_stop", json!({})));
                frames
            }
            Part::Failed(fault) => vec![Frame::Event("error", error(&fault))],
        }
    }

    fn whole(&self, whole: &Whole) -> String {
        let (reasoning, items) = (&whole.reasoning, whole.shown());
        let mut content = Vec::with_capacity(items.len() + 1);
        if !reasoning.is_empty() {
            content.push(Shown::Thinking { thinking: reasoning, signature: "" });
        }
        content.extend(items.iter().map(|item| match item {
            Item::Text(Text { text, .. }) => Shown::Text { text },
            Item::Call(Call { id, name, arguments }) => {
                Shown::ToolUse { id, name, input: arguments.text() }
            }
        }));
        let finish = Some((&whole.finish, whole.calls().next().is_some()));
        let object = self.object(content, &whole.finish.usage, finish);
        serde_json::to_string(&object).expect("texts and arguments are valid JSON")
    }
}
