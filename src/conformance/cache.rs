//! A paged key and value cache with known contents, spread over segments in shuffled order, for attention cases.

use super::rig::Random;
use crate::attention::{
    Attended, Budget, IndexFormat, KvLayout, Shape, Span, Step, StepSettings, Strides, Values,
};
use crate::kernels::SegmentParams;
use crate::reference::summary::SummaryTwin;
use half::f16;

/// A kind of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Random,
    /// Logits of about +-60: one token takes all the weight, and exponentials underflow.
    Peaked,
    /// Every key the same: every token weighs the same.
    Equal,
    /// Keys as large as f16 has them, of either sign.
    Largest,
    /// The first sequence's last value is NaN and one key infinite: other sequences must not notice.
    NotFinite,
    /// The first sequence's first key is not a number.
    NotANumber,
}

/// How keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// In one buffer.
    Joined,
    /// In two, without room between.
    Apart,
    /// In two, with room after each KV head and after each block.
    Roomy,
    /// In two, each KV head's blocks together.
    HeadsFirst,
}

pub(super) struct Cache {
    pub(super) shape: Shape,
    pub(super) layout: KvLayout,
    /// Tokens of each sequence.
    lengths: Vec<u32>,
    /// [sequence][KV head][token] rows.
    keys: Vec<Vec<Vec<Vec<f32>>>>,
    values: Vec<Vec<Vec<Vec<f32>>>>,
    pub(super) tables: Vec<Vec<u32>>,
    pub(super) segments: u32,
    pub(super) blocks_a_segment: u32,
    ids: Vec<u32>,
}

impl Cache {
    pub(super) fn new(shape: Shape, lengths: &[u32], segments: u32, family: Family) -> Self {
        let mut random = Random::new(
            u64::from(shape.head_dim) * 31 + lengths.iter().map(|&l| u64::from(l)).sum::<u64>(),
        );
        let heads = shape.kv_heads as usize;
        let scale = if family == Family::Peaked { 40.0 } else { 1.0 };
        let mut rows = |scale: f32| -> Vec<Vec<Vec<Vec<f32>>>> {
            lengths
                .iter()
                .map(|&n| {
                    (0..heads)
                        .map(|_| {
                            (0..n)
                                .map(|_| {
                                    (0..shape.head_dim)
                                        .map(|_| f16::from_f32(random.float() * scale).to_f32())
                                        .collect()
                                })
                                .collect()
                        })
                        .collect()
                })
                .collect()
        };
        let (mut keys, mut values) = (rows(scale), rows(1.0));
        match family {
            Family::Random | Family::Peaked => {}
            Family::Equal => {
                for head in keys.iter_mut().flatten() {
                    let first = head[0].clone();
                    head.iter_mut().for_each(|row| row.clone_from(&first));
                }
            }
            Family::Largest => {
                let values = keys.iter_mut().flatten().flatten().flatten();
                values.for_each(|key| *key = f16::MAX.to_f32().copysign(*key));
            }
            Family::NotFinite => {
                for head in &mut values[0] {
                    head.last_mut().expect("a token")[0] = f32::NAN;
                }
                keys[0][0][0][1] = f32::INFINITY;
            }
            Family::NotANumber => keys[0].iter_mut().for_each(|head| head[0][1] = f32::NAN),
        }
        // Physical blocks in shuffled order, with two that nobody uses; those of an only sequence in order.
        let blocks: u32 = lengths.iter().map(|n| n.div_ceil(shape.block)).sum::<u32>() + 2;
        let blocks_a_segment = blocks.div_ceil(segments);
        let mut order: Vec<u32> = (0..blocks).collect();
        let shuffled = if lengths.len() == 1 { 1 } else { order.len() };
        for i in (1..shuffled).rev() {
            order.swap(i, random.below(i as u32 + 1) as usize);
        }
        let mut order = order.into_iter();
        let tables = lengths
            .iter()
            .map(|n| order.by_ref().take(n.div_ceil(shape.block) as usize).collect())
            .collect();
        Self {
            shape,
            layout: KvLayout::Joined,
            lengths: lengths.to_vec(),
            keys,
            values,
            tables,
            segments,
            blocks_a_segment,
            ids: vec![0; 4096],
        }
    }

    /// A cache of the same sequences with other keys and values, of which `row` makes each.
    pub(super) fn of(&self, shape: Shape, row: impl Fn(usize, u32, u32) -> [Vec<f32>; 2]) -> Self {
        let rows = |which: usize| {
            let of_head = |sequence: usize, head: u32| {
                let tokens = 0..self.lengths[sequence];
                tokens.map(|token| row(sequence, head, token)[which].clone()).collect()
            };
            let of_sequence =
                |sequence: usize| (0..shape.kv_heads).map(|head| of_head(sequence, head)).collect();
            (0..self.lengths.len()).map(of_sequence).collect()
        };
        let (keys, values) = (rows(0), rows(1));
        let (lengths, tables, ids) = (self.lengths.clone(), self.tables.clone(), self.ids.clone());
        let (segments, blocks_a_segment) = (self.segments, self.blocks_a_segment);
        let layout = KvLayout::Joined;
        Self { shape, layout, lengths, keys, values, tables, segments, blocks_a_segment, ids }
    }

