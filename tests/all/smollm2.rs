//! The engine with the real model against a reference engine's figures (`tools/goldens`).

use crate::common::device::step;
use crate::common::model::{engine, gpu, own_gpu, prefill, tier};
use asynctls::attention::{Attention, Blocks, Budget};
use asynctls::engine::{Engine, Session, Want};
use asynctls::gpu::GpuOptions;
use serde_json::Value;
use std::sync::OnceLock;

fn goldens() -> &'static Value {
    static GOLDENS: OnceLock<Value> = OnceLock::new();
    GOLDENS.get_or_init(|| {
        let text = std::fs::read_to_string("tests/goldens/smollm2.json").expect("the goldens");
        serde_json::from_str(&text).expect("JSON")
    })
}

/// One engine for all tests: they take sessions of it.
fn shared() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        engine(gpu(), 2048, |o| {
            // As many as all tests hold at once, for a machine with a thread for each.
            o.sessions = 20;
            o.total_tokens = 12 * 1024;
            o.logit_rows = 64;
        })
    })
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|v| v.as_u64().expect("an id") as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
}

fn arg_max(logits: &[f32]) -> u32 {
    asynctls::reference::model::arg_max(logits).expect("numbers") as u32
}

fn logsumexp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    f64::from(largest) + logits.iter().map(|&l| f64::from(l - largest).exp()).sum::<f64>().ln()
}

/// The largest difference.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn two_level(blocks: Blocks, tokens: u32) -> Budget {
    Budget { blocks, tokens, sink_blocks: 1, recent_blocks: 4, dense_below: 0 }
}

/// What rounding the cached keys and values to f16 does to a logit in the reference engine itself, at most; twice that
/// for an engine that rounds them too, but whose f32 sums run in another order, so that some values round the other way.
fn f16_tolerance(tokens: usize) -> f32 {
    let entry = goldens()["f16_cache"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|e| e["tokens"].as_u64() == Some(tokens as u64))
        .expect("an entry for this length");
    2.0 * entry["max_abs"].as_f64().expect("a number") as f32
}

#[test]
fn logits_equal_the_reference() {
    let golden = &goldens()["logits"];
    let engine = shared();
    let mut session = engine.session().unwrap();
    let output = prefill(engine, &mut session, &ids(&golden["ids"]), Want::EveryLogits).unwrap();
    let vocabulary = ids(&golden["vocabulary"]);
    let mut worst = 0.0f32;
    for (position, want) in
        ids(&golden["positions"]).into_iter().zip(golden["logits"].as_array().unwrap())
    {
        let got: Vec<f32> =
            vocabulary.iter().map(|&v| output.logits[position as usize][v as usize]).collect();
        worst = worst.max(distance(&got, &floats(want)));
    }
    println!("largest difference {worst}");
    assert!(worst <= f16_tolerance(64), "{worst}");
}

#[test]
fn top_1_agrees_over_a_thousand_positions() {
    let golden = &goldens()["positions"];
    let engine = shared();
    let mut session = engine.session().unwrap();
    let tokens = ids(&golden["ids"]);
    let output = prefill(engine, &mut session, &tokens, Want::EveryLogits).unwrap();
    let (top1, sums) = (ids(&golden["top1"]), floats(&golden["logsumexp"]));
    let agree = output.logits.iter().zip(&top1).filter(|(l, t)| arg_max(l) == **t).count();
    let worst = output
        .logits
        .iter()
        .zip(&sums)
        .map(|(l, s)| (logsumexp(l) - f64::from(*s)).abs())
        .fold(0.0, f64::max);
    println!("{agree} of {} agree, log-sum-exp within {worst}", tokens.len());
    assert!(agree * 100 >= tokens.len() * 99, "{agree} of {}", tokens.len());
    assert!(worst <= f64::from(f16_tolerance(1024)), "{worst}");
}

#[test]
fn greedy_continuations_are_the_references() {
    let engine = shared();
    for golden in goldens()["greedy"].as_array().unwrap() {
        let mut session = engine.session().unwrap();
        let mut next = prefill(engine, &mut session, &ids(&golden["prompt"]), Want::Token)
            .unwrap()
            .token()
            .unwrap();
        let want = ids(&golden["continuation"]);
        let mut made = vec![next];
        while made.len() < want.len() {
            next =
                step(engine, &mut session, next, &Attention::Dense, Want::Token).token().unwrap();
            made.push(next);
        }
        assert_eq!(made, want, "{}", golden["name"]);
    }
}

