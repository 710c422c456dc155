//! Prefill and decode speed of the real model: `cargo bench --bench generate -- [--depth N] [--steps N] [--model FILE]
//! [--quantize q8_0|q4_0] [--chunk N] [--prefills N] [--scorer NAME] [--index-channels N] [--index-bits 2|4|8]
//! [--blocks N] [--tokens N] [--hot-blocks N] [--timing exact|lagged|resident] [--missed-mass P%|off] [--kv-type f16|q8_0]`. With `--hot-blocks` the
//! KV cache lives in CPU memory, and decode is two-level alone.
//!
//! The adapter is chosen as by the command line (`ASYNCTLS_ADAPTER`). Prints one JSON object a measurement; times are
//! wall-clock, steps read back the arg-max token, as greedy generation does.

use asynctls::attention::{Attention, BlockScorer, Blocks, Budget, MostMissed, Timing, TwoLevel};
use asynctls::engine::{Engine, EngineOptions, HostOptions, IndexOptions, Session, Want};
use asynctls::formats::KvType;
use asynctls::gpu::{Adapter, Disable, Gpu, GpuOptions, adapters};
use asynctls::model::{ModelConfig, ModelFile};
use std::path::Path;
use std::time::Instant;

fn option(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|a| a != name);
    arguments.next();
    arguments.next()
}

fn number(name: &str, default: u32) -> u32 {
    option(name).map_or(default, |text| text.parse().expect("a number"))
}

fn main() {
    let depth = number("--depth", 4000);
    let steps = number("--steps", 16);
    let model =
        option("--model").unwrap_or_else(|| ".models/SmolLM2-135M-Instruct.Q4_1.gguf".into());
    let here = pollster::block_on(adapters());
    let request = std::env::var("ASYNCTLS_ADAPTER").ok();
    let adapter = Adapter::choose(&here, request.as_deref()).expect("an adapter");
    let options = GpuOptions {
        disable: Disable::from_env().expect("ASYNCTLS_DISABLE"),
        ..GpuOptions::default()
    };
    let gpu = pollster::block_on(Gpu::open(&adapter, options)).expect("a device");
    println!(
        "{}",
        serde_json::json!({
            "adapter": gpu.label(), "driver": format!("{} {}", gpu.info().driver, gpu.info().driver_info),
            "tier": gpu.tier().name, "depth": depth, "steps": steps
        })
    );
    let file = ModelFile::open(Path::new(&model)).expect("the model: run tools/setup model");
    let scorer: BlockScorer =
        option("--scorer").map_or(BlockScorer::Codes, |name| name.parse().expect("a scorer"));
    let mut options = EngineOptions::new(&gpu, depth + 2 * steps + 8);
    options.index = Some(IndexOptions {
        channels: option("--index-channels").map(|text| text.parse().expect("a number")),
        bits: option("--index-bits").map(|text| text.parse().expect("a number")),
        block_scorers: vec![scorer],
        ..IndexOptions::default()
    });
    options.chunk = number("--chunk", options.chunk);
    let (blocks, kept) = (number("--blocks", 16), number("--tokens", 256));
    options.host = option("--hot-blocks").map(|text| {
        let config = ModelConfig::read(&file).expect("a model");
        let kv_type: KvType =
            option("--kv-type").map_or(KvType::F16, |name| name.parse().expect("a type"));
        let timing = match option("--timing").as_deref() {
            None | Some("exact") => Timing::Exact,
            Some("lagged") => Timing::Lagged,
            Some("resident") => Timing::Resident,
            Some(other) => panic!("no timing is called {other}"),
        };
        let hot = text.parse().expect("a number");
        // Random weights miss much in every step: none is done again unless that is asked for.
        let most_missed = option("--missed-mass")
            .map_or(MostMissed::ALL, |text| text.parse().expect("a share of mass, or off"));
        HostOptions { timing, most_missed, ..options.host_options(&config, hot, kv_type) }
    });
    let offloads = options.host.is_some();
    options.quantise = option("--quantize").map(|name| name.parse().expect("a type"));
    let began = Instant::now();
    let engine =
        pollster::block_on(Engine::load(gpu, &file, options, &mut |_| ())).expect("a loaded model");
    report("load", began.elapsed().as_secs_f64(), 1.0, 0);
    report("compile", engine.gpu.compile_time().as_secs_f64(), 1.0, 0);

    // Words that keep the model busy; what they mean does not matter to the time.
    let tokens: Vec<u32> = (0..depth).map(|i| 1000 + i * 7919 % 40000).collect();
    let mut session = engine.session().expect("a session");
    for _ in 0..number("--prefills", 2) {
        session.rewind(0).expect("an empty session");
        let began = Instant::now();
        pollster::block_on(engine.prefill(&mut session, &tokens, Want::Token, &mut |_| true))
            .expect("a prefill");
        report("prefill", began.elapsed().as_secs_f64(), f64::from(depth), depth);
    }
    let budget = |blocks, tokens| {
        let budget = Budget {
            blocks: Blocks::Count(blocks),
            tokens,
            sink_blocks: 1,
            recent_blocks: 4,
            dense_below: 0,
        };
        Attention::TwoLevel(TwoLevel { block_scorer: scorer, ..TwoLevel::new(budget) })
    };
    // Interleaved rounds, so that a drifting machine slows every kind alike.
    for _ in 0..3 {
        for (name, attention) in
            [("decode dense", Attention::Dense), ("decode two-level", budget(blocks, kept))]
        {
            if offloads && attention == Attention::Dense {
                continue;
            }
            decode(&engine, &mut session, name, &attention, depth, steps);
        }
    }
}

fn decode(
    engine: &Engine,
    session: &mut Session,
    name: &str,
    attention: &Attention,
    depth: u32,
    steps: u32,
) {
    session.rewind(depth).expect("the prompt");
    let step = |session: &mut Session, token| {
        pollster::block_on(engine.decode(&mut [(session, token)], attention, Want::Token))
            .expect("a step")
            .remove(0)
            .token()
            .unwrap()
    };
    let mut token = step(session, 17);
    let attended = engine.attended_tokens(session, attention);
    let began = Instant::now();
    for _ in 0..steps {
        token = step(session, token);
    }
    report(name, began.elapsed().as_secs_f64(), f64::from(steps), attended);
    if let Some(stats) = pollster::block_on(engine.offload_stats()) {
        println!("{}", serde_json::json!({ "offload": stats }));
    }
}

fn report(what: &str, seconds: f64, count: f64, attended: u32) {
    println!(
        "{}",
        serde_json::json!({
            "what": what, "seconds": seconds, "per_second": count / seconds, "attended_tokens": attended
        })
    );
}
