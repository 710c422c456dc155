//! The rules by which both levels choose, in plain numbers.

/// The mean over heads of each head's softmax over all items.
pub fn softmax_mean(heads: &[&[f32]]) -> Vec<f64> {
    let mut mean = vec![0.0; heads[0].len()];
    for head in heads {
        let largest = head.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f64> =
            head.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (m, w) in mean.iter_mut().zip(weights) {
            *m += w / sum / heads.len() as f64;
        }
    }
    mean
}

/// The k largest scores, in ascending order of index, ties to the lowest index, NaN last.
pub fn top_k(scores: &[f64], k: usize) -> Vec<usize> {
    let rank = |i: usize| if scores[i].is_nan() { f64::NEG_INFINITY } else { scores[i] };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)).then(a.cmp(&b)));
    order.truncate(k);
    order.sort_unstable();
    order
}
