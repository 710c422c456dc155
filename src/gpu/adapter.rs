//! Adapters: what is here, what each can do, and choosing one.

use super::host_memory::host_memory_bytes;
use crate::{Error, Result};
use serde::Serialize;

/// An adapter and how to name it.
#[derive(Clone)]
pub struct Adapter {
    pub(crate) raw: wgpu::Adapter,
    /// The driver's description of itself.
    pub info: wgpu::AdapterInfo,
}

impl From<wgpu::Adapter> for Adapter {
    fn from(raw: wgpu::Adapter) -> Self {
        Self { info: raw.get_info(), raw }
    }
}

/// A report of an adapter, for `asynctls adapters`.
#[derive(Clone, Debug, Serialize)]
pub struct Probe {
    /// Number for `--adapter`.
    pub index: usize,
    /// The adapter's name.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`, `gl` or `webgpu`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub kind: String,
    /// Driver name and version.
    pub driver: String,
    /// Which of DX12's compilers makes its kernels: `dxc` or `fxc`.
    pub compiler: Option<String>,
    /// Subgroup sizes, when the adapter has subgroups.
    pub subgroup_sizes: Option<(u32, u32)>,
    /// Which variant of the kernels would be used.
    pub tier: Option<String>,
    /// Why the adapter cannot be used, if so.
    pub unusable: Option<String>,
    /// Largest storage binding in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory in bytes.
    pub workgroup_bytes: u32,
    /// Device memory in bytes, where the backend tells; of an adapter without its own, what the host has free.
    pub memory_bytes: Option<u64>,
    /// Of that, what is free.
    pub free_memory_bytes: Option<u64>,
    /// Optional features that kernels can use.
    pub features: Vec<String>,
}

/// Every adapter of every backend, in the order of `--adapter` indices: best first.
pub async fn adapters() -> Vec<Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    // Nothing is drawn or dispatched indirectly, so indirect validation would only cost start-up.
    descriptor.flags.remove(wgpu::InstanceFlags::VALIDATION_INDIRECT_CALL);
    let backends = descriptor.backends;
    let instance = wgpu::Instance::new(descriptor);
    let mut found: Vec<Adapter> =
        instance.enumerate_adapters(backends).await.into_iter().map(Adapter::from).collect();
    found.sort_by_key(|a| (kind_rank(a.info.device_type), backend_rank(a.info.backend)));
    found
}

fn kind_rank(kind: wgpu::DeviceType) -> u32 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Cpu => 3,
        wgpu::DeviceType::Other => 4,
    }
}

// Of one device's several backends, the one closer to the hardware; GL comes last because it lacks most features.
fn backend_rank(backend: wgpu::Backend) -> u32 {
    match backend {
        wgpu::Backend::Metal | wgpu::Backend::Vulkan => 0,
        wgpu::Backend::Dx12 => 1,
        wgpu::Backend::BrowserWebGpu => 2,
        wgpu::Backend::Gl | wgpu::Backend::Noop => 3,
    }
}

/// The name of a backend as `--adapter` takes it.
pub(crate) fn backend_name(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Vulkan => "vulkan",
        wgpu::Backend::Metal => "metal",
        wgpu::Backend::Dx12 => "dx12",
        wgpu::Backend::Gl => "gl",
        wgpu::Backend::BrowserWebGpu => "webgpu",
        wgpu::Backend::Noop => "noop",
    }
}

fn kind_name(kind: wgpu::DeviceType) -> &'static str {
    match kind {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "cpu",
        wgpu::DeviceType::Other => "other",
    }
}

impl Adapter {
    /// Backend and name, as in `vulkan:llvmpipe`.
    pub fn label(&self) -> String {
        format!("{}:{}", backend_name(self.info.backend), self.info.name)
    }

    /// Chooses among `adapters`: by index, by `[backend:]substring` of the label (case-insensitive), or, with no request,
    /// the best usable one (discrete, integrated, virtual, CPU).
    ///
    /// # Errors
    /// [`Error::Adapter`] when none or several fit; it lists what is here.
    pub fn choose(adapters: &[Adapter], request: Option<&str>) -> Result<Adapter> {
        Self::index(adapters, request).map(|i| adapters[i].clone())
    }

    /// The place of the one that [`Adapter::choose`] takes.
    ///
    /// # Errors
    /// As [`Adapter::choose`].
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn index(adapters: &[Adapter], request: Option<&str>) -> Result<usize> {
        let labels: Vec<_> = adapters.iter().map(Adapter::label).collect();
        let usable: Vec<_> = adapters.iter().map(|a| missing(a).is_none()).collect();
        choose_index(&labels, &usable, request)
    }

