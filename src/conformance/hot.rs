//! Cases of the hot cache: `place_blocks`, `unpack_blocks`, and decode attention over blocks that were there and blocks that
//! arrived.

use super::attend::{check_attention, random_qkv, sparse_tokens};
use super::cache::{Cache, Family, latent_shapes, shape_label, shapes};
use super::rig::{
    Data, Halves, POISON, Random, bits, compare_halves, half_rounding, run, same_words, untouched,
};
use super::{Case, Verdict};
use crate::Result;
use crate::attention::{Blocks, Budget, Shape};
use crate::formats::{HeadFormat, KvType};
use crate::gpu::Gpu;
use crate::kernels::{self, HotSlots, MergeParams, NO_SLOT, PartParams, Place, SegmentParams};
use half::f16;

pub(super) fn cases(cases: &mut Vec<Case>) {
    for shape in shapes().into_iter().chain(latent_shapes()) {
        for segments in [1, 3] {
            let label = format!("{} segments {segments}", shape_label(&shape));
            cases.push(Case::new("place_blocks", label.clone(), false, move |gpu| {
                Box::pin(place_blocks(gpu, shape, segments, KvType::F16))
            }));
            // Where blocks are is all that differs from the cases of `sparse_split`: one shape a split kernel, and heads that
            // share a workgroup's tiles otherwise.
            if !(shape.head_dim == 96 || (shape.kv_heads, shape.head_dim) == (2, 64)) {
                continue;
            }
            let label = format!("{label} over a hot cache");
            cases.push(Case::new("sparse_split", label, true, move |gpu| {
                Box::pin(hot_split(gpu, shape, segments))
            }));
        }
    }
    for shape in packed_shapes() {
        let label = format!("{} q8_0", shape_label(&shape));
        cases.push(Case::new("place_blocks", format!("{label} segments 2"), false, move |gpu| {
            Box::pin(place_blocks(gpu, shape, 2, KvType::Q8_0))
        }));
        cases.push(Case::new("unpack_blocks", label, false, move |gpu| {
            Box::pin(unpack_blocks(gpu, shape))
        }));
    }
}

// A head-block's vectors and scales do not depend on what there is otherwise: both block sizes, and keys alone.
fn packed_shapes() -> Vec<Shape> {
    let small = Shape { block: 16, ..Shape::new(3, 1, 80, false) };
    [Shape::new(2, 1, 128, false), small].into_iter().chain(latent_shapes()).collect()
}

/// One head-block as it is stored, and what the cache has of it.
struct HeadBlock {
    stored: Vec<u32>,
    cached: Vec<u32>,
}

impl HeadBlock {
    fn new(format: &HeadFormat, random: &mut Random) -> Self {
        let values = format.head_values();
        let halves = match format.kv_type {
            KvType::F16 => (0..values / 2).flat_map(|_| random.word().to_le_bytes()).collect(),
            KvType::Q8_0 => groups(random, values),
        };
        let mut stored = Vec::new();
        format.store(&halves, &mut stored);
        let mut cached = vec![0; halves.len()];
        format.load(&stored, &mut cached);
        let words =
            |bytes: &[u8]| bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        Self { stored: words(&stored), cached: words(&cached) }
    }
}

// Groups of every size that f16 has, and of zeros.
fn groups(random: &mut Random, values: usize) -> Vec<u8> {
    let value = |i: usize| {
        let exponent = 15 - (i / 32 % 41) as i32;
        let size = if exponent < -24 { 0.0 } else { 2f32.powi(exponent) * 1.99 };
        f16::from_f32((random.float() * size).clamp(-65504.0, 65504.0))
    };
    (0..values).map(value).flat_map(f16::to_le_bytes).collect()
}

async fn unpack_blocks(gpu: &Gpu, shape: Shape) -> Result<Verdict> {
    let format = shape.head_format(KvType::Q8_0);
    let mut random = Random::new(11);
    let blocks = 3;
    let heads: Vec<HeadBlock> =
        (0..blocks * shape.kv_heads).map(|_| HeadBlock::new(&format, &mut random)).collect();
    let stored: Vec<u32> = heads.iter().flat_map(|head| head.stored.iter().copied()).collect();
    // Room for one block more.
    let head_words = heads[0].cached.len();
    let words = head_words * ((blocks + 1) * shape.kv_heads) as usize;
    let data = kernels::UnpackBlocks { stored: Data::In(&stored), kv: Data::Out(words) };
    let spec = kernels::unpack_blocks(&shape, KvType::Q8_0);
    let got = run(gpu, &spec, data, (shape.kv_heads, blocks, 1)).await?.kv;
    for (i, got) in got.chunks(head_words).enumerate() {
        let what = format!("head-block {i}");
        let verdict = match heads.get(i) {
            Some(head) => same_halves(&what, got, &head.cached),
            None => untouched(&what, got),
        };
        if verdict.is_err() {
            return Ok(verdict);
        }
    }
    Ok(Ok(()))
}

