// Builds the index of sealed blocks: the range of the block's keys on each of the sequence's channels, and each key's code
// in that range, code = clamp(round((key - minimum) / scale), 0, LARGEST_CODE). Grid: (KV heads, blocks to seal).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include <kv>
//!include lib/channels.wgsl
//!include lib/codes.wgsl

@group(0) @binding(1) var<uniform> segment: Segment;
@group(0) @binding(2) var<storage, read> kv: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> channels: array<u32>;
@group(0) @binding(4) var<storage, read_write> codes: array<u32>;
// The segment of the index, which is divided otherwise than keys and values.
@group(0) @binding(5) var<uniform> index_segment: Segment;

const WORKGROUP: u32 = 64u;

// Zero and scale of each channel, as stored: codes mean what they will be read as.
var<workgroup> header: array<u32, CHANNELS>;
var<workgroup> dimensions: array<u32, CHANNELS>;

fn key_value(row: u32, dimension: u32) -> f32 {
    let pair = unpack2x16float(kv[row + dimension / 8u][dimension % 8u / 2u]);
    return select(pair.x, pair.y, (dimension & 1u) == 1u);
}

fn code(row: u32, channel: u32) -> u32 {
    let range = unpack2x16float(header[channel]);
    // A channel whose keys are all equal has a scale of zero.
    if !(range.y > 0.0) {
        return u32(ZERO_CODE);
    }
    let value = round((key_value(row, dimensions[channel]) - range.x) / range.y) + ZERO_CODE;
    return u32(clamp(value, 0.0, LARGEST_CODE));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = lane_of(local, WORKGROUP);
    let kv_head = group.x;
    let sealing = step[H_SEALING_AT] + group.y * C_WORDS;
    let sequence = step[sealing + C_SEQUENCE];
    let index_slot = step[sealing + C_BLOCK] - index_segment.first;
    let slot = step[sealing + C_PLACE] - segment.first;
    if slot >= segment.blocks || index_slot >= index_segment.blocks {
        return;
    }
    let at = index_at(index_slot, kv_head);
    for (var channel = lane; channel < CHANNELS; channel += WORKGROUP) {
        let dimension = channels[channel_at(sequence, kv_head, channel)];
        var low = F16_MAX;
        var high = -F16_MAX;
        for (var token = 0u; token < BLOCK; token++) {
            let key = key_value(kv_row(slot, kv_head, KEYS, token), dimension);
            low = min(low, key);
            high = max(high, key);
        }
        let step_size = (high - low) / LARGEST_CODE;
        let stored = pack2x16float(vec2(low + ZERO_CODE * step_size, step_size));
        codes[at + channel] = stored;
        header[channel] = stored;
        dimensions[channel] = dimension;
    }
    workgroupBarrier();
    for (var token = lane; token < BLOCK; token += WORKGROUP) {
        let row = kv_row(slot, kv_head, KEYS, token);
        for (var word = 0u; word < CODE_WORDS; word++) {
            var bits = select(0u, 0x80808080u, BITS == 8u);
            for (var plane = 0u; plane < PLANES; plane++) {
                for (var i = 0u; i < 4u; i++) {
                    bits ^= code(row, (word * PLANES + plane) * 4u + i) << (8u * i + BITS * plane);
                }
            }
            codes[code_row(index_slot, kv_head, token) + word] = bits;
        }
    }
}