    /// Bytes of memory that are free on the device, or on the host that it shares it with, where that can be told.
    pub fn free_memory_bytes(&self) -> Option<u64> {
        match self.shares_memory() {
            true => host_memory_bytes(),
            false => vulkan_memory(&self.raw).map(|memory| memory.free),
        }
    }

    /// Bytes of memory the device has of its own, or may take of what it shares with the host, where that can be told.
    pub fn memory_bytes(&self) -> Option<u64> {
        match self.shares_memory() {
            true => host_memory_bytes(),
            false => vulkan_memory(&self.raw).map(|memory| memory.size),
        }
    }

    /// Whether its memory is the host's, as that of the rasterisers and of integrated GPUs is.
    pub fn shares_memory(&self) -> bool {
        matches!(self.info.device_type, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu)
    }
}

fn choose_index(labels: &[String], usable: &[bool], request: Option<&str>) -> Result<usize> {
    let list = |which: &[usize]| {
        which.iter().map(|&i| format!("\n  {i}  {}", labels[i])).collect::<String>()
    };
    let all: Vec<usize> = (0..labels.len()).collect();
    if labels.is_empty() {
        return Err(Error::Adapter(
            "no GPU adapter found; install a driver (on Debian or Ubuntu without a GPU: mesa-vulkan-drivers)".into(),
        ));
    }
    let Some(request) = request else {
        return all.iter().copied().find(|&i| usable[i]).ok_or_else(|| {
            Error::Adapter(format!(
                "no usable adapter among:{}\n`asynctls adapters` says why",
                list(&all)
            ))
        });
    };
    if let Ok(index) = request.parse::<usize>() {
        return if index < labels.len() {
            Ok(index)
        } else {
            Err(Error::Adapter(format!("no adapter {index}; there are:{}", list(&all))))
        };
    }
    let (backend, name) = match request.split_once(':') {
        Some((backend, name)) => (Some(backend.to_lowercase()), name.to_lowercase()),
        None => (None, request.to_lowercase()),
    };
    let fits: Vec<usize> = all
        .iter()
        .copied()
        .filter(|&i| {
            let (b, n) = labels[i].split_once(':').unwrap_or(("", &labels[i]));
            backend.as_ref().is_none_or(|want| want == b) && n.to_lowercase().contains(&name)
        })
        .collect();
    match fits[..] {
        [one] => Ok(one),
        [] => {
            Err(Error::Adapter(format!("no adapter matches {request:?}; there are:{}", list(&all))))
        }
        _ => Err(Error::Adapter(format!(
            "{request:?} matches several adapters; name one by its number or as backend:name:{}",
            list(&fits)
        ))),
    }
}

/// A device's own memory, in bytes.
#[derive(Clone, Copy, Debug)]
struct OwnMemory {
    size: u64,
    /// The part that this process may take, which others may have in use.
    free: u64,
}

#[cfg(not(any(target_os = "macos", target_os = "ios", target_arch = "wasm32")))]
fn vulkan_memory(adapter: &wgpu::Adapter) -> Option<OwnMemory> {
    use wgpu::hal::vulkan;
    // SAFETY: the handles belong to this live adapter, are only read, and are not kept or destroyed. The second version of
    // the query is there from Vulkan 1.1 on, and the budget where its extension is.
    unsafe {
        let hal = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance: &vulkan::InstanceShared = hal.shared_instance();
        let device = hal.raw_physical_device();
        let memory = instance.raw_instance().get_physical_device_memory_properties(device);
        // The largest heap that the device calls its own: the small ones are windows for the host.
        let (heap, size) = memory.memory_heaps[..memory.memory_heap_count as usize]
            .iter()
            .enumerate()
            .filter(|(_, heap)| heap.flags.contains(ash::vk::MemoryHeapFlags::DEVICE_LOCAL))
            .map(|(i, heap)| (i, heap.size))
            .max_by_key(|&(_, size)| size)?;
        let is_told = instance.instance_api_version() >= ash::vk::API_VERSION_1_1
            && hal.physical_device_capabilities().supports_extension(ash::ext::memory_budget::NAME);
        if !is_told {
            return Some(OwnMemory { size, free: size });
        }
        let mut budget = ash::vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut asked = ash::vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
        instance.raw_instance().get_physical_device_memory_properties2(device, &mut asked);
        let free = budget.heap_budget[heap].saturating_sub(budget.heap_usage[heap]);
        Some(OwnMemory { size, free: free.min(size) })
    }
}

#[cfg(any(target_os = "macos", target_os = "ios", target_arch = "wasm32"))]
fn vulkan_memory(_: &wgpu::Adapter) -> Option<OwnMemory> {
    None
}

/// The limits that kernels need: WebGPU's own guaranteed values.
pub(crate) struct Need {
    name: &'static str,
    least: u64,
    of: fn(&wgpu::Limits) -> u64,
}

