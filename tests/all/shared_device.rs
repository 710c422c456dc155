//! Engines that share a device, which their caller opened.

use crate::common::device::{adapter, decode, own_gpu, prefill};
use crate::common::own_process::is_alone;
use crate::common::steps::token;
use asynctls::Error;
use asynctls::attention::{Attention, Blocks, Budget};
use asynctls::engine::{Engine, EngineOptions, Fit, HostOptions, Model, ModelOptions, Want};
use asynctls::gpu::{Adapter, Disable, Gpu, GpuOptions, Tier};
use asynctls::model::ModelFile;
use asynctls::wgpu;
use std::path::Path;
use std::sync::Arc;

fn request(adapter: &wgpu::Adapter, descriptor: &wgpu::DeviceDescriptor<'_>) -> Gpu {
    let (device, queue) = pollster::block_on(adapter.request_device(descriptor)).expect("a device");
    let adapter = Adapter::from(adapter.clone());
    Gpu::from_device(&adapter, device, queue, GpuOptions::default()).expect("it has what is needed")
}

/// The test adapter as a caller finds it.
fn callers_adapter() -> wgpu::Adapter {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let here = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let want = adapter().info;
    let is_it =
        |info: wgpu::AdapterInfo| (info.name, info.backend) == (want.name.clone(), want.backend);
    here.into_iter().find(|adapter| is_it(adapter.get_info())).expect("the test adapter")
}

fn load(gpu: Gpu, model: &str) -> Engine {
    load_with(gpu, model, None)
}

fn load_with(gpu: Gpu, model: &str, host: Option<HostOptions>) -> Engine {
    let file = ModelFile::open(&Path::new("tests/goldens/tiny").join(model)).expect("a model");
    let options = EngineOptions { block: 16, host, ..EngineOptions::new(&gpu, 192) };
    pollster::block_on(Engine::load(gpu, &file, options, &mut |_| ())).expect("an engine")
}

fn load_model(gpu: &Gpu, file: &ModelFile) -> Arc<Model> {
    let options = ModelOptions::default();
    Arc::new(pollster::block_on(Model::load(gpu, file, options, &mut |_| ())).expect("weights"))
}

fn run(engine: &Engine) -> Vec<f32> {
    let mut session = engine.session().expect("a session");
    let prompt: Vec<u32> = (3..100).map(|i| i % 90 + 3).collect();
    prefill(engine, &mut session, &prompt, Want::Nothing).expect("a prompt");
    decode(engine, &mut session, 7, &Attention::Dense)
}

#[test]
fn engines_on_a_callers_device_make_what_those_on_their_own_do() {
    let adapter = callers_adapter();
    let ours = Adapter::from(adapter.clone());
    let options = GpuOptions { disable: Disable::from_env().expect("words"), ..Default::default() };
    let gpu = request(&adapter, &Gpu::descriptor(&ours, options).expect("it can run"));
    assert_eq!(gpu.tier(), Tier::of(&ours, options.disable));
    let models = ["llama/model", "qwen3/model.gguf"];
    let engines = models.map(|model| load(gpu.share(), model));
    let compiled = gpu.compile_time();
    for (engine, model) in engines.iter().zip(models) {
        let alone = load(own_gpu(GpuOptions::default()), model);
        assert!(run(engine) == run(&alone), "{model}: not the same bits");
        assert_eq!(engine.gpu.allocated_bytes(), alone.gpu.allocated_bytes(), "{model}");
    }
    assert_eq!(gpu.allocated_bytes(), 0, "each handle counts its own");
    // Another engine of the same shapes compiles nothing, and one that goes leaves the others well.
    let [first, second] = engines;
    let want = run(&second);
    drop((first, load(gpu.share(), models[0])));
    assert_eq!(gpu.compile_time(), compiled);
    assert!(run(&second) == want);
}

