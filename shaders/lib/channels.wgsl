// The index channels of a layer, per sequence slot and KV head: CHANNELS dimension numbers, then the minimum of each
// channel's keys, then its step (both f32): key ~ minimum + code * step.
const CHANNEL_IDS: u32 = 0u;
const CHANNEL_MINIMA: u32 = 1u;
const CHANNEL_STEPS: u32 = 2u;

fn channel_at(sequence: u32, kv_head: u32, what: u32, channel: u32) -> u32 {
    return ((sequence * KV_HEADS + kv_head) * 3u + what) * CHANNELS + channel;
}
