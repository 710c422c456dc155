//! The shapes of a mixture of experts, and what feed-forward networks activate by.

use crate::{Error, Result};
use serde::Serialize;

/// Shapes of a mixture of experts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Experts {
    /// Experts that tokens are routed to.
    pub count: u32,
    /// How many of them a token uses.
    pub used: u32,
    /// Experts of the same width that every token uses besides: none or one.
    pub shared: u32,
    /// Width of an expert.
    pub ffn: u32,
    /// How scores come of the router's logits.
    pub gate: Gate,
    /// Whether the weights of a token's experts are divided by their sum.
    pub normalised: bool,
    /// The factor of the weights after that.
    pub factor: f32,
    /// Which layers have experts.
    #[serde(skip)]
    pub layers: Vec<bool>,
}

/// What a feed-forward network's gate goes through before the up projection is multiplied by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Of SwiGLU.
    #[default]
    Silu,
    /// Of GeGLU, with tanh.
    Gelu,
}

/// How an expert's score comes of its logit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid; experts are chosen by score plus a bias, and weighed without it.
    Sigmoid,
}

impl Experts {
    /// Experts that a token uses in all.
    pub fn slots(&self) -> u32 {
        self.used + self.shared
    }

    /// Experts in all: those routed to, then the shared ones.
    pub fn total(&self) -> u32 {
        self.count + self.shared
    }
}

impl Experts {
    /// Experts that a layer can have: the router's kernels keep a score of each in workgroup memory.
    pub const MOST: u32 = 512;

    /// Checks that kernels can take these shapes.
    ///
    /// # Errors
    /// [`Error::Model`] naming the number and what is supported.
    pub fn validate(&self) -> Result<()> {
        let Self { count, used, shared, .. } = *self;
        if !(1..=Self::MOST).contains(&count) {
            let most = Self::MOST;
            return Err(Error::Model(format!(
                "a layer has {count} experts, but 1 to {most} are supported"
            )));
        }
        if used == 0 || used > count.min(64) {
            return Err(Error::Model(format!(
                "a token uses {used} of {count} experts, but 1 to 64 of them are supported"
            )));
        }
        if shared > 1 {
            return Err(Error::Model(format!(
                "a layer has {shared} shared experts, but at most one is supported"
            )));
        }
        if !self.factor.is_finite() {
            return Err(Error::Model(format!(
                "the experts' weights are multiplied by {}, but a number is needed",
                self.factor
            )));
        }
        Ok(())
    }
}
