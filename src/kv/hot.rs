//! Which blocks of one layer and key/value head have a slot on the GPU. Pure bookkeeping: what a step wants is given one,
//! what was wanted the longest ago loses it.

#[cfg(test)]
mod tests;

const NOWHERE: u32 = u32::MAX;

/// How often the counts of wants are halved, in steps: fame of long ago must fade.
const FADE: u64 = 64;

/// Moments of a step at which blocks are wanted: by the step itself, by it for the one that follows, and both again where it is
/// done again. Slots are given up by moments, so that each may take what those before it wanted; patience and fame count steps.
pub(super) const MOMENTS: u64 = 4;

/// Moments after which counts fade as they do from the first on.
#[cfg(feature = "measure")]
pub(super) const CYCLE: u64 = FADE * MOMENTS;

/// The slots of one layer and key/value head, and the pool's blocks that they hold.
#[derive(Clone, Debug)]
pub struct HotCache {
    /// Slot of each block, or `NOWHERE`.
    slot_of: Vec<u32>,
    slots: Vec<Slot>,
    /// By block, how long it has been wanted in vain. Empty until a policy asks for patience.
    waits: Vec<Wait>,
    /// Slots of the wanted blocks before this step. Like those below kept only for its memory.
    found: Vec<u32>,
    /// Blocks to place in this step.
    due: Vec<u32>,
    /// Slots for them, the first to go first.
    victims: Vec<Rank>,
}

/// A block on its way into a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The block.
    pub block: u32,
    /// Its slot from now on.
    pub slot: u32,
    /// The block that the slot held and no longer does.
    pub evicted: Option<u32>,
}

/// Limits of a step's placements. None by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A block is placed once it was missing in so many steps in a row. One that is wanted once and not again then
    /// evicts nothing. 0 and 1: at once.
    pub patience: u32,
    /// The most placements of a step.
    pub most: u32,
}

/// The outcome for the blocks that a step wants. The rest were placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Blocks that had a slot before.
    pub hits: u32,
    /// Blocks that still have none: the policy forbade it, or no slot could be taken.
    pub left: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    block: u32,
    /// Steps that wanted the block, halved whenever `FADE` steps have passed.
    times: u32,
    /// The moment after the last at which the block was wanted, or the one before it. 0 if there was none.
    next: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    /// Steps in a row that missed the block.
    steps: u32,
    /// The step after the last of them.
    next: u64,
}

/// The order in which slots are given up: by [`Slot::next`], then [`Slot::times`] in 8 bits, then the slot's number in
/// 16. A free slot has its number only.
type Rank = u64;

impl HotCache {
    /// An empty cache of `slots` slots, 65536 at most, for a pool of `blocks` blocks.
    pub fn new(slots: u32, blocks: u32) -> Self {
        assert!(slots <= 1 << 16, "{slots} slots of one head");
        Self {
            slot_of: vec![NOWHERE; blocks as usize],
            slots: vec![Slot { block: NOWHERE, times: 0, next: 0 }; slots as usize],
            waits: Vec::new(),
            found: Vec::new(),
            due: Vec::new(),
            victims: Vec::new(),
        }
    }

    /// The slot of a block, if it has one.
    pub fn slot_of(&self, block: u32) -> Option<u32> {
        Some(self.slot_of[block as usize]).filter(|&slot| slot != NOWHERE)
    }

    /// The blocks that have a slot, by slot.
    pub fn residents(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().map(|slot| slot.block).filter(|&block| block != NOWHERE)
    }

