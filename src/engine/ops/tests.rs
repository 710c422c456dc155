use super::*;
use crate::attention::BlockScorer;
use crate::engine::{Engine, IndexOptions};
use crate::gpu::{Adapter, GpuOptions, adapters};
use crate::model::ModelFile;
use pollster::block_on;
use std::path::Path;

async fn engine(adapter: &Adapter, model: &str) -> Engine {
    let gpu = Gpu::open(adapter, GpuOptions::default()).await.unwrap();
    let file =
        ModelFile::open(&Path::new("tests/goldens/tiny").join(model).join("model.gguf")).unwrap();
    let block_scorers = BlockScorer::all().collect();
    let index = Some(IndexOptions { block_scorers, ..IndexOptions::default() });
    let options = EngineOptions { block: 16, chunk: 64, index, ..EngineOptions::new(&gpu, 256) };
    Engine::load(gpu, &file, options, &mut |_| ()).await.unwrap()
}

fn tells<T>(made: Result<T>, kernel: &str, variable: &str) {
    let error = made.err().expect("an operation over too short a segment").to_string();
    // A variant has a file of its own.
    let named = error.contains(&format!(" {kernel}"));
    let problem = format!(".wgsl: {variable} is bound to 16 bytes, but needs at least ");
    assert!(named && error.contains(&problem), "{error}");
}

// The shaders alone ask for one element of an array.
#[test]
fn a_segment_that_is_too_short_is_told_with_kernel_and_variable() {
    block_on(async {
        let Ok(adapter) = Adapter::choose(&adapters().await, None) else { return };
        let mut engine = engine(&adapter, "llama").await;
        let short = [engine.gpu.storage("too short", 16).await.unwrap()];
        let list = engine.gpu.storage("a list", 4096).await.unwrap();
        let layout = CacheLayout::new(engine.shape.block_bytes(), engine.options.blocks(), 1 << 30);
        let kv = LayerKv {
            layout,
            segments: &short,
            blocks: Blocks::Paged,
            window: None,
            chosen: (&list).into(),
            candidates: (&list).into(),
        };
        let model = engine.model().clone();
        let weights = &model.layers()[0].attention;
        let mut maker = engine.op_maker();
        let step = &engine.runner.scratch().step;
        tells(maker.appends(weights, step, &kv).await, "kv/rope_append", "kv");
        let spec = kernels::dense_split(engine.gpu.tier, &engine.shape, Place::Paged);
        tells(maker.split(&spec, &kv, 0, None, 0).await, "attend/dense_split", "kv");
        let segments = maker.kv_segments(layout, &short).await.unwrap();
        let (segment, bound) = &segments[0];
        tells(maker.prefill(step, segment, bound, None).await, "attend/prefill", "kv");
        let index = &engine.cache.indices()[0];
        tells(maker.sealing(index, bound, segment).await, "index/token_codes", "kv");
        tells(maker.token_ops(&kv, index, &kv.candidates).await, "select/exact_token_score", "kv");
        tells(maker.index(&kv, index, 64).await, "select/exact_token_score", "kv");

        // The index of a layer over keys and values that are long enough.
        let long = engine
            .gpu
            .storage("long enough", layout.segment(0).blocks as u64 * engine.shape.block_bytes());
        let long = [long.await.unwrap()];
        let kv =
            LayerKv { segments: &long, chosen: (&list).into(), candidates: (&list).into(), ..kv };
        let layer = &mut engine.cache.indices_mut()[0];
        let kept = std::mem::replace(&mut layer.summaries[0].1, short.to_vec());
        let mut maker = engine.op_maker();
        let index = &engine.cache.indices()[0];
        let segments = maker.kv_segments(layout, &long).await.unwrap();
        let (segment, bound) = &segments[0];
        tells(maker.sealing(index, bound, segment).await, "index/block_summary", "summary");
        tells(maker.index(&kv, index, 64).await, "select/summary_score", "summary");
        let layer = &mut engine.cache.indices_mut()[0];
        layer.summaries[0].1 = kept;
        layer.codes = short.to_vec();
        let mut maker = engine.op_maker();
        let index = &engine.cache.indices()[0];
        tells(maker.token_ops(&kv, index, &kv.candidates).await, "select/token_score", "codes");
        tells(maker.sealing(index, bound, segment).await, "index/token_codes", "codes");
    });
}

#[test]
fn so_is_one_of_latents() {
    block_on(async {
        let Ok(adapter) = Adapter::choose(&adapters().await, None) else { return };
        let engine = engine(&adapter, "glm4-moe-lite").await;
        let short = engine.gpu.storage("too short", 16).await.unwrap();
        let short = Binding::from(&short).holding(engine.shape.block_bytes());
        let AttentionWeights::Latent(weights) = &engine.model().layers()[0].attention else {
            panic!("a model with latent attention");
        };
        let mut maker = engine.op_maker();
        let step = &engine.runner.scratch().step;
        let segment = maker.uniform(CacheLayout::new(64, 4, 1 << 30).segment(0)).await.unwrap();
        let append = maker.latent_append(weights, step, &segment, &short).await;
        tells(append, "kv/latent_append", "kv");
        let gathers = maker.latent_gathers(step, &segment, &short).await;
        tells(gathers, "kv/latent_gather", "kv");
    });
}
