// Builds the index of closed blocks: each token's key on the sequence's channels as codes of BITS bits,
// code = clamp(round((key - minimum) / step), 0, LARGEST_CODE). Lane = token. Grid: (KV heads, closing blocks).
//!include lib/step.wgsl
//!include <kv>
//!include lib/channels.wgsl
//!include lib/codes.wgsl

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> kv: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> channels: array<u32>;
@group(0) @binding(4) var<storage, read_write> codes: array<u32>;

const WORKGROUP: u32 = 64u;

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
    return u32(clamp(round((key_value(row, dimension) - low) / step_size), 0.0, f32(LARGEST_CODE)));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let kv_head = group.x;
    let closing = step[H_CLOSING_AT] + group.y * 2u;
    let sequence = step[closing];
    let slot = step[closing + 1u] - segment.first;
    if slot >= segment.blocks {
        return;
    }
    for (var token = lane; token < BLOCK; token += WORKGROUP) {
        let row = kv_row(slot, kv_head, KEYS, token);
        for (var word = 0u; word < CODE_WORDS; word++) {
            var bits = select(0u, 0x80808080u, BITS == 8u);
            for (var plane = 0u; plane < PLANES; plane++) {
                for (var i = 0u; i < 4u; i++) {
                    let channel = (word * PLANES + plane) * 4u + i;
                    bits ^= code(sequence, kv_head, row, channel) << (8u * i + BITS * plane);
                }
            }
            codes[code_row(slot, kv_head, token) + word] = bits;
        }
    }
}
