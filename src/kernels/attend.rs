//! `shaders/attend` and `shaders/kv`.

use super::tiers::{self, LatentSplit, Prefill as Kernel};
use crate::attention::{KvLayout, Shape, Strides};
use crate::formats::KvType;
use crate::gpu::{ShaderSpec, Tier};

crate::words! {
    /// Which physical blocks a segment of the cache holds: `Segment` in the shaders.
    #[derive(Eq)]
    pub struct SegmentParams {
        /// The first physical block.
        pub first: u32,
        /// How many blocks.
        pub blocks: u32,
        /// This segment's number.
        pub index: u32,
        /// Segments in all.
        pub count: u32,
        /// The logical blocks that may be in it: prefill walks over no others.
        pub first_logical: u32,
        /// The logical block after the last of them.
        pub end_logical: u32,
    }

    /// `Merge` of `attend/merge.wgsl`.
    pub struct MergeParams {
        /// Segments that have states, the first of them all.
        pub segments: u32,
        /// Segments that there is room for.
        pub count: u32,
    }

    /// `Part` of `kv/place_blocks.wgsl`.
    pub struct PartParams {
        /// The layer whose part of what arrived is placed.
        pub layer: u32,
    }
}

crate::bindings! {
    /// Of [`rope_append`].
    pub struct RopeAppend {
        /// The step, whose block tables name the blocks that rows are appended to.
        step: read,
        /// The segment that `kv` is.
        segment: uniform SegmentParams,
        /// \[row\]\[query heads, key heads, value heads\]\[dimension\], f32: biased and turned in place.
        qkv: write,
        /// The segment: \[block\]\[KV head\]\[keys, values\]\[token\]\[dimension\], f16 in pairs.
        kv: write,
        /// \[dimension\], f32: weights of the norm of a query.
        q_weight: optional read,
        /// \[dimension\], f32: weights of the norm of a key.
        k_weight: optional read,
        /// \[query heads, key heads, value heads\]\[dimension\], f32.
        bias: optional read,
    }

    /// Of [`append_rows`].
    pub struct AppendRows {
        /// As in [`RopeAppend`].
        step: read,
        /// The segment that `kv` is.
        segment: uniform SegmentParams,
        /// \[row\]\[KV head\]\[dimension\], as [`Number`] says, a row every so many.
        keys: read,
        /// As in [`RopeAppend`].
        kv: write,
        /// As `keys`, where values have rows of their own.
        values: optional read,
    }

    /// Of [`dense_split`], [`sparse_split`] and [`window_split`].
    pub struct Split {
        /// The step.
        step: read,
        /// The segment that `kv` is; its number and count are those of the states.
        segment: uniform SegmentParams,
        /// As in [`RopeAppend`]: the queries.
        qkv: read,
        /// As in [`RopeAppend`]. Of latent attention keys alone, whose first numbers are the values.
        kv: read,
        /// The values of the segment, where `kv` has the keys alone ([`with_layout`]).
        values_in: optional read,
        /// \[row\]\[query head\]\[segment\]\[split\]\[dimension of a value\], f32.
        partial_o: write,
        /// \[row\]\[query head\]\[segment\]\[split\]: maximum and sum, f32.
        partial_ml: write,
        /// \[row\]\[KV head\]\[`tokens_kept`\]: positions, where they are chosen.
        chosen_tokens: optional read,
        /// Where each block is in the hot cache, in [`HotSlots::words`] words.
        hot_slots: optional read,
    }

    /// Of [`merge`].
    pub struct Merge {
        /// The step.
        step: read,
        /// Segments.
        merge: uniform MergeParams,
        /// As in [`Split`].
        partial_o: read,
        /// As in [`Split`].
        partial_ml: read,
        /// \[row\]\[query head\]\[dimension of a value\], f32.
        out: write,
    }

    /// Of [`prefill`].
    pub struct Prefill {
        /// The step.
        step: read,
        /// The segment that `kv` is.
        segment: uniform SegmentParams,
        /// The queries, as in [`RopeAppend`] or in rows of their own.
        qkv: read,
        /// As in [`RopeAppend`].
        kv: read,
        /// As in [`Split`].
        values_in: optional read,
        /// \[row\]\[query head\]\[dimension\], f32; what earlier segments left is merged with.
        out: write,
        /// \[row\]\[query head\]: maximum and sum, f32, for the segments that follow.
        states: write,
    }

    /// Of [`place_blocks`].
    pub struct PlaceBlocks {
        /// The blocks that arrived: a vec4 a layer, and each layer's part.
        stored: read,
        /// The part that is placed.
        part: uniform PartParams,
        /// The segment that `kv` is.
        segment: uniform SegmentParams,
        /// The hot cache, as in [`RopeAppend`].
        kv: write,
        /// As in [`Split`].
        hot_slots: write,
    }

    /// Of [`unpack_blocks`].
    pub struct UnpackBlocks {
        /// \[block\]\[KV head\]: head-blocks as CPU memory has them.
        stored: read,
        /// As in [`RopeAppend`], block after block.
        kv: write,
    }
}

