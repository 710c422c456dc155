//! Sessions: the state of one sequence, which can be forked, rewound and continued.

use super::Engine;
use super::residency::Residency;
use super::saved::Saved;
use crate::attention::{ChannelSet, ChannelSetId};
use crate::kv::{BlockTable, Slot};
use crate::{Error, Result};
use std::sync::Arc;

/// One sequence: its tokens, and where their keys, values and index lie. Dropping it returns its memory.
#[derive(Debug)]
pub struct Session {
    pub(super) slot: Slot,
    pub(super) table: BlockTable,
    pub(super) tokens: Vec<u32>,
    /// The index channels, once they are chosen.
    pub(super) channels: Option<Arc<ChannelSet>>,
    /// The first tokens, which the index channels follow from: those that chose them or, as long as they are not chosen,
    /// those that were counted so far.
    pub(super) counted: u32,
    /// Whether some of the counted tokens are gone, so that what is left has to be counted anew.
    pub(super) is_miscounted: bool,
    /// Sealed blocks whose index is built.
    pub(super) indexed: u32,
    /// The part of it that a file holds.
    pub(super) saved: Option<Saved>,
}

impl Session {
    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens so far.
    pub fn len(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Whether there is no token yet.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The name of the index channels that this session's index is built with, once they are chosen.
    #[cfg_attr(feature = "measure", visibility::make(pub))]
    pub(crate) fn channel_set(&self) -> Option<ChannelSetId> {
        self.channels.as_ref().map(|set| set.id())
    }

    /// Forgets all but the first `tokens` tokens, as if the others had never been. Index channels that follow from forgotten
    /// tokens are forgotten too: they are chosen anew by what the session holds then, and for that the tokens left, about as many
    /// as the index counts at most, are computed a second time: by the next prompt, or once channels are needed. Stored channels
    /// stay.
    ///
    /// # Errors
    /// [`Error::Argument`] when the session is shorter.
    pub fn rewind(&mut self, tokens: u32) -> Result<()> {
        if tokens > self.len() {
            return Err(Error::argument(
                "the length to rewind to",
                tokens,
                format!("the session has {} tokens", self.len()),
            ));
        }
        self.tokens.truncate(tokens as usize);
        self.table.truncate(tokens);
        let mut lasting = tokens / self.table.block_tokens();
        if tokens < self.counted {
            self.channels = None;
            self.counted = tokens;
            // The first token begins a new count by itself.
            self.is_miscounted = tokens > 0;
            lasting = 0;
        }
        self.indexed = self.indexed.min(lasting);
        if let Some(saved) = &mut self.saved {
            saved.blocks = saved.blocks.min(lasting);
        }
        Ok(())
    }

    /// Whether keys and values of some of its tokens are still to be computed.
    pub(super) fn lacks_cache(&self) -> bool {
        let needed = self.len().div_ceil(self.table.block_tokens());
        self.table.blocks().len() < needed as usize
    }

    /// Takes out the tokens that have to be counted anew, if there are any: the session is empty then.
    pub(super) fn recounted(&mut self) -> Recounted<'_> {
        if !std::mem::take(&mut self.is_miscounted) {
            return Recounted { session: self, left: Vec::new() };
        }
        self.table.truncate(0);
        self.counted = 0;
        let left = std::mem::take(&mut self.tokens);
        Recounted { session: self, left }
    }

    // Puts them back: they are still to be computed, whatever was of it.
    fn put_back(&mut self, tokens: Vec<u32>) {
        self.table.truncate(0);
        self.channels = None;
        self.indexed = 0;
        self.counted = tokens.len() as u32;
        self.is_miscounted = true;
        self.tokens = tokens;
    }

    /// Notes that a step failed, which may have counted its tokens.
    pub(super) fn distrust_count(&mut self) {
        self.is_miscounted |= self.channels.is_none() && self.counted > 0;
    }
}

/// Tokens of a session that are computed a second time. They stay the session's where that fails, or nobody waits for it any more.
pub(super) struct Recounted<'a> {
    pub(super) session: &'a mut Session,
    pub(super) left: Vec<u32>,
}

impl Drop for Recounted<'_> {
    fn drop(&mut self) {
        if (self.session.len() as usize) < self.left.len() {
            self.session.put_back(std::mem::take(&mut self.left));
        }
    }
}

impl Engine {
    // Another engine's slots and blocks would lie outside this one's buffers.
    pub(super) fn check_owner(&self, session: &Session) -> Result<()> {
        if self.cache.pool().owns(&session.table) {
            return Ok(());
        }
        Err(Error::argument(
            "the session",
            "another engine's",
            "a session belongs to the engine that made it",
        ))
    }

    /// An empty session.
    ///
    /// # Errors
    /// [`Error::Argument`] when all are in use.
    pub fn session(&self) -> Result<Session> {
        let mut session = Session {
            slot: self.cache.pool().slot()?,
            table: self.cache.pool().table(),
            tokens: Vec::new(),
            channels: None,
            counted: 0,
            is_miscounted: false,
            indexed: 0,
            saved: None,
        };
        self.store_channels(&mut session);
        Ok(session)
    }

    /// A second session with the same past; blocks are shared until one of the two writes to them. Both keep one set of
    /// index channels, so a fork chooses them if that is still to be done.
    ///
    /// # Errors
    /// [`Error::Argument`] when all sessions are in use, or as a step.
    pub async fn fork(&self, session: &mut Session) -> Result<Session> {
        self.check_owner(session)?;
        self.recount(session).await?;
        let slot = self.cache.pool().slot()?;
        if self.options.index.is_some() && session.len() >= self.shape.block {
            self.freeze(session).await?;
        }
        let _turn = self.runner.turn().await;
        let shape = &self.shape;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for index in self.cache.indices() {
            for (buffer, words) in [
                (&index.state.stats, shape.stats_len()),
                (&index.state.channels, shape.channels_len()),
            ] {
                let bytes = words * 4;
                let (from, to) =
                    (u64::from(session.slot.index) * bytes, u64::from(slot.index) * bytes);
                encoder.copy_buffer_to_buffer(
                    buffer,
                    from,
                    &self.runner.scratch().moving,
                    0,
                    bytes,
                );
                encoder.copy_buffer_to_buffer(&self.runner.scratch().moving, 0, buffer, to, bytes);
            }
        }
        self.gpu.submit(encoder)?;
        if let Residency::Hot(hot) = &self.residency {
            // The slot may have been that of a session which was as long.
            hot.turn(self).await.forget_choice();
        }
        Ok(Session {
            slot,
            table: session.table.fork(),
            tokens: session.tokens.clone(),
            channels: session.channels.clone(),
            counted: session.counted,
            is_miscounted: false,
            indexed: session.indexed,
            saved: session.saved,
        })
    }
}
