//! What random choices are drawn from.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;

/// Draws that a seed and a number of a stream decide.
pub struct Random(Pcg64);

impl Random {
    /// One of the streams of a seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(Pcg64::new(seed.into(), stream.into()))
    }

    /// From 0 to below 1.
    pub fn share(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A whole number below this one.
    pub fn below(&mut self, end: usize) -> usize {
        (self.share() * end as f64) as usize
    }

    /// Brings so many items, chosen at random, to the front.
    pub fn pick<T>(&mut self, items: &mut [T], count: usize) {
        for i in 0..count.min(items.len()) {
            items.swap(i, i + self.below(items.len() - i));
        }
    }
}
