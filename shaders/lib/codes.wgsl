// One segment of a layer's index: the codes of every token of every closed block, BITS bits a channel. Physical block,
// KV head, token: CODE_WORDS words. A word's bytes hold PLANES planes of BITS bits, lowest first: byte i of plane p of
// word w is channel (w * PLANES + p) * 4 + i, so that each plane masks into four bytes for dot4I8Packed. Eight-bit codes
// are stored less 128, as the signed bytes that it takes.
const PLANES: u32 = 8u / BITS;
const PLANE_MASK: u32 = 0x01010101u * ((1u << BITS) - 1u);
const CODE_WORDS: u32 = CHANNELS / (4u * PLANES);
const LARGEST_CODE: u32 = (1u << BITS) - 1u;

// In words.
fn code_row(slot: u32, kv_head: u32, token: u32) -> u32 {
    return ((slot * KV_HEADS + kv_head) * BLOCK + token) * CODE_WORDS;
}
