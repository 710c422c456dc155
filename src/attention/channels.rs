//! Sets of index channels: which channels of each layer and KV head an index keeps.

use super::{IndexFormat, Shape};
use crate::{Error, Result, subject, utf8};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// Names a set of index channels by its content. Two indices can only be compared, shared or stored together if their
/// sets are equal: given the set, an index depends on its keys alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelSetId(u64);

impl fmt::Display for ChannelSetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The index channels of a model, frozen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChannelSet {
    /// Length of a head, which the channels are dimensions of.
    pub head_dim: u32,
    /// Dimensions kept: layer, KV head.
    pub layers: Vec<Vec<Vec<u32>>>,
}

/// Bytes that a file of channels may have: 100 layers of 128 heads of 128 channels take less.
const MOST_BYTES: u64 = 256 << 20;

impl ChannelSet {
    /// From the words of each layer, as `shaders/lib/channels.wgsl` lays them out for one sequence.
    pub(crate) fn from_words<'a>(
        shape: &Shape,
        layers: impl IntoIterator<Item = &'a [u32]>,
    ) -> Self {
        let heads = |words: &[u32]| {
            words.chunks_exact(shape.index.channels as usize).map(<[u32]>::to_vec).collect()
        };
        Self { head_dim: shape.head_dim, layers: layers.into_iter().map(heads).collect() }
    }

    /// One layer's words.
    pub(crate) fn words(&self, layer: usize) -> Vec<u32> {
        self.layers[layer].concat()
    }

    /// Channels of a KV head.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn channels(&self) -> u32 {
        self.layers.first().and_then(|heads| heads.first()).map_or(0, |ids| ids.len() as u32)
    }

    /// The name of this set: FNV-1a over its words, which is enough to tell sets apart that nobody forges.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn id(&self) -> ChannelSetId {
        let layers = (0..self.layers.len()).flat_map(|layer| self.words(layer));
        let words = [self.channels(), self.head_dim].into_iter().chain(layers);
        ChannelSetId(words.flat_map(u32::to_le_bytes).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    /// Reads a set that [`ChannelSet::write`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] for what is no set of channels.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        let wrong = |offset: usize, problem: String| Error::File {
            path: path.to_owned(),
            offset: offset as u64,
            problem,
        };
        if bytes > MOST_BYTES {
            return Err(wrong(0, format!("{bytes} bytes are more than a set of channels has")));
        }
        let text = std::fs::read(path).map_err(io)?;
        let set: Self = serde_json::from_slice(utf8::without_mark(&text)).map_err(|e| {
            // serde_json tells lines and columns; the sets that are written here have one line.
            wrong(e.column(), format!("this is no set of index channels: {e}"))
        })?;
        set.check().map_err(|problem| wrong(0, problem))?;
        Ok(set)
    }

    /// Writes the set as JSON; a file that is there is replaced once the new one is whole.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(self)
            .map_err(|e| Error::Write { path: path.to_owned(), source: e.into() })?;
        crate::file::replace(path, (text + "\n").as_bytes())
    }

    /// Checks that a model of this shape can use the set.
    ///
    /// # Errors
    /// [`Error::Argument`] naming what differs.
    pub(crate) fn check_model(&self, shape: &Shape, layers: u32) -> Result<()> {
        let there = (self.layers.len(), self.layers.first().map_or(0, Vec::len), self.head_dim);
        let wanted = (layers as usize, shape.kv_heads as usize, shape.head_dim);
        if there == wanted {
            return Ok(());
        }
        let text = |(layers, heads, dim): (usize, usize, u32)| {
            format!("for {layers} layers of {heads} KV heads of {dim}")
        };
        Err(Error::argument(
            subject::CHANNEL_SET,
            text(there),
            format!("the model's is {}; make one with `asynctls calibrate`", text(wanted)),
        ))
    }

    /// The fault of channels that came from outside, if there is one.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let channels = self.channels();
        IndexFormat { channels, bits: 4 }.validate(self.head_dim).map_err(|e| e.to_string())?;
        let heads = self.layers.first().map_or(0, Vec::len);
        if self.layers.len() > 1024 || heads > 1024 {
            return Err(format!("{} layers of {heads} KV heads are too many", self.layers.len()));
        }
        for (l, layer) in self.layers.iter().enumerate() {
            if layer.len() != heads {
                return Err(format!("layer {l} has {} KV heads, layer 0 has {heads}", layer.len()));
            }
            for (h, c) in layer.iter().enumerate() {
                let wrong = |what: &str| Err(format!("layer {l}, KV head {h}: {what}"));
                if c.len() != channels as usize {
                    return wrong("it has another number of channels");
                }
                let mut sorted = c.clone();
                sorted.sort_unstable();
                sorted.dedup();
                if sorted.len() != c.len() || c.iter().any(|&id| id >= self.head_dim) {
                    return wrong("its channels are not different dimensions of a head");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> (Shape, ChannelSet) {
        let mut shape = Shape::new(2, 1, 64, true);
        shape.index = IndexFormat { channels: 8, bits: 4 };
        let head = |h: u32| (0..8).map(|i| 2 * i + h).collect::<Vec<u32>>();
        let layers = (0..3).map(|_| vec![head(0), head(1)]).collect();
        (shape, ChannelSet { head_dim: 64, layers })
    }

    #[test]
    fn words_and_files_give_the_same_set_back() {
        let (shape, set) = set();
        let words: Vec<_> = (0..3).map(|l| set.words(l)).collect();
        assert_eq!(words[0].len() as u64, shape.channels_len());
        assert_eq!(ChannelSet::from_words(&shape, words.iter().map(Vec::as_slice)), set);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("channels.json");
        set.write(&path).unwrap();
        let read = ChannelSet::read(&path).unwrap();
        assert_eq!((&read, read.id()), (&set, set.id()));
        assert_eq!(read.channels(), 8);
        set.check_model(&shape, 3).unwrap();
        let message = set.check_model(&shape, 4).unwrap_err().to_string();
        assert!(message.contains("3 layers") && message.contains("4 layers"), "{message}");
    }

    #[test]
    fn ids_tell_sets_apart() {
        let (_, set) = set();
        let mut other = set.clone();
        other.layers[2][1][7] = 63;
        assert_ne!(set.id(), other.id());
        other = set.clone();
        other.head_dim = 128;
        assert_ne!(set.id(), other.id());
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let (_, set) = set();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            ChannelSet::read(&path).unwrap_err().to_string()
        };
        assert!(refused("hello").contains("no set of index channels"));
        assert!(refused("{}").contains("no set of index channels"));
        let json = serde_json::to_string(&set).unwrap();
        assert!(refused(&json[..json.len() - 9]).contains("no set of index channels"));
        let other = |from: &str, to: &str| refused(&json.replace(from, to));
        assert!(other("[0,2,4", "[0,2,64").contains("not different dimensions"));
        assert!(other("[0,2,4", "[0,2,2").contains("not different dimensions"));
        assert!(other("[1,3,5", "[3,5").contains("another number of channels"));
        assert!(refused("{\"head_dim\":64,\"layers\":[]}").contains("multiple of 8"));
        assert!(ChannelSet::read(&dir.path().join("absent")).is_err());
    }
}
