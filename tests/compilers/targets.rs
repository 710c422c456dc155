//! What compiles kernels, and of which tiers.

use crate::compile::How;
use crate::texts::Text;
use asynctls::conformance::{Language, for_webgpu, translated};

const PORTABLE: &[&str] = &["portable"];
const SUBGROUPS: &[&str] = &["portable", "subgroups", "subgroups-of-32", "subgroups-of-8"];
const ALL: &[&str] = &["portable", "subgroups", "subgroups-of-32", "subgroups-of-8", "cooperative"];

/// A compiler, a language that it takes, and the tiers whose adapters have it.
pub struct Target {
    pub name: &'static str,
    /// None: it takes WGSL.
    pub language: Option<Language>,
    pub tiers: &'static [&'static str],
    pub how: How,
}

const fn target(
    name: &'static str,
    language: Option<Language>,
    tiers: &'static [&'static str],
    how: How,
) -> Target {
    Target { name, language, tiers, how }
}

const fn glslang(language: Language) -> Target {
    target("glslang", Some(language), SUBGROUPS, How::Each("glslangValidator", &["-S", "comp"]))
}

const fn dx12(
    language: Language,
    tiers: &'static [&'static str],
    words: &'static [&'static str],
) -> Target {
    let name = if let Language::Hlsl(5, _) = language { "FXC" } else { "DXC" };
    target(name, Some(language), tiers, How::Dx12(words))
}

const fn spirv_val(language: Language, arguments: &'static [&'static str]) -> Target {
    target("spirv-val", Some(language), SUBGROUPS, How::Each("spirv-val", arguments))
}

const fn translated_only(language: Language, tiers: &'static [&'static str]) -> Target {
    target("naga", Some(language), tiers, How::Nothing)
}

pub const TARGETS: &[Target] = &[
    dx12(Language::Hlsl(5, 1), PORTABLE, &["fxc", "cs_5_1"]),
    dx12(Language::Hlsl(6, 0), SUBGROUPS, &["dxc", "cs_6_0"]),
    dx12(Language::Hlsl(6, 6), SUBGROUPS, &["dxc", "cs_6_6"]),
    glslang(Language::GlslEs(310)),
    glslang(Language::Glsl(430)),
    spirv_val(Language::Spirv(1, 3), &["--target-env", "vulkan1.1"]),
    spirv_val(Language::Spirv(1, 6), &["--target-env", "vulkan1.3"]),
    target("Tint", None, SUBGROUPS, How::Dawn),
    translated_only(Language::Msl(2, 4), SUBGROUPS),
    translated_only(Language::Msl(4, 0), ALL),
    translated_only(Language::Spirv(1, 6), ALL),
];

impl Target {
    /// Its name and language.
    pub fn label(&self) -> String {
        let language = self.language.map_or("WGSL".into(), |language| language.to_string());
        format!("{} {language}", self.name)
    }

    /// How its files end: by this glslang tells GLSL from others.
    pub fn ending(&self) -> &'static str {
        match self.language {
            None => "wgsl",
            Some(Language::Spirv(..)) => "spv",
            Some(Language::GlslEs(_) | Language::Glsl(_)) => "comp",
            Some(Language::Hlsl(..)) => "hlsl",
            Some(Language::Msl(..)) => "metal",
        }
    }

    /// Whether texts with checks are for it too. FXC takes minutes for some, and nothing but a mode of conformance cases gives them to it.
    pub fn takes_checks(&self) -> bool {
        self.name != "FXC"
    }

    /// What it is given for a kernel.
    pub fn given(&self, text: &Text) -> Result<Vec<u8>, String> {
        match self.language {
            Some(language) => Ok(translated(&text.wgsl, language, text.checked)?.bytes().to_vec()),
            None => Ok(for_webgpu(&text.wgsl).into_bytes()),
        }
    }
}
