//! Which tensors of a file make which matrices of a model, under the names of either format.

use super::config::{AttentionConfig, FfnConfig, Grouped, ModelConfig};
use super::file::{ModelFile, Source};
use super::gguf::TensorInfo;
use crate::attention::{Activation, Experts, Gate, Latent};
use crate::formats::WeightFormat;
use crate::{Error, Result};

/// Consecutive rows of a tensor; dimensions beyond the second continue the rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) info: &'a TensorInfo,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

/// How a matrix is put together.
#[derive(Clone, Debug)]
pub(crate) enum Recipe<'a> {
    /// Rows one after the other.
    Stacked(Vec<Rows<'a>>),
    /// Rows of the two alternate: gate and up projections.
    Interleaved(Vec<GateUp<'a>>),
    /// Each one's columns are rows: what a head's keys are absorbed by.
    Transposed(Vec<Rows<'a>>),
}

/// A matrix: what it is made of, and how it is to be stored.
#[derive(Clone, Debug)]
pub(crate) struct MatrixTensors<'a> {
    pub(crate) recipe: Recipe<'a>,
    /// Rows that stay together where it is too large for one buffer: of a head, of an expert.
    pub(crate) granule: u32,
    /// Whether it is never quantised: few weights that decide much.
    pub(crate) is_exact: bool,
}

impl<'a> From<Recipe<'a>> for MatrixTensors<'a> {
    fn from(recipe: Recipe<'a>) -> Self {
        Self { recipe, granule: 1, is_exact: false }
    }
}

impl MatrixTensors<'_> {
    fn in_runs_of(self, granule: u32) -> Self {
        Self { granule, ..self }
    }

    fn exact(self) -> Self {
        Self { is_exact: true, ..self }
    }
}

/// The tensors of a model.
pub(crate) struct Tensors<'a> {
    pub(crate) embedding: MatrixTensors<'a>,
    pub(crate) layers: Vec<LayerTensors<'a>>,
    pub(crate) output_norm: &'a TensorInfo,
    /// None where the embedding serves.
    pub(crate) output: Option<MatrixTensors<'a>>,
}

/// The tensors of one layer.
pub(crate) struct LayerTensors<'a> {
    pub(crate) attn_norm: &'a TensorInfo,
    pub(crate) attention: AttentionTensors<'a>,
    pub(crate) output: MatrixTensors<'a>,
    pub(crate) ffn_norm: &'a TensorInfo,
    /// Norms of what attention and the feed-forward network make, before it is added to the stream.
    pub(crate) post_norms: Option<[&'a TensorInfo; 2]>,
    pub(crate) ffn: FfnTensors<'a>,
}

pub(crate) enum AttentionTensors<'a> {
    Grouped {
        qkv: MatrixTensors<'a>,
        /// Of a head's query and key.
        norms: Option<[&'a TensorInfo; 2]>,
        /// Of queries, keys and values.
        biases: Option<[&'a TensorInfo; 3]>,
    },
    Latent(LatentTensors<'a>),
}

pub(crate) struct LatentTensors<'a> {
    /// Hidden to the latents of queries and of keys and values, and the rotated part of keys.
    pub(crate) down: MatrixTensors<'a>,
    pub(crate) q_norm: &'a TensorInfo,
    pub(crate) q_up: MatrixTensors<'a>,
    pub(crate) kv_norm: &'a TensorInfo,
    /// Latent to each head's keys.
    pub(crate) key_up: MatrixTensors<'a>,
    /// Its transpose: each head's query to a query of latents.
    pub(crate) key_absorb: MatrixTensors<'a>,
    /// Latent to each head's values.
    pub(crate) value_up: MatrixTensors<'a>,
}

/// Rows of a gate and of the up projection beside it.
pub(crate) type GateUp<'a> = (Rows<'a>, Rows<'a>);

/// Gates and up projections, of matrices of as many rows each.
pub(crate) struct GatesUps<'a> {
    pub(crate) pairs: Vec<GateUp<'a>>,
    /// Rows of gates that stay together.
    pub(crate) granule: u32,
    /// What gates go through.
    pub(crate) activation: Activation,
}

pub(crate) enum FfnTensors<'a> {
    Dense {
        gate_up: GatesUps<'a>,
        down: MatrixTensors<'a>,
    },
    /// Experts one after the other, the shared ones last.
    Experts {
        router: MatrixTensors<'a>,
        bias: Option<&'a TensorInfo>,
        gate_up: GatesUps<'a>,
        down: MatrixTensors<'a>,
    },
}

