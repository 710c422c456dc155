//! What a matrix is made of: runs of rows that are stored alike on the GPU, and the bytes that they take.

use crate::Result;
use crate::formats::{Quantise, TensorType, WeightFormat};
use crate::kernels::Output;
use crate::model::gguf::TensorInfo;
use crate::model::tensors::{GateUp, Recipe, Rows};

/// Bytes of a matrix on the GPU.
pub(in crate::engine) struct GpuBytes {
    pub(in crate::engine) all: u64,
    /// Of weights that are quantised in the file and floats here.
    pub(in crate::engine) expanded: u64,
}

/// Bytes that a matrix takes on the GPU, with floats quantised if that is asked.
pub(in crate::engine) fn gpu_bytes(
    recipe: &Recipe<'_>,
    quantise: Option<Quantise>,
) -> Result<GpuBytes> {
    let mut bytes = GpuBytes { all: 0, expanded: 0 };
    for run in runs(recipe, quantise) {
        let format = WeightFormat::of(run.kind)?;
        let units = run.rows * run.units();
        let of_run = units * format.unit_bytes() + format.scale_bytes(units);
        bytes.all += of_run;
        if is_float(run.kind) && !is_float(run.first().kind) {
            bytes.expanded += of_run;
        }
    }
    Ok(bytes)
}

/// The matrices of gate and up projections, in the order in which they are multiplied, and what becomes of their products.
/// Where both have one type their rows alternate, and one product makes all of it. Where they differ, which a quantiser
/// that weighs tensors does, each is a matrix of its own: alternating rows would have to meet in f32.
pub(in crate::engine) fn gate_up<'a>(
    pairs: &[GateUp<'a>],
    quantise: Option<Quantise>,
) -> Vec<(Recipe<'a>, Output)> {
    let is_same = |(gate, up): &GateUp<'a>| {
        stored(gate.info.kind, quantise) == stored(up.info.kind, quantise)
    };
    if pairs.iter().all(is_same) {
        return vec![(Recipe::Interleaved(pairs.to_vec()), Output::SwiGlu)];
    }
    let (gates, ups) = pairs.iter().copied().unzip();
    vec![(Recipe::Stacked(gates), Output::Store), (Recipe::Stacked(ups), Output::Gated)]
}

// A tensor's type on the GPU.
fn stored(kind: TensorType, quantise: Option<Quantise>) -> TensorType {
    match quantise {
        Some(quantise) if is_float(kind) => quantise.kind(),
        _ => kind,
    }
}

/// Rows of a matrix that have one type.
pub(super) struct Run<'a> {
    /// The stored type, whatever they are read as.
    pub(super) kind: TensorType,
    /// Weights of a row.
    pub(super) length: u64,
    pub(super) rows: u64,
    pub(super) source: Source<'a>,
}

pub(super) enum Source<'a> {
    Rows(Vec<Rows<'a>>),
    Pairs(Vec<GateUp<'a>>),
    Columns(Vec<Rows<'a>>),
}

impl<'a> Run<'a> {
    /// Adds the rows of the next piece of the same recipe and type.
    fn append(&mut self, next: Run<'a>) {
        self.rows += next.rows;
        match (&mut self.source, next.source) {
            (Source::Rows(list), Source::Rows(more))
            | (Source::Columns(list), Source::Columns(more)) => list.extend(more),
            (Source::Pairs(list), Source::Pairs(more)) => list.extend(more),
            _ => unreachable!("a recipe has sources of one kind"),
        }
    }

    pub(super) fn units(&self) -> u64 {
        self.length.div_ceil(WeightFormat::UNIT)
    }

    fn first(&self) -> &'a TensorInfo {
        match &self.source {
            Source::Rows(rows) | Source::Columns(rows) => rows[0].info,
            Source::Pairs(pairs) => pairs[0].0.info,
        }
    }

    // A tensor to name in errors.
    pub(super) fn name(&self) -> &str {
        &self.first().name
    }
}

/// The runs that a matrix is made of, floats quantised if that is asked.
pub(super) fn runs<'a>(recipe: &Recipe<'a>, quantise: Option<Quantise>) -> Vec<Run<'a>> {
    let stored = |kind| stored(kind, quantise);
    let pieces: Vec<Run<'a>> = match recipe {
        Recipe::Stacked(list) => list
            .iter()
            .map(|rows| Run {
                kind: stored(rows.info.kind),
                length: rows.info.shape[0],
                rows: rows.count,
                source: Source::Rows(vec![*rows]),
            })
            .collect(),
        Recipe::Interleaved(list) => list
            .iter()
            .map(|(even, odd)| Run {
                // Both become the same, if only by quantising.
                kind: stored(even.info.kind),
                length: even.info.shape[0],
                rows: 2 * even.count,
                source: Source::Pairs(vec![(*even, *odd)]),
            })
            .collect(),
        Recipe::Transposed(list) => vec![Run {
            // Columns of quantised blocks are no blocks.
            kind: stored(match list[0].info.kind {
                float if is_float(float) => float,
                _ => TensorType::F32,
            }),
            length: list[0].count,
            rows: list.iter().map(|rows| rows.info.shape[0]).sum(),
            source: Source::Columns(list.clone()),
        }],
    };
    let mut runs = Vec::<Run<'a>>::new();
    for piece in pieces {
        match runs.last_mut().filter(|last| last.kind == piece.kind) {
            Some(last) => last.append(piece),
            None => runs.push(piece),
        }
    }
    runs
}

