//! Mutants of every kind that one case each has to see: with the tests of the gate.

use super::super::tests::adapter;
use super::super::trial::fits;
use super::{Bench, all_adapters, asked, text};
use crate::conformance::Trial;

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
    (
        "model/matvec_quants.wgsl",
        "turn + 1u < matrix.turns",
        "turn + 2u < matrix.turns",
        "matvec_quants/*turns*",
    ),
    (
        "model/matvec_quants.wgsl",
        "other < sharing",
        "other + 1u < sharing",
        "matvec_quants/*shares*",
    ),
    (
        "model/matvec_quants.wgsl",
        "            factor = factor{t};\n",
        "",
        "matvec_quants/*by-fours*normed*",
    ),
    (
        "lib/batch_sum.wgsl",
        "IS_SUM: bool = true",
        "IS_SUM: bool = false",
        "matvec_quants/ExpertsIn*turns*",
    ),
    ("lib/output_any.wgsl", "output == ADDED", "output != ADDED", "matvec_quants/*Add*"),
    ("lib/input.wgsl", " + matrix.epsilon", "", "matvec_quants/*normed*"),
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
    (
        "lib/code_logits.wgsl",
        "let head{h} = min(quad * QUAD{+h}, HEADS - 1u)",
        "let head{h} = quad * QUAD",
        "block_score/*",
    ),
    ("lib/join_memory.wgsl", "(part + i) % LANES", "part", "token_score/*@portable"),
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

#[test]
fn a_sample_of_mutants_is_seen() {
    if adapter(&format!("{} mutants", SAMPLE.len())).is_none() {
        return;
    }
    let here = all_adapters();
    let mut benches: Vec<_> =
        here.iter().map(|adapter| (asked(adapter), Bench::new(adapter))).collect();
    for &(file, from, to, cases) in SAMPLE {
        let sound = text(file);
        assert_eq!(sound.matches(from).count(), 1, "{file}: {from}");
        let mut runs = false;
        let seen = benches.iter_mut().any(|(all, bench)| {
            let cases = format!("{cases}@*");
            let able: Vec<&Trial> = all.iter().filter(|one| fits(&cases, &one.name())).collect();
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
