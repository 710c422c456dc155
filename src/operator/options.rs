//! What an operator is made for: a shape, and the most that a batch may ask of it.

use super::tensors::most_bytes;
use crate::attention::{BlockScorer, KvLayout, Reads, Shape, Summary, TokenScorer};
use crate::gpu::Gpu;
use crate::kernels::{Scored, SegmentParams};
use crate::memory::{Row, step};
use crate::{Error, Result};

/// What chooses the tokens that a row of decode attention attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Nothing: every token is attended.
    Dense,
    /// Two levels: blocks by their scores, then tokens of the blocks that are kept. With [`TokenScorer::None`] blocks alone,
    /// with [`BlockScorer::None`] tokens alone.
    TwoLevel {
        /// What level 1 ranks blocks by.
        blocks: BlockScorer,
        /// What level 2 ranks tokens by.
        tokens: TokenScorer,
    },
    /// The caller: each batch lists the tokens ([`Select::Tokens`](super::Select::Tokens)).
    Caller,
}

impl Selector {
    /// Whether it reads the codes of the index.
    pub fn reads_codes(self) -> bool {
        match self {
            Self::TwoLevel { blocks, tokens } => {
                blocks.reads() == Reads::Codes || tokens.reads() == Reads::Codes
            }
            Self::Dense | Self::Caller => false,
        }
    }

    /// The summary of blocks that it reads, if it reads one.
    pub fn summary(self) -> Option<&'static Summary> {
        match self {
            Self::TwoLevel { blocks, .. } => blocks.summary(),
            Self::Dense | Self::Caller => None,
        }
    }
}

/// The most that a batch may hold. Tensors that are bound must have room for as much, and scratch grows with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of a batch, those of all sequences together: a row is one token's queries. 1 to 65,535.
    pub rows: u32,
    /// Sequences of a batch: 1 to 65,535.
    pub sequences: u32,
    /// Tokens of a sequence: from 1 to what 65,535 blocks hold.
    pub tokens: u32,
    /// Physical blocks of the cache, at least 1.
    pub cache_blocks: u32,
}

/// What an operator is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Heads, dimensions and the size of a block.
    pub shape: Shape,
    /// The most that a batch may hold.
    pub limits: Limits,
    /// How keys and values lie in the cache.
    pub layout: KvLayout,
    /// Floats from one row's queries to the next: a multiple of 4, at least the query heads times their dimensions. More, where
    /// queries lie in one row with other things.
    pub query_stride: u32,
    /// Physical blocks of a segment of the cache, 1 to all of them: a buffer, or a range of one, that a kernel sees at a time. The
    /// last segment may have fewer.
    pub segment_blocks: u32,
    /// Workgroups that the device runs at a time, 1 to 65,535: decode attention is split into as many, or into whole waves of them.
    pub workgroups: u32,
}

/// Of a large GPU: four a multiprocessor.
const GPU_WORKGROUPS: u32 = 512;
/// On a CPU, where few large workgroups beat many small ones.
const CPU_WORKGROUPS: u32 = 16;
/// The most workgroups of one dimension of a dispatch.
const MOST_WORKGROUPS: u32 = 65_535;

/// The most blocks of this shape that a kernel sees at a time, of so many that lie so.
fn segment_blocks(gpu: &Gpu, shape: &Shape, layout: KvLayout, blocks: u32) -> u32 {
    let most = most_bytes(gpu);
    // Any shape and strides may come here; they are checked where they are used.
    let [one, two] = [1, 2].map(|blocks| layout.bytes(shape, blocks));
    let further = most.saturating_sub(one).checked_div(two - one).unwrap_or(u64::MAX);
    further.saturating_add(1).min(blocks.into()).max(1) as u32
}

impl Options {
    /// Keys and values in one buffer, queries row after row, as many workgroups as suit the device, and segments of the cache as
    /// long as a kernel sees there.
    pub fn new(gpu: &Gpu, shape: Shape, limits: Limits) -> Self {
        Self::with_layout(gpu, shape, KvLayout::Joined, limits)
    }

