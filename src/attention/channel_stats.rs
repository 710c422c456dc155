//! The rule by which index channels are chosen.

/// Running extremes of one KV head: what chooses its index channels.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelStats {
    /// max |q| per query head of the group and dimension.
    pub queries: Vec<Vec<f32>>,
    /// max |k| of the cached key per dimension.
    pub keys: Vec<f32>,
}

impl ChannelStats {
    /// Of no token yet.
    pub fn new(group: usize, head_dim: usize) -> Self {
        Self { queries: vec![vec![0.0; head_dim]; group], keys: vec![0.0; head_dim] }
    }

    /// Folds in one token: its query of each head, and its key as cached.
    pub fn fold(&mut self, queries: &[&[f32]], key: &[f32]) {
        let fold = |largest: &mut Vec<f32>, values: &[f32]| {
            largest.iter_mut().zip(values).for_each(|(l, v)| *l = l.max(v.abs()));
        };
        self.queries.iter_mut().zip(queries).for_each(|(largest, query)| fold(largest, query));
        fold(&mut self.keys, key);
    }

    /// The score of a dimension: the mean over heads of max |q|, times max |k|.
    pub fn score(&self, dimension: usize) -> f32 {
        let queries: f32 = self.queries.iter().map(|q| q[dimension]).sum();
        queries / self.queries.len() as f32 * self.keys[dimension]
    }

    /// The dimensions of the `channels / 2` rotary pairs that score highest, ties to the lowest, in ascending order of pairs.
    pub fn choose(&self, channels: u32, interleaved: bool) -> Vec<u32> {
        let pairs = self.keys.len() / 2;
        let dimensions = |pair: usize| {
            if interleaved { [2 * pair, 2 * pair + 1] } else { [pair, pair + pairs] }
        };
        let score = |pair: usize| dimensions(pair).map(|d| self.score(d)).iter().sum::<f32>();
        // Scores are not negative; what is not a number ranks last.
        let key = |pair: usize| Some(score(pair)).filter(|score| !score.is_nan()).unwrap_or(-1.0);
        let mut order: Vec<usize> = (0..pairs).collect();
        order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
        order.truncate(channels as usize / 2);
        order.sort_unstable();
        order.into_iter().flat_map(dimensions).map(|d| d as u32).collect()
    }
}
