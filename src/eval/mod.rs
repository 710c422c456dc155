//! Measuring selectors on a real model: what a selection keeps of attention, of a text's likelihood, of the
//! model's distribution and of retrieval.

mod activity;
pub mod divergence;
mod engines;
mod forced;
mod method;
pub mod observed;
pub mod perplexity;
#[cfg(feature = "cli")]
pub mod plot;
pub mod recall;
pub mod retrieval;
pub mod stats;
pub mod store;
pub mod table;
pub mod tasks;
pub mod trace;

pub use activity::Activity;
pub use engines::{EnginePlan, Engines, plan};
pub use method::{Method, parse_budget};
