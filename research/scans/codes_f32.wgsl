// 4-bit codes of 32 channels, packed as in codes.wgsl, scored by f32 multiply-adds. Converted once for all heads: there
// are few units that convert.
alias Logit = f32;

struct Unit {
    values: array<vec4<f32>, 8>,
}

fn load_unit(record: u32, unit: u32) -> Unit {
    let words = index[record + unit];
    var loaded: Unit;
//!repeat 4 w
    loaded.values[{w} * 2] = vec4<f32>(unpack4xU8(words[{w}] & 0x0f0f0f0fu));
    loaded.values[{w} * 2 + 1] = vec4<f32>(unpack4xU8((words[{w}] >> 4u) & 0x0f0f0f0fu));
//!end
    return loaded;
}

fn unit_logits(query: Query, unit: Unit) -> array<f32, 1> {
    var sum = 0.0;
//!repeat 8 i
    sum += dot(query.weights[{i}], unit.values[{i}]);
//!end
    return array(sum);
}
