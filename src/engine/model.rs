//! A model's weights on a device: loaded once, shared by the engines that run it there.

use super::ops::{AttentionWeights, FfnWeights, HeadWeights, LatentWeights, LayerWeights};
use super::weights::{Loader, Matrix};
use crate::Result;
use crate::formats::Quantise;
use crate::gpu::Gpu;
use crate::model::config::AttentionConfig;
use crate::model::rope::{RopeChange, Rotations};
use crate::model::tensors::{AttentionTensors, FfnTensors, LayerTensors, Tensors};
use crate::model::{ModelConfig, ModelFile};

/// What is made of a file's weights and metadata as they are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModelOptions {
    /// The type that matrices of floats are quantised to; quantised ones stay as they are.
    pub quantise: Option<Quantise>,
    /// The rotary scaling in the place of the file's.
    pub rope: Option<RopeChange>,
}

/// A model's weights on a device. Nothing of it changes: any number of [`Engine`](super::Engine)s run it, each with a context and
/// a residency of its own.
pub struct Model {
    config: ModelConfig,
    options: ModelOptions,
    rotations: Rotations,
    embedding: Matrix,
    layers: Vec<LayerWeights>,
    output_norm: wgpu::Buffer,
    // That of a model whose embedding is not its output too.
    own_output: Option<Matrix>,
    // The device: last, since a device goes after all that was made on it.
    gpu: Gpu,
}

impl Model {
    /// Loads a model to the device of `gpu`, on whose account its buffers are. `progress` is called with bytes of the file as
    /// they are taken in.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) when the model cannot run, [`Error::OutOfMemory`](crate::Error::OutOfMemory)
    /// when it does not fit.
    pub async fn load(
        gpu: &Gpu,
        file: &ModelFile,
        options: ModelOptions,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Self> {
        let config = ModelConfig::read_changed(file, options.rope.as_ref())?;
        let tensors = Tensors::find(&config, file)?;
        let quantise = options.quantise;
        let norm_offset = config.norm_offset;
        let mut loader = Loader { gpu, file, quantise, norm_offset, progress, unflushed: 0 };
        let embedding = loader.matrix(&tensors.embedding).await?;
        let mut layers = Vec::new();
        for layer in &tensors.layers {
            layers.push(load_layer(&mut loader, layer, &config).await?);
        }
        let output_norm = loader.norm(tensors.output_norm).await?;
        let own_output = match &tensors.output {
            None => None,
            Some(output) => Some(loader.matrix(output).await?),
        };
        loader.flush(0).await?;
        let rotations = config.rope.rotations();
        let gpu = gpu.share();
        Ok(Self { config, options, rotations, embedding, layers, output_norm, own_output, gpu })
    }

    /// Its shapes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What was made of the file's weights and metadata.
    pub(super) fn options(&self) -> ModelOptions {
        self.options
    }

    /// A handle on its device.
    pub(super) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Appends the rotary angles of a position.
    pub(super) fn rotate(&self, position: u32, out: &mut Vec<[f32; 2]>) {
        self.rotations.append(position, out);
    }

    pub(super) fn embedding(&self) -> &Matrix {
        &self.embedding
    }

    pub(super) fn layers(&self) -> &[LayerWeights] {
        &self.layers
    }

    pub(super) fn output_norm(&self) -> &wgpu::Buffer {
        &self.output_norm
    }

    pub(super) fn output(&self) -> &Matrix {
        self.own_output.as_ref().unwrap_or(&self.embedding)
    }
}

async fn load_layer(
    loader: &mut Loader<'_>,
    layer: &LayerTensors<'_>,
    config: &ModelConfig,
) -> Result<LayerWeights> {
    Ok(LayerWeights {
        attn_norm: loader.norm(layer.attn_norm).await?,
        attention: match &layer.attention {
            AttentionTensors::Grouped { qkv, norms, biases } => AttentionWeights::Grouped {
                qkv: loader.matrix(qkv).await?,
                heads: HeadWeights {
                    norms: match norms {
                        None => None,
                        Some([q, k]) => Some([loader.norm(q).await?, loader.norm(k).await?]),
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
                    shape: *shape,
                    down: loader.matrix(&latent.down).await?,
                    q_norm: loader.norm(latent.q_norm).await?,
                    q_up: loader.matrix(&latent.q_up).await?,
                    kv_norm: loader.norm(latent.kv_norm).await?,
                    key_up: loader.matrix(&latent.key_up).await?,
                    key_absorb: loader.matrix(&latent.key_absorb).await?,
                    value_up: loader.matrix(&latent.value_up).await?,
                })
            }
        },
        output: loader.matrix(&layer.output).await?,
        ffn_norm: loader.norm(layer.ffn_norm).await?,
        post_norms: match layer.post_norms {
            None => None,
            Some([attention, ffn]) => {
                Some([loader.norm(attention).await?, loader.norm(ffn).await?])
            }
        },
        ffn: match &layer.ffn {
            FfnTensors::Dense { gate_up, down } => FfnWeights::Dense {
                gate_up: loader.gate_up(gate_up).await?,
                down: loader.matrix(down).await?,
            },
            FfnTensors::Experts { router, bias, gate_up, down } => FfnWeights::Experts {
                router: loader.matrix(router).await?,
                bias: match bias {
                    None => None,
                    Some(bias) => Some(loader.vectors(&[bias]).await?),
                },
                gate_up: loader.gate_up(gate_up).await?,
                down: loader.matrix(down).await?,
            },
        },
    })
}
