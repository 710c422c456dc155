//! Twin of `shaders/attend`: exact attention of one query over given tokens.

use super::model::{dot, soft_capped};

/// softmax(scale q . k_j) over `tokens`, applied to their values; of logits with a soft-cap, if there is one. `key` and `value` give a
/// token's row.
pub fn attention<'a>(
    q: &[f32],
    (scale, softcap): (f32, Option<f32>),
    tokens: &[u32],
    key: impl Fn(u32) -> &'a [f32],
    value: impl Fn(u32) -> &'a [f32],
) -> Vec<f64> {
    let logit = |&t: &u32| soft_capped(dot(q, key(t)) * f64::from(scale), softcap);
    let logits: Vec<f64> = tokens.iter().map(logit).collect();
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut out = vec![0.0; tokens.first().map_or(0, |&t| value(t).len())];
    let mut sum = 0.0;
    for (&token, logit) in tokens.iter().zip(logits) {
        let weight = (logit - largest).exp();
        sum += weight;
        for (o, &v) in out.iter_mut().zip(value(token)) {
            *o += weight * f64::from(v);
        }
    }
    out.iter_mut().for_each(|o| *o /= sum);
    out
}
