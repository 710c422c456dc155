//! The identity of a session file, and the parts of its blocks.

use super::state;
use crate::Result;
use crate::attention::Shape;
use crate::engine::{EngineOptions, IndexOptions};
use crate::kv::SessionFile;
use crate::model::rope::Rope;
use crate::model::{ModelConfig, ModelFile};
use std::path::Path;

/// The version of blocks and state; another program version may know only other ones.
const VERSION: u32 = 3;

/// What the checksum of the weights is called.
const WEIGHTS: &str = "the checksum of the weights";

/// Bytes of each end of a tensor that tell weights apart.
const PROBE_BYTES: usize = 4096;

/// The session files of a model with some settings. What decides where a session runs and how fast is none of them: the
/// adapter, where the KV cache lives, how prompts are cut.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionFormat {
    /// The file's model and settings, as names and values.
    pub(crate) identity: Vec<(String, String)>,
    /// Bytes of one of its blocks.
    pub(crate) block_bytes: u64,
}

impl SessionFormat {
    /// That of an engine which is loaded from this file with these options.
    pub fn new(file: &ModelFile, config: &ModelConfig, options: &EngineOptions) -> Self {
        Self::of(&format!("{:08x}", checksum(file)), config, options)
    }

    /// Whether an engine of this model's shapes and these options has it, if the weights are those.
    pub(super) fn is_of(&self, config: &ModelConfig, options: &EngineOptions) -> bool {
        let weights = self.identity.iter().find(|(name, _)| name == WEIGHTS);
        weights.is_some_and(|(_, weights)| *self == Self::of(weights, config, options))
    }

    fn of(weights: &str, config: &ModelConfig, options: &EngineOptions) -> Self {
        let shape = options.shape(config);
        let index = options.index.as_ref();
        let quantised = options.quantise.map_or_else(|| "none".into(), |to| to.to_string());
        let mut identity = vec![
            (SessionFile::FORMAT, VERSION.to_string()),
            ("the model's family", config.architecture.clone()),
            ("the number of layers", config.layers.to_string()),
            ("the model's width", config.hidden.to_string()),
            ("the number of query heads", shape.q_heads().to_string()),
            ("the number of KV heads", shape.kv_heads.to_string()),
            ("the head dimension", shape.head_dim.to_string()),
            ("the vocabulary", config.vocabulary.to_string()),
            ("the rotary embedding", describe_rope(&config.rope)),
            (WEIGHTS, weights.into()),
            ("the quantisation of the weights", quantised),
            ("the block size", shape.block.to_string()),
        ];
        identity.extend(describe_index(&shape, index));
        Self {
            identity: identity.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            block_bytes: Record::new(&shape, config.layers, index).bytes(),
        }
    }

    /// Opens a session; a file that is absent or empty begins one.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] for a session of something else, which names the first field that differs, what it is in the
    /// file and what it would have to be, and for one that is open already; [`crate::Error::File`] for a file that is no
    /// session, or a damaged one; [`crate::Error::Io`] and [`crate::Error::Write`] for one that cannot be read or written.
    pub fn open(&self, path: &Path) -> Result<SessionFile> {
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0) {
            SessionFile::open(path, &self.identity, self.block_bytes)
        } else {
            SessionFile::create(path, &self.identity, self.block_bytes)
        }
    }

    /// Opens a session that will not be written.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_read_only(&self, path: &Path) -> Result<SessionFile> {
        SessionFile::open_read_only(path, &self.identity, self.block_bytes)
    }

    /// The state that [`crate::engine::Engine::save`] was given; nothing in a session that was only begun.
    ///
    /// # Errors
    /// [`crate::Error::File`] for a damaged file.
    pub fn callers_state(file: &SessionFile) -> Result<&[u8]> {
        state::callers(file)
    }
}

fn describe_rope(rope: &Rope) -> String {
    serde_json::to_string(rope).expect("numbers and names are valid JSON")
}

fn describe_index(shape: &Shape, index: Option<&IndexOptions>) -> Vec<(&'static str, String)> {
    let Some(index) = index else { return vec![("the index", "none".into())] };
    let channels = match &index.stored {
        Some(set) => format!("the stored set {}", set.id()),
        None => format!("chosen from the first {} tokens", index.stats_tokens),
    };
    let kept = index.summaries().iter().fold("codes".to_owned(), |kept, s| kept + " and " + s.name);
    vec![
        ("the index", kept),
        ("the number of index channels", shape.index.channels.to_string()),
        ("the number of index bits", shape.index.bits.to_string()),
        ("the choice of index channels", channels),
    ]
}

/// A checksum that another model of the same shapes does not have: of every tensor's name, type, shape and both ends.
fn checksum(file: &ModelFile) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for tensor in file.tensors() {
        hasher.update(format!("{} {:?} {:?}", tensor.name, tensor.kind, tensor.shape).as_bytes());
        let bytes = file.bytes(tensor);
        let probe = bytes.len().min(PROBE_BYTES);
        hasher.update(&bytes[..probe]);
        hasher.update(&bytes[bytes.len() - probe..]);
    }
    hasher.finalize()
}

/// The parts of a saved block: keys and values of every layer, then of every layer its codes and its summaries.
#[derive(Clone, Debug)]
pub(super) struct Record {
    layers: u64,
    /// Bytes of one layer.
    kv: u64,
    pub(super) codes: u64,
    /// Each of them.
    pub(super) summaries: Vec<u64>,
}

impl Record {
    pub(super) fn new(shape: &Shape, layers: u32, index: Option<&IndexOptions>) -> Self {
        Self {
            layers: layers.into(),
            kv: shape.block_bytes(),
            codes: index.map_or(0, |_| shape.block_code_bytes()),
            summaries: index.map(IndexOptions::summaries).map_or(Vec::new(), |summaries| {
                summaries.iter().map(|summary| summary.block_bytes(shape)).collect()
            }),
        }
    }

    pub(super) fn kv_bytes(&self) -> u64 {
        self.layers * self.kv
    }

    pub(super) fn bytes(&self) -> u64 {
        self.layers * (self.kv + self.codes + self.summaries.iter().sum::<u64>())
    }
}
