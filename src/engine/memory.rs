//! The memory plan of an engine: every buffer that it makes, but for kernels' parameters of a few bytes. Pure.

use super::EngineOptions;
use super::host::{GROUP_LAYERS, HostBuffers};
use super::scratch::{CommonScratch, ExpertScratch, LatentBuffers, Strides};
use crate::attention::{Experts, Latent, Shape};
use crate::kernels::{self, HotSlots};
use crate::kv::{HostOptions, IndexRows, IndexSize, OffloadRows, SegmentRows, kv_rows};
use crate::memory::{
    DecodeScratch, Group, Grows, LatentSlab, Row, Usage, prefill_states, product, step, sum,
};
use crate::model::ModelConfig;
use crate::model::config::AttentionConfig;
use crate::{Error, Result};

/// The rows of all buffers.
pub(super) struct MemoryPlan {
    pub(super) residency: ResidencyRows,
    /// The index, where there is one.
    pub(super) index: Option<IndexRows>,
    pub(super) scratch: ScratchRows,
}

/// The rows of a residency.
pub(super) enum ResidencyRows {
    Whole(Box<WholeRows>),
    Hot(Box<HotRows>),
}

pub(super) struct WholeRows {
    pub(super) kv: SegmentRows,
    /// In a replay: what each layer attends.
    pub(super) steered: Option<ListRows>,
}

pub(super) struct HotRows {
    pub(super) options: HostOptions,
    pub(super) slots: HotSlots,
    pub(super) kv: SegmentRows,
    pub(super) offload: OffloadRows,
    /// What level 1 chose, on its way to the CPU.
    pub(super) selections: Row,
    pub(super) buffers: HostBuffers<Row>,
    /// Bytes from a layer's list of blocks to the next.
    pub(super) list_stride: u64,
    /// Bytes from a layer's shares of mass to the next.
    pub(super) share_stride: u64,
}

/// Lists of blocks of every layer.
pub(super) struct ListRows {
    pub(super) row: Row,
    /// Bytes from a layer's lists to the next.
    pub(super) stride: u64,
}

/// The rows of what every layer uses in turn.
pub(super) struct ScratchRows {
    pub(super) common: CommonScratch<Row>,
    /// And the tokens of a slab.
    pub(super) latent: Option<(LatentBuffers<Row>, u32)>,
    pub(super) experts: Option<ExpertScratch<Row>>,
}

impl MemoryPlan {
    /// Plans an engine whose options were checked, but for its weights.
    pub(super) fn new(config: &ModelConfig, options: &EngineOptions) -> Self {
        let shape = options.shape(config);
        let residency = match &options.host {
            None => ResidencyRows::Whole(Box::new(WholeRows::new(config, options, &shape))),
            Some(host) => ResidencyRows::Hot(Box::new(HotRows::new(config, options, &shape, host))),
        };
        let size = IndexSize {
            shape: &shape,
            layers: config.layers,
            sessions: options.sessions,
            blocks: options.blocks(),
            max_binding: options.device.max_binding,
        };
        let index = options.index.as_ref();
        Self {
            index: index.map(|index| IndexRows::new(&size, &index.summaries())),
            scratch: Needs::new(config, options, &shape, residency.state_segments()).rows(),
            residency,
        }
    }

