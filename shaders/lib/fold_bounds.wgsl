// The upper bound of a query's product with keys between low and high (AsyncTLS, arXiv 2604.07815, after Quest,
// arXiv 2406.10774): max(q low, q high) = min(q, 0) low + max(q, 0) high.
fn fold(q: f32) -> array<f32, SUMMARY_ROWS> {
    return array<f32, SUMMARY_ROWS>(min(q, 0.0), max(q, 0.0));
}
