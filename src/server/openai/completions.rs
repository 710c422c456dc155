//! `/v1/completions`.

use super::{common, error, logprobs, reason, routed, stream, usage};
use crate::server::answering::{Finish, Part, Text, Whole};
use crate::server::ask::{Ask, Prompt, Wishes, check_model};
use crate::server::fault::{Fault, Read};
use crate::server::fields::{Fields, shown};
use crate::server::frame::{Frame, Shape};
use crate::server::logprobs::Entry;
use crate::server::tools::Tools;
use crate::server::{Boxed, Naming};
use serde_json::{Value, json};

/// Tokens of an answer where a request says nothing of them: the interface's own default.
const MOST_TOKENS: u32 = 16;

/// Reads a request.
pub(in crate::server) fn read(body: &[u8], naming: &Naming) -> Read<(Ask, Boxed)> {
    let mut fields = Fields::body(body)?;
    check_model(&mut fields, &naming.model)?;
    let prompt = fields.take("prompt");
    let prompt = prompt_of(fields.needed("prompt", prompt)?)?;
    let (stream, include_usage) = stream(&mut fields)?;
    let max_tokens = Some(fields.tokens("max_tokens")?.unwrap_or(MOST_TOKENS));
    let logprobs = logprobs::read_completion(&mut fields)?;
    let wishes = Wishes { max_tokens, logprobs, ..Wishes::read_open_ai(&mut fields)? };
    common(&mut fields)?;
    routed(&mut fields)?;
    fields.only("best_of", &[1.into()])?;
    fields.only("echo", &[false.into()])?;
    fields.only("logit_bias", &[json!({})])?;
    fields.only("suffix", &["".into()])?;
    fields.end()?;
    let has_logprobs = logprobs.is_some();
    let shape = Completion { naming: naming.clone(), include_usage, has_logprobs, characters: 0 };
    let tools = Tools::default();
    Ok((Ask { prompt, wishes, tools, stream }, Box::new(shape)))
}

// A text, tokens, or a list of one of these.
fn prompt_of(value: Value) -> Read<Prompt> {
    let limit = "it must be one text, or a list of whole numbers, the tokens";
    match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(list) if list.len() == 1 && !list[0].is_number() => {
            prompt_of(list.into_iter().next().unwrap_or_default())
        }
        Value::Array(list) => {
            let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
            let tokens: Option<Vec<u32>> = list.iter().map(token).collect();
            let refusal = || Fault::field("prompt", shown(&Value::Array(list)), limit);
            tokens.map(Prompt::Tokens).ok_or_else(refusal)
        }
        other => Err(Fault::field("prompt", shown(&other), limit)),
    }
}

#[derive(Debug)]
pub(super) struct Completion {
    pub(super) naming: Naming,
    pub(super) include_usage: bool,
    pub(super) has_logprobs: bool,
    /// Those of the stream so far, by its tokens.
    pub(super) characters: usize,
}

impl Completion {
    fn object(&self, choices: Value, used: Option<Value>) -> Value {
        let Naming { id, created, model } = &self.naming;
        let mut object = json!({
            "id": format!("cmpl-{id}"),
            "object": "text_completion",
            "created": created,
            "model": model,
            "choices": choices,
        });
        if let Some(used) = used {
            object["usage"] = used;
        }
        object
    }

    fn chunk(&self, text: &str, logprobs: &[Entry], finish: Option<&str>) -> Frame {
        let none = self.include_usage.then_some(Value::Null);
        Frame::Data(self.object(self.choices(text, logprobs, finish), none))
    }

    fn choices(&self, text: &str, entries: &[Entry], finish: Option<&str>) -> Value {
        let logprobs = match self.has_logprobs {
            true => logprobs::of_completion(entries, self.characters),
            false => Value::Null,
        };
        json!([{"text": text, "index": 0, "logprobs": logprobs, "finish_reason": finish}])
    }
}

impl Shape for Completion {
    fn begin(&mut self, _: u32) -> Vec<Frame> {
        Vec::new()
    }

    fn part(&mut self, part: Part) -> Vec<Frame> {
        match part {
            // Nothing calls tools that nobody names.
            Part::Prefill { .. } | Part::Call(_) => Vec::new(),
            // Who writes the prompt gets all that follows it.
            Part::Reasoning(text) => vec![self.chunk(&text, &[], None)],
            Part::Text(Text { text, logprobs }) => {
                let frame = self.chunk(&text, &logprobs, None);
                self.characters += logprobs.iter().map(logprobs::begun).sum::<usize>();
                vec![frame]
            }
            Part::End(Finish { end, usage: used, .. }) => {
                let mut frames = vec![self.chunk("", &[], Some(reason(end, false)))];
                if self.include_usage {
                    frames.push(Frame::Data(self.object(json!([]), Some(usage(&used)))));
                }
                frames.push(Frame::Done);
                frames
            }
            Part::Failed(fault) => vec![Frame::Data(error(&fault))],
        }
    }

    fn whole(&self, whole: &Whole) -> String {
        let Finish { end, usage: used, .. } = &whole.finish;
        let Text { text, logprobs } = whole.all_text();
        let choices = self.choices(&text, &logprobs, Some(reason(*end, false)));
        self.object(choices, Some(usage(used))).to_string()
    }
}
