//! The buffers that hold weights: rows of the memory plan. Pure.

use super::runs::{Run, gate_up, is_float, runs};
use crate::engine::EngineOptions;
use crate::formats::{Quantise, WeightFormat};
use crate::memory::{Group, Row};
use crate::model::gguf::TensorInfo;
use crate::model::tensors::{AttentionTensors, FfnTensors, MatrixTensors, Tensors};
use crate::{Error, Result};
use std::borrow::Cow;
use std::ops::Range;

/// Rows of a run that lie in one buffer: a plane of weights, then a plane of scales.
pub(super) struct PartPlan {
    pub(super) format: WeightFormat,
    /// Rows of the run.
    pub(super) rows: Range<u32>,
    /// Units of a row.
    pub(super) units: u32,
    pub(super) weights_bytes: u64,
    pub(super) scales_at: u64,
    pub(super) buffer: Row,
}

/// The parts of a run, which begin at multiples of `granule` rows.
///
/// # Errors
/// [`Error::Model`] where so many rows are more than a kernel sees of a buffer.
pub(super) fn parts(run: &Run<'_>, granule: u32, max_binding: u64) -> Result<Vec<PartPlan>> {
    let format = WeightFormat::of(run.kind)?;
    let (rows, units) = (run.rows as u32, run.units());
    let row_weights = units * format.unit_bytes();
    let fit = (max_binding / row_weights).min(u64::from(u32::MAX)) as u32 / granule * granule;
    if fit == 0 {
        return Err(Error::Model(format!(
            "{granule} rows of tensor {} take {} bytes, but a binding holds {max_binding} here",
            run.name(),
            u64::from(granule) * row_weights,
        )));
    }
    let part = |first: u32| {
        let count = fit.min(rows - first);
        let weights_bytes = u64::from(count) * row_weights;
        let scales_at = weights_bytes.next_multiple_of(256);
        // Something is bound even where there are none.
        let scales_bytes = format.scale_bytes(u64::from(count) * units).max(16);
        let buffer = Row::new(run.name().to_owned(), scales_at + scales_bytes, &[]);
        let rows = first..first + count;
        let (units, buffer) = (units as u32, buffer.of(Group::Weights));
        PartPlan { format, rows, units, weights_bytes, scales_at, buffer }
    };
    Ok((0..rows).step_by(fit as usize).map(part).collect())
}

/// Vectors one after the other, as floats, filled up to whole units of the products that norm their inputs.
pub(super) fn vectors(infos: &[&TensorInfo]) -> Row {
    let length: u64 =
        infos.iter().flat_map(|info| info.shape.iter().copied().reduce(|a, b| a * b)).sum();
    let words = length.next_multiple_of(WeightFormat::UNIT);
    Row::words(infos[0].name.clone(), &[words], &[]).of(Group::Weights)
}

/// The rows of a model's weights.
pub(in crate::engine) struct WeightRows {
    pub(in crate::engine) rows: Vec<Row>,
    /// Bytes of weights that are quantised in the file and floats here.
    pub(in crate::engine) expanded: u64,
}

impl WeightRows {
    /// Plans a model's weights.
    ///
    /// # Errors
    /// As the loader's.
    pub(in crate::engine) fn new(tensors: &Tensors<'_>, options: &EngineOptions) -> Result<Self> {
        let mut all = Self { rows: Vec::new(), expanded: 0 };
        for matrix in matrices(tensors, options.quantise) {
            for run in runs(&matrix, options.quantise) {
                let parts = parts(&run, matrix.granule, options.device.max_binding)?;
                let is_expanded = is_float(run.kind) && !is_float(run.first().kind);
                for part in parts {
                    all.expanded += if is_expanded { part.buffer.total() } else { 0 };
                    all.rows.push(part.buffer);
                }
            }
        }
        all.rows.push(vectors(&[tensors.output_norm]));
        for layer in &tensors.layers {
            let norms = [layer.attn_norm, layer.ffn_norm].into_iter();
            let norms = norms.chain(layer.post_norms.into_iter().flatten());
            let bias = match &layer.ffn {
                FfnTensors::Experts { bias, .. } => *bias,
                FfnTensors::Dense { .. } => None,
            };
            all.rows.extend(norms.chain(bias).map(|vector| vectors(&[vector])));
            match &layer.attention {
                AttentionTensors::Grouped { norms, biases, .. } => {
                    all.rows.extend(norms.iter().flatten().map(|&norm| vectors(&[norm])));
                    all.rows.extend(biases.iter().map(|biases| vectors(biases)));
                }
                AttentionTensors::Latent(latent) => {
                    all.rows.extend([latent.q_norm, latent.kv_norm].map(|norm| vectors(&[norm])));
                }
            }
        }
        Ok(all)
    }
}

