//! An open device: limits, memory accounting, faults, submission and read-back.

use super::adapter::{Adapter, missing, missing_limit};
use super::clock::Clock;
use super::pipeline::Pipeline;
use super::shader::ShaderSpec;
use super::tier::{Disable, Tier};
use super::turns;
use super::wait::Waits;
use crate::memory::allocated;
use crate::{Error, Result};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use web_time::{Duration, Instant};

/// How to open a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuOptions {
    /// Features to do without.
    pub disable: Disable,
    /// Compile shaders with bounds checks and loop bounding: slower, for tests.
    pub checked: bool,
    /// Run every kernel with its lanes reversed: for tests.
    pub lanes_reversed: bool,
    /// Pretend that a binding holds at most this many bytes, so that segmentation can be tested with small data.
    pub max_binding: Option<u64>,
    /// Open the device with time stamps, where it has them: for measuring.
    pub clock: bool,
}

/// An open device, with an account of the buffers that were made by this handle.
pub struct Gpu {
    open: Arc<OpenDevice>,
    allocated: AtomicU64,
    // Of them, uniforms.
    parameters: AtomicU64,
}

/// What the sizes and numbers of an engine's buffers depend on, of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Which variants of kernels run.
    pub(crate) tier: &'static Tier,
    /// The most bytes of a buffer that a kernel sees.
    pub(crate) max_binding: u64,
}

/// The parts that handles on one device share: pipelines and the fault state.
pub struct OpenDevice {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    /// The adapter's description.
    pub(crate) info: wgpu::AdapterInfo,
    /// Which variants of kernels run.
    pub(crate) tier: &'static Tier,
    pub(super) options: GpuOptions,
    label: String,
    limits: wgpu::Limits,
    /// Time stamps, where the device was opened with them.
    pub(crate) clock: Option<Arc<Clock>>,
    fault: Arc<Mutex<Option<Fault>>>,
    /// The latest submission that was made here.
    submitted: Mutex<Option<wgpu::SubmissionIndex>>,
    pub(super) waits: Arc<Waits>,
    pub(super) pipelines: Mutex<HashMap<ShaderSpec, Arc<Pipeline>>>,
    pub(super) compile_time: Mutex<Duration>,
    // Behind all that holds the device: taken when this begins to be dropped, and given back when all of that is gone.
    alone: Option<turns::Destroying>,
}

impl Deref for Gpu {
    type Target = OpenDevice;

    fn deref(&self) -> &OpenDevice {
        &self.open
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        self.waits.end();
        self.alone = Some(turns::destroy());
    }
}

/// A buffer that is out of the account again once this is dropped.
pub(crate) struct Lent<'a> {
    buffer: wgpu::Buffer,
    gpu: &'a Gpu,
}

impl Deref for Lent<'_> {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.buffer
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.gpu.allocated.fetch_sub(self.buffer.size(), Ordering::Relaxed);
    }
}

/// A buffer that is mapped, or will be, until this is dropped: be it that nobody waits for it any more.
struct Mapped<'a>(Option<&'a wgpu::Buffer>);

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.0 {
            buffer.unmap();
        }
    }
}

// The first fault is the cause; what follows are its consequences.
#[derive(Clone, Debug)]
enum Fault {
    Lost(String),
    OutOfMemory(String),
    Other(String),
}

/// The lock, even if a thread of this process panicked while it held it; the data are still whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn experimental(tier: &Tier) -> wgpu::ExperimentalFeatures {
    if tier.features.intersects(wgpu::Features::all_experimental_mask()) {
        // SAFETY: cooperative matrices are loaded from and stored to memory that the kernels index within bounds, as
        // conformance cases check with the checks on; no other experimental feature is asked for.
        unsafe { wgpu::ExperimentalFeatures::enabled() }
    } else {
        wgpu::ExperimentalFeatures::disabled()
    }
}

