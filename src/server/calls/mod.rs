//! Calls of tools, told from an answer's text.
//!
//! A model writes them as its template taught it: each way is a [`Format`], a file of its own here. What looks like a call and is none
//! stays text.

mod end;
mod forced;
mod glm;
mod llama;
mod mistral;
mod qwen;
#[cfg(test)]
mod tests;

use super::tools::{Arguments, Call, Tools};
use crate::model::{Tokenizer, random_seed};
use end::{End, Search};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// All ways, of which the first counts whose words a template has.
const FORMATS: [&Format; 4] = [&glm::FORMAT, &qwen::FORMAT, &mistral::FORMAT, &llama::FORMAT];

/// How a family of models writes calls.
#[derive(Debug)]
pub(super) struct Format {
    /// Words that its templates have, all of them.
    words: &'static [&'static str],
    begins: Begins,
    /// What ends a call; without it the answer's end does.
    ends: Option<End>,
    /// Other words of calls that may be tokens.
    marks: &'static [&'static str],
    /// Reads what is between.
    read: fn(&str, &Tools) -> Found,
}

/// Where calls begin.
#[derive(Clone, Copy, Debug)]
enum Begins {
    /// Behind this text, wherever it is.
    Mark(&'static str),
    /// With an answer that begins with this text.
    Answer(&'static str),
}

/// What was read of a text that may be calls.
#[derive(Debug, PartialEq)]
enum Found {
    Calls(Vec<Call>),
    /// More has to come before that can be said.
    Part,
    /// It is none.
    Text,
}

impl Format {
    /// The way of answers that may call these tools, by the template with this source; answers that have to be one call have their own.
    pub(super) fn of(source: &str, tools: &Tools) -> Option<&'static Self> {
        if tools.are_forced() {
            return Some(&forced::FORMAT);
        }
        // Qwen3-Coder's calls have the marks of Qwen's, and no JSON between them.
        if source.contains("<function=") {
            return None;
        }
        FORMATS.into_iter().find(|format| format.words.iter().all(|word| source.contains(word)))
    }

    /// The control tokens by which calls are told from text.
    pub(super) fn tokens(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let begins = match self.begins {
            Begins::Mark(mark) => Some(mark),
            Begins::Answer(_) => None,
        };
        let ends = self.ends.as_ref().map(|end| end.mark);
        let marks = begins.iter().chain(&ends).chain(self.marks);
        let token = |mark: &&str| match tokenizer.encode(mark, true).as_deref() {
            Ok(&[token]) => Some(token),
            _ => None,
        };
        marks.filter_map(token).collect()
    }
}

/// A call of a tool that there is; `None` for others.
fn call(tools: &Tools, name: &str, arguments: Arguments) -> Option<Call> {
    tools.tool(name)?;
    // Nine letters and digits: some templates take no other names.
    let mut number = random_seed() << 32 | random_seed();
    let mut digit = || {
        let digit = char::from_digit((number % 36) as u32, 36);
        number /= 36;
        digit
    };
    let id = (0..9).filter_map(|_| digit()).collect();
    Some(Call { id, name: name.to_owned(), arguments })
}

/// An object as a model writes it.
type Written<'a> = BTreeMap<String, &'a RawValue>;

/// A call as JSON: a name, and arguments or parameters, whose text is the model's own.
fn json_call(tools: &Tools, written: &Written<'_>) -> Option<Call> {
    let text = written.get("arguments").or_else(|| written.get("parameters"));
    let arguments = match text.map(|text| text.get()) {
        None | Some("null") => Arguments::default(),
        // JSON in a text.
        Some(text) if text.starts_with('"') => {
            Arguments::read(&serde_json::from_str::<String>(text).ok()?).ok()?
        }
        Some(text) => Arguments::read(text).ok()?,
    };
    let name: String = serde_json::from_str(written.get("name")?.get()).ok()?;
    call(tools, &name, arguments)
}

/// A text that is one call as JSON.
fn read_json(text: &str, tools: &Tools) -> Found {
    match serde_json::from_str::<Written<'_>>(text).map(|written| json_call(tools, &written)) {
        Ok(Some(call)) => Found::Calls(vec![call]),
        Ok(None) => Found::Text,
        // Only a text can have the mark of an end in it.
        Err(error) if error.to_string().starts_with("EOF while parsing a string") => Found::Part,
        Err(_) => Found::Text,
    }
}

/// What a part of an answer is.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    Text(String),
    Call(Call),
}

/// Tells calls from text, piece by piece.
#[derive(Debug)]
pub(super) struct Calls {
    format: &'static Format,
    tools: Tools,
    at: At,
    /// The end of what came, which may belong to a call.
    held: String,
    /// Before a call, the bytes of it that are known to be blanks.
    blank: usize,
    /// Of a call, how far an end was looked for, and how much of it was read in vain.
    search: Search,
    read: usize,
    found: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before anything but blanks: at the beginning, and behind a call.
    Start,
    Text,
    Call,
}

