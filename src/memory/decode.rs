//! What attention works in, an engine's and an operator's alike.

use super::{Grows, Row, product};
use crate::attention::{Latent, MOST_WAVES, Shape, Step};

/// What decode attention works in.
pub(crate) struct DecodeScratch<'s> {
    pub(crate) shape: &'s Shape,
    /// Rows of a step.
    pub(crate) rows: u64,
    /// The most tokens of a sequence.
    pub(crate) tokens: u32,
    /// Workgroups that the device runs at a time.
    pub(crate) at_a_time: u32,
    /// Parts of the cache that leave partial states of their own.
    pub(crate) segments: u64,
}

impl DecodeScratch<'_> {
    // Partial states, of the query heads that a workgroup works on. Splits are planned for some waves of workgroups at most, so this
    // bounds them whatever the context.
    fn states(&self) -> [u64; 3] {
        let a_split = self.shape.row_workgroups();
        let of_rows = self.rows.saturating_mul(a_split.into());
        let heads = self.shape.q_heads().div_ceil(a_split);
        let planned = u64::from(MOST_WAVES) * u64::from(self.at_a_time);
        [of_rows.saturating_add(planned), heads.into(), self.segments]
    }

    fn words(&self, what: &'static str, counts: &[u64], grows_with: &'static [Grows]) -> Row {
        Row::words(what, &[&[self.rows], counts].concat(), grows_with)
    }

    pub(crate) fn partial_o(&self) -> Row {
        let counts = [&self.states()[..], &[self.shape.value_dim().into()]].concat();
        Row::words("partial outputs", &counts, BY_SEGMENT)
    }

    pub(crate) fn partial_ml(&self) -> Row {
        let counts = [&self.states()[..], &[2]].concat();
        Row::words("partial states", &counts, BY_SEGMENT)
    }

    /// Scores of blocks, and then of tokens.
    pub(crate) fn scores(&self) -> Row {
        self.words("scores", &[self.shape.q_heads().into(), self.stride()], BY_TOKEN)
    }

    /// Scores in the order of a KV head's choice.
    pub(crate) fn keys(&self) -> Row {
        self.words("score keys", &[self.shape.kv_heads.into(), self.stride()], BY_TOKEN)
    }

    /// What the scores of each query head are softmaxed by.
    pub(crate) fn head_terms(&self) -> Row {
        self.words("terms of query heads", &[self.shape.q_heads().into(), 2], &[Grows::Sessions])
    }

    pub(crate) fn chosen_tokens(&self) -> Row {
        self.words("chosen tokens", &[self.shape.kv_heads.into(), self.stride()], BY_TOKEN)
    }

    pub(crate) fn chosen_blocks(&self) -> Row {
        let blocks = self.tokens.div_ceil(self.shape.block);
        self.words("chosen blocks", &[self.shape.kv_heads.into(), blocks.into()], BY_TOKEN)
    }

    fn stride(&self) -> u64 {
        self.shape.score_stride(self.tokens)
    }
}

const BY_TOKEN: &[Grows] = &[Grows::Context, Grows::Sessions];
const BY_SEGMENT: &[Grows] = &[Grows::Sessions, Grows::Tokens, Grows::HotBlocks];

/// The words of the largest step: of so many rows, and sequences of so many tokens. There is room for a block more of each.
pub(crate) fn step(shape: &Shape, rows: u64, sequences: u64, tokens: u32) -> Row {
    let blocks = u64::from(tokens.div_ceil(shape.block)) + 1;
    let words = Step::most_words(shape, rows, sequences, blocks);
    Row::words("the step", &[words], &[Grows::Chunk, Grows::Context, Grows::Sessions])
}

/// The states that prefill of so many rows leaves for the segments that follow.
pub(crate) fn prefill_states(shape: &Shape, rows: u64) -> Row {
    let counts = [rows, shape.q_heads().into(), 2];
    Row::words("attention states", &counts, &[Grows::Chunk, Grows::Sessions, Grows::Tokens])
}

/// What prefill of latent attention makes of a slab of tokens' cached latents, and of what.
pub(crate) struct LatentSlab<'l> {
    pub(crate) latent: &'l Latent,
    pub(crate) block: u32,
    /// A multiple of the block.
    pub(crate) tokens: u32,
}

impl LatentSlab<'_> {
    fn words(&self, what: &'static str, counts: &[u64]) -> Row {
        Row::words(what, &[&[self.tokens.into()], counts].concat(), BY_SLAB)
    }

    pub(crate) fn latents(&self) -> Row {
        self.words("a slab's latents", &[self.latent.kv_rank.into()])
    }

    pub(crate) fn shared_keys(&self) -> Row {
        self.words("a slab's shared keys", &[self.latent.rope.into()])
    }

    /// Keys of all heads, without what they share, and values.
    pub(crate) fn made(&self) -> Row {
        let Latent { heads, nope, value, .. } = *self.latent;
        let of_head = u64::from(nope) + u64::from(value);
        self.words("a slab's keys and values", &[heads.into(), of_head])
    }

    /// The same as prefill reads them.
    pub(crate) fn kv(&self) -> Row {
        let block_bytes = self.latent.prefill_shape(self.block).block_bytes();
        let blocks = u64::from(self.tokens / self.block);
        Row::new("a slab's cache", product(&[block_bytes, blocks]), BY_SLAB)
    }
}

const BY_SLAB: &[Grows] = &[Grows::Chunk];