// What is stored, and what is stored as bytes with a scale.
fn same_halves(what: &str, got: &[u32], want: &[u32]) -> Verdict {
    const WHY: &str = "A product of a scale and a byte is exact in f32. Rounding it to f16 is to nearest in practice, but WGSL allows \
        either neighbour, and zero, or what is 2^-23 off, for subnormal numbers (SwiftShader makes the latter).";
    let half = |word: u32| f64::from(f16::from_bits(word as u16));
    let element = |value: f64| (value, half_rounding(value));
    let pair = |&word: &u32| Some([element(half(word)), element(half(word >> 16))]);
    let want: Vec<Halves> = want.iter().map(pair).collect();
    compare_halves(what, got, &want, WHY)
}

async fn place_blocks(gpu: &Gpu, shape: Shape, segments: u32, kv_type: KvType) -> Result<Verdict> {
    let (slots, pool, layers, layer, epoch) = (7, 11, 3, 1u32, 42);
    let hot = HotSlots { pool_blocks: pool, slots };
    let format = shape.head_format(kv_type);
    let mut random = Random::new(3);
    // Of every KV head three blocks, two of them in the place of others.
    let items: Vec<[u32; 4]> = (0..shape.kv_heads)
        .flat_map(|head| {
            [[head, 6, 2, NO_SLOT], [head, (head + 1) % 5, 9, 0], [head, 5, 10, (head + 3) % 2 + 4]]
        })
        .collect();
    let data: Vec<HeadBlock> = items.iter().map(|_| HeadBlock::new(&format, &mut random)).collect();
    let head_words = data[0].cached.len();
    // Another layer's part comes first.
    let first = layers + 5;
    let mut arrived = vec![[9u32; 4]; first as usize];
    arrived[layer as usize] = [first, items.len() as u32, epoch, 0];
    let mut arrived: Vec<u32> = arrived.concat();
    arrived.extend(items.concat());
    arrived.extend(data.iter().flat_map(|head| &head.stored));

    let table: Vec<u32> = (0..hot.words(shape.kv_heads) as u32).map(|i| 1000 + i).collect();
    let blocks = slots.div_ceil(segments);
    for index in 0..segments {
        let segment = SegmentParams::paged(index * blocks, blocks, index, segments);
        let kv_words = (u64::from(blocks) * shape.block_bytes() / 4) as usize;
        let buffers = kernels::PlaceBlocks {
            stored: Data::In(&arrived),
            part: Data::uniform(PartParams { layer }),
            segment: Data::uniform(segment),
            kv: Data::Out(kv_words),
            hot_slots: Data::InOut(&table),
        };
        let spec = kernels::place_blocks(&shape, hot, kv_type);
        let got = run(gpu, &spec, buffers, (items.len() as u32, 1, 1)).await?;
        let (got_table, kv) = (got.hot_slots, got.kv);
        let mut want_kv = vec![None; blocks as usize * shape.kv_heads as usize];
        let mut want_table = table.clone();
        for (&[head, slot, block, evicted], data) in items.iter().zip(&data) {
            if index == 0 {
                if evicted != NO_SLOT {
                    want_table[(head * pool + evicted) as usize] = NO_SLOT;
                }
                want_table[(head * pool + block) as usize] = slot;
                want_table[(shape.kv_heads * pool + head * slots + slot) as usize] = epoch;
            }
            let place = slot.wrapping_sub(segment.first);
            if place < blocks {
                want_kv[(place * shape.kv_heads + head) as usize] = Some(data);
            }
        }
        let verdict =
            same_words(&format!("slots and epochs, segment {index}"), &got_table, &want_table);
        if verdict.is_err() {
            return Ok(verdict);
        }
        for (i, (got, want)) in kv.chunks(head_words).zip(want_kv).enumerate() {
            let what = format!("segment {index} head-block {i}");
            let verdict = match want {
                Some(want) if kv_type == KvType::Q8_0 => same_halves(&what, got, &want.cached),
                Some(want) => same_words(&what, got, &want.cached),
                None => untouched(&what, got),
            };
            if verdict.is_err() {
                return Ok(verdict);
            }
        }
    }
    Ok(Ok(()))
}

