//! What a backend's compiler is given: naga's translation, by the writers that wgpu uses on this system.

use super::evidence::base64;
use serde::{Deserialize, Serialize};

/// A kernel in the backend's language.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Given {
    /// A text in this language.
    Text(String, String),
    /// Words in this language, in base64.
    Words(String, String),
    /// Why there is none.
    Nothing(String),
}

/// Translates a kernel. Versions and what depends on extensions are those of a recent device; the device's own may differ.
pub(super) fn translate(wgsl: &str, backend: wgpu::Backend, checked: bool) -> Given {
    match parsed(wgsl).and_then(|(module, info)| written(&module, &info, backend, checked)) {
        Ok(given) => given,
        Err(problem) => Given::Nothing(problem),
    }
}

type Parsed = (naga::Module, naga::valid::ModuleInfo);

fn parsed(wgsl: &str) -> Result<Parsed, String> {
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| e.to_string())?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|e| e.as_inner().to_string())?;
    Ok((module, info))
}

fn written(
    module: &naga::Module,
    info: &naga::valid::ModuleInfo,
    backend: wgpu::Backend,
    checked: bool,
) -> Result<Given, String> {
    match backend {
        #[cfg(not(any(target_vendor = "apple", target_arch = "wasm32")))]
        wgpu::Backend::Vulkan => spirv(module, info, checked),
        #[cfg(not(any(target_vendor = "apple", target_arch = "wasm32")))]
        wgpu::Backend::Gl => glsl(module, info, checked),
        #[cfg(windows)]
        wgpu::Backend::Dx12 => hlsl(module, info, checked),
        #[cfg(target_vendor = "apple")]
        wgpu::Backend::Metal => msl(module, info, checked),
        _ => {
            let _ = (module, info, checked);
            Err("nothing translates for this backend here: it is given the WGSL".into())
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn policies(checked: bool) -> naga::proc::BoundsCheckPolicies {
    let policy = match checked {
        true => naga::proc::BoundsCheckPolicy::Restrict,
        false => naga::proc::BoundsCheckPolicy::Unchecked,
    };
    naga::proc::BoundsCheckPolicies { index: policy, buffer: policy, ..Default::default() }
}

#[cfg(not(any(target_vendor = "apple", target_arch = "wasm32")))]
fn spirv(
    module: &naga::Module,
    info: &naga::valid::ModuleInfo,
    checked: bool,
) -> Result<Given, String> {
    use naga::back::spv;
    let options = spv::Options {
        lang_version: (1, 6),
        bounds_check_policies: policies(checked),
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        ..Default::default()
    };
    let words = spv::write_vec(module, info, &options, None).map_err(|e| e.to_string())?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Ok(Given::Words("SPIR-V 1.6".into(), base64(&bytes)))
}

#[cfg(not(any(target_vendor = "apple", target_arch = "wasm32")))]
fn glsl(
    module: &naga::Module,
    info: &naga::valid::ModuleInfo,
    checked: bool,
) -> Result<Given, String> {
    use naga::back::glsl;
    let bindings = module.global_variables.iter().filter_map(|(_, variable)| variable.binding);
    let options = glsl::Options {
        binding_map: bindings.map(|binding| (binding, binding.binding as u8)).collect(),
        zero_initialize_workgroup_memory: checked,
        ..Default::default()
    };
    let entry = glsl::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: "main".into(),
        multiview: None,
    };
    let mut text = String::new();
    glsl::Writer::new(&mut text, module, info, &options, &entry, policies(checked))
        .and_then(|mut writer| writer.write())
        .map_err(|e| e.to_string())?;
    Ok(Given::Text("GLSL ES 3.10".into(), text))
}

#[cfg(windows)]
fn hlsl(
    module: &naga::Module,
    info: &naga::valid::ModuleInfo,
    checked: bool,
) -> Result<Given, String> {
    use naga::back::hlsl;
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_0,
        restrict_indexing: checked,
        force_loop_bounding: checked,
        zero_initialize_workgroup_memory: checked,
        ..Default::default()
    };
    let entry = hlsl::PipelineOptions { entry_point: None };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &entry)
        .write(module, info, None)
        .map_err(|e| e.to_string())?;
    Ok(Given::Text("HLSL 6.0".into(), text))
}

#[cfg(target_vendor = "apple")]
fn msl(
    module: &naga::Module,
    info: &naga::valid::ModuleInfo,
    checked: bool,
) -> Result<Given, String> {
    use naga::back::msl;
    let options = msl::Options {
        lang_version: (2, 4),
        bounds_check_policies: policies(checked),
        force_loop_bounding: checked,
        zero_initialize_workgroup_memory: checked,
        ..Default::default()
    };
    let (text, _) = msl::write_string(module, info, &options, &Default::default())
        .map_err(|e| e.to_string())?;
    Ok(Given::Text("MSL 2.4".into(), text))
}

#[cfg(all(test, not(any(target_vendor = "apple", target_arch = "wasm32"))))]
mod tests {
    use super::*;

    const KERNEL: &str = "@group(0) @binding(3) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) { y[lane] = lane; }";

    #[test]
    fn a_kernel_is_translated_for_its_backend() {
        match translate(KERNEL, wgpu::Backend::Gl, false) {
            Given::Text(language, text) => {
                assert_eq!(language, "GLSL ES 3.10");
                assert!(text.contains("binding = 3") && text.contains("void main()"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        let spirv = |checked| match translate(KERNEL, wgpu::Backend::Vulkan, checked) {
            Given::Words(_, words) => words,
            other => panic!("{other:?}"),
        };
        // The magic number, and what checks add.
        assert!(spirv(false).starts_with("AwIjB"), "{}", spirv(false));
        assert!(spirv(true).len() > spirv(false).len());
        assert!(matches!(translate("fn", wgpu::Backend::Vulkan, false), Given::Nothing(_)));
    }
}
