//! Tiny random models of every architecture, in both formats, against a reference engine's logits
//! (`tools/goldens/tiny_models.py`).

use crate::common::device::{gpu, prefill, step};
use asynctls::attention::{Attention, BlockScorer, Blocks, Budget, Reads, TokenScorer, TwoLevel};
use asynctls::engine::{
    Engine, EngineOptions, Fit, HostOptions, IndexOptions, LayerView, Session, Want,
};
use asynctls::eval::recall::measure;
use asynctls::formats::Quantise;
use asynctls::formats::dequantise;
use asynctls::model::{ModelConfig, ModelFile};
use asynctls::reference::select::check_top_k;
use asynctls::reference::summary::SummaryTwin;
use half::bf16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};

const MODELS: [&str; 11] = [
    "llama",
    "llama3",
    "qwen2",
    "qwen3",
    "qwen3-yarn",
    "qwen3-moe",
    "glm4-moe-lite",
    "qwen3-kquants",
    "mistral",
    "qwen2-windows",
    "gemma2",
];

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
    /// In exact arithmetic, after every id.
    logits: Vec<Vec<f32>>,
    /// With a cache of f16, as ours is, where the reference caches the same numbers.
    logits_f16_cache: Option<Vec<Vec<f32>>>,
    /// How far such a cache is off at most.
    f16_cache_error: f32,
    /// What follows greedily.
    greedy: Vec<u32>,
}