pub(crate) const NEEDS: &[Need] = &[
    Need {
        name: "max_storage_buffers_per_shader_stage",
        least: 8,
        of: |l| l.max_storage_buffers_per_shader_stage.into(),
    },
    Need {
        name: "max_compute_workgroup_storage_size",
        least: 16384,
        of: |l| l.max_compute_workgroup_storage_size.into(),
    },
    Need {
        name: "max_compute_invocations_per_workgroup",
        least: 256,
        of: |l| l.max_compute_invocations_per_workgroup.into(),
    },
    Need {
        name: "max_compute_workgroup_size_x",
        least: 256,
        of: |l| l.max_compute_workgroup_size_x.into(),
    },
    Need {
        name: "max_compute_workgroups_per_dimension",
        least: 65535,
        of: |l| l.max_compute_workgroups_per_dimension.into(),
    },
    Need {
        name: "max_storage_buffer_binding_size",
        least: 128 << 20,
        of: |l| l.max_storage_buffer_binding_size,
    },
    Need { name: "max_buffer_size", least: 128 << 20, of: |l| l.max_buffer_size },
];

/// Abilities that kernels use, WebGPU promises and older devices may lack.
const ABILITIES: [(wgpu::DownlevelFlags, &str); 2] = [
    (wgpu::DownlevelFlags::COMPUTE_SHADERS, "compute shaders"),
    // Keys and values are f16, which kernels unpack to f32.
    (wgpu::DownlevelFlags::SHADER_F16_IN_F32, "unpacking f16 in shaders"),
];

// The first ability that is not among these.
fn lacking(flags: wgpu::DownlevelFlags) -> Option<&'static str> {
    ABILITIES.into_iter().find(|(flag, _)| !flags.contains(*flag)).map(|(_, what)| what)
}

// The version of desktop GL that a driver gave, where its language has no compute shaders: they came with 4.3. wgpu 30 asks for 3.3.
// Mesa gives what it has; NVIDIA's driver (580.159) gives 3.3, with compute shaders as an extension, by which wgpu counts them among
// its abilities and which it then does not compile. A version of GL ES does not begin with a digit.
fn gl_without_compute(backend: wgpu::Backend, version: &str) -> Option<&str> {
    let number = version.split(' ').next().filter(|_| backend == wgpu::Backend::Gl)?;
    let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
    let version = (parts.next()??, parts.next()??);
    (version < (4, 3)).then_some(number)
}

/// The first need that an adapter does not meet.
pub(crate) fn missing(adapter: &Adapter) -> Option<Error> {
    if let Some(version) = gl_without_compute(adapter.info.backend, &adapter.info.driver_info) {
        const LIMIT: &str = "compute shaders need 4.3, and wgpu asks this driver for 3.3; use the device by Vulkan or DX12";
        return Some(unsupported(adapter, "the version of its GL context", version, LIMIT));
    }
    if let Some(what) = lacking(adapter.raw.get_downlevel_capabilities().flags) {
        return Some(unsupported(adapter, what, "absent", "kernels need it"));
    }
    missing_limit(adapter, &adapter.raw.limits())
}

/// The first need that limits of an adapter, or of a device of it, do not meet.
pub(super) fn missing_limit(adapter: &Adapter, limits: &wgpu::Limits) -> Option<Error> {
    NEEDS.iter().find(|need| (need.of)(limits) < need.least).map(|need| {
        let value = (need.of)(limits).to_string();
        unsupported(adapter, need.name, &value, &format!("at least {} is needed", need.least))
    })
}

fn unsupported(adapter: &Adapter, what: &str, value: &str, limit: &str) -> Error {
    Error::Unsupported {
        adapter: adapter.label(),
        what: what.to_string(),
        value: value.to_string(),
        limit: limit.to_string(),
    }
}

// The compiler of an adapter of DX12. wgpu does not tell, but what came after FXC's last shader model only DXC brings: then each
// adapter has some of it, and with FXC, where dxcompiler.dll is not found, none.
fn dx12_compiler(backend: wgpu::Backend, features: wgpu::Features) -> Option<&'static str> {
    let of_dxc = wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64;
    let has_dxc = features.intersects(of_dxc);
    (backend == wgpu::Backend::Dx12).then_some(if has_dxc { "dxc" } else { "fxc" })
}

