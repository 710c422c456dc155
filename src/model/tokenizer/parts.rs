//! A tokenizer's parts, whichever file they were read from.

use tokenizers::AddedToken;

use super::words::Words;

/// All of it, unchecked.
pub struct Parts {
    /// The tokens by id, text in GPT-2's byte-level alphabet; where it is empty there is no token.
    pub tokens: Vec<String>,
    /// The merges by rank.
    pub merges: Vec<(String, String)>,
    /// Those of the tokens that are one wherever they occur in a text, and how they are found
    /// there; `special` is set for control tokens and not for user-defined ones.
    pub special: Vec<AddedToken>,
    /// Whether text is brought to Unicode's form NFC first.
    pub is_nfc: bool,
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