    /// Every row.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        let index = self.index.iter().flat_map(IndexRows::rows);
        self.residency.rows().into_iter().chain(index).chain(self.scratch.rows())
    }

    /// Bytes of a group.
    pub(super) fn bytes(&self, group: Group) -> u64 {
        sum(self.rows().filter(|row| row.group == group))
    }

    /// Bytes of the KV cache on the GPU: of all of it, or of the hot cache and what carries blocks.
    pub(super) fn kv_bytes(&self) -> u64 {
        self.bytes(Group::KvCache).saturating_add(self.bytes(Group::Rings))
    }

    /// Bytes of the largest buffer for kernels that a longer chunk makes larger.
    pub(super) fn largest_of_chunk(&self) -> u64 {
        let of_chunk =
            |row: &&Row| row.usage == Usage::Storage && row.grows_with.contains(&Grows::Chunk);
        self.rows().filter(of_chunk).map(|row| row.bytes).max().unwrap_or(0)
    }

    /// Refuses what has more bytes than can be counted.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub(super) fn check(&self, options: &EngineOptions) -> Result<()> {
        let mut all = 0u64;
        for row in self.rows() {
            all = all.saturating_add(row.total());
            if all == u64::MAX {
                let value = format!("{} tokens", options.context);
                let limit = format!(
                    "with {} sessions {} would take more bytes than can be counted",
                    options.sessions, row.what
                );
                return Err(Error::argument("the context", value, limit));
            }
        }
        Ok(())
    }
}

impl ResidencyRows {
    /// What of the cache is on the GPU.
    pub(super) fn kv(&self) -> &SegmentRows {
        match self {
            Self::Whole(whole) => &whole.kv,
            Self::Hot(hot) => &hot.kv,
        }
    }

    // Parts of the cache that leave partial states of their own: over a hot cache blocks that arrive do.
    fn state_segments(&self) -> u64 {
        let segments = u64::from(self.kv().layout.segments);
        match self {
            Self::Whole(_) => segments,
            Self::Hot(_) => 2 * segments,
        }
    }

    fn rows(&self) -> Vec<&Row> {
        let kv = self.kv().rows().into_iter();
        match self {
            Self::Whole(whole) => kv.chain(whole.steered.iter().map(|lists| &lists.row)).collect(),
            Self::Hot(hot) => kv
                .chain(hot.offload.rows())
                .chain([&hot.selections])
                .chain(hot.buffers.rows())
                .collect(),
        }
    }
}

impl WholeRows {
    fn new(config: &ModelConfig, options: &EngineOptions, shape: &Shape) -> Self {
        let (blocks, most) = (options.blocks(), options.device.max_binding);
        let lists =
            |kept| ListRows::new("blocks of a replay", config, options, shape, kept, BY_CHOICE);
        Self {
            kv: kv_rows(shape, config.layers, blocks, most),
            steered: options.steered.map(lists),
        }
    }
}

impl HotRows {
    fn new(
        config: &ModelConfig,
        options: &EngineOptions,
        shape: &Shape,
        host: &HostOptions,
    ) -> Self {
        let (layers, most) = (config.layers, options.device.max_binding);
        let slots = host.slots(options.blocks(), options.sessions);
        let lists = ListRows::new(
            "blocks that are wanted",
            config,
            options,
            shape,
            host.hot_blocks,
            BY_CHOICE,
        );
        let (wanted, list_stride) = (lists.row, lists.stride);
        let by_row = &[Grows::Sessions, Grows::Layers];
        let shares =
            ListRows::new("shares of mass that are missed", config, options, shape, 1, by_row);
        let (missed, share_stride) = (shares.row, shares.stride);
        let chunk = product(&[options.chunk_blocks().into(), shape.block_bytes()]);
        let selections = product(&[list_stride.saturating_add(share_stride), GROUP_LAYERS as u64]);
        let groups = (layers as usize).div_ceil(GROUP_LAYERS) as u64;
        let step = |what: &'static str| step_row(what, options, shape);
        Self {
            options: *host,
            slots,
            kv: kv_rows(shape, layers, slots.slots, most),
            offload: OffloadRows::new(host, shape, (slots, layers), options.write_back_blocks()),
            selections: Row::new("selections", selections, BY_CHOICE)
                .used_as(Usage::ReadBack)
                .times(groups + 1),
            buffers: HostBuffers {
                append_step: step("the step of what is appended"),
                tables: step("the step of a chunk"),
                chunk: Row::new(
                    "a chunk's keys and values",
                    chunk,
                    &[Grows::Chunk, Grows::Context],
                )
                .of(Group::Rings),
                listed: Row { what: "blocks that are listed".into(), ..wanted.clone() },
                wanted,
                missed,
            },
            list_stride,
            share_stride,
        }
    }
}

