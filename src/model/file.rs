//! A model as people hold it: one GGUF file, or a folder as published.

use super::folder::Folder;
use super::gguf::{Gguf, TensorInfo};
use crate::Result;
use std::path::Path;

/// An open model: its description, and its tensors in memory maps.
#[derive(Debug)]
pub enum ModelFile {
    /// A GGUF file.
    Gguf(Gguf),
    /// A folder with `config.json` and safetensors.
    Folder(Folder),
}

impl ModelFile {
    /// Opens a GGUF file, or a folder.
    ///
    /// # Errors
    /// [`crate::Error::Io`] and [`crate::Error::File`], which name the file; as [`Folder::open`] for a folder.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            Folder::open(path).map(Self::Folder)
        } else {
            Gguf::open(path).map(Self::Gguf)
        }
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf(file) => file.path(),
            Self::Folder(folder) => folder.path(),
        }
    }

    /// Every tensor.
    pub fn tensors(&self) -> &[TensorInfo] {
        match self {
            Self::Gguf(file) => file.tensors(),
            Self::Folder(folder) => folder.tensors(),
        }
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        match self {
            Self::Gguf(file) => file.tensor(name),
            Self::Folder(folder) => folder.tensor(name),
        }
    }

    /// A tensor's bytes.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        match self {
            Self::Gguf(file) => file.bytes(tensor),
            Self::Folder(folder) => folder.bytes(tensor),
        }
    }
}

#[cfg(feature = "text")]
impl ModelFile {
    /// The tokenizer.
    ///
    /// # Errors
    /// As [`super::tokenizer::Tokenizer::read`].
    pub fn tokenizer(&self) -> Result<super::tokenizer::Tokenizer> {
        match self {
            Self::Gguf(file) => super::tokenizer::Tokenizer::read(file),
            Self::Folder(folder) => super::tokenizer::Tokenizer::from_folder(folder.path()),
        }
    }

    /// The chat template, if there is one.
    ///
    /// # Errors
    /// As [`super::chat::ChatTemplate::read`].
    pub fn chat_template(&self) -> Result<Option<super::chat::ChatTemplate>> {
        match self {
            Self::Gguf(file) => super::chat::ChatTemplate::read(file),
            Self::Folder(folder) => super::chat::ChatTemplate::from_folder(folder.path()),
        }
    }

    /// How its makers say that tokens should be chosen.
    ///
    /// # Errors
    /// As [`super::sampler::SuggestedSampling::from_folder`].
    pub fn suggested_sampling(&self) -> Result<super::sampler::SuggestedSampling> {
        use super::sampler::SuggestedSampling;
        match self {
            Self::Gguf(file) => Ok(SuggestedSampling::read(file)),
            Self::Folder(folder) => SuggestedSampling::from_folder(folder),
        }
    }
}

impl From<Gguf> for ModelFile {
    fn from(file: Gguf) -> Self {
        Self::Gguf(file)
    }
}
