//! What one dispatch of a candidate is made of.

use super::twins::{Block, Inputs};
use super::{GROUP, KV_HEADS};
use asynctls::gpu::ShaderSpec;
use half::f16;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;

/// What bytes of a record or query hold.
#[derive(Clone, Copy)]
pub enum Fill {
    /// Codes or signs: every byte is one.
    Bytes,
    /// f16 in -1 .. 1.
    Halves,
    /// f32 in -1 .. 1.
    Floats,
}

/// Runs of bytes and what they hold, one after the other: a multiple of 16 in all.
pub struct Layout(pub Vec<(usize, Fill)>);

impl Layout {
    /// Bytes of one record.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(bytes, _)| bytes).sum()
    }

    /// So many random records.
    pub fn fill(&self, records: usize, random: &mut Pcg64) -> Vec<u8> {
        let mut data = Vec::with_capacity(records * self.bytes());
        for _ in 0..records {
            for &(bytes, fill) in &self.0 {
                let end = data.len() + bytes;
                while data.len() < end {
                    let word = random.next_u32();
                    let number = word as i32 as f32 / (1u32 << 31) as f32;
                    match fill {
                        Fill::Bytes => data.extend(word.to_le_bytes()),
                        Fill::Halves => data.extend(f16::from_f32(number).to_le_bytes()),
                        Fill::Floats => data.extend(number.to_le_bytes()),
                    }
                }
            }
        }
        data
    }
}

/// How a workgroup is laid out.
#[derive(Clone, Copy)]
pub struct Lanes {
    /// Invocations of a workgroup.
    pub workgroup: u32,
    /// Lanes that share a block.
    pub a_block: u32,
    /// Blocks that each lane works on.
    pub blocks: u32,
}

/// The kernels' files.
const SOURCES: &[(&str, &str)] = &[
    ("scans/lib.wgsl", include_str!("lib.wgsl")),
    ("scans/tokens.wgsl", include_str!("tokens.wgsl")),
    ("scans/minmax.wgsl", include_str!("minmax.wgsl")),
    ("scans/codes.wgsl", include_str!("codes.wgsl")),
    ("scans/codes_f32.wgsl", include_str!("codes_f32.wgsl")),
    ("scans/codes_packed.wgsl", include_str!("codes_packed.wgsl")),
    ("scans/rank8.wgsl", include_str!("rank8.wgsl")),
    ("scans/read.wgsl", include_str!("read.wgsl")),
    ("scans/sign_popcount.wgsl", include_str!("sign_popcount.wgsl")),
    ("scans/query_block_f32.wgsl", include_str!("query_block_f32.wgsl")),
    ("scans/query_block_int8.wgsl", include_str!("query_block_int8.wgsl")),
    ("scans/query_frozen.wgsl", include_str!("query_frozen.wgsl")),
    ("scans/query_storage.wgsl", include_str!("query_storage.wgsl")),
    ("scans/fold_max.wgsl", include_str!("fold_max.wgsl")),
    ("scans/fold_logsumexp.wgsl", include_str!("fold_logsumexp.wgsl")),
    ("scans/finish_workgroup.wgsl", include_str!("finish_workgroup.wgsl")),
    ("scans/finish_subgroup.wgsl", include_str!("finish_subgroup.wgsl")),
];

/// A kernel of one of these files.
pub fn kernel(file: &'static str) -> ShaderSpec {
    ShaderSpec::new(file).sources(SOURCES)
}

/// How a kernel's inputs are bound.
#[derive(Clone, Copy)]
pub enum Bound {
    /// As `lib.wgsl` declares.
    Probe,
    /// As the product's `block_score` declares, for so many channels: the first dimensions.
    Product {
        /// Channels.
        channels: u32,
    },
}

/// One dispatch of a candidate.
pub struct Stage {
    /// The kernel.
    pub spec: ShaderSpec,
    /// How its inputs are bound.
    pub bound: Bound,
    /// Blocks that a workgroup scores.
    pub blocks_a_workgroup: usize,
    /// One block record of one KV head.
    pub record: Layout,
    /// One query record of one scoring head.
    pub query: Layout,
    /// Scoring heads per KV head: the group, or one where the group is summed first.
    pub heads_a_kv_head: usize,
    /// It scans one of so many blocks.
    pub share: usize,
    /// Error allowed, relative to the largest score.
    pub tolerance: f64,
    /// The score of a block.
    pub twin: Box<dyn Fn(&Block) -> f64>,
}

impl Stage {
    /// A probe by a kernel whose slots are filled. A block has `units` units of loading; `own` are the constants that only
    /// its files need.
    pub fn new(
        kernel: ShaderSpec,
        lanes: Lanes,
        units: u32,
        own: &[(&'static str, u32)],
        (record, query): (Layout, Layout),
        twin: impl Fn(&Block) -> f64 + 'static,
    ) -> Self {
        let shared = [
            ("KV_HEADS", KV_HEADS as u32),
            ("GROUP", GROUP as u32),
            ("RECORD_VECS", record.bytes() as u32 / 16),
            ("QUERY_VECS", query.bytes() as u32 / 16),
            ("WORKGROUP", lanes.workgroup),
            ("LANES", lanes.a_block),
            ("BLOCKS_A_LANE", lanes.blocks),
            ("UNITS_A_BLOCK", units),
            ("UNITS", units / lanes.a_block),
        ];
        Self {
            spec: shared
                .iter()
                .chain(own)
                .fold(kernel, |kernel, &(name, value)| kernel.constant(name, value)),
            bound: Bound::Probe,
            blocks_a_workgroup: (lanes.workgroup / lanes.a_block * lanes.blocks) as usize,
            record,
            query,
            heads_a_kv_head: GROUP,
            share: 1,
            tolerance: 1e-5,
            twin: Box::new(twin),
        }
    }

    /// Scoring heads of a row.
    pub fn heads(&self) -> usize {
        KV_HEADS * self.heads_a_kv_head
    }

    /// Random queries, and a random block table.
    pub fn inputs(&self, rows: usize, blocks: usize, random: &mut Pcg64) -> Inputs {
        let heads = rows * self.heads();
        let mut table: Vec<u32> = (0..(rows * blocks) as u32).collect();
        for i in (1..table.len()).rev() {
            table.swap(i, random.next_u32() as usize % (i + 1));
        }
        Inputs {
            table,
            queries: self.query.fill(heads, random),
            scales: (0..heads).map(|_| 1e-3 + (random.next_u32() % 1000) as f32 * 1e-6).collect(),
        }
    }
}
