// 5-bit weights with two levels of scales (Q5_K): eight units' scales, then two vec4 with a word of fifth bits a unit. 5.5
// bits a weight, as in the file.
//!include lib/quants5.wgsl
//!include lib/scales_k.wgsl

const BLOCK_VEC4S: u32 = 3u;

fn fifth_of(unit: ScaleBits) -> u32 {
    let at = unit % 8u;
    return scales[unit / 8u * BLOCK_VEC4S + 1u + at / 4u][at % 4u];
}
