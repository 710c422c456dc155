//! The identity of a session file, and the parts of its blocks.

use super::state;
use crate::Result;
use crate::attention::Shape;
use crate::engine::{EngineOptions, IndexOptions};
use crate::kv::SessionFile;
use crate::model::{ModelConfig, ModelFile};
use serde::Serialize;
use std::path::Path;

/// The version of blocks and state; another program version may know only other ones. The axes of latents are a part of it
/// (`src/model/latents`).
const VERSION: u32 = 5;

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
        // Each field by its name, so that none is forgotten that is added: all but the last four change keys and values.
        let ModelConfig {
            architecture,
            layers,
            hidden,
            vocabulary,
            epsilon,
            norm_offset,
            post_norms,
            embedding_factor,
            attention,
            sliding_window,
            rope,
            ffn,
            activation,
            experts,
            context_length: _,
            plain_context: _,
            logit_softcap: _,
            tied: _,
        } = config;
        let shape = options.shape(config);
        let index = options.index.as_ref();
        let quantised = options.quantise.map_or_else(|| "none".into(), |to| to.to_string());
        let sites = if *post_norms { "before and after" } else { "before" };
        let with_experts = experts.as_ref().map_or(&[][..], |experts| &experts.layers);
        let mut identity = vec![
            (SessionFile::FORMAT, VERSION.to_string()),
            ("the model's family", architecture.clone()),
            ("the number of layers", layers.to_string()),
            ("the model's width", hidden.to_string()),
            ("the number of query heads", shape.q_heads().to_string()),
            ("the number of KV heads", shape.kv_heads.to_string()),
            ("the head dimension", shape.head_dim.to_string()),
            ("the vocabulary", vocabulary.to_string()),
            ("the rotary embedding", described(rope)),
            ("the attention", described(attention)),
            (
                "the sliding window",
                sliding_window.as_ref().map_or_else(|| "none".into(), described),
            ),
            ("the norms", format!("{sites}, epsilon {epsilon}, offset {norm_offset}")),
            ("the factor of embeddings", embedding_factor.to_string()),
            ("the feed-forward networks", described(&(ffn, activation, experts))),
            ("the layers with experts", described(&with_experts)),
            (WEIGHTS, weights.into()),
            ("the quantisation of the weights", quantised),
            ("the block size", shape.block.to_string()),
        ];
        identity.extend(describe_index(&shape, index));
        Self {
            identity: identity.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            block_bytes: Record::new(&shape, *layers, index).bytes(),
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

fn described<T: Serialize>(part: &T) -> String {
    serde_json::to_string(part).expect("numbers and names are valid JSON")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Adapter, Gpu, GpuOptions, adapters};
    use crate::model::config::{AttentionConfig, SlidingWindow};
    use pollster::block_on;

    // A model with windows, soft-caps, and norms after attention.
    const MODEL: &str = "tests/goldens/tiny/gemma2/model.gguf";

    fn config() -> ModelConfig {
        ModelConfig::read(&ModelFile::open(Path::new(MODEL)).unwrap()).unwrap()
    }

    // None where there is no adapter.
    fn options() -> Option<EngineOptions> {
        let adapter = Adapter::choose(&block_on(adapters()), None).ok()?;
        let gpu = block_on(Gpu::open(&adapter, GpuOptions::default())).unwrap();
        Some(EngineOptions::new(&gpu, 512))
    }

    #[test]
    fn what_changes_keys_and_values_is_named_and_what_does_not_is_no_matter() {
        let Some(options) = options() else { return };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.kv");
        let of = |change: &dyn Fn(&mut ModelConfig)| {
            let mut config = config();
            change(&mut config);
            SessionFormat::of("weights", &config, &options)
        };
        drop(of(&|_| ()).open(&path).unwrap());
        let softcap = |config: &mut ModelConfig, cap| match &mut config.attention {
            AttentionConfig::Grouped(grouped) => grouped.softcap = cap,
            AttentionConfig::Latent(_) => unreachable!("it has grouped queries"),
        };
        let window = |tokens| move |sliding: &mut SlidingWindow| sliding.tokens = tokens;
        type Change<'a> = &'a dyn Fn(&mut ModelConfig);
        let changes: [(Change<'_>, &str); 9] = [
            (&|c| softcap(c, None), "the attention of the session"),
            (&|c| softcap(c, Some(7.0)), "the attention of the session"),
            (&|c| c.sliding_window = None, "the sliding window of the session"),
            (&|c| c.sliding_window.iter_mut().for_each(window(7)), "the sliding window of the"),
            (&|c| c.epsilon = 0.5, "the norms of the session"),
            (&|c| c.norm_offset = 0.5, "the norms of the session"),
            (&|c| c.post_norms ^= true, "the norms of the session"),
            (&|c| c.embedding_factor = 7.0, "the factor of embeddings of the session"),
            (&|c| c.ffn = 7, "the feed-forward networks of the session"),
        ];
        for (change, said) in changes {
            let message = of(change).open(&path).unwrap_err().to_string();
            assert!(message.starts_with(said), "{message}");
        }
        of(&|c| (c.context_length, c.logit_softcap) = (7, None)).open(&path).unwrap();
    }

    #[test]
    fn a_file_without_these_is_an_older_versions() {
        let Some(options) = options() else { return };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.kv");
        let own = SessionFormat::of("weights", &config(), &options);
        let mut older = own.clone();
        older.identity[0].1 = "3".into();
        older.identity.retain(|(name, _)| name != "the attention" && name != "the norms");
        drop(older.open(&path).unwrap());
        let message = own.open(&path).unwrap_err().to_string();
        let said =
            "the format is 3, as an older version of this program writes it, and this one reads 5";
        assert!(message.contains(said), "{message}");
    }
}
