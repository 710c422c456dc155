//! What the handles of a batcher and its steps tell one another.

use super::PrefixStats;
use crate::{Error, Result};
use futures::channel::oneshot;
use std::sync::{Arc, Mutex, MutexGuard};

/// What there is, and what was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that wait.
    pub queued: u32,
    /// Requests that are being answered.
    pub running: u32,
    /// Conversations that have ended, of which others may take the beginning.
    pub kept: u32,
    /// All blocks.
    pub blocks: u32,
    /// Blocks that hold tokens, of kept conversations too.
    pub used_blocks: u32,
    /// Requests that were answered.
    pub ended: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that nobody wanted any more.
    pub cancelled: u64,
    /// How often a request gave its blocks back and had to begin anew.
    pub preempted: u64,
    /// Requests that took the beginning of another conversation, or one that was stored.
    pub hits: u64,
    /// Tokens that were there already when requests began.
    pub reused_tokens: u64,
    /// Tokens of prompts that were computed.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub answer_tokens: u64,
    /// Steps.
    pub steps: u64,
    /// What the prefix cache did, where there is one.
    pub prefix: PrefixStats,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stats: Stats,
    /// Requests that wait or run.
    pending: usize,
    is_ending: bool,
    drains: Vec<oneshot::Sender<()>>,
}

/// A request that waits or runs, until it is dropped.
#[derive(Debug)]
pub(super) struct Pending(Arc<Shared>);

impl Shared {
    // Every update leaves the state whole, so that of a thread that panicked is too.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One more request, of so many at most.
    ///
    /// # Errors
    /// [`Error::Busy`].
    pub(super) fn enter(shared: &Arc<Self>, most: usize) -> Result<Pending> {
        let mut state = shared.lock();
        if state.is_ending {
            return Err(Error::Busy("no more requests are taken".into()));
        }
        if state.pending >= most {
            let pending = state.pending;
            return Err(Error::Busy(format!("the queue is full: {pending} requests are there")));
        }
        state.pending += 1;
        Ok(Pending(shared.clone()))
    }

    pub(super) fn stats(&self) -> Stats {
        self.lock().stats
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.lock().stats);
    }

    pub(super) async fn drain(&self) {
        let (sender, drained) = oneshot::channel();
        {
            let mut state = self.lock();
            state.is_ending = true;
            if state.pending == 0 {
                return;
            }
            state.drains.push(sender);
        }
        // Dropped or sent, it is over.
        let _ = drained.await;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.pending -= 1;
        if state.pending == 0 {
            state.drains.clear();
        }
    }
}
