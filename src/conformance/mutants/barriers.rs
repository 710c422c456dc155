//! Every barrier deleted in turn: `cargo test --release --lib every_barrier -- --ignored --nocapture`. What no case sees on the first
//! adapter is tried on the others that are here: SwiftShader's subgroups have four lanes, lavapipe's eight. With
//! `ASYNCTLS_TEST_CASES=top_k/` those alone that such cases run, which alone are asked then.

use super::{Bench, asked, fastest_first, text};
use crate::gpu::Adapter;
use std::collections::BTreeMap;
use std::ops::Range;

/// Barriers that are needed, and that no case sees the want of on adapters which run lanes one after the other: the file, a part of its
/// text with the barrier in it, and why both.
const UNSEEN: &[(&str, &str, &str)] = &[
    (
        "select/top_k.wgsl",
        "storageBarrier();\n\n    // The k-th",
        "keys are read by other lanes than wrote them; where lanes wait, the barrier before the first reads makes them wait as long, but it \
         is none of storage",
    ),
    (
        "model/matvec_quants.wgsl",
        "if sharing > 1u {\n            workgroupBarrier();",
        "sums of the second turn and later ones are read by another team than wrote them; where lanes are emulated all of them go through what \
         the first turn alone does too, so that its barrier makes them wait in each",
    ),
    (
        "model/matvec_quants.wgsl",
        "turns > 1u {\n            workgroupBarrier();",
        "sums are read before the next turn's are written over them; where lanes are emulated, what the first turn alone does makes them wait \
         at its barriers in between",
    ),
    (
        "attend/prefill.wgsl",
        "workgroupBarrier();\n        stage[quad * TEAM + member] = largest_lo;",
        "queries in workgroup memory are read before maxima are written over them; where lanes are emulated all of them go through a loop \
         until the last leaves it, so that the one before this waits at its barrier once more",
    ),
    (
        "attend/prefill.wgsl",
        "storageBarrier();\n    // The sums of",
        "states are read before others write them; where lanes wait, the barrier behind it makes them wait as long",
    ),
    (
        "attend/prefill.wgsl",
        "a row's lanes.\n    workgroupBarrier();",
        "values in workgroup memory are read before sums are written over them, for which the model of memory asks for this barrier and not \
         the one before it; where lanes wait, that one makes them wait as long",
    ),
];

/// Where barriers stand in a text.
fn barriers(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<_> = ["workgroupBarrier();", "storageBarrier();"]
        .iter()
        .flat_map(|barrier| text.match_indices(barrier))
        .map(|(at, barrier)| at..at + barrier.len())
        .collect();
    found.sort_by_key(|range| range.start);
    found
}

/// The barrier of an entry of [`UNSEEN`].
fn unseen(file: &str, part: &str) -> Range<usize> {
    let sound = text(file);
    let (at, _) = sound.match_indices(part).next().unwrap_or_else(|| panic!("{file}: {part}"));
    let within = |range: &Range<usize>| at <= range.start && range.end <= at + part.len();
    let mut here = barriers(&sound).into_iter().filter(within);
    let (first, more) = (here.next(), here.next());
    assert!(sound.matches(part).count() == 1 && more.is_none(), "{file}: {part}: not one barrier");
    first.unwrap_or_else(|| panic!("{file}: {part}: no barrier"))
}

#[test]
fn barriers_that_no_case_sees_are_where_the_table_has_them() {
    for (file, part, why) in UNSEEN {
        unseen(file, part);
        assert!(why.len() > 40, "{file}: {part}: {why}");
    }
}

#[test]
#[ignore = "a quarter of an hour: every barrier of every shader that runs here"]
fn every_barrier_is_needed() {
    let mut verdicts = BTreeMap::new();
    for adapter in &fastest_first() {
        try_barriers(adapter, &mut verdicts);
    }
    assert!(!verdicts.is_empty(), "no such case runs a kernel with barriers");
    let left: Vec<_> = verdicts.iter().filter(|(_, is_settled)| !**is_settled).collect();
    assert!(left.is_empty(), "no case sees that these barriers are gone: {left:?}");
}

/// Deletes the barriers of all files that an adapter's cases run, by file and line, but for those that are settled: some case saw
/// the want of one, or the table has it.
fn try_barriers(adapter: &Adapter, verdicts: &mut BTreeMap<(String, usize), bool>) {
    println!("on {}", adapter.label());
    let mut bench = Bench::new(adapter);
    let part = std::env::var("ASYNCTLS_TEST_CASES").unwrap_or_default();
    let mut all = asked(adapter);
    all.retain(|trial| trial.name().contains(&part));
    let by_file = bench.by_file(all.iter());
    for (file, trials) in &by_file {
        let sound = text(file);
        let known: Vec<_> = UNSEEN.iter().filter(|(of, ..)| of == file).collect();
        let known: Vec<_> = known.iter().map(|(file, part, _)| unseen(file, part)).collect();
        for barrier in barriers(&sound) {
            let one = (file.clone(), sound[..barrier.start].lines().count());
            if verdicts.get(&one).is_some_and(|is_settled| *is_settled) {
                continue;
            }
            let mutant = format!("{}{}", &sound[..barrier.start], &sound[barrier.end..]);
            // A device of its own each, whose kernels go with it.
            let killer = Bench::new(adapter).killer(file, mutant, trials);
            let is_known = known.contains(&barrier);
            let verdict = match (killer, is_known) {
                (None, false) => "SURVIVES".into(),
                (None, true) => "survives, as is known".into(),
                (Some(trial), false) => trial.name(),
                (Some(trial), true) => format!("{}, which the table does not know", trial.name()),
            };
            println!("{file}:{}: {verdict}", one.1);
            verdicts.insert(one, killer.is_some() || is_known);
        }
    }
}
