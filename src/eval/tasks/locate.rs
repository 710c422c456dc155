//! Which tokens hold a sentence.

use std::ops::Range;

use crate::model::tokenizer::Tokenizer;
use crate::{Error, Result};

/// The positions in `tokens` of those that hold any part of each of `sentences`.
pub(super) fn positions(
    tokenizer: &Tokenizer,
    tokens: &[u32],
    sentences: &[String],
) -> Result<Vec<Range<u32>>> {
    let mut decoder = tokenizer.decoder(false);
    let mut text = String::new();
    // Where in the text each token ends.
    let mut ends = Vec::with_capacity(tokens.len());
    for &token in tokens {
        text += &decoder.push(token);
        ends.push(text.len());
    }
    let position = |sentence: &String| {
        let start = text.find(sentence.as_str()).ok_or_else(|| {
            Error::Model(format!(
                "the model's tokens cannot spell the needle {sentence:?}: its vocabulary lacks \
                 characters of it"
            ))
        })?;
        let first = ends.partition_point(|&end| end <= start);
        let last = ends.partition_point(|&end| end < start + sentence.len());
        Ok(first as u32..last as u32 + 1)
    };
    sentences.iter().map(position).collect()
}