impl SegmentParams {
    /// Physical blocks `first .. first + blocks`, which hold any logical ones.
    pub fn paged(first: u32, blocks: u32, index: u32, count: u32) -> Self {
        // As large as it can be with a token's position in a u32, whatever a block has.
        let end_logical = u32::MAX >> 7;
        Self { first, blocks, index, count, first_logical: 0, end_logical }
    }

    /// As many logical blocks, which follow one another, in physical blocks of the same numbers.
    pub fn in_order(first: u32, blocks: u32, index: u32, count: u32) -> Self {
        let end_logical = first + blocks;
        Self { first, blocks, index, count, first_logical: first, end_logical }
    }
}

/// Where decode attention finds the keys and values of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Every block has a place of its own.
    Paged,
    /// In the hot cache.
    Hot(HotSlots),
    /// In the hot cache, if it arrived there in this epoch.
    Arrived(HotSlots),
}

/// The slot of a block that has none, as in `shaders/lib/hot_slots.wgsl`.
pub const NO_SLOT: u32 = u32::MAX;

/// The size of a hot cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotSlots {
    /// Physical blocks that there are.
    pub pool_blocks: u32,
    /// Slots of each KV head, those of the window among them.
    pub slots: u32,
}

impl HotSlots {
    pub(super) fn constants(self, spec: ShaderSpec) -> ShaderSpec {
        spec.constant("POOL_BLOCKS", self.pool_blocks).constant("HOT_SLOTS", self.slots)
    }

    /// Words that say where each block is and when it came, of `kv_heads` KV heads.
    pub fn words(self, kv_heads: u32) -> u64 {
        u64::from(kv_heads) * (u64::from(self.pool_blocks) + u64::from(self.slots))
    }
}

fn placed(spec: ShaderSpec, place: Place) -> ShaderSpec {
    match place {
        Place::Paged => spec.slot("place", "lib/place_paged.wgsl"),
        Place::Hot(slots) => slots.constants(spec.slot("place", "lib/place_hot.wgsl")),
        Place::Arrived(slots) => slots.constants(spec.slot("place", "lib/place_arrived.wgsl")),
    }
}

pub(super) fn spec(file: &'static str, shape: &Shape) -> ShaderSpec {
    spec_of(file, shape, shape.row_width())
}

// `row_width`: floats from one row's queries to the next.
fn spec_of(file: &'static str, shape: &Shape, row_width: u32) -> ShaderSpec {
    ShaderSpec::new(file)
        .constant("KV_HEADS", shape.kv_heads)
        .constant("GROUP", shape.group)
        .constant("HEAD_DIM", shape.head_dim)
        .constant("BLOCK", shape.block)
        .constant("ROW_WIDTH", row_width)
        .constant("VALUE_DIM", shape.value_dim())
        .constant("SHARED_VALUES", shape.shares_values())
}

/// A kernel with `row_width` floats from one row's queries to the next, where it reads nothing else of a row.
pub fn with_row_width(mut spec: ShaderSpec, row_width: u32) -> ShaderSpec {
    for (name, value) in &mut spec.constants {
        if *name == "ROW_WIDTH" {
            *value = row_width.into();
        }
    }
    spec
}

/// A kernel over keys and values that lie so. One that reads or writes only keys takes their buffer for `kv`; one of attention takes
/// that of the values for `values_in`.
pub fn with_layout(mut spec: ShaderSpec, layout: KvLayout) -> ShaderSpec {
    let KvLayout::Apart(Strides { block, head }) = layout else { return spec };
    let (file, words): (_, &[(&str, &str)]) = match spec.file {
        "attend/dense_split.wgsl" | "attend/sparse_split.wgsl" => {
            ("lib/kv_apart_split.wgsl", &[("value8", "value8")])
        }
        "attend/prefill.wgsl" => {
            ("lib/kv_apart_vecs.wgsl", &[("values", "values_in"), ("first_value", "0u")])
        }
        "attend/prefill_cooperative.wgsl" => {
            ("lib/kv_apart_halves.wgsl", &[("values", "values_in"), ("first_value", "0u")])
        }
        "attend/prefill_subgroup8.wgsl" => ("lib/kv_apart_vecs.wgsl", &[("values", "values_in")]),
        _ => ("lib/kv_apart.wgsl", &[]),
    };
    for (_, filled) in spec.slots.iter_mut().filter(|(slot, _)| *slot == "kv") {
        *filled = file;
    }
    spec.slots.extend(words);
    // A vec4 has eight numbers.
    spec.constant("BLOCK_STRIDE", block / 8).constant("HEAD_STRIDE", head / 8)
}

