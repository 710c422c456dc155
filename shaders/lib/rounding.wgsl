// Between floats and integers without conversions, which many GPUs do at a fraction of the rate of other operations: beside 3 * 2^22
// floats below 2^22 are integers, so that a sum with it has them as its last bits.
const ROUNDING: f32 = 12582912.0;

// Floats below 2^22, rounded to even.
fn integers_of(values: vec4<f32>) -> vec4<i32> {
    return bitcast<vec4<i32>>(values + ROUNDING) - bitcast<vec4<i32>>(vec4(ROUNDING));
}

// Integers below 2^22.
fn floats_of(integers: vec4<i32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(integers + bitcast<vec4<i32>>(vec4(ROUNDING))) - ROUNDING;
}
