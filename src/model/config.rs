//! A model's parts: the shapes of its layers, whatever file they were read from.

use super::file::ModelFile;
use super::rope::{Rope, RopeChange, RopeKind, RopeScaling};
use super::{families, tensors};
use crate::attention::{Activation, Experts, Latent, Shape, check_softcap};
use crate::{Error, Result, subject};
use serde::Serialize;

/// The shapes of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelConfig {
    /// The family, as its files name it.
    pub architecture: String,
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// The longest context that the model was trained for, or that the scaling of its rotary embedding makes of that.
    pub context_length: u32,
    /// The longest context without that scaling.
    pub plain_context: u32,
    /// RMSNorm's epsilon.
    pub(crate) epsilon: f32,
    /// What is added to the weights of norms as the file holds them.
    #[serde(skip)]
    pub(crate) norm_offset: f32,
    /// Whether what attention and feed-forward networks make is normed before it is added to the residual stream.
    pub(crate) post_norms: bool,
    /// What embeddings are multiplied by.
    pub(crate) embedding_factor: f32,
    /// The soft-cap of the model's logits, where they have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) logit_softcap: Option<f32>,
    /// Whether the output matrix is the embedding.
    pub(crate) tied: bool,
    /// Attention.
    #[serde(flatten)]
    pub(crate) attention: AttentionConfig,
    /// The sliding window of layers that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sliding_window: Option<SlidingWindow>,
    /// Rotary embeddings.
    pub(crate) rope: Rope,
    /// Width of the feed-forward network of layers without experts.
    pub(crate) ffn: u32,
    /// What the gates of feed-forward networks go through.
    pub(crate) activation: Activation,
    /// Mixture of experts, in the layers that have one.
    pub(crate) experts: Option<Experts>,
}

/// Sliding-window attention (arXiv 2004.05150): a token attends the latest tokens alone, in some layers or in all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlidingWindow {
    /// How many tokens, its own the last of them.
    pub tokens: u32,
    /// Which layers have it.
    pub layers: Vec<bool>,
}

/// What one layer is made of. All layers turn by the same angles and norm with the same epsilon, which a step knows once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerConfig<'a> {
    /// Attention.
    pub attention: AttentionConfig,
    /// The most tokens that a token attends, if there is a sliding window.
    pub window: Option<u32>,
    /// Whether what both make is normed before it is added to the stream, besides the norms before both.
    pub post_norms: bool,
    /// The feed-forward network.
    pub ffn: FfnConfig<'a>,
    /// What its gates go through.
    pub activation: Activation,
}

/// The two kinds of feed-forward networks, both gated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FfnConfig<'a> {
    /// One of this width for every token.
    Dense(u32),
    /// A mixture of experts.
    Experts(&'a Experts),
}

/// The two kinds of attention.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionConfig {
    /// Grouped-query attention (arXiv 2305.13245).
    Grouped(Grouped),
    /// Multi-head latent attention (arXiv 2405.04434).
    Latent(Latent),
}

/// Shapes of grouped-query attention.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Grouped {
    /// Query heads.
    pub q_heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Length of a head.
    pub head_dim: u32,
    /// Whether each head of queries and keys is normed before it is turned.
    pub head_norms: bool,
    /// Whether queries, keys and values have biases.
    pub biases: bool,
    /// Logits are divided by the root of this.
    pub scaled_by: u32,
    /// The soft-cap of logits, where they have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub softcap: Option<f32>,
}

impl ModelConfig {
    /// Reads and checks the shapes, and that the file holds the tensors that they call for.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key or the tensor, its value and what is supported.
    pub fn read(file: &ModelFile) -> Result<Self> {
        Self::read_changed(file, None)
    }

