//! Which head-blocks have a slot of the hot cache, and which have to come. Pure.

use crate::kernels::{HotSlots, NO_SLOT};
#[cfg(feature = "measure")]
use crate::kv::hot::CYCLE;
use crate::kv::hot::MOMENTS;
use crate::kv::{Gatherers, HotCache, Placement, Policy};
use std::ops::Range;

/// A head-block on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// KV head.
    pub head: u32,
    /// The block and its slot.
    pub placement: Placement,
}

/// Head-blocks of a layer that have to come.
pub type Items = (usize, Vec<Item>);

/// What a step wants of some layers.
pub struct Wanted<F> {
    /// The layers.
    pub layers: Range<usize>,
    /// Makes the list of a layer and KV head: blocks, each once. Several threads ask it side by side.
    pub list: F,
    /// As many blocks as a list is made of, about: work is shared out by that.
    pub blocks: usize,
}

/// Blocks below which a thread more costs more than it saves.
const LEAST_SHARE: usize = 2048;

/// The hot caches of every layer and KV head, which share one numbering of slots with the window before them.
#[derive(Debug)]
pub struct Residents {
    hot: Vec<HotCache>,
    kv_heads: u32,
    slots: HotSlots,
    /// The window's.
    first_slot: u32,
    /// Of the step's moments the one at which it wants blocks itself; what it wants for the next step follows.
    moment: u64,
    pub(super) counts: Counts,
    /// What was chosen and not attended before this step.
    before: (u64, u64),
}

/// What steps wanted. What is done again wants twice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) steps: u64,
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) left: u64,
    pub(super) kept: u64,
    pub(super) chosen: u64,
    pub(super) unattended: u64,
    pub(super) redone: u64,
    pub(super) most_missed: f32,
}

impl Residents {
    /// Empty hot caches of `hot_blocks` slots each, the last of `slots`.
    pub fn new(layers: u32, kv_heads: u32, slots: HotSlots, hot_blocks: u32) -> Self {
        let hot = || HotCache::new(hot_blocks, slots.pool_blocks);
        Self {
            hot: (0..layers * kv_heads).map(|_| hot()).collect(),
            kv_heads,
            slots,
            first_slot: slots.slots - hot_blocks,
            moment: 0,
            counts: Counts::default(),
            before: (0, 0),
        }
    }

    /// Begins a decode step.
    pub fn begin_step(&mut self) {
        self.moment = (self.moment / MOMENTS + 1) * MOMENTS;
        self.counts.steps += 1;
        self.before = (self.counts.chosen, self.counts.unattended);
    }

    /// Begins a step anew, which does not stand: what has come for the next one is there now.
    pub fn begin_again(&mut self) {
        self.moment += 2;
        self.counts.redone += 1;
        (self.counts.chosen, self.counts.unattended) = self.before;
    }

    /// The number that tells the head-blocks that arrive in this step from those that were there.
    pub fn epoch(&self) -> u32 {
        self.moment as u32
    }

    /// Notes the blocks that this step wants; what has to come is appended to `items`.
    pub fn want<F: Fn(usize, usize) -> Vec<u32> + Sync>(
        &mut self,
        threads: &Gatherers,
        wanted: Wanted<F>,
        items: &mut Vec<Items>,
    ) {
        self.want_at(self.moment, threads, wanted, &Policy::default(), items);
    }

    /// As [`Residents::want`], for the step that follows and within the limits of a policy; how many are not there.
    pub fn want_next<F: Fn(usize, usize) -> Vec<u32> + Sync>(
        &mut self,
        threads: &Gatherers,
        wanted: Wanted<F>,
        policy: &Policy,
        items: &mut Vec<Items>,
    ) -> u64 {
        let before = self.counts.misses;
        self.want_at(self.moment + 1, threads, wanted, policy, items);
        self.counts.misses - before
    }

    fn want_at<F: Fn(usize, usize) -> Vec<u32> + Sync>(
        &mut self,
        moment: u64,
        threads: &Gatherers,
        Wanted { layers, list, blocks }: Wanted<F>,
        policy: &Policy,
        items: &mut Vec<Items>,
    ) {
        let heads = self.kv_heads as usize;
        let (first, end) = (layers.start * heads, layers.end * heads);
        let share = LEAST_SHARE.div_ceil(blocks.max(1));
        let shares = (first..).step_by(share).zip(self.hot[first..end].chunks_mut(share));
        let admit = |(first, hot): (usize, &mut [HotCache])| {
            let of_head = |(number, hot): (usize, &mut HotCache)| {
                let wanted = list(number / heads, number % heads);
                let mut placed = Vec::new();
                (hot.admit(moment, moment, &wanted, policy, &mut placed), placed)
            };
            (first..).zip(hot).map(of_head).collect::<Vec<_>>()
        };
        let admitted = threads.map(shares, admit).concat();
        for (layer, admitted) in layers.zip(admitted.chunks(heads)) {
            let mut of_layer = Vec::new();
            for (head, (admitted, placed)) in (0..).zip(admitted) {
                self.counts.hits += u64::from(admitted.hits);
                self.counts.misses += placed.len() as u64 + u64::from(admitted.left);
                self.counts.left += u64::from(admitted.left);
                of_layer.extend(placed.iter().map(|&placement| Item {
                    head,
                    placement: Placement { slot: placement.slot + self.first_slot, ..placement },
                }));
            }
            if !of_layer.is_empty() {
                items.push((layer, of_layer));
            }
        }
    }

