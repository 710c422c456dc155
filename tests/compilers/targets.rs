//! What compiles kernels, and of which tiers.

use crate::compile::How;
use crate::texts::Text;
use asynctls::conformance::{Language, translated};

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

const GLSLANG: How = How::Each("glslangValidator", &["-S", "comp"]);

pub const TARGETS: &[Target] = &[
    Target {
        name: "FXC",
        language: Some(Language::Hlsl(5, 1)),
        tiers: PORTABLE,
        how: How::Dx12(&["fxc", "cs_5_1"]),
    },
    Target {
        name: "DXC",
        language: Some(Language::Hlsl(6, 0)),
        tiers: SUBGROUPS,
        how: How::Dx12(&["dxc", "cs_6_0"]),
    },
    Target {
        name: "DXC",
        language: Some(Language::Hlsl(6, 6)),
        tiers: SUBGROUPS,
        how: How::Dx12(&["dxc", "cs_6_6"]),
    },
    Target {
        name: "glslang",
        language: Some(Language::GlslEs(310)),
        tiers: SUBGROUPS,
        how: GLSLANG,
    },
    Target { name: "glslang", language: Some(Language::Glsl(430)), tiers: SUBGROUPS, how: GLSLANG },
    Target {
        name: "spirv-val",
        language: Some(Language::Spirv(1, 3)),
        tiers: SUBGROUPS,
        how: How::Each("spirv-val", &["--target-env", "vulkan1.1"]),
    },
    Target {
        name: "spirv-val",
        language: Some(Language::Spirv(1, 6)),
        tiers: SUBGROUPS,
        how: How::Each("spirv-val", &["--target-env", "vulkan1.3"]),
    },
    Target { name: "Tint", language: None, tiers: SUBGROUPS, how: How::Dawn },
    Target {
        name: "naga",
        language: Some(Language::Msl(2, 4)),
        tiers: SUBGROUPS,
        how: How::Nothing,
    },
    Target { name: "naga", language: Some(Language::Msl(4, 0)), tiers: ALL, how: How::Nothing },
    Target { name: "naga", language: Some(Language::Spirv(1, 6)), tiers: ALL, how: How::Nothing },
];

// What a browser asks of a text with subgroup operations, and naga refuses; that those stand where all lanes of a subgroup come
// is what the conformance cases see.
const HEADER: &str = "enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n";

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
            None if text.wgsl.contains("subgroup") => {
                Ok(format!("{HEADER}{}", text.wgsl).into_bytes())
            }
            None => Ok(text.wgsl.clone().into_bytes()),
        }
    }
}
