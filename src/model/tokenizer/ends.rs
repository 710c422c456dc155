//! The tokens that end an answer, and control tokens that a file gives another type.

use std::collections::{BTreeMap, HashMap};

use tokenizers::AddedToken;

use super::Kind;
use super::check::{Checked, quoted};
use super::parts::Parts;

/// Tokens that end a turn or a document in known model families. A file names only one or two of them as its ends, yet
/// its model writes the others too.
const KNOWN: [&str; 17] = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|user|>",
    "<|observation|>",
    "</s>",
    "<eos>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<｜end▁of▁sentence｜>",
];

/// Adds the known ends to those that the files name, makes ends and marks such as `<|im_start|>` control tokens whatever
/// type the file gives them, and says so. What merges make is text, and stays it.
pub fn settle(parts: &mut Parts, checked: &mut Checked) -> Vec<String> {
    parts.stops.extend(parts.eos);
    let mut odd: BTreeMap<u32, &str> = BTreeMap::new();
    let mut known = Vec::new();
    for (id, (token, kind)) in (0u32..).zip(parts.tokens.iter().zip(&checked.kinds)) {
        let is_known = KNOWN.contains(&token.as_str());
        if is_known {
            known.push(id);
        }
        let is_end = is_known || parts.stops.contains(&id) || parts.bos == Some(id);
        match kind {
            Kind::Text if is_end || is_mark(token) => drop(odd.insert(id, "text")),
            Kind::UserDefined if is_end => drop(odd.insert(id, "user-defined")),
            _ => {}
        }
    }
    if !odd.is_empty() {
        let written = written(parts, &odd);
        odd.retain(|id, _| !written.contains_key(id));
    }
    for &id in odd.keys() {
        let token = &parts.tokens[id as usize];
        match parts.special.iter_mut().find(|special| special.content == *token) {
            Some(special) => special.special = true,
            None => parts.special.push(AddedToken::from(token, true).normalized(false)),
        }
        checked.kinds[id as usize] = Kind::Control;
    }
    let is_control = |id: &u32| checked.kinds[*id as usize] == Kind::Control;
    parts.stops.extend(known.into_iter().filter(is_control));
    warning(parts, &odd).into_iter().collect()
}

/// Whether a token is spelled as no text is.
fn is_mark(token: &str) -> bool {
    let between = |open, close| token.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    between("<|", "|>").or_else(|| between("<｜", "｜>")).is_some_and(|name| !name.is_empty())
}

/// Those of the tokens that texts become: single characters, and what merges make.
fn written<'a>(parts: &Parts, tokens: &BTreeMap<u32, &'a str>) -> HashMap<u32, &'a str> {
    let by_text: HashMap<&str, u32> =
        tokens.keys().map(|&id| (parts.tokens[id as usize].as_str(), id)).collect();
    let single = by_text.iter().filter(|(text, _)| text.chars().count() <= 1).map(|entry| *entry.1);
    let made = parts
        .merges
        .iter()
        .filter_map(|(left, right)| by_text.get(format!("{left}{right}").as_str()).copied());
    // A user-defined token is one before anything merges.
    single
        .chain(made)
        .filter_map(|id| Some((id, *tokens.get(&id).filter(|kind| **kind == "text")?)))
        .collect()
}

fn warning(parts: &Parts, odd: &BTreeMap<u32, &str>) -> Option<String> {
    const SHOWN: usize = 3;
    let named = |(&id, kind): (&u32, &&str)| {
        format!("{} ({id}) {kind}", quoted(&parts.tokens[id as usize]))
    };
    let shown: Vec<String> = odd.iter().take(SHOWN).map(named).collect();
    let more = odd
        .len()
        .checked_sub(SHOWN + 1)
        .map_or_else(String::new, |n| format!(" and {} more", n + 1));
    (!odd.is_empty()).then(|| {
        format!("the vocabulary calls {}{more}, but spelled like that they can only be control tokens, and are taken for them", shown.join(", "))
    })
}