    /// Counts head-blocks that a step wanted and the step before had wanted too.
    pub fn count_kept(&mut self, kept: u64) {
        self.counts.kept += kept;
    }

    /// Counts head-blocks that a step chose, and of those the ones that it does not attend.
    pub fn count_chosen(&mut self, chosen: u64, unattended: u64) {
        self.counts.chosen += chosen;
        self.counts.unattended += unattended;
    }

    /// Takes note of the share of a head's mass that a step missed.
    pub fn note_missed(&mut self, share: f32) {
        self.counts.most_missed = self.counts.most_missed.max(share);
    }

    fn hot(&self, layer: usize, head: u32) -> &HotCache {
        &self.hot[layer * self.kv_heads as usize + head as usize]
    }

    /// Whether a block has a slot of its own for this layer and KV head.
    pub fn is_resident(&self, layer: usize, head: u32, block: u32) -> bool {
        self.hot(layer, head).slot_of(block).is_some()
    }

    /// Words that say where every block of a layer is, as the GPU keeps them.
    pub fn slot_words(&self, layer: usize) -> Vec<u32> {
        let mut words = vec![NO_SLOT; self.slots.words(self.kv_heads) as usize];
        for head in 0..self.kv_heads {
            let first = (head * self.slots.pool_blocks) as usize;
            let hot = self.hot(layer, head);
            for block in hot.residents() {
                if let Some(slot) = hot.slot_of(block) {
                    words[first + block as usize] = slot + self.first_slot;
                }
            }
        }
        words
    }

    /// Forgets a block; whether it had a slot of its own.
    pub fn forget(&mut self, block: u32) -> bool {
        let mut had_slot = false;
        for hot in &mut self.hot {
            had_slot |= hot.forget(block).is_some();
        }
        had_slot
    }

    /// Forgets everything that was wanted, so that the same steps have the same outcome whatever was before. Moments go on being
    /// numbered, from where counts of wants fade as they do from the first one on.
    #[cfg(feature = "measure")]
    pub fn restart(&mut self) {
        self.hot.iter_mut().for_each(HotCache::restart);
        self.moment = self.moment.next_multiple_of(CYCLE);
    }

