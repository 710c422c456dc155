//! What kernels are made for, and what a step works on: the shapes of attention and of experts, what to attend (dense or two-level),
//! and the plan of a step.

mod channel_stats;
mod channels;
mod config;
mod experts;
mod index;
mod latent;
mod plan;
mod rank;
mod selector;
mod shape;
mod summary;

pub use channel_stats::ChannelStats;
pub use channels::{ChannelSet, ChannelSetId};
pub use config::{Attention, Blocks, Budget, RowBudget, Timing, TwoLevel};
pub use experts::{Experts, Gate};
pub use index::IndexFormat;
pub use latent::Latent;
pub use rank::{softmax_mean, top_k};
pub use selector::{BlockRow, BlockScorer, Rank, Reads, TokenRow, TokenScorer};
pub use shape::{Shape, Values};
pub use summary::Summary;

// Names of the inside, which those have who check and measure.
#[cfg(feature = "conformance")]
pub use plan::{Span, Step, StepSettings, TILE_ROWS};
#[cfg(not(feature = "conformance"))]
pub(crate) use plan::{Span, Step, StepSettings, TILE_ROWS};
