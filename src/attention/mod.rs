//! Attention: its shape, what to attend (dense or two-level), and the plan of a step.

mod config;
mod plan;
mod shape;

pub use config::{Attention, Blocks, Budget, RowBudget};
pub use plan::{Span, Step, StepSettings, TILE_ROWS};
pub use shape::Shape;
