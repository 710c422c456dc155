//! Latent attention's weights with the latents on other axes: those along which latents vary most come first.
//!
//! What is cached is one latent a token (arXiv 2405.04434), and the index keeps some of its numbers (`docs/selection.md`). As files have them
//! no number says more than another, and a quarter of them loses what a model looks for. But nothing outside of attention sees
//! a latent, so its axes are free: with R orthonormal, `norm(R a) = R norm(a)`. So the rows that make latents are turned by
//! R, the norm's weights w, which would stand in between, go into what reads latents, and that is turned back:
//! `K diag(w) norm(a) = (K diag(w) R') (R norm(a))`, R' the transpose. Logits and values stay what they were, and a few channels hold most of
//! what tells keys apart.
//!
//! R follows from weights alone: the axes on which `A A'` is large, where A makes latents of normed hidden states, each axis weighed by
//! what w makes of it. It is the same on every machine, as session files and shared blocks of the KV cache want it.

mod axes;
#[cfg(test)]
mod tests;

use super::file::Source;
use super::gguf::TensorInfo;
use crate::formats::{TensorType, check_finite, dequantise};
use half::f16;
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::OnceLock;

/// A layer's tensors in one of both formats: names behind the layer's, but for `.weight`.
struct Names {
    layer: &'static str,
    /// Of the norm before attention.
    hidden_norm: &'static str,
    /// What makes latents, and behind them the rotary keys that all heads share.
    down: &'static str,
    /// What is multiplied with it in one product, for which both need one type.
    beside: &'static str,
    /// The norm of latents.
    norm: &'static str,
    /// What reads latents, a row each: keys and values of all heads, or values alone.
    readers: &'static [&'static str],
    /// What reads latents in columns: of each head the keys.
    column_readers: &'static [&'static str],
}

const GGUF: Names = Names {
    layer: "blk",
    hidden_norm: "attn_norm",
    down: "attn_kv_a_mqa",
    beside: "attn_q_a",
    norm: "attn_kv_a_norm",
    readers: &["attn_kv_b", "attn_v_b"],
    column_readers: &["attn_k_b"],
};

const FOLDER: Names = Names {
    layer: "model.layers",
    hidden_norm: "input_layernorm",
    down: "self_attn.kv_a_proj_with_mqa",
    beside: "self_attn.q_a_proj",
    norm: "self_attn.kv_a_layernorm",
    readers: &["self_attn.kv_b_proj"],
    column_readers: &[],
};

/// A tensor as it is loaded, in the place of the file's.
#[derive(Debug)]
struct Turned {
    /// With the name and shape of the file's.
    info: TensorInfo,
    of: TensorInfo,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Down,
    Beside,
    Norm,
    Reader,
    ColumnReader,
}

/// One layer's tensors.
#[derive(Debug)]
struct LayerLatents {
    hidden_norm: TensorInfo,
    turned: Vec<Turned>,
}

/// The layers of a model with latent attention; of others there are none.
#[derive(Debug)]
pub(super) struct Latents {
    layers: Vec<LayerLatents>,
    /// Layer and tensor by name.
    places: HashMap<String, (usize, usize)>,
    /// By layer and tensor, as long as the file is open: 0.7 GB of GLM-4.7-Flash.
    bytes: OnceLock<Vec<Vec<Vec<u8>>>>,
}

/// The offset of what is not in the file.
const NOWHERE: u64 = u64::MAX;

impl Latents {
    /// Finds layers whose tensors agree on the length of a latent; nothing is computed. What is wrong with others, who reads the file says.
    pub(super) fn of(source: &Source) -> Self {
        let names = match source {
            Source::Gguf(_) => &GGUF,
            Source::Folder(_) => &FOLDER,
        };
        let mut all = Self { layers: Vec::new(), places: HashMap::new(), bytes: OnceLock::new() };
        for i in 0.. {
            let find = |name: &str| source.tensor(&format!("{}.{i}.{name}.weight", names.layer));
            let Some(hidden_norm) = find(names.hidden_norm) else { break };
            let Some(layer) = LayerLatents::of(hidden_norm, names, find) else { continue };
            for (at, turned) in layer.turned.iter().enumerate() {
                all.places.insert(turned.info.name.clone(), (all.layers.len(), at));
            }
            all.layers.push(layer);
        }
        all
    }

    /// The tensor of this name, where it is another one than the file's.
    pub(super) fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.places.get(name).map(|&(layer, at)| &self.layers[layer].turned[at].info)
    }

    /// A tensor's bytes, where it is one of [`Latents::tensor`]. The first call computes those of all layers, on all cores.
    pub(super) fn bytes(&self, source: &Source, tensor: &TensorInfo) -> Option<&[u8]> {
        // Asked for row by row: other tensors are not looked up.
        let is_turned = tensor.offset == NOWHERE;
        let &(layer, at) = is_turned.then(|| self.places.get(&tensor.name))??;
        let compute = || self.layers.par_iter().map(|layer| layer.compute(source)).collect();
        Some(&self.bytes.get_or_init(compute)[layer][at])
    }
}