// Physical blocks of the cache are slots; the pool numbers blocks the other way round. Every third block lies in the window,
// and half of the others have arrived in this epoch.
async fn hot_split(gpu: &Gpu, shape: Shape, segments: u32) -> Result<Verdict> {
    let block = shape.block;
    let lengths = [6 * block + 5, block, 3 * block + 1];
    let cache = Cache::new(shape, &lengths, segments, Family::Random);
    let slots = segments * cache.blocks_a_segment;
    let hot = HotSlots { pool_blocks: slots + 4, slots };
    let pool_of = |slot: u32| hot.pool_blocks - 1 - slot;
    let in_window =
        |logical: usize, table: &[u32]| logical.is_multiple_of(3) || logical + 1 == table.len();
    let tables: Vec<Vec<u32>> =
        cache.tables.iter().map(|table| table.iter().map(|&s| pool_of(s)).collect()).collect();
    let windows: Vec<Vec<u32>> = cache
        .tables
        .iter()
        .map(|table| {
            let slot = |(i, &slot)| if in_window(i, table) { slot } else { NO_SLOT };
            table.iter().enumerate().map(slot).collect()
        })
        .collect();
    const EPOCH: u32 = 77;
    // Before and after what is missing arrived.
    let mut before = vec![NO_SLOT; hot.words(shape.kv_heads) as usize];
    let mut after = before.clone();
    for head in 0..shape.kv_heads {
        let epochs = (shape.kv_heads * hot.pool_blocks + head * slots) as usize;
        for table in &cache.tables {
            for (logical, &slot) in table.iter().enumerate() {
                let at = (head * hot.pool_blocks + pool_of(slot)) as usize;
                let arrives = (slot + head).is_multiple_of(2);
                // The window comes first: what the table says of its blocks must not matter.
                let said = if in_window(logical, table) { 0 } else { slot };
                after[at] = said;
                before[at] = if arrives && !in_window(logical, table) { NO_SLOT } else { said };
                after[epochs + slot as usize] = if arrives { EPOCH } else { EPOCH - 2 };
            }
        }
    }
    let budget = Budget {
        blocks: Blocks::Count(3),
        tokens: 3 * block,
        sink_blocks: 1,
        recent_blocks: 1,
        dense_below: 0,
    };
    let step = cache.hot_step((&tables, &windows), &budget, EPOCH);
    let rows = cache.rows(&[1, 1, 1]);
    let chosen = super::attend::choose_tokens(&rows, &shape, &budget, &step);
    let tokens = sparse_tokens(&rows, &shape, &budget, &step, &chosen);
    let qkv = random_qkv(&shape, rows.len());
    let qkv_bits = bits(&qkv);

    let count = 2 * segments;
    let states = (step.rows * shape.q_heads() * count * step.splits) as usize;
    let mut partial_o = vec![POISON; states * shape.value_dim() as usize];
    let mut partial_ml = vec![POISON; states * 2];
    for (place, table, first) in
        [(Place::Hot(hot), &before, 0), (Place::Arrived(hot), &after, segments)]
    {
        for index in 0..segments {
            let segment = SegmentParams { index: first + index, count, ..cache.segment(index) };
            let kv = cache.segment_words(index);
            let data = kernels::Split {
                step: Data::In(&step.words),
                segment: Data::uniform(segment),
                qkv: Data::In(&qkv_bits),
                kv: Data::In(&kv),
                values_in: None,
                partial_o: Data::InOut(&partial_o),
                partial_ml: Data::InOut(&partial_ml),
                chosen_tokens: Some(Data::In(&chosen)),
                hot_slots: Some(Data::In(table)),
            };
            let grid = (step.splits, kernels::split_workgroups(gpu.tier, &shape), step.rows);
            let spec = kernels::sparse_split(gpu.tier, &shape, place);
            let results = run(gpu, &spec, data, grid).await?;
            (partial_o, partial_ml) = (results.partial_o, results.partial_ml);
        }
    }
    let data = kernels::Merge {
        step: Data::In(&step.words),
        merge: Data::uniform(MergeParams { segments: count, count }),
        partial_o: Data::In(&partial_o),
        partial_ml: Data::In(&partial_ml),
        out: Data::Out((step.rows * shape.q_heads() * shape.value_dim()) as usize),
    };
    let grid = (shape.q_heads(), step.rows, kernels::merge_parts(&shape));
    let out = run(gpu, &kernels::merge(gpu.tier, &shape), data, grid).await?.out;
    Ok(check_attention(
        &cache,
        &rows,
        &qkv,
        &out,
        &tokens,
        (0, kernels::split_rounds(gpu.tier, &shape)),
    ))
}
