//! Reading GGUF files, versions 2 and 3: typed metadata, and named tensors in a memory map.
//!
//! Opening a file checks all of its structure, so that whatever it contains, the result is either an error that names
//! the offending field or a [`Gguf`] whose tensors lie inside the file, aligned and without overlap. Memory is
//! allocated only for what has been found to fit in the file.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use asynctls::model::Gguf;
//!
//! let file = Gguf::open("model.gguf".as_ref())?;
//! let layers = file.u32("llama.block_count")?;
//! let norm = file.tensor("output_norm.weight").ok_or("no such tensor")?;
//! println!("{layers} layers; {} takes {} bytes", norm.name, file.bytes(norm).len());
//! # Ok(())
//! # }
//! ```

mod cursor;
mod getters;
mod names;
mod tensor;
mod value;

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use cursor::{Cursor, Quoted};
use memmap2::Mmap;
use names::Names;
use tensor::Entry;

pub use tensor::TensorInfo;
pub use value::{Array, Value};

use crate::{Error, Result};

const MAGIC: [u8; 4] = *b"GGUF";
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
const ALIGNMENT_KEY: &str = "general.alignment";
/// The alignment where the file names none.
const DEFAULT_ALIGNMENT: u32 = 32;

/// The fewest bytes of a key and its value: an empty key, a value type and a value of one byte.
const LEAST_PAIR: usize = 8 + 4 + 1;

/// An open GGUF file.
pub struct Gguf {
    path: PathBuf,
    data: Data,
    contents: Contents,
}

enum Data {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Data {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// All that precedes the tensor data.
struct Contents {
    version: u32,
    metadata: Vec<Pair>,
    keys: Names,
    tensors: Vec<TensorInfo>,
    tensor_names: Names,
}

/// A metadata key and its value.
struct Pair {
    /// Where in the file the pair begins, for messages.
    at: u64,
    key: String,
    value: Value,
}

impl Pair {
    fn key(&self) -> &str {
        &self.key
    }

    /// Reads the pair with this number in the list.
    fn read(cursor: &mut Cursor<'_>, number: usize) -> Result<Self> {
        let at = cursor.at();
        let key = cursor.name(&format_args!("metadata key {number}"))?;
        Ok(Self { at, key: key.to_owned(), value: Value::read(cursor, key)? })
    }
}

impl Gguf {
    /// Maps a file into memory and reads all but its tensor data.
    ///
    /// The file must not be changed or cut short while it is open: its tensors are read through the map.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        // Asked before opening, since opening a directory fails on some systems only, and opening a pipe waits.
        let status = fs::metadata(path).map_err(io)?;
        if !status.is_file() {
            let found = if status.is_dir() { "a directory" } else { "a device, pipe or socket" };
            let problem = format!("this is {found}, but a GGUF file is needed");
            return Err(Error::File { path: path.to_owned(), offset: 0, problem });
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: The map is only read. That nobody changes or truncates the file meanwhile cannot be checked, as with
        // every map of a file; the documentation asks for it. What decides about memory accesses (lengths, offsets)
        // is copied out of the map once and checked, and the rest is numbers for which any bits are valid.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Self::new(path, Data::Mapped(map))
    }

    /// Reads a file that is in memory already; `path_for_errors` is what messages call it.
    pub fn from_bytes(path_for_errors: &Path, bytes: Vec<u8>) -> Result<Self> {
        Self::new(path_for_errors, Data::Owned(bytes))
    }

    /// A file that never was one: `head` has no tensors; those that are given lie anywhere in `data`, also over one another.
    pub(crate) fn overlaid(
        path: &Path,
        head: &[u8],
        tensors: Vec<TensorInfo>,
        data: Vec<u8>,
    ) -> Result<Self> {
        let contents = Contents::read(&mut Cursor::new(path, head))?;
        let tensor_names = Names::new(&tensors, |info| &info.name)
            .map_err(|_| Error::Model("a tensor appears twice".into()))?;
        let contents = Contents { tensors, tensor_names, ..contents };
        Ok(Self { path: path.to_owned(), data: Data::Owned(data), contents })
    }

    fn new(path: &Path, data: Data) -> Result<Self> {
        let contents = Contents::read(&mut Cursor::new(path, data.as_slice()))?;
        Ok(Self { path: path.to_owned(), data, contents })
    }

    /// The path given when opening.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.contents.version
    }

    /// The file's size in bytes.
    pub fn file_size(&self) -> u64 {
        self.data.as_slice().len() as u64
    }

