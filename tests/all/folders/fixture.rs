//! A copy of a tiny model's folder, to break.

use crate::common::peak_memory::measure;
use asynctls::Error;
use asynctls::model::{ModelConfig, ModelFile};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const CONFIG: &str = "config.json";
pub const INDEX: &str = "model.safetensors.index.json";
pub const WEIGHTS: &str = "model.safetensors";

pub fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tiny").join(name)
}

pub struct Fixture {
    folder: TempDir,
}

impl Fixture {
    pub fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(tiny(name).join("model")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        Self { folder }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(file)).unwrap()).unwrap()
    }

    pub fn write(&self, file: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path(file), content).unwrap();
        self
    }

    /// Changes a JSON file.
    pub fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) -> &Self {
        let mut value = self.json(file);
        change(&mut value);
        self.write(file, value.to_string())
    }

    /// The shapes, or the one line that says why there are none.
    pub fn read(&self) -> Result<ModelConfig, String> {
        let path = self.folder.path();
        bounded(|| ModelConfig::read(&ModelFile::open(path)?))
    }

    /// Asserts that the folder is refused in words that contain all of `parts`.
    pub fn refused(&self, parts: &[&str]) {
        let message = self.read().expect_err("a refusal");
        for part in parts {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }
}

/// Reads in little memory and time, or fails with an error of the model in one short line.
pub fn bounded(
    read: impl FnOnce() -> asynctls::Result<ModelConfig>,
) -> Result<ModelConfig, String> {
    let began = Instant::now();
    let (result, peak) = measure(read);
    assert!(peak < 32 << 20, "{peak} bytes of memory");
    assert!(began.elapsed() < Duration::from_secs(10));
    result.map_err(|error| {
        assert!(
            matches!(error, Error::Model(_) | Error::Io { .. } | Error::File { .. }),
            "{error:?}"
        );
        let message = error.to_string();
        assert!(message.len() < 1000 && !message.contains('\n'), "{message}");
        message
    })
}