/// Contexts, residencies and scratch are each engine's own; weights are there once.
#[test]
fn engines_of_any_context_and_residency_share_a_models_weights() {
    let file = ModelFile::open(Path::new("tests/goldens/tiny/llama/model")).expect("a model");
    let gpu = own_gpu(GpuOptions::default());
    let of_weights = gpu.share();
    let model = load_model(&of_weights, &file);
    let host = HostOptions { ring_bytes: 10 << 10, ..HostOptions::new(9, 0, 4096) };
    let engines = [(192, None), (384, Some(host))].map(|(context, host)| {
        let options = EngineOptions { block: 16, host, ..EngineOptions::new(&gpu, context) };
        let made = Engine::new(gpu.share(), model.clone(), options.clone());
        (pollster::block_on(made).expect("an engine"), options)
    });
    for (engine, options) in &engines {
        let alone = own_gpu(GpuOptions::default());
        let alone = pollster::block_on(Engine::load(alone, &file, options.clone(), &mut |_| ()))
            .expect("an engine");
        assert!(run(engine) == run(&alone), "not the same bits");
        let bytes = of_weights.allocated_bytes() + engine.gpu.allocated_bytes();
        assert_eq!(bytes, alone.gpu.allocated_bytes());
    }
    // Weights go with the last engine, not with the handle that loaded them.
    let want = run(&engines[0].0);
    drop((model, of_weights));
    assert!(run(&engines[0].0) == want && run(&engines[1].0).len() == want.len());
}

/// Engines over one scratch: a cache in CPU memory, one on the GPU and one without an index, of other contexts and sessions.
#[test]
fn caches_of_a_model_take_turns_on_one_runner() {
    for model in ["qwen3/model.gguf", "glm4-moe-lite/model"] {
        let file = ModelFile::open(&Path::new("tests/goldens/tiny").join(model)).expect("a model");
        let gpu = own_gpu(GpuOptions::default());
        let weights = load_model(&gpu, &file);
        let host = HostOptions { ring_bytes: 10 << 10, ..HostOptions::new(9, 0, 4096) };
        let plain = EngineOptions { block: 16, ..EngineOptions::new(&gpu, 192) };
        let all = [
            EngineOptions {
                context: 384,
                total_tokens: 768,
                sessions: 2,
                host: Some(host),
                ..plain.clone()
            },
            EngineOptions { index: None, ..plain.clone() },
            plain,
        ];
        let alone = all.clone().map(|options| {
            let made = Engine::new(gpu.share(), weights.clone(), options);
            pollster::block_on(made).expect("an engine")
        });
        let [wide, others @ ..] = all;
        let made = Engine::new(gpu.share(), weights.clone(), wide.clone());
        let first = pollster::block_on(made).expect("an engine");
        let mut engines = vec![first];
        for options in others {
            let made = engines[0].beside(gpu.share(), options);
            engines.push(pollster::block_on(made).expect("an engine"));
        }
        let budget = Budget { dense_below: 0, ..Budget::for_context(192) };
        let run_in_turns = |engines: &[Engine]| -> Vec<Vec<f32>> {
            let mut sessions: Vec<_> =
                engines.iter().map(|engine| engine.session().expect("a session")).collect();
            let prompt: Vec<u32> = (3..123).map(|i| i % 90 + 3).collect();
            for (engine, session) in engines.iter().zip(&mut sessions) {
                prefill(engine, session, &prompt, Want::Nothing).expect("a prompt");
            }
            let steps = (0..12).flat_map(|step| {
                let pairs = engines.iter().zip(&mut sessions);
                let of_engine = |(engine, session): (&Engine, &mut _)| {
                    let attention = match engine.options.index {
                        Some(_) => Attention::from(budget),
                        None => Attention::Dense,
                    };
                    decode(engine, session, token(step), &attention)
                };
                pairs.map(of_engine).collect::<Vec<_>>()
            });
            steps.collect()
        };
        let want = run_in_turns(&alone);
        assert!(run_in_turns(&engines) == want, "{model}: not the same bits");
        // Whoever comes first has the turn.
        std::thread::scope(|scope| {
            let of_each = |at: usize| {
                let engines = &engines[at..=at];
                let every = want.iter().skip(at).step_by(3);
                let is_same = move || run_in_turns(engines).iter().eq(every);
                scope.spawn(is_same)
            };
            let runs: Vec<_> = (0..3).map(of_each).collect();
            for run in runs {
                assert!(run.join().expect("no panic"), "{model}: not the same bits");
            }
        });
        // A cache is all that another engine takes.
        for (engine, alone) in engines.iter().zip(&alone).skip(1) {
            let planned = Fit::new(&file, &engine.config, &engine.options).expect("a plan");
            let [made, whole] = [engine, alone]
                .map(|engine| &engine.gpu)
                .map(|gpu| gpu.allocated_bytes() - gpu.parameter_bytes());
            assert!(made < planned.kv_bytes + planned.index_bytes + (64 << 10), "{model}: {made}");
            assert_eq!(whole, planned.total_bytes() - planned.weight_bytes, "{model}");
        }
        let large = EngineOptions { chunk: 2 * wide.chunk, ..wide };
        let made = engines[0].beside(gpu.share(), large);
        let error = pollster::block_on(made).err().expect("too large a chunk").to_string();
        assert!(error.contains("scratch"), "{error}");
        // The runner goes with the last of them.
        let last = engines.pop().expect("three");
        drop((engines, weights));
        let got = run_in_turns(std::slice::from_ref(&last));
        assert!(got.iter().eq(want.iter().skip(2).step_by(3)), "{model}: not the same bits");
    }
}

