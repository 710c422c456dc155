//! Mutants: shaders with one fault each, which some case must see. A sample runs with the tests; every barrier is deleted in turn by
//! `cargo test --release --lib mutants -- --ignored --nocapture`, and with `ASYNCTLS_TEST_CASES=top_k/` those of what such cases run, which
//! alone are asked then. What no case sees on the best adapter is tried on the others that are here: SwiftShader's subgroups have four
//! lanes, lavapipe's eight.

use super::record::{Record, mutated, recorded};
use super::tests::adapter;
use super::trial::fits;
use super::{Trial, trials};
use crate::Error;
use crate::gpu::{Adapter, Disable, Gpu, adapters, assemble, completed};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;

/// File, a part of its text, what stands there in the mutant, and which cases have to see it.
const SAMPLE: &[(&str, &str, &str, &str)] = &[
    // Barriers.
    (
        "lib/arg_max.wgsl",
        "best[lane] = mine;\n    workgroupBarrier();",
        "best[lane] = mine;",
        "arg_max/*",
    ),
    ("attend/merge.wgsl", "sums[lane] = o;\n    workgroupBarrier();", "sums[lane] = o;", "merge/*"),
    (
        "select/top_k.wgsl",
        "workgroupBarrier();\n        let digit",
        "let digit",
        "top_k/level-1-Plain-random*",
    ),
    (
        "select/top_k_shuffled.wgsl",
        "workgroupBarrier();\n        let others",
        "let others",
        "top_k_shuffled/*random*",
    ),
    // Bounds.
    ("model/rms_norm.wgsl", "rms_norm.width % 4u", "0u", "rms_norm/*"),
    (
        "attend/merge.wgsl",
        "if i < count {",
        "if i + 1u < count {",
        "dense_split/d64-kv2-group3-lengths-1-*",
    ),
    (
        "select/top_k.wgsl",
        "eligible_items(row);",
        "eligible_items(row) + vec2(1u, 0u);",
        "top_k/*random*",
    ),
    // Scales and terms that are dropped.
    ("model/rms_norm.wgsl", " + rms_norm.epsilon", "", "rms_norm/*"),
    (
        "model/matvec_quants.wgsl",
        "let upper{t} = 256 * high{t} + low{t};",
        "let upper{t} = 256 * high{t};",
        "matvec_quants/*",
    ),
    ("model/matvec_quants.wgsl", "turn + 1u < TURNS", "turn + 2u < TURNS", "matvec_quants/*turns*"),
    ("model/matvec_quants.wgsl", "other < SHARES", "other + 1u < SHARES", "matvec_quants/*shares*"),
    (
        "select/top_k_shuffled.wgsl",
        "before += halves(",
        "let after = halves(",
        "top_k_shuffled/level-2-*random*",
    ),
    ("attend/merge.wgsl", "l += state.y * factor;", "l += state.y;", "merge/*"),
    ("select/head_sums.wgsl", "(f32(GROUP) * sum)", "sum", "head_ranks/*"),
    ("select/head_sums.wgsl", "max(x2, x3)", "x2", "head_ranks/*lone*"),
    (
        "lib/ranked.wgsl",
        "k < range.y - range.x",
        "k + 1u < range.y - range.x",
        "top_k/*group-20*tokens-191",
    ),
    ("select/head_ranks.wgsl", "head{+j} < GROUP);", "true);", "head_ranks/*"),
    (
        "select/top_k_shuffled.wgsl",
        "score_rows.stride + range.x;",
        "score_rows.stride;",
        "top_k_shuffled/level-1-*1100*",
    ),
    ("lib/code_logits.wgsl", "min(quad * QUAD{+h}, HEADS - 1u)", "quad * QUAD", "block_score/*"),
    ("lib/code_logits.wgsl", "(part + i) % LANES", "part", "token_score/*"),
    (
        "lib/halved_f16.wgsl",
        "larger_magnitude(largest_normed, values)",
        "larger_magnitude(0u, values)",
        "rms_norm/*Halved",
    ),
    ("lib/cap_soft.wgsl", "(2.0 / CAP)", "(1.0 / CAP)", "*split/*cap*"),
    // Minimum for maximum, and ties that go elsewhere.
    (
        "attend/merge.wgsl",
        "workgroup_max(lane, largest)",
        "-workgroup_max(lane, -largest)",
        "merge/*",
    ),
    ("lib/arg_max.wgsl", "b.y < a.y", "b.y > a.y", "arg_max/*"),
    ("select/top_k.wgsl", "tie && equals < wanted", "tie && equals <= wanted", "top_k/*ties*"),
    ("select/top_k_shuffled.wgsl", "at.y < wanted", "at.y <= wanted", "top_k_shuffled/*ties*"),
];

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
        "if SHARES > 1u {\n            workgroupBarrier();",
        "sums of the second turn and later ones are read by another team than wrote them; where lanes are emulated all of them go through what \
         the first turn alone does too, so that its barrier makes them wait in each",
    ),
    (
        "model/matvec_quants.wgsl",
        "TURNS > 1u {\n            workgroupBarrier();",
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

fn text(file: &str) -> String {
    let shaders = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    std::fs::read_to_string(shaders.join(file)).unwrap()
}

// The devices of an adapter, by mode.
struct Bench {
    adapter: Adapter,
    devices: HashMap<&'static str, Gpu>,
}

impl Bench {
    fn new(adapter: &Adapter) -> Self {
        Self { adapter: adapter.clone(), devices: HashMap::new() }
    }

    fn gpu(&mut self, trial: &Trial) -> &Gpu {
        self.devices.entry(trial.mode.name).or_insert_with(|| {
            let options = trial.mode.options(Disable::default());
            pollster::block_on(Gpu::open(&self.adapter, options)).unwrap()
        })
    }

    /// Whether an adapter has what a trial needs.
    fn runs(&mut self, trial: &Trial) -> bool {
        pollster::block_on(trial.case.run(self.gpu(trial))).is_ok()
    }

    /// The trial that sees a mutant of a file, if one does.
    fn killer<'t>(
        &mut self,
        file: &str,
        mutant: String,
        trials: &[&'t Trial],
    ) -> Option<&'t Trial> {
        let file: &'static str = file.to_owned().leak();
        let sources: &'static [_] = vec![(file, &*mutant.leak())].leak();
        trials.iter().copied().find(|trial| {
            let gpu = self.gpu(trial);
            let (result, _) = pollster::block_on(mutated(sources, trial.case.run(gpu)));
            match result {
                Ok(verdict) => verdict.is_err(),
                Err(Error::Unsupported { .. }) => false,
                Err(error) => panic!("{file}: {error}"),
            }
        })
    }
}

