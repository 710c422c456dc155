//! The memory plan: what is summed before a model is loaded is what is allocated then, byte for byte.

use crate::common::device::{decode, gpu, own_gpu, prefill, tiny_options};
use asynctls::attention::{Attention, BlockScorer, Budget};
use asynctls::engine::{Engine, EngineOptions, Fit, HostOptions, IndexOptions, Want};
use asynctls::formats::{KvType, Quantise};
use asynctls::gpu::{Gpu, GpuOptions};
use asynctls::model::{ModelConfig, ModelFile};
use std::path::{Path, PathBuf};

fn tiny() -> Vec<PathBuf> {
    let models = std::fs::read_dir("tests/goldens/tiny").expect("the tiny models");
    let formats = |entry: std::io::Result<std::fs::DirEntry>| {
        let folder = entry.expect("a folder").path();
        ["model", "model.gguf"].map(|format| folder.join(format))
    };
    let mut files: Vec<PathBuf> = models.flat_map(formats).filter(|path| path.exists()).collect();
    files.sort();
    assert!(files.len() > 14, "{files:?}");
    files
}

fn host(kv_type: KvType, ring_bytes: u64) -> Option<HostOptions> {
    Some(HostOptions { kv_type, ring_bytes, ..HostOptions::new(7, 0, 4096) })
}

fn every_summary() -> Option<IndexOptions> {
    let block_scorers = BlockScorer::all().collect();
    Some(IndexOptions { block_scorers, ..IndexOptions::default() })
}

/// Options that make other buffers, or other numbers of them.
fn placements(gpu: &Gpu) -> Vec<(&'static str, EngineOptions)> {
    let plain = tiny_options(gpu, 640, 1, 100);
    let several =
        EngineOptions { sessions: 3, total_tokens: 900, chunk: 80, logit_rows: 5, ..plain.clone() };
    vec![
        ("without an index", EngineOptions { index: None, ..plain.clone() }),
        ("quantised", EngineOptions { quantise: Some(Quantise::Q4_0), ..plain.clone() }),
        ("of more sessions than rows of a chunk", {
            EngineOptions { sessions: 9, total_tokens: 1000, chunk: 3, ..plain.clone() }
        }),
        ("with summaries", EngineOptions { index: every_summary(), ..several.clone() }),
        ("steered", EngineOptions { steered: Some(5), ..several.clone() }),
        ("in CPU memory", EngineOptions { host: host(KvType::F16, 9 << 10), ..several.clone() }),
        ("in CPU memory as bytes", {
            let host = host(KvType::Q8_0, 40_001);
            EngineOptions { host, index: every_summary(), ..several }
        }),
        ("plain", plain),
    ]
}

fn check(gpu: &Gpu, path: &Path, (name, options): (&str, EngineOptions)) {
    let what = format!("{} {name}", path.display());
    let file = ModelFile::open(path).expect("a model");
    let config = ModelConfig::read(&file).expect("a config");
    let planned = Fit::new(&file, &config, &options);
    // Sliding windows want the KV cache on the GPU.
    if options.host.is_some() && config.sliding_window().is_some() {
        assert!(planned.is_err(), "{what}: {planned:?}");
        return;
    }
    let planned = planned.unwrap_or_else(|e| panic!("{what}: {e}"));
    let attention = Attention::from(Budget { dense_below: 0, ..Budget::for_context(640) });
    let selects = options.index.is_some() && options.steered.is_none();
    let engine = pollster::block_on(Engine::load(gpu.share(), &file, options, &mut |_| ()))
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let made = || engine.gpu.allocated_bytes() - engine.gpu.parameter_bytes();
    assert_eq!(planned.total_bytes(), made(), "{what}: {planned:?}");
    // Parameters are all that is not planned.
    assert!(engine.gpu.parameter_bytes() < 64 << 10, "{what}: {}", engine.gpu.parameter_bytes());
    assert_eq!(planned.kv_bytes + planned.index_bytes, engine.kv_gpu_bytes(), "{what}");
    // Sessions and steps allocate nothing.
    let mut session = engine.session().expect("a session");
    let prompt: Vec<u32> = (0..50).map(|i| i * 7 % 90 + 3).collect();
    prefill(&engine, &mut session, &prompt, Want::Token).expect("a prompt");
    if selects {
        decode(&engine, &mut session, 5, &attention);
    }
    assert_eq!(planned.total_bytes(), made(), "{what}, after a step");
}

#[test]
fn what_is_planned_is_allocated_wherever_the_kv_cache_lives() {
    let gpu = gpu();
    for path in tiny() {
        for placement in placements(&gpu) {
            check(&gpu, &path, placement);
        }
    }
}

#[test]
fn what_is_planned_is_allocated_in_many_segments() {
    // Few blocks a segment, and weights in parts.
    let small = own_gpu(GpuOptions { max_binding: Some(40 << 10), ..GpuOptions::default() });
    for path in tiny().iter().filter(|path| path.extension().is_some()) {
        for placement in placements(&small) {
            check(&small, path, placement);
        }
    }
}
