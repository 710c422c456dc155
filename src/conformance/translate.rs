//! What a backend's compiler is given: naga's translation, by the writers that wgpu uses.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use naga::back::{glsl, hlsl, msl, spv};
use serde::{Deserialize, Serialize};
use std::fmt;

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

/// A language that a backend's compiler takes, in a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// SPIR-V, by major and minor version.
    Spirv(u8, u8),
    /// GLSL for OpenGL ES, as in 310.
    GlslEs(u16),
    /// GLSL for OpenGL, as in 430.
    Glsl(u16),
    /// HLSL of a shader model, by major and minor version.
    Hlsl(u8, u8),
    /// The Metal shading language, by major and minor version.
    Msl(u8, u8),
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Spirv(major, minor) => write!(f, "SPIR-V {major}.{minor}"),
            Self::GlslEs(version) => write!(f, "GLSL ES {}.{:02}", version / 100, version % 100),
            Self::Glsl(version) => write!(f, "GLSL {}.{:02}", version / 100, version % 100),
            Self::Hlsl(major, minor) => write!(f, "HLSL {major}.{minor}"),
            Self::Msl(major, minor) => write!(f, "MSL {major}.{minor}"),
        }
    }
}

/// Translates a kernel for a backend. Versions and what depends on extensions are those of a recent device; the device's own may
/// differ.
pub(super) fn translate(wgsl: &str, backend: wgpu::Backend, checked: bool) -> Given {
    let language = match backend {
        wgpu::Backend::Vulkan => Language::Spirv(1, 6),
        wgpu::Backend::Gl => Language::GlslEs(310),
        wgpu::Backend::Dx12 => Language::Hlsl(6, 0),
        wgpu::Backend::Metal => Language::Msl(2, 4),
        wgpu::Backend::BrowserWebGpu | wgpu::Backend::Noop => {
            return Given::Nothing(
                "nothing translates for this backend: it is given the WGSL".into(),
            );
        }
    };
    match translated(wgsl, language, checked) {
        Ok(Translated::Text(text)) => Given::Text(language.to_string(), text),
        Ok(Translated::Words(bytes)) => Given::Words(language.to_string(), base64(&bytes)),
        Err(problem) => Given::Nothing(problem),
    }
}

/// Base64 of bytes, for what JSON and pages carry with them.
pub(super) fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// A kernel in another language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translated {
    /// Its text.
    Text(String),
    /// Its words, little-endian.
    Words(Vec<u8>),
}

impl Translated {
    /// The bytes of a file of it.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Words(bytes) => bytes,
        }
    }
}

/// Translates a kernel, as wgpu does for a device that takes this version. `checked`: with checks of bounds, and bounded loops.
///
/// # Errors
/// Why there is no such translation, in naga's words.
pub fn translated(
    wgsl: &str,
    language: Language,
    checked: bool,
) -> std::result::Result<Translated, String> {
    let (module, info) = &parsed(wgsl)?;
    match language {
        Language::Spirv(major, minor) => spirv(module, info, (major, minor), checked),
        Language::GlslEs(version) => {
            let version = glsl::Version::Embedded { version, is_webgl: false };
            gl(module, info, version, checked)
        }
        Language::Glsl(version) => gl(module, info, glsl::Version::Desktop(version), checked),
        Language::Hlsl(major, minor) => dx(module, info, shader_model(major, minor)?, checked),
        Language::Msl(major, minor) => metal(module, info, (major, minor), checked),
    }
}

type Outcome = std::result::Result<Translated, String>;
type Info = naga::valid::ModuleInfo;

fn parsed(wgsl: &str) -> std::result::Result<(naga::Module, Info), String> {
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| e.to_string())?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|e| e.as_inner().to_string())?;
    Ok((module, info))
}

fn policies(checked: bool) -> naga::proc::BoundsCheckPolicies {
    let policy = match checked {
        true => naga::proc::BoundsCheckPolicy::Restrict,
        false => naga::proc::BoundsCheckPolicy::Unchecked,
    };
    naga::proc::BoundsCheckPolicies { index: policy, buffer: policy, ..Default::default() }
}

fn spirv(module: &naga::Module, info: &Info, version: (u8, u8), checked: bool) -> Outcome {
    let options = spv::Options {
        lang_version: version,
        bounds_check_policies: policies(checked),
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        ..Default::default()
    };
    let words = spv::write_vec(module, info, &options, None).map_err(|e| e.to_string())?;
    Ok(Translated::Words(words.iter().flat_map(|word| word.to_le_bytes()).collect()))
}

fn gl(module: &naga::Module, info: &Info, version: glsl::Version, checked: bool) -> Outcome {
    let bindings = module.global_variables.iter().filter_map(|(_, variable)| variable.binding);
    let options = glsl::Options {
        version,
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
    Ok(Translated::Text(text))
}

fn shader_model(major: u8, minor: u8) -> std::result::Result<hlsl::ShaderModel, String> {
    Ok(match (major, minor) {
        (5, 1) => hlsl::ShaderModel::V5_1,
        (6, 0) => hlsl::ShaderModel::V6_0,
        (6, 6) => hlsl::ShaderModel::V6_6,
        _ => return Err(format!("nothing is written for shader model {major}.{minor}")),
    })
}

fn dx(module: &naga::Module, info: &Info, model: hlsl::ShaderModel, checked: bool) -> Outcome {
    let options = hlsl::Options {
        shader_model: model,
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
    Ok(Translated::Text(text))
}

fn metal(module: &naga::Module, info: &Info, version: (u8, u8), checked: bool) -> Outcome {
    let options = msl::Options {
        lang_version: version,
        bounds_check_policies: policies(checked),
        force_loop_bounding: checked,
        zero_initialize_workgroup_memory: checked,
        ..Default::default()
    };
    let (text, _) = msl::write_string(module, info, &options, &Default::default())
        .map_err(|e| e.to_string())?;
    Ok(Translated::Text(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: &str = "@group(0) @binding(3) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) { y[lane] = lane; }";

    #[test]
    fn a_kernel_is_translated_for_its_backend() {
        let text = |backend| match translate(KERNEL, backend, false) {
            Given::Text(language, text) => (language, text),
            other => panic!("{other:?}"),
        };
        let (language, glsl) = text(wgpu::Backend::Gl);
        assert_eq!(language, "GLSL ES 3.10");
        assert!(glsl.contains("binding = 3") && glsl.contains("void main()"), "{glsl}");
        let (language, hlsl) = text(wgpu::Backend::Dx12);
        assert_eq!(language, "HLSL 6.0");
        assert!(hlsl.contains("register(u3)") && hlsl.contains("numthreads(64, 1, 1)"), "{hlsl}");
        let (language, msl) = text(wgpu::Backend::Metal);
        assert_eq!(language, "MSL 2.4");
        assert!(msl.contains("kernel void main_"), "{msl}");
        let spirv = |checked| match translate(KERNEL, wgpu::Backend::Vulkan, checked) {
            Given::Words(_, words) => words,
            other => panic!("{other:?}"),
        };
        // The magic number, and what checks add.
        assert!(spirv(false).starts_with("AwIjB"), "{}", spirv(false));
        assert!(spirv(true).len() > spirv(false).len());
        assert!(matches!(translate("fn", wgpu::Backend::Vulkan, false), Given::Nothing(_)));
        assert!(translated(KERNEL, Language::Hlsl(4, 0), false).unwrap_err().contains("4.0"));
    }
}