// How keys and values are stored: packed f16 needs no feature.
pub(super) fn kv_spec(file: &'static str, shape: &Shape) -> ShaderSpec {
    spec(file, shape).slot("kv", "lib/kv_packed_f16.wgsl")
}

/// With `norm`, heads of queries and keys are normed with this epsilon; biases come before that. Grid: (query heads + 2 * KV
/// heads, rows).
pub fn rope_append(shape: &Shape, norm: Option<f32>, is_biased: bool) -> ShaderSpec {
    let bias = if is_biased { "lib/head_bias_added.wgsl" } else { "lib/head_bias_none.wgsl" };
    let spec = kv_spec("kv/rope_append.wgsl", shape)
        .constant("ROPE_INTERLEAVED", shape.rope_interleaved)
        .slot("head_bias", bias);
    match norm {
        None => spec.slot("head_norm", "lib/head_norm_none.wgsl"),
        Some(epsilon) => {
            spec.slot("head_norm", "lib/head_norm_rms.wgsl").constant("EPSILON", epsilon)
        }
    }
}

/// How the numbers of rows are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// As 32-bit floats.
    F32,
    /// As 16-bit floats, two a word.
    F16,
}

impl Number {
    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Keys every `strides[0]` numbers and values every `strides[1]`; keys are turned where they are not yet. Grid: (KV heads, rows
/// that a token has in the cache, rows).
pub fn append_rows(shape: &Shape, number: Number, strides: [u32; 2], turns: bool) -> ShaderSpec {
    let values =
        if shape.shares_values() { "lib/values_of_keys.wgsl" } else { "lib/values_own.wgsl" };
    append_spec(shape, number, strides, turns, values)
}

/// Keys every `stride` numbers to their buffer; or values, which are then the kernel's keys, to theirs. Grid: (KV heads, 1, rows).
pub fn append_apart(
    shape: &Shape,
    layout: KvLayout,
    number: Number,
    stride: u32,
    turns: bool,
) -> ShaderSpec {
    let values = "lib/values_of_keys.wgsl";
    with_layout(append_spec(shape, number, [stride; 2], turns, values), layout)
}

fn append_spec(
    shape: &Shape,
    number: Number,
    strides: [u32; 2],
    turns: bool,
    values: &'static str,
) -> ShaderSpec {
    let numbers = match number {
        Number::F32 => "lib/numbers_f32.wgsl",
        Number::F16 => "lib/numbers_f16.wgsl",
    };
    kv_spec("kv/append_rows.wgsl", shape)
        .constant("ROPE_INTERLEAVED", shape.rope_interleaved)
        .constant("KEY_STRIDE", strides[0])
        .constant("VALUE_STRIDE", strides[1])
        .constant("TURNS", turns)
        .slot("numbers", numbers)
        .slot("values", values)
}

/// Grid: (splits, [`split_workgroups`], rows).
pub fn dense_split(tier: &Tier, shape: &Shape, place: Place) -> ShaderSpec {
    split_spec("attend/dense_split.wgsl", tier, shape, place)
}

/// Grid: (splits, [`split_workgroups`], rows).
pub fn sparse_split(tier: &Tier, shape: &Shape, place: Place) -> ShaderSpec {
    split_spec("attend/sparse_split.wgsl", tier, shape, place)
}

/// Of layers with a sliding window of so many tokens. Grid: (splits, [`split_workgroups`], rows that decode).
pub fn window_split(tier: &Tier, shape: &Shape, window: u32) -> ShaderSpec {
    split_spec("attend/window_split.wgsl", tier, shape, Place::Paged)
        .constant("SLIDING_WINDOW", window)
}

/// Of head-blocks that are stored as `kv_type`. Grid: (head-blocks of the part).
pub fn place_blocks(shape: &Shape, slots: HotSlots, kv_type: KvType) -> ShaderSpec {
    slots.constants(stored_spec("kv/place_blocks.wgsl", shape, kv_type))
}

/// Of blocks that are stored as `kv_type`. Grid: (KV heads, blocks).
pub fn unpack_blocks(shape: &Shape, kv_type: KvType) -> ShaderSpec {
    stored_spec("kv/unpack_blocks.wgsl", shape, kv_type)
}

fn stored_spec(file: &'static str, shape: &Shape, kv_type: KvType) -> ShaderSpec {
    let stored = match kv_type {
        KvType::F16 => "lib/stored_f16.wgsl",
        KvType::Q8_0 => "lib/stored_q8_0.wgsl",
    };
    kv_spec(file, shape).slot("stored", stored)
}

/// A kernel that makes logits, which may have a soft-cap.
pub(super) fn with_cap(spec: ShaderSpec, softcap: Option<f32>) -> ShaderSpec {
    match softcap {
        None => spec.slot("cap", "lib/cap_none.wgsl"),
        Some(cap) => spec.slot("cap", "lib/cap_soft.wgsl").constant("CAP", cap),
    }
}

fn split_spec(file: &'static str, tier: &Tier, shape: &Shape, place: Place) -> ShaderSpec {
    let spec = placed(kv_spec(file, shape).constant("SCALE", shape.scale()), place);
    if shape.shares_values() {
        return match tiers::of(tier).latent_split {
            LatentSplit::Quads => spec.slot("split", "lib/latent_split.wgsl"),
            LatentSplit::Matrices => latent_matrices(spec, shape),
        };
    }
    let spec = with_cap(spec, shape.softcap);
    // Heads whose rows 8 or 16 lanes of one subgroup read.
    let shuffles = |lanes: &u32| matches!(shape.head_dim, 64 | 128) && lanes * 8 >= shape.head_dim;
    match tiers::of(tier).shuffled.filter(shuffles) {
        Some(lanes) => spec
            .slot("split", "lib/shuffle_split.wgsl")
            .constant("SUBGROUP", lanes)
            .constant("ROUND", shape.head_dim / 32),
        None => spec.slot("split", "lib/attend_split.wgsl"),
    }
}

// Eight subgroups share sixteens of dimensions; sixteen lanes share a row's vec4.
fn latent_matrices(spec: ShaderSpec, shape: &Shape) -> ShaderSpec {
    let of_subgroup = |dimensions: u32| dimensions.div_ceil(16).div_ceil(8);
    spec.slot("split", "lib/latent_matrix_split.wgsl")
        .constant("KEY_STEPS", of_subgroup(shape.head_dim))
        .constant("VALUE_STEPS", of_subgroup(shape.value_dim()))
        .constant("LOADS", (shape.head_dim / 4).div_ceil(16))
}

/// The workgroups of one split of a row.
pub fn split_workgroups(tier: &Tier, shape: &Shape) -> u32 {
    match takes_all_heads(tier, shape) {
        true => shape.kv_heads,
        false => shape.kv_heads * shape.group.div_ceil(4),
    }
}

/// Whether decode attention rounds queries and weights to f16.
pub fn split_rounds(tier: &Tier, shape: &Shape) -> bool {
    takes_all_heads(tier, shape)
}

fn takes_all_heads(tier: &Tier, shape: &Shape) -> bool {
    shape.shares_values() && tiers::of(tier).latent_split == LatentSplit::Matrices
}

/// Grid: (query heads, rows, [`merge_parts`]).
pub fn merge(tier: &Tier, shape: &Shape) -> ShaderSpec {
    spec("attend/merge.wgsl", shape).constant("WORKGROUP", tiers::of(tier).lanes)
}

/// Workgroups that make a head's output in [`merge`].
pub fn merge_parts(shape: &Shape) -> u32 {
    shape.value_dim().div_ceil(128)
}

/// The kernel that attends many rows of this shape.
fn prefill_kernel(tier: &Tier, shape: &Shape) -> &'static Kernel {
    let kernel = &tiers::of(tier).prefill;
    if shape.head_dim <= kernel.head_dim { kernel } else { &Kernel::PORTABLE }
}

/// By the kernel that suits the adapter's tier and the heads' dimensions; `row_width` floats from one row's queries to the
/// next. Grid: (query heads, tiles).
pub fn prefill(tier: &Tier, shape: &Shape, row_width: u32) -> ShaderSpec {
    with_cap(spec_of(prefill_kernel(tier, shape).file, shape, row_width), shape.softcap)
        .slot("kv", "lib/kv_packed_f16.wgsl")
        .slot("causal", "lib/causal_all.wgsl")
        .constant("SCALE", shape.scale())
}

/// [`prefill`] of a layer with a sliding window of so many tokens.
pub fn with_window(mut spec: ShaderSpec, window: u32) -> ShaderSpec {
    for (_, filled) in spec.slots.iter_mut().filter(|(slot, _)| *slot == "causal") {
        *filled = "lib/causal_window.wgsl";
    }
    spec.constant("SLIDING_WINDOW", window)
}

/// Whether [`prefill`] rounds queries and weights to f16.
pub fn prefill_rounds(tier: &Tier, shape: &Shape) -> bool {
    prefill_kernel(tier, shape).halves
}
