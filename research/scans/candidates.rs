//! The candidate layouts, each with the workgroup that served it best on an H100.

use super::stage::{Bound, Fill, Lanes, Layout, Stage, kernel};
use super::twins::{self, Block, Fold};
use super::{BLOCK, KV_HEADS, SHAPE};
use asynctls::attention::{IndexFormat, Shape};
use asynctls::gpu::{ShaderSpec, Tier};
use asynctls::kernels;

/// A layout, at one choice of lanes and workgroups.
pub struct Candidate {
    pub name: String,
    /// Dispatched one after the other.
    pub stages: Vec<Stage>,
    /// The subgroup size that it is for, if it needs one.
    pub subgroup: Option<u32>,
}

impl Candidate {
    /// Bytes of index that one scan reads.
    pub fn bytes(&self, rows: usize, blocks: usize) -> usize {
        let stage = |s: &Stage| s.record.bytes() * (blocks / s.share) * rows * KV_HEADS;
        self.stages.iter().map(stage).sum()
    }
}

const FOLD_MAX: &str = "scans/fold_max.wgsl";
const FINISH_WORKGROUP: &str = "scans/finish_workgroup.wgsl";
const QUERY_FROZEN: &str = "scans/query_frozen.wgsl";
const CODES: &str = "scans/codes.wgsl";
const CODES_PACKED: &str = "scans/codes_packed.wgsl";

/// A scan whose block score folds its tokens' logits.
fn tokens(
    format: &'static str,
    query: &'static str,
    fold: &'static str,
    finish: &'static str,
) -> ShaderSpec {
    let kernel = kernel("scans/tokens.wgsl").slot("format", format).slot("query", query);
    kernel.slot("fold", fold).slot("finish", finish)
}

fn lanes(workgroup: u32, a_block: u32, blocks: u32) -> Lanes {
    Lanes { workgroup, a_block, blocks }
}

/// Codes with a frozen step and an int8 query: what varies besides their size.
#[derive(Clone, Copy)]
struct Way {
    lanes: Lanes,
    format: &'static str,
    query: &'static str,
    finish: &'static str,
    fold: Fold,
}

const BEST: Way = Way {
    lanes: Lanes { workgroup: 128, a_block: 16, blocks: 1 },
    format: CODES,
    query: QUERY_FROZEN,
    finish: FINISH_WORKGROUP,
    fold: Fold::Max,
};

fn fold_file(fold: Fold) -> &'static str {
    match fold {
        Fold::Max => FOLD_MAX,
        Fold::LogSumExp => "scans/fold_logsumexp.wgsl",
    }
}

fn codes(channels: usize, bits: usize, way: Way) -> Stage {
    let words = (channels * bits / 32) as u32;
    let tokens_a_unit = (4 / words).max(1);
    let own = [
        ("WORDS", words),
        ("BITS", bits as u32),
        ("PLANES", 8 / bits as u32),
        ("MASK", (u32::MAX >> (32 - bits)) * 0x0101_0101),
        ("TOKENS_A_UNIT", tokens_a_unit),
        ("UNIT_VECS", words.div_ceil(4)),
    ];
    Stage::new(
        tokens(way.format, way.query, fold_file(way.fold), way.finish),
        way.lanes,
        BLOCK as u32 / tokens_a_unit,
        &own,
        (
            Layout(vec![(BLOCK * words as usize * 4, Fill::Bytes)]),
            Layout(vec![(channels.next_multiple_of(16), Fill::Bytes)]),
        ),
        twins::codes(channels, bits, way.fold),
    )
}

/// The product's own kernel: codes of 4 bits on so many channels, a step per block, all tokens' exponentials.
fn product(channels: u32) -> Stage {
    let shape = Shape { index: IndexFormat { channels, bits: 4 }, ..SHAPE };
    let count = channels as usize;
    Stage {
        // The variant that every adapter runs.
        spec: kernels::block_score(Tier::named("portable").expect("a tier"), &shape),
        bound: Bound::Product { channels },
        blocks_a_workgroup: kernels::Scored::codes(&shape).blocks() as usize,
        record: Layout(vec![(count * 4, Fill::Halves), (BLOCK * count / 2, Fill::Bytes)]),
        query: Layout(vec![(SHAPE.head_dim as usize * 4, Fill::Floats)]),
        tolerance: 5e-3,
        twin: Box::new(twins::product(shape)),
        ..codes(32, 4, BEST)
    }
}

/// 32 channels of 4 bits, a step and a minimum per block and channel.
fn codes_block_step(is_int8: bool, fold: Fold) -> Stage {
    let (format, query) = match (is_int8, fold) {
        (false, _) => ("scans/codes_f32.wgsl", "scans/query_block_f32.wgsl"),
        (true, Fold::Max) => (CODES_PACKED, "scans/query_block_int8.wgsl"),
        (true, Fold::LogSumExp) => (CODES, "scans/query_block_int8.wgsl"),
    };
    let own = [
        ("WORDS", 4),
        ("BITS", 4),
        ("PLANES", 2),
        ("MASK", 0x0f0f_0f0f),
        ("TOKENS_A_UNIT", 1),
        ("UNIT_VECS", 1),
    ];
    let stage = Stage::new(
        tokens(format, query, fold_file(fold), FINISH_WORKGROUP),
        BEST.lanes,
        BLOCK as u32,
        &own,
        (
            Layout(vec![(BLOCK * 16, Fill::Bytes), (128, Fill::Halves)]),
            Layout(vec![(128, Fill::Floats)]),
        ),
        twins::codes_block_step(is_int8, fold),
    );
    // A weight on the edge between two codes may round to either.
    Stage { tolerance: if is_int8 { 5e-3 } else { 1e-5 }, ..stage }
}