const BY_CHOICE: &[Grows] = &[Grows::Sessions, Grows::HotBlocks, Grows::Layers];

impl ListRows {
    // Lists of so many numbers of each row that decodes and KV head.
    fn new(
        what: &'static str,
        config: &ModelConfig,
        options: &EngineOptions,
        shape: &Shape,
        kept: u32,
        grows_with: &'static [Grows],
    ) -> Self {
        let rows = options.most_decoding().into();
        let bytes = product(&[rows, shape.kv_heads.into(), kept.into(), 4]);
        let stride = bytes.checked_next_multiple_of(256).unwrap_or(u64::MAX);
        let all = product(&[stride, config.layers.into()]);
        Self { row: Row::new(what, all, grows_with), stride }
    }
}

fn step_row(what: &'static str, options: &EngineOptions, shape: &Shape) -> Row {
    let (rows, sessions) = (options.most_rows().into(), options.sessions.into());
    let row = step(shape, rows, sessions, options.context);
    Row { what: what.into(), ..row }
}

impl ScratchRows {
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        let latent = self.latent.iter().flat_map(|(rows, _)| rows.rows());
        let experts = self.experts.iter().flat_map(ExpertScratch::rows);
        self.common.rows().chain(latent).chain(experts)
    }
}

// What the sizes of the scratch follow from.
struct Needs<'n> {
    config: &'n ModelConfig,
    options: &'n EngineOptions,
    shape: &'n Shape,
    strides: Strides,
    /// Rows of a step that decode.
    decode: u64,
    /// Rows of any step.
    rows: u64,
    /// Parts of the cache that leave partial states of their own.
    segments: u64,
}

const BY_ROW: &[Grows] = &[Grows::Chunk, Grows::Sessions];
const BY_SESSION: &[Grows] = &[Grows::Sessions];

impl<'n> Needs<'n> {
    fn new(
        config: &'n ModelConfig,
        options: &'n EngineOptions,
        shape: &'n Shape,
        segments: u64,
    ) -> Self {
        let (strides, decode) = (Strides::new(config), u64::from(options.most_decoding()));
        let rows = u64::from(options.most_rows());
        Self { config, options, shape, strides, decode, rows, segments }
    }

    fn rows(&self) -> ScratchRows {
        let latent = match &self.config.attention {
            AttentionConfig::Latent(latent) => Some(self.latent(latent)),
            AttentionConfig::Grouped(_) => None,
        };
        ScratchRows {
            common: self.common(latent.as_ref().map(|(rows, _)| rows)),
            latent,
            experts: self.config.experts.as_ref().map(|experts| self.experts(experts)),
        }
    }

    fn step(&self, what: &'static str) -> Row {
        step_row(what, self.options, self.shape)
    }

    // So many numbers of every row of a step.
    fn of_rows(&self, what: &'static str, counts: &[u64]) -> Row {
        Row::words(what, &[&[self.rows], counts].concat(), BY_ROW)
    }

