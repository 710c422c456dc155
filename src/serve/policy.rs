//! Who is answered when: pure, told by its caller what there is, without a device or a clock.
//!
//! Requests have a [`Rank`], which never changes: the step at which they came, a priority counting as so many steps. The lowest goes
//! first, and whoever waits has a lower rank than all who come late enough, so none waits for ever. A request is admitted when
//! there is room for its prompt and the answer's reserve; those behind it wait until it is, but for one that is held back because
//! another computes the prompt that both begin with. Where room can be made by preempting requests of lower priority and higher rank, they
//! are. Where those that run outgrow what there is, the one of the highest rank is preempted. The lowest rank is never preempted,
//! and fits alone: it ends, so all do.

use std::cmp::Reverse;

/// The place of a request among all: the lowest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Steps taken when it came, less those that its priority is worth.
    due: i64,
    /// The how manieth it is: no two are the same.
    number: u64,
}

impl Rank {
    /// Of the request of this number, which came after so many steps.
    pub(super) fn new(number: u64, steps: u64, priority: i32, patience: u32) -> Self {
        Self { due: steps as i64 - i64::from(priority) * i64::from(patience), number }
    }

    /// The request's number.
    pub(super) fn number(self) -> u64 {
        self.number
    }
}

/// A request that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) rank: Rank,
    pub(super) priority: i32,
}

/// What it takes to admit a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// So many blocks that no request holds that runs.
    Blocks(u32),
    /// Another request that runs computes what both begin with.
    Another,
}

/// A request that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) rank: Rank,
    pub(super) priority: i32,
    /// Tokens that its session holds.
    pub(super) length: u32,
    /// Tokens of its prompt that are still to be computed.
    pub(super) prompt: u32,
    /// Tokens to decode, once those are: one, or those that it had when it was preempted.
    pub(super) decode: u32,
    /// Whether its next token selects what it attends, and the blocks that have to be in the hot cache for it.
    pub(super) hot: (bool, u32),
    /// Blocks that it takes until it has its reserve.
    pub(super) needs: u32,
    /// Blocks that no other session holds.
    pub(super) alone: u32,
    /// The step in which it was worked on last, or admitted.
    pub(super) moved: u64,
}

/// What steps and sessions there can be.
pub(super) struct Limits<'a> {
    /// Requests that run at a time.
    pub(super) running: usize,
    /// Tokens of a step.
    pub(super) rows: usize,
    /// Of these, those that decode.
    pub(super) decoding: usize,
    /// Blocks of the hot cache, where there is one, for tokens that select; and again for those that do not.
    pub(super) hot: Option<u32>,
    /// Tokens of prompts in a step with a session of so many tokens.
    pub(super) chunk: &'a dyn Fn(u32) -> usize,
    pub(super) patience: u32,
}

impl Limits<'_> {
    // Steps that the rest of a prompt takes at least.
    fn steps_left(&self, running: &Running) -> i64 {
        let piece = (self.chunk)(running.length).min(self.rows).max(1);
        (running.prompt as usize).div_ceil(piece) as i64
    }
}

/// A request's part in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) number: u64,
    pub(super) tokens: usize,
    pub(super) is_prompt: bool,
}

/// What happens to the request of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Admit(u64),
    /// Its blocks are given back, and it waits again.
    Preempt(u64),
}

/// The next request to begin, or one that makes room for it; `None` where neither can be. `available` are the blocks that no
/// request holds that runs.
pub(super) fn admission(
    waiting: &[Waiting],
    running: &[Running],
    available: u32,
    limits: &Limits<'_>,
    needs: &mut dyn FnMut(u64) -> Needs,
) -> Option<Change> {
    // What a request needs takes a look at all sessions, and most steps of a full house need not ask.
    let is_full = running.len() >= limits.running;
    if is_full && !waiting.iter().any(|candidate| victims(candidate, running).next().is_some()) {
        return None;
    }
    let mut waiting: Vec<&Waiting> = waiting.iter().collect();
    waiting.sort_by_key(|waiting| waiting.rank);
    for candidate in waiting {
        let number = candidate.rank.number();
        // Who needs no room makes none either.
        let Needs::Blocks(needed) = needs(number) else { continue };
        let reserved: u32 = running.iter().map(|running| running.needs).sum();
        if !is_full && needed.saturating_add(reserved) <= available {
            return Some(Change::Admit(number));
        }
        let mut victims: Vec<&Running> = victims(candidate, running).collect();
        victims.sort_by_key(|victim| Reverse(victim.rank));
        let victim = victims.first()?;
        // Blocks that victims share are not counted, so that none is preempted in vain.
        let gained: u32 = victims.iter().map(|victim| victim.alone + victim.needs).sum();
        let fits =
            u64::from(needed) + u64::from(reserved) <= u64::from(available) + u64::from(gained);
        let has_place = running.len() - victims.len() < limits.running;
        return (fits && has_place).then_some(Change::Preempt(victim.rank.number()));
    }
    None
}