    /// The same for keys and values that lie otherwise.
    pub fn with_layout(gpu: &Gpu, shape: Shape, layout: KvLayout, limits: Limits) -> Self {
        let workgroups = if gpu.is_cpu() { CPU_WORKGROUPS } else { GPU_WORKGROUPS };
        // Any shape may come here; it is checked where it is used.
        let heads = u64::from(shape.kv_heads) * u64::from(shape.group);
        let query_stride = heads.saturating_mul(shape.head_dim.into()).min(u32::MAX.into()) as u32;
        let segment_blocks = segment_blocks(gpu, &shape, layout, limits.cache_blocks);
        Self { shape, limits, layout, query_stride, segment_blocks, workgroups }
    }

    /// Checks that an operator can be made for this. Pure.
    ///
    /// # Errors
    /// [`Error::Argument`] naming what it is, its value and the limit; [`Error::Model`] for a shape that no kernel has.
    pub fn validate(&self) -> Result<()> {
        self.shape.validate()?;
        let Self { shape, limits, .. } = self;
        let tokens = MOST_WORKGROUPS * shape.block;
        for (what, value, most) in [
            ("the most rows of a batch", limits.rows, MOST_WORKGROUPS),
            ("the most sequences of a batch", limits.sequences, MOST_WORKGROUPS),
            ("the most tokens of a sequence", limits.tokens, tokens),
            ("the number of physical blocks", limits.cache_blocks, u32::MAX - 1),
            ("the number of blocks of a segment", self.segment_blocks, limits.cache_blocks),
            ("the number of workgroups", self.workgroups, MOST_WORKGROUPS),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::argument(what, value, format!("it must be from 1 to {most}")));
            }
        }
        self.layout.validate(shape, self.segment_blocks)?;
        let least = shape.q_heads() * shape.head_dim;
        if self.query_stride < least || !self.query_stride.is_multiple_of(4) {
            let limit = format!(
                "it must be a multiple of 4, and at least {} query heads of {} dimensions, {least}",
                shape.q_heads(),
                shape.head_dim
            );
            return Err(Error::argument("the stride of queries", self.query_stride, limit));
        }
        let scored = Scored::codes(shape);
        if scored.workgroups(limits.tokens.div_ceil(shape.block)) > MOST_WORKGROUPS {
            let most = scored.most_blocks(MOST_WORKGROUPS) * shape.block;
            let limit = format!("a dispatch scores at most {most} of this shape");
            return Err(Error::argument("the most tokens of a sequence", limits.tokens, limit));
        }
        // What a plan counts in u32, with room to spare.
        let tiles = u64::from(limits.tokens.div_ceil(shape.tile_tokens()));
        let groups = u64::from(shape.row_workgroups()) * u64::from(limits.rows);
        if tiles * groups > u64::from(u32::MAX - MOST_WORKGROUPS) {
            let limit = format!("at most {} fit with as many rows", u64::from(u32::MAX) / groups);
            let value = format!("{} ({tiles} tiles)", limits.tokens);
            return Err(Error::argument("the most tokens of a sequence", value, limit));
        }
        let words = self.step().bytes / 4;
        if words > u64::from(u32::MAX) {
            let limit =
                format!("its tables would have {words} words, and at most {} fit", u32::MAX);
            return Err(Error::argument("the most sequences of a batch", limits.sequences, limit));
        }
        Ok(())
    }

    /// The segments of the cache, of which the tensors have as many: segment i begins with physical block i times
    /// [`Options::segment_blocks`].
    pub fn segments(&self) -> u32 {
        self.limits.cache_blocks.div_ceil(self.segment_blocks.max(1))
    }

    /// The contents of each.
    pub(super) fn all_segments(&self) -> impl Iterator<Item = SegmentParams> {
        let (all, count, blocks) = (self.limits.cache_blocks, self.segments(), self.segment_blocks);
        let of = move |index| {
            let first = index * blocks;
            SegmentParams::paged(first, blocks.min(all - first), index, count)
        };
        (0..count).map(of)
    }

    /// The words of the largest step: each table has an entry more, for what a caller's lists are filled up with.
    pub(super) fn step(&self) -> Row {
        let Limits { rows, sequences, tokens, .. } = self.limits;
        step(&self.shape, rows.into(), sequences.into(), tokens)
    }

    /// Scores from one head to the next: room for one of every token.
    pub(super) fn score_stride(&self) -> u32 {
        // At most 65,536 blocks, by the limit of tokens.
        self.shape.score_stride(self.limits.tokens) as u32
    }

    /// Bytes of queries.
    pub(super) fn query_bytes(&self) -> u64 {
        let row = u64::from(self.shape.q_heads()) * u64::from(self.shape.head_dim);
        (u64::from(self.limits.rows - 1) * u64::from(self.query_stride) + row) * 4
    }

    /// Bytes of the output.
    pub(super) fn output_bytes(&self) -> u64 {
        let heads = u64::from(self.limits.rows) * u64::from(self.shape.q_heads());
        heads * u64::from(self.shape.value_dim()) * 4
    }

    /// Bytes of something that every physical block has `block` bytes of.
    pub(super) fn cache_bytes(&self, block: u64) -> u64 {
        u64::from(self.limits.cache_blocks) * block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Strides;

    #[test]
    fn what_no_operator_can_be_made_for_is_named_with_its_limit() {
        let limits = Limits { rows: 4, sequences: 2, tokens: 1000, cache_blocks: 40 };
        let shape = Shape::new(2, 3, 64, true);
        let layout = KvLayout::Joined;
        let sound = Options {
            shape,
            limits,
            layout,
            query_stride: 384,
            segment_blocks: 40,
            workgroups: 16,
        };
        sound.validate().unwrap();
        let with = |limits| Options { limits, ..sound };
        let long = Limits { tokens: 65_535 * 64, rows: 65_535, ..limits };
        // So many queries on so many channels that each is a workgroup's own.
        let parts = Shape::latent(23, 512, 64, 256);
        let many = Limits { tokens: 65_535 * 64, sequences: 65_535, rows: 1, ..limits };
        for (options, message) in [
            (with(Limits { rows: 0, ..limits }), "the most rows of a batch is 0, but"),
            (with(Limits { rows: 65_536, ..limits }), "from 1 to 65535"),
            (with(Limits { sequences: 0, ..limits }), "the most sequences of a batch is 0, but"),
            (with(Limits { tokens: 0, ..limits }), "the most tokens of a sequence is 0, but"),
            (with(Limits { tokens: 65_535 * 64 + 1, ..limits }), "from 1 to 4194240"),
            (with(Limits { cache_blocks: 0, ..limits }), "the number of physical blocks is 0, but"),
            (with(long), "fit with as many rows"),
            (
                Options { shape: parts, query_stride: 23 * 576, ..with(many) },
                "a dispatch scores at most",
            ),
            (with(many), "words, and at most"),
            (Options { query_stride: 380, ..sound }, "the stride of queries is 380, but"),
            (Options { query_stride: 386, ..sound }, "a multiple of 4"),
            (Options { segment_blocks: 0, ..sound }, "the number of blocks of a segment is 0, but"),
            (Options { segment_blocks: 41, ..sound }, "it must be from 1 to 40"),
            (Options { workgroups: 0, ..sound }, "the number of workgroups is 0, but"),
            (
                Options { layout: KvLayout::Apart(Strides { block: 8192, head: 4095 }), ..sound },
                "the stride of KV heads is 4095, but",
            ),
            (Options { shape: Shape { head_dim: 65, ..shape }, ..sound }, "head dimension is 65"),
        ] {
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
