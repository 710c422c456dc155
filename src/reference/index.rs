//! Twins of `shaders/index` and of `shaders/lib/code_logits.wgsl`.

use crate::attention::IndexFormat;
use half::f16;

/// How one block's keys on one channel become codes, as stored: key ~ zero + stored code * scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The value of what is stored as zero.
    pub zero: f32,
    /// From one code to the next.
    pub scale: f32,
}

impl Range {
    /// The range of these keys, rounded to f16.
    pub fn of(keys: impl IntoIterator<Item = f32>, format: IndexFormat) -> Self {
        let (low, high) = keys
            .into_iter()
            .fold((f16::MAX.to_f32(), f16::MIN.to_f32()), |(l, h), k| (l.min(k), h.max(k)));
        let scale = (high - low) / format.largest() as f32;
        let f16 = |value: f32| f16::from_f32(value).to_f32();
        Self { zero: f16(low + format.zero() as f32 * scale), scale: f16(scale) }
    }

    /// A key's code before rounding, so that a comparison can allow either neighbour at a tie.
    pub fn exact_code(&self, key: f32, format: IndexFormat) -> f64 {
        let zero = f64::from(format.zero());
        if self.scale > 0.0 {
            ((f64::from(key) - f64::from(self.zero)) / f64::from(self.scale) + zero)
                .clamp(0.0, f64::from(format.largest()))
        } else {
            zero
        }
    }
}

/// A query quantised for one block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockQuery {
    /// int8 codes by channel, before rounding.
    pub codes: Vec<f64>,
    /// Of a code: sigma.
    pub sigma: f64,
    /// The sum of query times zero.
    pub offset: f64,
}

impl BlockQuery {
    /// Of a query's values on the channels.
    pub fn new(query: &[f32], ranges: &[Range]) -> Self {
        let folded: Vec<f64> =
            query.iter().zip(ranges).map(|(&q, r)| f64::from(q) * f64::from(r.scale)).collect();
        let largest = folded.iter().fold(0.0f64, |m, f| m.max(f.abs()));
        let to_code = if largest == 0.0 { 0.0 } else { 127.0 / largest };
        let products = query.iter().zip(ranges).map(|(&q, r)| f64::from(q) * f64::from(r.zero));
        Self {
            codes: folded.into_iter().map(|f| f * to_code).collect(),
            sigma: largest / 127.0,
            offset: products.sum(),
        }
    }

    /// The approximate logit of a token's codes, before the attention's own scale.
    pub fn logit(&self, codes: &[u8], format: IndexFormat) -> f64 {
        let zero = f64::from(format.zero());
        let products =
            self.codes.iter().zip(codes).map(|(w, &u)| w.round() * (f64::from(u) - zero));
        self.offset + self.sigma * products.sum::<f64>()
    }

    /// How far the logit may be off where a code lies so near a tie that f32 may round it either way.
    pub fn doubt(&self, format: IndexFormat) -> f64 {
        let doubtful = self.codes.iter().filter(|w| (w.abs().fract() - 0.5).abs() < 1e-4).count();
        doubtful as f64 * self.sigma * f64::from(format.largest().max(1))
    }
}

// Where the index stores a token's codes: the word and the shift of channel `channel`, as `shaders/lib/codes.wgsl`
/// documents it.
fn code_place(format: IndexFormat, channel: usize) -> (usize, usize) {
    let (bits, planes) = (format.bits as usize, 8 / format.bits as usize);
    let (byte, plane, word) = (channel % 4, channel / 4 % planes, channel / 4 / planes);
    (word, 8 * byte + bits * plane)
}

// Eight-bit codes are stored as signed bytes.
fn stored_zero(format: IndexFormat) -> u32 {
    if format.bits == 8 { 0x8080_8080 } else { 0 }
}

/// Packs one token's codes as the index stores them.
pub fn pack_codes(codes: &[u8], format: IndexFormat) -> Vec<u32> {
    let mut words = vec![stored_zero(format); format.words() as usize];
    for (channel, &code) in codes.iter().enumerate() {
        let (word, shift) = code_place(format, channel);
        words[word] ^= u32::from(code) << shift;
    }
    words
}

/// The codes of [`pack_codes`].
pub fn unpack_codes(words: &[u32], format: IndexFormat) -> Vec<u8> {
    (0..format.channels as usize)
        .map(|channel| {
            let (word, shift) = code_place(format, channel);
            ((words[word] ^ stored_zero(format)) >> shift & format.largest()) as u8
        })
        .collect()
}
