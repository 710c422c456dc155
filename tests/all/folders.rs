//! Model folders from strangers: whatever is wrong with one is a single error that names it, and never a panic, much
//! memory or a wait.

mod config;
mod fixture;
mod mutated;
mod rope;
mod weights;
