//! Server-sent events.

use super::answering::{Part, Whole};
use serde_json::Value;
use std::fmt;

/// An event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Frame {
    /// An object.
    Data(Value),
    /// An object with the event's name, which is its type too.
    Event(&'static str, Value),
    /// What clients pass over.
    Comment(String),
    /// The end, as OpenAI has it.
    Done,
}

impl fmt::Display for Frame {
    // JSON has no line ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(value) => write!(f, "data: {value}\n\n"),
            Self::Event(name, value) => write!(f, "event: {name}\ndata: {value}\n\n"),
            Self::Comment(text) => write!(f, ": {text}\n\n"),
            Self::Done => f.write_str("data: [DONE]\n\n"),
        }
    }
}

/// The shape that an interface gives an answer.
pub(super) trait Shape: Send {
    /// What a stream begins with, whose prompt has so many tokens.
    fn begin(&mut self, prompt_tokens: u32) -> Vec<Frame>;
    /// A part of a stream; the last one is [`Part::End`] or [`Part::Failed`].
    fn part(&mut self, part: Part) -> Vec<Frame>;
    /// An answer at once, as JSON.
    fn whole(&self, whole: &Whole) -> String;
}
