//! Prompts of a wanted length.

use std::ops::Range;

use super::Task;
use super::filling::{Filling, Haystack};
use super::locate;
use super::puzzle::Puzzle;
use super::search;
use crate::model::chat::{ChatTemplate, Message};
use crate::model::tokenizer::Tokenizer;
use crate::{Error, Result, subject};

/// No model's context is longer; a prompt's text is built in memory.
const LONGEST: u32 = 1 << 22;

/// The wanted properties of a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spec {
    /// The family.
    pub task: Task,
    /// Tokens of the prompt and of the answer ([`Task::answer_tokens`]) together.
    pub length: u32,
    /// Where the first needle lies, from 0, before the haystack, to 1, behind it. Further needles
    /// lie where the seed puts them; the assignments of a chain keep their order behind the first.
    /// Tasks about words have no needle and ignore it.
    pub depth: f64,
    /// The seed of keys, numbers, words and places. They do not depend on the depth, and
    /// neither does the amount of haystack: prompts of one seed differ only in where the needle is.
    pub seed: u64,
}

/// A prompt with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The whole prompt as the model reads it, up to the beginning of its answer.
    pub tokens: Vec<u32>,
    /// Positions in `tokens` of the sentences that the answer needs, in the order of the
    /// references; empty for tasks about words.
    pub needles: Vec<Range<u32>>,
    /// The texts that the answer should contain, for [`score`](super::score()).
    pub references: Vec<String>,
    /// The most tokens the answer may have.
    pub answer_tokens: u32,
}

/// Makes prompts for one model.
pub struct Maker<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    filling: Filling,
}

impl<'a> Maker<'a> {
    /// For the model with this tokenizer and chat template; without one, prompts are plain text.
    ///
    /// # Errors
    /// [`Error::Argument`] for an essay without words.
    pub fn new(
        tokenizer: &'a Tokenizer,
        template: Option<ChatTemplate>,
        haystack: &Haystack,
    ) -> Result<Self> {
        Ok(Self { tokenizer, template, filling: Filling::new(haystack)? })
    }

    /// The prompt with as much haystack as fits into the length.
    ///
    /// # Errors
    /// [`Error::Argument`] for a depth that is not from 0 to 1, for a length that the question does
    /// not fit into, and for one above 4,194,304; [`Error::Model`] for a chat template that refuses
    /// the question, and for a vocabulary that cannot spell a needle.
    pub fn make(&self, spec: &Spec) -> Result<Sample> {
        let &Spec { task, length, depth, .. } = spec;
        if !(0.0..=1.0).contains(&depth) {
            return Err(Error::argument("the needle's depth", depth, "it must be from 0 to 1"));
        }
        if length > LONGEST {
            let limit = format!("prompts have at most {LONGEST}");
            return Err(Error::argument(subject::LENGTH, length, limit));
        }
        let puzzle = Puzzle::new(spec, &self.filling);
        let count = |amount, depth| self.tokens(&puzzle, amount, depth).map(|tokens| tokens.len());

        let least = count(0, depth)?;
        let answer = task.answer_tokens();
        let room = length.saturating_sub(answer) as usize;
        if least > room {
            let limit = format!(
                "{task} takes at least {} with this model: {least} for the question and {answer} \
                 for the answer",
                least + answer as usize
            );
            return Err(Error::argument(subject::LENGTH, length, limit));
        }
        let most = puzzle.context.most();
        let mut amount = search::largest(room, most, least, |amount| count(amount, 0.0))?;
        // The first words of the haystack, a needle or the text, may take a token more without the space
        // that usually comes before it. Prompts of every depth get what fits both.
        for depth in [1.0, depth] {
            while amount > 0 && count(amount, depth)? > room {
                amount -= 1;
            }
        }
        let tokens = self.tokens(&puzzle, amount, depth)?;
        let needles = locate::positions(self.tokenizer, &tokens, puzzle.context.needles())?;
        Ok(Sample { tokens, needles, references: puzzle.references, answer_tokens: answer })
    }

    /// The framed prompt with so much filling.
    fn tokens(&self, puzzle: &Puzzle, amount: u32, depth: f64) -> Result<Vec<u32>> {
        let content = puzzle.text(amount, depth);
        let tokenizer = self.tokenizer;
        let Some(template) = &self.template else {
            let text = format!("{content}\n{}", puzzle.prefix);
            return tokenizer.encode(&text, false).map(|ids| tokenizer.begin(ids));
        };
        let question = Message::new("user", content);
        template.encode(tokenizer, &[question], &puzzle.prefix)
    }
}
