// 4-bit weights with two levels of scales (Q4_K): 4.5 bits a weight, as in the file.
//!include lib/quants4.wgsl
//!include lib/scales_k.wgsl

const BLOCK_VEC4S: u32 = 1u;
