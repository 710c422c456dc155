//! Model folders from strangers: whatever is wrong with one is a single error that names it, and never a panic, much
//! memory or a wait.

#[path = "folders/config.rs"]
mod config;
#[path = "folders/fixture.rs"]
mod fixture;
#[path = "common/gguf_builder.rs"]
mod gguf_builder;
#[path = "folders/mutated.rs"]
mod mutated;
#[path = "common/peak_memory.rs"]
mod peak_memory;
#[path = "folders/rope.rs"]
mod rope;
#[path = "folders/weights.rs"]
mod weights;

use peak_memory::PeakMemory;

#[global_allocator]
static ALLOCATOR: PeakMemory = PeakMemory;