    /// The same cache, whose keys and values lie so.
    pub(super) fn lying(self, lie: Lie) -> Self {
        let rows = self.shape.block * self.shape.head_dim;
        let strides = |block, head| KvLayout::Apart(Strides { block, head });
        let layout = match lie {
            Lie::Joined => KvLayout::Joined,
            Lie::Apart => KvLayout::apart(&self.shape),
            Lie::Roomy => strides(self.shape.kv_heads * (rows + 24) + 8, rows + 24),
            Lie::HeadsFirst => strides(rows + 16, self.blocks_a_segment * (rows + 16)),
        };
        Self { layout, ..self }
    }

    pub(super) fn key(&self, sequence: usize, head: usize, token: u32) -> &[f32] {
        &self.keys[sequence][head][token as usize]
    }

    /// The keys of a logical block.
    pub(super) fn block_keys(&self, sequence: usize, head: usize, logical: u32) -> Vec<&[f32]> {
        let block = self.shape.block;
        (logical * block..(logical + 1) * block).map(|t| self.key(sequence, head, t)).collect()
    }

    pub(super) fn value(&self, sequence: usize, head: usize, token: u32) -> &[f32] {
        match self.shape.values {
            Values::Own => &self.values[sequence][head][token as usize],
            Values::OfKeys(length) => &self.key(sequence, head, token)[..length as usize],
        }
    }

    pub(super) fn segment(&self, index: u32) -> SegmentParams {
        let params =
            if self.tables.len() == 1 { SegmentParams::in_order } else { SegmentParams::paged };
        params(index * self.blocks_a_segment, self.blocks_a_segment, index, self.segments)
    }

    /// What a segment's buffers hold: keys, or keys and values; and values where they are apart.
    pub(super) fn buffers(&self, index: u32) -> (Vec<u32>, Option<Vec<u32>>) {
        let KvLayout::Apart(strides) = self.layout else {
            return (self.segment_words(index), None);
        };
        let words = |rows| self.apart_words(index, rows, strides);
        (words(&self.keys), Some(words(&self.values)))
    }

    /// Keys or values of a segment; all else holds NaN.
    fn apart_words(&self, index: u32, rows: &[Vec<Vec<Vec<f32>>>], strides: Strides) -> Vec<u32> {
        let Shape { kv_heads, head_dim, block, .. } = self.shape;
        let first = |slot: u32, head: u32| (slot * strides.block + head * strides.head) as usize;
        let end = first(self.blocks_a_segment - 1, kv_heads - 1) + (block * head_dim) as usize;
        let mut halves = vec![f16::NAN; end];
        for (sequence, table) in self.tables.iter().enumerate() {
            for token in 0..self.lengths[sequence] {
                let physical = table[(token / block) as usize];
                if physical / self.blocks_a_segment != index {
                    continue;
                }
                for head in 0..kv_heads {
                    let at = first(physical % self.blocks_a_segment, head);
                    let at = at + (token % block * head_dim) as usize;
                    let row = &rows[sequence][head as usize][token as usize];
                    for (to, from) in halves[at..].iter_mut().zip(row) {
                        *to = f16::from_f32(*from);
                    }
                }
            }
        }
        words(&halves)
    }

    /// One segment's words, in one buffer; blocks that nobody uses hold NaN.
    pub(super) fn segment_words(&self, index: u32) -> Vec<u32> {
        let d = self.shape.head_dim as usize;
        let block_halves = self.shape.block_bytes() as usize / 2;
        let mut halves = vec![f16::NAN; block_halves * self.blocks_a_segment as usize];
        let block = self.shape.block as usize;
        let cached = self.shape.cached_rows() as usize;
        for (sequence, table) in self.tables.iter().enumerate() {
            for token in 0..self.lengths[sequence] {
                let slot =
                    table[token as usize / block].wrapping_sub(index * self.blocks_a_segment);
                if slot >= self.blocks_a_segment {
                    continue;
                }
                for head in 0..self.shape.kv_heads as usize {
                    for (which, rows) in
                        [&self.keys, &self.values].into_iter().take(cached).enumerate()
                    {
                        let row = &rows[sequence][head][token as usize];
                        let at = slot as usize * block_halves
                            + ((head * cached + which) * block + token as usize % block) * d;
                        for (to, from) in halves[at..at + d].iter_mut().zip(row) {
                            *to = f16::from_f32(*from);
                        }
                    }
                }
            }
        }
        words(&halves)
    }

