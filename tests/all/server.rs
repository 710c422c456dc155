//! `asynctls serve` with a tiny model, as its clients see it.

mod answers;
pub mod client;
mod clients;
mod doors;
mod ends;
mod malformed;
mod page;
mod routed;
mod shared;
mod tools;
