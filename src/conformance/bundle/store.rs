//! What the runs of a case share, each once, and kernels that cases share.

use super::shape::Numbers;
use crate::gpu::{Assembled, ShaderSpec, assemble};
use std::collections::HashMap;

/// Texts and data, each once.
#[derive(Default)]
pub(super) struct Store {
    pub(super) texts: Vec<String>,
    pub(super) data: Vec<Vec<u8>>,
    known_texts: HashMap<String, usize>,
    known: HashMap<Vec<u8>, usize>,
    pub(super) bytes: usize,
}

impl Store {
    pub(super) fn text(&mut self, text: String) -> usize {
        let next = self.texts.len();
        let number = *self.known_texts.entry(text.clone()).or_insert(next);
        if number == next {
            self.texts.push(text);
        }
        number
    }

    pub(super) fn data(&mut self, bytes: Vec<u8>) -> usize {
        let next = self.data.len();
        let number = *self.known.entry(bytes.clone()).or_insert(next);
        if number == next {
            self.bytes += bytes.len();
            self.data.push(bytes);
        }
        number
    }

    pub(super) fn words(&mut self, words: &[u32]) -> usize {
        self.data(words.iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    pub(super) fn numbers(&mut self, numbers: &[f64]) -> Numbers {
        let first = numbers[0];
        if first.is_finite() && numbers.iter().all(|number| *number == first) {
            return Numbers::All(first);
        }
        let data = self.data(numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
        Numbers::Each { data }
    }
}

/// Kernels that were assembled, which cases share.
#[derive(Default)]
pub(super) struct Kernels(HashMap<ShaderSpec, Assembled>);

impl Kernels {
    pub(super) fn of(&mut self, spec: ShaderSpec) -> std::result::Result<&Assembled, String> {
        use std::collections::hash_map::Entry;
        Ok(match self.0.entry(spec) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let assembled = assemble(new.key()).map_err(|error| error.to_string())?;
                new.insert(assembled)
            }
        })
    }
}
