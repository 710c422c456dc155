//! Attention on a caller's device, over a caller's buffers: no model, no files, no engine.
//!
//! An operator is made for a shape and for the most that a batch may hold ([`Options`]): [`Decode`] for few rows, dense or
//! over the tokens that a [`Selector`] chooses, [`Prefill`] for the many rows of a prompt. Then
//!
//! 1. [`Decode::bind`] binds the tensors of a layer, once: ranges of the caller's buffers, of stated layouts ([`Tensors`]).
//! 2. [`Decode::plan`] plans a batch of sequences, each with its length and its table of blocks. Pure.
//! 3. [`Decode::begin`] begins to record the plan into the caller's encoder; in a pass of it ([`Recording::pass`]) [`Bound::index`]
//!    and [`Bound::attend`] record the work of a layer.
//!
//! The caller submits. Keys and values come into the cache as the caller likes ([`KvLayout`]), or by [`BoundAppend`]: from
//! rows of floats or f16, keys turned by their rotary angles on the way ([`Plan::turning`]). A sequence's cache is paged: its logical
//! block `position / block` lies in the physical block that its table names, so that sequences share one buffer, and may
//! share blocks. Two levels choose by an index, which is built block by block as blocks are sealed, that is when their
//! last token is there ([`Sequence::index`]); a plan of sequences with no rows builds any part of it.
//!
//! Keys and values lie in one buffer or in two ([`Options::layout`]), as f16:
//!
//! | layout | buffers of a layer | bytes from one block, KV head and token to the next |
//! |---|---|---|
//! | [`KvLayout::Joined`] | \[block\]\[KV head\]\[keys, values\]\[token\]\[dimension\] | [`Shape::block_bytes`], that by KV heads, twice the dimensions |
//! | [`KvLayout::apart`] | keys and values, each \[block\]\[KV head\]\[token\]\[dimension\] | half as much, half as much, twice the dimensions |
//! | [`KvLayout::Apart`] | the same with room between, or \[KV head\]\[block\]\[token\]\[dimension\] | twice [`Strides::block`], twice [`Strides::head`], twice the dimensions |
//!
//! Attention, the building of an index and appending work alike on each, and attention gives the same numbers. The tokens of a
//! block follow one another in all of them.
//!
//! Where a kernel sees too little of one buffer for the cache, the cache is several ranges, its segments
//! ([`Options::segment_blocks`]).
//!
//! The kernels run without bounds checks. What they are given is therefore checked whole, in binding and in planning: what is
//! wrong is an [`Error::Argument`](crate::Error::Argument) that names it, its value and the limit. What is in the buffers is
//! never trusted for more than numbers.
//!
//! Values have rows of their own, or are the first numbers of the keys: absorbed latent attention
//! ([`Shape::latent`](crate::attention::Shape::latent)), for decode. [`LatentPrefill`] attends prompts over the same cache, by
//! keys and values that the caller, who has the weights, makes of its latents, a slab of tokens at a time.
//!
//! `examples/embed_operator.rs` is all of it in a page, over one buffer or two; `examples/custom_selector.rs` chooses tokens itself.
//!
//! [`KvLayout`]: crate::attention::KvLayout
//! [`KvLayout::Joined`]: crate::attention::KvLayout::Joined
//! [`KvLayout::apart`]: crate::attention::KvLayout::apart
//! [`KvLayout::Apart`]: crate::attention::KvLayout::Apart
//! [`Shape::block_bytes`]: crate::attention::Shape::block_bytes
//! [`Strides::block`]: crate::attention::Strides::block
//! [`Strides::head`]: crate::attention::Strides::head

mod append;
mod bound;
mod channels;
mod decode;
mod latent;
mod layer;
mod options;
mod plan;
mod prefill;
mod recording;
mod scratch;
mod specs;
mod tensors;

pub use append::{AppendTensors, BoundAppend, Number};
pub use bound::Bound;
pub use channels::choose_channels;
pub use decode::Decode;
pub use latent::{BoundLatent, LatentOptions, LatentPrefill, LatentTensors, Slabs};
pub use options::{Limits, Options, Selector};
pub use plan::{Batch, Plan, Select, Sequence};
pub use prefill::{BoundPrefill, Prefill};
pub use recording::{Pass, Recording};
pub use tensors::{Codes, Kv, PrefillTensors, Tensors};
