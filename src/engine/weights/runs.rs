//! What a matrix is made of: runs of rows that are stored alike on the GPU.

use crate::formats::{Quantise, TensorType, WeightFormat};
use crate::kernels::Output;
use crate::model::gguf::TensorInfo;
use crate::model::tensors::{GateUp, GatesUps, MatrixTensors, Recipe, Rows};

/// The matrices of gate and up projections, in the order in which they are multiplied, and what becomes of their products.
/// Where both have one type their rows alternate, and one product makes all of it. Where they differ, which a quantiser
/// that weighs tensors does, each is a matrix of its own: alternating rows would have to meet in f32.
pub(super) fn gate_up<'a>(
    GatesUps { pairs, granule, activation }: &GatesUps<'a>,
    quantise: Option<Quantise>,
) -> Vec<(MatrixTensors<'a>, Output)> {
    let matrix = |(recipe, output): (Recipe<'a>, Output)| {
        let granule = granule * output.rows();
        (MatrixTensors { granule, ..recipe.into() }, output)
    };
    let is_same = |(gate, up): &GateUp<'a>| {
        stored(gate.info.kind, quantise) == stored(up.info.kind, quantise)
    };
    if pairs.iter().all(is_same) {
        return vec![matrix((Recipe::Interleaved(pairs.to_vec()), Output::Glu(*activation)))];
    }
    let (gates, ups) = pairs.iter().copied().unzip();
    [(Recipe::Stacked(gates), Output::Store), (Recipe::Stacked(ups), Output::Gated(*activation))]
        .map(matrix)
        .into()
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

    pub(super) fn first(&self) -> &'a TensorInfo {
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
pub(super) fn runs<'a>(matrix: &MatrixTensors<'a>, quantise: Option<Quantise>) -> Vec<Run<'a>> {
    let quantise = quantise.filter(|_| !matrix.is_exact);
    let stored = |kind| stored(kind, quantise);
    let pieces: Vec<Run<'a>> = match &matrix.recipe {
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
pub(super) mod tests {
    use super::*;
    use crate::attention::Activation;

    pub(in crate::engine::weights) fn tensor(kind: TensorType) -> TensorInfo {
        TensorInfo { name: "w".into(), shape: vec![256, 64], kind, offset: 0, bytes: 0 }
    }

    pub(in crate::engine::weights) fn rows(info: &TensorInfo) -> Rows<'_> {
        Rows { info, first: 0, count: 64 }
    }

    #[test]
    fn only_gates_of_their_up_projections_type_alternate_with_them() {
        let activation = Activation::Gelu;
        let pair = |gate, up| [tensor(gate), tensor(up)];
        let outputs = |pairs: &[[TensorInfo; 2]], quantise| -> Vec<Output> {
            let pairs: Vec<_> = pairs.iter().map(|[gate, up]| (rows(gate), rows(up))).collect();
            let all = GatesUps { pairs, granule: 1, activation };
            gate_up(&all, quantise).iter().map(|matrix| matrix.1).collect()
        };
        use TensorType::{BF16, F32, Q4K, Q6K, Q8_0};
        let one = vec![Output::Glu(activation)];
        let two = vec![Output::Store, Output::Gated(activation)];
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
}
