//! Twins of `shaders/select`.

/// The order-preserving u32 image of an f32: NaN is 0, -0 equals +0.
pub fn ordered_key(value: f32) -> u32 {
    if value.is_nan() {
        return 0;
    }
    let bits = if value == 0.0 { 0 } else { value.to_bits() };
    if bits >> 31 == 0 { bits | 0x8000_0000 } else { !bits }
}

/// ln sum exp.
pub fn log_sum_exp(values: &[f64]) -> f64 {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + values.iter().map(|v| (v - largest).exp()).sum::<f64>().ln()
}

/// Of the exponentials of these, the share of those that are missed.
pub fn missed_share(logs: &[(f64, bool)]) -> f64 {
    let all: Vec<f64> = logs.iter().map(|(log, _)| *log).collect();
    let is_missed = |(log, is_missed): &&(f64, bool)| *is_missed && *log != f64::NEG_INFINITY;
    let missed: Vec<f64> = logs.iter().filter(is_missed).map(|one| one.0).collect();
    if missed.is_empty() { 0.0 } else { (log_sum_exp(&missed) - log_sum_exp(&all)).exp() }
}

/// Whether `chosen` is a right top-k of scores known to a relative `epsilon`: k distinct indices in ascending order, none
/// of which scores clearly less than one that was rejected.
///
/// # Errors
/// The fault in words.
pub fn check_top_k(chosen: &[usize], scores: &[f64], k: usize, epsilon: f64) -> Result<(), String> {
    if chosen.len() != k {
        return Err(format!("{} chosen instead of {k}", chosen.len()));
    }
    if chosen.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(format!("not ascending: {chosen:?}"));
    }
    if let Some(&outside) = chosen.iter().find(|&&i| i >= scores.len()) {
        return Err(format!("{outside} chosen of {} items", scores.len()));
    }
    let rank = |i: usize| if scores[i].is_nan() { f64::NEG_INFINITY } else { scores[i] };
    let worst = chosen.iter().copied().min_by(|&a, &b| rank(a).total_cmp(&rank(b)));
    let best = (0..scores.len())
        .filter(|i| chosen.binary_search(i).is_err())
        .max_by(|&a, &b| rank(a).total_cmp(&rank(b)));
    if let (Some(worst), Some(best)) = (worst, best) {
        if rank(worst) < rank(best) * (1.0 - epsilon) - 1e-30 {
            return Err(format!(
                "{worst} (score {:e}) chosen and {best} (score {:e}) rejected",
                scores[worst], scores[best]
            ));
        }
        // Exact ties must fall to the lowest index: everything that equals the worst chosen score bit for bit.
        if let Some(missed) = (0..worst_index(chosen, scores, rank(worst)))
            .find(|i| scores[*i] == rank(worst) && chosen.binary_search(i).is_err())
        {
            return Err(format!("tie at {:e}: {missed} rejected for a higher index", rank(worst)));
        }
    }
    Ok(())
}

// The highest chosen index that has exactly this score.
fn worst_index(chosen: &[usize], scores: &[f64], score: f64) -> usize {
    chosen.iter().copied().filter(|&i| scores[i] == score).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::top_k;

    #[test]
    fn keys_keep_the_order_of_floats() {
        let values =
            [f32::NEG_INFINITY, f32::MIN, -1.5, -1e-45, 0.0, 1e-45, 2.0, f32::MAX, f32::INFINITY];
        for pair in values.windows(2) {
            assert!(ordered_key(pair[0]) < ordered_key(pair[1]), "{pair:?}");
        }
        assert_eq!(ordered_key(-0.0), ordered_key(0.0));
        assert!(ordered_key(f32::NAN) < ordered_key(f32::NEG_INFINITY));
    }

    #[test]
    fn the_check_accepts_the_oracle_and_refuses_everything_else() {
        let scores = [0.5, 0.1, 0.5, 0.9, 0.5, f64::NAN];
        let right = top_k(&scores, 3);
        assert_eq!(right, [0, 2, 3]);
        assert!(check_top_k(&right, &scores, 3, 1e-6).is_ok());
        for wrong in [
            vec![0, 3, 4],
            vec![0, 1, 3],
            vec![3, 2, 0],
            vec![0, 3],
            vec![0, 3, 3],
            vec![0, 3, 9],
            vec![0, 3, 5],
        ] {
            assert!(check_top_k(&wrong, &scores, 3, 1e-6).is_err(), "{wrong:?}");
        }
    }
}
