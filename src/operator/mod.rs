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
//! The caller writes keys and values into the cache ([`key_offset`]), and submits. A sequence's cache is paged: its logical
//! block `position / block` lies in the physical block that its table names, so that sequences share one buffer, and may
//! share blocks. Two levels choose by an index, which is built block by block as blocks are sealed, that is when their
//! last token is there ([`Sequence::index`]); a plan of sequences with no rows builds any part of it.
//!
//! The kernels run without bounds checks. What they are given is therefore checked whole, in binding and in planning: what is
//! wrong is an [`Error::Argument`](crate::Error::Argument) that names it, its value and the limit. What is in the buffers is
//! never trusted for more than numbers.
//!
//! Values have rows of their own, or are the first numbers of the keys: absorbed latent attention
//! ([`Shape::latent`](crate::attention::Shape::latent)), for decode.
//!
//! `examples/embed_operator.rs` is all of it in a page; `examples/custom_selector.rs` chooses tokens itself.

mod bound;
mod channels;
mod decode;
mod layer;
mod options;
mod plan;
mod prefill;
mod recording;
mod scratch;
mod specs;
mod tensors;

pub use bound::Bound;
pub use channels::choose_channels;
pub use decode::Decode;
pub use options::{Limits, Options, Selector};
pub use plan::{Batch, Plan, Select, Sequence};
pub use prefill::{BoundPrefill, Prefill};
pub use recording::{Pass, Recording};
pub use tensors::{Codes, PrefillTensors, Tensors, key_offset, value_offset};
