//! One answer in the making, without a device: which tokens to compute next, and what came of them.

use super::grammar::{Constraint, Grammar};
use super::stop::StopTexts;
use crate::attention::Attention;
use crate::engine::{Output, Want};
use crate::model::sampler::{Logprobs, Past, Sampler, SamplerSettings};
use crate::model::tokenizer::{Decoder, Tokenizer};
use crate::{Error, Result, subject};
use std::sync::Arc;

/// How an answer is made.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerOptions {
    /// The most tokens that it may have.
    pub max_tokens: u32,
    /// Texts that end it, which are not shown.
    pub stop: Vec<String>,
    /// How its tokens are chosen.
    pub sampling: SamplerSettings,
    /// What its decode steps attend.
    pub attention: Attention,
    /// Of how many of the likeliest tokens log-probabilities come with each token, beside its own; `None`: none do.
    pub logprobs: Option<usize>,
    /// What it has to be.
    pub grammar: Option<Grammar>,
    /// Control tokens that are part of its text, such as those that mark calls of tools.
    pub shown: Vec<u32>,
    /// Whether it goes on behind tokens by which the model ends it, which its text does not show: for answers that are as long
    /// as was asked for, to measure. Not with a grammar.
    pub ignore_eos: bool,
}

impl AnswerOptions {
    /// Free answers of at most 256 tokens, without stop texts and log-probabilities.
    pub fn new(sampling: SamplerSettings, attention: impl Into<Attention>) -> Self {
        let attention = attention.into();
        let (stop, logprobs, grammar, shown) = (Vec::new(), None, None, Vec::new());
        let (max_tokens, ignore_eos) = (256, false);
        Self { max_tokens, stop, sampling, attention, logprobs, grammar, shown, ignore_eos }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended it, or its grammar did.
    StopToken,
    /// A stop text came.
    StopText,
    /// It has as many tokens as it may have.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller wanted no more of it.
    Cancelled,
}

/// A part of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// The tokens that were chosen, without one that ends the answer.
    pub tokens: Vec<u32>,
    /// The text that can be shown now. What may still become a stop text or a whole character is held back, so that it may
    /// lack behind the tokens.
    pub text: String,
    /// One for each token, where they are asked for.
    pub logprobs: Vec<Logprobs>,
}

/// One answer in the making.
///
/// The tokens that a step should compute are [`next_tokens`](Self::next_tokens): the prompt, or what a session does not
/// hold of it ([`reuse`](Self::reuse)), then each token that was chosen. What the step gave back goes to
/// [`accept`](Self::accept), until there is an [`end`](Self::end).
#[derive(Debug)]
pub struct Sequence {
    tokenizer: Arc<Tokenizer>,
    /// The prompt, then the answer.
    tokens: Vec<u32>,
    prompt: usize,
    /// Of these, the first that a session holds.
    computed: usize,
    max_tokens: usize,
    /// Tokens of the answer that the context has room for.
    room: usize,
    sampler: Sampler,
    logprobs: Option<usize>,
    constraint: Option<Constraint>,
    decoder: Decoder<Arc<Tokenizer>>,
    stop: StopTexts,
    ignores_eos: bool,
    text: String,
    end: Option<End>,
}

