//! Twins of `shaders/index` and of `query_codes`.

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

/// The index channels of one KV head.
#[derive(Clone, Debug, PartialEq)]
pub struct Channels {
    /// Dimensions kept.
    pub ids: Vec<u32>,
    /// Smallest key of each.
    pub minima: Vec<f32>,
    /// Step of each: key ~ minimum + code * step.
    pub steps: Vec<f32>,
}

impl Channels {
    /// The `count / 2` rotary pairs that score highest, ties to the lowest, in ascending order.
    pub fn choose(stats: &Stats, count: usize, interleaved: bool) -> Self {
        let pairs = stats.low.len() / 2;
        let dimensions = |pair: usize| {
            if interleaved { [2 * pair, 2 * pair + 1] } else { [pair, pair + pairs] }
        };
        let score = |pair: usize| dimensions(pair).map(|d| stats.score(d)).iter().sum::<f32>();
        let mut order: Vec<usize> = (0..pairs).collect();
        let key = |pair: usize| super::select::ordered_key(score(pair));
        order.sort_by(|&a, &b| key(b).cmp(&key(a)).then(a.cmp(&b)));
        order.truncate(count / 2);
        order.sort_unstable();
        let ids: Vec<usize> = order.into_iter().flat_map(dimensions).collect();
        Self {
            minima: ids.iter().map(|&d| stats.low[d]).collect(),
            steps: ids.iter().map(|&d| (stats.high[d] - stats.low[d]) / 15.0).collect(),
            ids: ids.into_iter().map(|d| d as u32).collect(),
        }
    }

    /// A key's codes before rounding, so that a comparison can allow either neighbour at a tie.
    pub fn exact_codes(&self, key: &[f32]) -> Vec<f64> {
        let channels = self.ids.iter().zip(&self.minima).zip(&self.steps);
        channels
            .map(|((&id, &low), &step)| {
                if step > 0.0 {
                    ((f64::from(key[id as usize]) - f64::from(low)) / f64::from(step))
                        .clamp(0.0, 15.0)
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

/// Packs 4-bit codes as the index stores them.
pub fn pack_codes(codes: &[u8]) -> Vec<u32> {
    codes
        .chunks_exact(8)
        .map(|c| {
            (0..4)
                .fold(0, |w, i| w | u32::from(c[i]) << (8 * i) | u32::from(c[i + 4]) << (8 * i + 4))
        })
        .collect()
}

/// The codes of [`pack_codes`].
pub fn unpack_codes(words: &[u32]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|w| {
            (0..8u32).map(move |i| {
                if i < 4 { (w >> (8 * i) & 15) as u8 } else { (w >> (8 * (i - 4) + 4) & 15) as u8 }
            })
        })
        .collect()
}

/// The integer logit: the sum of `w[c] * u[c]`.
pub fn code_logit(query: &[i8], codes: &[u8]) -> i32 {
    query.iter().zip(codes).map(|(&w, &u)| i32::from(w) * i32::from(u)).sum()
}
