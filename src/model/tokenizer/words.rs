//! Cutting text into the words within which tokens merge.

use fancy_regex::{Regex, RegexBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::tokenizer::pattern::Invert;
use tokenizers::{PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

use crate::{Error, Result};

/// GPT-2's pattern.
pub const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Steps back that finding one match may take. The patterns in use take two for each character of
/// the longest run of white space, so this is more than any prompt needs; a pattern that takes
/// exponentially many ends here, after a second or so.
const MOST_STEPS: usize = 20_000_000;

/// Bytes that a pattern may have; published ones have a few hundred, and some kinds take the square of their length.
const LONGEST_PATTERN: usize = 1 << 16;

/// Steps that cut a text one after the other; what they make is in the byte-level alphabet, or has its spaces marked.
#[derive(Default)]
pub struct Words(Vec<Step>);

enum Step {
    Split { pattern: Regex, behavior: SplitDelimiterBehavior, invert: bool },
    Digits(Digits),
    Bytes,
    Spaces(Metaspace),
}

impl Words {
    /// Cuts at the matches of a pattern.
    pub fn split(
        &mut self,
        pattern: &str,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    ) -> Result<()> {
        if pattern.len() > LONGEST_PATTERN {
            return Err(Error::Model(format!(
                "the pre-tokenizer's pattern: it has {} bytes, but at most {LONGEST_PATTERN} are allowed",
                pattern.len()
            )));
        }
        // Unlike the crate's own Split, which leaves the rest of a text uncut without a word when
        // its expression gives up, this one reports it.
        let pattern = RegexBuilder::new(pattern)
            .backtrack_limit(MOST_STEPS)
            .build()
            .map_err(|error| Error::Model(format!("the pre-tokenizer's pattern: {error}")))?;
        self.0.push(Step::Split { pattern, behavior, invert });
        Ok(())
    }

    /// Cuts numbers from the rest, and their digits from each other if `individual`.
    pub fn digits(&mut self, individual: bool) {
        self.0.push(Step::Digits(Digits::new(individual)));
    }

    /// Spells each byte with its character of the byte-level alphabet.
    pub fn bytes(&mut self) {
        self.0.push(Step::Bytes);
    }

    /// Marks spaces, and puts one before a text.
    pub fn spaces(&mut self, metaspace: Metaspace) {
        self.0.push(Step::Spaces(metaspace));
    }

    /// Whether a text is one word, or at most has its spaces marked.
    pub fn are_texts(&self) -> bool {
        matches!(self.0.as_slice(), [] | [Step::Spaces(_)])
    }

    /// Whether the words end up in the byte-level alphabet.
    pub fn are_bytes(&self) -> bool {
        matches!(self.0.last(), Some(Step::Bytes))
    }

    /// Cuts a text, which begins one or goes on with it.
    pub fn cut(&self, parts: &mut PreTokenizedString, begins: bool) -> tokenizers::Result<()> {
        for step in &self.0 {
            match step {
                Step::Split { pattern, behavior, invert: false } => {
                    parts.split(|_, part| part.split(pattern, *behavior))?;
                }
                Step::Split { pattern, behavior, invert: true } => {
                    parts.split(|_, part| part.split(Invert(pattern), *behavior))?;
                }
                Step::Digits(digits) => digits.pre_tokenize(parts)?,
                Step::Bytes => ByteLevel::new(false, false, false).pre_tokenize(parts)?,
                Step::Spaces(marks) => {
                    let mut marks = marks.clone();
                    if marks.prepend_scheme == PrependScheme::First && !begins {
                        marks.prepend_scheme = PrependScheme::Never;
                    }
                    marks.pre_tokenize(parts)?;
                }
            }
        }
        Ok(())
    }
}