// Those that may make room for a request.
fn victims<'r>(
    candidate: &Waiting,
    running: &'r [Running],
) -> impl Iterator<Item = &'r Running> + use<'r> {
    let Waiting { rank, priority } = *candidate;
    running.iter().filter(move |running| running.rank > rank && running.priority < priority)
}

/// The next step: a token of each request that decodes, then pieces of prompts in what room is left. Where not all find room, of
/// those that decode the ones go first that were worked on the longest ago, a priority counting as so many steps. Of prompts
/// those do that could be read first, had each been read alone since it came: so first tokens come one after another instead of
/// all at the end, a short prompt goes before a long one, and a long one waits for those only that come in its own time.
pub(super) fn step(running: &[Running], limits: &Limits<'_>) -> Vec<Share> {
    let turn = |running: &&Running| {
        let worth = i64::from(running.priority) * i64::from(limits.patience);
        (running.moved as i64 - worth, running.rank)
    };
    let (mut reads, mut decodes): (Vec<&Running>, Vec<&Running>) =
        running.iter().partition(|running| running.prompt > 0);
    reads.sort_by_key(|one| (one.rank.due + limits.steps_left(one), one.rank));
    decodes.sort_by_key(turn);
    let mut shares = Vec::new();
    // One row at least is a prompt's, if there is one and more than one row.
    let kept = usize::from(!reads.is_empty() && limits.rows > 1);
    let left = limits.decoding.min(limits.rows - kept);
    let mut rows = limits.rows;
    let decodes = within_hot_cache(decodes, limits.hot);
    let first = decodes.len().min(left);
    // Over a hot cache a token of each goes through the layers at a time anyway.
    let mut spare = if limits.hot.is_some() { 0 } else { left - first };
    for one in &decodes[..first] {
        // Tokens that a preempted request had go again in what rows nobody else decodes.
        let more = (one.decode as usize - 1).min(spare);
        spare -= more;
        rows -= 1 + more;
        shares.push(Share { number: one.rank.number(), tokens: 1 + more, is_prompt: false });
    }
    let (mut taken, mut most) = (0, usize::MAX);
    for one in reads {
        let cap = most.min((limits.chunk)(one.length));
        let tokens = rows.min(cap.saturating_sub(taken)).min(one.prompt as usize);
        if tokens == 0 {
            // A longer session would leave those less that are there already.
            continue;
        }
        (taken, most) = (taken + tokens, cap);
        rows -= tokens;
        shares.push(Share { number: one.rank.number(), tokens, is_prompt: true });
    }
    shares
}

// Those of the first whose blocks the hot cache can hold together; the first of each kind in any case.
fn within_hot_cache(mut decodes: Vec<&Running>, hot: Option<u32>) -> Vec<&Running> {
    let Some(hot) = hot else { return decodes };
    let (mut selecting, mut most, mut dense) = (0, 0, 0);
    decodes.retain(|one| {
        let (selects, blocks) = one.hot;
        if selects {
            // Each has room for as many as the one that keeps the most.
            let all = (selecting + 1) * most.max(blocks);
            let fits = selecting == 0 || all <= hot;
            if fits {
                (selecting, most) = (selecting + 1, most.max(blocks));
            }
            fits
        } else {
            let fits = dense == 0 || dense + blocks <= hot;
            dense += if fits { blocks } else { 0 };
            fits
        }
    });
    decodes
}

/// Who is preempted where a step finds too few blocks: the highest rank, but never the only one.
pub(super) fn outgrown(running: &[Running]) -> Option<u64> {
    let last = running.iter().map(|running| running.rank).max()?;
    (running.len() > 1).then_some(last.number())
}

#[cfg(test)]
mod tests;
