//! Compute pipelines, made once each and cached, and operations: a pipeline with its buffers bound.

use super::Tier;
use super::device::{Gpu, lock};
use super::reflect::{Access, Reflected};
use super::shader::{ShaderSpec, assemble};
use super::turns;
use crate::contract::Bindings;
use crate::units::size;
use crate::{Error, Result};
use std::sync::Arc;
use web_time::Instant;

/// A compiled kernel.
pub struct Pipeline {
    raw: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    bindings: Vec<Reflected>,
    file: &'static str,
}

/// A range of a buffer to bind.
#[derive(Clone)]
pub struct Binding<'a> {
    buffer: &'a wgpu::Buffer,
    offset: u64,
    size: Option<u64>,
    /// Bytes that the kernel uses, where the caller knows.
    needed: u64,
}

impl<'a> From<&'a wgpu::Buffer> for Binding<'a> {
    fn from(buffer: &'a wgpu::Buffer) -> Self {
        Self { buffer, offset: 0, size: None, needed: 0 }
    }
}

impl<'a> Binding<'a> {
    /// Bytes `offset .. offset + size` of a buffer; the offset a multiple of 256.
    pub fn range(buffer: &'a wgpu::Buffer, offset: u64, size: u64) -> Self {
        Self { buffer, offset, size: Some(size), needed: 0 }
    }

    /// Says how many bytes the kernel uses: fewer are an error.
    #[must_use]
    pub fn holding(self, bytes: u64) -> Self {
        Self { needed: bytes, ..self }
    }

    fn resource(&self) -> wgpu::BindingResource<'a> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: self.buffer,
            offset: self.offset,
            size: self.size.and_then(wgpu::BufferSize::new),
        })
    }

    fn bytes(&self) -> u64 {
        self.size.unwrap_or_else(|| self.buffer.size().saturating_sub(self.offset))
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
    pub(crate) async fn pipeline(&self, spec: &ShaderSpec) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = lock(&self.pipelines).get(spec) {
            return Ok(pipeline.clone());
        }
        let began = Instant::now();
        let assembled = assemble(&completed(spec, self.tier, self.options.lanes_reversed))?;
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
        let bindings = assembled.bindings();
        let layout = self.layout(spec.file, &bindings);
        // What follows waits for nothing: error scopes are of this thread.
        let turn = turns::compile().await;
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
        let pipeline = Arc::new(Pipeline { raw, layout, bindings, file: spec.file });
        lock(&self.pipelines).insert(spec.clone(), pipeline.clone());
        *lock(&self.compile_time) += began.elapsed();
        Ok(pipeline)
    }

    /// The kernels that were compiled so far, in a fixed order.
    pub(crate) fn compiled(&self) -> Vec<ShaderSpec> {
        let mut specs: Vec<ShaderSpec> = lock(&self.pipelines).keys().cloned().collect();
        specs.sort_by_cached_key(|spec| format!("{spec:?}"));
        specs
    }

    // Reflection keeps one source of truth for bindings: the shader. An automatic layout would drop bindings that a
    // variant does not use.
    fn layout(&self, label: &str, bindings: &[Reflected]) -> wgpu::BindGroupLayout {
        let entry = |binding: &Reflected| wgpu::BindGroupLayoutEntry {
            binding: binding.number,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match binding.access {
                    Access::Uniform(_) => wgpu::BufferBindingType::Uniform,
                    Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
                    Access::Write => wgpu::BufferBindingType::Storage { read_only: false },
                },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(label),
            entries: &bindings.iter().map(entry).collect::<Vec<_>>(),
        })
    }

    /// Whether a range of a storage buffer can be bound on this device.
    pub(crate) async fn binds(&self, range: &Binding<'_>) -> bool {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let ty = wgpu::BufferBindingType::Storage { read_only: true };
        let entry = wgpu::BindGroupLayoutEntry {
            binding: 0,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &[entry],
        });
        let _group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &layout,
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: range.resource() }],
        });
        let refused = scope.pop();
        refused.await.is_none()
    }

    /// Binds buffers to a kernel, by the names of its variables.
    ///
    /// # Errors
    /// [`Error::Shader`] from assembly; [`Error::Gpu`] when the driver refuses, or naming the variable that is not bound, that
    /// the kernel does not have, or whose buffer is of the wrong kind or too small; [`Error::OutOfMemory`] for more than a
    /// kernel sees here.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) async fn op<'b, B>(&self, spec: &ShaderSpec, bindings: B) -> Result<Op>
    where
        B: Bindings<Value: Into<Binding<'b>>>,
    {
        let given = bindings.named().into_iter().map(|(name, value)| (name, value.into()));
        self.op_named(spec, given.collect()).await
    }

    /// The same, of any kernel.
    pub(crate) async fn op_named(
        &self,
        spec: &ShaderSpec,
        mut given: Vec<(&'static str, Binding<'_>)>,
    ) -> Result<Op> {
        let pipeline = self.pipeline(spec).await?;
        let file = pipeline.file;
        let most = self.device.limits().max_storage_buffer_binding_size;
        let mut entries = Vec::with_capacity(given.len());
        for binding in &pipeline.bindings {
            let name = &binding.name;
            let Some(at) = given.iter().position(|(given, _)| given == name) else {
                return Err(Error::Gpu(format!("{file}: nothing is bound to {name}")));
            };
            let (_, bound) = given.swap_remove(at);
            check(binding, &bound, most).map_err(|problem| match problem {
                Problem::Wrong(what) => Error::Gpu(format!("{file}: {name} {what}")),
                Problem::TooLarge => Error::OutOfMemory {
                    what: format!("{name} of {file}"),
                    bytes: bound.bytes(),
                    detail: format!("a kernel sees at most {} of one here", size(most)),
                },
            })?;
            entries
                .push(wgpu::BindGroupEntry { binding: binding.number, resource: bound.resource() });
        }
        if let Some((name, _)) = given.first() {
            return Err(Error::Gpu(format!("{file}: {name} is bound, but this variant has none")));
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(file),
            layout: &pipeline.layout,
            entries: &entries,
        });
        let refused = scope.pop();
        if let Some(error) = refused.await {
            return Err(Error::Gpu(format!("{file}: {error}")));
        }
        Ok(Op { pipeline, group })
    }
}

