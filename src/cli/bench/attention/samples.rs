//! Times of calls: of the GPU by its clock, where it has one.

use super::copies::{COLD_BYTES, Copies};
use super::{Measured, Method};
use asynctls::attention::{Divisor, Reads, RowBudget, Shape, TwoLevel};
use asynctls::gpu::Gpu;
use asynctls::kernels::{self, STREAM_VECS};
use asynctls::operator::{Batch, Bound, Decode, Plan, Select, Sequence};
use asynctls::{Error, Result};
use std::time::{Duration, Instant};

/// Times of a call, and what it reads.
#[derive(Clone, Debug)]
pub(super) struct Samples {
    /// Seconds of a call, ascending.
    pub(super) seconds: Vec<f64>,
    /// Bytes that a call has to read.
    pub(super) bytes: u64,
    /// Copies that calls went over in turn.
    pub(super) copies: usize,
    /// Whether nothing that they read was still in a cache.
    pub(super) is_cold: bool,
}

/// Clocks rise within this time.
const WARM: Duration = Duration::from_millis(300);

/// Calls in a sample at the least, where they are short.
const CALLS: usize = 24;

/// Samples of a method.
pub(super) async fn take(
    gpu: &Gpu,
    copies: &Copies,
    method: &Method,
    samples: u32,
) -> Result<Measured> {
    let decode = match Decode::new(gpu, copies.options, method.selector()).await {
        Ok(decode) => decode,
        Err(error @ Error::Argument { .. }) => return Ok(Err(error.to_string())),
        Err(error) => return Err(error),
    };
    let blocks = copies.length.div_ceil(copies.options.shape.block);
    let tables: Vec<Vec<u32>> =
        (0..copies.batch).map(|i| (i * blocks..(i + 1) * blocks).collect()).collect();
    let mut layers = Vec::new();
    for copy in 0..copies.count() {
        layers.push(decode.bind(&copies.tensors(copy, method.selector())).await?);
    }
    if method.two_level.is_some() {
        index(gpu, copies, &decode, &tables, &layers).await?;
    }
    let sequences: Vec<Sequence<'_>> = tables
        .iter()
        .map(|blocks| Sequence { length: copies.length, rows: 1, blocks, index: 0..0 })
        .collect();
    let plan = decode.plan(&Batch { sequences: &sequences, select: method.select() })?;
    let calls = CALLS.div_ceil(layers.len()) * layers.len();
    let one = async || sample(gpu, &decode, &plan, &layers, calls).await;
    let began = Instant::now();
    let mut last = one().await?;
    // On a CPU there is nothing to warm, and a sample may take seconds.
    while !gpu.is_cpu() && began.elapsed() < WARM {
        last = one().await?;
    }
    let mut seconds = Vec::new();
    let wanted = if last * calls as f64 > 10.0 { 3 } else { samples };
    for _ in 0..wanted {
        seconds.push(one().await?);
    }
    seconds.sort_by(f64::total_cmp);
    let bytes = bytes(&copies.options.shape, method.two_level, plan.budgets());
    let is_cold = bytes * copies.count() as u64 >= COLD_BYTES;
    Ok(Ok(Samples { seconds, bytes, copies: copies.count(), is_cold }))
}

// Seconds of a call.
async fn sample(
    gpu: &Gpu,
    decode: &Decode,
    plan: &Plan,
    layers: &[Bound],
    calls: usize,
) -> Result<f64> {
    gpu.start_clock();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut recording = decode.begin(&mut encoder, plan)?;
    let mut pass = recording.pass()?;
    for call in 0..calls {
        layers[call % layers.len()].attend(&mut pass)?;
    }
    drop(pass);
    let began = Instant::now();
    let index = gpu.submit(encoder)?;
    gpu.wait(index).await?;
    let elapsed = began.elapsed().as_secs_f64();
    let spans = gpu.stop_clock().await?;
    let on_gpu: f64 =
        spans.iter().filter(|span| span.is_gpu).map(|span| span.end - span.begin).sum();
    Ok(if on_gpu > 0.0 { on_gpu } else { elapsed } / calls as f64)
}

// Builds the index of every copy.
async fn index(
    gpu: &Gpu,
    copies: &Copies,
    decode: &Decode,
    tables: &[Vec<u32>],
    layers: &[Bound],
) -> Result<()> {
    let sealed = copies.length / copies.options.shape.block;
    for blocks in tables {
        // As many as a submission may take on a slow device.
        for first in (0..sealed).step_by(4096) {
            let index = first..sealed.min(first + 4096);
            let sequences = [Sequence { length: copies.length, rows: 0, blocks, index }];
            let plan = decode.plan(&Batch { sequences: &sequences, select: Select::Dense })?;
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            let mut recording = decode.begin(&mut encoder, &plan)?;
            let mut pass = recording.pass()?;
            for layer in layers {
                layer.index(&mut pass)?;
            }
            drop(pass);
            let submitted = gpu.submit(encoder)?;
            gpu.wait(submitted).await?;
        }
    }
    Ok(())
}

/// Bytes that attention of these rows has to read: keys and values that are attended, and the index that chooses them.
fn bytes(shape: &Shape, two_level: Option<TwoLevel>, rows: &[RowBudget]) -> u64 {
    let block = u64::from(shape.block);
    let token_bytes = shape.block_bytes() / block;
    let codes = shape.block_code_bytes();
    let of_row = |row: &RowBudget| {
        let attended = u64::from(row.attended) * token_bytes;
        let Some(two_level) = two_level else { return attended };
        let eligible = u64::from(row.recent_first - row.sink);
        let kept = u64::from(row.blocks);
        let whole = shape.block_bytes();
        // Of each block that a level ranks, where it leaves some out.
        let ranked = |reads| match reads {
            Reads::Nothing => 0,
            Reads::Codes => codes,
            Reads::Summary(summary) => summary.block_bytes(shape),
            Reads::Keys => whole / u64::from(shape.cached_rows()),
        };
        let is_ranked = u64::from(row.tokens) < kept * block;
        // Tokens may be ranked by what the blocks' scores come to.
        let is_scored = kept < eligible || is_ranked && two_level.divisor() == Divisor::Blocks;
        let level_1 = if is_scored { eligible * ranked(two_level.block_scorer.reads()) } else { 0 };
        let level_2 = if is_ranked { kept * ranked(two_level.token_scorer.reads()) } else { 0 };
        level_1 + level_2 + attended
    };
    rows.iter().map(of_row).sum()
}

/// Bytes a second of a kernel that only reads, from memory and not from a cache.
pub(super) async fn stream(gpu: &Gpu, room: u64) -> Result<f64> {
    let group_bytes = u64::from(STREAM_VECS) * 16;
    let bytes = (1u64 << 30).min(gpu.max_binding()).min(room / 2) / group_bytes * group_bytes;
    let groups = bytes / group_bytes;
    let data = gpu.storage("what is read", bytes).await?;
    let sums = gpu.storage("sums", groups * 1024).await?;
    let bound = kernels::Stream { data: &data, sums: &sums };
    let op = gpu.op(&kernels::stream(), bound).await?;
    let mut fastest = f64::INFINITY;
    let began = Instant::now();
    let mut repeat = 1;
    for _ in 0..20 {
        let elapsed = gpu.run(&vec![(&op, [groups as u32, 1, 1]); repeat])?.as_secs_f64();
        fastest = fastest.min(elapsed / repeat as f64);
        repeat = ((0.02 / fastest).ceil() as usize).clamp(1, 64);
        if began.elapsed() > 4 * WARM && fastest.is_finite() {
            break;
        }
    }
    Ok(bytes as f64 / fastest)
}
