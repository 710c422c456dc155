// The smallest key of a block and its largest. Cached keys are f16, so the bounds are exact.
fn summarise(first: u32) -> array<vec2<f32>, SUMMARY_ROWS> {
    var low = vec2(F16_MAX);
    var high = vec2(-F16_MAX);
    for (var token = 0u; token < BLOCK; token++) {
        let pair = key_pair(first, token);
        low = min(low, pair);
        high = max(high, pair);
    }
    return array<vec2<f32>, SUMMARY_ROWS>(low, high);
}
