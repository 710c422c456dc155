//! Dense attention of a prompt's rows where the cache holds latents (multi-head latent attention, arXiv 2405.04434): over keys
//! and values that are made of them, a slab of tokens at a time.
//!
//! What makes them is a product with the model's weights, which an operator has not: it is the caller's, recorded between what
//! reads a slab's latents and what attends it. Absorbed, as decode has it, attention of a pair of tokens costs twice as much.

use super::append::{AppendTensors, BoundAppend};
use super::plan::Kind;
use super::prefill::check_kind;
use super::recording::Words;
use super::scratch::{check, segments};
use super::tensors::{self, Access, Given, bind_all};
use super::{Batch, Kv, Limits, Options, Plan, Recording, Select, Sequence};
use crate::attention::{KvLayout, Latent, Shape};
use crate::gpu::{Binding, Gpu, Op, ShaderSpec, buffers};
use crate::kernels::{self, SegmentParams};
use crate::memory::{LatentSlab, Row, prefill_states, sum};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// What latent prefill is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentOptions {
    /// Heads and dimensions. Values are as long as queries.
    pub latent: Latent,
    /// Tokens in a block: 16, 32, 64 or 128.
    pub block: u32,
    /// The most rows of a chunk: 1 to 65,535.
    pub rows: u32,
    /// The most tokens of a sequence.
    pub tokens: u32,
    /// Physical blocks of the cache.
    pub cache_blocks: u32,
    /// Physical blocks of a segment of the cache: as [`Options::segment_blocks`].
    pub segment_blocks: u32,
    /// Tokens whose keys and values are made at a time: a multiple of the block, 65,535 at most.
    pub slab_tokens: u32,
}

impl LatentOptions {
    /// The shape of the cache, and of absorbed decode attention over it.
    pub fn absorbed(&self) -> Shape {
        let Latent { heads, kv_rank, rope, .. } = self.latent;
        Shape { block: self.block, ..Shape::latent(heads, kv_rank, rope, self.latent.query_dim()) }
    }

    /// Checks that an operator can be made for this. Pure.
    ///
    /// # Errors
    /// As [`Options::validate`] and [`Latent::validate`].
    pub fn validate(&self) -> Result<()> {
        self.latent.validate()?;
        self.absorbed().validate()?;
        let most = 65_535 / self.block * self.block;
        if !(1..=most).contains(&self.slab_tokens) || !self.slab_tokens.is_multiple_of(self.block) {
            let limit = format!("it must be a multiple of {} from there to {most}", self.block);
            return Err(Error::argument("the number of tokens of a slab", self.slab_tokens, limit));
        }
        self.attended().validate()
    }

    // As attention of a slab has it: a KV head for every head.
    fn attended(&self) -> Options {
        let Self { latent, block, rows, tokens, cache_blocks, segment_blocks, .. } = *self;
        let shape = latent.prefill_shape(block);
        let limits = Limits { rows, sequences: 1, tokens, cache_blocks };
        let query_stride = latent.heads.saturating_mul(latent.query_dim());
        let layout = KvLayout::Joined;
        Options { shape, limits, layout, query_stride, segment_blocks, workgroups: 1 }
    }

    // The slabs of the longest sequence.
    fn slabs(&self) -> impl Iterator<Item = SegmentParams> {
        let blocks = self.slab_tokens / self.block;
        let count = self.tokens.div_ceil(self.slab_tokens);
        (0..count).map(move |i| SegmentParams::in_order(i * blocks, blocks, i, count))
    }

    fn slab(&self) -> LatentSlab<'_> {
        LatentSlab { latent: &self.latent, block: self.block, tokens: self.slab_tokens }
    }

    fn rows(&self) -> LatentScratch<Row> {
        let (attended, slab) = (self.attended(), self.slab());
        let step = attended.step();
        LatentScratch {
            tables: Row { what: "the step over slabs".into(), ..step.clone() },
            step,
            states: prefill_states(&attended.shape, self.rows.into()),
            shared_keys: slab.shared_keys(),
            kv: slab.kv(),
        }
    }
}

buffers! {
    struct LatentScratch {
        step,
        /// The step with the block tables of slabs.
        tables,
        states,
        shared_keys,
        /// A slab's keys and values.
        kv,
    }
}