pub(super) fn is_float(kind: TensorType) -> bool {
    matches!(kind, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(kind: TensorType) -> TensorInfo {
        TensorInfo { name: "w".into(), shape: vec![256, 64], kind, offset: 0, bytes: 0 }
    }

    fn rows(info: &TensorInfo) -> Rows<'_> {
        Rows { info, first: 0, count: 64 }
    }

    #[test]
    fn only_gates_of_their_up_projections_type_alternate_with_them() {
        let pair = |gate, up| [tensor(gate), tensor(up)];
        let outputs = |pairs: &[[TensorInfo; 2]], quantise| -> Vec<Output> {
            let pairs: Vec<_> = pairs.iter().map(|[gate, up]| (rows(gate), rows(up))).collect();
            gate_up(&pairs, quantise).iter().map(|matrix| matrix.1).collect()
        };
        use TensorType::{BF16, F32, Q4K, Q6K, Q8_0};
        let (one, two) = (vec![Output::SwiGlu], vec![Output::Store, Output::Gated]);
        assert_eq!(outputs(&[pair(Q4K, Q4K)], None), one);
        assert_eq!(outputs(&[pair(Q4K, Q6K)], None), two);
        // A shared expert's may be of another type than those of all others.
        assert_eq!(outputs(&[pair(Q4K, Q4K), pair(Q6K, Q6K)], None), one);
        assert_eq!(outputs(&[pair(Q4K, Q4K), pair(Q4K, Q6K)], None), two);
        // It is the types on the GPU that count.
        assert_eq!(outputs(&[pair(F32, BF16)], None), two);
        assert_eq!(outputs(&[pair(F32, BF16)], Some(Quantise::Q8_0)), one);
        assert_eq!(outputs(&[pair(Q8_0, BF16)], Some(Quantise::Q8_0)), one);
        assert_eq!(outputs(&[pair(Q8_0, BF16)], Some(Quantise::Q4_0)), two);
    }

    #[test]
    fn columns_of_blocks_become_floats_and_are_counted() {
        let bytes = |kind| {
            let info = tensor(kind);
            let bytes = gpu_bytes(&Recipe::Transposed(vec![rows(&info)]), None).unwrap();
            (bytes.all, bytes.expanded)
        };
        let weights = 256 * 64;
        assert_eq!(bytes(TensorType::Q8_0), (4 * weights, 4 * weights));
        for (kind, size) in [(TensorType::F32, 4), (TensorType::F16, 2), (TensorType::BF16, 2)] {
            assert_eq!(bytes(kind), (size * weights, 0));
        }
        // Queries, keys and values lie one after the other, each as it is.
        let mixed = [TensorType::Q4K, TensorType::Q4K, TensorType::Q6K].map(tensor);
        let one = |info| Recipe::Stacked(vec![rows(info)]);
        let of = |recipe| gpu_bytes(&recipe, None).unwrap().all;
        let sum: u64 = mixed.iter().map(|info| of(one(info))).sum();
        assert_eq!(of(Recipe::Stacked(mixed.iter().map(rows).collect())), sum);
    }
}