    /// The same, with another rotary scaling than the file's.
    ///
    /// # Errors
    /// [`Error::Argument`] for a change that the model cannot take; else as [`Self::read`].
    pub fn read_changed(file: &ModelFile, change: Option<&RopeChange>) -> Result<Self> {
        let mut config = families::read(file)?;
        if let Some(change) = change {
            config.change_rope(change)?;
        }
        config.validate()?;
        tensors::Tensors::find(&config, file)?;
        Ok(config)
    }

    fn change_rope(&mut self, change: &RopeChange) -> Result<()> {
        let RopeChange { kind, factor, original } = *change;
        let refuse =
            |value: String, limit: &str| Err(Error::argument(subject::ROPE_CHANGE, value, limit));
        if !factor.is_finite() || factor < 1.0 || (kind == RopeKind::None && factor != 1.0) {
            let limit = "its factor must be at least 1, and that of none 1";
            return refuse(format!("{kind} by {factor}"), limit);
        }
        if original == Some(0) {
            return refuse(format!("{kind} over 0 tokens"), "at least 1 is needed");
        }
        let original = original.unwrap_or_else(|| self.rope_original());
        let scaling = match kind {
            RopeKind::None => RopeScaling::None,
            RopeKind::Linear if factor == 1.0 => RopeScaling::None,
            RopeKind::Linear => RopeScaling::Linear(factor),
            RopeKind::Yarn => RopeScaling::yarn(factor, original),
        };
        if let Some(problem) = self.rope_problem().filter(|_| scaling != self.rope.scaling) {
            return refuse(kind.to_string(), problem);
        }
        self.context_length = scaling.context(original).max(self.plain_context);
        // The file's magnitude belongs to its scaling.
        self.rope.scaling = scaling;
        self.rope.magnitude = 1.0;
        Ok(())
    }

    /// Its rotary embedding.
    #[cfg(feature = "measure")]
    pub fn rope(&self) -> &Rope {
        &self.rope
    }

