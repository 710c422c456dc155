//! The key and value cache: a pool of blocks shared by sequences, the buffers that hold it, and the offload engine, which
//! keeps sealed blocks in CPU memory and a hot cache of them on the GPU; and the file in which a conversation lives between
//! runs.

mod cache;
mod gatherers;
mod host;
mod hot;
mod index;
mod mapped_ring;
mod memory;
mod offload;
mod pool;
mod session_file;
mod window;

pub(crate) use cache::{CacheLayout, KvCache};
pub(crate) use gatherers::Gatherers;
pub(crate) use host::HostCache;
pub(crate) use hot::{HotCache, Placement, Policy};
pub(crate) use index::{Index, LayerIndex};
pub(crate) use mapped_ring::MappedRing;
pub(crate) use memory::{IndexRows, IndexSize, OffloadRows, SegmentRows, kv_rows};
#[cfg(feature = "measure")]
pub(crate) use offload::FetchRule;
pub use offload::{HostOptions, OffloadStats};
pub(crate) use offload::{Items, Offload, Upload, Uploads, Wanted};
pub(crate) use pool::{BlockTable, Pool, Prepared, Slot};
pub use session_file::SessionFile;
