//! Where a model comes from: a path, or a name on the hub.

use super::hub::HubModel;
use super::option_names;
use super::rope::RopeOptions;
use asynctls::Result;
use asynctls::formats::Quantise;
use asynctls::model::RopeChange;
use clap::Args;
use std::fmt;
use std::path::{Path, PathBuf};

/// The options that say which model.
#[derive(Args, Debug)]
pub struct ModelOption {
    /// The model: a GGUF file, or a model folder with config.json and safetensors
    #[arg(long, value_name = "PATH", required_unless_present = "hf", conflicts_with = "hf")]
    model: Option<PathBuf>,
    #[command(flatten)]
    hub: HubOption,
    /// Quantise weights that are floats while they are loaded: q8_0 or q4_0
    #[arg(long, value_name = "TYPE", value_parser = option_names::parse::<Quantise>)]
    quantize: Option<Quantise>,
    #[command(flatten)]
    rope: RopeOptions,
}

/// The option that names a model on the hub.
#[derive(Args, Debug)]
pub struct HubOption {
    /// The model's name on the Hugging Face Hub, ORG/NAME[@REVISION][:FILE.gguf]: downloads it once, into the hub's cache
    #[arg(long, value_name = "NAME")]
    hf: Option<HubModel>,
}

impl HubOption {
    /// The model's file or folder: `path`, unless the model is named, which may download it.
    pub fn or(&self, path: Option<&Path>) -> Result<PathBuf> {
        match &self.hf {
            Some(model) => model.fetch(),
            None => Ok(path.unwrap_or(Path::new("")).to_owned()),
        }
    }
}

impl ModelOption {
    /// The model's file or folder, which may have to be downloaded.
    pub fn path(&self) -> Result<PathBuf> {
        self.hub.or(self.model.as_deref())
    }

    /// The type that weights that are floats become.
    pub fn quantise(&self) -> Option<Quantise> {
        self.quantize
    }

    /// The rotary scaling in the place of the file's.
    pub fn rope(&self) -> Result<Option<RopeChange>> {
        self.rope.change()
    }

    /// The model's name, wherever it lies, and what its weights and its rotary scaling become.
    pub fn name(&self) -> String {
        let mut name = match &self.model {
            Some(path) => path.file_name().unwrap_or_default().display().to_string(),
            None => self.to_string(),
        };
        if let Some(quantise) = self.quantize {
            name += &format!(" as {quantise}");
        }
        if let Ok(Some(change)) = self.rope() {
            name += &format!(" with {change}");
        }
        name
    }
}

impl fmt::Display for ModelOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.model.iter().try_for_each(|path| path.display().fmt(f))?;
        self.hub.hf.iter().try_for_each(|model| model.fmt(f))
    }
}