/// What latent prefill reads and writes, as [`Tensors`](super::Tensors) has them.
#[derive(Clone, Debug)]
pub struct LatentTensors<'a> {
    /// Queries before absorption, f32: \[row\]\[head\]\[dimensions that are not turned, those that are\], turned already.
    pub queries: wgpu::BufferBinding<'a>,
    /// One layer's cache, segment by segment: \[block\]\[token of the block\]\[latent, turned key\], f16.
    pub kv: Vec<wgpu::BufferBinding<'a>>,
    /// A slab's latents, f32: \[token of the slab\]\[latent\]. Written by [`Slabs::gather`], for the caller's product.
    pub latents: wgpu::BufferBinding<'a>,
    /// What the caller makes of them, f32: \[token of the slab\]\[keys of all heads, values of all heads\], keys without the
    /// dimensions that are turned. Read by [`Slabs::attend`].
    pub made: wgpu::BufferBinding<'a>,
    /// What is attended, f32: \[row\]\[head\]\[dimension of a value\].
    pub output: wgpu::BufferBinding<'a>,
}

/// Causal attention of many rows over a cache of latents. One serves every layer of a model.
pub struct LatentPrefill {
    words: Arc<Words>,
    options: LatentOptions,
    scratch: LatentScratch,
    segments: Vec<wgpu::Buffer>,
}

/// Tensors of one layer, bound to a [`LatentPrefill`]'s kernels.
pub struct BoundLatent {
    words: Arc<Words>,
    options: LatentOptions,
    /// Slab by slab: a kernel a segment of the cache, and one for all.
    gather: Vec<Vec<Op>>,
    place: Op,
    attend: Vec<Op>,
}

/// The slabs of a plan, one after the other, of one layer: [`BoundLatent::slabs`].
pub struct Slabs<'s, 'r> {
    bound: &'s BoundLatent,
    recording: &'s mut Recording<'r>,
    tokens: u32,
    begun: usize,
    attended: usize,
}

impl LatentPrefill {
    /// Makes the kernels and allocates the scratch.
    ///
    /// # Errors
    /// As [`LatentOptions::validate`]; else as [`Prefill::new`](super::Prefill::new).
    pub async fn new(gpu: &Gpu, options: LatentOptions) -> Result<Self> {
        options.validate()?;
        let rows = options.rows();
        check(gpu, rows.rows())?;
        let gpu = gpu.share();
        for spec in specs(&gpu, &options) {
            gpu.pipeline(&spec).await?;
        }
        let scratch = rows.allocate(&gpu).await?;
        let attended = options.attended();
        let segments = segments(&gpu, &attended).await?;
        let tables = Some(scratch.tables.clone());
        let words = Words::new(gpu, &attended, scratch.step.clone(), tables);
        Ok(Self { words, options, scratch, segments })
    }

    /// Bytes of device memory that an operator takes for itself, but for some of a few bytes. Pure.
    ///
    /// # Errors
    /// As [`LatentOptions::validate`].
    pub fn scratch_bytes(options: &LatentOptions) -> Result<u64> {
        options.validate()?;
        Ok(sum(options.rows().rows()))
    }

    /// What it was made for.
    pub fn options(&self) -> &LatentOptions {
        &self.options
    }