#[test]
fn two_level_with_every_budget_covering_is_dense() {
    let engine = shared();
    let tokens = &ids(&goldens()["positions"]["ids"])[..900];
    let mut dense = engine.session().unwrap();
    prefill(engine, &mut dense, &tokens[..tokens.len() - 70], Want::Nothing).unwrap();
    let mut sparse = pollster::block_on(engine.fork(&mut dense)).unwrap();
    let all = Attention::from(two_level(Blocks::Percent(100.0), 4096));
    let mut worst = 0.0f32;
    for &token in &tokens[tokens.len() - 70..] {
        let a = step(engine, &mut dense, token, &Attention::Dense, Want::Logits).logits.remove(0);
        let b = step(engine, &mut sparse, token, &all, Want::Logits).logits.remove(0);
        assert_eq!(engine.attended_tokens(&sparse, &all), sparse.len() + 1);
        worst = worst.max(distance(&a, &b));
    }
    // The same tokens in another order: of the keys and values that 70 steps add, some round the other way.
    println!("largest difference {worst}");
    assert!(worst <= f16_tolerance(64), "{worst}");
}

#[test]
fn two_level_attends_its_budget_and_differs_from_dense() {
    let engine = shared();
    let tokens = &ids(&goldens()["positions"]["ids"])[..1000];
    let mut session = engine.session().unwrap();
    prefill(engine, &mut session, &tokens[..999], Want::Nothing).unwrap();
    let mut fork = pollster::block_on(engine.fork(&mut session)).unwrap();
    let small = Attention::from(two_level(Blocks::Count(2), 16));
    assert_eq!(engine.attended_tokens(&session, &small), 64 + 16 + 4 * 64 + 999 % 64 + 1);
    let sparse = step(engine, &mut session, tokens[999], &small, Want::Logits).logits.remove(0);
    // Below dense_below it is dense, bit for bit.
    let guarded = Attention::from(Budget { dense_below: 1000, ..two_level(Blocks::Count(2), 16) });
    let below = step(engine, &mut fork, tokens[999], &guarded, Want::Logits).logits.remove(0);
    fork.rewind(999).unwrap();
    let dense =
        step(engine, &mut fork, tokens[999], &Attention::Dense, Want::Logits).logits.remove(0);
    assert_eq!(below, dense);
    assert!(distance(&sparse, &dense) > 0.01);
}

#[test]
fn forks_rewinds_and_fresh_prefills_agree_bit_for_bit() {
    let engine = shared();
    // What follows the prompt seals a block, at 576.
    let tokens = &ids(&goldens()["positions"]["ids"])[..584];
    let budget = Attention::from(two_level(Blocks::Count(3), 32));
    let finish = |session: &mut Session, tokens: &[u32]| {
        tokens
            .iter()
            .map(|&t| step(engine, session, t, &budget, Want::Logits).logits.remove(0))
            .last()
            .unwrap()
    };
    let mut fresh = engine.session().unwrap();
    prefill(engine, &mut fresh, &tokens[..560], Want::Nothing).unwrap();
    let mut fork = pollster::block_on(engine.fork(&mut fresh)).unwrap();
    let first = finish(&mut fresh, &tokens[560..]);
    // Another continuation of the fork, forgotten again, leaves no trace in either.
    let _ = finish(&mut fork, &tokens[100..124]);
    fork.rewind(560).unwrap();
    assert_eq!(finish(&mut fork, &tokens[560..]), first);
    fresh.rewind(566).unwrap();
    assert_eq!(finish(&mut fresh, &tokens[566..]), first);
    assert!(fresh.rewind(585).is_err());
}

#[test]
fn chunks_and_single_tokens_agree_with_one_prefill() {
    let engine = shared();
    let tokens = &ids(&goldens()["positions"]["ids"])[..300];
    let mut whole = engine.session().unwrap();
    let want = prefill(engine, &mut whole, tokens, Want::Logits).unwrap().logits.remove(0);
    let mut parts = engine.session().unwrap();
    for range in [0..1, 1..65, 65..200, 200..299] {
        prefill(engine, &mut parts, &tokens[range], Want::Nothing).unwrap();
    }
    let got =
        step(engine, &mut parts, tokens[299], &Attention::Dense, Want::Logits).logits.remove(0);
    let worst = distance(&want, &got);
    println!("largest difference {worst}");
    assert!(worst <= f16_tolerance(64), "{worst}");
}

