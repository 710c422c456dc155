//! Loading a model into an engine.

use super::host::Host;
use super::layer::Layer;
use super::ops::{
    AttentionWeights, EndOps, FfnWeights, HeadWeights, LatentWeights, LayerWeights, OpMaker,
};
use super::scratch::Scratch;
use crate::attention::{BlockScorer, ChannelSet, IndexFormat, Shape, Summary};
use crate::engine::weights::Loader;
use crate::formats::Quantise;
use crate::gpu::Gpu;
use crate::kernels::HotSlots;
use crate::kv::{CacheLayout, HostOptions, LayerCache, Offload, Pool};
use crate::model::config::AttentionConfig;
use crate::model::rope::{RopeChange, Rotations};
use crate::model::tensors::{AttentionTensors, FfnTensors, LayerTensors, Tensors};
use crate::model::{ModelConfig, ModelFile};
use crate::{Error, Result};
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
    /// Workgroups that fill the device.
    pub target_workgroups: u32,
    /// Where the KV cache lives that does not all stay on the GPU; without it all of it does.
    pub host: Option<HostOptions>,
    /// The type that matrices of floats are quantised to when they are loaded; quantised ones stay as they are.
    pub quantise: Option<Quantise>,
    /// The rotary scaling in the place of the file's.
    pub rope: Option<RopeChange>,
    /// For replays: decode steps attend what [`Engine::steer`] lists, at most so many blocks, instead of what level 1 chooses.
    pub steered: Option<u32>,
}

/// The options of an index.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexOptions {
    /// Channels of a token's codes; none for the default of the head dimension.
    pub channels: Option<u32>,
    /// Bits of each channel's code.
    pub bits: u32,
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
            bits: 4,
            block_scorers: Vec::new(),
            stored: None,
            stats_tokens: Shape::STATS_TOKENS,
        }
    }
}

impl IndexOptions {
    /// The summaries of blocks that are kept.
    pub fn summaries(&self) -> Vec<&'static Summary> {
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
            host: None,
            quantise: None,
            rope: None,
            steered: None,
        }
    }

    /// Physical blocks: the tokens', and one for a copy of each session's open block.
    pub fn blocks(&self) -> u32 {
        let blocks = self.total_tokens.div_ceil(u64::from(self.block)) + u64::from(self.sessions);
        blocks.min(u64::from(u32::MAX)) as u32
    }

    /// Rows of a step that decode.
    pub(super) fn most_decoding(&self) -> u32 {
        self.decode_rows.max(self.sessions)
    }

    /// Rows of a step: a chunk of a prompt, or tokens that decode, or some of both.
    pub(super) fn most_rows(&self) -> u32 {
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

    /// The hot cache, if there is one.
    pub(super) fn hot_slots(&self) -> Option<HotSlots> {
        self.host.as_ref().map(|host| HotSlots {
            pool_blocks: self.blocks(),
            slots: host.window_blocks(self.sessions) + host.hot_blocks,
        })
    }

    /// The shape that kernels are made for.
    pub fn shape(&self, config: &ModelConfig) -> Shape {
        let mut shape = Shape { block: self.block, ..config.shape() };
        if let Some(index) = &self.index {
            let stored = index.stored.as_ref().map(|set| set.channels());
            let channels = stored.or(index.channels).unwrap_or(shape.index.channels);
            shape.index = IndexFormat { channels, bits: index.bits };
        }
        shape
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
        if self.most_decoding() > 65535 {
            let limit = "at most 65535 can be dispatched";
            return Err(Error::argument("the rows that decode", self.most_decoding(), limit));
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
        if let Some(host) = &self.host {
            Self::validate_host(host)?;
        }
        match self.index.as_ref().and_then(|index| index.stored.as_ref()) {
            Some(stored) => stored.check_model(&shape, config.layers),
            None => Ok(()),
        }
    }
}

/// A model on a device.
pub struct Engine {
    /// The model's shapes.
    pub config: ModelConfig,
    /// The options that the engine was built with.
    pub options: EngineOptions,
    pub(super) shape: Shape,
    pub(super) layout: CacheLayout,
    pub(super) index_layout: CacheLayout,
    pub(super) pool: Pool,
    pub(super) scratch: Scratch,
    pub(super) caches: Vec<LayerCache>,
    pub(super) layers: Vec<Layer>,
    pub(super) ends: EndOps,
    // Locked under the turn.
    pub(super) host: Option<futures::lock::Mutex<Host>>,
    pub(super) rotations: Rotations,
    // Two steps at a time would share the scratch.
    pub(super) turn: futures::lock::Mutex<()>,
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
        let config = ModelConfig::read_changed(file, options.rope.as_ref())?;
        options.validate(&config)?;
        let mut options = options;
        options.widen_ring(&config);
        let shape = options.shape(&config);
        let tensors = Tensors::find(&config, file)?;
        let mut loader =
            Loader { gpu: &gpu, file, quantise: options.quantise, progress, unflushed: 0 };
        let embedding = loader.matrix(&tensors.embedding, 1).await?;
        let mut weights = Vec::new();
        for layer in &tensors.layers {
            weights.push(load_layer(&mut loader, layer, &config).await?);
        }
        let output_norm = loader.vector(tensors.output_norm).await?;
        let output = match &tensors.output {
            None => None,
            Some(output) => Some(loader.matrix(output, 1).await?),
        };
        loader.flush(0)?;

        let hot = options.hot_slots();
        let kv_blocks = hot.map_or(options.blocks(), |hot| hot.slots);
        let layout = CacheLayout::new(shape.block_bytes(), kv_blocks, gpu.max_binding());
        let summaries = options.index.as_ref().map(IndexOptions::summaries).unwrap_or_default();
        let of_summaries = summaries.iter().map(|summary| summary.block_bytes(&shape));
        let index_bytes = of_summaries.fold(shape.block_code_bytes(), u64::max);
        let index_layout = CacheLayout::new(index_bytes, options.blocks(), gpu.max_binding());
        let offload = match (hot, options.host) {
            (Some(hot), Some(host)) => {
                let write_back = options.write_back_blocks();
                Some(Offload::new(&gpu, &shape, config.layers, hot, host, write_back).await?)
            }
            _ => None,
        };
        let scratch = Scratch::new(&gpu, &config, &options, &layout, offload.as_ref()).await?;
        let mut maker = OpMaker {
            gpu: &gpu,
            config: &config,
            options: &options,
            shape,
            layout,
            index_layout,
            hot,
            scratch: &scratch,
            uniforms: HashMap::new(),
        };
        let ends =
            maker.ends(&embedding, &output_norm, output.as_ref().unwrap_or(&embedding)).await?;
        let index = options.index.as_ref().map(|_| (&index_layout, &summaries[..]));
        let host_ops = match hot {
            None => None,
            Some(_) => Some(maker.host_ops().await?),
        };
        let mut caches = Vec::new();
        let mut layers = Vec::new();
        for (number, layer) in weights.iter().enumerate() {
            let mut cache = LayerCache::new(&gpu, &shape, &layout, index).await?;
            if let (Some(hot), Some(offload)) = (hot, &offload) {
                let words = offload.slot_words(number);
                debug_assert_eq!(words.len() as u64, hot.words(shape.kv_heads));
                let bytes = bytemuck::cast_slice(&words);
                cache.slots = Some(gpu.storage_with("slots of the hot cache", bytes).await?);
            }
            layers.push(maker.layer(number, layer, &cache, host_ops.as_ref()).await?);
            caches.push(cache);
        }
        let host = match offload.zip(host_ops) {
            None => None,
            Some((offload, ops)) => {
                let host = Host::new(&gpu, &config, &scratch, offload, ops).await?;
                Some(futures::lock::Mutex::new(host))
            }
        };
        gpu.check()?;
        Ok(Self {
            pool: Pool::new(options.blocks(), options.block, options.sessions),
            gpu,
            rotations: config.rope.rotations(),
            config,
            options,
            shape,
            layout,
            index_layout,
            scratch,
            caches,
            layers,
            ends,
            host,
            turn: futures::lock::Mutex::new(()),
        })
    }

    /// The shape that the kernels are made for.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(super) fn op_maker(&self) -> OpMaker<'_> {
        OpMaker {
            gpu: &self.gpu,
            config: &self.config,
            options: &self.options,
            shape: self.shape,
            layout: self.layout,
            index_layout: self.index_layout,
            hot: self.options.hot_slots(),
            scratch: &self.scratch,
            uniforms: HashMap::new(),
        }
    }
}