    /// Notes that these blocks, each given once, are wanted at a moment, and places those that are missing as far as the policy
    /// allows, the first given first. Appends what is to be copied to `placed`.
    ///
    /// Moments never fall, and a step has [`MOMENTS`] of them; one that comes in parts, say by sequence, may be given again. A slot
    /// is taken only if what it holds or held was wanted at no moment from `in_flight_from` on, nor at this one: steps in flight
    /// still read theirs. A free slot is taken first, then the one whose block was wanted the longest ago. Of those the one wanted
    /// in the fewest steps goes first, then the lowest.
    pub fn admit(
        &mut self,
        moment: u64,
        in_flight_from: u64,
        wanted: &[u32],
        policy: &Policy,
        placed: &mut Vec<Placement>,
    ) -> Admitted {
        // Looked up ahead of the loop, whose branches on what is found would wait for memory one by one.
        self.found.clear();
        self.found.extend(wanted.iter().map(|&block| self.slot_of[block as usize]));
        let patient = policy.patience > 1;
        if patient {
            self.waits.resize(self.slot_of.len(), Wait::default());
        }
        // All hits are noted before the first slot is taken, so that none of them is.
        self.due.clear();
        let mut hits = 0;
        for (&block, &slot) in wanted.iter().zip(&self.found) {
            if slot != NOWHERE {
                self.slots[slot as usize].note(moment);
                hits += 1;
            } else if !patient
                || self.waits[block as usize].note(moment / MOMENTS) >= policy.patience
            {
                self.due.push(block);
            }
        }
        self.due.truncate(policy.most as usize);
        self.find_victims(in_flight_from.min(moment));
        for (&block, &rank) in self.due.iter().zip(&self.victims) {
            let slot = u32::from(rank as u16);
            let evicted = self.slots[slot as usize].hold(block, moment);
            if let Some(evicted) = evicted {
                self.slot_of[evicted as usize] = NOWHERE;
            }
            self.slot_of[block as usize] = slot;
            placed.push(Placement { block, slot, evicted });
        }
        let missing = wanted.len() as u32 - hits;
        Admitted { hits, left: missing - self.victims.len() as u32 }
    }

    /// Takes the slot from a block that no longer exists, or whose placement was not carried out. Returns the slot.
    pub fn forget(&mut self, block: u32) -> Option<u32> {
        if let Some(wait) = self.waits.get_mut(block as usize) {
            *wait = Wait::default();
        }
        let slot = self.slot_of(block)?;
        self.slot_of[block as usize] = NOWHERE;
        // When it was last wanted stays: steps in flight may still read the slot.
        self.slots[slot as usize].block = NOWHERE;
        Some(slot)
    }

    /// Forgets everything, as if it were new.
    #[cfg(feature = "measure")]
    pub fn restart(&mut self) {
        *self = Self::new(self.slots.len() as u32, self.slot_of.len() as u32);
    }

    /// Finds a slot for each block that is due, as far as there are any that nobody wanted from `kept_from` on.
    fn find_victims(&mut self, kept_from: u64) {
        self.victims.clear();
        let count = self.due.len();
        if count == 0 {
            return;
        }
        // Without a branch on what may be taken, which nothing predicts.
        self.victims.resize(self.slots.len(), 0);
        let mut takeable = 0;
        for (index, slot) in (0..).zip(&self.slots) {
            self.victims[takeable] = slot.rank(index);
            takeable += usize::from(slot.next <= kept_from);
        }
        self.victims.truncate(takeable);
        if count < takeable {
            self.victims.select_nth_unstable(count);
            self.victims.truncate(count);
        }
        self.victims.sort_unstable();
    }
}

impl Wait {
    /// Notes that a step misses the block; how many in a row have.
    fn note(&mut self, step: u64) -> u32 {
        self.steps = match step + 1 - self.next {
            0 => self.steps,
            1 => self.steps + 1,
            _ => 1,
        };
        self.next = step + 1;
        self.steps
    }
}

impl Slot {
    /// Notes that the block is wanted.
    fn note(&mut self, moment: u64) {
        let (step, next) = (moment / MOMENTS, self.next.div_ceil(MOMENTS));
        if next <= step {
            // Halved here and not for all slots at once: counts are compared only between blocks last wanted at the same
            // moment, which all lack the same halvings since.
            let halvings = (step + 1) / FADE - next / FADE;
            self.times = (self.times >> halvings.min(31)) + 1;
        }
        self.next = moment + 1;
    }

    /// Holds another block, which is wanted. Returns the one before.
    fn hold(&mut self, block: u32, moment: u64) -> Option<u32> {
        let before = std::mem::replace(self, Self { block, times: 1, next: moment + 1 });
        Some(before.block).filter(|&block| block != NOWHERE)
    }

    fn rank(&self, index: u32) -> Rank {
        let of_block =
            if self.block == NOWHERE { 0 } else { self.next << 8 | u64::from(self.times.min(255)) };
        of_block << 16 | u64::from(index)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { patience: 1, most: u32::MAX }
    }
}