    /// Plans a chunk of one sequence. Nothing is asked of the device.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, sequence: &Sequence<'_>) -> Result<Plan> {
        let sequences = std::slice::from_ref(sequence);
        let batch = Batch { sequences, select: Select::Dense };
        Plan::over_slabs(&self.options.attended(), &batch)
    }

    /// Binds a layer's tensors, which must have room for what the options allow.
    ///
    /// # Errors
    /// As [`Decode::bind`](super::Decode::bind).
    pub async fn bind(&self, tensors: &LatentTensors<'_>) -> Result<BoundLatent> {
        let (options, gpu) = (&self.options, &self.words.gpu);
        let (attended, absorbed, slab) = (options.attended(), options.absorbed(), options.slab());
        let given = |what: &'static str, range, needed, access| {
            Some(Given { what: what.into(), range, needed, access })
        };
        let kv = Kv::Joined(tensors.kv.clone());
        let cache = tensors::cache((&attended, &absorbed), tensors::CACHE, &kv, Access::Read)?;
        let (latents, made) = (slab.latents().bytes, slab.made().bytes);
        let (kv, bound) = bind_all(
            gpu,
            cache,
            [
                given("queries", &tensors.queries, attended.query_bytes(), Access::Read),
                given("latents", &tensors.latents, latents, Access::Write),
                given("what is made of latents", &tensors.made, made, Access::Read),
                given("the output", &tensors.output, attended.output_bytes(), Access::Write),
            ],
        )
        .await?;
        let [Some(qkv), Some(latents), Some(made), Some(out)] = bound else {
            unreachable!("each of them is there");
        };
        let scratch = &self.scratch;
        let [gather_spec, place_spec, attend_spec] = specs(gpu, options);
        let place = kernels::LatentPlace {
            made,
            shared_keys: (&scratch.shared_keys).into(),
            kv: (&scratch.kv).into(),
        };
        let place = gpu.op(&place_spec, place).await?;
        let (mut gather, mut attend) = (Vec::new(), Vec::new());
        for params in options.slabs() {
            let slab = super::scratch::uniform(gpu, "a slab", &params).await?;
            let slab = Binding::from(&slab);
            let mut of_slab = Vec::new();
            for (segment, kv) in self.segments.iter().zip(&kv.keys) {
                let gathered = kernels::LatentGather {
                    step: (&scratch.step).into(),
                    segment: segment.into(),
                    slab: slab.clone(),
                    kv: kv.clone(),
                    latents: latents.clone(),
                    shared_keys: (&scratch.shared_keys).into(),
                };
                of_slab.push(gpu.op(&gather_spec, gathered).await?);
            }
            gather.push(of_slab);
            let prefill = kernels::Prefill {
                step: (&scratch.tables).into(),
                segment: slab,
                qkv: qkv.clone(),
                kv: (&scratch.kv).into(),
                values_in: None,
                out: out.clone(),
                states: (&scratch.states).into(),
            };
            attend.push(gpu.op(&attend_spec, prefill).await?);
        }
        let words = self.words.clone();
        Ok(BoundLatent { words, options: *options, gather, place, attend })
    }

    /// Binds new latents of a layer, which are to be appended to its cache as keys without values.
    ///
    /// # Errors
    /// As [`Decode::bind_append`](super::Decode::bind_append).
    pub async fn bind_append(&self, tensors: &AppendTensors<'_>) -> Result<BoundAppend> {
        let cache = (&self.options.attended(), &self.options.absorbed());
        BoundAppend::new(&self.words, &self.segments, cache, tensors).await
    }

    /// Begins to record a plan, as [`Decode::begin`](super::Decode::begin) does.
    ///
    /// # Errors
    /// As there.
    pub fn begin<'a>(
        &self,
        encoder: &'a mut wgpu::CommandEncoder,
        plan: &'a Plan,
    ) -> Result<Recording<'a>> {
        check_kind(plan, Kind::Slabs)?;
        self.words.begin(encoder, plan)
    }
}

impl BoundLatent {
    /// Goes through the slabs that the plan's rows attend.
    ///
    /// # Errors
    /// [`Error::Argument`] for a recording of another operator.
    pub fn slabs<'s, 'r>(&'s self, recording: &'s mut Recording<'r>) -> Result<Slabs<'s, 'r>> {
        recording.pass()?.of(&self.words)?;
        let tokens = recording.plan().context;
        Ok(Slabs { bound: self, recording, tokens, begun: 0, attended: 0 })
    }
}

impl Slabs<'_, '_> {
    /// Records what reads the next slab's latents, and says which positions those are: the caller is to make keys and values of
    /// them, and then to [attend](Slabs::attend) them. None where all are attended.
    ///
    /// # Errors
    /// [`Error::Argument`] where the slab before was not attended; as [`Recording::pass`].
    pub fn gather(&mut self) -> Result<Option<Range<u32>>> {
        let options = &self.bound.options;
        if self.begun > self.attended {
            let limit = "it must be attended before the next";
            return Err(Error::argument("the slab", "gathered", limit));
        }
        let first = self.begun as u32 * options.slab_tokens;
        if first >= self.tokens {
            return Ok(None);
        }
        let mut pass = self.recording.pass()?;
        let pass = pass.of(&self.bound.words)?;
        for gather in &self.bound.gather[self.begun] {
            gather.record(pass, options.slab_tokens, 1, 1);
        }
        self.begun += 1;
        Ok(Some(first..self.tokens.min(first + options.slab_tokens)))
    }

    /// The encoder, for the caller's products.
    pub fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.recording.encoder()
    }

    /// Records attention over the slab that was gathered, of which keys and values are made.
    ///
    /// # Errors
    /// [`Error::Argument`] where none was gathered; as [`Recording::pass`].
    pub fn attend(&mut self) -> Result<()> {
        let Some(attend) = self.bound.attend[..self.begun].get(self.attended) else {
            return Err(Error::argument("the slab", "not gathered", "it must be, to be attended"));
        };
        let options = &self.bound.options;
        let mut pass = self.recording.pass()?;
        let tiles = pass.plan.step.tiles;
        let pass = pass.of(&self.bound.words)?;
        self.bound.place.record(pass, options.latent.heads, options.slab_tokens, 1);
        attend.record(pass, options.latent.heads, tiles, 1);
        self.attended += 1;
        Ok(())
    }
}

fn specs(gpu: &Gpu, options: &LatentOptions) -> [ShaderSpec; 3] {
    let attended = options.attended();
    [
        kernels::latent_gather(&options.absorbed()),
        kernels::latent_place(&attended.shape, &options.latent),
        kernels::prefill(gpu.tier, &attended.shape, attended.query_stride),
    ]
}
