//! The engine: a model on a device, sessions that hold its state, and the steps that move them forward.

mod build;
mod cache;
mod channels;
mod fit;
mod forward;
mod host;
mod layer;
mod memory;
mod model;
#[cfg(feature = "measure")]
mod observe;
mod ops;
mod record;
#[cfg(feature = "measure")]
mod replay;
mod residency;
mod runner;
mod saved;
mod scratch;
mod session;
mod sharing;
mod step;
mod weights;

pub use crate::attention::plan::Want;
pub use crate::kv::{HostOptions, OffloadStats, SessionFile};
pub use build::{Engine, EngineOptions, IndexOptions};
pub use fit::{Fit, HostRule, Placement};
pub use forward::Output;
pub use model::{Model, ModelOptions};
#[cfg(feature = "measure")]
pub use observe::{HostSelector, LayerCacheView, LayerView};
pub(crate) use saved::Arrivals;
pub use saved::SessionFormat;
pub use session::Session;
pub use step::Work;

// Bytes that were read back, as words.
fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
