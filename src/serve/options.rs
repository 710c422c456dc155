//! How many requests are answered at a time, and how.

use super::PrefixCache;
use crate::attention::Attention;
use crate::engine::Engine;
use crate::{Error, Result};

/// How a batcher answers.
#[derive(Clone, Debug)]
pub struct BatchOptions {
    /// What the decode steps of all requests attend: a step attends in one way.
    pub attention: Attention,
    /// Requests that are answered at a time at most; the engine's other sessions keep conversations that have ended.
    pub running: u32,
    /// Requests that wait at most, beside those that are answered.
    pub queue: usize,
    /// Tokens of a step at most: those that decode, and pieces of prompts in what room they leave.
    pub step_tokens: u32,
    /// Tokens of an answer that there has to be room for when it begins. Where it has more, and there is no room for them, the
    /// request that came last has to begin anew once there is.
    pub reserve: u32,
    /// Steps of waiting that a priority is worth: a request goes before one of the next lower priority that came at most so many
    /// steps before it.
    pub patience: u32,
    /// What a request may take of others.
    pub reuse: Reuse,
    /// Where what others may take is stored beyond the engine's life, if it is.
    pub prefix_cache: Option<PrefixCache>,
}

/// What a request may take of the sessions of others that begin with the same tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Nothing.
    Nothing,
    /// What was read as a prompt: as the request would have computed it.
    Prompts,
    /// Also tokens of an answer. Where attention is two-level they attended only some of the tokens before them, as a prompt's do
    /// not: what follows may differ from what a fresh run answers.
    Everything,
}

impl Reuse {
    // The most that leaves answers what they would be without it.
    fn of(attention: &Attention) -> Self {
        match attention {
            Attention::Dense => Self::Everything,
            Attention::TwoLevel(_) => Self::Prompts,
        }
    }
}

impl BatchOptions {
    /// As many requests at a time as the engine has sessions, 1,024 in the queue, all of an engine's rows in a step,
    /// and the reuse that changes no answer.
    pub fn new(engine: &Engine, attention: impl Into<Attention>) -> Self {
        let attention = attention.into();
        Self {
            running: engine.options.sessions,
            queue: 1024,
            step_tokens: engine.options.chunk.max(engine.options.sessions),
            reserve: 256,
            patience: 1000,
            reuse: Reuse::of(&attention),
            prefix_cache: None,
            attention,
        }
    }

    /// Tokens of a session that others may take, the first of which were read as a prompt.
    pub(super) fn reusable(&self, tokens: u32, read: u32) -> u32 {
        match self.reuse {
            Reuse::Nothing => 0,
            Reuse::Prompts => tokens.min(read),
            Reuse::Everything => tokens,
        }
    }

    pub(super) fn check(&self, engine: &Engine) -> Result<()> {
        let sessions = engine.options.sessions;
        if !(1..=sessions).contains(&self.running) {
            let limit = format!("the engine has {sessions} sessions, and at least one is needed");
            return Err(Error::argument("the requests at a time", self.running, limit));
        }
        // A row for those that decode, and one for a prompt beside them.
        let least = self.running.min(2);
        if self.step_tokens < least {
            let limit = format!("at least {least} are needed");
            return Err(Error::argument("the tokens of a step", self.step_tokens, limit));
        }
        if let Attention::TwoLevel(two_level) = &self.attention {
            engine.check_selection(two_level)?;
        }
        Ok(())
    }
}
