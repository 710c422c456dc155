//! Frequent words: coded words whose frequencies follow the zeta distribution.

use std::f64::consts::PI;

use super::context::Context;
use super::draws::Draws;
use super::puzzle::Puzzle;

/// How many words are asked for.
const ASKED: usize = 3;

/// The most frequent word, which is noise.
const NOISE: &str = "...";

/// From this many words on, the last word that is asked for, of rank 4, is more frequent than the
/// next one: 53 / zeta(2) is above 2 x 4^2 and below 2 x 5^2.
const LEAST_WORDS: u32 = 53;

struct FrequentWords {
    /// From the most frequent on.
    words: Vec<String>,
    /// Where the draws of the order begin.
    order: Draws,
}

pub(super) fn puzzle(mut draws: Draws, length: u32) -> Puzzle<'static> {
    // Ranks beyond the root of the number of words do not occur.
    let ranks = (length.max(LEAST_WORDS).isqrt()) as usize;
    let mut words = vec![NOISE.to_owned()];
    words.extend(draws.distinct(ranks, |draws| draws.letters(6)));
    Puzzle {
        before: format!(
            "The following text consists of coded words and of dots, which mean nothing. Keep \
             count of the coded words. I will ask you about the {ASKED} most frequent ones \
             afterwards."
        ),
        question: format!("What are the {ASKED} most frequent coded words of the text?"),
        prefix: format!("The {ASKED} most frequent coded words of the text are"),
        references: words[1..=ASKED].to_vec(),
        context: Box::new(FrequentWords { words, order: draws }),
    }
}

impl Context for FrequentWords {
    /// Of n words, the one of rank k occurs n / (zeta(2) k^2) times (RULER's alpha of 2). A unit of
    /// filling is one more in n.
    fn text(&self, amount: u32, _: f64) -> String {
        let count = f64::from(LEAST_WORDS) + f64::from(amount);
        let most = count / (PI * PI / 6.0);
        let ranked = (1_u32..).zip(&self.words);
        let mut text: Vec<&str> = ranked
            .flat_map(|(rank, word)| {
                let times = most / (f64::from(rank) * f64::from(rank));
                std::iter::repeat_n(word.as_str(), times as usize)
            })
            .collect();
        self.order.clone().shuffle(&mut text);
        text.join(" ")
    }
}
