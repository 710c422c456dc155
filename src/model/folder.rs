//! A model folder as published: `config.json`, and weights as safetensors in one file or in several with an index.
//!
//! Opening checks that every shard is there and sound, and that the index names what the shards hold. Tensors are
//! described as in a GGUF file: dimensions innermost first.

mod header;

use super::gguf::TensorInfo;
use super::json_file::{self, problem, short};
use crate::{Error, Result};
use memmap2::Mmap;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Bytes that a JSON file of a folder may have; an index of thousands of tensors has about a million.
const LARGEST_JSON: u64 = 64 << 20;

/// An open model folder.
pub struct Folder {
    path: PathBuf,
    config: Value,
    shards: Vec<Shard>,
    tensors: Vec<TensorInfo>,
    /// Tensor and shard by name.
    places: HashMap<String, (usize, usize)>,
}

struct Shard {
    name: String,
    map: Mmap,
}

impl Folder {
    /// Opens a folder.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that is missing or cannot be read, [`Error::Model`] for one that is malformed or contradicts
    /// another; both name the file.
    pub fn open(path: &Path) -> Result<Self> {
        let config = read_json(&path.join(CONFIG))?;
        let mut folder = Self {
            path: path.to_owned(),
            config,
            shards: Vec::new(),
            tensors: Vec::new(),
            places: HashMap::new(),
        };
        let index = path.join(INDEX);
        if !index.exists() {
            folder.add_shard(WEIGHTS)?;
            return Ok(folder);
        }
        let shards = listed(&index)?;
        for name in shards.keys() {
            folder.add_shard(name)?;
        }
        for (shard, (file, names)) in shards.iter().enumerate() {
            for name in names {
                if folder.places.get(name).is_none_or(|place| place.1 != shard) {
                    let what = format!(
                        "{file} holds no tensor {}, though it is listed there",
                        short(name)
                    );
                    return Err(problem(&index, what));
                }
            }
        }
        Ok(folder)
    }

    fn add_shard(&mut self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        let io = |source| Error::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the map is only read, and like any program that maps its input this one relies on nobody truncating the
        // file meanwhile.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        for tensor in header::tensors(&path, &map)? {
            let place = (self.tensors.len(), self.shards.len());
            if self.places.insert(tensor.name.clone(), place).is_some() {
                let name = short(&tensor.name);
                return Err(problem(&path, format!("tensor {name} is in another file too")));
            }
            self.tensors.push(tensor);
        }
        self.shards.push(Shard { name: name.to_owned(), map });
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The contents of `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Names of the files that hold weights.
    pub fn shards(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().map(|shard| shard.name.as_str())
    }

    /// Every tensor.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.places.get(name).map(|place| &self.tensors[place.0])
    }

    /// A tensor's bytes; none for a tensor of another folder.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let Some(&(_, shard)) = self.places.get(&tensor.name) else { return &[] };
        self.shards[shard]
            .map
            .get(tensor.offset as usize..)
            .map_or(&[], |rest| rest.get(..tensor.bytes as usize).unwrap_or(&[]))
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folder").field("path", &self.path).finish_non_exhaustive()
    }
}

// A JSON file that must be there.
fn read_json(path: &Path) -> Result<Value> {
    let missing = || Error::Io { path: path.to_owned(), source: ErrorKind::NotFound.into() };
    json_file::parse(path, &json_file::text(path, LARGEST_JSON)?.ok_or_else(missing)?)
}

/// Names of the shards that an index, `model.safetensors.index.json`, lists.
///
/// # Errors
/// [`Error::Io`] and [`Error::Model`], which name the file.
pub fn shards(index: &Path) -> Result<Vec<String>> {
    listed(index).map(|shards| shards.into_keys().collect())
}

// Tensor names by shard.
fn listed(path: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let malformed = |what: &str| problem(path, what);
    let index = read_json(path)?;
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| malformed("there is no object weight_map"))?;
    let mut shards = BTreeMap::<String, Vec<String>>::new();
    for (tensor, file) in map {
        let file = file.as_str().ok_or_else(|| {
            malformed(&format!("the file of tensor {} is no string", short(tensor)))
        })?;
        // Only files of this folder: an index comes from strangers.
        if Path::new(file).file_name().is_none_or(|name| name != file) {
            return Err(malformed(&format!(
                "tensor {} is in {:?}, but only files beside the index are read",
                short(tensor),
                short(file)
            )));
        }
        shards.entry(file.to_owned()).or_default().push(tensor.clone());
    }
    if shards.is_empty() {
        return Err(malformed("weight_map is empty"));
    }
    Ok(shards)
}
