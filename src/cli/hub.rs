//! Models of the Hugging Face Hub: their names, and the downloads into the cache that its other tools share.

use asynctls::{Error, Result};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

#[cfg(feature = "hub")]
mod download;

/// A model's name: `ORG/NAME`, with `@REVISION` and `:FILE.gguf` where they are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    repository: String,
    /// A branch, a tag or a commit.
    revision: String,
    /// A GGUF file; none for a folder of safetensors.
    file: Option<String>,
}

impl FromStr for HubModel {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, file) = match text.split_once(':') {
            Some((name, file)) => (name, Some(file)),
            None => (text, None),
        };
        let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
        // Parts become paths of addresses and of the cache.
        let is_path = |text: &str| text.split('/').all(is_part);
        if !is_path(repository) || repository.split('/').count() != 2 {
            return Err("a model is named ORG/NAME, as on huggingface.co".into());
        }
        if !is_path(revision) {
            return Err("a revision is a branch, a tag or a commit".into());
        }
        if file.is_some_and(|file| !is_path(file) || !file.ends_with(".gguf")) {
            return Err("a file of the repository is named as FILE.gguf".into());
        }
        Ok(Self {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
            file: file.map(str::to_owned),
        })
    }
}

fn is_part(part: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    !part.is_empty() && part != "." && part != ".." && part.chars().all(is_plain)
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        self.file.iter().try_for_each(|file| write!(f, ":{file}"))
    }
}

impl HubModel {
    /// The model's folder or file in the cache, downloaded if it is not there yet.
    #[cfg(feature = "hub")]
    pub fn fetch(&self) -> Result<PathBuf> {
        download::fetch(self)
    }

    /// Without the feature there is nothing to fetch with.
    #[cfg(not(feature = "hub"))]
    pub fn fetch(&self) -> Result<PathBuf> {
        Err(self.problem(
            "this program was built without the feature hub; give a local path with --model",
        ))
    }

    fn problem(&self, limit: impl Into<String>) -> Error {
        Error::argument("--hf", self, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_two_parts_and_can_have_a_revision_and_a_file() {
        for (text, repository, revision, file) in [
            ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "main", None),
            ("a/b@refs/pr/1", "a/b", "refs/pr/1", None),
            ("a/b:c.gguf", "a/b", "main", Some("c.gguf")),
            ("a/b@v1.0:q4/c.gguf", "a/b", "v1.0", Some("q4/c.gguf")),
        ] {
            let model: HubModel = text.parse().unwrap();
            assert_eq!((&*model.repository, &*model.revision), (repository, revision));
            assert_eq!((model.file.as_deref(), &*model.to_string()), (file, text));
        }
        for text in [
            "",
            "a",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/b c",
            "a/b@",
            "a/b@../c",
            "a/b@/",
            "a/b:",
            "a/b:c",
            "a/b:../c.gguf",
            "a/b:/c.gguf",
            "a/b:c%2f.gguf",
            "a/b?c",
            "a\\b/c",
            "https://huggingface.co/a/b",
        ] {
            assert!(text.parse::<HubModel>().is_err(), "{text}");
        }
    }
}
