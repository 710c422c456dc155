// Builds the index of closed blocks: each token's key on the sequence's channels as 4-bit codes,
// code = clamp(round((key - minimum) / step), 0, 15). Lane = token. Grid: (KV heads, closing blocks).
//!include lib/step.wgsl
//!include <kv>
//!include lib/channels.wgsl
//!include lib/codes.wgsl

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> kv: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> channels: array<u32>;
@group(0) @binding(4) var<storage, read_write> codes: array<vec4<u32>>;

fn key_value(row: u32, dimension: u32) -> f32 {
    let pair = unpack2x16float(kv[row + dimension / 8u][dimension % 8u / 2u]);
    return select(pair.x, pair.y, (dimension & 1u) == 1u);
}

fn code(sequence: u32, kv_head: u32, row: u32, channel: u32) -> u32 {
    let dimension = channels[channel_at(sequence, kv_head, CHANNEL_IDS, channel)];
    let low = bitcast<f32>(channels[channel_at(sequence, kv_head, CHANNEL_MINIMA, channel)]);
    let step_size = bitcast<f32>(channels[channel_at(sequence, kv_head, CHANNEL_STEPS, channel)]);
    // A channel whose keys were all equal has no steps.
    if !(step_size > 0.0) {
        return 0u;
    }
    return u32(clamp(round((key_value(row, dimension) - low) / step_size), 0.0, 15.0));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) token: u32) {
    let kv_head = group.x;
    let closing = step[H_CLOSING_AT] + group.y * 2u;
    let sequence = step[closing];
    let slot = step[closing + 1u] - segment.first;
    if slot >= segment.blocks || token >= BLOCK {
        return;
    }
    let row = kv_row(slot, kv_head, KEYS, token);
    for (var v = 0u; v < CODE_VECS; v++) {
        var packed = vec4(0u);
        for (var word = 0u; word < 4u; word++) {
            var bits = 0u;
            for (var i = 0u; i < 4u; i++) {
                let channel = (v * 4u + word) * 8u + i;
                bits |= code(sequence, kv_head, row, channel) << (8u * i);
                bits |= code(sequence, kv_head, row, channel + 4u) << (8u * i + 4u);
            }
            packed[word] = bits;
        }
        codes[code_row(slot, kv_head, token) + v] = packed;
    }
}
