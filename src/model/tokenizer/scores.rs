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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tokens: &[(&str, i32, f32)]) -> Result<Vec<(String, String)>> {
        let names: Vec<String> = tokens.iter().map(|token| token.0.into()).collect();
        let kinds: Vec<i32> = tokens.iter().map(|token| token.1).collect();
        let scores: Vec<f32> = tokens.iter().map(|token| token.2).collect();
        merges(&names, &kinds, &scores)
    }

    #[test]
    fn the_best_token_merges_first_and_its_longest_left_part() {
        let tokens = [
            ("<s>", 3, 0.0),
            ("<", NORMAL, -9.0),
            ("s>", NORMAL, -9.0),
            ("aaa", NORMAL, -1.0),
            ("aa", NORMAL, -2.0),
            ("語a", NORMAL, -0.5),
            ("a", NORMAL, -8.0),
            ("語", NORMAL, -8.0),
            ("b", 6, 0.0),
            ("ab", NORMAL, 0.0),
        ];
        let expected = [("語", "a"), ("aa", "a"), ("a", "aa"), ("a", "a")];
        let expected = expected.map(|(left, right)| (left.to_owned(), right.to_owned()));
        assert_eq!(of(&tokens).unwrap(), expected);
    }

    #[test]
    fn scores_that_rank_nothing_are_refused() {
        let refused = |tokens: &[(&str, i32, f32)]| of(tokens).unwrap_err().to_string();
        let message = refused(&[("a", NORMAL, f32::NAN)]);
        assert!(message.contains("token 0 \"a\" has 1 bytes and a score of NaN"), "{message}");
        let long = "a".repeat(LONGEST + 1);
        let message = refused(&[(&long, NORMAL, 0.0)]);
        assert!(message.contains("has 1025 bytes and a score of 0, but"), "{message}");
        let message = merges(&["a".into()], &[NORMAL], &[]).unwrap_err().to_string();
        assert!(message.contains("has 0 entries, but the vocabulary has 1 tokens"), "{message}");
    }
}
