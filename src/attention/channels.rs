//! Sets of index channels: which channels of each layer and KV head an index keeps, and how their keys become codes.

use super::{IndexFormat, Shape};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// The index channels of one KV head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Channels {
    /// Dimensions kept.
    pub ids: Vec<u32>,
    /// Smallest key of each.
    pub minima: Vec<f32>,
    /// Step of each: key ~ minimum + code * step.
    pub steps: Vec<f32>,
}

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
    /// Bits of a code, which the steps are made for.
    pub bits: u32,
    /// Length of a head, which the channels are dimensions of.
    pub head_dim: u32,
    /// [layer][KV head]
    pub layers: Vec<Vec<Channels>>,
}

/// Bytes that a file of channels may have: 100 layers of 128 heads of 128 channels take less.
const MOST_BYTES: u64 = 256 << 20;

impl ChannelSet {
    /// From the words of each layer, as `shaders/lib/channels.wgsl` lays them out for one sequence.
    pub fn from_words<'a>(shape: &Shape, layers: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let count = shape.index.channels as usize;
        let floats = |words: &[u32]| words.iter().map(|&w| f32::from_bits(w)).collect();
        let head = |words: &[u32]| Channels {
            ids: words[..count].to_vec(),
            minima: floats(&words[count..2 * count]),
            steps: floats(&words[2 * count..]),
        };
        let layers =
            layers.into_iter().map(|words| words.chunks_exact(3 * count).map(head).collect());
        Self { bits: shape.index.bits, head_dim: shape.head_dim, layers: layers.collect() }
    }

    /// One layer's words.
    pub fn words(&self, layer: usize) -> Vec<u32> {
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let head = |c: &Channels| [c.ids.clone(), bits(&c.minima), bits(&c.steps)].concat();
        self.layers[layer].iter().flat_map(head).collect()
    }

    /// The format of an index that these channels make.
    pub fn format(&self) -> IndexFormat {
        let channels = self.layers.first().and_then(|heads| heads.first());
        IndexFormat { channels: channels.map_or(0, |c| c.ids.len() as u32), bits: self.bits }
    }

    /// What names this set: FNV-1a over its words, which is enough to tell sets apart that nobody forges.
    pub fn id(&self) -> ChannelSetId {
        let layers = (0..self.layers.len()).flat_map(|layer| self.words(layer));
        let words = [self.bits, self.head_dim].into_iter().chain(layers);
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
        let set: Self = serde_json::from_slice(&text).map_err(|e| {
            // serde_json tells lines and columns; the sets that are written here have one line.
            wrong(e.column(), format!("this is no set of index channels: {e}"))
        })?;
        set.check().map_err(|problem| wrong(0, problem))?;
        Ok(set)
    }

    /// Writes the set as JSON; a file that is there is replaced once the new one is whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let text = serde_json::to_string(self).map_err(|e| io(e.into()))?;
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        std::fs::write(&name, text + "\n").map_err(io)?;
        std::fs::rename(&name, path).map_err(io)
    }

    /// Checks that a model of this shape can use the set.
    ///
    /// # Errors
    /// [`Error::Argument`] naming what differs.
    pub fn check_model(&self, shape: &Shape, layers: u32) -> Result<()> {
        let there = (self.layers.len(), self.layers.first().map_or(0, Vec::len), self.head_dim);
        let wanted = (layers as usize, shape.kv_heads as usize, shape.head_dim);
        if there == wanted {
            return Ok(());
        }
        let text = |(layers, heads, dim): (usize, usize, u32)| {
            format!("for {layers} layers of {heads} KV heads of {dim}")
        };
        Err(Error::argument(
            "the set of index channels",
            text(there),
            format!("the model's is {}; make one with `asynctls calibrate`", text(wanted)),
        ))
    }

    fn check(&self) -> std::result::Result<(), String> {
        let format = self.format();
        format.validate(self.head_dim).map_err(|e| e.to_string())?;
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
                let lengths = [c.ids.len(), c.minima.len(), c.steps.len()];
                if lengths != [format.channels as usize; 3] {
                    return wrong("its lists have different lengths");
                }
                if c.ids.windows(2).any(|p| p[0] == p[1])
                    || c.ids.iter().any(|&id| id >= self.head_dim)
                {
                    return wrong("its channels are not dimensions of a head");
                }
                if c.minima.iter().chain(&c.steps).any(|v| !v.is_finite())
                    || c.steps.iter().any(|&s| s < 0.0)
                {
                    return wrong("a minimum or step is no number that a key can have");
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
        let head = |h: u32| Channels {
            ids: (0..8).map(|i| 2 * i + h).collect(),
            minima: vec![-1.5; 8],
            steps: vec![0.1 + h as f32; 8],
        };
        let layers = (0..3).map(|_| vec![head(0), head(1)]).collect();
        (shape, ChannelSet { bits: 4, head_dim: 64, layers })
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
        assert_eq!(read.format(), IndexFormat { channels: 8, bits: 4 });
        set.check_model(&shape, 3).unwrap();
        let message = set.check_model(&shape, 4).unwrap_err().to_string();
        assert!(message.contains("3 layers") && message.contains("4 layers"), "{message}");
    }

    #[test]
    fn ids_tell_sets_apart() {
        let (_, set) = set();
        let mut other = set.clone();
        other.layers[2][1].steps[7] += 1e-6;
        assert_ne!(set.id(), other.id());
        other = set.clone();
        other.bits = 8;
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
        assert!(refused(&json.replace("[0,2,4", "[0,2,64")).contains("not dimensions of a head"));
        assert!(refused(&json.replace("-1.5", "1e39")).contains("layer 0"));
        assert!(refused(&json.replace("\"bits\":4", "\"bits\":3")).contains("2, 4 or 8"));
        assert!(refused(&json.replace("[0,2,4", "[2,4")).contains("different lengths"));
        assert!(refused("{\"bits\":4,\"head_dim\":64,\"layers\":[]}").contains("8, 16, 32"));
        assert!(ChannelSet::read(&dir.path().join("absent")).is_err());
    }
}
