//! Whether the parts of a tokenizer fit together, before they reach code that trusts them.

use std::collections::HashSet;

use tokenizers::models::bpe::Vocab;

use super::Kind;
use super::parts::Parts;
use crate::{Error, Result};

/// Real control tokens have a few dozen bytes.
const LONGEST_SPECIAL: usize = 256;

/// Bytes of all control tokens together; real files have a few thousand. The automaton that finds
/// them in a text needs up to a kilobyte for each.
const MOST_SPECIAL: usize = 1 << 20;

/// Tables that follow from parts that fit together.
pub struct Checked {
    /// The id of each token.
    pub ids: Vocab,
    /// The kind of each token, by id.
    pub kinds: Vec<Kind>,
}

/// Checks everything that a file can get wrong.
pub fn check(parts: &Parts) -> Result<Checked> {
    let ids = ids(&parts.tokens)?;
    let kinds = kinds(parts, &ids)?;
    merges(&parts.merges, &ids)?;
    special_ids(parts)?;
    Ok(Checked { ids, kinds })
}

/// The two tokens that a merge written as one line puts together.
pub fn pair(rank: usize, line: &str) -> Result<(String, String)> {
    line.split_once(' ')
        .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '))
        .map(|(left, right)| (left.to_owned(), right.to_owned()))
        .ok_or_else(|| wrong_merge(rank, line, "is not two tokens with a space between"))
}

/// How many tokens there are; the number itself is one that no token has.
pub fn size(tokens: &[String]) -> Result<u32> {
    u32::try_from(tokens.len()).ok().filter(|&size| size < u32::MAX).ok_or_else(|| {
        Error::Model(format!(
            "the vocabulary has {} tokens, but at most {} can be numbered",
            tokens.len(),
            u32::MAX - 1
        ))
    })
}

/// The id of each token. Empty tokens, with which some files fill up, have none: no text is one.
fn ids(tokens: &[String]) -> Result<Vocab> {
    if tokens.is_empty() {
        return Err(Error::Model("the vocabulary is empty".into()));
    }
    let mut ids = Vocab::with_capacity(tokens.len() + 1);
    for (id, token) in (0..size(tokens)?).zip(tokens) {
        if token.is_empty() {
            continue;
        }
        if let Some(first) = ids.insert(token.clone(), id) {
            return Err(Error::Model(format!(
                "tokens {first} and {id} of the vocabulary are both {}",
                quoted(token)
            )));
        }
    }
    Ok(ids)
}

fn kinds(parts: &Parts, ids: &Vocab) -> Result<Vec<Kind>> {
    let mut kinds = vec![Kind::Text; parts.tokens.len()];
    let mut bytes = 0;
    for special in &parts.special {
        let token = &special.content;
        let Some(&id) = ids.get(token) else { continue };
        if token.len() > LONGEST_SPECIAL {
            return Err(Error::Model(format!(
                "token {id} {} is special and has {} bytes, but at most {LONGEST_SPECIAL} are allowed",
                quoted(token),
                token.len()
            )));
        }
        bytes += token.len();
        kinds[id as usize] = if special.special { Kind::Control } else { Kind::UserDefined };
    }
    if bytes > MOST_SPECIAL {
        return Err(Error::Model(format!(
            "the special tokens have {bytes} bytes in all, but at most {MOST_SPECIAL} are allowed"
        )));
    }
    Ok(kinds)
}

fn merges(pairs: &[(String, String)], ids: &Vocab) -> Result<()> {
    if pairs.is_empty() {
        return Err(Error::Model(
            "the vocabulary has no merges, but byte-level BPE needs them".into(),
        ));
    }
    let mut seen = HashSet::with_capacity(pairs.len());
    for (rank, pair) in pairs.iter().enumerate() {
        let (left, right) = pair;
        let wrong = |problem: &str| wrong_merge(rank, &format!("{left} {right}"), problem);
        for token in [left, right, &format!("{left}{right}")] {
            if !ids.contains_key(token) {
                return Err(wrong(&format!("needs {}, which is not a token", quoted(token))));
            }
        }
        // Which of the two ranks counts differs between implementations.
        if !seen.insert(pair) {
            return Err(wrong("occurs twice"));
        }
    }
    Ok(())
}

fn wrong_merge(rank: usize, line: &str, problem: &str) -> Error {
    Error::Model(format!("merge {rank} of the vocabulary, {}, {problem}", quoted(line)))
}

fn special_ids(parts: &Parts) -> Result<()> {
    let Parts { tokens, bos, eos, stops, add_bos, prefix, .. } = parts;
    let named = [("bos", bos.as_ref()), ("eos", eos.as_ref())]
        .into_iter()
        .filter_map(|(name, id)| id.map(|id| (name, id)))
        .chain(stops.iter().map(|id| ("stop", id)))
        .chain(prefix.iter().map(|id| ("leading", id)));
    for (name, &id) in named {
        if id as usize >= tokens.len() {
            return Err(Error::Model(format!(
                "the {name} token is {id}, but the vocabulary has {} tokens",
                tokens.len()
            )));
        }
    }
    if *add_bos == Some(true) && bos.is_none() {
        return Err(Error::Model(
            "texts shall begin with the bos token (add_bos_token), but there is none".into(),
        ));
    }
    Ok(())
}

/// A token for a message: escaped, and cut to a length that a line can hold.
pub fn quoted(token: &str) -> String {
    const SHOWN: usize = 60;
    let cut: String = token.chars().take(SHOWN).collect();
    let dots = if cut.len() < token.len() { "..." } else { "" };
    format!("{cut:?}{dots}")
}
