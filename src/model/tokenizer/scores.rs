//! Merges of a vocabulary that has scores instead: SentencePiece's.

use std::collections::HashSet;

use super::check;
use super::vocabulary::NORMAL;
use crate::{Error, Result};

/// Bytes of a token that merges may make; real ones have a few dozen.
const LONGEST: usize = 1 << 10;

/// Of two neighbours that make a token, those merge first whose token has the highest score. Written as merges by rank: every way
/// to cut a token in two others.
pub fn merges(tokens: &[String], kinds: &[i32], scores: &[f32]) -> Result<Vec<(String, String)>> {
    if scores.len() != tokens.len() {
        return Err(Error::Model(format!(
            "tokenizer.ggml.scores has {} entries, but the vocabulary has {} tokens",
            scores.len(),
            tokens.len()
        )));
    }
    let texts = || tokens.iter().zip(kinds).enumerate().filter(|(_, (_, kind))| **kind == NORMAL);
    let known: HashSet<&str> = texts().map(|(_, (token, _))| token.as_str()).collect();
    let mut found = Vec::new();
    for (id, (token, _)) in texts() {
        let score = scores[id];
        if token.len() > LONGEST || !score.is_finite() {
            return Err(Error::Model(format!(
                "token {id} {} has {} bytes and a score of {score}, but at most {LONGEST} bytes and a number are supported",
                check::quoted(token),
                token.len()
            )));
        }
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let parts = cuts.filter(|(left, right)| known.contains(left) && known.contains(right));
        found.extend(parts.map(|pair| (score, pair)));
    }
    // Of one token the longest left part goes first, as in transformers.
    found.sort_by(|(a, (left, _)), (b, (other, _))| {
        b.total_cmp(a).then(other.chars().count().cmp(&left.chars().count()))
    });
    Ok(found.into_iter().map(|(_, (left, right))| (left.to_owned(), right.to_owned())).collect())
}