/// Describes every adapter, in the order of `--adapter` indices.
pub fn probe(adapters: &[Adapter], disable: super::Disable) -> Vec<Probe> {
    adapters
        .iter()
        .enumerate()
        .map(|(index, adapter)| {
            let limits = adapter.raw.limits();
            let features = adapter.raw.features();
            let unusable = missing(adapter).map(|e| e.to_string());
            let named = [
                ("subgroups", wgpu::Features::SUBGROUP),
                ("shader-f16", wgpu::Features::SHADER_F16),
                ("cooperative-matrix", wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
                ("timestamps", wgpu::Features::TIMESTAMP_QUERY),
                ("mappable-primary-buffers", wgpu::Features::MAPPABLE_PRIMARY_BUFFERS),
            ];
            Probe {
                index,
                name: adapter.info.name.clone(),
                backend: backend_name(adapter.info.backend).into(),
                kind: kind_name(adapter.info.device_type).into(),
                driver: format!("{} {}", adapter.info.driver, adapter.info.driver_info)
                    .trim()
                    .into(),
                compiler: dx12_compiler(adapter.info.backend, features).map(Into::into),
                subgroup_sizes: features
                    .contains(wgpu::Features::SUBGROUP)
                    .then_some((adapter.info.subgroup_min_size, adapter.info.subgroup_max_size)),
                tier: unusable
                    .is_none()
                    .then(|| super::Tier::of(adapter, disable).name.to_string()),
                unusable,
                max_binding_bytes: limits.max_storage_buffer_binding_size,
                max_buffer_bytes: limits.max_buffer_size,
                workgroup_bytes: limits.max_compute_workgroup_storage_size,
                memory_bytes: adapter.memory_bytes(),
                free_memory_bytes: adapter.free_memory_bytes(),
                features: named
                    .iter()
                    .filter(|(_, feature)| features.contains(*feature))
                    .map(|(name, _)| name.to_string())
                    .collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(request: Option<&str>) -> Result<usize> {
        let labels = ["vulkan:NVIDIA H100", "vulkan:llvmpipe (LLVM 15)", "gl:llvmpipe (LLVM 15)"]
            .map(String::from);
        choose_index(&labels, &[true, true, false], request)
    }

    #[test]
    fn an_adapter_that_cannot_unpack_f16_or_compute_is_told_what_it_lacks() {
        let all = wgpu::DownlevelFlags::all();
        assert_eq!(lacking(all), None);
        let halves = wgpu::DownlevelFlags::SHADER_F16_IN_F32;
        assert_eq!(lacking(all - halves), Some("unpacking f16 in shaders"));
        assert_eq!(lacking(halves), Some("compute shaders"));
    }

    #[test]
    fn gl_contexts_without_compute_shaders_are_told_by_their_version() {
        let of = |version| gl_without_compute(wgpu::Backend::Gl, version);
        assert_eq!(of("3.3.0 NVIDIA 580.159.04"), Some("3.3.0"));
        assert_eq!(of("4.2 (Core Profile)"), Some("4.2"));
        for fits in ["4.5 (Core Profile) Mesa 22.3.6", "4.3", "OpenGL ES 3.1 Mesa", "", "Mesa 3.3"]
        {
            assert_eq!(of(fits), None, "{fits}");
        }
        assert_eq!(gl_without_compute(wgpu::Backend::Vulkan, "3.3.0 NVIDIA"), None);
    }

    #[test]
    fn the_compiler_of_dx12_is_told_by_what_it_brings() {
        let with = |features| dx12_compiler(wgpu::Backend::Dx12, features);
        assert_eq!(with(wgpu::Features::SUBGROUP), Some("dxc"));
        assert_eq!(with(wgpu::Features::SHADER_INT64), Some("dxc"));
        assert_eq!(with(wgpu::Features::TIMESTAMP_QUERY), Some("fxc"));
        assert_eq!(dx12_compiler(wgpu::Backend::Vulkan, wgpu::Features::SUBGROUP), None);
    }

    #[test]
    fn adapters_are_chosen_by_index_substring_or_rank() {
        assert_eq!(choose(None).unwrap(), 0);
        assert_eq!(choose(Some("2")).unwrap(), 2);
        assert_eq!(choose(Some("h100")).unwrap(), 0);
        assert_eq!(choose(Some("gl:llvmpipe")).unwrap(), 2);
        assert_eq!(choose(Some("Vulkan:LLVMpipe")).unwrap(), 1);
    }

    #[test]
    fn what_fits_none_or_several_is_an_error_that_lists_them() {
        let several = choose(Some("llvmpipe")).unwrap_err().to_string();
        assert!(
            several.contains("1  vulkan:llvmpipe") && several.contains("2  gl:llvmpipe"),
            "{several}"
        );
        assert!(!several.contains("H100"), "{several}");
        let none = choose(Some("metal:")).unwrap_err().to_string();
        assert!(none.contains("H100"), "{none}");
        assert!(choose(Some("9")).unwrap_err().to_string().contains("no adapter 9"));
    }
}