#[test]
fn a_ragged_batch_makes_what_its_sessions_make_alone() {
    let engine = shared();
    let tokens = ids(&goldens()["positions"]["ids"]);
    let budget = Attention::from(Budget { dense_below: 500, ..two_level(Blocks::Count(2), 40) });
    let lengths = [700, 1, 320, 640];
    let mut sessions: Vec<Session> = lengths
        .iter()
        .map(|&n| {
            let mut session = engine.session().unwrap();
            prefill(engine, &mut session, &tokens[..n], Want::Nothing).unwrap();
            session
        })
        .collect();
    let mut batch: Vec<(&mut Session, u32)> =
        sessions.iter_mut().zip(lengths).map(|(s, n)| (s, tokens[n])).collect();
    let together = pollster::block_on(engine.decode(&mut batch, &budget, Want::Logits)).unwrap();
    for ((session, n), together) in sessions.iter_mut().zip(lengths).zip(together) {
        session.rewind(n as u32).unwrap();
        let alone = step(engine, session, tokens[n], &budget, Want::Logits);
        // Splits are planned for the batch, so partial states are merged in another order.
        let worst = distance(&alone.logits[0], &together.logits[0]);
        assert!(worst <= f16_tolerance(64) / 4.0, "{n}: {worst}");
    }
}

#[test]
fn segments_do_not_change_the_result() {
    // Bindings of 2 MiB: the cache of 1,024 tokens and the larger matrices are split.
    let options = GpuOptions { max_binding: Some(512 << 10), ..GpuOptions::default() };
    let segmented = engine(own_gpu(options), 1024, |_| ());
    let whole = shared();
    let tokens = &ids(&goldens()["positions"]["ids"])[..800];
    let budget = Attention::from(two_level(Blocks::Count(3), 100));
    let run = |engine: &Engine| {
        let mut session = engine.session().unwrap();
        let first =
            prefill(engine, &mut session, &tokens[..780], Want::Logits).unwrap().logits.remove(0);
        let dense = step(engine, &mut session, tokens[780], &Attention::Dense, Want::Logits)
            .logits
            .remove(0);
        let sparse =
            step(engine, &mut session, tokens[781], &budget, Want::Logits).logits.remove(0);
        [first, dense, sparse]
    };
    // Matrix units take probabilities as f16, relative to the largest of a segment: other segments round all of a prompt's
    // values otherwise, as another order of sums does those of a cache.
    let most = f16_tolerance(if asynctls::kernels::has_matrix_units(tier()) { 1024 } else { 64 });
    for (a, b) in run(whole).iter().zip(&run(&segmented)) {
        let worst = distance(a, b);
        println!("largest difference {worst}");
        assert!(worst <= most, "{worst}");
    }
}

#[test]
fn bad_requests_are_errors_that_name_the_value_and_the_limit() {
    let engine = shared();
    let mut session = engine.session().unwrap();
    let message =
        |result: asynctls::Result<asynctls::engine::Output>| result.unwrap_err().to_string();
    assert!(
        message(prefill(engine, &mut session, &[], Want::Token)).contains("the prompt is empty")
    );
    assert!(message(prefill(engine, &mut session, &[49152], Want::Token)).contains("49152"));
    let long = vec![1; 2049];
    assert!(message(prefill(engine, &mut session, &long, Want::Token)).contains("2049 tokens"));
    assert!(session.is_empty());
    let other = self::engine(gpu(), 64, |_| ());
    assert!(message(prefill(&other, &mut session, &[1], Want::Token)).contains("another engine"));
}

#[test]
fn too_little_memory_is_one_clear_error() {
    let gpu = own_gpu(GpuOptions::default());
    let error = pollster::block_on(gpu.storage("a test's buffer", 1 << 45)).unwrap_err();
    assert!(matches!(error, asynctls::Error::OutOfMemory { .. }), "{error}");
    assert!(error.to_string().contains("a test's buffer needs 35184.37 GB"), "{error}");
    gpu.check().expect("the device is still well");
}

#[test]
fn a_lost_device_is_one_clear_error() {
    let engine = engine(own_gpu(GpuOptions::default()), 64, |_| ());
    let mut session = engine.session().unwrap();
    prefill(&engine, &mut session, &[1, 2, 3], Want::Token).unwrap();
    engine.gpu.destroy();
    let error = prefill(&engine, &mut session, &[4], Want::Token).unwrap_err();
    assert!(matches!(error, asynctls::Error::DeviceLost(_)), "{error}");
    assert_eq!(session.tokens(), [1, 2, 3]);
}
