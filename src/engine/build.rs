//! Making an engine.

use super::cache::Cache;
use super::memory::{MemoryPlan, ResidencyRows};
use super::ops::OpMaker;
use super::residency::Residency;
use super::runner::Runner;
use super::{Model, ModelOptions};
use crate::attention::{BlockScorer, ChannelSet, IndexFormat, Shape, Summary};
use crate::formats::Quantise;
use crate::gpu::{DeviceFacts, Gpu};
use crate::kernels::Scored;
use crate::kv::{HostOptions, IndexRows};
use crate::model::rope::RopeChange;
use crate::model::{ModelConfig, ModelFile};
use crate::{Error, Result, subject};
use std::collections::HashMap;
use std::sync::Arc;

/// The options of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// Most tokens of one session.
    pub context: u32,
    /// Sessions that can exist at a time.
    pub sessions: u32,
    /// Tokens that decode in one step at most, drafts among them, if that is more than one a session.
    pub decode_rows: u32,
    /// Tokens that all sessions together can hold; blocks that forks share count once.
    pub total_tokens: u64,
    /// Tokens in a block: 16, 32, 64 or 128.
    pub block: u32,
    /// The index that two-level attention needs, if it is wanted.
    pub index: Option<IndexOptions>,
    /// Tokens of prompt worked on at a time.
    pub chunk: u32,
    /// Floating-point operations of a prompt that are submitted at a time, by whole layers and at least one: how soon a
    /// prompt ends that is to end, and how long others wait who use the device too. A submission costs some 50 us.
    pub piece: u64,
    /// Rows whose logits can be read at a time.
    pub logit_rows: u32,
    /// Workgroups that the device runs at a time: decode attention is split into as many, or into whole waves of them.
    pub target_workgroups: u32,
    /// What the sizes of buffers depend on, of the device.
    pub device: DeviceFacts,
    /// Where the KV cache lives that does not all stay on the GPU; without it all of it does.
    pub host: Option<HostOptions>,
    /// As [`ModelOptions::quantise`](super::ModelOptions), where the engine loads its model.
    pub quantise: Option<Quantise>,
    /// As [`ModelOptions::rope`](super::ModelOptions), where the engine loads its model.
    pub rope: Option<RopeChange>,
    /// For replays, which the feature `measure` brings: decode steps attend listed blocks, at most so many, instead of what level 1
    /// chooses.
    pub steered: Option<u32>,
}

/// The options of an index.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexOptions {
    /// Channels of a token's codes; none for the default of the head dimension.
    pub channels: Option<u32>,
    /// Bits of each channel's code; none for those of the head dimension's default where channels are as many, and 4 otherwise.
    pub bits: Option<u32>,
    /// Block scorers that steps may use: the summaries of blocks that these read are kept too. Those that read none are
    /// always there.
    pub block_scorers: Vec<BlockScorer>,
    /// The index channels of every session; without them each session chooses its own from its first tokens.
    pub stored: Option<Arc<ChannelSet>>,
    /// How many positions of a session choose its channels.
    pub stats_tokens: u32,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            channels: None,
            bits: None,
            block_scorers: Vec::new(),
            stored: None,
            stats_tokens: Shape::STATS_TOKENS,
        }
    }
}

impl IndexOptions {
    /// The summaries of blocks that are kept.
    pub(crate) fn summaries(&self) -> Vec<&'static Summary> {
        BlockScorer::summaries(&self.block_scorers)
    }
}

impl EngineOptions {
    /// Most tokens that a context can have: positions and what is computed from them are numbers of 32 bits.
    pub const MOST_CONTEXT: u32 = 1 << 30;

    /// One session of `context` tokens on this device.
    pub fn new(gpu: &Gpu, context: u32) -> Self {
        Self {
            context,
            sessions: 1,
            decode_rows: 1,
            total_tokens: u64::from(context),
            block: Shape::BLOCK,
            index: Some(IndexOptions::default()),
            chunk: if gpu.is_cpu() { 256 } else { 1024 },
            // A part of a second everywhere.
            piece: if gpu.is_cpu() { gpu.tier.submission / 8 } else { gpu.tier.submission },
            logit_rows: 1,
            target_workgroups: if gpu.is_cpu() { 16 } else { 512 },
            device: gpu.facts(),
            host: None,
            quantise: None,
            rope: None,
            steered: None,
        }
    }

