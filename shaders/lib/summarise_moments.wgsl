// The mean of a block's keys and their standard deviation. The second pass is about the mean that the first one found: the
// difference of means of squares would lose what keys far from zero differ by. Keys that are all equal have a deviation of
// zero: BLOCK times a value of 11 bits is exact, and so is its BLOCKth.
fn summarise(first: u32) -> array<vec2<f32>, SUMMARY_ROWS> {
    var sum = vec2(0.0);
    for (var token = 0u; token < BLOCK; token++) {
        sum += key_pair(first, token);
    }
    let mean = sum * (1.0 / f32(BLOCK));
    var squares = vec2(0.0);
    for (var token = 0u; token < BLOCK; token++) {
        let off = key_pair(first, token) - mean;
        squares += off * off;
    }
    let deviation = sqrt(squares * (1.0 / f32(BLOCK)));
    // What is rounded may lie just above the largest f16.
    return array<vec2<f32>, SUMMARY_ROWS>(mean, min(deviation, vec2(F16_MAX)));
}
