//! Sentences hidden in a haystack.

use super::context::Context;
use super::draws::Draws;
use super::filling::Filling;

pub(super) struct Hidden<'a> {
    filling: &'a Filling,
    /// The unit that the haystack begins with.
    first: usize,
    sentences: Vec<String>,
    /// How many of them, from the first, the answer needs.
    needed: usize,
    places: Places,
}

/// Where sentences lie, as shares from 0 to 1; the first lies at the depth that is asked for.
pub(super) enum Places {
    /// The others stay where they are, whatever the depth.
    Fixed(Vec<f64>),
    /// The others follow the first in their order, at these shares of what lies behind it.
    Behind(Vec<f64>),
}

impl Places {
    /// `count` fixed places.
    pub fn fixed(draws: &mut Draws, count: usize) -> Self {
        Self::Fixed((0..count).map(|_| draws.share()).collect())
    }

    /// `count` places behind the first sentence.
    pub fn behind(draws: &mut Draws, count: usize) -> Self {
        let mut shares: Vec<f64> = (0..count).map(|_| draws.share()).collect();
        shares.sort_by(f64::total_cmp);
        Self::Behind(shares)
    }

    fn at(&self, depth: f64) -> Vec<f64> {
        let mut places = vec![depth];
        match self {
            Self::Fixed(shares) => places.extend(shares),
            Self::Behind(shares) => {
                places.extend(shares.iter().map(|share| depth + (1.0 - depth) * share));
            }
        }
        places
    }
}

impl<'a> Hidden<'a> {
    /// `sentences` at as many places of a haystack that begins anywhere, the first `needed` of which the answer needs.
    pub fn new(
        draws: &mut Draws,
        filling: &'a Filling,
        sentences: Vec<String>,
        needed: usize,
        places: Places,
    ) -> Self {
        let first = draws.below(filling.len()) as usize;
        Self { filling, first, sentences, needed, places }
    }
}

impl Context for Hidden<'_> {
    fn text(&self, amount: u32, depth: f64) -> String {
        // How many units come before each sentence.
        let mut places: Vec<(u32, &str)> = self
            .places
            .at(depth)
            .into_iter()
            .map(|place| (place * f64::from(amount)) as u32)
            .zip(self.sentences.iter().map(String::as_str))
            .collect();
        places.sort_by_key(|place| place.0);
        let mut units = self.filling.units().skip(self.first);
        let mut parts = vec![];
        let mut done = 0;
        for (before, sentence) in places {
            parts.extend(units.by_ref().take((before - done) as usize));
            parts.push(sentence);
            done = before;
        }
        parts.extend(units.take((amount - done) as usize));
        parts.join(self.filling.separator)
    }

    fn needles(&self) -> &[String] {
        &self.sentences[..self.needed]
    }
}