    /// Physical blocks: the tokens', and one for a copy of each session's open block.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn blocks(&self) -> u32 {
        let blocks = self.total_tokens.div_ceil(u64::from(self.block)) + u64::from(self.sessions);
        blocks.min(u64::from(u32::MAX)) as u32
    }

    /// Rows of a step that decode.
    pub(crate) fn most_decoding(&self) -> u32 {
        self.decode_rows.max(self.sessions)
    }

    /// Rows of a step: a chunk of a prompt, or tokens that decode, or some of both.
    pub(crate) fn most_rows(&self) -> u32 {
        self.chunk.max(self.most_decoding())
    }

    /// Rows of a step whose logits are computed: those of every row that decodes may be wanted.
    pub(super) fn most_logits(&self) -> u32 {
        self.logit_rows.max(self.most_decoding())
    }

    /// Blocks that a chunk of a prompt may touch.
    pub(super) fn chunk_blocks(&self) -> u32 {
        self.chunk.min(self.context).div_ceil(self.block) + 1
    }

    /// Blocks of one layer that are written back at a time.
    pub(super) fn write_back_blocks(&self) -> u32 {
        self.chunk_blocks().max(self.sessions)
    }

    /// The shape that kernels are made for.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn shape(&self, config: &ModelConfig) -> Shape {
        let mut shape = Shape { block: self.block, ..config.shape() };
        if let Some(index) = &self.index {
            let stored = index.stored.as_ref().map(|set| set.channels());
            let channels = stored.or(index.channels).unwrap_or(shape.index.channels);
            let usual = if channels == shape.index.channels { shape.index.bits } else { 4 };
            shape.index = IndexFormat { channels, bits: index.bits.unwrap_or(usual) };
        }
        shape
    }

    /// The most tokens that a token of this layer attends. A sliding window that no context exceeds limits nothing.
    pub(super) fn window(&self, config: &ModelConfig, layer: u32) -> Option<u32> {
        config.layer(layer).window.filter(|&window| window < self.context)
    }

    /// Makes the ring's slots as large as what has to arrive at once: a block of one layer, or a slab of latents, of which
    /// prefill makes keys and values.
    pub(super) fn widen_ring(&mut self, config: &ModelConfig) {
        let shape = self.shape(config);
        let slab_blocks = u64::from(self.chunk.div_ceil(self.block));
        let blocks = if shape.shares_values() { slab_blocks } else { 1 };
        if let Some(host) = &mut self.host {
            let format = shape.head_format(host.kv_type);
            let least = blocks * format.block_bytes();
            let with_header = format.head_bytes() + 16 * (u64::from(config.layers) + 1);
            host.ring_bytes = host.ring_bytes.max(least).max(with_header);
        }
    }

    // Makes them those of an engine on this device, and plans its memory.
    fn plan(&mut self, gpu: &Gpu, config: &ModelConfig) -> Result<MemoryPlan> {
        self.validate(config)?;
        self.device = gpu.facts();
        self.widen_ring(config);
        let plan = MemoryPlan::new(config, self);
        plan.check(self)?;
        Ok(plan)
    }

    // The same, of an engine that runs a loaded model.
    fn plan_of(&mut self, gpu: &Gpu, model: &Model) -> Result<MemoryPlan> {
        if !gpu.is_same_device(model.gpu()) {
            return Err(Error::argument(
                "the device",
                gpu.label(),
                "a model runs on the device that it was loaded to",
            ));
        }
        let ModelOptions { quantise, rope } = model.options();
        (self.quantise, self.rope) = (quantise, rope);
        self.plan(gpu, model.config())
    }

    fn validate_host(host: &HostOptions) -> Result<()> {
        for (what, value, most) in
            [("the hot cache", host.hot_blocks, 65536), ("the ring", host.ring_slots, 64)]
        {
            if !(1..=most).contains(&value) {
                let limit = format!("it must have 1 to {most}");
                return Err(Error::argument(what, format!("{value} slots"), limit));
            }
        }
        Ok(())
    }

    /// Refuses layers whose sliding window would have to be on the GPU where the KV cache is not.
    fn check_windows(&self, config: &ModelConfig) -> Result<()> {
        let Some(sliding) = config.sliding_window().filter(|s| s.tokens < self.context) else {
            return Ok(());
        };
        let tokens = sliding.tokens;
        let limit = "need all of it on the GPU: keep it there, or shorten the context to as many";
        Err(Error::argument(
            subject::KV_CACHE,
            "in CPU memory",
            format!("this model's sliding windows of {tokens} tokens {limit}"),
        ))
    }

    pub(super) fn validate(&self, config: &ModelConfig) -> Result<()> {
        for (what, value) in [
            ("the context", self.context),
            ("the number of sessions", self.sessions),
            ("the chunk", self.chunk),
            ("the number of logit rows", self.logit_rows),
        ] {
            if value == 0 {
                return Err(Error::argument(what, value, "it must be at least 1"));
            }
        }
        if self.chunk > 65535 * 64 {
            return Err(Error::argument(
                "the chunk",
                self.chunk,
                "at most 65535 tiles of 64 tokens can be dispatched",
            ));
        }
        if self.decode_rows > 65535 {
            let limit = "at most 65535 can be dispatched";
            return Err(Error::argument("the rows that decode", self.decode_rows, limit));
        }
        let shape = self.shape(config);
        shape.validate()?;
        let all =
            self.total_tokens.saturating_add(u64::from(self.sessions) * u64::from(self.block));
        for (what, value, most) in [
            ("the context", u64::from(self.context), u64::from(Self::MOST_CONTEXT)),
            ("the room for all sessions", all, u32::MAX.into()),
        ] {
            if value > most {
                let limit = format!("at most {most} can be numbered");
                return Err(Error::argument(what, format!("{value} tokens"), limit));
            }
        }
        let scored = Scored::codes(&shape);
        let blocks = self.context.div_ceil(self.block);
        if self.index.is_some() && scored.workgroups(blocks) > 65535 {
            let most = u64::from(scored.most_blocks(65535)) * u64::from(self.block);
            let limit = format!("a dispatch scores at most {most} of this model and index");
            return Err(Error::argument("the context", format!("{} tokens", self.context), limit));
        }
        if let Some(host) = &self.host {
            Self::validate_host(host)?;
            self.check_windows(config)?;
        }
        match self.index.as_ref().and_then(|index| index.stored.as_ref()) {
            Some(stored) => stored.check_model(&shape, config.layers),
            None => Ok(()),
        }
    }
}

