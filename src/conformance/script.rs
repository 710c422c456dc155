//! A case as a script: what it would do on a device, and what has to come out, written down instead of run. Results are marks, words
//! of which each stands for its place, so that what a case compares says where that is, and what it hands on where it came from.

use super::rig::{Elements, Format};
use crate::gpu::ShaderSpec;

/// What a case would do.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) buffers: Vec<Buffer>,
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) checks: Vec<Check>,
    /// What could not be written down.
    pub(super) problem: Option<String>,
    /// First mark, marks and buffer of each result, in ascending order.
    marked: Vec<(u32, usize, usize)>,
}

/// A buffer: no two dispatches write the same, so that every result is there at the end.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) name: &'static str,
    pub(super) words: usize,
    pub(super) holds: Holds,
}

/// What a buffer holds before the first dispatch that has it.
#[derive(Debug)]
pub(super) enum Holds {
    Words(Vec<u32>),
    Poison,
    /// What another one holds by then, from a word on.
    Copy(usize, usize),
}

/// A kernel that would run.
#[derive(Debug)]
pub(super) struct Dispatch {
    pub(super) spec: ShaderSpec,
    pub(super) grid: (u32, u32, u32),
    /// Variables and buffers.
    pub(super) bindings: Vec<(&'static str, usize)>,
}

/// A comparison of a result.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) part: String,
    pub(super) buffer: usize,
    pub(super) words: Place,
    pub(super) format: Format,
    pub(super) expected: Vec<f64>,
    pub(super) tolerance: Vec<f64>,
    pub(super) why: String,
}

/// Words of a buffer.
#[derive(Debug)]
pub(super) enum Place {
    /// From this one on.
    From(usize),
    /// These.
    Each(Vec<u32>),
}

// Marks are numbers that are not finite, of which no case is made up.
const FIRST: u32 = 0xff80_0001;
const LAST: u32 = 0xffff_fffe;

impl Script {
    /// A buffer that a dispatch would find with these words: its number.
    pub(super) fn found(&mut self, name: &'static str, words: Vec<u32>, writes: bool) -> usize {
        let source = self.source(&words);
        let is_whole = |&(buffer, first): &(usize, usize)| {
            first == 0 && words.len() == self.buffers[buffer].words
        };
        if let Some((buffer, _)) = source.filter(is_whole)
            && !writes
        {
            return buffer;
        }
        let count = words.len();
        let holds = match source {
            Some((buffer, first)) => Holds::Copy(buffer, first),
            None => Holds::Words(words),
        };
        self.add(name, count, holds)
    }

    /// A new buffer: its number.
    pub(super) fn add(&mut self, name: &'static str, words: usize, holds: Holds) -> usize {
        self.buffers.push(Buffer { name, words, holds });
        self.buffers.len() - 1
    }

    /// What a dispatch would leave in a buffer.
    pub(super) fn left(&mut self, buffer: usize) -> Vec<u32> {
        let count = self.buffers[buffer].words;
        let first = self.marked.last().map_or(FIRST, |&(first, count, _)| first + count as u32);
        if count > (LAST - first) as usize {
            self.problem.get_or_insert_with(|| "it has more results than there are marks".into());
            return vec![LAST; count];
        }
        self.marked.push((first, count, buffer));
        (first..first + count as u32).collect()
    }

    /// Writes a comparison down.
    pub(super) fn check(&mut self, elements: &Elements<'_>) {
        let words = &elements.words[..elements.words_used()];
        if words.is_empty() {
            return;
        }
        let Some((buffer, words)) = self.places(words) else {
            let problem = || format!("{} is not what a kernel left", elements.part);
            self.problem.get_or_insert_with(problem);
            return;
        };
        self.checks.push(Check {
            part: elements.part.to_owned(),
            buffer,
            words,
            format: elements.format,
            expected: elements.want.to_vec(),
            tolerance: elements.tolerance.to_vec(),
            why: elements.why.to_owned(),
        });
    }

    // Buffer and word of a mark.
    fn place(&self, mark: u32) -> Option<(usize, usize)> {
        let after = self.marked.partition_point(|&(first, ..)| first <= mark);
        let (first, count, buffer) = *self.marked.get(after.checked_sub(1)?)?;
        let word = (mark - first) as usize;
        (word < count).then_some((buffer, word))
    }

    // Where words that are all of one result, one after the other, are.
    fn source(&self, words: &[u32]) -> Option<(usize, usize)> {
        let (buffer, first) = self.place(*words.first()?)?;
        let is_next = |(i, &word): (usize, &u32)| word.wrapping_sub(words[0]) as usize == i;
        let fits = first + words.len() <= self.buffers[buffer].words;
        (fits && words.iter().enumerate().all(is_next)).then_some((buffer, first))
    }

    // The same, be they not one after the other.
    fn places(&self, words: &[u32]) -> Option<(usize, Place)> {
        if let Some((buffer, first)) = self.source(words) {
            return Some((buffer, Place::From(first)));
        }
        let places: Vec<_> = words.iter().map(|&word| self.place(word)).collect::<Option<_>>()?;
        let buffer = places[0].0;
        let is_one = places.iter().all(|place| place.0 == buffer);
        let each = places.into_iter().map(|place| place.1 as u32).collect();
        is_one.then_some((buffer, Place::Each(each)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_on_is_known_by_its_marks() {
        let mut script = Script::default();
        let x = script.found("x", vec![1, 2, 3], false);
        let y = script.add("y", 4, Holds::Poison);
        let left = script.left(y);
        // Read as it is, in part, and written again.
        assert_eq!(script.found("a", left.clone(), false), y);
        let part = script.found("b", left[1..3].to_vec(), false);
        assert!(matches!(script.buffers[part].holds, Holds::Copy(from, 1) if from == y));
        let again = script.found("c", left.clone(), true);
        assert!(matches!(script.buffers[again].holds, Holds::Copy(from, 0) if from == y));
        assert!(matches!(&script.buffers[x].holds, Holds::Words(words) if words == &[1, 2, 3]));
        // Marks of the one are not those of the other.
        let other = script.left(again);
        assert_eq!(script.source(&other), Some((again, 0)));
        assert_eq!(script.source(&[left[0], left[2]]), None);
        assert!(
            matches!(script.places(&[left[0], left[2]]), Some((_, Place::Each(each))) if each == [0, 2])
        );
        assert!(script.places(&[left[0], other[0]]).is_none());
        assert!(script.places(&[left[0], 7]).is_none());
    }
}