    /// Why the model runs with no other rotary scaling than its own, if that is so.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn rope_problem(&self) -> Option<&'static str> {
        match (&self.attention, &self.rope.scaling) {
            (AttentionConfig::Latent(_), _) => {
                Some("models with latent attention run without scaling only")
            }
            (_, RopeScaling::Divisors(_) | RopeScaling::Llama3 { .. }) => {
                Some("this model was trained with its own scaling, which no other can replace")
            }
            _ => None,
        }
    }

    /// The context that the factor of another scaling multiplies, unless something else is given.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn rope_original(&self) -> u32 {
        match self.rope.scaling {
            RopeScaling::Yarn { original, .. } => original,
            _ => self.plain_context,
        }
    }

    /// What a layer is made of.
    pub(crate) fn layer(&self, layer: u32) -> LayerConfig<'_> {
        let experts = self.experts.as_ref().filter(|experts| experts.layers[layer as usize]);
        let sliding = self.sliding_window.as_ref().filter(|sliding| sliding.layers[layer as usize]);
        LayerConfig {
            attention: self.attention,
            window: sliding.map(|sliding| sliding.tokens),
            post_norms: self.post_norms,
            ffn: experts.map_or(FfnConfig::Dense(self.ffn), FfnConfig::Experts),
            activation: self.activation,
        }
    }

    /// The sliding window, if some layers have one.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn sliding_window(&self) -> Option<&SlidingWindow> {
        self.sliding_window.as_ref()
    }

    /// The shape of decode attention, and of the cache.
    pub fn shape(&self) -> Shape {
        match self.attention {
            AttentionConfig::Grouped(grouped) => Shape {
                scaled_by: grouped.scaled_by,
                softcap: grouped.softcap,
                ..Shape::new(
                    grouped.kv_heads,
                    grouped.q_heads / grouped.kv_heads.max(1),
                    grouped.head_dim,
                    self.rope.interleaved,
                )
            },
            AttentionConfig::Latent(latent) => {
                Shape::latent(latent.heads, latent.kv_rank, latent.rope, latent.query_dim())
            }
        }
    }

    /// Floats that a token's attention makes, and its output matrix takes.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn attended(&self) -> u32 {
        match self.attention {
            AttentionConfig::Grouped(grouped) => grouped.q_heads * grouped.head_dim,
            AttentionConfig::Latent(latent) => latent.heads * latent.value,
        }
    }

    /// Bytes of keys and values that a token takes, as f16.
    pub fn kv_bytes_a_token(&self) -> u64 {
        let shape = self.shape();
        u64::from(self.layers) * shape.block_bytes() / u64::from(shape.block)
    }

    /// Bytes of index that a token takes, in the default format.
    pub fn index_bytes_a_token(&self) -> u64 {
        let shape = self.shape();
        u64::from(self.layers) * shape.block_code_bytes() / u64::from(shape.block)
    }

    /// Weights that one token multiplies by, in all layers: what a step's work is proportional to.
    pub(crate) fn active_weights(&self) -> u64 {
        let hidden = u64::from(self.hidden);
        let attention = match self.attention {
            AttentionConfig::Grouped(g) => {
                hidden * u64::from(2 * (g.q_heads + g.kv_heads)) * u64::from(g.head_dim)
            }
            AttentionConfig::Latent(l) => {
                let [q_rank, kv_rank] = [l.q_rank, l.kv_rank].map(u64::from);
                let heads = u64::from(l.heads);
                hidden * (q_rank + kv_rank + u64::from(l.rope))
                    + heads * q_rank * u64::from(l.query_dim())
                    + heads * kv_rank * u64::from(l.nope + l.value)
                    + heads * u64::from(l.value) * hidden
            }
        };
        (0..self.layers)
            .map(|layer| {
                let width = match self.layer(layer).ffn {
                    FfnConfig::Experts(experts) => experts.slots() * experts.ffn,
                    FfnConfig::Dense(width) => width,
                };
                attention + 3 * hidden * u64::from(width)
            })
            .sum()
    }

    /// Whether a file has every tensor that the shapes call for, in a type that can be read.
    ///
    /// # Errors
    /// [`Error::Model`] naming the first that it has not.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn check_tensors(&self, file: &ModelFile) -> Result<()> {
        tensors::Tensors::find(self, file).map(drop)
    }

    fn validate(&self) -> Result<()> {
        let shape = self.shape();
        shape.validate()?;
        if let AttentionConfig::Grouped(grouped) = self.attention
            && !grouped.q_heads.is_multiple_of(grouped.kv_heads)
        {
            return Err(Error::Model(format!(
                "{} query heads cannot share {} KV heads evenly",
                grouped.q_heads, grouped.kv_heads
            )));
        }
        // The output projection reads whole units of weights.
        if !self.attended().is_multiple_of(32) {
            return Err(Error::Model(format!(
                "the heads' values are {} numbers together, but a multiple of 32 is supported",
                self.attended()
            )));
        }
        if let AttentionConfig::Latent(latent) = self.attention {
            latent.validate()?;
            // The scale of its logits would change too.
            if self.rope.scaling != RopeScaling::None || self.rope.magnitude != 1.0 {
                return Err(Error::Model(
                    "latent attention with a scaled RoPE is not supported; unscaled is".into(),
                ));
            }
        }
        if !self.rope.rotations().are_finite() {
            let Rope { base, scaling, .. } = &self.rope;
            let shown: String = format!("base {base}, {scaling:?}").chars().take(200).collect();
            return Err(Error::Model(format!(
                "the rotary embedding ({shown}) turns by what is not a number"
            )));
        }
        if let Some(cap) = self.logit_softcap {
            check_softcap("the model's logits", cap)?;
        }
        match &self.experts {
            // They add to the stream themselves.
            Some(_) if self.post_norms => Err(Error::Model(
                "norms after a mixture of experts are not supported; those after a dense network are".into(),
            )),
            Some(experts) => experts.validate(),
            None => Ok(()),
        }
    }
}
