//! RULER's tasks (arXiv 2404.06654), written from the paper's definitions: prompts of any length
//! whose answers are known.
//!
//! Where RULER shows base models a worked example first, there is none here: every prompt is one
//! question, and it ends with the beginning of its answer.

mod common_words;
mod context;
mod draws;
mod filling;
mod frequent_words;
mod hidden;
mod locate;
mod maker;
mod needles;
mod puzzle;
mod score;
mod search;
mod task;
#[cfg(test)]
mod tests;
mod variables;
mod words;

pub use filling::{Haystack, NOISE};
pub use maker::{Maker, Sample, Spec};
pub use score::score;
pub use task::Task;
