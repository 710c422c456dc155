//! A session file's state: what the index follows from, and what the caller keeps there.

use crate::attention::ChannelSet;
use crate::kv::SessionFile;
use crate::{Error, Result};

/// Words of every layer with an index, one layer after the other: the chosen channels, or what they will be chosen by.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct IndexState {
    pub(super) channels: Vec<u32>,
    pub(super) statistics: Vec<u32>,
    /// Blocks, from the first on, that were saved with their index.
    pub(super) indexed: u32,
    /// The first tokens, which the channels or the statistics follow from.
    pub(super) counted: u32,
}

impl IndexState {
    /// That of channels which are chosen.
    pub(super) fn chosen(set: &ChannelSet, indexed: u32, counted: u32) -> Self {
        let channels = (0..set.layers.len()).flat_map(|layer| set.words(layer)).collect();
        Self { channels, statistics: Vec::new(), indexed, counted }
    }

    /// The bytes of this and then those of the caller.
    pub(super) fn before(&self, callers: &[u8]) -> Vec<u8> {
        let [channels, statistics] =
            [self.channels.len(), self.statistics.len()].map(|words| words as u32);
        let numbers = [channels, statistics, self.indexed, self.counted];
        let parts: [&[u8]; 4] = [
            bytemuck::cast_slice(&numbers),
            bytemuck::cast_slice(&self.channels),
            bytemuck::cast_slice(&self.statistics),
            callers,
        ];
        parts.concat()
    }

    /// That of a file with a commit.
    pub(super) fn of(file: &SessionFile) -> Result<Self> {
        split(file).map(|(own, _)| own)
    }
}

/// The state that [`crate::engine::Engine::save`] was given; nothing before the first time.
pub(super) fn callers(file: &SessionFile) -> Result<&[u8]> {
    if file.state().is_empty() {
        return Ok(&[]);
    }
    split(file).map(|(_, callers)| callers)
}

fn split(file: &SessionFile) -> Result<(IndexState, &[u8])> {
    let parts = || {
        let (numbers, rest) = file.state().split_at_checked(16)?;
        let [channels, statistics, indexed, counted]: [u32; 4] =
            bytemuck::pod_read_unaligned(numbers);
        let (channels, rest) = rest.split_at_checked((channels as usize).checked_mul(4)?)?;
        let (statistics, rest) = rest.split_at_checked((statistics as usize).checked_mul(4)?)?;
        let [channels, statistics] = [channels, statistics].map(bytemuck::pod_collect_to_vec);
        Some((IndexState { channels, statistics, indexed, counted }, rest))
    };
    parts().ok_or_else(|| {
        let bytes = file.state().len();
        damaged(file, format!("the state of the session has {bytes} bytes, which is too few"))
    })
}

/// A file whose checksums are right and whose content is not.
pub(super) fn damaged(file: &SessionFile, problem: String) -> Error {
    Error::File { path: file.path().to_owned(), offset: 0, problem }
}
