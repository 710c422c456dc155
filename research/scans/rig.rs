//! The device: buffers, kernels and timed submissions.

use super::candidates::Candidate;
use super::stage::{Bound, Stage};
use super::twins::Inputs;
use super::{BLOCK, KV_HEADS, SHAPE};
use asynctls::attention::{Span, Step, StepSettings};
use asynctls::contract::Words;
use asynctls::gpu::{Adapter, Gpu, GpuOptions, Op, ShaderSpec, adapters};
use asynctls::kernels::{BlockScore, SegmentParams, StrideParams};
use pollster::block_on;
use std::time::Duration;

asynctls::words! {
    /// `Scan` in `lib.wgsl`.
    struct ScanParams {
        /// Sealed blocks of each row.
        pub blocks: u32,
    }
}

asynctls::bindings! {
    /// As `lib.wgsl` declares them.
    struct Probe {
        scan: uniform ScanParams,
        table: read,
        queries: read,
        query_scales: read,
        index: read,
        scores: write,
    }
}

pub struct Rig {
    gpu: Gpu,
    pub name: String,
    pub is_cpu: bool,
    subgroup: Option<u32>,
}

/// A stage and its buffers but for the index.
pub struct Kernel {
    spec: ShaderSpec,
    inputs: Bindings,
    scores: wgpu::Buffer,
    grid: [u32; 3],
}

enum Bindings {
    Probe {
        scan: wgpu::Buffer,
        table: wgpu::Buffer,
        queries: wgpu::Buffer,
        scales: wgpu::Buffer,
    },
    Product {
        step: wgpu::Buffer,
        segment: wgpu::Buffer,
        qkv: wgpu::Buffer,
        channels: wgpu::Buffer,
        score_rows: wgpu::Buffer,
    },
}

/// A kernel bound to one copy of the index.
#[derive(Clone)]
pub struct Dispatch {
    op: Op,
    grid: [u32; 3],
}

// A step of the product in which every row has `blocks` sealed blocks; the open one is never scanned.
fn step_words(table: &[u32], blocks: usize) -> Vec<u32> {
    let tables: Vec<Vec<u32>> =
        table.chunks_exact(blocks).map(|row| [row, &[0]].concat()).collect();
    let spans: Vec<_> = tables
        .iter()
        .map(|table| Span {
            position: (blocks * BLOCK) as u32,
            tokens: &[1],
            table,
            ..Default::default()
        })
        .collect();
    Step::new(&SHAPE, &spans, &StepSettings::default(), |_, angles| {
        angles.extend([[1.0, 0.0]; SHAPE.head_dim as usize / 2]);
    })
    .words
}

impl Rig {
    /// Opens the adapter that `ASYNCTLS_ADAPTER` names, or the best one.
    pub fn open() -> Self {
        let here = block_on(adapters());
        let adapter = Adapter::choose(&here, std::env::var("ASYNCTLS_ADAPTER").ok().as_deref())
            .expect("an adapter");
        let gpu = block_on(Gpu::open(&adapter, GpuOptions::default())).expect("a device");
        let info = gpu.info();
        let has_subgroups = gpu.tier().features.contains(wgpu::Features::SUBGROUP);
        let one_size = info.subgroup_min_size == info.subgroup_max_size;
        Self {
            name: format!("{} {}", gpu.label(), info.driver_info),
            is_cpu: gpu.is_cpu(),
            subgroup: (has_subgroups && one_size).then_some(info.subgroup_min_size),
            gpu,
        }
    }

    pub fn can_run(&self, candidate: &Candidate) -> bool {
        candidate.subgroup.is_none() || candidate.subgroup == self.subgroup
    }

    fn buffer(&self, bytes: usize) -> wgpu::Buffer {
        block_on(self.gpu.storage("a scan", bytes as u64)).expect("memory")
    }

    /// A storage buffer that holds `data`.
    pub fn storage(&self, data: &[u8]) -> wgpu::Buffer {
        block_on(self.gpu.storage_with("a scan", data)).expect("memory")
    }

