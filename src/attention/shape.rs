//! The shape of attention that kernels are compiled for.

use super::IndexFormat;
use crate::formats::{HeadFormat, KvType};
use crate::{Error, Result, subject};

/// Where a token's values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Rows of their own, as long as keys.
    Own,
    /// The first so many numbers of the keys: multi-head latent attention in its absorbed form (arXiv 2405.04434).
    OfKeys(u32),
}

/// Heads, dimensions and layout of one layer's attention. Every layer of a model shares one shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Key and value heads.
    pub kv_heads: u32,
    /// Query heads per KV head, 1 to 32.
    pub group: u32,
    /// Length of a head's query and key: 32, 64, 80, 96, 128, 192, 256 or 576.
    pub head_dim: u32,
    /// Values.
    pub values: Values,
    /// Logits are divided by the root of this: the length of the queries and keys that the model was trained with.
    pub scaled_by: u32,
    /// The soft-cap of logits, where they have one: c tanh(logit / c) takes the place of a logit (arXiv 2408.00118).
    pub softcap: Option<f32>,
    /// Whether rotary pairs are (2i, 2i+1) (Llama's GGUF layout) rather than (i, i + head_dim / 2).
    pub rope_interleaved: bool,
    /// Tokens in a block, the unit of storage and of level 1: 16, 32, 64 or 128.
    pub block: u32,
    /// The index's record of each key.
    pub index: IndexFormat,
}

impl Shape {
    /// Tokens in a block unless asked otherwise.
    pub const BLOCK: u32 = 64;
    /// Positions whose queries and keys choose the index channels.
    pub(crate) const STATS_TOKENS: u32 = 1024;

    /// A shape with blocks of 64 tokens and the default index.
    pub fn new(kv_heads: u32, group: u32, head_dim: u32, rope_interleaved: bool) -> Self {
        Self {
            kv_heads,
            group,
            head_dim,
            values: Values::Own,
            scaled_by: head_dim,
            softcap: None,
            rope_interleaved,
            block: Self::BLOCK,
            index: IndexFormat::for_head_dim(head_dim),
        }
    }

    /// Absorbed latent attention: one KV head whose keys are `latent` numbers and `rope` rotated ones and whose values are
    /// the former, shared by `heads` queries that were `query_dim` long before absorption.
    pub fn latent(heads: u32, latent: u32, rope: u32, query_dim: u32) -> Self {
        let head_dim = latent + rope;
        Self {
            values: Values::OfKeys(latent),
            scaled_by: query_dim,
            index: IndexFormat::for_latent(head_dim),
            ..Self::new(1, heads, head_dim, true)
        }
    }

    /// Checks that kernels exist for this shape.
    ///
    /// # Errors
    /// [`Error::Model`] naming the dimension, or [`Error::Argument`] naming the option, its value and what is supported.
    pub fn validate(&self) -> Result<()> {
        if ![32, 64, 80, 96, 128, 192, 256, 576].contains(&self.head_dim) {
            return Err(Error::Model(format!(
                "the head dimension is {}, but 32, 64, 80, 96, 128, 192, 256 and 576 are supported",
                self.head_dim
            )));
        }
        let sound = |value_dim: u32| {
            (1..=self.head_dim).contains(&value_dim) && value_dim.is_multiple_of(32)
        };
        if let Values::OfKeys(value_dim) = self.values
            && !sound(value_dim)
        {
            return Err(Error::Model(format!(
                "values have {value_dim} dimensions, but a multiple of 32 up to the keys' {} is supported",
                self.head_dim
            )));
        }
        if let Some(cap) = self.softcap {
            check_softcap("attention's logits", cap)?;
            if self.shares_values() {
                return Err(Error::Model(format!(
                    "the soft-cap of attention's logits is {cap}, but latent attention has none"
                )));
            }
        }
        if !(1..=32).contains(&self.group) {
            return Err(Error::Model(format!(
                "{} query heads share a KV head, but 1 to 32 are supported",
                self.group
            )));
        }
        if !(1..=1024).contains(&self.kv_heads) {
            return Err(Error::Model(format!(
                "there are {} KV heads, but 1 to 1024 are supported",
                self.kv_heads
            )));
        }
        if ![16, 32, 64, 128].contains(&self.block) {
            return Err(Error::argument(
                subject::BLOCK_SIZE,
                self.block,
                "it must be 16, 32, 64 or 128",
            ));
        }
        self.index.validate(self.head_dim)
    }

    /// Query heads.
    pub fn q_heads(&self) -> u32 {
        self.kv_heads * self.group
    }

    /// Length of a head's value.
    pub fn value_dim(&self) -> u32 {
        match self.values {
            Values::Own => self.head_dim,
            Values::OfKeys(value_dim) => value_dim,
        }
    }

