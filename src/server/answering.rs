//! One answer on its way from the batcher to an interface.

use super::calls::{Calls, Said};
use super::fault::{Fault, Kind, Read};
use super::logprobs::Entry;
use super::reasoning::{Reasoning, Told};
use super::slots::Slot;
use super::tools::Call;
use crate::generate::{End, Piece};
use crate::model::Tokenizer;
use crate::serve::{Ended, Event, Events};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Tokens that were read and made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) prompt: u32,
    /// Of these, those that were there already.
    pub(super) cached: u32,
    pub(super) answer: u32,
    /// Of these, those of reasoning.
    pub(super) reasoning: u32,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finish {
    pub(super) end: End,
    /// The stop text that ended it.
    pub(super) stop: Option<String>,
    pub(super) usage: Usage,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    /// The prompt goes on: tokens that were there already, computed so far, and all.
    Prefill {
        reused: u32,
        computed: u32,
        all: u32,
    },
    Reasoning(String),
    Text(Text),
    Call(Call),
    End(Finish),
    Failed(Fault),
}

/// A part of the answer's text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Text {
    pub(super) text: String,
    /// Of the tokens that came with it, where they are asked for. What a token adds may be held back, so that it may lack behind.
    pub(super) logprobs: Vec<Entry>,
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self { text, logprobs: Vec::new() }
    }
}

/// What a whole answer says, in its order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    Text(Text),
    Call(Call),
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Whole {
    pub(super) reasoning: String,
    pub(super) items: Vec<Item>,
    pub(super) finish: Finish,
}

impl Whole {
    /// All of its text.
    pub(super) fn all_text(&self) -> Text {
        let mut all = Text::default();
        for item in &self.items {
            if let Item::Text(Text { text, logprobs }) = item {
                all.text += text;
                all.logprobs.extend_from_slice(logprobs);
            }
        }
        all
    }

    /// Its calls.
    pub(super) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.items.iter().filter_map(|item| match item {
            Item::Call(call) => Some(call),
            Item::Text(_) => None,
        })
    }

    /// Its texts and calls, where they have places of their own: what has no text is none, but an answer without calls has one.
    pub(super) fn shown(&self) -> Vec<Item> {
        let is_shown = |item: &&Item| !matches!(item, Item::Text(text) if text.text.is_empty());
        let mut shown: Vec<Item> = self.items.iter().filter(is_shown).cloned().collect();
        if shown.is_empty() {
            shown.push(Item::Text(Text::default()));
        }
        shown
    }
}

// Text behind text is one.
fn add(items: &mut Vec<Item>, more: Text) {
    match items.last_mut() {
        Some(Item::Text(text)) => {
            text.text += &more.text;
            text.logprobs.extend(more.logprobs);
        }
        _ => items.push(Item::Text(more)),
    }
}

/// What tells the parts of an answer's text from one another.
pub(super) struct Telling {
    pub(super) reasoning: Reasoning,
    /// Where tools may be called.
    pub(super) calls: Option<Calls>,
    pub(super) stops: Vec<String>,
    /// Control tokens that are part of the text.
    pub(super) shown: Vec<u32>,
}

/// An answer in the making. Dropping it cancels it.
pub(super) struct Answering {
    events: Events,
    tokenizer: Arc<Tokenizer>,
    telling: Telling,
    tokens: Vec<u32>,
    reasoning_tokens: u32,
    shown: usize,
    ready: VecDeque<Part>,
    is_over: bool,
    deadline: Option<Instant>,
    longest: Duration,
    ending: watch::Receiver<bool>,
    slot: Slot,
}

impl Answering {
    pub(super) fn new(
        events: Events,
        tokenizer: Arc<Tokenizer>,
        telling: Telling,
        longest: Duration,
        ending: watch::Receiver<bool>,
        slot: Slot,
    ) -> Self {
        Self {
            events,
            tokenizer,
            telling,
            tokens: Vec::new(),
            reasoning_tokens: 0,
            shown: 0,
            ready: VecDeque::new(),
            is_over: false,
            // None where it is further away than a clock goes.
            deadline: Instant::now().checked_add(longest),
            longest,
            ending,
            slot,
        }
    }

