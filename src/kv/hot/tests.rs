use super::*;
use proptest::prelude::*;

mod traces;

const FREE: Policy = Policy { patience: 1, most: u32::MAX };

/// Admits at the first moment of a step, with nothing in flight; what was placed, as (block, slot, evicted).
fn admit(
    cache: &mut HotCache,
    step: u64,
    wanted: &[u32],
    policy: &Policy,
) -> Vec<(u32, u32, Option<u32>)> {
    let (moment, mut placed) = (step * MOMENTS, Vec::new());
    cache.admit(moment, moment, wanted, policy, &mut placed);
    placed.iter().map(|p| (p.block, p.slot, p.evicted)).collect()
}

#[test]
fn the_block_wanted_the_longest_ago_goes_first() {
    let mut cache = HotCache::new(3, 10);
    assert_eq!(admit(&mut cache, 0, &[7, 4], &FREE), [(7, 0, None), (4, 1, None)]);
    assert_eq!(admit(&mut cache, 1, &[4, 9], &FREE), [(9, 2, None)]);
    assert_eq!(admit(&mut cache, 2, &[1], &FREE), [(1, 0, Some(7))]);
    // 4 and 9 were last wanted in the same step, and 4 in another one too.
    assert_eq!(admit(&mut cache, 3, &[2, 3], &FREE), [(2, 2, Some(9)), (3, 1, Some(4))]);
    assert_eq!(cache.residents().collect::<Vec<_>>(), [1, 3, 2]);
    assert_eq!((cache.slot_of(3), cache.slot_of(4)), (Some(1), None));
}

#[test]
fn fame_fades() {
    // Block 0 is wanted eight times, then not for a while; block 1 is new, and wanted five times since.
    let victim = |pause: u64| {
        let mut cache = HotCache::new(2, 3);
        for step in 0..8 {
            admit(&mut cache, step, &[0], &FREE);
        }
        for step in pause..pause + 4 {
            admit(&mut cache, step, &[1], &FREE);
        }
        admit(&mut cache, pause + 4, &[0, 1], &FREE);
        admit(&mut cache, pause + 5, &[2], &FREE)[0].2
    };
    assert_eq!(victim(8), Some(1));
    assert_eq!(victim(8 + 2 * FADE), Some(0), "8 / 4 + 1 wants are fewer");
}

#[test]
fn a_slot_in_flight_is_left_alone() {
    let mut cache = HotCache::new(2, 8);
    let mut placed = Vec::new();
    cache.admit(5, 5, &[0, 1], &FREE, &mut placed);
    // Step 5 is still read, and stays so when its block is forgotten.
    assert_eq!(cache.forget(0), Some(0));
    assert_eq!(cache.forget(0), None);
    assert_eq!(cache.admit(6, 5, &[2, 1], &FREE, &mut placed), Admitted { hits: 1, left: 1 });
    placed.clear();
    assert_eq!(cache.admit(7, 6, &[2, 3], &FREE, &mut placed), Admitted { hits: 0, left: 1 });
    assert_eq!(placed, [Placement { block: 2, slot: 0, evicted: None }]);
    // A later part of a step takes nothing from the one before, even with nothing in flight.
    assert_eq!(cache.admit(7, 8, &[4, 5], &FREE, &mut placed), Admitted { hits: 0, left: 1 });
    assert_eq!(placed[1], Placement { block: 4, slot: 1, evicted: Some(1) });
}

#[test]
fn patience_counts_steps_in_a_row() {
    let mut cache = HotCache::new(2, 8);
    let patient = Policy { patience: 3, ..FREE };
    let none = Vec::new();
    for step in [1, 2, 4, 5, 5] {
        assert_eq!(admit(&mut cache, step, &[6], &patient), none, "step {step}");
    }
    assert_eq!(admit(&mut cache, 6, &[3, 6], &patient), [(6, 0, None)]);
    // The number of a block that no longer exists stands for another.
    admit(&mut cache, 7, &[3], &patient);
    cache.forget(3);
    assert_eq!(admit(&mut cache, 8, &[3], &patient), none);
}

#[test]
fn moments_of_a_step_are_one_for_patience_and_fame() {
    let mut cache = HotCache::new(2, 8);
    let patient = Policy { patience: 2, ..FREE };
    let mut placed = Vec::new();
    let mut at = |moment, wanted: &[u32], policy: &Policy| {
        placed.clear();
        cache.admit(moment, moment, wanted, policy, &mut placed);
        placed.iter().map(|p| (p.block, p.evicted)).collect::<Vec<_>>()
    };
    // The last moment of one step, those of the one after the next, and then the first of the step that follows.
    assert_eq!(at(MOMENTS - 1, &[6], &patient), []);
    for moment in 2 * MOMENTS..3 * MOMENTS {
        assert_eq!(at(moment, &[6], &patient), [], "moment {moment}");
    }
    assert_eq!(at(3 * MOMENTS, &[6], &patient), [(6, None)]);
    // Wanted in two steps, and at all moments of one.
    at(5 * MOMENTS, &[4, 6], &FREE);
    for moment in 6 * MOMENTS..7 * MOMENTS {
        at(moment, &[4], &FREE);
    }
    at(7 * MOMENTS, &[6], &FREE);
    at(8 * MOMENTS, &[4, 6], &FREE);
    // But a later moment may take what was wanted at an earlier one of its step.
    assert_eq!(at(8 * MOMENTS + 1, &[1], &FREE), [(1, Some(4))]);
}

