//! The engine: a model on a device, sessions that hold its state, and the steps that move them forward.

mod build;
mod fit;
mod forward;
mod ops;
mod scratch;
mod session;

pub use build::{Engine, EngineOptions};
pub use fit::Fit;
pub use forward::{Output, Want};
pub use session::Session;
