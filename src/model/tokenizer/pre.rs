//! Cutting text into the words within which tokens merge.

use tokenizers::SplitDelimiterBehavior::Isolated;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use crate::{Error, Result};

/// Every rule this program knows: its name in `tokenizer.ggml.pre`, and the patterns that cut the
/// text one after the other; each match is a piece, and so is what lies between two matches.
const RULES: [(&str, &[&str]); 1] = [("smollm", &[r"\p{N}", GPT2])];

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The regular expressions give up on longer runs, and would then leave the rest of the text
/// uncut without a word.
const LONGEST_WHITESPACE: usize = 100_000;

/// The rule called `name`, ending with the step from bytes to the byte-level alphabet.
pub fn words(name: &str) -> Result<Sequence> {
    let Some((_, patterns)) = RULES.iter().find(|rule| rule.0 == name) else {
        let known: Vec<&str> = RULES.iter().map(|rule| rule.0).collect();
        return Err(Error::Model(format!(
            "the pre-tokenizer (tokenizer.ggml.pre) is `{name}`, but only these are supported: {}",
            known.join(", ")
        )));
    };
    let mut steps = Vec::with_capacity(patterns.len() + 1);
    for pattern in *patterns {
        let split = Split::new(SplitPattern::Regex(pattern.to_string()), Isolated, false)
            .map_err(|error| Error::Model(format!("tokenizer: {error}")))?;
        steps.push(PreTokenizerWrapper::Split(split));
    }
    steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)));
    Ok(Sequence::new(steps))
}

/// Refuses text that the patterns cannot cut.
pub fn check_text(text: &str) -> Result<()> {
    let mut run = 0;
    for symbol in text.chars() {
        run = if symbol.is_whitespace() { run + 1 } else { 0 };
        if run > LONGEST_WHITESPACE {
            return Err(Error::argument(
                "the text's longest run of white space",
                format!("over {LONGEST_WHITESPACE} characters"),
                format!("at most {LONGEST_WHITESPACE} can be tokenized"),
            ));
        }
    }
    Ok(())
}
