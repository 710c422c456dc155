use super::*;
use crate::attention::BlockScorer;
use crate::engine::{Fit, IndexOptions};
use crate::formats::KvType;
use crate::gpu::{DeviceFacts, Tier};
use crate::model::ModelFile;
use std::collections::BTreeSet;
use std::path::Path;

fn model(name: &str) -> (ModelFile, ModelConfig) {
    let file = ModelFile::open(&Path::new("tests/goldens/tiny").join(name)).unwrap();
    let config = ModelConfig::read(&file).unwrap();
    (file, config)
}

fn options() -> EngineOptions {
    EngineOptions {
        context: 640,
        sessions: 3,
        decode_rows: 1,
        total_tokens: 900,
        block: 16,
        index: Some(IndexOptions {
            block_scorers: BlockScorer::all().collect(),
            ..IndexOptions::default()
        }),
        chunk: 64,
        piece: 1,
        logit_rows: 1,
        target_workgroups: 16,
        device: DeviceFacts { tier: Tier::named("portable").unwrap(), max_binding: 1 << 40 },
        host: None,
        quantise: None,
        rope: None,
        steered: None,
    }
}

fn on_host(kv_type: KvType, options: EngineOptions) -> EngineOptions {
    let host = HostOptions { kv_type, ..HostOptions::new(7, 0, 4096) };
    EngineOptions { host: Some(host), ..options }
}

/// The same with more of one thing.
fn with_more(
    grows: Grows,
    config: &ModelConfig,
    options: &EngineOptions,
) -> (ModelConfig, EngineOptions) {
    let (mut config, mut options) = (config.clone(), options.clone());
    match grows {
        Grows::Chunk => options.chunk += 640,
        Grows::Context => options.context *= 3,
        Grows::Tokens => options.total_tokens *= 7,
        Grows::Sessions => options.sessions += 90,
        // So many that they take another slot of the ring that choices go by.
        Grows::Layers => config.layers += 50,
        Grows::HotBlocks => {
            if let Some(host) = &mut options.host {
                host.hot_blocks += 300;
            }
            options.steered = options.steered.map(|kept| kept + 300);
        }
    }
    (config, options)
}

#[test]
fn rows_grow_with_what_they_say_and_with_nothing_else() {
    let device = |max_binding| DeviceFacts { max_binding, ..options().device };
    let (few, one) = (device(64 << 10), device(512 << 10));
    let halves = Tier::all().iter().find(|tier| kernels::has_matrix_units(tier)).unwrap();
    let bases = [
        options(),
        // A segment, and several.
        EngineOptions { device: one, ..options() },
        EngineOptions { chunk: 2000, device: few, ..options() },
        EngineOptions { steered: Some(4), chunk: 2, ..options() },
        EngineOptions { device: DeviceFacts { tier: halves, ..few }, chunk: 2, ..options() },
        on_host(KvType::F16, EngineOptions { device: few, ..options() }),
        on_host(KvType::Q8_0, EngineOptions { chunk: 2000, ..options() }),
        on_host(KvType::Q8_0, EngineOptions { chunk: 2, ..options() }),
    ];
    let all = [
        Grows::Chunk,
        Grows::Context,
        Grows::Tokens,
        Grows::Sessions,
        Grows::Layers,
        Grows::HotBlocks,
    ];
    let (mut said, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for name in ["qwen2/model", "glm4-moe-lite/model", "qwen3-moe/model"] {
        let (_, config) = model(name);
        for base in &bases {
            let plan = MemoryPlan::new(&config, base);
            for row in plan.rows() {
                said.extend(row.grows_with.iter().map(|&grows| (row.what.clone(), grows as usize)));
            }
            for grows in all {
                let (config, options) = with_more(grows, &config, base);
                let more = MemoryPlan::new(&config, &options);
                assert_eq!(plan.rows().count(), more.rows().count());
                for (row, more) in plan.rows().zip(more.rows()) {
                    assert_eq!(row.what, more.what);
                    if (row.bytes, row.count) != (more.bytes, more.count) {
                        let says = row.grows_with.contains(&grows);
                        assert!(says, "{name}: {} grows with {grows:?}", row.what);
                        seen.insert((row.what.clone(), grows as usize));
                    }
                }
            }
        }
    }
    let not_seen: Vec<_> = said.difference(&seen).collect();
    assert!(not_seen.is_empty(), "rows say that they grow, and do not: {not_seen:?}");
}

#[test]
fn absurd_sizes_end_in_an_error_that_names_the_limit() {
    let (file, config) = model("llama/model");
    let fit = |options: EngineOptions| Fit::new(&file, &config, &options);
    // As many as a dispatch scores, in blocks of 16.
    let most = 65_535 * 8 * 16;
    for (options, message) in [
        (EngineOptions { context: u32::MAX, ..options() }, "the context is 4294967295 tokens, but"),
        (EngineOptions { total_tokens: u64::MAX, ..options() }, "the room for all sessions is"),
        (EngineOptions { sessions: u32::MAX, ..options() }, "the room for all sessions is"),
        (EngineOptions { chunk: u32::MAX, ..options() }, "the chunk is 4294967295, but"),
    ] {
        for options in [on_host(KvType::Q8_0, options.clone()), options] {
            let error = fit(options).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
    // The largest that pass are counted, or are more than can be.
    let large = EngineOptions {
        context: most,
        sessions: 1 << 27,
        total_tokens: most.into(),
        logit_rows: u32::MAX,
        chunk: 65535 * 64,
        ..options()
    };
    let sparse = |host: HostOptions| HostOptions {
        sink_blocks: u32::MAX,
        recent_blocks: u32::MAX,
        ring_bytes: u64::MAX,
        ring_slots: 64,
        hot_blocks: 65536,
        ..host
    };
    let host = on_host(KvType::F16, large.clone()).host.map(sparse);
    for options in [large.clone(), EngineOptions { host, ..large }] {
        // 2^27 sessions x tokens x heads.
        let heads = u64::from(options.shape(&config).q_heads());
        let scores = DecodeScratch {
            shape: &options.shape(&config),
            rows: options.sessions.into(),
            tokens: options.context,
            at_a_time: 1,
            segments: 1,
        }
        .scores();
        assert_eq!(scores.bytes, (1 << 27) * heads * 4 * (u64::from(most) + 16));
        let plan = MemoryPlan::new(&config, &options);
        let all: u128 = plan.rows().map(|row| u128::from(row.total())).sum();
        match fit(options) {
            Ok(fit) => assert_eq!(u128::from(fit.total_bytes() - fit.weight_bytes), all),
            Err(error) => {
                let error = error.to_string();
                assert!(all >= u64::MAX.into(), "{error}");
                assert!(error.contains("would take more bytes than can be counted"), "{error}");
            }
        }
    }
}