fn words(file: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    let data = file.tensor(name).expect(name).data();
    data.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn golden(name: &str, latent_epsilon_of_config: bool) -> Golden {
    let bytes = std::fs::read(folder(name).join("golden.safetensors")).expect("the golden");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    read(&file, if latent_epsilon_of_config { "logits_config_eps" } else { "logits" })
}

fn read(file: &SafeTensors<'_>, logits: &str) -> Golden {
    let words = |name: &str| words(file, name);
    let vocabulary = *file.tensor("logits").expect("logits").shape().last().expect("a row");
    let rows = |name: &str| -> Vec<Vec<f32>> {
        let floats: Vec<f32> = words(name).into_iter().map(f32::from_bits).collect();
        floats.chunks_exact(vocabulary).map(<[f32]>::to_vec).collect()
    };
    Golden {
        ids: words("ids"),
        logits: rows(logits),
        logits_f16_cache: file.tensor("logits_f16_cache").ok().map(|_| rows("logits_f16_cache")),
        f16_cache_error: f32::from_bits(words("f16_cache_error")[0]),
        greedy: file.tensor("greedy").map_or_else(|_| Vec::new(), |_| words("greedy")),
    }
}

fn load(path: &Path, change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let file = ModelFile::open(path).unwrap_or_else(|e| panic!("{e}"));
    let gpu = gpu();
    let mut options = EngineOptions::new(&gpu, 192);
    options.logit_rows = 128;
    options.block = 16;
    change(&mut options);
    pollster::block_on(Engine::load(gpu, &file, options, &mut |_| ()))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The largest difference, and the reference's largest logit.
fn difference(got: &[Vec<f32>], want: &[Vec<f32>]) -> (f32, f32) {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().flatten().map(|v| v.abs()).fold(0.0, f32::max);
    let pairs = got.iter().flatten().zip(want.iter().flatten());
    let apart = |(a, b): (&f32, &f32)| if a.is_finite() { (a - b).abs() } else { f32::INFINITY };
    (pairs.map(apart).fold(0.0, f32::max), scale)
}

/// What matrix units add, as a multiple of the cache's error: the cache rounds two vectors of a layer to f16, keys and values.
/// Prefill on matrix units rounds two more, queries and weights, which is once the cache's error; and where weights are not
/// f32, the inputs and weights of four products, eight in all, whose independent errors add up to the root of four times.
fn halves(engine: &Engine) -> f32 {
    if asynctls::kernels::has_matrix_units(engine.gpu.tier()) { 1.0 + 2.0 } else { 0.0 }
}

/// Logits with one and the same f16 cache are as far apart as f32 arithmetic leaves them (the reference's own f32 is off by
/// 5e-6 of the scale), and as f16 roundings that fall the other way do: keys and values that differ by some 3e-6 of
/// themselves (an adapter's inverseSqrt and exp are off by 2 ulp and more) round apart where they lie that near the middle of
/// a step of 2^-10, which is about one in 80. Their share of the whole cache's error is the root of that, 11% on average, and
/// at most twice that in so many logits.
fn same_cache(engine: &Engine, golden: &Golden, scale: f32) -> f32 {
    (0.22 + halves(engine)) * golden.f16_cache_error + 2e-5 * scale
}

/// Logits and what they are compared with.
type Pair<'a> = (&'a [Vec<f32>], &'a [Vec<f32>]);

fn assert_same(engine: &Engine, what: &str, golden: &Golden, (got, want): Pair<'_>) {
    let (apart, scale) = difference(got, want);
    let most = same_cache(engine, golden, scale);
    assert!(apart <= most, "{what}: {apart} apart at a scale of {scale}, but {most} is the most");
}

/// Two ways of ours to the same logits: each is off by itself.
fn assert_ours(engine: &Engine, what: &str, golden: &Golden, (got, want): Pair<'_>) {
    let (apart, scale) = difference(got, want);
    let most = 2.0 * same_cache(engine, golden, scale);
    assert!(apart <= most, "{what}: {apart} apart at a scale of {scale}, but {most} is the most");
}

/// A model in one format, with what it should make.
fn each(check: impl Fn(&str, &Path, &Golden)) {
    for name in MODELS {
        for path in formats(name) {
            // GGUF files go by the config's epsilon in latent norms, transformers by its own.
            let is_gguf = path.extension().is_some();
            let golden = golden(name, is_gguf && is_latent(name));
            check(&path.display().to_string(), &path, &golden);
        }
    }
}

fn is_latent(name: &str) -> bool {
    name.starts_with("glm")
}

/// How far latent attention's logits may be from exact ones, as a multiple of the cache's error. Keys and values of a prompt are rounded once
/// more when they are made of cached latents: twice. Weights are put on other axes and rounded to f16: what makes the latents of queries and of
/// keys and values, and what takes these to keys and to values, four roundings like the cache's, whose independent errors add up to
/// another two. Of both the root of squares.
const LATENT_ROUNDINGS: f32 = 2.83;

#[test]
fn logits_match_the_reference() {
    each(|name, path, golden| {
        let engine = load(path, |_| ());
        let mut session = engine.session().unwrap();
        let made = prefill(&engine, &mut session, &golden.ids, Want::EveryLogits).unwrap();
        assert_eq!(made.logits.len(), 128);
        assert_golden(&engine, name, golden, &made.logits);
    });
}

fn assert_golden(engine: &Engine, name: &str, golden: &Golden, logits: &[Vec<f32>]) {
    // Exact arithmetic is as far away as the f16 cache takes it.
    let (apart, _) = difference(logits, &golden.logits);
    let roundings = if golden.logits_f16_cache.is_some() { 1.2 } else { LATENT_ROUNDINGS };
    let most = (roundings + halves(engine)) * golden.f16_cache_error;
    assert!(apart <= most, "{name}: {apart} apart, but an f16 cache explains {most}");
    if let Some(rounded) = &golden.logits_f16_cache {
        assert_same(engine, name, golden, (logits, rounded));
    }
}

#[test]
fn greedy_continuations_are_the_reference_s() {
    each(|name, path, golden| {
        let engine = load(path, |_| ());
        let mut session = engine.session().unwrap();
        let mut next =
            prefill(&engine, &mut session, &golden.ids, Want::Token).unwrap().token().unwrap();
        let mut made = Vec::new();
        for _ in 0..golden.greedy.len() {
            made.push(next);
            next =
                step(&engine, &mut session, next, &Attention::Dense, Want::Token).token().unwrap();
        }
        assert_eq!(made, golden.greedy, "{name}");
    });
}

// The trained models that selections are judged by (`tools/goldens/trained.py`): a text's bytes.
#[test]
fn logits_of_a_trained_model_with_heads_of_128_match_the_reference() {
    trained("qwen3-long");
}

#[test]
fn logits_of_a_trained_model_with_latents_match_the_reference() {
    trained("glm-long");
}

// Few of some hundred tokens.
const BUDGET: Budget = Budget {
    blocks: Blocks::Count(2),
    tokens: 9,
    sink_blocks: 1,
    recent_blocks: 1,
    dense_below: 0,
};

// What is read back of a layer is longer than the logits of one token.
#[test]
fn a_host_selects_for_models_of_a_small_vocabulary() {
    let engine = load(Path::new("research/models/qwen3-long"), |options| {
        (options.context, options.total_tokens, options.logit_rows) = (256, 512, 1);
        (options.sessions, options.block) = (2, 16);
    });
    let ids: Vec<u32> = (0..200).map(|i| i * 7 % 256).collect();
    let mut session = engine.session().unwrap();
    prefill(&engine, &mut session, &ids, Want::Nothing).unwrap();
    let mut fork = pollster::block_on(engine.fork(&mut session)).unwrap();
    let attention = BUDGET.into();
    let observed = engine.observe(&mut session, 65, &attention, Want::Logits);
    let (output, views) = pollster::block_on(observed).unwrap();
    let select = &mut |layer: usize, _: &LayerView, _: &_| views[layer].tokens.clone();
    let step = engine.decode_selected(&mut fork, 65, &BUDGET, select, Want::Logits);
    assert_eq!(pollster::block_on(step).unwrap().logits, output.logits);
}

fn trained(name: &str) {
    let bytes = std::fs::read(format!("tests/goldens/{name}.safetensors")).expect("the golden");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let golden = read(&file, "logits");
    let positions = words(&file, "positions");
    let model = Path::new("research/models").join(name);
    let engine = load(&model, |options| {
        (options.context, options.total_tokens, options.logit_rows) = (512, 1024, 320);
        (options.sessions, options.block) = (2, 64);
    });
    let tokenizer = ModelFile::open(&model).and_then(|file| file.tokenizer()).expect("a tokenizer");
    let text = std::fs::read_to_string("demo/britannica-1911-shakespeare.txt").expect("the text");
    let ids = tokenizer.begin(tokenizer.encode(&text, false).expect("ids"));
    assert_eq!(ids[..golden.ids.len()], golden.ids);
    let error = f32::from_bits(words(&file, "f32_error")[0]);
    let rounded = golden.logits_f16_cache.as_ref().expect("there too");
    let first = |from: u32| positions.iter().position(|&at| at >= from).expect("a position");
    // The logits from position `from` on. They may be as far from the reference's as that is from itself in f32.
    let check = |what: &str, from: u32, logits: &[Vec<f32>]| {
        let late = first(from);
        let own: Vec<Vec<f32>> =
            positions[late..].iter().map(|&at| logits[(at - from) as usize].clone()).collect();
        let halves = halves(&engine);
        // Latents are rounded on other axes than the reference's.
        let compared = if is_latent(name) {
            vec![(&golden.logits, (LATENT_ROUNDINGS + halves) * golden.f16_cache_error)]
        } else {
            vec![
                (&golden.logits, (1.2 + halves) * golden.f16_cache_error),
                (rounded, error + halves * golden.f16_cache_error),
            ]
        };
        for (want, most) in compared {
            let (apart, scale) = difference(&own, &want[late..]);
            assert!(
                apart <= most,
                "{name}, {what}: {apart} apart at a scale of {scale}, not {most}"
            );
        }
    };
    let mut session = engine.session().unwrap();
    let made = prefill(&engine, &mut session, &golden.ids, Want::EveryLogits).unwrap();
    check("prefill", 0, &made.logits);
    // The decode path, dense and by a budget that keeps everything.
    let budget = Budget {
        blocks: Blocks::Percent(100.0),
        tokens: 512,
        sink_blocks: 1,
        recent_blocks: 1,
        dense_below: 0,
    };
    let from = 256;
    session.rewind(from).unwrap();
    let fork = pollster::block_on(engine.fork(&mut session)).unwrap();
    for (attention, mut session) in [(Attention::Dense, session), (budget.into(), fork)] {
        let rest = golden.ids[from as usize..].iter();
        let logits =
            rest.flat_map(|&id| step(&engine, &mut session, id, &attention, Want::Logits).logits);
        check(&format!("{attention:?}"), from, &logits.collect::<Vec<_>>());
    }
}

// Latent attention decodes absorbed and prefills un-absorbed: this is where the two meet.
#[test]
fn one_chunk_many_chunks_and_single_tokens_agree() {
    each(|name, path, golden| {
        let engine = load(path, |options| options.sessions = 3);
        let all = |chunks: &[usize]| {
            let mut session = engine.session().unwrap();
            let mut logits = Vec::new();
            let mut from = 0;
            for &chunk in chunks {
                let ids = &golden.ids[from..from + chunk];
                let want = Want::EveryLogits;
                logits.extend(prefill(&engine, &mut session, ids, want).unwrap().logits);
                from += chunk;
            }
            for &id in &golden.ids[from..] {
                let made = step(&engine, &mut session, id, &Attention::Dense, Want::Logits);
                logits.extend(made.logits);
            }
            logits
        };
        let whole = all(&[128]);
        // One row, few rows (multiplied one by one), more than a tile, a chunk that ends inside a block.
        let chunks = all(&[1, 3, 67, 20, 37]);
        let tokens = all(&[1]);
        if golden.logits_f16_cache.is_some() {
            assert_ours(&engine, &format!("{name} in chunks"), golden, (&chunks, &whole));
            assert_ours(&engine, &format!("{name} token by token"), golden, (&tokens, &whole));
        } else {
            assert_ours(&engine, &format!("{name} in chunks"), golden, (&chunks, &whole));
            // Keys and values that are made of latents are rounded, those that latents stand for are not.
            let (apart, _) = difference(&tokens, &whole);
            let most = (2.0 + 2.0 * halves(&engine)) * golden.f16_cache_error;
            assert!(apart <= most, "{name} absorbed: {apart} apart");
        }
    });
}

#[test]
fn full_budgets_are_dense() {
    each(|name, path, golden| {
        let engine = load(path, |options| options.sessions = 2);
        let budget = Budget {
            blocks: Blocks::Percent(100.0),
            tokens: 192,
            sink_blocks: 1,
            recent_blocks: 1,
            dense_below: 0,
        };
        let run = |attention: &Attention| {
            let mut session = engine.session().unwrap();
            prefill(&engine, &mut session, &golden.ids, Want::Nothing).unwrap();
            let steps = golden.greedy.iter().map(|&id| {
                step(&engine, &mut session, id, attention, Want::Logits).logits.remove(0)
            });
            steps.collect::<Vec<_>>()
        };
        let dense = run(&Attention::Dense);
        let two_level = run(&Attention::from(budget));
        assert_ours(&engine, name, golden, (&two_level, &dense));
    });
}

// Few tokens and many go through different kernels, and experts are grouped over the whole batch.
#[test]
fn a_batch_is_its_sequences_one_by_one() {
    each(|name, path, golden| {
        let engine = load(path, |options| {
            options.sessions = 12;
            options.total_tokens = 1024;
        });
        let prompt = |length: usize| {
            let mut session = engine.session().unwrap();
            prefill(&engine, &mut session, &golden.ids[..length], Want::Nothing).unwrap();
            session
        };
        let lengths = [1, 16, 17, 40, 100, 33];
        let mut alone = Vec::new();
        for length in lengths {
            let mut session = prompt(length);
            let id = golden.ids[length];
            alone.extend(step(&engine, &mut session, id, &Attention::Dense, Want::Logits).logits);
        }
        let mut sessions: Vec<Session> = lengths.into_iter().map(prompt).collect();
        let mut batch: Vec<(&mut Session, u32)> = sessions
            .iter_mut()
            .zip(lengths)
            .map(|(session, length)| (session, golden.ids[length]))
            .collect();
        let outputs =
            pollster::block_on(engine.decode(&mut batch, &Attention::Dense, Want::Logits)).unwrap();
        let together: Vec<Vec<f32>> =
            outputs.into_iter().flat_map(|output| output.logits).collect();
        assert_ours(&engine, name, golden, (&together, &alone));
    });
}

fn tight() -> Attention {
    let blocks = Blocks::Count(1);
    let budget = Budget { blocks, tokens: 3, sink_blocks: 0, recent_blocks: 1, dense_below: 0 };
    budget.into()
}

/// The logits after each token that follows greedily.
fn decoded(engine: &Engine, golden: &Golden, attention: &Attention) -> Vec<Vec<f32>> {
    let mut session = engine.session().unwrap();
    prefill(engine, &mut session, &golden.ids, Want::Nothing).unwrap();
    let step = |&id| step(engine, &mut session, id, attention, Want::Logits).logits.remove(0);
    golden.greedy.iter().map(step).collect()
}

#[test]
fn layers_with_a_sliding_window_select_nothing() {
    for (name, selects) in [("mistral", false), ("qwen2-windows", true), ("gemma2", true)] {
        let golden = golden(name, false);
        let engine = load(&folder(name).join("model"), |options| options.sessions = 2);
        let [dense, tight] =
            [Attention::Dense, tight()].map(|attention| decoded(&engine, &golden, &attention));
        let (apart, scale) = difference(&tight, &dense);
        let same = 2.0 * same_cache(&engine, &golden, scale);
        assert_eq!(apart > same, selects, "{name}: {apart} apart");
        let mut session = engine.session().unwrap();
        prefill(&engine, &mut session, &golden.ids, Want::Nothing).unwrap();
        // Of all layers, those without a window attend the most.
        let attended = [Attention::Dense, self::tight()]
            .map(|attention| engine.attended_tokens(&session, &attention));
        // The open block's token, a block, and three tokens.
        assert_eq!(attended, if selects { [129, 20] } else { [51, 51] }, "{name}");
        let observed = engine.observe(&mut session, 5, &Attention::Dense, Want::Nothing);
        let refused = pollster::block_on(observed).unwrap_err().to_string();
        assert!(refused.contains("the context is 192 tokens, but layers that select"), "{refused}");
    }
}

#[test]
fn a_sliding_window_that_no_context_exceeds_limits_nothing() {
    let golden = golden("mistral", false);
    let short = |context: u32| {
        load(&folder("mistral").join("model"), |options| {
            (options.context, options.total_tokens) = (context, context.into());
        })
    };
    let logits = |context: u32| {
        let engine = short(context);
        let mut session = engine.session().unwrap();
        let ids = &golden.ids[..50];
        let made = prefill(&engine, &mut session, ids, Want::EveryLogits).unwrap().logits;
        (engine.attended_tokens(&session, &tight()), engine, made)
    };
    let (few, engine, within) = logits(51);
    let (all, _, beyond) = logits(52);
    // The open block's three tokens, a block, and three tokens; and the window.
    assert_eq!([few, all], [22, 51]);
    assert_same(&engine, "mistral", &golden, (&within, &beyond));
}

#[test]
fn sliding_windows_need_the_kv_cache_on_the_gpu() {
    for (name, window) in [("mistral", 51), ("qwen2-windows", 20), ("gemma2", 37)] {
        let file = ModelFile::open(&folder(name).join("model")).unwrap();
        let config = ModelConfig::read(&file).unwrap();
        let within = |context: u32| {
            let host = Some(HostOptions::new(24, 0, 4096));
            let options = EngineOptions { host, block: 16, ..EngineOptions::new(&gpu(), context) };
            Fit::new(&file, &config, &options)
        };
        let refused = within(window + 1).unwrap_err().to_string();
        let limit = format!("sliding windows of {window} tokens need all of it on the GPU");
        assert!(refused.contains(&limit), "{refused}");
        within(window).unwrap();
    }
}

// Latent attention: one KV head whose queries are absorbed, values in the keys.
#[test]
fn selectors_of_latent_attention_choose_what_the_host_does() {
    let golden = golden("glm4-moe-lite", false);
    let engine = load(&folder("glm4-moe-lite").join("model"), |options| {
        options.sessions = 2;
        let block_scorers = BlockScorer::all().collect();
        options.index = Some(IndexOptions { block_scorers, ..IndexOptions::default() });
    });
    let shape = *engine.shape();
    let (group, d) = (shape.group as usize, shape.head_dim as usize);
    let row = BUDGET.row(golden.ids.len() as u32, shape.block);
    for block_scorer in BlockScorer::all() {
        let token_scorer = match block_scorer.reads() {
            Reads::Nothing => continue,
            Reads::Keys => TokenScorer::Oracle,
            Reads::Codes | Reads::Summary(_) => TokenScorer::Codes,
        };
        let attention =
            Attention::TwoLevel(TwoLevel { budget: BUDGET, block_scorer, token_scorer });
        let mut session = engine.session().unwrap();
        prefill(&engine, &mut session, &golden.ids, Want::Nothing).unwrap();
        let cache = pollster::block_on(engine.read_cache(&session)).unwrap();
        let mut fork = pollster::block_on(engine.fork(&mut session)).unwrap();
        let id = golden.greedy[0];
        let observed = engine.observe(&mut session, id, &attention, Want::Logits);
        let (output, views) = pollster::block_on(observed).unwrap();
        for (cache, view) in cache.iter().zip(&views) {
            let of = |blocks: &[u32]| {
                blocks.iter().map(|&b| (b - row.sink) as usize).collect::<Vec<_>>()
            };
            let eligible = row.sink..row.recent_first;
            match block_scorer.reads() {
                Reads::Keys => {
                    let head = measure(&shape, cache, view, &row, &[]);
                    for head in head {
                        assert!(head.recall >= head.oracle * (1.0 - 1e-3), "{head:?}");
                    }
                }
                Reads::Summary(_) => {
                    let twin = SummaryTwin::of(block_scorer).expect("a summary has a twin");
                    let queries: Vec<&[f32]> =
                        (0..group).map(|h| &view.queries[h * d..][..d]).collect();
                    let scores: Vec<f64> = eligible
                        .map(|block| {
                            let tokens = block * shape.block..(block + 1) * shape.block;
                            let keys: Vec<&[f32]> =
                                tokens.map(|t| &cache.keys[0][t as usize * d..][..d]).collect();
                            twin.score(&queries, &twin.rows(&keys))
                        })
                        .collect();
                    // A summary may be rounded to either neighbour.
                    check_top_k(&of(&view.blocks[0]), &scores, 2, 1e-3).unwrap();
                }
                // Codes are compared in the conformance cases; here a step is what it says of itself.
                _ => {
                    let select =
                        &mut |layer: usize, _: &LayerView, _: &_| views[layer].tokens.clone();
                    let step = engine.decode_selected(&mut fork, id, &BUDGET, select, Want::Logits);
                    assert_eq!(pollster::block_on(step).unwrap().logits, output.logits);
                    fork.rewind(golden.ids.len() as u32).unwrap();
                }
            }
        }
    }
}

/// A tensor of a folder.
struct Stored {
    name: String,
    kind: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A model's folder with other tensors.
fn folder_of(name: &str, change: impl FnOnce(Vec<Stored>) -> Vec<Stored>) -> tempfile::TempDir {
    let from = folder(name).join("model");
    let to = tempfile::tempdir().unwrap();
    std::fs::copy(from.join("config.json"), to.path().join("config.json")).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, tensor)| Stored {
        name: name.into(),
        kind: tensor.dtype(),
        shape: tensor.shape().to_vec(),
        bytes: tensor.data().into(),
    });
    let tensors = change(tensors.collect());
    let views = tensors.iter().map(|tensor| {
        let Stored { name, kind, shape, bytes } = tensor;
        (name, TensorView::new(*kind, shape.clone(), bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(to.path().join("model.safetensors"), bytes).unwrap();
    to
}

// Queries twice as long, and four times the number under the root: the same scores, by arithmetic that rounds alike.
#[test]
fn queries_are_scaled_by_what_the_config_says_and_not_by_their_length() {
    let golden = golden("gemma2", false);
    let longer = |tensor: Stored| match tensor.name.ends_with("q_proj.weight") {
        false => tensor,
        true => {
            assert_eq!(tensor.kind, Dtype::BF16);
            let twice =
                |bytes: &[u8; 2]| bf16::from_f32(2.0 * bf16::from_le_bytes(*bytes).to_f32());
            let bytes = tensor.bytes.as_chunks().0.iter().flat_map(|b| twice(b).to_le_bytes());
            Stored { bytes: bytes.collect(), ..tensor }
        }
    };
    let folder = folder_of("gemma2", |tensors| tensors.into_iter().map(longer).collect());
    let made = |scaled_by: u32| {
        let path = folder.path().join("config.json");
        let config = std::fs::read_to_string(&path).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config["query_pre_attn_scalar"] = scaled_by.into();
        std::fs::write(&path, config.to_string()).unwrap();
        load(folder.path(), |options| options.sessions = 3)
    };
    let usual = load(&self::folder("gemma2").join("model"), |options| options.sessions = 3);
    let scaled = made(4 * 32);
    for attention in [Attention::Dense, tight()] {
        let [want, got] = [&usual, &scaled].map(|engine| decoded(engine, &golden, &attention));
        assert_ours(&usual, "queries of twice the length", &golden, (&got, &want));
    }
    let prompt = |engine: &Engine| {
        let mut session = engine.session().unwrap();
        prefill(engine, &mut session, &golden.ids, Want::EveryLogits).unwrap().logits
    };
    assert_golden(&scaled, "gemma2", &golden, &prompt(&scaled));
    // Which tells scales apart.
    let (apart, scale) = difference(&prompt(&made(32)), &golden.logits);
    assert!(
        apart > 4.0 * same_cache(&usual, &golden, scale),
        "{apart} apart at a scale of {scale}"
    );
}

/// The folder of a model whose matrices are what they are after quantising, as floats.
fn quantised_folder(name: &str, quantise: Quantise) -> tempfile::TempDir {
    let quantised = |tensor: Stored| {
        assert_eq!(tensor.kind, Dtype::F32, "{}", tensor.name);
        let [_, columns] = tensor.shape[..] else { return tensor };
        let rows = tensor.bytes.chunks_exact(columns * 4).flat_map(|row| {
            let floats: Vec<f32> =
                row.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let mut blocks = Vec::new();
            quantise.row(&floats, &mut blocks).unwrap();
            let mut row = dequantise(quantise.kind(), &blocks).unwrap();
            row.truncate(columns);
            row
        });
        Stored { bytes: rows.flat_map(f32::to_le_bytes).collect(), ..tensor }
    };
    folder_of(name, |tensors| tensors.into_iter().map(quantised).collect())
}

/// The folder of a model with experts as transformers 5 holds them: all of a layer in one tensor, gates beside up projections.
fn stacked_folder(name: &str, experts: usize) -> tempfile::TempDir {
    folder_of(name, |tensors| {
        let (parts_of_experts, mut kept): (Vec<_>, Vec<_>) =
            tensors.into_iter().partition(|tensor| tensor.name.contains(".mlp.experts."));
        let part = |name: &str| {
            parts_of_experts.iter().find(|tensor| tensor.name == name).expect("a part")
        };
        for layer in 0..3 {
            let prefix = format!("model.layers.{layer}.mlp.experts");
            let name = |e: usize, part: &str| format!("{prefix}.{e}.{part}.weight");
            if !parts_of_experts.iter().any(|tensor| tensor.name == name(0, "up_proj")) {
                continue;
            }
            for (joined, parts) in
                [("gate_up_proj", &["gate_proj", "up_proj"][..]), ("down_proj", &["down_proj"])]
            {
                let [rows, columns] = part(&name(0, parts[0])).shape[..] else {
                    panic!("{prefix}")
                };
                let all = (0..experts).flat_map(|e| parts.iter().map(move |part| (e, *part)));
                kept.push(Stored {
                    name: format!("{prefix}.{joined}"),
                    kind: Dtype::BF16,
                    shape: vec![experts, parts.len() * rows, columns],
                    bytes: all.flat_map(|(e, p)| part(&name(e, p)).bytes.clone()).collect(),
                });
            }
        }
        kept
    })
}

#[test]
fn stacked_experts_are_the_same_model() {
    for (name, experts) in [("qwen3-moe", 10), ("glm4-moe-lite", 8)] {
        let golden = golden(name, false);
        let stacked = stacked_folder(name, experts);
        let engine = load(stacked.path(), |_| ());
        let mut session = engine.session().unwrap();
        let made = prefill(&engine, &mut session, &golden.ids, Want::EveryLogits).unwrap();
        assert_golden(&engine, name, &golden, &made.logits);
    }
}

fn weight_bytes(path: &Path) -> u64 {
    let file = ModelFile::open(path).unwrap();
    let config = ModelConfig::read(&file).unwrap();
    let options = EngineOptions::new(&gpu(), 192);
    Fit::new(&file, &config, &options).unwrap().weight_bytes
}

// Gates and up projections of different types were f32 on the GPU, whatever they were in the file.
#[test]
fn gates_and_up_projections_of_different_types_stay_what_they_are() {
    for name in ["qwen3-moe", "glm4-moe-lite"] {
        let golden = golden(name, false);
        let mut more = 0;
        let mixed = folder_of(name, |tensors| {
            let widened = |tensor: Stored| {
                if !tensor.name.ends_with("up_proj.weight") {
                    return tensor;
                }
                more += tensor.bytes.len() as u64;
                // An f32 is a BF16 and two bytes more, below it.
                let pairs = tensor.bytes.as_chunks::<2>().0;
                let bytes = pairs.iter().flat_map(|&[low, high]| [0, 0, low, high]).collect();
                Stored { kind: Dtype::F32, bytes, ..tensor }
            };
            tensors.into_iter().map(widened).collect()
        });
        let plain = folder(name).join("model");
        // Two matrices are padded apart where one was.
        let apart = weight_bytes(mixed.path()).abs_diff(weight_bytes(&plain) + more);
        assert!(apart < 3 * 512, "{name}: {apart} bytes apart");
        let engine = load(mixed.path(), |_| ());
        let mut session = engine.session().unwrap();
        let mut made = prefill(&engine, &mut session, &golden.ids, Want::EveryLogits).unwrap();
        assert_golden(&engine, name, &golden, &made.logits);
        // A few tokens at a time go through other kernels.
        for &id in &golden.greedy[..4] {
            let last = made.logits.last().expect("a row");
            let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b]));
            assert_eq!(best, Some(id as usize), "{name}");
            made = step(&engine, &mut session, id, &Attention::Dense, Want::Logits);
        }
    }
    // Every gate has another type than its up projection, and scales take some room besides their blocks'.
    let file = folder("qwen3-kquants").join("model.gguf");
    let stored: u64 = ModelFile::open(&file).unwrap().tensors().iter().map(|t| t.bytes).sum();
    assert!(weight_bytes(&file) < stored + stored / 8, "{} of {stored}", weight_bytes(&file));
}

// The blocks themselves are compared with the reference's in quantise.rs.
#[test]
fn weights_quantised_at_load_are_those_quantised_before() {
    let golden = golden("llama", false);
    let logits = |path: &Path, quantise| {
        let engine = load(path, |options| options.quantise = quantise);
        let mut session = engine.session().unwrap();
        let made = prefill(&engine, &mut session, &golden.ids, Want::EveryLogits).unwrap();
        (engine, made.logits)
    };
    for quantise in Quantise::ALL {
        let (engine, here) = logits(&folder("llama").join("model"), Some(quantise));
        let quantised = quantised_folder("llama", quantise);
        let (_, before) = logits(quantised.path(), None);
        assert_ours(&engine, &quantise.to_string(), &golden, (&here, &before));
        let (apart, scale) = difference(&here, &golden.logits);
        assert!(apart > 0.01 * scale, "{quantise} changes nothing");
    }
}