impl Calls {
    /// For answers that may call these tools in this way.
    pub(super) fn new(format: &'static Format, tools: Tools) -> Self {
        Self {
            format,
            tools,
            at: At::Start,
            held: String::new(),
            blank: 0,
            search: Search::default(),
            read: 0,
            found: 0,
        }
    }

    /// Takes a piece.
    pub(super) fn push(&mut self, piece: &str) -> Vec<Said> {
        self.held.push_str(piece);
        let mut said = Vec::new();
        loop {
            let goes_on = match self.at {
                At::Start | At::Text => self.text(&mut said),
                At::Call => self.call(&mut said),
            };
            if !goes_on {
                return said;
            }
        }
    }

    // Whether a call begins in what is held. Blanks before it are not part of the text.
    fn text(&mut self, said: &mut Vec<Said>) -> bool {
        let rest = &self.held[self.blank..];
        // Where a call begins; what of the rest is text in any case; and what at its end may begin a call.
        let (begin, text, part) = match self.format.begins {
            Begins::Mark(mark) => {
                let is_part = |part: &usize| rest.ends_with(&mark[..*part]);
                let part = (1..mark.len()).rev().find(is_part).unwrap_or(0);
                let text = rest[..rest.len() - part].trim_end().len();
                (rest.find(mark).map(|at| self.blank + at), text, part)
            }
            Begins::Answer(begin) => {
                let text = rest.trim_start();
                let is_start = self.at == At::Start;
                let begins = is_start && text.starts_with(begin);
                let may_begin = is_start && begin.starts_with(text);
                let (text, part) = if may_begin { (0, text.len()) } else { (rest.len(), 0) };
                (begins.then_some(0), text, part)
            }
        };
        if let Some(begin) = begin {
            let before = self.held[..begin].trim_end().to_owned();
            self.held.drain(..begin);
            said.extend((!before.is_empty()).then_some(Said::Text(before)));
            (self.at, self.blank) = (At::Call, 0);
            (self.search, self.read) = (Search::from(self.begin()), 0);
            return true;
        }
        let text = if text == 0 { 0 } else { self.blank + text };
        let text: String = self.held.drain(..text).collect();
        self.blank = self.held.len() - part;
        if !text.is_empty() {
            self.at = At::Text;
            said.push(Said::Text(text));
        }
        false
    }

    // Whether a call ends in what is held, which begins with it.
    fn call(&mut self, said: &mut Vec<Said>) -> bool {
        let Some(end) = &self.format.ends else { return false };
        let from = self.begin();
        while let Some(end::Ending { behind, is_quoted }) = self.search.next(end, &self.held) {
            // It may be an argument that has the end in it, or one whose own end was forgotten. What is twice as long as before tells
            // these apart, so that all reading takes no longer than the last does.
            if is_quoted && behind < 2 * self.read {
                continue;
            }
            let text = &self.held[from..behind - end.mark.len()];
            let found = (self.format.read)(text, &self.tools);
            if found == Found::Part {
                self.read = behind;
                continue;
            }
            let text: String = self.held.drain(..behind).collect();
            self.tell(found, text, said);
            self.at = At::Start;
            return true;
        }
        false
    }

    // The bytes that are held before a call's own.
    fn begin(&self) -> usize {
        match self.format.begins {
            Begins::Mark(mark) => mark.len(),
            Begins::Answer(_) => 0,
        }
    }

    fn tell(&mut self, found: Found, text: String, said: &mut Vec<Said>) {
        match found {
            Found::Calls(calls) => {
                for call in calls {
                    if self.found == 0 || !self.tools.are_single() {
                        said.push(Said::Call(call));
                    }
                    self.found += 1;
                }
            }
            Found::Part | Found::Text => said.push(Said::Text(text)),
        }
    }

    /// What was held back, once nothing follows, since the answer ended or was cut off.
    pub(super) fn finish(&mut self, is_cut: bool) -> Vec<Said> {
        let mut said = Vec::new();
        if self.at == At::Call {
            // Of a call that is cut off arguments may be missing.
            let found = match is_cut && self.format.ends.is_some() {
                true => Found::Text,
                false => (self.format.read)(self.held[self.begin()..].trim(), &self.tools),
            };
            let text = std::mem::take(&mut self.held);
            self.tell(found, text, &mut said);
        }
        let rest = std::mem::take(&mut self.held);
        // Blanks behind a call are no text.
        let is_blank = self.found > 0 && self.at == At::Start && rest.trim().is_empty();
        if !rest.is_empty() && !is_blank {
            said.push(Said::Text(rest));
        }
        said
    }
}
