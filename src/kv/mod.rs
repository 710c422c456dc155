//! The key and value cache: a pool of blocks shared by sequences, the buffers that hold it, and the offload engine, which
//! keeps sealed blocks in CPU memory and a hot cache of them on the GPU; and the file in which a conversation lives between
//! runs.

mod cache;
mod gatherers;
mod host;
mod hot;
mod mapped_ring;
mod offload;
mod pool;
mod session_file;
mod window;

pub use cache::{CacheLayout, LayerCache};
pub use gatherers::Gatherers;
pub use host::HostCache;
pub use hot::{Admitted, HotCache, Placement, Policy};
pub use mapped_ring::{MappedRing, Way};
pub use offload::{HostOptions, Item, Items, Offload, OffloadStats, Upload};
pub use pool::{BlockTable, Pool, Prepared, Slot};
pub use session_file::{Append, SessionFile};
pub use window::Window;
