//! Whether a vocabulary makes sense, before it reaches code that trusts it.

use std::collections::HashSet;

use tokenizers::models::bpe::{Merges, Vocab};

use super::{Kind, Vocabulary};
use crate::{Error, Result};

/// Real control tokens have a few dozen bytes. The automaton that finds them in a text needs up
/// to a kilobyte for each byte of theirs.
const LONGEST_SPECIAL: usize = 256;

/// A vocabulary in the form that BPE takes.
pub struct Checked {
    /// The id of each token, and one past the last for `missing`.
    pub ids: Vocab,
    pub merges: Merges,
    pub kinds: Vec<Kind>,
    /// What stands for a byte without a token: the one string that is no token.
    pub missing: String,
}

/// Checks everything that a file can get wrong.
pub fn check(vocabulary: &Vocabulary) -> Result<Checked> {
    let mut ids = ids(&vocabulary.tokens)?;
    let kinds = kinds(vocabulary)?;
    let merges = merges(&vocabulary.merges, &ids)?;
    special_ids(vocabulary)?;

    let missing = String::new();
    ids.insert(missing.clone(), size(&vocabulary.tokens)?);
    Ok(Checked { ids, merges, kinds, missing })
}

fn size(tokens: &[String]) -> Result<u32> {
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
        return Err(Error::Model("the vocabulary (tokenizer.ggml.tokens) is empty".into()));
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

fn kinds(vocabulary: &Vocabulary) -> Result<Vec<Kind>> {
    let Vocabulary { tokens, kinds, .. } = vocabulary;
    if kinds.len() != tokens.len() {
        return Err(Error::Model(format!(
            "tokenizer.ggml.token_type has {} entries, but the vocabulary has {} tokens",
            kinds.len(),
            tokens.len()
        )));
    }
    let mut result = Vec::with_capacity(kinds.len());
    for (id, (token, &kind)) in tokens.iter().zip(kinds).enumerate() {
        let kind = match kind {
            0 | 1 | 5 | 6 => Kind::Text,
            2 | 3 => Kind::Control,
            4 => Kind::UserDefined,
            _ => {
                return Err(Error::Model(format!(
                    "token {id} {} is of kind {kind}, but kinds are 0 to 6",
                    quoted(token)
                )));
            }
        };
        if kind != Kind::Text && token.len() > LONGEST_SPECIAL {
            return Err(Error::Model(format!(
                "token {id} {} is special and has {} bytes, but at most {LONGEST_SPECIAL} are allowed",
                quoted(token),
                token.len()
            )));
        }
        result.push(kind);
    }
    Ok(result)
}

fn merges(lines: &[String], ids: &Vocab) -> Result<Merges> {
    if lines.is_empty() {
        return Err(Error::Model(
            "the vocabulary has no merges (tokenizer.ggml.merges), but byte-level BPE needs them"
                .into(),
        ));
    }
    let mut seen = HashSet::with_capacity(lines.len());
    let mut result = Merges::with_capacity(lines.len());
    for (rank, line) in lines.iter().enumerate() {
        let wrong = |problem: &str| {
            Error::Model(format!("merge {rank} of the vocabulary, {}, {problem}", quoted(line)))
        };
        let (left, right) = line
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '))
            .ok_or_else(|| wrong("is not two tokens with a space between"))?;
        for token in [left, right, &format!("{left}{right}")] {
            if !ids.contains_key(token) {
                return Err(wrong(&format!("needs {}, which is not a token", quoted(token))));
            }
        }
        // Which of the two ranks counts differs between implementations.
        if !seen.insert(line) {
            return Err(wrong("occurs twice"));
        }
        result.push((left.to_owned(), right.to_owned()));
    }
    Ok(result)
}

fn special_ids(vocabulary: &Vocabulary) -> Result<()> {
    let Vocabulary { tokens, bos, eos, stops, add_bos, .. } = vocabulary;
    let named = [("bos", bos.as_ref()), ("eos", eos.as_ref())]
        .into_iter()
        .filter_map(|(name, id)| id.map(|id| (name, id)))
        .chain(stops.iter().map(|id| ("stop", id)));
    for (name, &id) in named {
        if id as usize >= tokens.len() {
            return Err(Error::Model(format!(
                "the {name} token is {id}, but the vocabulary has {} tokens",
                tokens.len()
            )));
        }
    }
    if *add_bos && bos.is_none() {
        return Err(Error::Model(
            "texts shall begin with the bos token (tokenizer.ggml.add_bos_token), but there is none"
                .into(),
        ));
    }
    Ok(())
}

/// A token for a message: escaped, and cut to a length that a line can hold.
fn quoted(token: &str) -> String {
    const SHOWN: usize = 60;
    let cut: String = token.chars().take(SHOWN).collect();
    let dots = if cut.len() < token.len() { "..." } else { "" };
    format!("{cut:?}{dots}")
}