    /// Empties every slot.
    pub fn clear(&mut self) {
        for hot in &mut self.hot {
            let residents: Vec<u32> = hot.residents().collect();
            for block in residents {
                hot.forget(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wanted of one layer, a list a KV head.
    fn of_layer(
        layer: usize,
        lists: &[Vec<u32>],
    ) -> Wanted<impl Fn(usize, usize) -> Vec<u32> + Sync + '_> {
        let list = |_, head: usize| lists[head].clone();
        Wanted { layers: layer..layer + 1, list, blocks: lists.concat().len() }
    }

    #[test]
    fn slots_are_numbered_behind_the_window_and_told_to_the_gpu() {
        let slots = HotSlots { pool_blocks: 10, slots: 7 };
        let mut residents = Residents::new(2, 2, slots, 4);
        residents.begin_step();
        let mut items = Vec::new();
        let threads = Gatherers::new().unwrap();
        residents.want(&threads, of_layer(1, &[vec![5, 8], vec![8]]), &mut items);
        let item =
            |head, block, slot| Item { head, placement: Placement { block, slot, evicted: None } };
        assert_eq!(items, [(1, vec![item(0, 5, 3), item(0, 8, 4), item(1, 8, 3)])]);
        assert!(residents.is_resident(1, 1, 8) && !residents.is_resident(0, 1, 8));
        let words = residents.slot_words(1);
        assert_eq!((words[5], words[8], words[10 + 8]), (3, 4, 3));
        assert_eq!(words.iter().filter(|&&word| word == NO_SLOT).count(), words.len() - 3);
        // What is there does not come again.
        items.clear();
        let again = [vec![5], vec![8]];
        residents.want_next(&threads, of_layer(1, &again), &Policy::default(), &mut items);
        assert!(items.is_empty());
        assert!(residents.forget(8) && !residents.forget(8));
        assert!(!residents.is_resident(1, 0, 8) && residents.is_resident(1, 0, 5));
        residents.clear();
        assert!(residents.slot_words(1).iter().all(|&word| word == NO_SLOT));
        let counts = residents.counts;
        assert_eq!((counts.steps, counts.hits, counts.misses, counts.left), (1, 2, 3, 0));
    }

    /// How many of the blocks that were wanted for the next step come.
    fn fetched(residents: &mut Residents, blocks: &[u32], policy: &Policy) -> usize {
        let mut items = Vec::new();
        let (threads, lists) = (Gatherers::new().unwrap(), [blocks.to_vec()]);
        residents.want_next(&threads, of_layer(0, &lists), policy, &mut items);
        items.iter().map(|(_, items)| items.len()).sum()
    }

    #[test]
    fn patience_counts_steps_and_one_that_is_done_again_once() {
        let patient = Policy { patience: 3, ..Policy::default() };
        let mut residents = Residents::new(1, 1, HotSlots { pool_blocks: 9, slots: 4 }, 4);
        let mut step = |is_again: bool, blocks: &[u32]| {
            if is_again {
                residents.begin_again()
            } else {
                residents.begin_step()
            }
            fetched(&mut residents, blocks, &patient)
        };
        assert_eq!([step(false, &[5]), step(false, &[5]), step(false, &[5])], [0, 0, 1]);
        // Each of these misses the block a first time and, done again, no second.
        for _ in 0..2 {
            assert_eq!([step(false, &[6]), step(true, &[6])], [0, 0]);
        }
        assert_eq!([step(false, &[7]), step(false, &[6])], [0, 0], "not in a row");
        assert_eq!([step(false, &[6]), step(false, &[6])], [0, 1]);
    }

    #[test]
    fn fame_counts_steps_and_one_that_is_done_again_once() {
        let two = |residents: &mut Residents| {
            let mut items = Vec::new();
            for blocks in [vec![0, 1], vec![2]] {
                residents.begin_step();
                let threads = Gatherers::new().unwrap();
                residents.want_next(
                    &threads,
                    of_layer(0, &[blocks]),
                    &Policy::default(),
                    &mut items,
                );
            }
            items.last().and_then(|(_, items)| items[0].placement.evicted)
        };
        let slots = HotSlots { pool_blocks: 9, slots: 2 };
        // Block 0 is wanted in three steps, block 1 in two that are done again.
        let mut residents = Residents::new(1, 1, slots, 2);
        for _ in 0..3 {
            residents.begin_step();
            fetched(&mut residents, &[0], &Policy::default());
        }
        for _ in 0..2 {
            residents.begin_step();
            fetched(&mut residents, &[1], &Policy::default());
            residents.begin_again();
            let threads = Gatherers::new().unwrap();
            residents.want(&threads, of_layer(0, &[vec![1]]), &mut Vec::new());
            fetched(&mut residents, &[1], &Policy::default());
        }
        assert_eq!(two(&mut residents), Some(1));
        // Block 0 is wanted in eight steps, block 1 half as many steps later as fame takes to fade once, in five.
        let mut residents = Residents::new(1, 1, slots, 2);
        for (block, steps) in [(0, 8), (9, 24), (1, 5)] {
            for _ in 0..steps {
                residents.begin_step();
                if block < 9 {
                    fetched(&mut residents, &[block], &Policy::default());
                }
            }
        }
        assert_eq!(two(&mut residents), Some(1));
    }

    #[test]
    fn after_a_restart_the_same_steps_evict_the_same_blocks() {
        let mut residents = Residents::new(1, 1, HotSlots { pool_blocks: 40, slots: 6 }, 6);
        // More often wanted blocks stay, and counts fade: what goes depends on both.
        let threads = Gatherers::new().unwrap();
        let run = |residents: &mut Residents| {
            let mut items = Vec::new();
            for step in 0..90u32 {
                residents.begin_step();
                let wanted = [step * step % 7, 7 + step * 5 % 11, 18 + step * 3 % 13];
                let wanted = [wanted.to_vec()];
                residents.want_next(&threads, of_layer(0, &wanted), &Policy::default(), &mut items);
            }
            items.into_iter().flat_map(|(_, items)| items).collect::<Vec<_>>()
        };
        let first = run(&mut residents);
        assert!(first.len() > 90, "{}", first.len());
        for _ in 0..3 {
            residents.begin_step();
            residents.restart();
            assert!(!residents.is_resident(0, 0, first[0].placement.block));
            let again = run(&mut residents);
            // What was evicted first is nothing: the slots are empty.
            assert!(again == first);
        }
    }
}