async fn load_layer(
    loader: &mut Loader<'_>,
    layer: &LayerTensors<'_>,
    config: &ModelConfig,
) -> Result<LayerWeights> {
    Ok(LayerWeights {
        attn_norm: loader.vector(layer.attn_norm).await?,
        attention: match &layer.attention {
            AttentionTensors::Grouped { qkv, norms, biases } => AttentionWeights::Grouped {
                qkv: loader.matrix(qkv, 1).await?,
                heads: HeadWeights {
                    norms: match norms {
                        None => None,
                        Some([q, k]) => Some([loader.vector(q).await?, loader.vector(k).await?]),
                    },
                    biases: match biases {
                        None => None,
                        Some(biases) => Some(loader.vectors(biases).await?),
                    },
                },
            },
            AttentionTensors::Latent(latent) => {
                let AttentionConfig::Latent(shape) = &config.attention else {
                    unreachable!("latent tensors are found for latent attention");
                };
                AttentionWeights::Latent(LatentWeights {
                    down: loader.matrix(&latent.down, 1).await?,
                    q_norm: loader.vector(latent.q_norm).await?,
                    q_up: loader.matrix(&latent.q_up, 1).await?,
                    kv_norm: loader.vector(latent.kv_norm).await?,
                    key_up: loader.matrix(&latent.key_up, 1).await?,
                    key_absorb: loader.matrix(&latent.key_absorb, shape.kv_rank).await?,
                    value_up: loader.matrix(&latent.value_up, shape.value).await?,
                })
            }
        },
        output: loader.matrix(&layer.output, 1).await?,
        ffn_norm: loader.vector(layer.ffn_norm).await?,
        ffn: match &layer.ffn {
            FfnTensors::Dense { gate_up, down } => FfnWeights::Dense {
                gate_up: loader.gate_up(gate_up, 1).await?,
                down: loader.matrix(down, 1).await?,
            },
            FfnTensors::Experts { router, bias, gate_up, down } => FfnWeights::Experts {
                router: loader.exact(router).await?,
                bias: match bias {
                    None => None,
                    Some(bias) => Some(loader.vector(bias).await?),
                },
                // Parts hold whole experts.
                gate_up: loader
                    .gate_up(gate_up, config.experts.as_ref().map_or(1, |e| e.ffn))
                    .await?,
                down: loader.matrix(down, config.hidden).await?,
            },
        },
    })
}
