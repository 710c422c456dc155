//! What kernels are made for, and what a step works on: the shapes of attention and of experts, what to attend (dense or two-level),
//! and the plan of a step.

mod channel_stats;
mod channels;
mod config;
mod experts;
mod index;
mod latent;
mod layout;
#[cfg(feature = "engine")]
mod missed;
pub(crate) mod plan;
mod rank;
mod selector;
mod shape;
mod splits;
mod summary;

pub use config::{Blocks, Budget, RowBudget, TwoLevel};
pub use index::IndexFormat;
pub use latent::Latent;
pub use layout::{KvLayout, Strides};
pub use selector::{BlockScorer, TokenScorer};
#[cfg(feature = "engine")]
pub(crate) use shape::check_softcap;
pub use shape::{Shape, Values};
pub use summary::Summary;

// What only models have.
#[cfg(feature = "engine")]
pub use channels::ChannelSet;
#[cfg(feature = "engine")]
pub use config::{Attention, Timing};
#[cfg(feature = "engine")]
pub use missed::MostMissed;

// Names of the inside, which those have who check and measure.
#[cfg_attr(feature = "conformance", visibility::make(pub))]
pub(crate) use channel_stats::ChannelStats;
#[cfg_attr(feature = "measure", visibility::make(pub))]
pub(crate) use channels::ChannelSetId;
#[cfg_attr(feature = "conformance", visibility::make(pub))]
pub(crate) use experts::{Activation, Experts, Gate};
pub(crate) use plan::Want;
#[cfg_attr(feature = "conformance", visibility::make(pub))]
pub(crate) use plan::{Attended, Span, Step, StepSettings, TILE_ROWS};
#[cfg(feature = "conformance")]
pub use rank::share_mean;
#[cfg_attr(feature = "conformance", visibility::make(pub))]
pub(crate) use rank::{Divisor, softmax_mean, top_k};
#[cfg_attr(feature = "conformance", visibility::make(pub))]
pub(crate) use selector::{BlockRow, Rank, Reads, TokenRow};
pub(crate) use splits::MOST_WAVES;
