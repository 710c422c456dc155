//! A file's description of a model's shapes: the same questions to a GGUF file's metadata and to a `config.json`.

use crate::attention::Activation;
use crate::model::file::{ModelFile, Source};
use crate::model::folder::Folder;
use crate::model::gguf::Gguf;
use crate::model::json_file::short;
use crate::{Error, Result};
use serde_json::Value;

// Far above any model, and low enough that products of two fit u64 and of one with a head count fit u32.
const MOST: u32 = 1 << 20;

/// Where both formats say the same: a GGUF key after the architecture's prefix, and a key of `config.json`.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) gguf: &'static str,
    pub(super) json: &'static str,
}

pub(super) const fn key(gguf: &'static str, json: &'static str) -> Key {
    Key { gguf, json }
}

/// An open file's description.
#[derive(Clone, Copy)]
pub(super) enum Description<'a> {
    Gguf { file: &'a Gguf, architecture: &'a str },
    Json { folder: &'a Folder },
}

impl<'a> Description<'a> {
    pub(super) fn of(file: &'a ModelFile) -> Result<(&'a str, Self)> {
        match &file.source {
            Source::Gguf(file) => {
                let architecture = file.str("general.architecture")?;
                Ok((architecture, Self::Gguf { file, architecture }))
            }
            Source::Folder(folder) => {
                let name = folder
                    .config()
                    .get("architectures")
                    .and_then(|list| list.get(0))
                    .and_then(Value::as_str)
                    .ok_or_else(|| {
                        Error::Model(format!(
                            "config.json in {} names no architecture: \"architectures\" must be a list with one",
                            folder.path().display()
                        ))
                    })?;
                Ok((name, Self::Json { folder }))
            }
        }
    }

    pub(super) fn is_json(&self) -> bool {
        matches!(self, Self::Json { .. })
    }

    /// The key as this file spells it.
    pub(super) fn name(&self, key: Key) -> String {
        match self {
            Self::Gguf { architecture, .. } => format!("{architecture}.{}", key.gguf),
            Self::Json { .. } => format!("{} of config.json", key.json),
        }
    }

    /// A value of `config.json`: what is null is not there. None for a GGUF file.
    pub(super) fn json(&self, key: &str) -> Option<&'a Value> {
        match self {
            Self::Gguf { .. } => None,
            Self::Json { folder } => folder.config().get(key).filter(|value| !value.is_null()),
        }
    }

    /// Whether `config.json` says of a key that there is no such thing.
    pub(super) fn is_null(&self, key: Key) -> bool {
        match self {
            Self::Gguf { .. } => false,
            Self::Json { folder } => folder.config().get(key.json).is_some_and(Value::is_null),
        }
    }

    pub(super) fn opt_number(&self, key: Key) -> Result<Option<u32>> {
        match self {
            Self::Gguf { file, .. } => file.opt_u32(&self.name(key)),
            Self::Json { .. } => {
                self.json(key.json).map(|value| number(key.json, value)).transpose()
            }
        }
    }

    /// A length or a count: at least one, and not absurd.
    pub(super) fn opt_size(&self, key: Key) -> Result<Option<u32>> {
        self.opt_number(key)?.map(|value| sized(&self.name(key), value)).transpose()
    }

    pub(super) fn size(&self, key: Key) -> Result<u32> {
        self.opt_size(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn opt_float(&self, key: Key) -> Result<Option<f32>> {
        match self {
            Self::Gguf { file, .. } => file.opt_f32(&self.name(key)),
            Self::Json { .. } => {
                self.json(key.json).map(|value| float(key.json, value)).transpose()
            }
        }
    }

    /// A finite number above 0.
    pub(super) fn opt_positive(&self, key: Key) -> Result<Option<f32>> {
        self.opt_float(key)?.map(|value| positive(&self.name(key), value)).transpose()
    }

    pub(super) fn positive(&self, key: Key) -> Result<f32> {
        self.opt_positive(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn opt_flag(&self, key: Key) -> Result<Option<bool>> {
        match self {
            Self::Gguf { file, .. } => file.opt_bool(&self.name(key)),
            Self::Json { .. } => match self.json(key.json) {
                None => Ok(None),
                Some(Value::Bool(flag)) => Ok(Some(*flag)),
                Some(other) => Err(wrong(key.json, other, "true or false")),
            },
        }
    }

    pub(super) fn missing(&self, key: Key) -> Error {
        Error::Model(format!("{} is missing", self.name(key)))
    }

    /// Refuses a model that says more than these readers know.
    pub(super) fn must_be(&self, key: Key, wanted: u32) -> Result<()> {
        match self.opt_number(key)? {
            Some(value) if value != wanted => Err(Error::Model(format!(
                "{} is {value}, but only {wanted} is supported",
                self.name(key)
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a switch of `config.json` that is on.
    pub(super) fn must_be_off(&self, json: &'static str) -> Result<()> {
        match self.json(json) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(other) => Err(wrong(json, other, "false")),
        }
    }

    /// Refuses a model whose feed-forward networks have another activation than its family's; GGUF files do not tell.
    pub(super) fn must_activate(&self, activation: Activation) -> Result<()> {
        let (key, name) = match activation {
            Activation::Silu => ("hidden_act", "silu"),
            Activation::Gelu => ("hidden_activation", "gelu_pytorch_tanh"),
        };
        match self.json(key) {
            Some(other) if other != name => Err(wrong(key, other, &format!("{name:?}"))),
            _ => Ok(()),
        }
    }
}

pub(super) fn sized(name: &str, value: u32) -> Result<u32> {
    if (1..=MOST).contains(&value) {
        return Ok(value);
    }
    Err(Error::Model(format!("{name} is {value}, but 1 to {MOST} is supported")))
}

pub(super) fn positive(name: &str, value: f32) -> Result<f32> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(Error::Model(format!("{name} is {value}, but it must be a number above 0")))
}

pub(super) fn number(name: &str, value: &Value) -> Result<u32> {
    value
        .as_u64()
        .and_then(|value| u32::try_from(value).ok())
        .ok_or_else(|| wrong(name, value, "an integer from 0 to 4294967295"))
}

pub(super) fn float(name: &str, value: &Value) -> Result<f32> {
    value.as_f64().map(|value| value as f32).ok_or_else(|| wrong(name, value, "a number"))
}

pub(super) fn wrong(name: &str, value: &Value, needed: &str) -> Error {
    let shown = short(&value.to_string());
    Error::Model(format!("{name} of config.json is {shown}, but {needed} is supported"))
}
