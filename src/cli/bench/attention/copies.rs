//! The same tensors several times: they are read in turn, so that what one call reads has left every cache when it is read again.

use asynctls::Result;
use asynctls::attention::{Shape, Summary};
use asynctls::gpu::Gpu;
use asynctls::operator::{Codes, Kv, Limits, Options, Selector, Tensors};
use asynctls::wgpu;
use rand_pcg::{Pcg64, rand_core::Rng};

/// Three times the last-level cache of the largest GPUs of today.
pub(super) const COLD_BYTES: u64 = 3 * (64 << 20);

/// Noise that blocks are copied from, each from a place of its own.
const NOISE_BYTES: u64 = 32 << 20;

/// The most copies: each is bound to kernels of its own.
const MOST_COPIES: u64 = 1024;

/// Tensors of one layer.
struct Copy {
    /// A buffer for each segment of the cache.
    kv: Vec<wgpu::Buffer>,
    codes: Option<wgpu::Buffer>,
    summaries: Vec<(&'static Summary, wgpu::Buffer)>,
}

/// Copies of a batch's KV cache, full of noise.
pub(super) struct Copies {
    pub(super) options: Options,
    pub(super) length: u32,
    pub(super) batch: u32,
    queries: wgpu::Buffer,
    output: wgpu::Buffer,
    channels: Vec<u32>,
    copies: Vec<Copy>,
}

impl Copies {
    /// As many copies as are cold for what these selectors read, and as fit into `room` bytes; or why there can be none.
    pub(super) async fn new(
        gpu: &Gpu,
        shape: Shape,
        (batch, length): (u32, u32),
        selectors: &[Selector],
        room: u64,
    ) -> Result<std::result::Result<Self, String>> {
        let blocks = u64::from(length.div_ceil(shape.block)) * u64::from(batch);
        let kv_bytes = blocks * shape.block_bytes();
        let summaries: Vec<&'static Summary> = {
            let mut all: Vec<_> = selectors.iter().filter_map(|one| one.summary()).collect();
            all.sort_by_key(|summary| summary.name);
            all.dedup();
            all
        };
        let has_codes = selectors.iter().any(|one| one.reads_codes());
        let codes_bytes = if has_codes { blocks * shape.block_code_bytes() } else { 0 };
        let index_bytes: Vec<u64> =
            summaries.iter().map(|summary| blocks * summary.block_bytes(&shape)).collect();
        let all = kv_bytes + codes_bytes + index_bytes.iter().sum::<u64>();
        let largest = index_bytes.iter().copied().chain([codes_bytes]).max().unwrap_or(0);
        if largest > gpu.max_binding() {
            let limit = gpu.max_binding();
            return Ok(Err(format!("a kernel sees {limit} bytes of a buffer, not {largest}")));
        }
        if all + NOISE_BYTES > room {
            return Ok(Err(format!("{all} bytes are more than the {room} set aside")));
        }
        // What selects reads its index, and little else.
        let read = index_bytes.iter().copied().chain([codes_bytes]).filter(|&bytes| bytes > 0);
        let read = read.min().unwrap_or(kv_bytes);
        // A little more: what always stays is not ranked.
        let wanted = (COLD_BYTES * 9 / 8).div_ceil(read).max(2);
        let count = wanted.min((room - NOISE_BYTES) / all).clamp(1, MOST_COPIES);
        let limits =
            Limits { rows: batch, sequences: batch, tokens: length, cache_blocks: blocks as u32 };
        let options = Options::new(gpu, shape, limits);
        if let Err(error) = options.validate() {
            return Ok(Err(error.to_string()));
        }
        let mut random = Pcg64::new(length.into(), batch.into());
        let noise = gpu.storage_with("noise", &noise(&mut random)).await?;
        let mut copies = Vec::new();
        for _ in 0..count {
            let mut kv = Vec::new();
            for segment in 0..options.segments() {
                let first = segment * options.segment_blocks;
                let blocks = options.segment_blocks.min(limits.cache_blocks - first);
                let bytes = u64::from(blocks) * shape.block_bytes();
                let segment = gpu.storage("keys and values", bytes).await?;
                fill(gpu, &noise, &segment, shape.block_bytes(), &mut random).await?;
                kv.push(segment);
            }
            let codes = match codes_bytes {
                0 => None,
                bytes => Some(gpu.storage("the codes", bytes).await?),
            };
            let mut kept = Vec::new();
            for (&summary, &bytes) in summaries.iter().zip(&index_bytes) {
                kept.push((summary, gpu.storage("the summary of blocks", bytes).await?));
            }
            copies.push(Copy { kv, codes, summaries: kept });
        }
        let (q_heads, dim) = (shape.q_heads() as usize, shape.head_dim as usize);
        let floats = |count: usize, random: &mut Pcg64| -> Vec<f32> {
            (0..count).map(|_| random.next_u32() as f32 / (1u32 << 31) as f32 - 1.0).collect()
        };
        let rows = floats(batch as usize * q_heads * dim, &mut random);
        let queries = gpu.storage_with("queries", bytemuck::cast_slice(&rows)).await?;
        let out = u64::from(batch) * q_heads as u64 * u64::from(shape.value_dim()) * 4;
        let output = gpu.storage("the output", out).await?;
        // Noise has no channels that matter more than others.
        let channels = (0..shape.kv_heads).flat_map(|_| 0..shape.index.channels).collect();
        Ok(Ok(Self { options, length, batch, queries, output, channels, copies }))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.copies.len()
    }

    /// The tensors of one copy, for a selector.
    pub(super) fn tensors(&self, copy: usize, selector: Selector) -> Tensors<'_> {
        let Copy { kv, codes, summaries } = &self.copies[copy];
        let summary = selector.summary().and_then(|wanted| {
            let found = summaries.iter().find(|(summary, _)| *summary == wanted);
            found.map(|(_, buffer)| buffer.as_entire_buffer_binding())
        });
        Tensors {
            queries: self.queries.as_entire_buffer_binding(),
            kv: Kv::Joined(kv.iter().map(wgpu::Buffer::as_entire_buffer_binding).collect()),
            output: self.output.as_entire_buffer_binding(),
            codes: codes.as_ref().filter(|_| selector.reads_codes()).map(|codes| Codes {
                channels: &self.channels,
                codes: codes.as_entire_buffer_binding(),
            }),
            summary,
        }
    }
}

// Numbers of f16 from -1 to 1.
fn noise(random: &mut Pcg64) -> Vec<u8> {
    let numbers = (0..NOISE_BYTES / 2).map(|_| {
        let float = random.next_u32() as f32 / (1u32 << 31) as f32 - 1.0;
        half::f16::from_f32(float).to_le_bytes()
    });
    numbers.flatten().collect()
}

// Every block from another place of the noise.
async fn fill(
    gpu: &Gpu,
    noise: &wgpu::Buffer,
    to: &wgpu::Buffer,
    block_bytes: u64,
    random: &mut Pcg64,
) -> Result<()> {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let places = (NOISE_BYTES - block_bytes) / 4;
    for at in (0..to.size()).step_by(block_bytes as usize) {
        let bytes = block_bytes.min(to.size() - at);
        let from = random.next_u64() % places * 4;
        encoder.copy_buffer_to_buffer(noise, from, to, at, bytes);
    }
    let index = gpu.submit(encoder)?;
    gpu.wait(index).await
}