#[test]
fn a_sample_of_mutants_is_seen() {
    if adapter(&format!("{} mutants", SAMPLE.len())).is_none() {
        return;
    }
    let here = all_adapters();
    let mut benches: Vec<_> = here
        .iter()
        .map(|adapter| (trials(adapter, Disable::default()), Bench::new(adapter)))
        .collect();
    for &(file, from, to, cases) in SAMPLE {
        let sound = text(file);
        assert_eq!(sound.matches(from).count(), 1, "{file}: {from}");
        let mut runs = false;
        let seen = benches.iter_mut().any(|(all, bench)| {
            // Checks hide nothing here, and only cost time.
            let able = |trial: &&Trial| {
                trial.mode.name != "checked" && fits(&format!("{cases}@*"), &trial.name())
            };
            let able: Vec<&Trial> = all.iter().filter(able).collect();
            let seen = bench.killer(file, sound.replace(from, to), &able).is_some();
            runs |= seen || able.iter().any(|trial| bench.runs(trial));
            seen
        });
        if !runs {
            eprintln!("skipped: a mutant of {file}: no adapter here runs {cases}");
            continue;
        }
        assert!(seen, "{file}: {from} can be {to:?}: {cases} see nothing");
    }
}

/// The adapters that are here, the best first.
fn all_adapters() -> Vec<Adapter> {
    let best = adapter("mutants").expect("an adapter");
    let mut here = pollster::block_on(adapters());
    here.retain(|adapter| adapter.label() != best.label());
    here.insert(0, best);
    here
}

/// The files of each kernel that a trial ran, included ones too.
fn files(trial: &Trial, record: &Record) -> BTreeSet<String> {
    let reversed = trial.mode.options(Disable::default()).lanes_reversed;
    let mut files = BTreeSet::new();
    for spec in &record.specs {
        let assembled = assemble(&completed(spec, trial.tier, reversed)).unwrap();
        let lines = 1..=assembled.text.lines().count() as u32;
        let origins = lines.filter_map(|line| assembled.origin(line));
        // Constants have lines too, of no file.
        files.extend(origins.map(|(file, _)| file.to_owned()).filter(|f| f.ends_with(".wgsl")));
    }
    files
}

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
    let mut here = all_adapters();
    // Mesa's rasteriser, the fastest here, leaves few barriers to the others.
    here.sort_by_key(|adapter| !adapter.label().contains("llvmpipe"));
    for adapter in &here {
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
    let mut all = trials(adapter, Disable::default());
    all.retain(|trial| trial.name().contains(&part));
    let mut by_file = BTreeMap::<String, Vec<&Trial>>::new();
    for trial in all.iter().filter(|trial| trial.mode.name != "checked") {
        let gpu = bench.gpu(trial);
        let (_, record) = pollster::block_on(recorded(trial.case.run(gpu)));
        for file in files(trial, &record) {
            by_file.entry(file).or_default().push(trial);
        }
    }
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