    /// The next part; `None` after the last. Nothing is lost where this is dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<Part> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Some(part);
            }
            if self.is_over {
                return None;
            }
            let late = async {
                match self.deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.events.next() => self.take(event),
                () = late => {
                    let seconds = self.longest.as_secs();
                    let message = format!("the answer took more than {seconds} seconds, which is the longest it may");
                    self.fail(Fault::new(Kind::TimedOut, message));
                }
                () = ending(&mut self.ending) => {
                    self.fail(Fault::new(Kind::Stopping, "the server stops"));
                }
            }
        }
    }

    /// All of it.
    pub(super) async fn whole(mut self) -> Read<Whole> {
        let (mut reasoning, mut items) = (String::new(), Vec::new());
        while let Some(part) = self.next().await {
            match part {
                Part::Prefill { .. } => {}
                Part::Reasoning(more) => reasoning += &more,
                Part::Text(more) => add(&mut items, more),
                Part::Call(call) => items.push(Item::Call(call)),
                Part::End(finish) => return Ok(Whole { reasoning, items, finish }),
                Part::Failed(fault) => return Err(fault),
            }
        }
        Err(Fault::new(Kind::Broken, "the answer has no end"))
    }

    fn fail(&mut self, fault: Fault) {
        self.is_over = true;
        self.ready.push_back(Part::Failed(fault));
    }

    fn take(&mut self, event: Option<Event>) {
        match event {
            None => self.fail(Fault::new(
                Kind::Broken,
                "the answer broke off: no steps are taken any more",
            )),
            Some(Event::Failed(error)) => self.fail(Fault::of_answer(error)),
            Some(Event::Prefill { reused, computed, all }) => {
                self.slot.prefill(reused, computed, all);
                self.ready.push_back(Part::Prefill { reused, computed, all });
            }
            Some(Event::Piece(piece)) => self.piece(&piece),
            Some(Event::End(ended)) => self.end(&ended),
        }
    }

    fn piece(&mut self, piece: &Piece) {
        self.tokens.extend(&piece.tokens);
        self.slot.answered(self.tokens.len() as u32);
        self.shown += piece.text.len();
        let reasoning = &mut self.telling.reasoning;
        let was_inside = reasoning.is_inside();
        let told = reasoning.push(&piece.text);
        let mut logprobs = Vec::new();
        if was_inside || reasoning.is_inside() {
            self.reasoning_tokens += piece.tokens.len() as u32;
        } else {
            logprobs.extend(piece.logprobs.iter().map(|one| Entry::new(one, &self.tokenizer)));
        }
        let said = self.tell(told);
        self.say(said, logprobs);
    }

    // Tells reasoning, and what the answer says.
    fn tell(&mut self, told: Told) -> Vec<Said> {
        let Told { reasoning, answer } = told;
        self.ready.extend((!reasoning.is_empty()).then_some(Part::Reasoning(reasoning)));
        match &mut self.telling.calls {
            Some(calls) => calls.push(&answer),
            None if answer.is_empty() => Vec::new(),
            None => vec![Said::Text(answer)],
        }
    }

    // The log-probabilities come with the first text, which may be empty.
    fn say(&mut self, mut said: Vec<Said>, mut logprobs: Vec<Entry>) {
        if !logprobs.is_empty() && !matches!(said.first(), Some(Said::Text(_))) {
            said.insert(0, Said::Text(String::new()));
        }
        self.ready.extend(said.into_iter().map(|one| match one {
            Said::Call(call) => Part::Call(call),
            Said::Text(text) => Part::Text(Text { text, logprobs: std::mem::take(&mut logprobs) }),
        }));
    }

    fn end(&mut self, ended: &Ended) {
        let told = self.telling.reasoning.finish();
        let mut said = self.tell(told);
        if let Some(calls) = &mut self.telling.calls {
            said.extend(calls.finish(ended.end != End::StopToken));
        }
        self.say(said, Vec::new());
        let stop = (ended.end == End::StopText).then(|| self.stop_text()).flatten();
        let usage = Usage {
            prompt: ended.prompt_tokens,
            cached: ended.reused_tokens,
            answer: ended.answer_tokens,
            reasoning: self.reasoning_tokens,
        };
        self.slot.ended(ended);
        self.is_over = true;
        self.ready.push_back(Part::End(Finish { end: ended.end, stop, usage }));
    }

    // The stop text that follows what was shown.
    fn stop_text(&self) -> Option<String> {
        let mut decoder = self.tokenizer.decoder(true).showing(self.telling.shown.clone());
        let mut text: String = self.tokens.iter().map(|token| decoder.push(*token)).collect();
        text += &decoder.finish();
        let rest = text.get(self.shown..)?;
        self.telling.stops.iter().find(|stop| rest.starts_with(stop.as_str())).cloned()
    }
}

// An error says that the server is gone.
async fn ending(is_ending: &mut watch::Receiver<bool>) {
    let _ = is_ending.wait_for(|ending| *ending).await;
}