fn minmax(runs: u32, lanes: Lanes) -> Stage {
    let stage = Stage::new(
        kernel("scans/minmax.wgsl"),
        lanes,
        runs * lanes.a_block,
        &[],
        (Layout(vec![(512 * runs as usize, Fill::Halves)]), Layout(vec![(1024, Fill::Floats)])),
        twins::minmax(runs as usize),
    );
    Stage { heads_a_kv_head: 1, ..stage }
}

/// A format with one logit a unit and a query of `query` bytes.
fn plain(
    format: &'static str,
    units: u32,
    lanes: Lanes,
    record: Layout,
    query: usize,
    twin: fn(&Block) -> f64,
) -> Stage {
    Stage::new(
        tokens(format, QUERY_FROZEN, FOLD_MAX, FINISH_WORKGROUP),
        lanes,
        units,
        &[("TOKENS_A_UNIT", 1)],
        (record, Layout(vec![(query, Fill::Bytes)])),
        twin,
    )
}

/// Every candidate, in the order in which they are reported.
pub fn candidates() -> Vec<Candidate> {
    let token_rows = || Layout(vec![(BLOCK * 16, Fill::Bytes)]);
    let mut all = Vec::new();
    let mut add = |name: &str, stages: Vec<Stage>| {
        all.push(Candidate { name: name.into(), stages, subgroup: None });
    };
    add(
        "read 16 bytes a token",
        vec![plain("scans/read.wgsl", 64, BEST.lanes, token_rows(), 16, twins::read)],
    );
    add("product 16x4", vec![product(16)]);
    add("product 24x4", vec![product(24)]);
    add("product 32x4", vec![product(32)]);
    for (channels, bits, a_block) in [
        (8, 4, 8),
        (16, 4, 16),
        (32, 4, 16),
        (64, 4, 32),
        (16, 2, 8),
        (32, 2, 16),
        (64, 2, 16),
        (16, 8, 16),
        (32, 8, 16),
    ] {
        let way = Way { lanes: lanes(128, a_block, 1), ..BEST };
        add(&format!("codes {channels}x{bits} max"), vec![codes(channels, bits, way)]);
    }
    let logsumexp = Way { fold: Fold::LogSumExp, ..BEST };
    add("codes 32x4 logsumexp", vec![codes(32, 4, logsumexp)]);
    for (fold, fold_name) in [(Fold::Max, "max"), (Fold::LogSumExp, "logsumexp")] {
        for (is_int8, how) in [(false, "f32"), (true, "int8")] {
            add(
                &format!("codes 32x4 step a block {how} {fold_name}"),
                vec![codes_block_step(is_int8, fold)],
            );
        }
    }
    add("minmax 64 tokens", vec![minmax(1, lanes(128, 16, 2))]);
    add("minmax 16 tokens", vec![minmax(4, lanes(128, 16, 1))]);
    let popcount = "scans/sign_popcount.wgsl";
    add(
        "signs popcount",
        vec![plain(popcount, 64, lanes(128, 32, 1), token_rows(), 16, twins::sign_popcount)],
    );
    // Signs are codes of one bit: the sum of +-q is twice the sum of q where the bit is set, less a constant of the head.
    add("signs int8 query", vec![codes(128, 1, BEST)]);
    let vectors = Layout(vec![(1024, Fill::Bytes), (16, Fill::Halves)]);
    add(
        "rank 8 int8",
        vec![plain("scans/rank8.wgsl", 8, lanes(128, 8, 1), vectors, 128, twins::rank8)],
    );
    // What the choice of the quarter costs comes on top: a selection, or a threshold and a compaction.
    for (coarse, a_block) in [(32, 16), (16, 8)] {
        let way = Way { lanes: lanes(128, a_block, 1), ..BEST };
        add(
            &format!("two stages {coarse}x2 then a quarter 32x4"),
            vec![codes(coarse, 2, way), Stage { share: 4, ..codes(32, 4, BEST) }],
        );
    }
    all.extend(tuning());
    all
}

/// 32 channels of 4 bits in other ways.
fn tuning() -> Vec<Candidate> {
    let mut ways = Vec::new();
    for workgroup in [64, 128, 256] {
        for a_block in [8, 16, 32] {
            for blocks in [1, 2] {
                ways.push(("", Way { lanes: lanes(workgroup, a_block, blocks), ..BEST }));
            }
        }
    }
    let (format, query) = (CODES_PACKED, "scans/query_storage.wgsl");
    ways.push((" unpacked at every use", Way { format, ..BEST }));
    ways.push((" query from storage", Way { query, ..BEST }));
    ways.push((" both", Way { format, query, ..BEST }));
    for blocks in [1, 2] {
        let finish = "scans/finish_subgroup.wgsl";
        ways.push((" subgroupMax", Way { lanes: lanes(128, 32, blocks), finish, ..BEST }));
    }
    ways.into_iter()
        .map(|(note, way)| {
            let Lanes { workgroup, a_block, blocks } = way.lanes;
            Candidate {
                name: format!(
                    "tune 32x4 workgroup {workgroup} lanes {a_block} blocks {blocks}{note}"
                ),
                stages: vec![codes(32, 4, way)],
                subgroup: (note == " subgroupMax").then_some(a_block),
            }
        })
        .collect()
}
