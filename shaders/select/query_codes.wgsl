// Folds each channel's step into the query and quantises it to int8 once a row: w[c] = round(q[c] step[c] / s) with
// s = max |q[c] step[c]| / 127. The logit of a token is then about s * SCALE * sum w[c] u[c], less a constant.
// Grid: (query heads, rows).
//!include lib/lane.wgsl
//!include lib/step.wgsl
//!include lib/channels.wgsl
//!include lib/codes.wgsl
//!include <reduce>

const WORKGROUP: u32 = CHANNELS;
const Q_HEADS: u32 = KV_HEADS * GROUP;
const QKV_WIDTH: u32 = (Q_HEADS + 2u * KV_HEADS) * HEAD_DIM;

@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read> channels: array<u32>;
@group(0) @binding(3) var<storage, read_write> query_codes: array<u32>;
@group(0) @binding(4) var<storage, read_write> query_scales: array<f32>;

var<workgroup> quantised: array<u32, CHANNELS>;

@compute @workgroup_size(CHANNELS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let channel = lane_of(local, WORKGROUP);
    let head = group.x;
    let row = group.y;
    let kv_head = head / GROUP;
    let sequence = row_sequence(row);
    let dimension = channels[channel_at(sequence, kv_head, CHANNEL_IDS, channel)];
    let step_size = bitcast<f32>(channels[channel_at(sequence, kv_head, CHANNEL_STEPS, channel)]);
    let folded = qkv[row * QKV_WIDTH + head * HEAD_DIM + dimension] * step_size;
    let largest = workgroup_max(channel, abs(folded));
    // A query of zeros has the code zero.
    let to_code = select(127.0 / largest, 0.0, largest == 0.0);
    quantised[channel] = bitcast<u32>(i32(clamp(round(folded * to_code), -127.0, 127.0))) & 0xffu;
    workgroupBarrier();
    // Word by word of a plane, plane by plane of a chunk, chunk by chunk.
    let word = channel;
    if word < CHANNELS / 4u {
        let chunk = word / (CHUNK_WORDS * PLANES);
        let plane = word / CHUNK_WORDS % PLANES;
        let from_at = ((chunk * CHUNK_WORDS + word % CHUNK_WORDS) * PLANES + plane) * 4u;
        query_codes[(row * Q_HEADS + head) * (CHANNELS / 4u) + word] = quantised[from_at]
            | (quantised[from_at + 1u] << 8u) | (quantised[from_at + 2u] << 16u) | (quantised[from_at + 3u] << 24u);
    }
    if channel == 0u {
        query_scales[row * Q_HEADS + head] = largest / 127.0 * SCALE;
    }
}