#[test]
fn a_step_places_no_more_than_it_may() {
    let mut cache = HotCache::new(8, 8);
    let two = Policy { most: 2, ..FREE };
    assert_eq!(admit(&mut cache, 0, &[5, 3, 4], &two), [(5, 0, None), (3, 1, None)]);
    assert_eq!(admit(&mut cache, 1, &[3, 4, 5], &two), [(4, 2, None)]);
    assert_eq!(admit(&mut cache, 2, &[0], &Policy { most: 0, ..FREE }), []);
    assert_eq!(admit(&mut HotCache::new(0, 1), 0, &[0], &FREE), []);
}

/// Says what [`HotCache`] says, from the whole history.
struct Oracle {
    /// The block in each slot.
    slots: Vec<Option<u32>>,
    /// The moments at which each slot's block was wanted, also after it was forgotten.
    wants: Vec<Vec<u64>>,
    /// Steps that missed a block, while there was patience.
    missed: Vec<(u64, u32)>,
}

impl Oracle {
    fn new(slots: usize) -> Self {
        Self { slots: vec![None; slots], wants: vec![Vec::new(); slots], missed: Vec::new() }
    }

    fn slot_of(&self, block: u32) -> Option<usize> {
        self.slots.iter().position(|&held| held == Some(block))
    }

    fn times(&self, slot: usize) -> u32 {
        let steps: Vec<u64> = self.wants[slot].iter().map(|moment| moment / MOMENTS).collect();
        let mut times = 0;
        for step in steps[0]..=steps[steps.len() - 1] {
            if (step + 1).is_multiple_of(FADE) {
                times /= 2;
            }
            times += u32::from(steps.contains(&step));
        }
        times
    }

    fn misses_in_a_row(&self, block: u32, step: u64) -> u32 {
        (0..=step).rev().take_while(|&step| self.missed.contains(&(step, block))).count() as u32
    }

    fn victim(&self, moment: u64, in_flight_from: u64) -> Option<usize> {
        let takeable = |&slot: &usize| {
            self.wants[slot].iter().all(|&want| want < in_flight_from && want != moment)
        };
        let free = (0..self.slots.len()).filter(takeable).find(|&slot| self.slots[slot].is_none());
        free.or_else(|| {
            (0..self.slots.len())
                .filter(takeable)
                .min_by_key(|&slot| (self.wants[slot].last().copied(), self.times(slot)))
        })
    }

    fn admit(
        &mut self,
        moment: u64,
        in_flight_from: u64,
        wanted: &[u32],
        policy: &Policy,
    ) -> (Vec<Placement>, Admitted) {
        let (hits, missing): (Vec<u32>, Vec<u32>) =
            wanted.iter().partition(|&&block| self.slot_of(block).is_some());
        for &block in &hits {
            let slot = self.slot_of(block).unwrap();
            self.wants[slot].push(moment);
        }
        let step = moment / MOMENTS;
        let mut placed = Vec::new();
        for &block in &missing {
            if policy.patience > 1 {
                self.missed.push((step, block));
                if self.misses_in_a_row(block, step) < policy.patience {
                    continue;
                }
            }
            if placed.len() as u32 == policy.most {
                continue;
            }
            let Some(slot) = self.victim(moment, in_flight_from) else { continue };
            let evicted = self.slots[slot].replace(block);
            self.wants[slot] = vec![moment];
            placed.push(Placement { block, slot: slot as u32, evicted });
        }
        let left = (missing.len() - placed.len()) as u32;
        (placed, Admitted { hits: hits.len() as u32, left })
    }

    fn forget(&mut self, block: u32) -> Option<u32> {
        self.missed.retain(|&(_, missed)| missed != block);
        let slot = self.slot_of(block)?;
        self.slots[slot] = None;
        Some(slot as u32)
    }
}

/// An event in the life of a cache at one moment.
#[derive(Clone, Debug)]
struct Event {
    /// Moments since the one before.
    pause: u64,
    /// Earlier moments in flight.
    in_flight: u64,
    wanted: Vec<u32>,
    forgotten: Vec<u32>,
}

