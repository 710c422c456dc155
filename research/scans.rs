//! Times the scan of level 1 for every candidate index layout: `cargo bench --bench scans [-- FILTER] [--depth N]`.
//!
//! The shape is 8 KV heads, a group of 4 query heads, head dimension 128, blocks of 64 tokens, at 96,000 tokens of each of
//! 1 and 8 sequences. A scan writes one score per query head and block (of bounds: per KV head and block), before the
//! softmax over blocks. `ASYNCTLS_ADAPTER` chooses the adapter. Every scan is first compared with a computation on the CPU
//! at a small size; a mismatch ends the bench.
//!
//! A line is a candidate at a batch: the index's bytes a token and KV head, microseconds and the rate of index bytes that
//! follows. The time is the median of several rounds, each one submission of many dispatches in one pass. A dispatch waits
//! for the one before it, as in a decode step, so what it costs to start one is included. Dispatches take turns on copies
//! of the index that together hold `ROTATION` bytes, ten times the 50 MB of an H100's L2, so that the index comes from
//! memory; the queries and block tables, which a step has just written, may come from a cache. The block table is a
//! random permutation, as of a pool that has seen many sequences.
//!
//! `tune` in a name marks one layout under other choices of lanes and workgroups; `read` does not score, and bounds what
//! the read alone allows.

#[path = "scans/candidates.rs"]
mod candidates;
#[path = "scans/rig.rs"]
mod rig;
#[path = "scans/stage.rs"]
mod stage;
#[path = "scans/twins.rs"]
mod twins;

use asynctls::attention::{IndexFormat, Shape, Values};
use candidates::{Candidate, candidates};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;
use rig::{Dispatch, Rig};
use stage::Stage;
use std::time::Duration;

const KV_HEADS: usize = 8;
const GROUP: usize = 4;
const BLOCK: usize = Shape::BLOCK as usize;
const SHAPE: Shape = Shape {
    kv_heads: KV_HEADS as u32,
    group: GROUP as u32,
    head_dim: 128,
    values: Values::Own,
    scaled_by: 128,
    softcap: None,
    rope_interleaved: false,
    block: Shape::BLOCK,
    index: IndexFormat { channels: 32, bits: 4 },
};

/// Bytes of index over which dispatches rotate on a GPU.
const ROTATION: usize = 512 << 20;
const ROUNDS: usize = 5;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut filter, mut depth) = (String::new(), 96_000);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--depth" => {
                depth = arguments.next().and_then(|n| n.parse().ok()).expect("--depth N, in tokens")
            }
            // What cargo passes to every bench.
            "--bench" => (),
            _ => filter = argument,
        }
    }
    let blocks = depth / BLOCK;
    assert!(blocks >= 4, "--depth is {depth}, but a scan has at least 4 blocks of 64 tokens");
    let rig = Rig::open();
    println!("{}", serde_json::json!({ "adapter": rig.name, "depth": depth }));
    for candidate in candidates() {
        if !candidate.name.contains(&filter) || !rig.can_run(&candidate) {
            continue;
        }
        for stage in &candidate.stages {
            check(&rig, &candidate.name, stage);
        }
        for batch in [1, 8] {
            let taken = time(&rig, &candidate, batch, blocks);
            let bytes = candidate.bytes(batch, blocks);
            let tokens = batch * blocks * BLOCK * KV_HEADS;
            println!(
                "{}",
                serde_json::json!({
                    "candidate": candidate.name,
                    "bytes_per_token": bytes as f64 / tokens as f64,
                    "batch": batch,
                    "microseconds": rounded(taken.as_secs_f64() * 1e6),
                    "gb_per_second": rounded(bytes as f64 / taken.as_secs_f64() / 1e9),
                })
            );
        }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Compares every score of a small scan, whose last workgroup is partly idle, with the twin's.
fn check(rig: &Rig, name: &str, stage: &Stage) {
    let (rows, blocks) = (2, 39);
    let mut random = Pcg64::new(7, 1);
    let index = stage.record.fill(rows * blocks * KV_HEADS, &mut random);
    let inputs = stage.inputs(rows, blocks, &mut random);
    let scores = rig.scores(stage, rows, blocks);
    let kernel = rig.kernel(stage, &inputs, &scores, rows, blocks);
    rig.run(&[rig.dispatch(&kernel, &rig.storage(&index))]);
    let got = rig.read(&scores);
    let want = twins::scores(stage, &inputs, &index, rows, blocks);
    assert_eq!(got.len(), want.len(), "{name}");
    let largest = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
    for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(
            error <= stage.tolerance * largest,
            "{name}: score {i} is {got}, not {want}; the largest is {largest}"
        );
    }
}

/// The median time of one scan, all of its stages together.
fn time(rig: &Rig, candidate: &Candidate, batch: usize, blocks: usize) -> Duration {
    let bytes = candidate.bytes(batch, blocks);
    let rotation = if rig.is_cpu { 1 } else { ROTATION };
    let copies = rotation.div_ceil(bytes).max(1);
    let mut random = Pcg64::new(11, 1);
    let scores = rig.scores(&candidate.stages[0], batch, blocks);
    let kernels: Vec<_> = candidate
        .stages
        .iter()
        .map(|stage| {
            let blocks = blocks / stage.share;
            let inputs = stage.inputs(batch, blocks, &mut random);
            rig.kernel(stage, &inputs, &scores, batch, blocks)
        })
        .collect();
    let mut turns = Vec::new();
    let mut noise = vec![0; 16 << 20];
    random.fill_bytes(&mut noise);
    for _ in 0..copies {
        for (stage, kernel) in candidate.stages.iter().zip(&kernels) {
            let records = batch * (blocks / stage.share) * KV_HEADS;
            let index = rig.storage_of(&noise, stage.record.bytes() * records);
            turns.push(rig.dispatch(kernel, &index));
        }
    }
    let stages = candidate.stages.len();
    let repeated = |scans: usize| -> Vec<Dispatch> {
        turns.iter().cycle().take(scans * stages).cloned().collect()
    };
    // Twenty milliseconds a round, so that submitting it and waiting for it do not show.
    let warm_up = rig.run(&repeated(copies)) / copies as u32;
    let scans = (0.02 / warm_up.as_secs_f64()).clamp(1.0, 4000.0) as usize;
    let scans = if rig.is_cpu { scans } else { scans.max(copies) };
    let dispatches = repeated(scans);
    let mut times: Vec<_> = (0..ROUNDS).map(|_| rig.run(&dispatches) / scans as u32).collect();
    times.sort();
    times[ROUNDS / 2]
}
