//! Files cut and changed in any place: read or refused, and nothing else.

use proptest::prelude::*;

use super::sound::every_value;
use super::{open, refused, small};
use crate::common::gguf_builder::GgufBuilder;

#[test]
fn every_truncation_is_refused() {
    let file = small().build();
    assert!(open(&file).is_ok());
    for length in 0..file.len() {
        refused(&file[..length], &[]);
    }
}

#[test]
fn every_flipped_bit_is_survived() {
    let file = small().build();
    for bit in 0..8 * small().header().len() {
        let mut broken = file.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        let result = open(&broken);
        // The first eight bytes allow one other value: version 2.
        assert!(bit >= 64 || bit == 32 || result.is_err(), "bit {bit}");
    }
}

/// A change to a file.
#[derive(Debug, Clone)]
enum Mutation {
    Byte(prop::sample::Index, u8),
    Word(prop::sample::Index, u64),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place = || any::<prop::sample::Index>();
    let word = prop_oneof![
        any::<u64>(),
        0..600u64,
        (0..64u32).prop_map(|bit| 1 << bit),
        (0..64u32).prop_map(|bit| u64::MAX >> bit),
    ];
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(place, byte)| Mutation::Byte(place, byte)),
        (place(), word).prop_map(|(place, word)| Mutation::Word(place, word)),
        (place(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(place, bytes)| Mutation::Insert(place, bytes)),
        (place(), 1..40usize).prop_map(|(place, count)| Mutation::Remove(place, count)),
        (place(), 1..80usize).prop_map(|(place, count)| Mutation::Repeat(place, count)),
    ]
}

fn mutate(file: &mut Vec<u8>, mutation: &Mutation) {
    let range = |file: &[u8], place: &prop::sample::Index, count: usize| {
        let start = place.index(file.len() + 1);
        start..file.len().min(start + count)
    };
    match mutation {
        Mutation::Byte(place, byte) => {
            let range = range(file, place, 1);
            file[range].fill(*byte);
        }
        Mutation::Word(place, word) => {
            let range = range(file, place, 8);
            let bytes = &word.to_le_bytes()[..range.len()];
            file[range].copy_from_slice(bytes);
        }
        Mutation::Insert(place, bytes) => {
            file.splice(range(file, place, 0), bytes.iter().copied());
        }
        Mutation::Remove(place, count) => {
            file.drain(range(file, place, *count));
        }
        Mutation::Repeat(place, count) => {
            let range = range(file, place, *count);
            let copy = file[range.clone()].to_vec();
            file.splice(range.end..range.end, copy);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_panics_or_takes_much_memory(
        mutations in prop::collection::vec(mutation(), 1..6),
        everything in any::<bool>(),
    ) {
        let base = if everything {
            every_value().iter().fold(small(), |file, (key, value)| file.value(key, value))
        } else {
            small()
        };
        let mut file = base.build();
        mutations.iter().for_each(|mutation| mutate(&mut file, mutation));
        // Its result does not matter, and it checks the rest itself.
        let _ = open(&file);
    }

    #[test]
    fn no_bytes_after_a_sound_beginning_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut file = GgufBuilder::new(3).metadata_count(1).tensor_count(1).build();
        file.extend(tail);
        let _ = open(&file);
    }
}
