// Keys and values apart, for decode attention.
//!include lib/kv_apart_vecs.wgsl

// As load8, of the values in the row's place.
fn value8(row: u32, vec: u32) -> vec4<u32> {
    let eight = values_in[select(row, 0u, row == NOWHERE) + vec];
    return select(eight, vec4(0u), row == NOWHERE);
}
