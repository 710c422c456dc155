//! The shapes of multi-head latent attention.

use super::Shape;
use crate::{Error, Result};
use serde::Serialize;

/// Shapes of multi-head latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latent {
    /// Heads.
    pub heads: u32,
    /// Length of the latent that queries are made of.
    pub q_rank: u32,
    /// Length of the latent that keys and values are made of, which is what is cached.
    pub kv_rank: u32,
    /// Dimensions of a head's query and key that are not turned.
    pub nope: u32,
    /// Dimensions that are, shared by all heads' keys.
    pub rope: u32,
    /// Length of a head's value.
    pub value: u32,
    /// Epsilon of the latents' norms.
    pub epsilon: f32,
}

impl Latent {
    /// Length of a head's query before absorption.
    pub fn query_dim(&self) -> u32 {
        self.nope + self.rope
    }

    /// The shape of prefill, which works on keys and values made of the cached latents: a KV head for every head.
    pub fn prefill_shape(&self, block: u32) -> Shape {
        Shape { block, ..Shape::new(self.heads, 1, self.query_dim(), true) }
    }

    /// Checks that kernels can take these shapes.
    ///
    /// # Errors
    /// [`Error::Model`] naming the number and what is supported.
    pub fn validate(&self) -> Result<()> {
        let Self { nope, rope, value, kv_rank, .. } = *self;
        // A head's queries are read from where its slice begins, in whole vec4.
        for (what, length) in [
            ("the dimensions of a head that are not rotated", nope),
            ("the dimensions that are rotated", rope),
            ("the latent of keys and values", kv_rank),
        ] {
            if !length.is_multiple_of(32) {
                return Err(Error::Model(format!(
                    "{what} are {length}, but multiples of 32 are supported"
                )));
            }
        }
        if value != nope + rope {
            return Err(Error::Model(format!(
                "values have {value} dimensions and queries {}, but only equal ones are supported",
                nope + rope
            )));
        }
        self.prefill_shape(Shape::BLOCK).validate()
    }
}
