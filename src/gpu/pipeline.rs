//! Compute pipelines, made once each and cached, and operations: a pipeline with its buffers bound.

use super::device::{Gpu, lock};
use super::shader::{ShaderSpec, assemble};
use super::turns;
use crate::units::size;
use crate::{Error, Result};
use std::sync::Arc;
use std::time::Instant;

/// A compiled kernel.
pub struct Pipeline {
    raw: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    /// Numbers of the bindings, ascending.
    numbers: Vec<u32>,
    file: &'static str,
}

/// A range of a buffer to bind.
#[derive(Clone)]
pub struct Binding<'a> {
    buffer: &'a wgpu::Buffer,
    offset: u64,
    size: Option<u64>,
}

impl<'a> From<&'a wgpu::Buffer> for Binding<'a> {
    fn from(buffer: &'a wgpu::Buffer) -> Self {
        Self { buffer, offset: 0, size: None }
    }
}

impl<'a> Binding<'a> {
    /// Bytes `offset .. offset + size` of a buffer; the offset a multiple of 256.
    pub fn range(buffer: &'a wgpu::Buffer, offset: u64, size: u64) -> Self {
        Self { buffer, offset, size: Some(size) }
    }
}

/// A kernel with its buffers bound, ready to be recorded any number of times.
#[derive(Clone)]
pub struct Op {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
}

impl Op {
    /// Records a dispatch of `x * y * z` workgroups; none are recorded if one of them is zero.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, x: u32, y: u32, z: u32) {
        if x == 0 || y == 0 || z == 0 {
            return;
        }
        pass.set_pipeline(&self.pipeline.raw);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

impl Gpu {
    /// The pipeline for a specification, compiled at its first use. The tier fills the slot `<reduce>`, and
    /// `LANES_REVERSED` is declared for every kernel.
    ///
    /// # Errors
    /// [`Error::Shader`] from assembly, [`Error::Gpu`] when the driver refuses.
    pub async fn pipeline(&self, spec: &ShaderSpec) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = lock(&self.pipelines).get(spec) {
            return Ok(pipeline.clone());
        }
        let began = Instant::now();
        let mut full = spec.clone().constant("LANES_REVERSED", self.options.lanes_reversed);
        if needs_reduce(spec.file) {
            full = full.slot("reduce", self.tier.reduce);
        }
        let assembled = assemble(&full)?;
        let (needed, has) =
            (assembled.workgroup_bytes(), self.device.limits().max_compute_workgroup_storage_size);
        // Nobody else checks it, and drivers answer with anything.
        if needed > has {
            return Err(Error::Unsupported {
                adapter: self.label().to_owned(),
                what: format!("the workgroup memory for {}", spec.file),
                value: format!("{has} bytes"),
                limit: format!("{needed} are needed"),
            });
        }
        let (layout, numbers) = self.layout(spec.file, &assembled.module);
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(spec.file),
            source: wgpu::ShaderSource::Wgsl(assembled.text.as_str().into()),
        };
        let module = if self.options.checked {
            self.device.create_shader_module(descriptor)
        } else {
            // SAFETY: the shaders are this crate's own. Every index is derived from sizes that the host checked against
            // the buffers it binds, every loop is bounded by such a size, no divisor can be zero; the conformance
            // cases run the same kernels with the checks on.
            unsafe {
                self.device.create_shader_module_trusted(
                    descriptor,
                    wgpu::ShaderRuntimeChecks::unchecked(),
                )
            }
        };
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(spec.file),
            bind_group_layouts: &[Some(&layout)],
            ..Default::default()
        });
        let turn = turns::compile();
        let raw = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(spec.file),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: self.options.checked,
                ..Default::default()
            },
            cache: None,
        });
        drop(turn);
        let refused = scope.pop();
        if let Some(error) = refused.await {
            return Err(Error::Gpu(format!("{}: {error}", spec.file)));
        }
        self.check()?;
        let pipeline = Arc::new(Pipeline { raw, layout, numbers, file: spec.file });
        lock(&self.pipelines).insert(spec.clone(), pipeline.clone());
        *lock(&self.compile_time) += began.elapsed();
        Ok(pipeline)
    }

    // Reflection keeps one source of truth for bindings: the shader. An automatic layout would drop bindings that a
    // variant does not use.
    fn layout(&self, label: &str, module: &naga::Module) -> (wgpu::BindGroupLayout, Vec<u32>) {
        let mut entries: Vec<_> = module
            .global_variables
            .iter()
            .filter_map(|(_, variable)| {
                let ty = match variable.space {
                    naga::AddressSpace::Uniform => wgpu::BufferBindingType::Uniform,
                    naga::AddressSpace::Storage { access } => wgpu::BufferBindingType::Storage {
                        read_only: !access.contains(naga::StorageAccess::STORE),
                    },
                    _ => return None,
                };
                Some(wgpu::BindGroupLayoutEntry {
                    binding: variable.binding.as_ref()?.binding,
                    visibility: wgpu::ShaderStages::COMPUTE,
                    ty: wgpu::BindingType::Buffer {
                        ty,
                        has_dynamic_offset: false,
                        min_binding_size: None,
                    },
                    count: None,
                })
            })
            .collect();
        entries.sort_by_key(|entry| entry.binding);
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(label),
            entries: &entries,
        });
        (layout, entries.iter().map(|entry| entry.binding).collect())
    }

    /// Binds buffers to a kernel: one for each `@binding` that it has, in ascending order.
    ///
    /// # Errors
    /// As [`Gpu::pipeline`], and [`Error::Gpu`] when the bindings do not fit the kernel.
    pub async fn op(&self, spec: &ShaderSpec, bindings: &[Binding<'_>]) -> Result<Op> {
        let pipeline = self.pipeline(spec).await?;
        let (given, has) = (bindings.len(), pipeline.numbers.len());
        if given != has {
            let file = pipeline.file;
            return Err(Error::Gpu(format!("{file}: {given} buffers for {has} bindings")));
        }
        let most = self.device.limits().max_storage_buffer_binding_size;
        let bytes = |binding: &Binding<'_>| {
            binding.size.unwrap_or_else(|| binding.buffer.size().saturating_sub(binding.offset))
        };
        if let Some(bytes) = bindings.iter().map(bytes).find(|&bytes| bytes > most) {
            return Err(Error::OutOfMemory {
                what: format!("a buffer of {}", pipeline.file),
                bytes,
                detail: format!("a kernel sees at most {} of one here", size(most)),
            });
        }
        let entries: Vec<_> = bindings
            .iter()
            .zip(&pipeline.numbers)
            .map(|(binding, &number)| wgpu::BindGroupEntry {
                binding: number,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: binding.buffer,
                    offset: binding.offset,
                    size: binding.size.and_then(wgpu::BufferSize::new),
                }),
            })
            .collect();
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(pipeline.file),
            layout: &pipeline.layout,
            entries: &entries,
        });
        let refused = scope.pop();
        if let Some(error) = refused.await {
            return Err(Error::Gpu(format!("{}: {error}", pipeline.file)));
        }
        Ok(Op { pipeline, group })
    }
}

// The kernels that reduce over a workgroup: the only slot that the device fills rather than the caller.
fn needs_reduce(file: &str) -> bool {
    super::shader_files::FILES
        .iter()
        .find(|(name, _)| *name == file)
        .is_some_and(|(_, source)| source.lines().any(|line| line == "//!include <reduce>"))
}
