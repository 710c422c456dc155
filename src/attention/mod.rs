//! Attention: its shape, what to attend (dense or two-level), and the plan of a step.

mod channels;
mod config;
mod index;
mod plan;
mod selector;
mod shape;
mod summary;

pub use channels::{ChannelSet, ChannelSetId};
pub use config::{Attention, Blocks, Budget, RowBudget, Timing, TwoLevel};
pub use index::IndexFormat;
pub use plan::{Span, Step, StepSettings, TILE_ROWS};
pub use selector::{BlockRow, BlockScorer, Rank, Reads, TokenRow, TokenScorer};
pub use shape::{Shape, Values};
pub use summary::Summary;
