// The index channels of a layer, per sequence slot and KV head: CHANNELS dimension numbers.
fn channel_at(sequence: u32, kv_head: u32, channel: u32) -> u32 {
    return (sequence * KV_HEADS + kv_head) * CHANNELS + channel;
}
