//! CPU twins of the shaders, in the plainest way and with f64 accumulation: what kernels are compared with.

pub mod attend;
pub mod experts;
pub mod index;
pub mod model;
pub mod select;
pub mod summary;
