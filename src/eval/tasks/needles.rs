//! Needles: sentences that give a key a number.

use super::draws::Draws;
use super::filling::Filling;
use super::hidden::{Hidden, Places};
use super::puzzle::Puzzle;
use super::words;

/// Needles of every family but the single one, as in RULER's tasks.
const SEVERAL: usize = 4;

struct Needle {
    key: String,
    number: String,
}

/// One needle, asked for.
pub(super) fn single(mut draws: Draws, filling: &Filling) -> Puzzle<'_> {
    let needles = pairs(keys(&mut draws, 1), numbers(&mut draws, 1));
    puzzle(draws, filling, &needles, 1)
}

/// Several keys, the first one asked for.
pub(super) fn multikey(mut draws: Draws, filling: &Filling) -> Puzzle<'_> {
    let needles = pairs(keys(&mut draws, SEVERAL), numbers(&mut draws, SEVERAL));
    puzzle(draws, filling, &needles, 1)
}

/// Several numbers of one key, all asked for.
pub(super) fn multivalue(mut draws: Draws, filling: &Filling) -> Puzzle<'_> {
    let keys = keys(&mut draws, 1).into_iter().cycle();
    let needles = pairs(keys, numbers(&mut draws, SEVERAL));
    puzzle(draws, filling, &needles, SEVERAL)
}

/// Several keys, all asked for.
pub(super) fn multiquery(mut draws: Draws, filling: &Filling) -> Puzzle<'_> {
    let needles = pairs(keys(&mut draws, SEVERAL), numbers(&mut draws, SEVERAL));
    puzzle(draws, filling, &needles, SEVERAL)
}

fn keys(draws: &mut Draws, count: usize) -> Vec<String> {
    draws.distinct(count, words::name)
}

fn numbers(draws: &mut Draws, count: usize) -> Vec<String> {
    draws.distinct(count, |draws| draws.number(7).to_string())
}

fn pairs(keys: impl IntoIterator<Item = String>, numbers: Vec<String>) -> Vec<Needle> {
    keys.into_iter().zip(numbers).map(|(key, number)| Needle { key, number }).collect()
}

/// Hides the needles and asks for the first `asked` of them.
fn puzzle<'a>(
    mut draws: Draws,
    filling: &'a Filling,
    needles: &[Needle],
    asked: usize,
) -> Puzzle<'a> {
    let sentences = needles
        .iter()
        .map(|Needle { key, number }| {
            format!("One of the special magic numbers for {key} is: {number}.")
        })
        .collect();
    let mut keys: Vec<&str> = needles[..asked].iter().map(|needle| needle.key.as_str()).collect();
    keys.dedup();
    let keys = list(&keys);
    let (before, question, prefix) = if asked == 1 {
        (
            "A special magic number is hidden within the following text. Make sure to memorize it. \
             I will quiz you about the number afterwards.",
            format!("What is the special magic number for {keys}"),
            format!("The special magic number for {keys} mentioned in the provided text is"),
        )
    } else {
        (
            "Some special magic numbers are hidden within the following text. Make sure to \
             memorize them. I will quiz you about the numbers afterwards.",
            format!("What are all the special magic numbers for {keys}"),
            format!("The special magic numbers for {keys} mentioned in the provided text are"),
        )
    };
    let places = Places::fixed(&mut draws, needles.len() - 1);
    Puzzle {
        before: before.into(),
        context: Box::new(Hidden::new(&mut draws, filling, sentences, asked, places)),
        question: format!("{question} mentioned in the provided text?"),
        prefix,
        references: needles[..asked].iter().map(|needle| needle.number.clone()).collect(),
    }
}

/// `a`, or `a, b, and c`.
fn list(items: &[&str]) -> String {
    match items {
        [first @ .., last] if !first.is_empty() => format!("{}, and {last}", first.join(", ")),
        _ => items.concat(),
    }
}
