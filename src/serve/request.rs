//! What is asked of a batcher, and what comes back.

use crate::Error;
use crate::generate::{AnswerOptions, End, Piece};
use futures::channel::mpsc::UnboundedReceiver;
use futures::{Stream, StreamExt};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// A prompt to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// How the answer is made. Its attention is the batcher's.
    pub options: AnswerOptions,
    /// Higher ones go first, and take the place of lower ones if need be. 0 is usual.
    pub priority: i32,
}

impl Request {
    /// A request of usual priority.
    pub fn new(prompt: Vec<u32>, options: AnswerOptions) -> Self {
        Self { prompt, options, priority: 0 }
    }
}

/// What happens to a request.
#[derive(Debug)]
pub enum Event {
    /// Its prompt goes on.
    Prefill {
        /// Tokens that were there already.
        reused: u32,
        /// Tokens computed so far, without these.
        computed: u32,
        /// All tokens of the prompt.
        all: u32,
    },
    /// A part of the answer.
    Piece(Piece),
    /// The answer ended. Nothing follows.
    End(Ended),
    /// It failed. Nothing follows.
    Failed(Error),
}

/// An answer that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Why.
    pub end: End,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, those that were there already when it began.
    pub reused_tokens: u32,
    /// Tokens of the answer, without the one that ended it, but with those of a stop text.
    pub answer_tokens: u32,
    /// How often it gave its blocks back and began anew.
    pub preempted: u32,
    /// Time until it was begun.
    pub queued: Duration,
    /// Time until its first token.
    pub first_token: Duration,
    /// Time until its end.
    pub total: Duration,
}

/// The events of one request, in order. Dropping them cancels the request: its blocks are free by the next step.
#[derive(Debug)]
pub struct Events {
    pub(super) events: UnboundedReceiver<Event>,
}

impl Events {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.next().await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_next_unpin(context)
    }
}
