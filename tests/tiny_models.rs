//! Tiny random models of every architecture, in both formats, against a reference engine's logits
//! (`tools/goldens/tiny_models.py`).

#[path = "common/model.rs"]
mod model;

use asynctls::attention::{Attention, Blocks, Budget};
use asynctls::engine::{Engine, EngineOptions, Output, Session, Want};
use asynctls::gpu::GpuOptions;
use asynctls::model::ModelFile;
use asynctls::reference::model::arg_max;
use model::{gpu, prefill};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

const MODELS: [&str; 7] =
    ["llama", "llama3", "qwen3", "qwen3-yarn", "qwen3-moe", "glm4-moe-lite", "qwen3-kquants"];

fn folder(name: &str) -> PathBuf {
    Path::new("tests/goldens/tiny").join(name)
}

/// The formats that a model is there in.
fn formats(name: &str) -> Vec<PathBuf> {
    let all = ["model", "model.gguf"].map(|format| folder(name).join(format));
    all.into_iter().filter(|path| path.exists()).collect()
}

/// What the reference engine made of a prompt.
struct Golden {
    ids: Vec<u32>,
    logits: Vec<Vec<f32>>,
    /// What follows greedily.
    greedy: Vec<u32>,
}

fn golden(name: &str) -> Golden {
    let bytes = std::fs::read(folder(name).join("golden.safetensors")).expect("the golden");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let words = |name: &str| -> Vec<u32> {
        let tensor = file.tensor(name).expect(name);
        let step = tensor.data().len() / tensor.shape().iter().product::<usize>();
        let first = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        tensor.data().chunks_exact(step).map(first).collect()
    };
    let vocabulary = *file.tensor("logits").expect("logits").shape().last().expect("a row");
    let logits: Vec<f32> = words("logits").into_iter().map(f32::from_bits).collect();
    Golden {
        ids: words("ids"),
        logits: logits.chunks_exact(vocabulary).map(<[f32]>::to_vec).collect(),
        greedy: words("greedy"),
    }
}

fn load(path: &Path, change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let file = ModelFile::open(path).unwrap_or_else(|e| panic!("{e}"));
    let gpu = gpu(GpuOptions::default());
    let mut options = EngineOptions::new(&gpu, 192);
    options.logit_rows = 128;
    options.block = 16;
    change(&mut options);
    pollster::block_on(Engine::load(gpu, &file, options, &mut |_| ()))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn decode(
    engine: &Engine,
    session: &mut Session,
    token: u32,
    attention: &Attention,
    want: Want,
) -> Output {
    pollster::block_on(engine.decode(&mut [(session, token)], attention, want))
        .expect("a step")
        .remove(0)
}

/// The largest difference, in units of the reference's largest logit.
fn difference(got: &[Vec<f32>], want: &[Vec<f32>]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().flatten().map(|v| v.abs()).fold(0.0, f32::max);
    let largest = got
        .iter()
        .flatten()
        .zip(want.iter().flatten())
        .map(|(a, b)| if a.is_finite() { (a - b).abs() } else { f32::INFINITY })
        .fold(0.0, f32::max);
    f64::from(largest / scale)
}

#[test]
fn logits_match_the_reference() {
    for name in MODELS {
        let golden = golden(name);
        for path in formats(name) {
            let engine = load(&path, |_| ());
            let mut session = engine.session().unwrap();
            let made = prefill(&engine, &mut session, &golden.ids, Want::EveryLogits).unwrap();
            let difference = difference(&made.logits, &golden.logits);
            eprintln!("{}: {difference:.2e}", path.display());
        }
    }
}