    /// All metadata in the file's order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.contents.metadata.iter().map(|pair| (pair.key(), &pair.value))
    }

    /// The value of a key, whatever its type.
    pub fn value(&self, key: &str) -> Option<&Value> {
        let Contents { metadata, keys, .. } = &self.contents;
        keys.find(metadata, Pair::key, key).map(|pair| &pair.value)
    }

    /// All tensors in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.contents.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let Contents { tensors, tensor_names, .. } = &self.contents;
        tensor_names.find(tensors, |info| &info.name, name)
    }

    /// A tensor's bytes, as stored. Nothing is promised about their alignment in memory.
    ///
    /// Empty where the tensor is not one of this file's and would lie outside of it.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let slice = || {
            let start = usize::try_from(tensor.offset).ok()?;
            let length = usize::try_from(tensor.bytes).ok()?;
            self.data.as_slice().get(start..)?.get(..length)
        };
        slice().unwrap_or_default()
    }
}

/// Names the file instead of printing gigabytes of it.
impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gguf")
            .field("path", &self.path)
            .field("version", &self.version())
            .field("file_size", &self.file_size())
            .field("metadata", &self.contents.metadata.len())
            .field("tensors", &self.contents.tensors.len())
            .finish()
    }
}

impl Contents {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let version = read_version(cursor)?;
        let tensor_count = read_count(cursor, "tensor count", tensor::LEAST_ENTRY)?;
        let pair_count = read_count(cursor, "metadata count", LEAST_PAIR)?;

        let mut metadata = Vec::with_capacity(pair_count);
        for number in 0..pair_count {
            metadata.push(Pair::read(cursor, number)?);
        }
        let keys = Names::new(&metadata, Pair::key).map_err(|index| {
            let Pair { at, key, .. } = &metadata[index];
            cursor.fail(*at, format!("metadata key {} appears twice", Quoted(key)))
        })?;
        let alignment = match keys.find(&metadata, Pair::key, ALIGNMENT_KEY) {
            Some(pair) => check_alignment(cursor, pair)?,
            None => DEFAULT_ALIGNMENT,
        };

        let mut entries = Vec::with_capacity(tensor_count);
        for number in 0..tensor_count {
            entries.push(Entry::read(cursor, number)?);
        }
        let tensor_names = Names::new(&entries, Entry::name).map_err(|index| {
            let entry = &entries[index];
            cursor.fail(entry.at, format!("tensor {} appears twice", Quoted(entry.name())))
        })?;
        let tensors = tensor::place(cursor, entries, alignment)?;
        Ok(Self { version, metadata, keys, tensors, tensor_names })
    }
}

/// Checks that this is a GGUF file of a version and byte order that is read here.
fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    if cursor.size() == 0 {
        return Err(cursor.fail(0, "the file is empty, but a GGUF file begins with \"GGUF\""));
    }
    let magic: [u8; 4] = cursor.array(&"the magic number")?;
    if magic != MAGIC {
        let found = magic.escape_ascii();
        let problem =
            format!("the magic number is \"{found}\", but a GGUF file begins with \"GGUF\"");
        return Err(cursor.fail(0, problem));
    }
    let at = cursor.at();
    let version = cursor.u32(&"the version")?;
    if VERSIONS.contains(&version) {
        return Ok(version);
    }
    let swapped = version.swap_bytes();
    Err(if VERSIONS.contains(&swapped) {
        cursor.fail(at, format!("this is a big-endian file of version {swapped}, but only little-endian files are read"))
    } else {
        cursor.fail(at, format!("the version is {version}, but only versions 2 and 3 are read"))
    })
}

/// Reads how many things follow, each of which takes at least `least` bytes.
fn read_count(cursor: &mut Cursor<'_>, what: &str, least: usize) -> Result<usize> {
    let at = cursor.at();
    let count = cursor.u64(&format_args!("the {what}"))?;
    cursor.fits(at, count, least, &format_args!("the {what}"))
}

/// The value of [`ALIGNMENT_KEY`].
fn check_alignment(cursor: &Cursor<'_>, pair: &Pair) -> Result<u32> {
    pair.value.as_u32().filter(|alignment| alignment.is_power_of_two()).ok_or_else(|| {
        let problem = format!(
            "{ALIGNMENT_KEY} is {}, but a power of two that fits in a u32 is needed",
            pair.value
        );
        cursor.fail(pair.at, problem)
    })
}
