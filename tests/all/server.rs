//! `asynctls serve` with a tiny model, as its clients see it.

mod answers;
#[cfg(all(unix, feature = "object-store"))]
mod bucket;
pub mod client;
mod clients;
mod doors;
mod ends;
mod malformed;
mod page;
mod routed;
mod shared;
mod tools;
