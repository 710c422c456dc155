// A query's product with the mean, and with keys that lie DEVIATIONS standard deviations to the side that it points to:
// q mean + DEVIATIONS |q| deviation.
fn fold(q: f32) -> array<f32, SUMMARY_ROWS> {
    return array<f32, SUMMARY_ROWS>(q, DEVIATIONS * abs(q));
}
