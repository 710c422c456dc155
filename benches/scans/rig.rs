//! The device: buffers, kernels and timed submissions.

use super::candidates::Candidate;
use super::stage::{Bindings, Stage};
use super::twins::Inputs;
use super::{BLOCK, KV_HEADS, SHAPE};
use asynctls::attention::{Span, Step, StepSettings};
use asynctls::gpu::{Adapter, adapters};
use pollster::block_on;
use std::time::{Duration, Instant};
use wgpu::BufferUsages as Usage;

pub struct Rig {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pub name: String,
    pub is_cpu: bool,
    subgroup: Option<u32>,
}

/// A compiled stage and its buffers; the index and the scores are bound between `before` and `after`.
pub struct Kernel {
    pipeline: wgpu::ComputePipeline,
    before: Vec<wgpu::Buffer>,
    scores: wgpu::Buffer,
    after: Vec<wgpu::Buffer>,
    grid: [u32; 3],
}

/// A kernel bound to one copy of the index.
#[derive(Clone)]
pub struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    grid: [u32; 3],
}

// A step of the product in which every row has `blocks` closed blocks; the open one is never scanned.
fn step_words(table: &[u32], blocks: usize) -> Vec<u32> {
    let tables: Vec<Vec<u32>> =
        table.chunks_exact(blocks).map(|row| [row, &[0]].concat()).collect();
    let spans: Vec<_> = tables
        .iter()
        .map(|table| Span {
            slot: 0,
            position: (blocks * BLOCK) as u32,
            tokens: &[1],
            table,
            window: None,
            closing: &[],
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
        let chosen = Adapter::choose(
            &block_on(adapters()),
            std::env::var("ASYNCTLS_ADAPTER").ok().as_deref(),
        )
        .expect("an adapter");
        let instance =
            wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let adapter = block_on(instance.enumerate_adapters(wgpu::Backends::all()))
            .into_iter()
            .find(|adapter| adapter.get_info() == chosen.info)
            .expect("the adapter again");
        let has_subgroups = adapter.features().contains(wgpu::Features::SUBGROUP);
        let limits = adapter.limits();
        let (device, queue) = block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            required_features: adapter.features() & wgpu::Features::SUBGROUP,
            required_limits: wgpu::Limits {
                max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
                max_buffer_size: limits.max_buffer_size,
                ..wgpu::Limits::default()
            },
            ..Default::default()
        }))
        .expect("a device");
        let info = chosen.info.clone();
        let one_size = info.subgroup_min_size == info.subgroup_max_size;
        Self {
            device,
            queue,
            name: format!("{} {}", chosen.label(), info.driver_info),
            is_cpu: info.device_type == wgpu::DeviceType::Cpu,
            subgroup: (has_subgroups && one_size).then_some(info.subgroup_min_size),
        }
    }

    pub fn can_run(&self, candidate: &Candidate) -> bool {
        candidate.subgroup.is_none() || candidate.subgroup == self.subgroup
    }

    fn buffer(&self, bytes: usize, usage: Usage) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes as u64,
            usage: usage | Usage::COPY_DST | Usage::COPY_SRC,
            mapped_at_creation: false,
        })
    }

    /// A storage buffer that holds `data`.
    pub fn storage(&self, data: &[u8]) -> wgpu::Buffer {
        let buffer = self.buffer(data.len(), Usage::STORAGE);
        self.queue.write_buffer(&buffer, 0, data);
        buffer
    }

    /// The scores of `rows` rows.
    pub fn scores(&self, stage: &Stage, rows: usize, blocks: usize) -> wgpu::Buffer {
        self.buffer(rows * stage.heads() * blocks * 4, Usage::STORAGE)
    }

    /// A storage buffer that repeats another's bytes.
    pub fn storage_of(&self, pattern: &wgpu::Buffer, bytes: usize) -> wgpu::Buffer {
        let buffer = self.buffer(bytes, Usage::STORAGE);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for at in (0..bytes as u64).step_by(pattern.size() as usize) {
            let size = pattern.size().min(bytes as u64 - at);
            encoder.copy_buffer_to_buffer(pattern, 0, &buffer, at, size);
        }
        self.queue.submit([encoder.finish()]);
        buffer
    }

    fn pipeline(&self, text: &str) -> wgpu::ComputePipeline {
        let source = wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(text.into()),
        };
        // SAFETY: every index follows from the sizes that the buffers are made with, every loop ends at a constant or at
        // such a size, and no divisor can be zero. The product's kernels run unchecked too.
        let module = unsafe {
            self.device.create_shader_module_trusted(source, wgpu::ShaderRuntimeChecks::unchecked())
        };
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        })
    }

    /// Compiles a stage for `blocks` blocks of each of `rows` rows, and uploads its inputs. Stages that write the same
    /// scores run one after the other.
    pub fn kernel(
        &self,
        stage: &Stage,
        inputs: &Inputs,
        scores: &wgpu::Buffer,
        rows: usize,
        blocks: usize,
    ) -> Kernel {
        let uniform = |words: [u32; 4]| {
            let buffer = self.buffer(16, Usage::UNIFORM);
            self.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&words));
            buffer
        };
        let queries = self.storage(&inputs.queries);
        let scales = self.storage(bytemuck::cast_slice(&inputs.scales));
        let (before, after) = match stage.bindings {
            Bindings::Probe => {
                let table = self.storage(bytemuck::cast_slice(&inputs.table));
                (vec![uniform([blocks as u32, 0, 0, 0]), table, queries, scales], vec![])
            }
            Bindings::Product { channels } => {
                let step = self.storage(bytemuck::cast_slice(&step_words(&inputs.table, blocks)));
                let segment = uniform([0, (rows * blocks) as u32, 0, 1]);
                // A row's keys and values, which the kernel does not read, follow its queries.
                let row = inputs.queries.len() / rows;
                let width = SHAPE.row_width() as usize * 4;
                let mut qkv = Vec::with_capacity(rows * width);
                for queries in inputs.queries.chunks_exact(row) {
                    qkv.extend_from_slice(queries);
                    qkv.resize(qkv.len() + width - row, 0);
                }
                let ids: Vec<u32> = (0..KV_HEADS).flat_map(|_| 0..channels).collect();
                let (qkv, ids) = (self.storage(&qkv), self.storage(bytemuck::cast_slice(&ids)));
                (vec![step, segment, qkv, ids], vec![uniform([blocks as u32, 0, 0, 0])])
            }
        };
        let grid = [blocks.div_ceil(stage.blocks_a_workgroup) as u32, KV_HEADS as u32, rows as u32];
        let pipeline = self.pipeline(&stage.text);
        Kernel { pipeline, before, scores: scores.clone(), after, grid }
    }

    /// Binds a kernel to one copy of the index.
    pub fn dispatch(&self, kernel: &Kernel, index: &wgpu::Buffer) -> Dispatch {
        let buffers = kernel.before.iter().chain([index, &kernel.scores]).chain(&kernel.after);
        let entries: Vec<_> = buffers
            .enumerate()
            .map(|(i, buffer)| wgpu::BindGroupEntry {
                binding: i as u32,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &kernel.pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Dispatch { pipeline: kernel.pipeline.clone(), group, grid: kernel.grid }
    }

    /// Runs dispatches one after the other in one pass: the time from submission to completion.
    pub fn run(&self, dispatches: &[Dispatch]) -> Duration {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for dispatch in dispatches {
                pass.set_pipeline(&dispatch.pipeline);
                pass.set_bind_group(0, &dispatch.group, &[]);
                let [x, y, z] = dispatch.grid;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        let commands = encoder.finish();
        let began = Instant::now();
        let submission = self.queue.submit([commands]);
        self.device
            .poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None })
            .expect("a finished submission");
        began.elapsed()
    }

    /// The floats of a buffer.
    pub fn read(&self, buffer: &wgpu::Buffer) -> Vec<f32> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: buffer.size(),
            usage: Usage::MAP_READ | Usage::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        self.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |mapped| mapped.expect("a mapped buffer"));
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("a finished copy");
        let view = staging.get_mapped_range(..).expect("a mapped buffer");
        bytemuck::pod_collect_to_vec(&view)
    }
}