/// The parts of an expert or a dense feed-forward network: gate, up, down. Names in GGUF files and in folders.
const PARTS: [[&str; 2]; 3] = [["gate", "gate_proj"], ["up", "up_proj"], ["down", "down_proj"]];

impl<'a> Tensors<'a> {
    /// Finds every tensor that the shapes call for.
    ///
    /// # Errors
    /// [`Error::Model`] for one that is missing, has another shape, or is of a type that cannot be read.
    pub(crate) fn find(config: &ModelConfig, file: &'a ModelFile) -> Result<Self> {
        let finder = Finder { file };
        let [hidden, vocabulary] = [config.hidden, config.vocabulary].map(u64::from);
        let layers =
            (0..config.layers).map(|i| finder.layer(config, i)).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            embedding: finder.matrix(
                ["token_embd.weight", "model.embed_tokens.weight"],
                &[hidden, vocabulary],
            )?,
            layers,
            output_norm: finder.get(["output_norm.weight", "model.norm.weight"], &[hidden])?,
            output: if config.tied {
                None
            } else {
                Some(finder.matrix(["output.weight", "lm_head.weight"], &[hidden, vocabulary])?)
            },
        })
    }
}

struct Finder<'a> {
    file: &'a ModelFile,
}

impl<'a> Finder<'a> {
    fn name(&self, [gguf, folder]: [&str; 2]) -> String {
        match self.file.source {
            Source::Gguf(_) => gguf.to_owned(),
            Source::Folder(_) => folder.to_owned(),
        }
    }

    /// The tensor of this name in this file's format, which must have this shape, innermost dimension first.
    fn get(&self, names: [&str; 2], shape: &[u64]) -> Result<&'a TensorInfo> {
        let name = self.name(names);
        let info = self
            .file
            .tensor(&name)
            .ok_or_else(|| Error::Model(format!("the model has no tensor {name}")))?;
        if info.shape != shape {
            return Err(Error::Model(format!(
                "tensor {name} has shape {:?}, but {shape:?} is needed",
                info.shape
            )));
        }
        WeightFormat::of(info.kind).map_err(|e| Error::Model(format!("tensor {name}: {e}")))?;
        Ok(info)
    }

    fn matrix(&self, names: [&str; 2], shape: &[u64]) -> Result<MatrixTensors<'a>> {
        Ok(Recipe::Stacked(vec![whole(self.get(names, shape)?)]).into())
    }

    fn layer(&self, config: &ModelConfig, i: u32) -> Result<LayerTensors<'a>> {
        let (layer, described) = (Layer { finder: self, i }, config.layer(i));
        let hidden = u64::from(config.hidden);
        let attended = u64::from(config.attended());
        Ok(LayerTensors {
            attn_norm: layer.get(["attn_norm", "input_layernorm"], &[hidden])?,
            attention: match described.attention {
                AttentionConfig::Grouped(heads) => layer.grouped(&heads, hidden)?,
                AttentionConfig::Latent(heads) => {
                    AttentionTensors::Latent(layer.latent(&heads, hidden)?)
                }
            },
            output: layer.matrix(["attn_output", "self_attn.o_proj"], &[attended, hidden])?,
            ffn_norm: match described.post_norms {
                false => layer.get(["ffn_norm", "post_attention_layernorm"], &[hidden])?,
                true => layer.get(["ffn_norm", "pre_feedforward_layernorm"], &[hidden])?,
            },
            post_norms: match described.post_norms {
                false => None,
                true => Some([
                    layer.get(["post_attention_norm", "post_attention_layernorm"], &[hidden])?,
                    layer.get(["post_ffw_norm", "post_feedforward_layernorm"], &[hidden])?,
                ]),
            },
            ffn: match described.ffn {
                FfnConfig::Experts(experts) => {
                    layer.experts(experts, hidden, described.activation)?
                }
                FfnConfig::Dense(width) => {
                    layer.dense(hidden, u64::from(width), described.activation)?
                }
            },
        })
    }
}

/// A layer's tensors: names without the layer and without `.weight`.
struct Layer<'a, 'f> {
    finder: &'f Finder<'a>,
    i: u32,
}

