//! Files of a repository, in the cache or into it.

use super::HubModel;
use crate::cli::progress::{Progress as Shown, bar};
use crate::cli::terminal::note;
use asynctls::model::shards;
use asynctls::{Error, Result};
use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The files that a model's folder can do without.
const OPTIONAL: [&str; 5] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];
/// How often a download that broke off goes on before the user is asked to.
const ATTEMPTS: u32 = 5;

/// The model's folder or file in the cache, downloaded if it is not there yet.
pub fn fetch(model: &HubModel) -> Result<PathBuf> {
    if std::env::var_os("HF_HOME").is_none() && std::env::home_dir().is_none() {
        return Err(model.problem("there is no home directory to cache it in: set HF_HOME"));
    }
    let cache = Cache::from_env();
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| is_on(&value)) {
        return Cached::of(model, &cache).ok_or_else(|| {
            model.problem("HF_HUB_OFFLINE is set, and the cache does not hold it whole")
        });
    }
    match Online::open(model, &cache) {
        Ok(online) => online.fetch(),
        Err(error) => {
            let path = Cached::of(model, &cache).ok_or(error)?;
            note(&format!("the hub was not reached: {model} is read from the cache"));
            Ok(path)
        }
    }
}

// The values that huggingface_hub takes for yes.
fn is_on(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

/// A repository at one commit, wherever its files come from.
trait Source {
    fn model(&self) -> &HubModel;
    /// Whether the repository has this file.
    fn has(&self, name: &str) -> bool;
    /// The file's place in the cache, after which it is there.
    fn get(&self, name: &str) -> Result<PathBuf>;
    /// The GGUF files, for those who look for another.
    fn ggufs(&self) -> Vec<&str>;

    /// Gets the file that was asked for, or all that make a folder.
    fn get_all(&self) -> Result<PathBuf> {
        if let Some(file) = &self.model().file {
            if !self.has(file) {
                return Err(self.without(&format!("file {file}")));
            }
            return self.get(file);
        }
        if !self.has(CONFIG) || !(self.has(INDEX) || self.has(WEIGHTS)) {
            return Err(self.without(&format!("{CONFIG} and {WEIGHTS}")));
        }
        let config = self.get(CONFIG)?;
        for name in OPTIONAL.into_iter().filter(|name| self.has(name)) {
            self.get(name)?;
        }
        if self.has(INDEX) {
            for shard in shards(&self.get(INDEX)?)? {
                self.get(&shard)?;
            }
        } else {
            self.get(WEIGHTS)?;
        }
        Ok(config.parent().unwrap_or(&config).to_owned())
    }

    fn without(&self, what: &str) -> Error {
        let mut limit = format!("the repository has no {what}");
        let ggufs = self.ggufs();
        if !ggufs.is_empty() {
            let model = HubModel { file: None, ..self.model().clone() };
            limit += &format!(
                "; its GGUF files can be named as --hf {model}:FILE: {}",
                ggufs.join(", ")
            );
        }
        self.model().problem(limit)
    }
}

/// A repository's files in the cache.
struct Cached<'a> {
    model: &'a HubModel,
    snapshot: PathBuf,
}

impl Cached<'_> {
    /// The whole model, if the cache has it.
    fn of(model: &HubModel, cache: &Cache) -> Option<PathBuf> {
        let here = cache.repo(repo(model, &model.revision));
        // The revision may be the commit itself.
        let snapshot = here.get("").unwrap_or_else(|| here.pointer_path(&model.revision));
        Cached { model, snapshot }.get_all().ok()
    }
}

impl Source for Cached<'_> {
    fn model(&self) -> &HubModel {
        self.model
    }

    fn has(&self, name: &str) -> bool {
        self.snapshot.join(name).is_file()
    }

    fn get(&self, name: &str) -> Result<PathBuf> {
        let path = self.snapshot.join(name);
        match fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(source) => Err(Error::Io { path, source }),
        }
    }

    fn ggufs(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// The hub's list of files, at the commit that it had when it was asked.
struct Online<'a> {
    model: &'a HubModel,
    commit: String,
    files: HashSet<String>,
    api: hf_hub::api::sync::Api,
    repo: ApiRepo,
    cache: CacheRepo,
    /// The cache by the revision's own name.
    named: CacheRepo,
}