    /// Whether values lie in the keys.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn shares_values(&self) -> bool {
        matches!(self.values, Values::OfKeys(_))
    }

    /// Rows that a token has in the cache for each KV head: a key, and a value where values have rows of their own.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn cached_rows(&self) -> u32 {
        if self.shares_values() { 1 } else { 2 }
    }

    /// How head-blocks are stored in CPU memory.
    pub(crate) fn head_format(&self, kv_type: KvType) -> HeadFormat {
        let values = self.cached_rows() * self.block * self.head_dim;
        HeadFormat::new(kv_type, values as usize, self.kv_heads as usize)
    }

    /// What a split of one row counts as among the workgroups that a device runs at a time: one for four query heads of a KV head; four where
    /// all heads share rows, which a large workgroup may read for all of them.
    pub(crate) fn row_workgroups(&self) -> u32 {
        match self.values {
            Values::Own => self.kv_heads * self.group.div_ceil(4),
            Values::OfKeys(_) => self.kv_heads * 4,
        }
    }

    /// Scores from one head to the next, for sequences of so many tokens: level 2 may be given every block, so there is room for
    /// each token, and for a block more.
    pub(crate) fn score_stride(&self, tokens: u32) -> u64 {
        (u64::from(tokens.div_ceil(self.block)) + 1) * u64::from(self.block)
    }

    /// Floats in a row of queries and what is cached, together.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn row_width(&self) -> u32 {
        (self.q_heads() + self.cached_rows() * self.kv_heads) * self.head_dim
    }

    /// Pairs of a key's dimensions that a rotary embedding turns: of those that are not values as well.
    pub(crate) fn turned_pairs(&self) -> u32 {
        match self.values {
            Values::Own => self.head_dim / 2,
            Values::OfKeys(value_dim) => (self.head_dim - value_dim) / 2,
        }
    }

    /// The factor of a logit, d^-1/2.
    pub fn scale(&self) -> f32 {
        (1.0 / f64::from(self.scaled_by).sqrt()) as f32
    }

    /// Attention's logit, of the product of a query and a key.
    #[cfg(feature = "measure")]
    pub(crate) fn logit(&self, product: f32) -> f32 {
        let logit = product * self.scale();
        self.softcap.map_or(logit, |cap| cap * (logit / cap).tanh())
    }

    /// Tokens of a tile of decode attention, the least that a split has: `shaders/lib/attend_split`, `latent_split` and
    /// `latent_matrix_split`.
    pub(crate) fn tile_tokens(&self) -> u32 {
        if self.shares_values() { 16 } else { 64 }
    }

    /// Bytes of keys and values of one block in one layer, as packed f16.
    pub fn block_bytes(&self) -> u64 {
        let rows = self.kv_heads * self.cached_rows();
        u64::from(rows) * u64::from(self.block) * u64::from(self.head_dim) * 2
    }

    /// Bytes of one block's index in one layer.
    pub fn block_code_bytes(&self) -> u64 {
        u64::from(self.kv_heads) * u64::from(self.index.block_words(self.block)) * 4
    }

    /// Floats of channel statistics of one sequence in one layer.
    pub(crate) fn stats_len(&self) -> u64 {
        u64::from(self.kv_heads) * u64::from(self.group + 1) * u64::from(self.head_dim)
    }

    /// Words that describe the index channels of one sequence in one layer.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn channels_len(&self) -> u64 {
        u64::from(self.kv_heads) * u64::from(self.index.channels)
    }
}

/// Refuses a soft-cap whose inverse or double a kernel could not have.
pub(crate) fn check_softcap(of: &str, cap: f32) -> Result<()> {
    if (1e-3..=1e6).contains(&cap) {
        return Ok(());
    }
    Err(Error::Model(format!("the soft-cap of {of} is {cap}, but 0.001 to 1000000 is supported")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_head_dimension_that_is_named_is_accepted_with_values_of_its_own() {
        for head_dim in [32, 64, 80, 96, 128, 192, 256, 576] {
            Shape::new(2, 3, head_dim, false).validate().unwrap();
        }
        for (latent, message) in [
            (0, "values have 0 dimensions, but a multiple of 32 up to the keys' 96"),
            (80, "values have 80 dimensions, but"),
            (128, "values have 128 dimensions, but"),
        ] {
            let values = Values::OfKeys(latent);
            let error = Shape { values, ..Shape::latent(4, 64, 32, 64) }.validate().unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
    }

    #[test]
    fn soft_caps_are_positive_numbers_of_grouped_queries() {
        let capped = |shape, cap| Shape { softcap: Some(cap), ..shape }.validate();
        let grouped = Shape::new(2, 3, 64, false);
        capped(grouped, 50.0).unwrap();
        for cap in [0.0, -1.0, 1e-4, 1e7, f32::NAN, f32::INFINITY] {
            let error = capped(grouped, cap).unwrap_err().to_string();
            assert!(
                error.contains(&format!("logits is {cap}, but 0.001 to 1000000 is")),
                "{error}"
            );
        }
        let error = capped(Shape::latent(4, 64, 32, 64), 50.0).unwrap_err().to_string();
        assert!(error.contains("logits is 50, but latent attention has none"), "{error}");
    }
}