impl Gpu {
    /// Opens a device with only the limits and features that kernels need.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the missing limit, or [`Error::Adapter`] when the driver refuses.
    pub async fn open(adapter: &Adapter, options: GpuOptions) -> Result<Self> {
        let descriptor = Self::descriptor(adapter, options)?;
        let (device, queue) = adapter
            .raw
            .request_device(&descriptor)
            .await
            .map_err(|e| Error::Adapter(format!("{} refused to open: {e}", adapter.label())))?;
        let fault = Arc::new(Mutex::new(None));
        let lost = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            // A device that runs out of memory in a submission is lost too, but running again would not help.
            lock(&lost).get_or_insert_with(|| match message.to_lowercase().contains("memory") {
                true => Fault::OutOfMemory(message),
                false => Fault::Lost(format!("{reason:?} {message}").trim().to_string()),
            });
        });
        let refused = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            lock(&refused).get_or_insert(match &error {
                wgpu::Error::OutOfMemory { source } => Fault::OutOfMemory(source.to_string()),
                other => Fault::Other(other.to_string()),
            });
        }));
        Ok(Self::new(adapter, device, queue, fault, options))
    }

    /// A device that stands for those of a tier: to write down what would run there.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    #[cfg(feature = "conformance")]
    pub(crate) async fn posing(adapter: &Adapter, tier: &'static Tier) -> Result<Self> {
        let mut gpu = Self::open(adapter, GpuOptions::default()).await?;
        Arc::get_mut(&mut gpu.open).expect("nobody else has what was just opened").tier = tier;
        Ok(gpu)
    }

    /// The request for a device on which the best kernels can run: features and limits may be added.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the missing limit.
    pub fn descriptor(
        adapter: &Adapter,
        options: GpuOptions,
    ) -> Result<wgpu::DeviceDescriptor<'static>> {
        if let Some(error) = missing(adapter) {
            return Err(error);
        }
        let tier = Tier::of(adapter, options.disable);
        let has_clock = options.clock && adapter.raw.features().contains(Clock::FEATURES);
        let clock_features = if has_clock { Clock::FEATURES } else { wgpu::Features::empty() };
        let offered = adapter.raw.limits();
        // WebGPU's guaranteed limits, but the largest bindings and buffers there are, to need fewer segments.
        let mut limits = wgpu::Limits::downlevel_defaults().or_worse_values_from(&offered);
        limits.max_storage_buffers_per_shader_stage = 8;
        limits.max_compute_workgroup_storage_size = tier.workgroup_bytes;
        limits.max_compute_invocations_per_workgroup = tier.workgroup_lanes;
        limits.max_compute_workgroup_size_x = tier.workgroup_lanes;
        limits.max_compute_workgroups_per_dimension = 65535;
        limits.max_storage_buffer_binding_size = offered.max_storage_buffer_binding_size;
        limits.max_buffer_size = offered.max_buffer_size;
        limits.min_storage_buffer_offset_alignment = offered.min_storage_buffer_offset_alignment;
        limits.min_uniform_buffer_offset_alignment = offered.min_uniform_buffer_offset_alignment;
        Ok(wgpu::DeviceDescriptor {
            label: Some("asynctls"),
            required_features: tier.features | clock_features,
            experimental_features: experimental(tier),
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        })
    }

    /// Uses a device that the caller opened, on the adapter it was opened on. Which kernels run follows from the features and
    /// limits that the device has ([`Gpu::descriptor`] names those of the best).
    ///
    /// The device's callbacks stay the caller's: that it was lost, or an error outside of the calls made here, is for the
    /// caller to see there. So is when it is destroyed: NVIDIA's Vulkan driver (580.159) never returns from destroying a device
    /// while other threads compile for theirs. While a session waits for the GPU, wgpu 30 lets a buffer or texture be destroyed, or a
    /// surface presented, only when that wait is over.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the limit that is too low.
    pub fn from_device(
        adapter: &Adapter,
        device: wgpu::Device,
        queue: wgpu::Queue,
        options: GpuOptions,
    ) -> Result<Self> {
        if let Some(error) = missing(adapter).or_else(|| missing_limit(adapter, &device.limits())) {
            return Err(error);
        }
        Ok(Self::new(adapter, device, queue, Arc::default(), options))
    }

    fn new(
        adapter: &Adapter,
        device: wgpu::Device,
        queue: wgpu::Queue,
        fault: Arc<Mutex<Option<Fault>>>,
        options: GpuOptions,
    ) -> Self {
        let (features, limits) = (device.features(), device.limits());
        let has_clock = options.clock && features.contains(Clock::FEATURES);
        let open = OpenDevice {
            info: adapter.info.clone(),
            tier: Tier::of_device(adapter, features, &limits, options.disable),
            options,
            label: adapter.label(),
            limits,
            clock: has_clock.then(|| Arc::new(Clock::new(&device))),
            fault,
            submitted: Mutex::new(None),
            waits: Arc::default(),
            pipelines: Mutex::new(HashMap::new()),
            compile_time: Mutex::new(Duration::ZERO),
            device,
            queue,
            alone: None,
        };
        Self::on(Arc::new(open))
    }

    fn on(open: Arc<OpenDevice>) -> Self {
        Self { open, allocated: AtomicU64::new(0), parameters: AtomicU64::new(0) }
    }

    /// Those who wait for the device, whom callbacks wake.
    pub(crate) fn waits(&self) -> &Arc<Waits> {
        &self.waits
    }

    /// Another handle on the same device, for another engine: pipelines are shared, the account of memory is its own.
    #[must_use]
    pub fn share(&self) -> Self {
        Self::on(self.open.clone())
    }

    /// Whether both are handles on one device.
    pub(crate) fn is_same_device(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.open, &other.open)
    }

    /// Backend and name of the adapter.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The adapter's description.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// Which variants of kernels run.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn tier(&self) -> &'static Tier {
        self.tier
    }

    /// wgpu's device, for a caller's own buffers and commands.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The largest storage binding in bytes, a multiple of 256.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn max_binding(&self) -> u64 {
        let most = self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size);
        most.min(self.options.max_binding.unwrap_or(most)) / 256 * 256
    }

    /// Whether the "GPU" is the CPU, where few large workgroups beat many small ones.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn is_cpu(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Bytes of buffers made by this handle, alive or not: buffers live as long as the engine that made them.
    pub fn allocated_bytes(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// Of these, bytes of uniforms, some 64 each: kernels' parameters, of which equal ones are shared, so that no memory plan has
    /// them.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn parameter_bytes(&self) -> u64 {
        self.parameters.load(Ordering::Relaxed)
    }

    /// What a memory plan has to know of the device.
    pub(crate) fn facts(&self) -> DeviceFacts {
        DeviceFacts { tier: self.tier, max_binding: self.max_binding() }
    }

    /// Time spent compiling pipelines so far.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn compile_time(&self) -> Duration {
        *lock(&self.compile_time)
    }

    /// The first fault since the device was opened, as an error.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`] or [`Error::Gpu`].
    pub fn check(&self) -> Result<()> {
        match &*lock(&self.fault) {
            None => Ok(()),
            Some(Fault::Lost(why)) => Err(Error::DeviceLost(why.clone())),
            Some(Fault::OutOfMemory(detail)) => Err(Error::OutOfMemory {
                what: "what was submitted".into(),
                bytes: 0,
                detail: detail.clone(),
            }),
            Some(Fault::Other(why)) => Err(Error::Gpu(why.clone())),
        }
    }

    /// A zeroed buffer of at least `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] naming `what`.
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) async fn buffer(
        &self,
        what: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        self.buffer_mapped(what, bytes, usage, false).await
    }

    /// As [`Gpu::buffer`]; with `mapped`, one that the host can fill before anything else.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub(crate) async fn buffer_mapped(
        &self,
        what: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
        mapped: bool,
    ) -> Result<wgpu::Buffer> {
        self.check()?;
        let size = allocated(bytes);
        let failed =
            |detail: String| Error::OutOfMemory { what: what.to_string(), bytes: size, detail };
        if size > self.limits.max_buffer_size {
            return Err(failed(format!(
                "a buffer holds at most {} bytes here",
                self.limits.max_buffer_size
            )));
        }
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size,
            usage,
            mapped_at_creation: mapped,
        });
        // Popped before the first await: the guards cannot cross threads, what they return can.
        let (validation, memory) = (validation.pop(), memory.pop());
        if let Some(refused) = validation.await.or(memory.await) {
            return Err(failed(refused.to_string()));
        }
        self.allocated.fetch_add(size, Ordering::Relaxed);
        Ok(buffer)
    }

    /// The usage of buffers for kernels, which can be copied from and to.
    pub(crate) const STORAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
        .union(wgpu::BufferUsages::COPY_DST)
        .union(wgpu::BufferUsages::COPY_SRC);

    /// A storage buffer that can be copied from and to.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] naming `what`.
    pub async fn storage(&self, what: &str, bytes: u64) -> Result<wgpu::Buffer> {
        self.buffer(what, bytes, Self::STORAGE).await
    }

    /// A storage buffer that holds `data`.
    ///
    /// # Errors
    /// As [`Gpu::storage`].
    pub async fn storage_with(&self, what: &str, data: &[u8]) -> Result<wgpu::Buffer> {
        let buffer = self.storage(what, data.len() as u64).await?;
        self.write(&buffer, 0, data);
        Ok(buffer)
    }

    /// A uniform buffer that holds `value`.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) async fn uniform<T: bytemuck::Pod>(
        &self,
        what: &str,
        value: T,
    ) -> Result<wgpu::Buffer> {
        let bytes = bytemuck::bytes_of(&value);
        let buffer = self
            .buffer(
                what,
                bytes.len() as u64,
                wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            )
            .await?;
        self.parameters.fetch_add(buffer.size(), Ordering::Relaxed);
        self.write(&buffer, 0, bytes);
        Ok(buffer)
    }

    /// Writes bytes (a multiple of four) before the next submission.
    pub fn write(&self, buffer: &wgpu::Buffer, offset: u64, data: &[u8]) {
        self.queue.write_buffer(buffer, offset, data);
    }

    /// Submits commands and returns their place in the queue.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    pub fn submit(&self, encoder: wgpu::CommandEncoder) -> Result<wgpu::SubmissionIndex> {
        self.submit_all([encoder.finish()])
    }

    /// Submits what several encoders recorded, in this order.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    pub(crate) fn submit_all<const N: usize>(
        &self,
        commands: [wgpu::CommandBuffer; N],
    ) -> Result<wgpu::SubmissionIndex> {
        let index = self.queue.submit(commands);
        *lock(&self.submitted) = Some(index.clone());
        self.check()?;
        Ok(index)
    }

    /// Reads `bytes` bytes of a mappable buffer once the work submitted so far has filled it.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    pub(crate) async fn read(&self, staging: &wgpu::Buffer, bytes: u64) -> Result<Vec<u8>> {
        let (sender, mut receiver) = futures::channel::oneshot::channel();
        let waits = self.waits.clone();
        staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
            // The receiver is only gone when the caller has given up.
            let _ = sender.send(result);
            waits.wake();
        });
        let mut mapped = Mapped(Some(staging));
        let submitted = lock(&self.submitted).clone();
        let result = self.until(submitted, || {
            self.poll()?;
            receiver.try_recv().map_err(|e| Error::Gpu(e.to_string()))
        });
        let failed = |e: String| Error::Gpu(format!("mapping for read-back: {e}"));
        if let Err(error) = result.await? {
            mapped.0 = None;
            return Err(failed(error.to_string()));
        }
        let view = match staging.get_mapped_range(0..bytes) {
            Ok(view) => view,
            Err(error) => {
                // A device that was destroyed since says so first.
                self.check()?;
                return Err(failed(error.to_string()));
            }
        };
        Ok(view.to_vec())
    }

    /// Copies the first `bytes` bytes of a buffer to the host: for tests and rare reads, it makes its own staging.
    ///
    /// # Errors
    /// As [`Gpu::check`]; [`Error::OutOfMemory`] for want of a buffer to copy through.
    pub async fn download(&self, buffer: &wgpu::Buffer, bytes: u64) -> Result<Vec<u8>> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.lend("download", bytes, usage).await?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, bytes);
        self.submit(encoder)?;
        self.read(&staging, bytes).await
    }

    /// As [`Gpu::buffer`], for a while.
    pub(crate) async fn lend(
        &self,
        what: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Lent<'_>> {
        Ok(Lent { buffer: self.buffer(what, bytes, usage).await?, gpu: self })
    }

    /// Runs operations one after the other in one pass, with their grids, and blocks until they are done: the time from their submission
    /// on.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    #[cfg_attr(feature = "conformance", visibility::make(pub))]
    pub(crate) fn run(&self, dispatches: &[(&super::Op, [u32; 3])]) -> Result<Duration> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for (op, [x, y, z]) in dispatches {
                op.record(&mut pass, *x, *y, *z);
            }
        }
        let commands = encoder.finish();
        let began = Instant::now();
        let index = self.submit_all([commands])?;
        self.block(index)?;
        Ok(began.elapsed())
    }

    /// Destroys the device, as a driver reset would: every later call answers [`Error::DeviceLost`].
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn destroy(&self) {
        // The device's own word comes once its work has ended.
        lock(&self.fault).get_or_insert_with(|| Fault::Lost("it was destroyed".into()));
        self.device.destroy();
    }
}