    /// One segment's summaries, of every sealed block; those of other blocks are NaN.
    pub(super) fn summary_words(&self, index: u32, twin: &SummaryTwin) -> Vec<u32> {
        let summary = twin.scorer.summary().expect("a summary that has a twin");
        let block_halves = summary.block_bytes(&self.shape) as usize / 2;
        let head_halves = block_halves / self.shape.kv_heads as usize;
        let mut halves = vec![f16::NAN; block_halves * self.blocks_a_segment as usize];
        let block = self.shape.block;
        for (sequence, table) in self.tables.iter().enumerate() {
            for logical in 0..self.lengths[sequence] / block {
                let slot = table[logical as usize].wrapping_sub(index * self.blocks_a_segment);
                if slot >= self.blocks_a_segment {
                    continue;
                }
                for head in 0..self.shape.kv_heads as usize {
                    let rows = twin.rows(&self.block_keys(sequence, head, logical)).concat();
                    let at = slot as usize * block_halves + head * head_halves;
                    for (to, from) in halves[at..].iter_mut().zip(rows) {
                        *to = f16::from_f32(from);
                    }
                }
            }
        }
        words(&halves)
    }

    /// A step over the last `counts[i]` tokens of each sequence i.
    pub(super) fn step(
        &self,
        counts: &[u32],
        budget: Option<&Budget>,
        sealing: &[Vec<u32>],
        target: u32,
    ) -> Step {
        self.mixed_step(
            &counts.iter().map(|&n| (n, Attended::default())).collect::<Vec<_>>(),
            budget,
            sealing,
            target,
        )
    }

    /// A step over the last token of each sequence, whose blocks are these in the pool, and these in the window of a hot cache.
    pub(super) fn hot_step(
        &self,
        (tables, windows): (&[Vec<u32>], &[Vec<u32>]),
        budget: &Budget,
        epoch: u32,
    ) -> Step {
        let blocks = tables.iter().zip(windows);
        let spans: Vec<Span<'_>> = (0..)
            .zip(&self.lengths)
            .zip(blocks)
            .map(|((slot, length), (table, window))| Span {
                slot,
                position: length - 1,
                tokens: &[0],
                table,
                window: Some(window),
                ..Default::default()
            })
            .collect();
        let settings = StepSettings {
            budget: Some(budget),
            target_workgroups: 64,
            epoch,
            ..Default::default()
        };
        Step::new(&self.shape, &spans, &settings, |position, out| {
            out.extend(self.angles(position).into_iter().map(|_| [1.0, 0.0]));
        })
    }

    /// A step over so many of the last tokens of each sequence, attended so.
    pub(super) fn mixed_step(
        &self,
        counts: &[(u32, Attended)],
        budget: Option<&Budget>,
        sealing: &[Vec<u32>],
        target: u32,
    ) -> Step {
        let sealing: Vec<Vec<_>> =
            sealing.iter().map(|blocks| blocks.iter().map(|&b| [b, b]).collect()).collect();
        let spans: Vec<_> = counts
            .iter()
            .enumerate()
            .map(|(i, &(count, attended))| Span {
                attended,
                slot: i as u32,
                position: self.lengths[i] - count,
                tokens: &self.ids[..count as usize],
                table: &self.tables[i],
                sealing: sealing.get(i).map_or(&[], Vec::as_slice),
                ..Default::default()
            })
            .collect();
        let settings = StepSettings { budget, target_workgroups: target, ..Default::default() };
        Step::new(&self.shape, &spans, &settings, |position, out| {
            out.extend(self.angles(position).into_iter().map(|angle| {
                let (sine, cosine) = angle.sin_cos();
                [cosine as f32, sine as f32]
            }));
        })
    }

    /// The rotary angles of a position, with base 10,000.
    pub(super) fn angles(&self, position: u32) -> Vec<f64> {
        // Where values share their numbers with keys, only the keys' rest is turned.
        let turned = match self.shape.values {
            Values::Own => self.shape.head_dim,
            Values::OfKeys(length) => self.shape.head_dim - length,
        };
        let angle = |pair: u32| {
            f64::from(position) * 10000f64.powf(-2.0 * f64::from(pair) / f64::from(turned))
        };
        (0..turned / 2).map(angle).collect()
    }

    /// The segment that holds a token of a sequence, and the first word there of its `row`-th cached row.
    pub(super) fn place(&self, sequence: usize, position: u32, row: u32) -> (usize, usize) {
        let Shape { block, kv_heads, head_dim, .. } = self.shape;
        let physical = self.tables[sequence][(position / block) as usize];
        let slot = physical % self.blocks_a_segment;
        let token = (slot * kv_heads * self.shape.cached_rows() + row) * block + position % block;
        ((physical / self.blocks_a_segment) as usize, (token * head_dim / 2) as usize)
    }

