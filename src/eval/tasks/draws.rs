//! Random draws: the same seed gives the same ones on every platform.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;

/// The sequence of the generator; which one is arbitrary, but prompts are reproducible only if it
/// never changes.
const STREAM: u128 = 0x7c1d_52e9_40b3_a68f_d19e_0c47_65fa_23b8;

#[derive(Clone)]
pub(super) struct Draws(Pcg64);

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self(Pcg64::new(seed.into(), STREAM))
    }

    /// A number from 0 to below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(bound) * (self.0.next_u64() >> 32)) >> 32) as u32
    }

    /// A number of so many digits, the first of them not 0.
    pub fn number(&mut self, digits: u32) -> u32 {
        let least = 10_u32.pow(digits - 1);
        least + self.below(9 * least)
    }

    /// So many letters, `a` to `z`.
    pub fn letters(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(b'a' + self.below(26) as u8)).collect()
    }

    /// A number from 0 to below 1.
    pub fn share(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn choose<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len() as u32) as usize]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in 0..items.len() {
            let rest = (items.len() - i) as u32;
            items.swap(i, i + self.below(rest) as usize);
        }
    }

    /// So many draws, none of them twice; `draw` must have more than that to give.
    pub fn distinct<T: PartialEq>(
        &mut self,
        count: usize,
        draw: impl Fn(&mut Self) -> T,
    ) -> Vec<T> {
        let mut drawn = Vec::with_capacity(count);
        while drawn.len() < count {
            let next = draw(self);
            if !drawn.contains(&next) {
                drawn.push(next);
            }
        }
        drawn
    }
}
