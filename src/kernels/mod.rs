//! The host side of each shader: its specification, its bindings, its parameters and its grid. One function a kernel, named
//! as its file, and one struct of bindings, named as its variables.

mod attend;
mod experts;
mod index;
mod latent;
mod matrix;
mod model;
mod select;
mod selection;
mod stream;
mod tiers;

pub use attend::{
    AppendRows, HotSlots, Merge, MergeParams, NO_SLOT, Number, PartParams, Place, PlaceBlocks,
    Prefill, RopeAppend, SegmentParams, Split, UnpackBlocks, append_apart, append_rows,
    dense_split, merge, merge_parts, place_blocks, prefill, prefill_rounds, rope_append,
    sparse_split, split_rounds, split_workgroups, unpack_blocks, window_split, with_layout,
    with_row_width, with_window,
};
pub use experts::{
    ExpertLists, ExpertSum, Route, expert_list_words, expert_lists, expert_sum, route,
};
pub use index::{
    BlockSummary, ChannelStats, ChooseChannels, FreezeParams, TokenCodes, block_summary,
    channel_stats, choose_channels, token_codes,
};
pub use latent::{
    LatentAppend, LatentGather, LatentPlace, down_row, latent_append, latent_gather, latent_place,
};
pub use matrix::{
    Batch, HalfRows, Input, LARGEST_WEIGHT_GRID, LargestWeight, LargestWeightParams, MATVEC_TOKENS,
    MatrixParams, Output, Product, Tokens, half_rows, half_rows_params, largest_weight,
    largest_weight_params, matmul, matmul_grid, matmul_narrow, matmul_narrow_grid, matvec,
    matvec_grid, matvec_norms, matvec_tokens, multiplies_halves, narrow_sixteens, quantises_inputs,
    tokens_at_a_time, weight_shift,
};
pub use model::{
    ArgMax, ArgMaxPart, Embed, EmbedParams, Normed, RmsNorm, RmsNormParams, RowsParams,
    StrideParams, arg_max, arg_max_part, arg_max_parts, embed, rms_norm,
};
pub use select::{
    BlockScore, ExactBlockScore, ExactTokenScore, HEAD_RANKS_WORKGROUPS, HeadRanks, HeadSums,
    Items, MissedMass, Scored, SummaryScore, TokenScore, TopK, block_score, exact_block_score,
    exact_token_score, head_ranks, head_sums, makes_token_ranks, missed_mass, ranks_apart,
    summary_score, token_score, top_k_blocks, top_k_tokens,
};
pub(crate) use selection::{Choice, ChoiceOps, ScoreOps, Scoring, Segment, Selection};
pub use stream::{STREAM_VECS, Stream, stream};
pub use tiers::has_matrix_units;

#[cfg(any(test, feature = "conformance"))]
mod variants;
#[cfg(feature = "conformance")]
pub use variants::{Variant, variants};

#[cfg(test)]
mod tests;
