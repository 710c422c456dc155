//! The memory plan: a table of buffers, known before any is made. A need is summed from its rows, and buffers are made by its
//! rows (`gpu/buffers.rs`), so that both are the same. Pure.

mod decode;

pub(crate) use decode::{DecodeScratch, LatentSlab, prefill_states, step};

use std::borrow::Cow;

/// A row of a plan: buffers that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// What errors call it.
    pub(crate) what: Cow<'static, str>,
    pub(crate) group: Group,
    pub(crate) usage: Usage,
    /// Bytes that are used of each; [`u64::MAX`] for more than can be counted.
    pub(crate) bytes: u64,
    /// How many there are.
    pub(crate) count: u64,
    /// What makes them larger, or more.
    pub(crate) grows_with: &'static [Grows],
}

/// What a buffer belongs to: memory is reported by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Weights,
    /// Keys and values on the GPU.
    KvCache,
    /// Codes and summaries of blocks.
    Index,
    /// What steps work in.
    Scratch,
    /// What carries keys and values to the GPU and from there.
    Rings,
    /// CPU memory.
    Host,
}

/// How a buffer is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Kernels use it, and it is copied from and to.
    Storage,
    /// Filled by the CPU, and copied from.
    Upload,
    /// Copied to, and read by the CPU.
    ReadBack,
    /// Plain memory of the CPU's, which no device has a part in.
    Plain,
}

/// What the size or the number of buffers depends on, besides the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grows {
    /// Tokens of a prompt that are worked on at a time.
    Chunk,
    /// The most tokens of one sequence.
    Context,
    /// The most tokens of all sequences.
    Tokens,
    /// Sequences, each with a row in a decode step.
    Sessions,
    Layers,
    /// Slots of the hot cache.
    HotBlocks,
}

impl Row {
    /// A buffer of the scratch that kernels use.
    pub(crate) fn new(
        what: impl Into<Cow<'static, str>>,
        bytes: u64,
        grows_with: &'static [Grows],
    ) -> Self {
        let (group, usage) = (Group::Scratch, Usage::Storage);
        Self { what: what.into(), group, usage, bytes, count: 1, grows_with }
    }

    /// One of 32-bit numbers: so many times so many.
    pub(crate) fn words(
        what: impl Into<Cow<'static, str>>,
        counts: &[u64],
        grows_with: &'static [Grows],
    ) -> Self {
        Self::new(what, product(counts).saturating_mul(4), grows_with)
    }

    /// The same, of another group.
    pub(crate) fn of(self, group: Group) -> Self {
        Self { group, ..self }
    }

    /// The same, used otherwise.
    pub(crate) fn used_as(self, usage: Usage) -> Self {
        Self { usage, ..self }
    }

    /// The same, so many times.
    pub(crate) fn times(self, count: u64) -> Self {
        Self { count, ..self }
    }

    /// The same where it is wanted; else one as small as can be, for bindings that need something.
    pub(crate) fn where_wanted(self, is_wanted: bool) -> Self {
        let bytes = if is_wanted { self.bytes } else { 0 };
        Self { bytes, ..self }
    }

    /// Bytes that all of them take.
    pub(crate) fn total(&self) -> u64 {
        let each = match self.usage {
            Usage::Plain => self.bytes,
            _ => allocated(self.bytes),
        };
        each.saturating_mul(self.count)
    }
}

/// Bytes that a buffer takes of which so many are used: whole vec4s, one at least.
pub(crate) fn allocated(bytes: u64) -> u64 {
    bytes.max(16).checked_next_multiple_of(16).unwrap_or(u64::MAX)
}

/// So many times so many; [`u64::MAX`] where that is more than can be counted.
pub(crate) fn product(counts: &[u64]) -> u64 {
    counts.iter().fold(1, |product: u64, &count| product.saturating_mul(count))
}

/// Bytes of all rows; [`u64::MAX`] where they are more than can be counted.
pub(crate) fn sum<'r>(rows: impl IntoIterator<Item = &'r Row>) -> u64 {
    rows.into_iter().fold(0, |sum: u64, row| sum.saturating_add(row.total()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_counted_is_the_most_and_no_less() {
        assert_eq!(product(&[1 << 32, 1 << 31]), 1 << 63);
        assert_eq!(product(&[1 << 32, 1 << 32, 2]), u64::MAX);
        let large = Row::words("a buffer", &[1 << 32, 1 << 29], &[]);
        assert_eq!(large.bytes, 1 << 63);
        assert_eq!(large.clone().times(2).total(), u64::MAX);
        assert_eq!(sum([&large, &large, &large]), u64::MAX);
        assert_eq!(Row::words("a buffer", &[u64::MAX], &[]).total(), u64::MAX);
        assert_eq!(allocated(u64::MAX - 3), u64::MAX);
    }

    #[test]
    fn a_buffer_takes_whole_vectors_and_plain_memory_what_it_has() {
        let row = |bytes| Row::new("a buffer", bytes, &[]).times(3);
        assert_eq!([0, 16, 17].map(|bytes| row(bytes).total()), [48, 48, 96]);
        assert_eq!(row(17).used_as(Usage::Plain).total(), 51);
        assert_eq!(row(17).where_wanted(false).total(), 48);
    }
}