// Every matrix of a model.
fn matrices<'t, 'a>(
    tensors: &'t Tensors<'a>,
    quantise: Option<Quantise>,
) -> Vec<Cow<'t, MatrixTensors<'a>>> {
    let mut matrices = vec![&tensors.embedding];
    matrices.extend(&tensors.output);
    let mut gates_ups = Vec::new();
    for layer in &tensors.layers {
        matrices.push(&layer.output);
        match &layer.attention {
            AttentionTensors::Grouped { qkv, .. } => matrices.push(qkv),
            AttentionTensors::Latent(latent) => matrices.extend([
                &latent.down,
                &latent.q_up,
                &latent.key_up,
                &latent.key_absorb,
                &latent.value_up,
            ]),
        }
        let gate_up_tensors = match &layer.ffn {
            FfnTensors::Dense { gate_up, down } => {
                matrices.push(down);
                gate_up
            }
            FfnTensors::Experts { router, gate_up, down, .. } => {
                matrices.extend([router, down]);
                gate_up
            }
        };
        let both = gate_up(gate_up_tensors, quantise).into_iter();
        gates_ups.extend(both.map(|(matrix, _)| Cow::Owned(matrix)));
    }
    matrices.into_iter().map(Cow::Borrowed).chain(gates_ups).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::weights::runs::tests::{rows, tensor};
    use crate::formats::TensorType;
    use crate::model::tensors::Recipe;

    // The planes of all parts.
    fn planes(recipe: Recipe<'_>, granule: u32, max_binding: u64) -> Vec<(u64, u64)> {
        let matrix = MatrixTensors { granule, ..recipe.into() };
        let plans = runs(&matrix, None)
            .into_iter()
            .flat_map(|run| parts(&run, granule, max_binding).unwrap());
        plans.map(|part| (part.weights_bytes, part.buffer.bytes - part.scales_at)).collect()
    }

    #[test]
    fn columns_of_blocks_become_floats() {
        let weights = 256 * 64;
        for (kind, size) in [
            (TensorType::Q8_0, 4),
            (TensorType::F32, 4),
            (TensorType::F16, 2),
            (TensorType::BF16, 2),
        ] {
            let info = tensor(kind);
            let all = planes(Recipe::Transposed(vec![rows(&info)]), 1, u64::MAX);
            assert_eq!(all, [(size * weights, 16)]);
        }
        // Queries, keys and values lie one after the other, each as it is.
        let mixed = [TensorType::Q4K, TensorType::Q4K, TensorType::Q6K].map(tensor);
        let of = |infos: &[TensorInfo]| {
            let all = planes(Recipe::Stacked(infos.iter().map(rows).collect()), 1, u64::MAX);
            all.into_iter().fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
        };
        let [one, two, three] = [0, 1, 2].map(|i| of(&mixed[i..=i]));
        assert_eq!(of(&mixed), (one.0 + two.0 + three.0, one.1 + two.1 + three.1));
    }

    #[test]
    fn parts_hold_whole_granules_and_every_row() {
        let info = tensor(TensorType::F32);
        let parts = |granule, rows_of_a_binding: u64| {
            let matrix = MatrixTensors::from(Recipe::Stacked(vec![rows(&info)]));
            let run = runs(&matrix, None).remove(0);
            let plans = parts(&run, granule, rows_of_a_binding * 1024)?;
            Ok::<_, Error>(plans.into_iter().map(|part| part.rows).collect::<Vec<_>>())
        };
        assert_eq!(parts(1, 64).unwrap(), vec![0..64; 1]);
        assert_eq!(parts(1, 25).unwrap(), [0..25, 25..50, 50..64]);
        assert_eq!(parts(8, 25).unwrap(), [0..24, 24..48, 48..64]);
        let error = parts(32, 25).unwrap_err().to_string();
        assert!(error.contains("32 rows of tensor w take 32768 bytes"), "{error}");
    }

    #[test]
    fn vectors_fill_whole_units() {
        let vector = |length| TensorInfo { shape: vec![length], ..tensor(TensorType::F16) };
        assert_eq!(vectors(&[&vector(64), &vector(1)]).bytes, 96 * 4);
    }
}