/// A model on a device, with sessions of its own: a cache, and a runner that takes steps over it.
pub struct Engine {
    /// The model's shapes.
    pub config: ModelConfig,
    /// The options that the engine was built with.
    pub options: EngineOptions,
    pub(super) shape: Shape,
    pub(super) cache: Cache,
    pub(super) runner: Arc<Runner>,
    /// The operations of this cache on this runner.
    pub(super) residency: Residency,
    /// The device: the last field, since a device goes after all that was made on it.
    pub gpu: Gpu,
}

impl Engine {
    /// Loads a model. `progress` is called with bytes of the file as they are taken in.
    ///
    /// # Errors
    /// [`Error::Model`] when the model cannot run, [`Error::OutOfMemory`] when it does not fit.
    pub async fn load(
        gpu: Gpu,
        file: &ModelFile,
        options: EngineOptions,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Self> {
        // What cannot run is refused before the weights are read.
        let weights = ModelOptions { quantise: options.quantise, rope: options.rope };
        options.clone().plan(&gpu, &ModelConfig::read_changed(file, weights.rope.as_ref())?)?;
        let model = Model::load(&gpu, file, weights, progress).await?;
        Self::new(gpu, Arc::new(model), options).await
    }

    /// An engine that runs a loaded model, which other engines may run too. `gpu` is a handle on the model's device
    /// ([`Gpu::share`]), on whose account the engine's own buffers are. What the options say of weights is the model's matter.
    ///
    /// # Errors
    /// [`Error::Argument`] for options of which there can be no engine, and for another device; [`Error::OutOfMemory`].
    pub async fn new(gpu: Gpu, model: Arc<Model>, mut options: EngineOptions) -> Result<Self> {
        let MemoryPlan { residency, index, scratch } = options.plan_of(&gpu, &model)?;
        let runner = Arc::new(Runner::new(&gpu, model, &options, scratch).await?);
        Self::join(gpu, runner, options, index, residency).await
    }

    /// Another engine of the same model, with a cache of its own in whatever residency, and without a scratch: its steps and this
    /// one's take turns on one. `gpu` is as for [`Engine::new`].
    ///
    /// # Errors
    /// As [`Engine::new`]; [`Error::Argument`] for options of which a step would need more scratch than there is.
    pub async fn beside(&self, gpu: Gpu, mut options: EngineOptions) -> Result<Self> {
        let MemoryPlan { residency, index, scratch } =
            options.plan_of(&gpu, self.runner.model())?;
        self.runner.check(&scratch)?;
        Self::join(gpu, self.runner.clone(), options, index, residency).await
    }

    // An engine with a new cache on a runner.
    async fn join(
        gpu: Gpu,
        runner: Arc<Runner>,
        options: EngineOptions,
        index: Option<IndexRows>,
        residency: ResidencyRows,
    ) -> Result<Self> {
        let config = runner.model().config().clone();
        let shape = options.shape(&config);
        let cache = Cache::new(&gpu, &config, &options, index.as_ref(), &residency).await?;
        let mut maker = OpMaker {
            gpu: &gpu,
            config: &config,
            options: &options,
            shape,
            scratch: runner.scratch(),
            uniforms: HashMap::new(),
        };
        let residency = Residency::new(&mut maker, &runner, &cache).await?;
        gpu.check()?;
        Ok(Self { config, options, shape, cache, runner, residency, gpu })
    }

    /// The shape that the kernels are made for.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The model's weights, for another engine that runs it.
    pub fn model(&self) -> &Arc<Model> {
        self.runner.model()
    }

    pub(super) fn op_maker(&self) -> OpMaker<'_> {
        OpMaker {
            gpu: &self.gpu,
            config: &self.config,
            options: &self.options,
            shape: self.shape,
            scratch: self.runner.scratch(),
            uniforms: HashMap::new(),
        }
    }
}
