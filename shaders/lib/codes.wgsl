// One segment of a layer's index. Physical block, KV head: a header of CHANNELS words, then the codes of the block's
// tokens, BITS bits a channel, CODE_WORDS words a token.
//
// A header word holds two f16, zero and scale: key ~ zero + stored code * scale. A word's bytes hold PLANES planes of BITS
// bits, lowest first: byte i of plane p of word w is channel (w * PLANES + p) * 4 + i, so that each plane masks into four
// bytes for dot4I8Packed. Eight-bit codes are stored less 128, as the signed bytes that it takes.
const PLANES: u32 = 8u / BITS;
const PLANE_MASK: u32 = 0x01010101u * ((1u << BITS) - 1u);
const CODE_WORDS: u32 = CHANNELS / (4u * PLANES);
const INDEX_WORDS: u32 = CHANNELS + BLOCK * CODE_WORDS;
const LARGEST_CODE: f32 = f32((1u << BITS) - 1u);
// The code of zero.
const ZERO_CODE: f32 = select(0.0, 128.0, BITS == 8u);

// Where a head-block's index begins, in words.
fn index_at(slot: u32, kv_head: u32) -> u32 {
    return (slot * KV_HEADS + kv_head) * INDEX_WORDS;
}

// Where a token's codes begin, in words.
fn code_row(slot: u32, kv_head: u32, token: u32) -> u32 {
    return index_at(slot, kv_head) + CHANNELS + token * CODE_WORDS;
}
