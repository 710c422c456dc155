//! How a model's makers say that its tokens should be chosen.
//!
//! A GGUF file has keys under `general.sampling.` with the meaning that llama.cpp gives them; a folder has
//! `generation_config.json` with the meaning that transformers give it.

use super::{Range, SamplerSettings};
use crate::Result;
use crate::model::folder::Folder;
use crate::model::gguf::Gguf;
use crate::model::json_file;

/// Tokens that llama.cpp's repetition penalty looks at where its file does not say.
const WINDOW: usize = 64;

/// Settings that a model file names; the others are nobody's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SuggestedSampling {
    /// [`SamplerSettings::temperature`].
    pub temperature: Option<f32>,
    /// [`SamplerSettings::top_k`].
    pub top_k: Option<usize>,
    /// [`SamplerSettings::top_p`].
    pub top_p: Option<f32>,
    /// [`SamplerSettings::min_p`].
    pub min_p: Option<f32>,
    /// [`SamplerSettings::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// [`SamplerSettings::repetition_window`].
    pub repetition_window: Option<usize>,
    /// Settings of the file that this program does not have: a line for each.
    pub unused: Vec<String>,
}

/// A key's value: a number, or something else as it is spelled.
type Found = std::result::Result<f64, String>;

struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<Found>,
    /// Where keys are.
    place: String,
    unused: Vec<String>,
}

impl Reader<'_> {
    fn take(&mut self, key: &str, holds: impl Fn(f64) -> bool, needed: &str) -> Option<f64> {
        let value = match (self.get)(key)? {
            Ok(value) if holds(value) => return Some(value),
            Ok(value) => value.to_string(),
            Err(other) => other.chars().take(80).collect(),
        };
        self.unused.push(format!(
            "{}{key} is {value}, but {needed} is needed; it is not used",
            self.place
        ));
        None
    }

    fn float(&mut self, key: &str, range: Range) -> Option<f32> {
        self.take(key, |value| range.holds(value), range.name()).map(|value| value as f32)
    }

    // A count, of which -1 stands for no limit.
    fn count(&mut self, key: &str) -> Option<f64> {
        let holds =
            |value: f64| value.fract() == 0.0 && (-1.0..=f64::from(u32::MAX)).contains(&value);
        self.take(key, holds, "a whole number of at least -1")
    }

    fn top_k(&mut self) -> Option<usize> {
        self.count("top_k").map(|value| value.max(0.0) as usize)
    }

    // Keys of samplers that there are none of here, unless they change nothing.
    fn refuse(&mut self, keys: &[(&str, f64)]) {
        for &(key, nothing) in keys {
            if (self.get)(key).is_some_and(|found| found != Ok(nothing)) {
                self.unused.push(format!("{}{key} is not supported; it is not used", self.place));
            }
        }
    }
}

impl SuggestedSampling {
    /// The settings of a GGUF file.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn read(file: &Gguf) -> Self {
        let get = |key: &str| {
            let value = file.value(&format!("general.sampling.{key}"))?;
            Some(value.as_f64().ok_or_else(|| value.to_string()))
        };
        let place = "general.sampling.".into();
        let mut reader = Reader { get: &get, place, unused: Vec::new() };
        let mut found = Self {
            temperature: reader.float("temp", Range::Temperature),
            top_k: reader.top_k(),
            top_p: reader.float("top_p", Range::TopP),
            min_p: reader.float("min_p", Range::MinP),
            repetition_penalty: reader.float("penalty_repeat", Range::Repetition),
            ..Self::default()
        };
        let window = reader.count("penalty_last_n");
        if found.repetition_penalty.is_some() {
            found.repetition_window = match window {
                Some(-1.0) => None,
                Some(window) => Some(window as usize),
                None => Some(WINDOW),
            };
        }
        // Whoever narrows what is drawn from wants draws.
        if found.top_k.is_some() || found.top_p.is_some() || found.min_p.is_some() {
            found.temperature = found.temperature.or(Some(1.0));
        }
        reader.refuse(&[("xtc_probability", 0.0), ("mirostat", 0.0), ("sequence", f64::NAN)]);
        found.unused = reader.unused;
        found
    }

    /// The settings of a folder's `generation_config.json`.
    ///
    /// # Errors
    /// [`crate::Error::Io`] and [`crate::Error::Model`] for a file that cannot be read, which name it.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn from_folder(folder: &Folder) -> Result<Self> {
        let path = folder.path().join("generation_config.json");
        let config = json_file::object(&path)?;
        let get = |key: &str| {
            let value = config.get(key).filter(|value| !value.is_null())?;
            Some(value.as_f64().ok_or_else(|| value.to_string()))
        };
        let place = format!("{}: ", path.display());
        let mut reader = Reader { get: &get, place, unused: Vec::new() };
        let mut found = Self {
            repetition_penalty: reader.float("repetition_penalty", Range::Repetition),
            ..Self::default()
        };
        match config.get("do_sample").and_then(serde_json::Value::as_bool) {
            Some(false) => found.temperature = Some(0.0),
            does => {
                // Whoever wants draws and names no temperature gets that of the model's own distribution.
                let own = does.map(|_| 1.0);
                found.temperature = reader.float("temperature", Range::Temperature).or(own);
                found.top_k = reader.top_k();
                found.top_p = reader.float("top_p", Range::TopP);
                found.min_p = reader.float("min_p", Range::MinP);
                reader.refuse(&[("typical_p", 1.0), ("epsilon_cutoff", 0.0), ("eta_cutoff", 0.0)]);
            }
        }
        reader.refuse(&[("no_repeat_ngram_size", 0.0), ("num_beams", 1.0)]);
        found.unused = reader.unused;
        Ok(found)
    }

    /// These settings, and where nothing is named the likeliest token.
    pub fn settings(&self) -> SamplerSettings {
        let other = SamplerSettings::default();
        SamplerSettings {
            temperature: self.temperature.unwrap_or(other.temperature),
            top_k: self.top_k.unwrap_or(other.top_k),
            top_p: self.top_p.unwrap_or(other.top_p),
            min_p: self.min_p.unwrap_or(other.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(other.repetition_penalty),
            repetition_window: self.repetition_window,
            ..other
        }
    }
}

#[cfg(test)]
mod tests;