impl<'a> Layer<'a, '_> {
    fn get(&self, [gguf, folder]: [&str; 2], shape: &[u64]) -> Result<&'a TensorInfo> {
        let i = self.i;
        let names = [format!("blk.{i}.{gguf}.weight"), format!("model.layers.{i}.{folder}.weight")];
        self.finder.get([&names[0], &names[1]], shape)
    }

    fn bias(&self, [gguf, folder]: [&str; 2], length: u64) -> Result<&'a TensorInfo> {
        let i = self.i;
        let names = [format!("blk.{i}.{gguf}.bias"), format!("model.layers.{i}.{folder}.bias")];
        self.finder.get([&names[0], &names[1]], &[length])
    }

    fn has(&self, gguf: &str) -> bool {
        self.finder.file.tensor(&format!("blk.{}.{gguf}.weight", self.i)).is_some()
    }

    fn is_folder(&self) -> bool {
        matches!(self.finder.file.source, Source::Folder(_))
    }

    fn matrix(&self, names: [&str; 2], shape: &[u64]) -> Result<MatrixTensors<'a>> {
        Ok(Recipe::Stacked(vec![whole(self.get(names, shape)?)]).into())
    }

    fn grouped(&self, heads: &Grouped, hidden: u64) -> Result<AttentionTensors<'a>> {
        let d = u64::from(heads.head_dim);
        let (q, kv) = (u64::from(heads.q_heads) * d, u64::from(heads.kv_heads) * d);
        Ok(AttentionTensors::Grouped {
            qkv: Recipe::Stacked(vec![
                whole(self.get(["attn_q", "self_attn.q_proj"], &[hidden, q])?),
                whole(self.get(["attn_k", "self_attn.k_proj"], &[hidden, kv])?),
                whole(self.get(["attn_v", "self_attn.v_proj"], &[hidden, kv])?),
            ])
            .into(),
            norms: if heads.head_norms {
                Some([
                    self.get(["attn_q_norm", "self_attn.q_norm"], &[d])?,
                    self.get(["attn_k_norm", "self_attn.k_norm"], &[d])?,
                ])
            } else {
                None
            },
            biases: if heads.biases {
                Some([
                    self.bias(["attn_q", "self_attn.q_proj"], q)?,
                    self.bias(["attn_k", "self_attn.k_proj"], kv)?,
                    self.bias(["attn_v", "self_attn.v_proj"], kv)?,
                ])
            } else {
                None
            },
        })
    }

    fn latent(&self, latent: &Latent, hidden: u64) -> Result<LatentTensors<'a>> {
        let [heads, q_rank, kv_rank, nope, rope, value] =
            [latent.heads, latent.q_rank, latent.kv_rank, latent.nope, latent.rope, latent.value]
                .map(u64::from);
        let q_a = self.get(["attn_q_a", "self_attn.q_a_proj"], &[hidden, q_rank])?;
        let kv_a =
            self.get(["attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"], &[hidden, kv_rank + rope])?;
        let (key_up, key_absorb, value_up) = if !self.is_folder() && self.has("attn_k_b") {
            // Already absorbed: a head's rows are latents, as long as its queries.
            let k = self.get(["attn_k_b", ""], &[nope, kv_rank, heads])?;
            let v = self.get(["attn_v_b", ""], &[kv_rank, value, heads])?;
            let by_head = (0..heads)
                .map(|head| Rows { info: k, first: head * kv_rank, count: kv_rank })
                .collect();
            (
                Recipe::Transposed(by_head),
                Recipe::Stacked(vec![whole(k)]),
                Recipe::Stacked(vec![whole(v)]),
            )
        } else {
            // A head's keys, then its values.
            let kv =
                self.get(["attn_kv_b", "self_attn.kv_b_proj"], &[kv_rank, heads * (nope + value)])?;
            let rows = |first: u64, count: u64| -> Vec<Rows<'a>> {
                (0..heads)
                    .map(|head| Rows { info: kv, first: head * (nope + value) + first, count })
                    .collect()
            };
            (
                Recipe::Stacked(rows(0, nope)),
                Recipe::Transposed(rows(0, nope)),
                Recipe::Stacked(rows(nope, value)),
            )
        };
        Ok(LatentTensors {
            down: Recipe::Stacked(vec![whole(q_a), whole(kv_a)]).into(),
            q_norm: self.get(["attn_q_a_norm", "self_attn.q_a_layernorm"], &[q_rank])?,
            q_up: self
                .matrix(["attn_q_b", "self_attn.q_b_proj"], &[q_rank, heads * (nope + rope)])?,
            kv_norm: self.get(["attn_kv_a_norm", "self_attn.kv_a_layernorm"], &[kv_rank])?,
            key_up: key_up.into(),
            key_absorb: MatrixTensors::from(key_absorb).in_runs_of(latent.kv_rank),
            value_up: MatrixTensors::from(value_up).in_runs_of(latent.value),
        })
    }

    fn dense(&self, hidden: u64, ffn: u64, activation: Activation) -> Result<FfnTensors<'a>> {
        let [gate, up, down] = PARTS.map(|[gguf, folder]| {
            let shape = if gguf == "down" { [ffn, hidden] } else { [hidden, ffn] };
            self.get([&format!("ffn_{gguf}"), &format!("mlp.{folder}")], &shape).map(whole)
        });
        let gate_up = GatesUps { pairs: vec![(gate?, up?)], granule: 1, activation };
        Ok(FfnTensors::Dense { gate_up, down: Recipe::Stacked(vec![down?]).into() })
    }

    fn experts(
        &self,
        experts: &Experts,
        hidden: u64,
        activation: Activation,
    ) -> Result<FfnTensors<'a>> {
        let count = u64::from(experts.count);
        let [gate, up, down] = PARTS.map(|part| self.expert_rows(part, experts, hidden));
        let bias = match experts.gate {
            Gate::Softmax => None,
            Gate::Sigmoid => {
                let i = self.i;
                let names = [
                    format!("blk.{i}.exp_probs_b.bias"),
                    format!("model.layers.{i}.mlp.gate.e_score_correction_bias"),
                ];
                Some(self.finder.get([&names[0], &names[1]], &[count])?)
            }
        };
        Ok(FfnTensors::Experts {
            router: self.matrix(["ffn_gate_inp", "mlp.gate"], &[hidden, count])?.exact(),
            bias,
            // Parts hold whole experts.
            gate_up: GatesUps {
                pairs: gate?.into_iter().zip(up?).collect(),
                granule: experts.ffn,
                activation,
            },
            down: MatrixTensors::from(Recipe::Stacked(down?)).in_runs_of(hidden as u32),
        })
    }

    fn stacked_name(&self, part: &str) -> String {
        format!("model.layers.{}.mlp.experts.{part}", self.i)
    }

    fn has_stacked_experts(&self) -> bool {
        self.finder.file.tensor(&self.stacked_name("gate_up_proj")).is_some()
    }

    // One part of every expert in a folder as transformers 5 holds them: an expert's gate, then its up projection.
    fn stacked_experts(&self, part: &str, [ffn, hidden, count]: [u64; 3]) -> Result<Vec<Rows<'a>>> {
        let get = |part, shape: &[u64]| self.finder.get(["", &self.stacked_name(part)], shape);
        if part == "down_proj" {
            return Ok(vec![whole(get(part, &[ffn, hidden, count])?)]);
        }
        let info = get("gate_up_proj", &[hidden, 2 * ffn, count])?;
        let first = if part == "gate_proj" { 0 } else { ffn };
        let rows = |e| Rows { info, first: 2 * ffn * e + first, count: ffn };
        Ok((0..count).map(rows).collect())
    }

    // One part of every expert, the shared one last.
    fn expert_rows(
        &self,
        [gguf, folder]: [&str; 2],
        experts: &Experts,
        hidden: u64,
    ) -> Result<Vec<Rows<'a>>> {
        let [ffn, count] = [experts.ffn, experts.count].map(u64::from);
        let shape = |width: u64| if gguf == "down" { [width, hidden] } else { [hidden, width] };
        let mut rows = Vec::new();
        if self.is_folder() && self.has_stacked_experts() {
            rows.extend(self.stacked_experts(folder, [ffn, hidden, count])?);
        } else if self.is_folder() {
            for e in 0..count {
                let name = format!("mlp.experts.{e}.{folder}");
                rows.push(whole(self.get(["", &name], &shape(ffn))?));
            }
        } else {
            let [inner, outer] = shape(ffn);
            let name = format!("ffn_{gguf}_exps");
            rows.push(whole(self.get([&name, ""], &[inner, outer, count])?));
        }
        if experts.shared > 0 {
            let names = [format!("ffn_{gguf}_shexp"), format!("mlp.shared_experts.{folder}")];
            rows.push(whole(self.get([&names[0], &names[1]], &shape(ffn))?));
        }
        Ok(rows)
    }
}

/// All rows of a tensor.
fn whole(info: &TensorInfo) -> Rows<'_> {
    Rows { info, first: 0, count: info.shape.get(1..).unwrap_or(&[]).iter().product() }
}