    /// Of a key, or of a value, the number of its buffer, those of all keys before those of values, and its first word there.
    pub(super) fn row_place(
        &self,
        (sequence, position): (usize, u32),
        head: u32,
        is_value: bool,
    ) -> (usize, usize) {
        let (segment, at) =
            self.place(sequence, position, head * self.shape.cached_rows() + u32::from(is_value));
        let KvLayout::Apart(strides) = self.layout else { return (segment, at) };
        let Shape { block, head_dim, .. } = self.shape;
        let slot = self.tables[sequence][(position / block) as usize] % self.blocks_a_segment;
        let number = slot * strides.block + head * strides.head + position % block * head_dim;
        let values = if is_value { self.segments as usize } else { 0 };
        (segment + values, number as usize / 2)
    }

    /// Sequence and position of each row of such a step.
    pub(super) fn rows(&self, counts: &[u32]) -> Vec<(usize, u32)> {
        counts
            .iter()
            .enumerate()
            .flat_map(|(i, &count)| (self.lengths[i] - count..self.lengths[i]).map(move |p| (i, p)))
            .collect()
    }
}

fn words(halves: &[f16]) -> Vec<u32> {
    halves.chunks(2).map(|p| u32::from(p[0].to_bits()) | u32::from(p[1].to_bits()) << 16).collect()
}

/// Shapes that cases cover: groups that fill, underfill and overfill a vec4 of heads.
pub(super) fn shapes() -> Vec<Shape> {
    [(1, 1, 32), (2, 3, 64), (1, 4, 128), (1, 16, 64), (3, 3, 64), (2, 5, 32), (2, 7, 128)]
        .into_iter()
        .map(|(kv_heads, group, head_dim)| Shape::new(kv_heads, group, head_dim, group != 4))
        .collect()
}

/// The other head dimensions and block sizes, among them those whose lanes have unequal shares of a head and whose blocks
/// are smaller than a tile of keys.
pub(super) fn sizes() -> Vec<Shape> {
    [
        (2, 3, 80, 16),
        (1, 4, 96, 32),
        (1, 2, 192, 128),
        (1, 5, 256, 16),
        (1, 3, 64, 16),
        (1, 2, 144, 64),
    ]
    .into_iter()
    .map(|(kv_heads, group, head_dim, block)| Shape {
        block,
        ..Shape::new(kv_heads, group, head_dim, group != 4)
    })
    .collect()
}

/// Absorbed latent attention, of a real model and of a small one.
pub(super) fn latent_shapes() -> Vec<Shape> {
    vec![Shape::latent(20, 512, 64, 256), Shape { block: 16, ..Shape::latent(5, 64, 32, 64) }]
}

/// Shapes of the index: head dimensions and groups in the default format, and every kind of format, among them those whose
/// codes fill one word, two and several chunks, or a number of words that no chunk divides.
pub(super) fn index_shapes() -> Vec<Shape> {
    let defaults = [(1, 1, 32), (2, 3, 64), (2, 3, 80), (1, 4, 128), (2, 5, 256)]
        .map(|(kv_heads, group, head_dim)| Shape::new(kv_heads, group, head_dim, group != 4));
    let formats = [
        (2, 3, 64, 16, 8, 4),
        (1, 4, 192, 128, 128, 8),
        (1, 16, 64, 32, 32, 2),
        (3, 3, 96, 64, 64, 4),
        (2, 5, 32, 64, 16, 2),
        (1, 1, 32, 16, 16, 8),
        (2, 7, 80, 32, 24, 8),
        (2, 2, 256, 128, 16, 4),
        (1, 16, 128, 16, 128, 8),
        // So many queries on so many channels that they are scored in parts: halves, and one by one.
        (1, 32, 128, 16, 128, 8),
        (1, 23, 128, 16, 128, 4),
        (3, 3, 64, 64, 32, 4),
    ]
    .map(|(kv_heads, group, head_dim, block, channels, bits)| {
        let index = IndexFormat { channels, bits };
        Shape { block, index, ..Shape::new(kv_heads, group, head_dim, group != 4) }
    });
    defaults.into_iter().chain(formats).chain(latent_shapes()).collect()
}

pub(super) fn shape_label(shape: &Shape) -> String {
    let Shape { kv_heads, group, head_dim, block, index, softcap, .. } = shape;
    let mut label = format!("d{head_dim} kv{kv_heads} group{group}");
    if shape.shares_values() {
        label += " latent";
    }
    if *block != Shape::BLOCK {
        label += &format!(" block{block}");
    }
    if *index != IndexFormat::for_head_dim(*head_dim) {
        label += &format!(" {}x{}bit", index.channels, index.bits);
    }
    if let Some(cap) = softcap {
        label += &format!(" cap {cap}");
    }
    label
}
