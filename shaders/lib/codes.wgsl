// One segment of a layer's index: the 4-bit codes of every token of every closed block. Physical block, KV head, token:
// CHANNELS / 8 words, in vec4. Word w holds channels 8w .. 8w+7: the low nibbles of its four bytes are the first four,
// the high nibbles the last four, so that both halves mask into bytes for dot4I8Packed.
const CODE_VECS: u32 = CHANNELS / 32u;

fn code_row(slot: u32, kv_head: u32, token: u32) -> u32 {
    return ((slot * KV_HEADS + kv_head) * BLOCK + token) * CODE_VECS;
}
