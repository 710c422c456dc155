//! Messages, and how many tokens they have.

use super::error;
use crate::generate::{End, Turn};
use crate::server::answering::{Finish, Part, Usage, Whole};
use crate::server::ask::{Ask, Prompt, Wishes, check_model, turn};
use crate::server::fault::{Fault, Read};
use crate::server::fields::{Fields, shown};
use crate::server::frame::{Frame, Shape};
use crate::server::{Boxed, Naming};
use serde_json::{Value, json};

/// Reads a request.
pub(in crate::server) fn read(body: &[u8], naming: &Naming) -> Read<(Ask, Boxed)> {
    let mut fields = Fields::body(body)?;
    let prompt = conversation(&mut fields, naming)?;
    let max_tokens = fields.tokens("max_tokens")?;
    let max_tokens = Some(fields.needed("max_tokens", max_tokens)?);
    let stop = Wishes::read_stops(&mut fields, "stop_sequences")?;
    let wishes = Wishes { max_tokens, stop, ..Wishes::read(&mut fields, 1.0)? };
    let stream = fields.flag("stream")?.unwrap_or(false);
    fields.pass(&["metadata"]);
    fields.only("service_tier", &["auto".into(), "standard_only".into()])?;
    fields.end()?;
    let shape = Message { naming: naming.clone(), block: None, blocks: 0 };
    Ok((Ask { prompt, wishes, stream }, Box::new(shape)))
}

/// Reads a question how many tokens a conversation has.
pub(in crate::server) fn count(body: &[u8], naming: &Naming) -> Read<Prompt> {
    let mut fields = Fields::body(body)?;
    let prompt = conversation(&mut fields, naming)?;
    fields.end()?;
    Ok(prompt)
}

fn conversation(fields: &mut Fields, naming: &Naming) -> Read<Prompt> {
    check_model(fields, &naming.model)?;
    let messages = fields.list("messages")?;
    let messages = fields.needed("messages", messages)?;
    if messages.is_empty() {
        return Err(Fault::field("messages", "[]", "at least one is needed"));
    }
    fields.only("tools", &[json!([])])?;
    fields.only("tool_choice", &[json!({"type": "none"}), json!({"type": "auto"})])?;
    let unthinking = fields.turned_off("thinking", &json!({"type": "disabled"}))?;
    let mut turns: Vec<Turn> = Vec::new();
    if let Some(system) = fields.take("system") {
        turns.push(turn("system", text("system", system, false)?));
    }
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
        let content = text(&fields.path("content"), content, role == "assistant")?;
        fields.end()?;
        // The interface takes them as one.
        match turns.last_mut().filter(|last| last.role == role) {
            Some(last) => last.content = format!("{}\n\n{content}", last.content),
            None => turns.push(turn(&role, content)),
        }
    }
    if turns.last().is_some_and(|last| last.role == "assistant") {
        let limit = "that is not supported: the last message must be the user's";
        return Err(Fault::field("messages", "ended by an assistant's", limit));
    }
    Ok(if unthinking { Prompt::Unthinking(turns) } else { Prompt::Messages(turns) })
}

/// The text of a message: a text, or blocks of it; of an answer also thoughts, which are left out as templates do.
fn text(path: &str, content: Value, is_answer: bool) -> Read<String> {
    let blocks = match content {
        Value::String(text) => return Ok(text),
        Value::Array(blocks) => blocks,
        other => {
            return Err(Fault::field(path, shown(&other), "it must be a text or a list of blocks"));
        }
    };
    let mut whole = String::new();
    for (at, block) in blocks.into_iter().enumerate() {
        let path = format!("{path}[{at}]");
        let mut block = Fields::of(&path, block)?;
        let kind = block.text("type")?;
        match block.needed("type", kind)?.as_str() {
            "text" => {
                let text = block.text("text")?;
                whole += &block.needed("text", text)?;
                // Whatever conversations share is kept without being asked for.
                block.pass(&["cache_control"]);
                block.only("citations", &[json!([])])?;
                block.end()?;
            }
            "thinking" if is_answer => {}
            other => {
                let value = shown(&other.into());
                return Err(Fault::field(format!("{path}.type"), value, "only text is supported"));
            }
        }
    }
    Ok(whole)
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
}

fn reason(finish: &Finish) -> &'static str {
    match finish.end {
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

impl Message {
    fn object(&self, content: Value, used: &Usage, finish: Option<&Finish>) -> Value {
        json!({
            "id": format!("msg_{}", self.naming.id),
            "type": "message",
            "role": "assistant",
            "model": self.naming.model,
            "content": content,
            "stop_reason": finish.map(reason),
            "stop_sequence": finish.and_then(|finish| finish.stop.as_deref()),
            "usage": usage(used),
        })
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
        let message = self.object(json!([]), &read, None);
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
            Part::End(finish) => {
                // An answer has a text, be it empty.
                let mut frames = self.open(Block::Text);
                frames.extend(self.close());
                let delta = json!({"stop_reason": reason(&finish), "stop_sequence": finish.stop});
                let ended = json!({"delta": delta, "usage": usage(&finish.usage)});
                frames.push(event("message_delta", ended));
                frames.push(event("message_stop", json!({})));
                frames
            }
            Part::Failed(fault) => vec![Frame::Event("error", error(&fault))],
        }
    }

    fn whole(&self, whole: &Whole) -> Value {
        let mut content = Vec::new();
        if !whole.reasoning.is_empty() {
            content.push(json!({"type": "thinking", "thinking": whole.reasoning, "signature": ""}));
        }
        content.push(json!({"type": "text", "text": whole.text.text}));
        self.object(content.into(), &whole.finish.usage, Some(&whole.finish))
    }
}
