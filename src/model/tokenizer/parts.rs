//! A tokenizer's parts, whichever file they were read from.

use tokenizers::normalizers::Sequence;
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::{AddedToken, NormalizerWrapper};

use super::words::Words;
use crate::{Error, Result};

/// All of it, unchecked.
pub struct Parts {
    /// The tokens by id; where it is empty there is no token.
    pub tokens: Vec<String>,
    /// How they spell text.
    pub spelling: Spelling,
    /// The merges by rank.
    pub merges: Vec<(String, String)>,
    /// Those of the tokens that are one wherever they occur in a text, and how they are found
    /// there; `special` is set for control tokens and not for user-defined ones.
    pub special: Vec<AddedToken>,
    /// What is done to text first, if anything is: it is brought to Unicode's form NFC, or has its spaces marked.
    pub normalizer: Option<NormalizerWrapper>,
    /// The cut of text into the words within which tokens merge.
    pub words: Words,
    /// Whether a word that is a token becomes that token, whatever its merges would make of it.
    pub whole_words: bool,
    /// The rule for a byte that has no token.
    pub unknown: Unknown,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// Further tokens that end generation.
    pub stops: Vec<u32>,
    /// Whether a text begins with `bos`, whatever else it begins with.
    pub add_bos: Option<bool>,
    /// The tokens that begin a text where nothing is said about `bos`.
    pub prefix: Vec<u32>,
}

impl Parts {
    /// The tokens with which a text begins.
    pub fn leading(&self) -> Vec<u32> {
        let (mut leading, bos) = (self.prefix.clone(), self.bos);
        match self.add_bos {
            None => {}
            Some(false) => leading.retain(|&id| Some(id) != bos),
            Some(true) if bos.is_some_and(|bos| leading.contains(&bos)) => {}
            Some(true) => leading.splice(0..0, bos).for_each(drop),
        }
        leading
    }
}

/// How tokens spell text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// Each byte is a character of GPT-2's byte-level alphabet.
    Bytes,
    /// As it is, but for spaces, which are marked ([`SPACE`]); characters that no token has are bytes, whose tokens are spelled
    /// `<0x0A>`: SentencePiece's way.
    Marked {
        /// Whether decoded text loses a space at its beginning, which encoding puts there.
        strips: bool,
    },
}

/// The mark of a space.
pub const SPACE: char = '▁';

/// Marks the spaces of a text, with one more before it if `prefix`.
pub fn marked(prefix: bool) -> Result<NormalizerWrapper> {
    let refusal = |error| Error::Model(format!("tokenizer: {error}"));
    let marks = Replace::new(" ", SPACE.to_string()).map_err(refusal)?.into();
    let before = prefix.then(|| Prepend::new(SPACE.into()).into());
    Ok(Sequence::new(before.into_iter().chain([marks]).collect()).into())
}

/// The rule for a byte that has no token.
pub enum Unknown {
    /// It is left out, and nothing merges across it: llama.cpp's rule.
    Splits,
    /// It is left out: the rule of a tokenizer.json without an unknown token.
    Vanishes,
    /// It becomes this token; a run of such bytes becomes one if `fuse`.
    Becomes {
        /// The token.
        token: String,
        /// Whether a run is one token.
        fuse: bool,
    },
}
