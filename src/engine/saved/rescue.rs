//! The rescue of a session whose device is lost: what CPU memory holds of it.

use super::state::IndexState;
use super::{HotTurn, Saved};
use crate::engine::{Engine, Session};
use crate::kv::SessionFile;
use crate::{Error, Result};

impl Engine {
    // Saves the sealed blocks that the host holds, from the first on. Their index is built anew from the channels when they
    // are loaded; a session that has none yet is short, and is lost.
    pub(super) fn save_held(
        &self,
        hot: &HotTurn<'_>,
        lost: Error,
        session: &mut Session,
        (file, callers): (&mut SessionFile, &[u8]),
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<()> {
        let block = self.shape.block;
        let sealed = &session.table.blocks()[..(session.len() / block) as usize];
        let is_held = |physical: &&u32| hot.host_holds(**physical);
        let held = sealed.iter().take_while(is_held).count() as u32;
        let there = session.saved.filter(|saved| saved.stamp == file.stamp());
        let first = there.map_or(0, |saved| saved.blocks);
        if held <= first {
            return Err(lost);
        }
        let state = match (&session.channels, &self.options.index) {
            (Some(set), _) => IndexState::chosen(set, first, session.counted.min(held * block)),
            (None, None) => IndexState::default(),
            (None, Some(_)) => return Err(lost),
        };
        let record = self.record();
        let mut content = vec![0; record.bytes() as usize];
        let mut append = file.append()?;
        for logical in first..held {
            let kv = &mut content[..record.kv_bytes() as usize];
            hot.read_from_host(sealed[logical as usize], kv);
            append.block(logical, &content)?;
            progress(record.bytes());
        }
        append.commit(held, &session.tokens[..(held * block) as usize], &state.before(callers))?;
        session.saved = Some(Saved { stamp: file.stamp(), blocks: first });
        Ok(())
    }
}
