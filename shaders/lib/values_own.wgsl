// [row]: VALUE_STRIDE numbers, of which [KV head][dimension] are the values
@group(0) @binding(4) var<storage, read> values: array<u32>;

fn value_number(i: u32) -> f32 {
    return number(values[word_of(i)], i);
}
