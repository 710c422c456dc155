//! Texts of so many tokens, whatever the tokenizer is: words, counted by the server. Pure.

use super::super::random::Random;
use super::load::TEXTS;
use asynctls::{Error, Result};

/// Common words, of a token each in most vocabularies.
const WORDS: [&str; 64] = [
    "the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "as", "with",
    "his", "they", "at", "be", "this", "from", "have", "or", "by", "one", "had", "not", "but",
    "what", "all", "were", "when", "we", "there", "can", "an", "your", "which", "their", "said",
    "if", "will", "each", "about", "how", "up", "out", "them", "then", "she", "many", "some", "so",
    "these", "would", "other", "into", "has", "more", "her", "two", "like", "him", "see", "time",
];

/// The run that texts are counted by, whose number no other has.
const COUNTED: u32 = 9;

/// Tokens of prompts, chat template and all.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub prompt: u32,
    /// Of these, those that all prompts begin with.
    pub shared: u32,
}

/// Texts of prompts.
#[derive(Clone, Debug)]
pub struct Texts {
    seed: u64,
    /// Words that all begin with, and that each has to itself.
    shared: usize,
    own: usize,
}

impl Texts {
    /// Texts as long as they have to be, by what the server counts of two prompts.
    ///
    /// # Errors
    /// Those of `count`; [`Error::Argument`] where a prompt of one word has more tokens.
    pub fn new(seed: u64, sizes: Sizes, count: impl Fn(&str) -> Result<u64>) -> Result<Self> {
        let text = |words: &[&str]| mark(seed, COUNTED) + &words.join(" ");
        let (one, all) = (count(&text(&WORDS[..1]))? as f64, count(&text(&WORDS))? as f64);
        let word = (all - one) / (WORDS.len() - 1) as f64;
        if word <= 0.0 {
            let limit = format!(
                "the server counts {all} tokens of {} words, and {one} of one",
                WORDS.len()
            );
            return Err(Error::argument("--prompt-tokens", sizes.prompt, limit));
        }
        let words = |tokens: u32| (f64::from(tokens) - (one - word)) / word;
        let all = words(sizes.prompt).round();
        if all < 1.0 {
            let limit = format!("a prompt of one word has {one} there");
            return Err(Error::argument("--prompt-tokens", sizes.prompt, limit));
        }
        let all = all as usize;
        let shared = (words(sizes.shared).round().max(0.0) as usize).min(all);
        Ok(Self { seed, shared, own: all - shared })
    }

    /// The texts of a run, by a request's number. No two runs begin alike, and but for that they are the same.
    pub fn of_run(&self, run: u32) -> impl Fn(usize) -> String + Sync + use<> {
        let Self { seed, shared, own } = *self;
        let mut begin = mark(seed, run);
        begin += &words(Random::new(seed, TEXTS), shared);
        move |request| {
            let random = Random::new(seed, TEXTS + 1 + request as u64);
            format!("{begin}{}", words(random, own))
        }
    }
}

// What tells the texts of a run from those of others, of seeds too.
fn mark(seed: u64, run: u32) -> String {
    format!("{run} {seed} ")
}

fn words(mut random: Random, count: usize) -> String {
    (0..count).map(|_| format!("{} ", WORDS[random.below(WORDS.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // A template of 30 tokens, and a tokenizer of pieces of three letters.
    fn count(text: &str) -> u64 {
        30 + text.split(' ').map(|word| word.len().div_ceil(3) as u64).sum::<u64>()
    }

    #[test]
    fn prompts_are_as_long_as_they_have_to_be_and_begin_alike() {
        for (prompt, shared) in [(2000, 1500), (2000, 0), (400, 400), (400, 20)] {
            let sizes = Sizes { prompt, shared };
            let texts = Texts::new(3, sizes, |text| Ok(count(text))).unwrap();
            let of = texts.of_run(0);
            // A word has one or two tokens: of 260, as 400 tokens are, the sum is off by 8 in the mean; four times that.
            let most = u64::from(prompt) / 12;
            let (a, b) = (of(0), of(1));
            for text in [&a, &b] {
                let off = count(text).abs_diff(prompt.into());
                assert!(off <= most, "{off} off {prompt}");
            }
            let alike = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
            let off = count(&a[..alike]).abs_diff(u64::from(shared).max(34));
            assert!(off <= most, "{shared}: {off}");
            assert_eq!((of(1), a == b), (b, shared == prompt));
            // Another run asks the same, which begins with another word.
            let other = texts.of_run(1)(0);
            assert_eq!((a.as_bytes()[0], other.as_bytes()[0]), (b'0', b'1'));
            assert_eq!(a[1..], other[1..]);
        }
    }

    #[test]
    fn what_no_word_fits_into_is_refused() {
        let sizes = Sizes { prompt: 25, shared: 0 };
        let error = Texts::new(3, sizes, |text| Ok(count(text))).unwrap_err().to_string();
        assert_eq!(error, "--prompt-tokens is 25, but a prompt of one word has 33 there");
        let error = Texts::new(3, sizes, |_| Ok(7)).unwrap_err().to_string();
        assert_eq!(
            error,
            "--prompt-tokens is 25, but the server counts 7 tokens of 64 words, and 7 of one"
        );
    }
}
