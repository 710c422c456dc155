//! Keys and values of a batch's rows, appended to the cache.

use super::recording::Words;
use super::tensors::{self, Access, Given, bind_all};
use super::{Kv, Options, Pass};
use crate::attention::{KvLayout, Shape};
use crate::gpu::Op;
use crate::kernels;
use crate::{Error, Result};
use std::sync::Arc;

pub use crate::kernels::Number;

/// New keys and values, and the cache that they are appended to: ranges as [`Tensors`](super::Tensors) has them.
#[derive(Clone, Debug)]
pub struct AppendTensors<'a> {
    /// The keys of the batch's rows, in the order of their queries: \[row\]\[KV head\]\[dimension\].
    pub keys: wgpu::BufferBinding<'a>,
    /// Their values, likewise; none where values are a part of the keys.
    pub values: Option<wgpu::BufferBinding<'a>>,
    /// How keys and values are stored.
    pub number: Number,
    /// Numbers from one row's keys to the next: at least the KV heads times their dimensions. More, where keys lie in one row
    /// with other things.
    pub key_stride: u32,
    /// Likewise of values.
    pub value_stride: u32,
    /// Whether keys are turned on the way, by the angles of the plan ([`Plan::turning`](super::Plan::turning)): those
    /// dimensions that are not values as well. They are turned already otherwise.
    pub turns: bool,
    /// The cache, as [`Tensors::kv`](super::Tensors::kv) has it. Written, in buffers that no other tensor is in.
    pub kv: Kv<'a>,
}

/// Tensors of one layer, bound to the kernel that appends: `bind_append` of an operator.
pub struct BoundAppend {
    words: Arc<Words>,
    /// Segment by segment; where values are apart, those of the keys and then those of the values.
    append: Vec<Op>,
    /// Heads, and rows of each that a kernel writes of a token.
    heads: [u32; 2],
    /// Pairs of a key's dimensions that are turned.
    pairs: Option<u32>,
}

impl BoundAppend {
    pub(super) async fn new(
        words: &Arc<Words>,
        segments: &[wgpu::Buffer],
        (options, shape): (&Options, &Shape),
        tensors: &AppendTensors<'_>,
    ) -> Result<Self> {
        let gpu = &words.gpu;
        let AppendTensors { keys, values, number, key_stride, value_stride, turns, kv } = tensors;
        let width = shape.kv_heads * shape.head_dim;
        let has_values = !shape.shares_values();
        if values.is_some() != has_values {
            let (value, limit) = match has_values {
                true => ("missing", "they have rows of their own"),
                false => ("given", "they are a part of the keys"),
            };
            return Err(Error::argument("the values", value, limit));
        }
        let strides =
            [("keys", Some(key_stride)), ("values", values.is_some().then_some(value_stride))];
        for (what, stride) in strides {
            if let Some(stride) = stride.filter(|stride| **stride < width) {
                let limit = format!("a row has {width} numbers");
                return Err(Error::argument(format!("the stride of {what}"), stride, limit));
            }
        }
        let bytes = |stride: u32| {
            let rows = u64::from(options.limits.rows - 1) * u64::from(stride);
            ((rows + u64::from(width)) * number.bytes()).next_multiple_of(4)
        };
        let given = |what: &'static str, range, needed, access| Given {
            what: what.into(),
            range,
            needed,
            access,
        };
        let cache = tensors::cache((options, shape), tensors::CACHE, kv, Access::Write)?;
        let (kv, bound) = bind_all(
            gpu,
            cache,
            [
                Some(given("keys", keys, bytes(*key_stride), Access::Read)),
                values
                    .as_ref()
                    .map(|values| given("values", values, bytes(*value_stride), Access::Read)),
            ],
        )
        .await?;
        let [Some(keys), values] = bound else {
            unreachable!("keys are there");
        };
        let part =
            |stride, turns| kernels::append_apart(shape, options.layout, *number, stride, turns);
        // What is read, where it is written, and by which kernel.
        let (parts, cached) = match (values, options.layout) {
            (Some(values), KvLayout::Apart(_)) => {
                let of_values = (values, None, kv.values, part(*value_stride, false));
                (vec![(keys, None, kv.keys, part(*key_stride, *turns)), of_values], 1)
            }
            (values, _) => {
                let strides = [*key_stride, *value_stride];
                let spec = kernels::append_rows(shape, *number, strides, *turns);
                (vec![(keys, values, kv.keys, spec)], shape.cached_rows())
            }
        };
        let mut append = Vec::new();
        for (keys, values, cache, spec) in parts {
            for (segment, kv) in segments.iter().zip(cache) {
                let rows = kernels::AppendRows {
                    step: (&words.step).into(),
                    segment: segment.into(),
                    keys: keys.clone(),
                    kv,
                    values: values.clone(),
                };
                append.push(gpu.op(&spec, rows).await?);
            }
        }
        Ok(Self {
            append,
            words: words.clone(),
            heads: [shape.kv_heads, cached],
            pairs: turns.then(|| shape.turned_pairs()),
        })
    }

    /// Records the appending of the plan's rows: to be attended, in the same pass or later.
    ///
    /// # Errors
    /// [`Error::Argument`] for a recording of another operator, or a plan that has not the angles of as many pairs as keys are
    /// turned by.
    pub fn append(&self, pass: &mut Pass<'_>) -> Result<()> {
        let plan = pass.plan;
        let pass = pass.of(&self.words)?;
        if let Some(pairs) = self.pairs.filter(|pairs| *pairs != plan.pairs) {
            let limit = format!("keys are turned by {pairs}");
            let what = "the number of pairs that the plan has angles of";
            return Err(Error::argument(what, plan.pairs, limit));
        }
        let [heads, cached] = self.heads;
        for append in &self.append {
            append.record(pass, heads, cached, plan.step.rows);
        }
        Ok(())
    }
}
