//! Twins of `shaders/index` and of `query_codes`.

use crate::attention::{Channels, IndexFormat};
use half::f16;

/// Running extremes of one KV head: what chooses its index channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// max |q| per query head of the group and dimension.
    pub queries: Vec<Vec<f32>>,
    /// Smallest cached key per dimension.
    pub low: Vec<f32>,
    /// Largest cached key per dimension.
    pub high: Vec<f32>,
}

impl Stats {
    /// Of no token yet.
    pub fn new(group: usize, head_dim: usize) -> Self {
        Self {
            queries: vec![vec![0.0; head_dim]; group],
            low: vec![f16::MAX.to_f32(); head_dim],
            high: vec![f16::MIN.to_f32(); head_dim],
        }
    }

    /// Folds in one token: its query of each head, and its key as cached.
    pub fn fold(&mut self, queries: &[&[f32]], key: &[f32]) {
        for (largest, query) in self.queries.iter_mut().zip(queries) {
            for (l, q) in largest.iter_mut().zip(*query) {
                *l = l.max(q.abs());
            }
        }
        for (i, &k) in key.iter().enumerate() {
            self.low[i] = self.low[i].min(k);
            self.high[i] = self.high[i].max(k);
        }
    }

    /// The score of a dimension: the mean over heads of max |q|, times max |k|.
    pub fn score(&self, dimension: usize) -> f32 {
        let queries: f32 = self.queries.iter().map(|q| q[dimension]).sum();
        queries / self.queries.len() as f32
            * self.low[dimension].abs().max(self.high[dimension].abs())
    }
}

impl Channels {
    /// The `format.channels / 2` rotary pairs that score highest, ties to the lowest, in ascending order.
    pub fn choose(stats: &Stats, format: IndexFormat, interleaved: bool) -> Self {
        let pairs = stats.low.len() / 2;
        let dimensions = |pair: usize| {
            if interleaved { [2 * pair, 2 * pair + 1] } else { [pair, pair + pairs] }
        };
        let score = |pair: usize| dimensions(pair).map(|d| stats.score(d)).iter().sum::<f32>();
        let mut order: Vec<usize> = (0..pairs).collect();
        let key = |pair: usize| super::select::ordered_key(score(pair));
        order.sort_by(|&a, &b| key(b).cmp(&key(a)).then(a.cmp(&b)));
        order.truncate(format.channels as usize / 2);
        order.sort_unstable();
        let ids: Vec<usize> = order.into_iter().flat_map(dimensions).collect();
        Self {
            minima: ids.iter().map(|&d| stats.low[d]).collect(),
            steps: ids
                .iter()
                .map(|&d| (stats.high[d] - stats.low[d]) / format.largest() as f32)
                .collect(),
            ids: ids.into_iter().map(|d| d as u32).collect(),
        }
    }

    /// A key's codes before rounding, so that a comparison can allow either neighbour at a tie.
    pub fn exact_codes(&self, key: &[f32], largest: u32) -> Vec<f64> {
        let channels = self.ids.iter().zip(&self.minima).zip(&self.steps);
        channels
            .map(|((&id, &low), &step)| {
                if step > 0.0 {
                    ((f64::from(key[id as usize]) - f64::from(low)) / f64::from(step))
                        .clamp(0.0, f64::from(largest))
                } else {
                    0.0
                }
            })
            .collect()
    }

    /// A query's codes before rounding, and the scale of its logits before the attention's own.
    pub fn exact_query(&self, query: &[f32]) -> (Vec<f64>, f64) {
        let folded: Vec<f64> = self
            .ids
            .iter()
            .zip(&self.steps)
            .map(|(&id, &step)| f64::from(query[id as usize]) * f64::from(step))
            .collect();
        let largest = folded.iter().fold(0.0f64, |m, f| m.max(f.abs()));
        let to_code = if largest == 0.0 { 0.0 } else { 127.0 / largest };
        (folded.into_iter().map(|f| f * to_code).collect(), largest / 127.0)
    }
}

/// Where the index stores a token's codes: the word and the shift of channel `channel`, as `shaders/lib/codes.wgsl`
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

// Where kernels read the int8 code of a query's channel, word and shift: chunk by chunk, and in each plane by plane.
fn query_place(format: IndexFormat, channel: usize) -> (usize, usize) {
    let (chunk, planes) = (format.chunk() as usize, 8 / format.bits as usize);
    let (byte, plane, word) = (channel % 4, channel / 4 % planes, channel / 4 / planes);
    (word / chunk * chunk * planes + plane * chunk + word % chunk, 8 * byte)
}

/// Packs one query's int8 codes as kernels read them.
pub fn pack_query(query: &[i8], format: IndexFormat) -> Vec<u32> {
    let mut words = vec![0; query.len() / 4];
    for (channel, &code) in query.iter().enumerate() {
        let (word, shift) = query_place(format, channel);
        words[word] |= u32::from(code as u8) << shift;
    }
    words
}

/// The codes of [`pack_query`].
pub fn unpack_query(words: &[u32], format: IndexFormat) -> Vec<i8> {
    (0..format.channels as usize)
        .map(|channel| {
            let (word, shift) = query_place(format, channel);
            (words[word] >> shift) as u8 as i8
        })
        .collect()
}

/// The integer logit: the sum of `w[c] * u[c]`, eight-bit codes less 128 as they are stored.
pub fn code_logit(query: &[i8], codes: &[u8], format: IndexFormat) -> i32 {
    let zero = if format.bits == 8 { 128 } else { 0 };
    query.iter().zip(codes).map(|(&w, &u)| i32::from(w) * (i32::from(u) - zero)).sum()
}

/// The smallest and largest key of each dimension among these rows.
pub fn bounds(keys: &[&[f32]]) -> (Vec<f32>, Vec<f32>) {
    let fold = |pick: fn(f32, f32) -> f32| {
        (0..keys[0].len()).map(|d| keys.iter().map(|k| k[d]).reduce(pick).expect("a key")).collect()
    };
    (fold(f32::min), fold(f32::max))
}