/// Slots, blocks, and events that want up to as many blocks as there are slots, many of them those of the step before.
fn histories() -> impl Strategy<Value = (u32, u32, Vec<Event>)> {
    let steps = |steps: std::ops::Range<u64>| steps.start * MOMENTS..steps.end * MOMENTS;
    (1u32..24, 1u32..4).prop_flat_map(move |(slots, spread)| {
        let blocks = slots * spread + 1;
        let pause = prop_oneof![
            1 => Just(0u64), 3 => 1..MOMENTS, 9 => Just(MOMENTS), 2 => steps(2..5), 1 => steps(30..200)
        ];
        let all: Vec<u32> = (0..blocks).collect();
        // Half of the steps want from a window of the blocks, which makes them alike.
        let few = prop::sample::subsequence(all[..slots as usize].to_vec(), 0..=slots as usize);
        let any = prop::sample::subsequence(all.clone(), 0..=slots as usize);
        let wanted = prop_oneof![few.prop_shuffle(), any.prop_shuffle()];
        let forgotten = prop::sample::subsequence(all, 0..=2);
        let event = (pause, 0..4 * MOMENTS, wanted, forgotten).prop_map(
            |(pause, in_flight, wanted, forgotten)| Event { pause, in_flight, wanted, forgotten },
        );
        (Just(slots), Just(blocks), prop::collection::vec(event, 1..80))
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    (0u32..5, prop_oneof![Just(u32::MAX), 0..6u32])
        .prop_map(|(patience, most)| Policy { patience, most })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn placements_are_those_of_the_oracle(
        (slots, blocks, events) in histories(),
        policies in prop::collection::vec(policies(), 1..3),
    ) {
        let mut cache = HotCache::new(slots, blocks);
        let mut oracle = Oracle::new(slots as usize);
        let mut moment = 0;
        for (event, policy) in events.iter().zip(policies.iter().cycle()) {
            moment += event.pause;
            let from = moment.saturating_sub(event.in_flight);
            let mut placed = Vec::new();
            let admitted = cache.admit(moment, from, &event.wanted, policy, &mut placed);
            let expected = oracle.admit(moment, from, &event.wanted, policy);
            prop_assert_eq!((placed, admitted), expected);
            for &block in &event.forgotten {
                prop_assert_eq!(cache.forget(block), oracle.forget(block));
            }
            let residents: Vec<u32> = oracle.slots.iter().flatten().copied().collect();
            prop_assert_eq!(cache.residents().collect::<Vec<_>>(), residents);
            for block in 0..blocks {
                let expected = oracle.slot_of(block).map(|slot| slot as u32);
                prop_assert_eq!(cache.slot_of(block), expected);
            }
        }
    }

    #[test]
    fn what_is_wanted_or_in_flight_keeps_its_slot(
        (slots, blocks, events) in histories(),
        policy in policies(),
    ) {
        let mut cache = HotCache::new(slots, blocks);
        // The last moment that wanted what each slot holds or held.
        let mut read: Vec<Option<u64>> = vec![None; slots as usize];
        let (mut moment, mut placed) = (0, Vec::new());
        for Event { pause, in_flight, wanted, forgotten } in &events {
            moment += pause;
            let from = moment.saturating_sub(*in_flight);
            let before = cache.clone();
            placed.clear();
            let admitted = cache.admit(moment, from, wanted, &policy, &mut placed);

            let all = admitted.hits + placed.len() as u32 + admitted.left;
            prop_assert_eq!(all as usize, wanted.len());
            prop_assert!(placed.len() as u32 <= policy.most);
            for &Placement { block, slot, evicted } in &placed {
                prop_assert!(wanted.contains(&block) && before.slot_of(block).is_none());
                let held = before.slots[slot as usize].block;
                prop_assert_eq!(evicted, (held != NOWHERE).then_some(held));
                prop_assert!(evicted.is_none_or(|evicted| !wanted.contains(&evicted)));
                prop_assert!(read[slot as usize].is_none_or(|last| last < from.min(moment)));
            }
            let homes = (0..blocks).filter_map(|block| Some((cache.slot_of(block)?, block)));
            for (slot, block) in homes.clone() {
                prop_assert_eq!(cache.slots[slot as usize].block, block);
            }
            prop_assert_eq!(homes.count(), cache.residents().count());
            for slot in wanted.iter().filter_map(|&block| cache.slot_of(block)) {
                read[slot as usize] = Some(moment);
            }
            let busy = read.iter().filter(|last| last.is_some_and(|last| last >= from)).count();
            if policy.patience <= 1 && policy.most == u32::MAX && admitted.left > 0 {
                prop_assert_eq!(busy, slots as usize, "a slot could have been taken");
            }
            for &block in forgotten {
                cache.forget(block);
            }
        }
    }

    #[test]
    fn nothing_is_evicted_when_all_blocks_have_room((_, blocks, events) in histories()) {
        let mut cache = HotCache::new(blocks, blocks);
        let (mut moment, mut placed) = (0, Vec::new());
        for event in &events {
            moment += event.pause;
            // All of it in flight.
            let admitted = cache.admit(moment, 0, &event.wanted, &FREE, &mut placed);
            prop_assert_eq!(admitted.left, 0);
        }
        prop_assert!(placed.iter().all(|placement| placement.evicted.is_none()));
    }
}
