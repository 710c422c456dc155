//! The host side of each shader: its specification, its parameters and its grid. One function a kernel, named as its
//! file; the bindings are documented in the shader and reflected from it.

mod attend;
mod experts;
mod index;
mod latent;
mod matrix;
mod model;
mod pack;
mod select;
mod weights;

pub use attend::{
    HotSlots, MergeParams, Place, SegmentParams, dense_split, merge, merge_parts, place_blocks,
    prefill, prefill_rounds, rope_append, sparse_split, unpack_blocks,
};
pub use experts::{expert_list_words, expert_lists, expert_sum, route};
pub use index::{block_bounds, channel_stats, choose_channels, token_codes};
pub use latent::{down_row, latent_append, latent_gather, latent_place};
pub use matrix::{
    Batch, Input, LARGEST_WEIGHT_GRID, MatrixParams, Output, half_rows, half_rows_params,
    largest_weight, largest_weight_params, matmul, matmul_grid, matvec, matvec_grid,
    multiplies_halves, weight_shift,
};
pub use model::{EmbedParams, RmsNormParams, RowsParams, arg_max, embed, rms_norm};
pub use pack::{Packed, pack_row};
pub use select::{
    block_score, bounds_score, exact_block_score, exact_token_score, scored_blocks, token_score,
    top_k_blocks, top_k_tokens,
};
pub use weights::WeightFormat;

#[cfg(test)]
mod tests;
