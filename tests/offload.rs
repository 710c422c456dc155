//! Caches whose blocks live in CPU memory: the same answers as with everything on the GPU, whatever is resident.

#[path = "common/device.rs"]
mod device;

use asynctls::attention::{Attention, Blocks, Budget, Timing, TwoLevel};
use asynctls::engine::{Engine, EngineOptions, HostOptions, Session, Want};
use asynctls::gpu::GpuOptions;
use asynctls::model::ModelFile;
use device::{gpu, prefill};
use std::path::Path;

const CONTEXT: u32 = 640;

fn prompt(tokens: u32) -> Vec<u32> {
    (0..tokens).map(|i| (i * 7 + i * i % 11) % 90 + 3).collect()
}

fn load(model: &str, host: Option<HostOptions>) -> Engine {
    let file = ModelFile::open(&Path::new("tests/goldens/tiny").join(model)).expect("a model");
    let gpu = gpu(GpuOptions::default());
    let mut options = EngineOptions::new(&gpu, CONTEXT);
    options.block = 16;
    options.chunk = 64;
    options.sessions = 3;
    options.total_tokens = 3 * u64::from(CONTEXT);
    options.host = host;
    if let Some(index) = &mut options.index {
        index.stats_tokens = 100;
    }
    pollster::block_on(Engine::load(gpu, &file, options, &mut |_| ()))
        .unwrap_or_else(|e| panic!("{model}: {e}"))
}

fn host(hot_blocks: u32, timing: Timing) -> HostOptions {
    HostOptions { timing, ring_bytes: 32 << 10, ..HostOptions::new(hot_blocks, 0, 4096) }
}

fn two_level(blocks: u32, tokens: u32, dense_below: u32) -> Attention {
    let budget = Budget {
        blocks: Blocks::Count(blocks),
        tokens,
        sink_blocks: 1,
        recent_blocks: 4,
        dense_below,
    };
    Attention::TwoLevel(TwoLevel::new(budget))
}

fn decode(engine: &Engine, session: &mut Session, token: u32, attention: &Attention) -> Vec<f32> {
    pollster::block_on(engine.decode(&mut [(session, token)], attention, Want::Logits))
        .unwrap_or_else(|e| panic!("decode: {e}"))
        .remove(0)
        .logits
        .remove(0)
}

/// A prompt's and many steps' logits.
fn run(engine: &Engine, attention: &Attention, prompt_tokens: u32, steps: u32) -> Vec<Vec<f32>> {
    let mut session = engine.session().expect("a session");
    let mut all = {
        let made = prefill(engine, &mut session, &prompt(prompt_tokens), Want::Logits);
        made.unwrap_or_else(|e| panic!("prefill: {e}")).logits
    };
    for step in 0..steps {
        all.push(decode(engine, &mut session, (step * 13 + 5) % 90, attention));
    }
    all
}

/// Orders of summation differ by where a block is: a state more is merged, of a few ulp of f32.
fn assert_near(what: &str, got: &[Vec<f32>], want: &[Vec<f32>]) {
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        let scale = want.iter().fold(0f32, |most, v| most.max(v.abs()));
        for (a, b) in got.iter().zip(want) {
            assert!((a - b).abs() <= 2e-4 * scale, "{what}, step {step}: {a} instead of {b}");
        }
    }
}

const MODELS: [&str; 3] = ["llama/model", "qwen3/model.gguf", "glm4-moe-lite/model"];

#[test]
fn exact_attends_the_same_tokens_whatever_is_resident() {
    for model in MODELS {
        let attention = two_level(6, 40, 0);
        let want = run(&load(model, Some(host(40, Timing::Exact))), &attention, 330, 60);
        for hot in [6, 9] {
            let engine = load(model, Some(host(hot, Timing::Exact)));
            let what = format!("{model}, {hot} slots");
            let got = run(&engine, &attention, 330, 60);
            assert_near(&what, &got, &want);
            let stats = pollster::block_on(engine.offload_stats()).expect("it offloads");
            assert!(stats.misses > 0 && stats.left == 0, "{what}: {stats:?}");
            let again = run(&load(model, Some(host(hot, Timing::Exact))), &attention, 330, 60);
            assert!(got == again, "{what}: the same run again");
        }
    }
}

#[test]
fn what_selects_nothing_is_as_with_the_whole_cache_on_the_gpu() {
    for model in MODELS {
        // Budgets that keep everything, and dense attention.
        for attention in [two_level(40, 640, 0), two_level(6, 40, 600), Attention::Dense] {
            let want = run(&load(model, None), &attention, 330, 60);
            for timing in [Timing::Exact, Timing::Lagged, Timing::Resident] {
                let engine = load(model, Some(host(40, timing)));
                let what = format!("{model}, {attention:?}, {timing:?}");
                assert_near(&what, &run(&engine, &attention, 330, 60), &want);
            }
        }
    }
}