enum Problem {
    Wrong(String),
    TooLarge,
}

// Whether a range of a buffer can be bound to a variable. Bindings of more than `most` bytes are too large.
fn check(variable: &Reflected, bound: &Binding<'_>, most: u64) -> std::result::Result<(), Problem> {
    let is_uniform = matches!(variable.access, Access::Uniform(_));
    let (kind, usage) = if is_uniform {
        ("a uniform", wgpu::BufferUsages::UNIFORM)
    } else {
        ("storage", wgpu::BufferUsages::STORAGE)
    };
    if !bound.buffer.usage().contains(usage) {
        return Err(Problem::Wrong(format!("is {kind}, which the buffer bound to it is not")));
    }
    let (bytes, needed) = (bound.bytes(), variable.bytes.max(bound.needed));
    if bytes < needed {
        let problem = format!("is bound to {bytes} bytes, but needs at least {needed}");
        return Err(Problem::Wrong(problem));
    }
    if bytes > most { Err(Problem::TooLarge) } else { Ok(()) }
}

/// A specification with what the device fills in rather than the caller: whether lanes are reversed, and how kernels reduce
/// over a workgroup.
pub(crate) fn completed(spec: &ShaderSpec, tier: &Tier, lanes_reversed: bool) -> ShaderSpec {
    let spec = spec.clone().constant("LANES_REVERSED", lanes_reversed);
    if !spec.includes("<reduce>") {
        return spec;
    }
    let has_size = spec.constants.iter().any(|(name, _)| *name == "SUBGROUP");
    let spec = spec.slot("reduce", tier.reduce);
    match tier.subgroup_size {
        Some(size) if !has_size => spec.constant("SUBGROUP", size),
        _ => spec,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Adapter, GpuOptions, adapters};

    crate::words! {
        /// `Rows` of half_rows.wgsl.
        pub struct Rows {
            /// Floats of a row.
            pub width: u32,
            /// Floats to the next.
            pub stride: u32,
        }
    }

    crate::bindings! {
        /// As the shader has them, and one more.
        struct HalfRows {
            rows: uniform Rows,
            x: optional read,
            halves: write,
            bias: optional read,
        }
    }

    fn buffers<'b>(bound: HalfRows<&'b wgpu::Buffer>) -> HalfRows<Binding<'b>> {
        bound.map(|_, buffer| Binding::from(buffer))
    }

    fn with_x<'b>(bound: &HalfRows<&'b wgpu::Buffer>, x: Binding<'b>) -> HalfRows<Binding<'b>> {
        HalfRows { x: Some(x), ..buffers(bound.clone()) }
    }

    #[test]
    fn what_is_bound_wrongly_is_told_with_kernel_and_variable() {
        pollster::block_on(async {
            let here = adapters().await;
            let Ok(adapter) = Adapter::choose(&here, None) else { return };
            let gpu = Gpu::open(&adapter, GpuOptions::default()).await.unwrap();
            let spec = ShaderSpec::new("model/half_rows.wgsl").constant("WORKGROUP", 64);
            let x = gpu.storage("x", 64).await.unwrap();
            let y = gpu.storage("y", 64).await.unwrap();
            let rows = gpu.uniform("rows", [Rows { width: 32, stride: 32 }; 2]).await.unwrap();
            let right = HalfRows { rows: &rows, x: Some(&x), halves: &y, bias: None };
            gpu.op(&spec, right.clone()).await.unwrap();
            for (wrong, problem) in [
                (buffers(HalfRows { x: None, ..right.clone() }), "nothing is bound to x"),
                (
                    buffers(HalfRows { bias: Some(&x), ..right.clone() }),
                    "bias is bound, but this variant has none",
                ),
                (
                    buffers(HalfRows { rows: &x, ..right.clone() }),
                    "rows is a uniform, which the buffer bound to it is not",
                ),
                (
                    buffers(HalfRows { x: Some(&rows), ..right.clone() }),
                    "x is storage, which the buffer bound to it is not",
                ),
                (
                    with_x(&right, Binding::range(&x, 0, 8)),
                    "x is bound to 8 bytes, but needs at least 16",
                ),
                (
                    with_x(&right, Binding::from(&x).holding(68)),
                    "x is bound to 64 bytes, but needs at least 68",
                ),
            ] {
                let error = gpu.op(&spec, wrong).await.err().unwrap().to_string();
                assert!(error.ends_with(&format!("model/half_rows.wgsl: {problem}")), "{error}");
            }
        });
    }
}