    /// The scores of `rows` rows.
    pub fn scores(&self, stage: &Stage, rows: usize, blocks: usize) -> wgpu::Buffer {
        self.buffer(rows * stage.heads() * blocks * 4)
    }

    /// A storage buffer that repeats these bytes.
    pub fn storage_of(&self, pattern: &[u8], bytes: usize) -> wgpu::Buffer {
        let buffer = self.buffer(bytes);
        for at in (0..bytes).step_by(pattern.len()) {
            self.gpu.write(&buffer, at as u64, &pattern[..pattern.len().min(bytes - at)]);
        }
        // What is written waits in memory of its own until something is submitted.
        self.gpu.run(&[]).expect("a run");
        buffer
    }

    /// A stage for `blocks` blocks of each of `rows` rows, with its inputs uploaded. Stages that write the same scores run one
    /// after the other.
    pub fn kernel(
        &self,
        stage: &Stage,
        inputs: &Inputs,
        scores: &wgpu::Buffer,
        rows: usize,
        blocks: usize,
    ) -> Kernel {
        let count = blocks as u32;
        let inputs = match stage.bound {
            Bound::Probe => Bindings::Probe {
                scan: self.uniform(ScanParams { blocks: count }),
                table: self.storage(bytemuck::cast_slice(&inputs.table)),
                queries: self.storage(&inputs.queries),
                scales: self.storage(bytemuck::cast_slice(&inputs.scales)),
            },
            Bound::Product { channels } => {
                // A row's keys and values, which the kernel does not read, follow its queries.
                let row = inputs.queries.len() / rows;
                let width = SHAPE.row_width() as usize * 4;
                let mut qkv = Vec::with_capacity(rows * width);
                for queries in inputs.queries.chunks_exact(row) {
                    qkv.extend_from_slice(queries);
                    qkv.resize(qkv.len() + width - row, 0);
                }
                let ids: Vec<u32> = (0..KV_HEADS).flat_map(|_| 0..channels).collect();
                let step = step_words(&inputs.table, blocks);
                Bindings::Product {
                    step: self.storage(bytemuck::cast_slice(&step)),
                    segment: self.uniform(SegmentParams::paged(0, (rows * blocks) as u32, 0, 1)),
                    qkv: self.storage(&qkv),
                    channels: self.storage(bytemuck::cast_slice(&ids)),
                    score_rows: self.uniform(StrideParams { stride: count }),
                }
            }
        };
        let grid = [blocks.div_ceil(stage.blocks_a_workgroup) as u32, KV_HEADS as u32, rows as u32];
        Kernel { spec: stage.spec.clone(), inputs, scores: scores.clone(), grid }
    }

    fn uniform(&self, value: impl Words) -> wgpu::Buffer {
        block_on(self.gpu.uniform("a scan", value)).expect("memory")
    }

    /// Binds a kernel to one copy of the index.
    pub fn dispatch(&self, kernel: &Kernel, index: &wgpu::Buffer) -> Dispatch {
        let scores = &kernel.scores;
        let op = match &kernel.inputs {
            Bindings::Probe { scan, table, queries, scales } => {
                let probe = Probe { scan, table, queries, query_scales: scales, index, scores };
                block_on(self.gpu.op(&kernel.spec, probe))
            }
            Bindings::Product { step, segment, qkv, channels, score_rows } => {
                let score =
                    BlockScore { step, segment, qkv, channels, codes: index, scores, score_rows };
                block_on(self.gpu.op(&kernel.spec, score))
            }
        };
        Dispatch { op: op.expect("a kernel"), grid: kernel.grid }
    }

    /// Runs dispatches one after the other in one pass: the time from submission to completion.
    pub fn run(&self, dispatches: &[Dispatch]) -> Duration {
        let dispatches: Vec<_> = dispatches.iter().map(|d| (&d.op, d.grid)).collect();
        self.gpu.run(&dispatches).expect("a run")
    }

    /// The floats of a buffer.
    pub fn read(&self, buffer: &wgpu::Buffer) -> Vec<f32> {
        let bytes = block_on(self.gpu.download(buffer, buffer.size())).expect("the scores");
        bytemuck::pod_collect_to_vec(&bytes)
    }
}
