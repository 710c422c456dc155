//! The origin of each part of a rendered conversation: its messages, or the template.
//!
//! A template makes one text of both, with operations of any kind, so where a character came from has to travel with it:
//! before a character of a message that could begin or end a control token a sign is put, one that occurs in no text,
//! and after rendering it is taken out again. What had a sign is no part of a control token.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use super::{Message, Said};
use crate::model::tokenizer::{Piece, Tokenizer};
use crate::{Error, Result};
use serde_json::Value;

/// A conversation as one text, and where it came from as far as that matters.
#[derive(Debug, PartialEq, Eq)]
pub struct Framed {
    pub text: String,
    /// Characters of messages with which no control token may begin or end, in order.
    pub said: Vec<Range<usize>>,
}

impl Framed {
    /// A rendered text whose signs are taken out.
    pub fn from_signed(rendered: &str, sign: char) -> Self {
        let mut parts = rendered.split(sign);
        let mut text = parts.next().unwrap_or_default().to_owned();
        let mut said: Vec<Range<usize>> = Vec::new();
        for part in parts {
            let from = text.len();
            let to = from + part.chars().next().map_or(0, char::len_utf8);
            match said.last_mut() {
                Some(last) if last.end == from => last.end = to,
                _ => said.push(from..to),
            }
            text.push_str(part);
        }
        Self { text, said }
    }

    /// The text for the tokenizer.
    pub fn pieces(&self) -> Vec<Piece<'_>> {
        let mut pieces = Vec::with_capacity(2 * self.said.len() + 1);
        let mut from = 0;
        for range in &self.said {
            pieces.push(Piece { text: &self.text[from..range.start], control: true });
            pieces.push(Piece { text: &self.text[range.clone()], control: false });
            from = range.end;
        }
        pieces.push(Piece { text: &self.text[from..], control: true });
        pieces
    }
}

/// Which characters of messages get a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// Every one that begins or ends a control token, so that none can be pieced together either.
    Edges,
    /// The second of each control token that is spelled out, so that the template does not take it
    /// for one either. All other texts that a template may look for, such as `</think>`, stay whole.
    Spelled,
}

/// The messages and the tools with signs; `None` if there is nothing to sign.
///
/// Marks of thoughts in the model's own answers get none: the model wrote them, and the template looks for them to cut
/// earlier thoughts out.
pub fn sign(
    said: Said<'_>,
    tokenizer: &Tokenizer,
    which: Signed,
    sign: char,
) -> Option<(Vec<Message>, Vec<Value>)> {
    let control: Vec<&str> = tokenizer.control_tokens().collect();
    let is_thought = |token: &&&str| token.to_lowercase().contains("think");
    let thoughts: Vec<&str> = control.iter().filter(is_thought).copied().collect();
    let begins: HashSet<char> = control.iter().filter_map(|token| token.chars().next()).collect();
    let ends: HashSet<char> = control.iter().filter_map(|token| token.chars().last()).collect();
    let mut is_any = false;
    let mut signed = |content: &str, is_answer: bool| {
        let thoughts = if is_answer { &*thoughts } else { &[] };
        let mut text = String::with_capacity(content.len());
        let (mut thought_ends, mut is_next) = (0, false);
        for (at, symbol) in content.char_indices() {
            let rest = &content[at..];
            if let Some(thought) = thoughts.iter().find(|thought| rest.starts_with(**thought)) {
                thought_ends = at + thought.len();
            }
            let is_own = at < thought_ends;
            let is_begun = begins.contains(&symbol) && !is_own;
            let is_edge = is_begun || ends.contains(&symbol) && !is_own;
            if is_next || which == Signed::Edges && is_edge {
                is_any = true;
                text.push(sign);
            }
            text.push(symbol);
            is_next = which == Signed::Spelled
                && is_begun
                && control.iter().any(|token| rest.starts_with(token));
        }
        text
    };
    let (mut messages, mut tools) = (said.messages.to_vec(), said.tools.to_vec());
    for Message { role, content, fields } in &mut messages {
        *content = signed(content, role == "assistant");
        fields.values_mut().for_each(|value| change(value, &mut |text| signed(text, false)));
    }
    tools.iter_mut().for_each(|value| change(value, &mut |text| signed(text, false)));
    is_any.then_some((messages, tools))
}

// Changes all texts of a value, and names of its fields but those that are plain words, which templates look for.
fn change(value: &mut Value, by: &mut impl FnMut(&str) -> String) {
    match value {
        Value::String(text) => *text = by(text),
        Value::Array(items) => items.iter_mut().for_each(|item| change(item, by)),
        Value::Object(fields) => {
            let is_word = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let each = std::mem::take(fields).into_iter().map(|(name, mut value)| {
                change(&mut value, by);
                (if is_word(&name) { name } else { by(&name) }, value)
            });
            *fields = each.collect();
        }
        _ => {}
    }
}

/// All texts that callers wrote, however they are put together.
pub fn texts(said: Said<'_>) -> impl Iterator<Item = &str> {
    let contents = said.messages.iter().map(|message| message.content.as_str());
    let values = said.messages.iter().flat_map(|message| message.fields.values());
    let mut within = Vec::new();
    values.chain(said.tools).for_each(|value| collect(value, &mut within));
    contents.chain(within)
}

fn collect<'a>(value: &'a Value, to: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => to.push(text),
        Value::Array(items) => items.iter().for_each(|item| collect(item, to)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            to.push(name);
            collect(value, to);
        }),
        _ => {}
    }
}

/// A character that is in none of the texts.
pub fn unused<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<char> {
    // Noncharacters and private use: no text needs them, but any can have them.
    let all = || {
        ('\u{FDD0}'..='\u{FDEF}').chain('\u{E000}'..='\u{F8FF}').chain('\u{F0000}'..='\u{10FFFD}')
    };
    let candidates = |symbol: &char| matches!(symbol, '\u{E000}'..='\u{F8FF}' | '\u{FDD0}'..='\u{FDEF}' | '\u{F0000}'..);
    let used: BTreeSet<char> = texts.into_iter().flat_map(str::chars).filter(candidates).collect();
    all().find(|symbol| !used.contains(symbol)).ok_or_else(|| {
        let limit = "one has to be left over to tell the messages from the template";
        Error::argument("the private characters of Unicode in the conversation", "all", limit)
    })
}

#[cfg(test)]
mod tests;
