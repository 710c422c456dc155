//! The key and value cache: a pool of blocks shared by sequences, and the buffers that hold it.

mod cache;
mod pool;

pub use cache::{CacheLayout, LayerCache};
pub use pool::{BlockTable, Pool, Prepared, Slot};