    fn common(&self, latent: Option<&LatentBuffers<Row>>) -> CommonScratch<Row> {
        let Self { config, options, shape, strides, .. } = self;
        let decode = DecodeScratch {
            shape,
            rows: self.decode,
            tokens: options.context,
            at_a_time: options.target_workgroups,
            segments: self.segments,
        };
        let selects = options.index.is_some();
        let entries = config
            .experts
            .as_ref()
            .map_or(0, |experts| u64::from(experts.slots()) * u64::from(strides.expert));
        let x = self.of_rows("the residual stream", &[strides.hidden.into()]);
        let attended = self.of_rows("attention outputs", &[strides.attention.into()]);
        let ffn = u64::from(strides.ffn).max(entries);
        let ffn = self.of_rows("feed-forward activations", &[ffn]);
        // The inputs of products.
        let latents =
            latent.map_or(0, |latent| latent.q_latents.bytes.max(latent.slab_latents.bytes));
        let halves = x.bytes.max(attended.bytes).max(ffn.bytes).max(latents);
        // Each session's logits may be wanted.
        let logit_rows = u64::from(options.most_logits());
        let logits = Row::words("logits", &[logit_rows, config.vocabulary.into()], BY_SESSION);
        let winners = Row::words("winners", &[logit_rows], BY_SESSION);
        let parts = 2 * u64::from(kernels::arg_max_parts(config.vocabulary));
        let winner_parts = Row::words("winners of parts", &[logit_rows, parts], BY_SESSION);
        let channels = product(&[4, shape.channels_len(), config.layers.into()]);
        // A row is read back where the host selects.
        let row = u64::from(shape.row_width()) * 4;
        let read_back = logits.bytes.max(winners.bytes).max(channels).max(row);
        // A block, or what is kept of a session.
        let moved = shape.block_bytes().max(4 * shape.stats_len()).max(4 * shape.channels_len());
        // Prefill of latent attention goes through slabs as through segments.
        let merges = self.segments > 1 || latent.is_some();
        CommonScratch {
            step: self.step("the step"),
            normed: Row { what: "normed activations".into(), ..x.clone() },
            x,
            rows: self.of_rows("queries, keys and values", &[shape.row_width().into()]),
            attended,
            ffn,
            halves: Row::new("inputs as f16", halves, BY_ROW)
                .where_wanted(kernels::has_matrix_units(options.device.tier)),
            states: prefill_states(shape, self.rows).where_wanted(merges),
            partial_o: decode.partial_o(),
            partial_ml: decode.partial_ml(),
            scores: decode.scores().where_wanted(selects),
            keys: decode.keys().where_wanted(selects),
            head_terms: decode.head_terms().where_wanted(selects),
            chosen_blocks: decode.chosen_blocks().where_wanted(selects),
            chosen_tokens: decode.chosen_tokens().where_wanted(selects),
            moving: Row::new("a block on its way", moved, &[]),
            staging: Row::new("read-back", read_back, &[Grows::Sessions, Grows::Layers])
                .used_as(Usage::ReadBack),
            logits,
            winner_parts,
            winners,
        }
    }

    fn latent(&self, latent: &Latent) -> (LatentBuffers<Row>, u32) {
        let block = self.options.block;
        // As many tokens as a chunk has, so that scratch grows with it alone.
        let slab_tokens = self.options.chunk.max(block).next_multiple_of(block);
        let slab = LatentSlab { latent, block, tokens: slab_tokens };
        let [heads, kv_rank] = [latent.heads, latent.kv_rank].map(u64::from);
        let q_rank = latent.q_rank.next_multiple_of(32);
        let rows = LatentBuffers {
            down: self.of_rows("latents", &[kernels::down_row(latent).1.into()]),
            q_latents: self.of_rows("query latents", &[q_rank.into()]),
            queries: self.of_rows("queries", &[heads, latent.query_dim().into()]),
            merged: Row::words("attended latents", &[self.decode, heads, kv_rank], BY_SESSION),
            slab_step: self.step("the step of a slab"),
            slab_tables: self.step("the step over slabs"),
            slab_latents: slab.latents(),
            slab_shared: slab.shared_keys(),
            slab_made: slab.made(),
            slab_kv: slab.kv(),
        };
        (rows, slab_tokens)
    }

    fn experts(&self, experts: &Experts) -> ExpertScratch<Row> {
        let slots = u64::from(experts.slots());
        let lists = kernels::expert_list_words(experts, self.rows);
        ExpertScratch {
            logits: self.of_rows("router logits", &[self.strides.router.into()]),
            slots: self.of_rows("chosen experts", &[slots, 2]),
            lists: Row::words("lists of experts", &[lists], BY_ROW),
            made: self.of_rows("outputs of experts", &[slots, self.strides.hidden.into()]),
        }
    }
}

#[cfg(test)]
mod tests;
