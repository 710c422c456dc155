//! Which blocks sessions share, for who runs many of them at a time.

use super::forward::selects;
use super::{Engine, Session};
use crate::attention::Attention;

/// Blocks that some sessions hold, those that they share counted once.
#[derive(Debug)]
pub(crate) struct Held {
    is_held: Vec<bool>,
    count: u32,
}

impl Held {
    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// How many of a session's first `blocks` blocks are among them.
    pub(crate) fn shared(&self, session: &Session, blocks: u32) -> u32 {
        let first = session.table.blocks().iter().take(blocks as usize);
        first.filter(|block| self.is_held[**block as usize]).count() as u32
    }
}

impl Engine {
    /// All blocks, and those that no session holds.
    pub(crate) fn blocks_and_free(&self) -> (u32, u32) {
        (self.options.blocks(), self.cache.pool().free_blocks())
    }

    /// The blocks that these sessions hold.
    pub(crate) fn held<'a>(&self, sessions: impl Iterator<Item = &'a Session>) -> Held {
        let mut held = Held { is_held: vec![false; self.options.blocks() as usize], count: 0 };
        for block in sessions.flat_map(|session| session.table.blocks()) {
            let is_held = &mut held.is_held[*block as usize];
            held.count += u32::from(!*is_held);
            *is_held = true;
        }
        held
    }

    /// The fewest tokens that a session takes over of another such that it is in nothing different from one that computed them
    /// itself: where each session chooses its index channels, both have to choose them by the same tokens.
    pub(crate) fn least_reused(&self) -> u32 {
        let chooses = self.options.index.as_ref().filter(|index| index.stored.is_none());
        chooses.map_or(0, |index| index.stats_tokens)
    }

    /// Whether another session can begin with its tokens, if they are as many as [`Engine::least_reused`].
    pub(crate) fn is_reusable(&self, session: &Session) -> bool {
        let least = self.least_reused();
        least == 0
            || (session.channels.is_some() && session.counted == least && !session.is_miscounted)
    }
}

impl Engine {
    /// Blocks of a KV head that have a slot in the hot cache at a time, where there is one: those of all tokens that a step
    /// attends alike.
    pub(crate) fn hot_blocks(&self) -> Option<u32> {
        self.options.host.map(|host| host.hot_blocks)
    }

    /// Whether a session's next token selects what it attends, and the blocks that have to have a slot for it.
    pub(crate) fn hot_needs(&self, session: &Session, attention: &Attention) -> (bool, u32) {
        let sealed = session.len() / self.shape.block;
        match attention {
            Attention::TwoLevel(two_level) if selects(session, Some(two_level)) => {
                (true, two_level.effective_budget().blocks_kept(sealed + 1))
            }
            _ => (false, sealed),
        }
    }
}

impl Session {
    /// Blocks that no other session holds.
    pub(crate) fn blocks_alone(&self) -> u32 {
        self.table.alone()
    }

    /// Blocks that are still to be taken before it holds so many tokens, with the copy of an open block that it shares.
    pub(crate) fn blocks_to(&self, tokens: u32) -> u32 {
        let needed = tokens.div_ceil(self.table.block_tokens());
        let copied = tokens > self.len() && self.table.shares_open(self.len());
        needed.saturating_sub(self.table.blocks().len() as u32) + u32::from(copied)
    }
}