#[test]
fn a_model_runs_on_no_device_but_its_own() {
    let file = ModelFile::open(Path::new("tests/goldens/tiny/llama/model")).expect("a model");
    let gpu = own_gpu(GpuOptions::default());
    let options = EngineOptions::new(&gpu, 64);
    let model = load_model(&gpu, &file);
    let made = Engine::new(own_gpu(GpuOptions::default()), model, options);
    let error = pollster::block_on(made).err().expect("another device").to_string();
    assert!(error.starts_with("the device is ") && error.contains("loaded to"), "{error}");
}

/// Threads that share a device see each other's work complete: what one waits for, another may be told of first.
#[test]
fn engines_in_threads_of_their_own_keep_to_themselves() {
    let gpu = own_gpu(GpuOptions::default());
    let budget = Budget {
        blocks: Blocks::Count(2),
        tokens: 20,
        sink_blocks: 1,
        recent_blocks: 1,
        dense_below: 0,
    };
    let attention = Attention::from(budget);
    let run = || {
        let host = HostOptions { ring_bytes: 10 << 10, ..HostOptions::new(3, 0, 4096) };
        let engine = load_with(gpu.share(), "qwen3/model.gguf", Some(host));
        let mut session = engine.session().expect("a session");
        let prompt: Vec<u32> = (3..123).map(|i| i % 90 + 3).collect();
        prefill(&engine, &mut session, &prompt, Want::Nothing).expect("a prompt");
        let step = |step| decode(&engine, &mut session, token(step), &attention);
        (0..60).map(step).collect::<Vec<_>>()
    };
    let want = run();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..6).map(|_| scope.spawn(run)).collect();
        for other in runs {
            assert!(other.join().expect("no panic") == want, "not the same bits");
        }
    });
}

#[test]
fn which_kernels_run_follows_from_what_the_device_has() {
    let adapter = callers_adapter();
    let plain = wgpu::Limits { max_storage_buffers_per_shader_stage: 8, ..wgpu::Limits::default() };
    let descriptor = wgpu::DeviceDescriptor { required_limits: plain, ..Default::default() };
    let gpu = request(&adapter, &descriptor);
    assert_eq!(gpu.tier().name, "portable");
    let engine = load(gpu, "llama/model");
    let want = run(&load(own_gpu(GpuOptions::default()), "llama/model"));
    let scale = want.iter().fold(0f32, |most, v| most.max(v.abs()));
    for (got, want) in run(&engine).iter().zip(&want) {
        assert!((got - want).abs() <= 2e-3 * scale, "{got} instead of {want}");
    }
}

#[test]
fn a_device_with_too_low_a_limit_is_refused_by_its_name() {
    // It is destroyed as a caller's, at any time.
    if !is_alone("shared_device::a_device_with_too_low_a_limit_is_refused_by_its_name") {
        return;
    }
    let adapter = callers_adapter();
    let low = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..wgpu::Limits::default() };
    let descriptor = wgpu::DeviceDescriptor { required_limits: low, ..Default::default() };
    let opened = pollster::block_on(adapter.request_device(&descriptor));
    let (device, queue) = opened.expect("a device");
    let ours = Adapter::from(adapter);
    let refused = Gpu::from_device(&ours, device, queue, GpuOptions::default());
    let error = refused.err().expect("four buffers are too few");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("max_storage_buffers_per_shader_stage"), "{error}");
}
