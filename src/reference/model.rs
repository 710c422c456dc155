//! Twins of `shaders/model`.

use crate::attention::Activation;
use half::f16;

/// W x for a row-major matrix of `columns` columns.
pub fn matvec(weights: &[f32], columns: usize, x: &[f32]) -> Vec<f64> {
    weights.chunks_exact(columns).map(|row| dot(row, x)).collect()
}

/// The dot product, accumulated in f64.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// A logit under its soft-cap c, if it has one: c tanh(logit / c).
pub fn soft_capped(logit: f64, softcap: Option<f32>) -> f64 {
    softcap.map(f64::from).map_or(logit, |cap| cap * (logit / cap).tanh())
}

/// activated(gate) * up of interleaved rows (gate, up).
pub fn glu(activation: Activation, rows: &[f64]) -> Vec<f64> {
    rows.chunks_exact(2).map(|pair| activated(activation, pair[0]) * pair[1]).collect()
}

fn activated(activation: Activation, gate: f64) -> f64 {
    match activation {
        Activation::Silu => gate / (1.0 + (-gate).exp()),
        Activation::Gelu => {
            let z = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
            0.5 * gate * (1.0 + z.tanh())
        }
    }
}

/// x * weight / sqrt(mean(x^2) + epsilon).
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f64> {
    let mean = dot(x, x) / x.len() as f64;
    let scale = 1.0 / (mean + f64::from(epsilon)).sqrt();
    x.iter().zip(weight).map(|(&x, &w)| f64::from(x) * scale * f64::from(w)).collect()
}

/// Numbers as f16, divided by 2^shift so that the largest magnitude lies in 2^14 .. 2^15, and the shift. Magnitudes below
/// 2^-100 count as that.
pub fn half_row(x: &[f32]) -> (Vec<f16>, i32) {
    let exponent = x.iter().map(|x| (x.to_bits() >> 23 & 0xff) as i32 - 127).max().unwrap_or(0);
    let shift = exponent.max(-100) - 14;
    let factor = 2f64.powi(-shift);
    (x.iter().map(|&x| f16::from_f64(f64::from(x) * factor)).collect(), shift)
}

/// The index of the largest value, ties to the lowest index; none where a value is not a number, or none is above minus
/// infinity.
pub fn arg_max(values: &[f32]) -> Option<usize> {
    let mut best = None;
    let mut largest = f32::NEG_INFINITY;
    for (i, &value) in values.iter().enumerate() {
        if value.is_nan() {
            return None;
        }
        if value > largest {
            (best, largest) = (Some(i), value);
        }
    }
    best
}

/// Rotates a head's vector in place by one angle a pair.
pub fn rope(vector: &mut [f64], angles: &[f64], interleaved: bool) {
    for (i, angle) in angles.iter().enumerate() {
        let (first, second) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + angles.len()) };
        let (a, b) = (vector[first], vector[second]);
        vector[first] = a * angle.cos() - b * angle.sin();
        vector[second] = a * angle.sin() + b * angle.cos();
    }
}
