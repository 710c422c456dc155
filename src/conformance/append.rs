//! Cases of `append_rows`.

use super::cache::{Cache, Family, latent_shapes, shape_label, shapes, sizes};
use super::rig::{Data, Halves, POISON, Random, compare_halves, run, stored};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::Shape;
use crate::gpu::Gpu;
use crate::kernels::{self, Number};
use crate::reference::model::rope;
use half::f16;

pub(super) fn cases(cases: &mut Vec<Case>) {
    for shape in shapes().into_iter().chain(sizes()).chain(latent_shapes()) {
        for (number, turns, segments) in
            [(Number::F32, true, 2), (Number::F16, true, 1), (Number::F32, false, 1)]
        {
            let turned = if turns { " turned" } else { "" };
            let label = format!("{} {number:?}{turned} segments {segments}", shape_label(&shape));
            cases.push(Case::new("append_rows", label, false, move |gpu| {
                Box::pin(append_rows(gpu, shape, number, turns, segments))
            }));
        }
    }
}

/// Rows of numbers, as they are stored, and what they are.
pub(super) struct Rows {
    pub(super) numbers: Vec<f32>,
    pub(super) words: Vec<u32>,
    pub(super) stride: u32,
}

impl Rows {
    pub(super) fn new(random: &mut Random, rows: usize, stride: u32, number: Number) -> Self {
        let mut numbers = random.floats(rows * stride as usize);
        // A number that f16 cannot hold is stored as the largest that it can.
        numbers[0] = if number == Number::F32 { 1e9 } else { 6e4 };
        let words = match number {
            Number::F32 => numbers.iter().map(|v| v.to_bits()).collect(),
            Number::F16 => {
                let halves: Vec<f16> = numbers.iter().map(|&v| f16::from_f32(v)).collect();
                halves.iter().zip(&mut numbers).for_each(|(half, v)| *v = half.to_f32());
                let bits = |i: usize| u32::from(halves.get(i).map_or(0, |half| half.to_bits()));
                (0..halves.len().div_ceil(2)).map(|i| bits(2 * i) | bits(2 * i + 1) << 16).collect()
            }
        };
        Self { numbers, words, stride }
    }

    fn head(&self, shape: &Shape, row: usize, head: u32) -> Vec<f64> {
        let at = row * self.stride as usize + (head * shape.head_dim) as usize;
        self.numbers[at..][..shape.head_dim as usize].iter().map(|&v| f64::from(v)).collect()
    }
}

/// Whether the buffers of a cache, all of keys before those of values, hold these rows of a batch, and nothing more.
pub(super) fn check_appended(
    cache: &Cache,
    counts: &[u32],
    [keys, values]: [&Rows; 2],
    turns: bool,
    segments: &[Vec<u32>],
) -> Verdict {
    let shape = &cache.shape;
    let mut expected: Vec<Vec<Halves>> =
        segments.iter().map(|words| vec![None; words.len()]).collect();
    for (row, (sequence, position)) in cache.rows(counts).into_iter().enumerate() {
        for head in 0..shape.kv_heads {
            for which in 0..shape.cached_rows() {
                let mut want = [keys, values][which as usize].head(shape, row, head);
                if turns && which == 0 {
                    let angles = cache.angles(position);
                    let first = want.len() - 2 * angles.len();
                    rope(&mut want[first..], &angles, shape.rope_interleaved);
                }
                let (segment, to) = cache.row_place((sequence, position), head, which == 1);
                for (place, two) in expected[segment][to..].iter_mut().zip(want.chunks_exact(2)) {
                    // cos, sin, two products and a sum, of numbers that are 1 at most.
                    *place = Some([two[0], two[1]].map(|v| stored(v, 6.0 * 2f64.powi(-22))));
                }
            }
        }
    }
    for (segment, (got, want)) in segments.iter().zip(&expected).enumerate() {
        const WHY: &str = "Either neighbour, subnormals perhaps as zero; cos, sin, two products and a sum each round to f32, of numbers \
            that are 1 at most.";
        compare_halves(&format!("segment {segment}"), got, want, WHY)?;
    }
    Ok(())
}

async fn append_rows(
    gpu: &Gpu,
    shape: Shape,
    number: Number,
    turns: bool,
    segments: u32,
) -> Result<Verdict> {
    let lengths = [shape.block + 1, 3 * shape.block + 8, 1];
    let counts = [3, shape.block + 6, 1];
    let cache = Cache::new(shape, &lengths, segments, Family::Random);
    let step = cache.step(&counts, None, &[], 16);
    let (rows, width) = (cache.rows(&counts).len(), shape.kv_heads * shape.head_dim);
    let mut random = Random::new(5);
    // Rows of halves may begin in the middle of a word.
    let keys = Rows::new(&mut random, rows, width + 7, number);
    let values = Rows::new(&mut random, rows, width, number);
    let spec = kernels::append_rows(&shape, number, [keys.stride, values.stride], turns);
    let mut caches = Vec::new();
    for segment in 0..segments {
        let before = vec![POISON; cache.segment_words(segment).len()];
        let data = kernels::AppendRows {
            step: Data::In(&step.words),
            segment: Data::uniform(cache.segment(segment)),
            keys: Data::In(&keys.words),
            kv: Data::InOut(&before),
            values: (!shape.shares_values()).then_some(Data::In(&values.words)),
        };
        let grid = (shape.kv_heads, shape.cached_rows(), step.rows);
        caches.push(run(gpu, &spec, data, grid).await?.kv);
    }
    Ok(check_appended(&cache, &counts, [&keys, &values], turns, &caches))
}