impl Sequence {
    /// The answer to `prompt` in a `context` of so many tokens, by a sampler that goes on after so many draws.
    ///
    /// # Errors
    /// [`Error::Argument`] for no prompt, one that is longer than the context, and options that make no sense.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        prompt: Vec<u32>,
        context: u32,
        options: &AnswerOptions,
        draws: u64,
    ) -> Result<Self> {
        let length = prompt.len();
        if length == 0 {
            return Err(Error::argument("the prompt", "no token", "at least one is needed"));
        }
        // The last token of an answer is not computed, so it needs no room.
        let room = (context as usize + 1).checked_sub(length).filter(|room| *room > 0);
        let room = room.ok_or_else(|| {
            let limit = format!("the context holds {context}");
            Error::argument(subject::CONVERSATION, format!("{length} tokens"), limit)
        })?;
        if options.max_tokens == 0 {
            let limit = "at least one is needed";
            return Err(Error::argument("the most tokens of an answer", 0, limit));
        }
        if options.stop.iter().any(String::is_empty) {
            return Err(Error::argument("a stop text", "empty", "every answer would end with it"));
        }
        if options.ignore_eos && options.grammar.is_some() {
            let limit = "an answer by a grammar ends where that does";
            return Err(Error::argument("ignore_eos", true, limit));
        }
        let constrain = |grammar| Constraint::new(grammar, &tokenizer, &prompt);
        let constraint = options.grammar.as_ref().map(constrain);
        Ok(Self {
            constraint,
            decoder: Decoder::new(tokenizer.clone(), true).showing(options.shown.clone()),
            tokenizer,
            tokens: prompt,
            prompt: length,
            computed: 0,
            max_tokens: options.max_tokens as usize,
            room,
            sampler: Sampler::after(options.sampling, draws)?,
            logprobs: options.logprobs,
            stop: StopTexts::new(options.stop.clone()),
            ignores_eos: options.ignore_eos,
            text: String::new(),
            end: None,
        })
    }

    /// Takes over what a session with these tokens holds: how many of them, to which the session has to be rewound.
    pub fn reuse(&mut self, held: &[u32]) -> u32 {
        let common = self.common(held);
        self.computed = common as usize;
        common
    }

    /// How many tokens a session with these ones holds of it, without the last: that is computed again even if it is there,
    /// since what follows from it is not.
    pub(crate) fn common(&self, held: &[u32]) -> u32 {
        common(held, &self.tokens[..self.tokens.len() - 1])
    }

    /// The tokens that are still to be computed, after those that a session holds; none once the answer has ended.
    pub fn next_tokens(&self) -> &[u32] {
        if self.end.is_some() { &[] } else { &self.tokens[self.computed..] }
    }

    /// The prompt, then the answer's tokens so far.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The most tokens that a session ever holds of it: the last of an answer is not computed.
    pub(crate) fn most_tokens(&self) -> usize {
        self.prompt + self.max_tokens.min(self.room) - 1
    }

    /// What the step that computes the last of them has to give back. The likeliest token is found on the GPU; for draws,
    /// penalties, log-probabilities and grammars, logits are needed.
    pub fn want(&self) -> Want {
        let settings = self.sampler.settings();
        let looks = self.logprobs.is_some() || self.constraint.is_some();
        if looks || settings.draws() || settings.penalises() { Want::Logits } else { Want::Token }
    }

    /// Notes that the first so many of the next tokens, but not all of them, are computed.
    pub fn advance(&mut self, tokens: usize) {
        self.computed = (self.computed + tokens).min(self.tokens.len() - 1);
    }

    /// Takes what the step gave back that computed the last of the next tokens, and chooses the token that follows.
    ///
    /// # Errors
    /// As [`Sampler::sample`] and [`Output::token`]; [`Error::Argument`] once the answer has ended. Nothing changes then.
    /// [`Error::Model`] where the grammar became too large, with which the answer cannot go on.
    pub fn accept(&mut self, output: &Output) -> Result<Piece> {
        if let Some(end) = self.end {
            return Err(Error::argument(
                "a token",
                "one more",
                format!("the answer ended: {end:?}"),
            ));
        }
        let (token, logprobs) = self.choose(output)?;
        let is_stop = !self.ignores_eos && self.tokenizer.is_stop(token);
        let is_complete = match &mut self.constraint {
            Some(constraint) if !is_stop => constraint.take(token)?,
            _ => false,
        };
        self.computed = self.tokens.len();
        if is_stop {
            return Ok(self.finish(End::StopToken, Piece::default()));
        }
        self.tokens.push(token);
        let passed = self.stop.push(&self.decoder.push(token));
        let logprobs = logprobs.into_iter().collect();
        let piece = Piece { tokens: vec![token], text: passed.text, logprobs };
        let made = self.answer().len();
        if passed.is_over {
            return Ok(self.ended(End::StopText, piece));
        }
        if is_complete {
            return Ok(self.finish(End::StopToken, piece));
        }
        if made >= self.max_tokens {
            return Ok(self.finish(End::Length, piece));
        }
        if made >= self.room {
            return Ok(self.finish(End::ContextFull, piece));
        }
        self.text.push_str(&piece.text);
        Ok(piece)
    }

    /// Ends the answer: the text that was held back.
    pub fn cancel(&mut self) -> Piece {
        match self.end {
            Some(_) => Piece::default(),
            None => self.finish(End::Cancelled, Piece::default()),
        }
    }

    /// Why it ended, once it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt
    }

    /// The answer's tokens, without the one that ended it, but with those of a stop text.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    /// The answer's text so far, as it was shown.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Draws of the sampler so far, with those before this answer.
    pub fn draws(&self) -> u64 {
        self.sampler.draws()
    }

    fn choose(&mut self, output: &Output) -> Result<(u32, Option<Logprobs>)> {
        if self.want() == Want::Token {
            return Ok((output.token()?, None));
        }
        let nothing = || Error::Gpu("a step gave no logits back".into());
        let logits = output.logits.last().ok_or_else(nothing)?;
        let past = Past { tokens: &self.tokens, prompt: self.prompt };
        let token = match &mut self.constraint {
            None => self.sampler.sample(logits, past)?,
            Some(constraint) => {
                self.sampler.sample_among(logits, past, constraint.allowed(&self.tokenizer)?)?
            }
        };
        Ok((token, self.logprobs.map(|count| Logprobs::new(logits, token, count))))
    }

    // The end with nothing behind the last piece but what was held back.
    fn finish(&mut self, end: End, mut piece: Piece) -> Piece {
        let rest = self.stop.push(&self.decoder.finish());
        piece.text.push_str(&rest.text);
        if rest.is_over {
            return self.ended(End::StopText, piece);
        }
        piece.text.push_str(&self.stop.finish());
        self.ended(end, piece)
    }

    fn ended(&mut self, end: End, piece: Piece) -> Piece {
        self.end = Some(end);
        self.text.push_str(&piece.text);
        piece
    }
}

// How many tokens both begin with. Whole pieces are compared at the speed of memory: documents are long, and a server compares each
// request with each session.
fn common(held: &[u32], tokens: &[u32]) -> u32 {
    const PIECE: usize = 1024;
    let pieces = held.chunks_exact(PIECE).zip(tokens.chunks_exact(PIECE));
    let same = PIECE * pieces.take_while(|(a, b)| a == b).count();
    let rest = held[same..].iter().zip(&tokens[same..]);
    (same + rest.take_while(|(a, b)| a == b).count()) as u32
}

#[cfg(test)]
mod tests;
