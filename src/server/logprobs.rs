//! Log-probabilities of an answer's tokens, with the bytes that these stand for.

use crate::model::{Logprob, Logprobs, Tokenizer};

/// A token as text, and its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spelled {
    pub(super) bytes: Vec<u8>,
    pub(super) logprob: f64,
}

/// Those of a token of the answer, and of the likeliest in its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) chosen: Spelled,
    pub(super) likeliest: Vec<Spelled>,
}

impl Entry {
    pub(super) fn new(logprobs: &Logprobs, tokenizer: &Tokenizer) -> Self {
        let spelled = |one: &Logprob| Spelled {
            bytes: tokenizer.bytes(one.token, false),
            logprob: one.logprob,
        };
        Self {
            chosen: spelled(&logprobs.chosen),
            likeliest: logprobs.likeliest.iter().map(spelled).collect(),
        }
    }
}