impl LayerLatents {
    fn of<'a>(
        hidden_norm: &TensorInfo,
        names: &Names,
        find: impl Fn(&str) -> Option<&'a TensorInfo>,
    ) -> Option<Self> {
        let (down, norm) = (find(names.down)?, find(names.norm)?);
        let (&[hidden, made], &[latent]) = (&*down.shape, &*norm.shape) else { return None };
        let all = |names: &[&str]| names.iter().filter_map(|&name| find(name)).collect::<Vec<_>>();
        let (readers, columns) = (all(names.readers), all(names.column_readers));
        let agree = hidden_norm.shape == [hidden]
            && latent > 0
            && made >= latent
            && readers.iter().all(|info| info.shape.first() == Some(&latent))
            && columns.iter().all(|info| info.shape.get(1) == Some(&latent));
        let mut turned = vec![Turned::new(down, Role::Down), Turned::new(norm, Role::Norm)];
        turned.extend(find(names.beside).map(|info| Turned::new(info, Role::Beside)));
        turned.extend(readers.into_iter().map(|info| Turned::new(info, Role::Reader)));
        turned.extend(columns.into_iter().map(|info| Turned::new(info, Role::ColumnReader)));
        // Layers that a model does not run are looked at nowhere else.
        let readable = |info: &TensorInfo| {
            !matches!(info.kind, TensorType::Other(_)) && !info.shape.contains(&0)
        };
        let agree = agree && readable(hidden_norm) && turned.iter().all(|one| readable(&one.of));
        agree.then(|| Self { hidden_norm: hidden_norm.clone(), turned })
    }

    // The bytes of each turned tensor.
    fn compute(&self, source: &Source) -> Vec<Vec<u8>> {
        let floats = |info: &TensorInfo| {
            dequantise(info.kind, source.bytes(info)).expect("the type was looked at")
        };
        let of = |role| floats(&self.turned.iter().find(|one| one.role == role).expect("both").of);
        // The loader refuses a tensor with what is no number: the one that has it, not those that it would spread to.
        let all = self.turned.iter().map(|one| &one.of).chain([&self.hidden_norm]);
        if all.into_iter().any(|info| check_finite(info.kind, source.bytes(info)).is_err()) {
            return self.turned.iter().map(|one| one.encode(&floats(&one.of))).collect();
        }
        let (hidden_norm, down, norm) = (floats(&self.hidden_norm), of(Role::Down), of(Role::Norm));
        let (hidden, latent) = (hidden_norm.len(), norm.len());
        let axes = axes_of(&down[..latent * hidden], &hidden_norm, &norm);
        let made = self.turned.iter().map(|one| {
            let floats = match one.role {
                Role::Norm => vec![1.0; latent],
                Role::Beside => floats(&one.of),
                Role::Down => {
                    let (latents, shared_keys) = down.split_at(latent * hidden);
                    [&axes::product(&axes, latents, latent), shared_keys].concat()
                }
                Role::Reader => {
                    let mut rows = floats(&one.of);
                    rows.chunks_exact_mut(latent).for_each(|row| scale(row, &norm));
                    axes::product_transposed(&rows, &axes, latent)
                }
                Role::ColumnReader => {
                    let mut scaled = axes.clone();
                    scaled.chunks_exact_mut(latent).for_each(|axis| scale(axis, &norm));
                    let keys = floats(&one.of);
                    let heads = keys.chunks_exact(latent * one.of.shape[0] as usize);
                    heads.flat_map(|head| axes::product(&scaled, head, latent)).collect()
                }
            };
            one.encode(&floats)
        });
        made.collect()
    }
}

fn scale(values: &mut [f32], by: &[f32]) {
    values.iter_mut().zip(by).for_each(|(value, by)| *value *= by);
}

// The axes of latents that `down` \[latent\]\[hidden\] makes of states with the weights `hidden_norm`, a row each. Latents vary as
// C = A A' says, and what reads them weighs its numbers by `norm`, W = diag(w w). An axis counts for what it has of both: C W + W C.
fn axes_of(down: &[f32], hidden_norm: &[f32], norm: &[f32]) -> Vec<f32> {
    let latent = norm.len();
    let mut rows = down.to_vec();
    rows.chunks_exact_mut(hidden_norm.len()).for_each(|row| scale(row, hidden_norm));
    let mut varying = axes::dots(&rows, &rows, hidden_norm.len());
    for (at, value) in varying.iter_mut().enumerate() {
        let [one, other] = [norm[at / latent], norm[at % latent]];
        *value *= one * one + other * other;
    }
    axes::principal(&varying, latent)
}

impl Turned {
    // Norms stay floats of 32 bits, matrices of fewer become those of 16: turned blocks of integers are none any more.
    fn new(of: &TensorInfo, role: Role) -> Self {
        let kind = match (role, of.kind) {
            (Role::Norm, _) | (_, TensorType::F32) => TensorType::F32,
            _ => TensorType::F16,
        };
        let weights: u64 = of.shape.iter().product();
        let bytes = weights * if kind == TensorType::F32 { 4 } else { 2 };
        let info = TensorInfo { kind, bytes, offset: NOWHERE, ..of.clone() };
        Self { info, of: of.clone(), role }
    }

    fn encode(&self, floats: &[f32]) -> Vec<u8> {
        match self.info.kind {
            TensorType::F32 => floats.iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => floats.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        }
    }
}