impl<'a> Online<'a> {
    fn open(model: &'a HubModel, cache: &Cache) -> Result<Self> {
        let mut builder = ApiBuilder::from_env();
        if let Ok(token) = std::env::var("HF_TOKEN") {
            builder = builder.with_token(Some(token));
        }
        let api = builder.build().map_err(|error| model.problem(error.to_string()))?;
        let named = repo(model, &model.revision);
        let asked = api.repo(named.clone());
        // The address is shown without what is specific to a file.
        let info = asked.info().map_err(|error| unreachable(model, &asked.url(""), &error))?;
        // It becomes a directory.
        if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(model.problem("the hub's answer names no commit"));
        }
        let pinned = repo(model, &info.sha);
        Ok(Self {
            model,
            files: info.siblings.into_iter().map(|file| file.rfilename).collect(),
            repo: api.repo(pinned.clone()),
            api,
            cache: cache.repo(pinned),
            commit: info.sha,
            named: cache.repo(named),
        })
    }

    fn fetch(&self) -> Result<PathBuf> {
        let path = self.get_all()?;
        // From now on the revision's name leads here without the hub; that it cannot is no loss.
        let _ = self.named.create_ref(&self.commit);
        Ok(path)
    }

    fn download(&self, name: &str, path: &Path) -> Result<()> {
        let url = self.repo.url(name);
        let problem = |error: &ApiError| unreachable(self.model, &url, error);
        let metadata = self.api.metadata(&url).map_err(|error| problem(&error))?;
        let size = metadata.size() as u64;
        let blob = self.cache.blob_path(metadata.etag());
        if length(&blob) == Some(size) {
            // Another revision has it.
            return link(&blob, path).map_err(|source| Error::Write { path: path.into(), source });
        }
        let part = blob.with_extension("part");
        for attempt in 1.. {
            // Going on after the end would be refused; so is what was never finished well.
            if length(&part).is_some_and(|there| there >= size) {
                let _ = fs::remove_file(&part);
            }
            let before = length(&part);
            match self.repo.download_with_progress(name, Bar(bar("downloading", size, true))) {
                Ok(_) => break,
                Err(_) if attempt < ATTEMPTS && length(&part) > before => {}
                Err(error) => return Err(problem(&error)),
            }
        }
        let there = length(path);
        if there != Some(size) {
            let _ = fs::remove_file(path);
            let _ = fs::remove_file(&blob);
            let there = there.unwrap_or(0);
            return Err(self.model.problem(format!(
                "{url} brought {there} bytes where {size} were announced; try again"
            )));
        }
        Ok(())
    }
}

impl Source for Online<'_> {
    fn model(&self) -> &HubModel {
        self.model
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains(name)
    }

    fn get(&self, name: &str) -> Result<PathBuf> {
        let path = self.cache.pointer_path(&self.commit).join(name);
        if !path.is_file() {
            self.download(name, &path)?;
        }
        Ok(path)
    }

    fn ggufs(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.files.iter().map(String::as_str).filter(|name| name.ends_with(".gguf")).collect();
        names.sort_unstable();
        names
    }
}

fn repo(model: &HubModel, revision: &str) -> Repo {
    Repo::with_revision(model.repository.clone(), RepoType::Model, revision.to_owned())
}

fn unreachable(model: &HubModel, url: &str, error: &ApiError) -> Error {
    model.problem(format!(
        "{url} cannot be read: {error}; check the name and the connection, log in or set HF_TOKEN for what needs it, or \
         give a local path with --model"
    ))
}

fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.len())
}

// A second name for a file of the cache.
fn link(blob: &Path, path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    match fs::hard_link(blob, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

/// Progress on standard error.
struct Bar(Shown);

impl Progress for Bar {
    fn init(&mut self, size: usize, filename: &str) {
        self.0.restart(filename, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }

    // The bar goes when this does.
    fn finish(&mut self) {}
}
