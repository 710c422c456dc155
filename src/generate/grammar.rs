//! What an answer has to be: which tokens may come next.
//!
//! The grammar is llguidance's. What may come after a token is worked out on another thread, while the GPU works on the step that
//! computes the token.

use super::thoughts::{Marks, Place};
use crate::model::Tokenizer;
use crate::{Error, Result, subject};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{
    ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie,
};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::Value;
use std::fmt;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// What stands for a stop token where a model has none.
const NO_TOKEN: u32 = u32::MAX;

/// Blanks between two signs of JSON: enough for deep indents, and too few for an answer to be filled with them.
const BLANKS: &str = r"[\x20\x0A\x0D\x09]{1,64}";

/// Tokens by their bytes, as grammars need them: made once a tokenizer.
pub(super) struct Spelling(ParserFactory);

impl Spelling {
    pub(super) fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let size = tokenizer.vocabulary_size() as u32;
        // A word without bytes is never allowed: a control token, or one whose first byte no text has, which would mark a control token.
        let word = |id: u32| {
            let mut bytes = tokenizer.bytes(id, true);
            if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                bytes.clear();
            }
            bytes
        };
        let words: Vec<Vec<u8>> = (0..size).map(word).collect();
        let stops: Vec<u32> = tokenizer.stops().filter(|id| *id < size).collect();
        let info = TokRxInfo::new(size, stops.first().copied().unwrap_or(NO_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if !stops.is_empty() {
            trie = trie.with_eos_tokens(&stops);
        }
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices)
            .map_err(|error| Error::Model(format!("the vocabulary: {}", line(&error))))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self(factory))
    }

    fn matcher(&self, schema: &Value) -> Result<Matcher> {
        let mut bounded = schema.clone();
        if bounded.is_object() {
            let whitespace_pattern = Some(BLANKS.to_owned());
            JsonCompileOptions { whitespace_pattern, ..Default::default() }.apply_to(&mut bounded);
        }
        let grammar = TopLevelGrammar::from_json_schema(bounded);
        let mut matcher = Matcher::new(self.0.create_parser(grammar));
        // Some contradictions are seen with the first token alone.
        matcher.compute_mask().map_err(|error| {
            let limit = format!("no answer can be held to it: {}", line(&error));
            Error::argument(subject::JSON_SCHEMA, shown(schema), limit)
        })?;
        Ok(matcher)
    }
}

impl fmt::Debug for Spelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spelling")
    }
}

// The first line: what follows is for llguidance's makers.
fn line(error: &impl fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

// As much of a schema as a message shows.
fn shown(schema: &Value) -> String {
    let text = schema.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

/// What an answer has to be, made by [`Framing::json_schema`](super::Framing::json_schema). Of a model that thinks first, what
/// it thinks is free.
#[derive(Clone)]
pub struct Grammar {
    schema: Arc<Value>,
    /// Before the first token.
    matcher: Arc<Matcher>,
    marks: Option<Marks>,
}

impl Grammar {
    pub(super) fn new(spelling: &Spelling, marks: Option<Marks>, schema: &Value) -> Result<Self> {
        let matcher = Arc::new(spelling.matcher(schema)?);
        Ok(Self { schema: Arc::new(schema.clone()), matcher, marks })
    }
}

impl PartialEq for Grammar {
    fn eq(&self, other: &Self) -> bool {
        (&self.schema, self.marks) == (&other.schema, other.marks)
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grammar").field(&self.schema).finish()
    }
}

/// A grammar's state, and which tokens may come.
struct Step {
    matcher: Matcher,
    allowed: std::result::Result<SimpleVob, String>,
}

impl Step {
    fn new(mut matcher: Matcher) -> Self {
        let allowed = matcher.compute_mask().map_err(|error| line(&error));
        Self { matcher, allowed }
    }
}

/// Where an answer is in its grammar.
pub(super) struct Constraint {
    place: Place,
    marks: Option<Marks>,
    /// On its way, or else there. Behind a mutex, so that several threads can look at an answer.
    coming: Option<Mutex<Receiver<Step>>>,
    there: Option<Step>,
}

fn broken(reason: &str) -> Error {
    Error::Model(format!("no token can be chosen by the answer's grammar: {reason}"))
}

impl Constraint {
    /// For the answer to this prompt.
    pub(super) fn new(grammar: &Grammar, tokenizer: &Tokenizer, prompt: &[u32]) -> Self {
        let marks = grammar.marks;
        let place = marks.map_or(Place::Answer, |marks| marks.after(tokenizer, prompt));
        let mut constraint = Self { place, marks, coming: None, there: None };
        // With caches of its own: answers are worked on side by side.
        constraint.work_on(grammar.matcher.deep_clone());
        constraint
    }

    fn work_on(&mut self, matcher: Matcher) {
        // One of the threads that do it might wait for itself.
        if rayon::current_thread_index().is_some() {
            self.there = Some(Step::new(matcher));
            return;
        }
        let (sender, coming) = sync_channel(1);
        self.coming = Some(Mutex::new(coming));
        rayon::spawn(move || {
            // Nobody listens where the answer was given up.
            let _ = sender.send(Step::new(matcher));
        });
    }

    fn step(&mut self) -> Result<&mut Step> {
        if let Some(coming) = self.coming.take() {
            let coming = coming.into_inner().unwrap_or_else(PoisonError::into_inner);
            self.there = coming.recv().ok();
        }
        self.there.as_mut().ok_or_else(|| broken("it failed before"))
    }

    /// Says of each token whether it may come next.
    ///
    /// # Errors
    /// [`Error::Model`] where the grammar became too large.
    pub(super) fn allowed(&mut self, tokenizer: &Tokenizer) -> Result<impl Fn(u32) -> bool> {
        let place = self.place;
        let opens = self.marks.filter(|_| place == Place::Start).map(|marks| marks.open);
        let allowed = match place {
            Place::Thought => None,
            Place::Start | Place::Answer => {
                let step = self.step()?;
                Some(step.allowed.as_ref().map_err(|reason| broken(reason))?)
            }
        };
        Ok(move |token: u32| match allowed {
            // A thought that a stop token ends has no answer.
            None => !tokenizer.is_stop(token),
            Some(allowed) => {
                let is_known = (token as usize) < allowed.len();
                is_known && allowed.is_allowed(token) || opens == Some(token)
            }
        })
    }

    /// Takes the token that came, none that ends the answer: whether nothing can follow it.
    ///
    /// # Errors
    /// As [`Constraint::allowed`].
    pub(super) fn take(&mut self, token: u32) -> Result<bool> {
        let before = self.place;
        if let Some(marks) = self.marks {
            self.place = marks.next(before, token);
        }
        if before == Place::Thought || self.place == Place::Thought {
            return Ok(false);
        }
        self.step()?;
        let Some(Step { mut matcher, .. }) = self.there.take() else { return Ok(false) };
        matcher.consume_token(token).map_err(|error| broken(&line(&error)))?;
        if matcher.is_stopped() {
            return Ok(true);
        }
        self.work_on(matcher);
        Ok(false)
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("place", &self.place).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
