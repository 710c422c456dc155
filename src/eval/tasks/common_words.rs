//! Common words: a few words of a list occur more often than all others.

use super::context::Context;
use super::draws::Draws;
use super::puzzle::Puzzle;
use super::words;

/// How many words are common.
const COMMON: usize = 10;

struct CommonWords {
    /// Every word there is, the common ones first.
    words: Vec<String>,
    repeats: Repeats,
    /// Where the draws of the order begin.
    order: Draws,
}

/// How often words occur.
struct Repeats {
    common: usize,
    uncommon: usize,
}

impl Repeats {
    /// RULER's 30 and 3, or 6 and 1 where those do not fit. Both grow with long prompts, of which
    /// RULER has none beyond 128k, so that the words never run out: a word has at least two tokens,
    /// so 65,536 tokens hold less than 11,000 words three times each.
    fn new(length: u32) -> Self {
        if length < 4096 {
            return Self { common: 6, uncommon: 1 };
        }
        let factor = length.div_ceil(65_536) as usize;
        Self { common: 30 * factor, uncommon: 3 * factor }
    }
}

pub(super) fn puzzle(mut draws: Draws, length: u32) -> Puzzle<'static> {
    let mut words = words::names();
    draws.shuffle(&mut words);
    Puzzle {
        before: "Some words of the following list occur more often than the others. Keep count of \
                 them. I will ask you about the most common ones afterwards."
            .into(),
        question: format!("What are the {COMMON} most common words of the list?"),
        prefix: format!("The {COMMON} most common words of the list are"),
        references: words[..COMMON].to_vec(),
        context: Box::new(CommonWords { words, repeats: Repeats::new(length), order: draws }),
    }
}

impl Context for CommonWords {
    /// A unit of filling is an uncommon word, as often as it occurs.
    fn text(&self, amount: u32, _: f64) -> String {
        let (common, uncommon) = self.words.split_at(COMMON);
        let mut list: Vec<&str> = vec![];
        for (words, repeats) in [
            (common, self.repeats.common),
            (&uncommon[..uncommon.len().min(amount as usize)], self.repeats.uncommon),
        ] {
            list.extend(words.iter().flat_map(|word| std::iter::repeat_n(word.as_str(), repeats)));
        }
        self.order.clone().shuffle(&mut list);
        list.join(" ")
    }

    fn most(&self) -> u32 {
        (self.words.len() - COMMON) as u32
    }
}
