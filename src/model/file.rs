//! A model as people hold it: one GGUF file, or a folder as published.

use super::folder::Folder;
use super::gguf::{Gguf, TensorInfo};
use super::latents::Latents;
#[cfg(feature = "text")]
use super::{ChatTemplate, SuggestedSampling, Tokenizer};
use crate::Result;
use std::path::Path;

/// An open model: its description, and its tensors in memory maps.
#[derive(Debug)]
pub struct ModelFile {
    pub(crate) source: Source,
    /// What is loaded in the place of some of its tensors.
    pub(super) latents: Latents,
}

/// What a model is read from.
#[derive(Debug)]
pub enum Source {
    /// A GGUF file.
    Gguf(Gguf),
    /// A folder with `config.json` and safetensors.
    Folder(Folder),
}

impl ModelFile {
    /// Opens a GGUF file, or a folder.
    ///
    /// # Errors
    /// [`crate::Error::Io`], [`crate::Error::File`] and [`crate::Error::Model`], which name the file.
    pub fn open(path: &Path) -> Result<Self> {
        let source = if path.is_dir() {
            Source::Folder(Folder::open(path)?)
        } else {
            Source::Gguf(Gguf::open(path)?)
        };
        Ok(source.into())
    }

    /// Reads a GGUF file that is in memory already, as a browser's is; `name` is what messages call it.
    ///
    /// # Errors
    /// [`crate::Error::File`] and [`crate::Error::Model`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self> {
        Ok(Source::Gguf(Gguf::from_bytes(name.as_ref(), bytes)?).into())
    }

    /// What it is read from.
    #[cfg(feature = "measure")]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::Gguf(file) => file.path(),
            Source::Folder(folder) => folder.path(),
        }
    }

    /// Every tensor.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn tensors(&self) -> &[TensorInfo] {
        match &self.source {
            Source::Gguf(file) => file.tensors(),
            Source::Folder(folder) => folder.tensors(),
        }
    }

    /// Bytes of all tensors as they are loaded: what progress counts to.
    #[cfg(feature = "measure")]
    pub fn loaded_bytes(&self) -> u64 {
        let loaded = self.tensors().iter().flat_map(|there| self.tensor(&there.name));
        loaded.map(|tensor| tensor.bytes).sum()
    }

    /// The tensor of this name, as it is loaded: what makes and reads latents has them on other axes than the file has
    /// (`src/model/latents`).
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.latents.tensor(name).or_else(|| self.source.tensor(name))
    }

    /// The bytes of one of [`ModelFile::tensor`] or of [`ModelFile::tensors`].
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        self.latents.bytes(&self.source, tensor).unwrap_or_else(|| self.source.bytes(tensor))
    }
}

impl Source {
    /// The tensor of this name, as the file has it.
    pub(super) fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        match self {
            Self::Gguf(file) => file.tensor(name),
            Self::Folder(folder) => folder.tensor(name),
        }
    }

    /// The bytes of a tensor that the file has.
    pub(super) fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        match self {
            Self::Gguf(file) => file.bytes(tensor),
            Self::Folder(folder) => folder.bytes(tensor),
        }
    }
}

impl From<Source> for ModelFile {
    fn from(source: Source) -> Self {
        let latents = Latents::of(&source);
        Self { source, latents }
    }
}

#[cfg(feature = "text")]
impl ModelFile {
    /// The tokenizer.
    ///
    /// # Errors
    /// [`crate::Error::Io`] for a file that cannot be read, and [`crate::Error::Model`] for one that has none, or one that is not
    /// supported.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.source {
            Source::Gguf(file) => Tokenizer::read(file),
            Source::Folder(folder) => Tokenizer::from_folder(folder.path()),
        }
    }

    /// The chat template, if there is one.
    ///
    /// # Errors
    /// [`crate::Error::Io`] or [`crate::Error::Model`], which name the file.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        match &self.source {
            Source::Gguf(file) => ChatTemplate::read(file),
            Source::Folder(folder) => ChatTemplate::from_folder(folder.path()),
        }
    }

    /// How its makers say that tokens should be chosen.
    ///
    /// # Errors
    /// [`crate::Error::Io`] and [`crate::Error::Model`] for a file that cannot be read, which name it.
    pub fn suggested_sampling(&self) -> Result<SuggestedSampling> {
        match &self.source {
            Source::Gguf(file) => Ok(SuggestedSampling::read(file)),
            Source::Folder(folder) => SuggestedSampling::from_folder(folder),
        }
    }
}

// For who has made the file in memory.
#[cfg(feature = "measure")]
impl From<Gguf> for ModelFile {
    fn from(file: Gguf) -> Self {
        Source::Gguf(file).into()
    }
}
