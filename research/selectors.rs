//! Candidate index layouts judged on the real model: needles found and attention mass kept, each candidate computed on the
//! host and its choice attended by the engine.
//!
//! `cargo bench --bench selectors -- [--length N] [--samples N] [--budget 25%+256] [--text FILE] [--only NAME,...]
//! [--seed N] [--steps N] [--seconds N] [--model FILE] [--task NAME] [--shared]`. Without `--text` the haystack is noise; with
//! `--shared` all KV heads of a layer have the same blocks, those that the mean over all query heads ranks first. Prints a JSON
//! object a candidate: needles found, recall of the first `--steps` tokens as a share of the oracle's (mean and fifth percentile over
//! steps, layers and query heads), bytes that level 1 reads a token and KV head at head dimension 128.

#[path = "selectors/candidate.rs"]
mod candidate;
#[path = "selectors/codes.rs"]
mod codes;
#[path = "selectors/mean_std.rs"]
mod mean_std;
#[path = "selectors/summaries.rs"]
mod summaries;

use asynctls::attention::ChannelStats;
use asynctls::attention::{Budget, RowBudget, Shape};
use asynctls::attention::{softmax_mean, top_k};
use asynctls::engine::{Engine, EngineOptions, LayerCacheView, LayerView, Want};
use asynctls::eval::parse_budget;
use asynctls::eval::recall::{Exact, append};
use asynctls::eval::stats::{mean, quantile};
use asynctls::eval::tasks::{Haystack, Maker, Sample, Spec, Task, score};
use asynctls::gpu::{Adapter, Disable, Gpu, GpuOptions, adapters};
use asynctls::model::{ModelFile, Tokenizer};
use candidate::{Blocks, Candidate, Index, Keys};
use std::path::Path;
use std::time::Instant;

const CANDIDATES: &[Candidate] = &[
    Candidate { name: "codes 32x4", bytes: 16.0, build: codes::best_token::<32, 4> },
    Candidate { name: "codes 32x4 logsumexp", bytes: 16.0, build: codes::all_tokens::<32, 4> },
    Candidate { name: "codes 32x4 layer channels", bytes: 16.0, build: codes::layer_channels },
    Candidate { name: "codes 32x2", bytes: 8.0, build: codes::best_token::<32, 2> },
    Candidate { name: "codes 32x8", bytes: 32.0, build: codes::best_token::<32, 8> },
    Candidate { name: "codes 16x4", bytes: 8.0, build: codes::best_token::<16, 4> },
    Candidate { name: "codes 16x8", bytes: 16.0, build: codes::best_token::<16, 8> },
    Candidate { name: "codes 16x2", bytes: 4.0, build: codes::best_token::<16, 2> },
    Candidate { name: "codes 8x4", bytes: 4.0, build: codes::best_token::<8, 4> },
    Candidate { name: "codes 64x2", bytes: 16.0, build: codes::best_token::<64, 2> },
    Candidate { name: "codes 64x4", bytes: 32.0, build: codes::best_token::<64, 4> },
    Candidate { name: "block steps 32x4", bytes: 18.0, build: codes::block_steps::<32, 4> },
    Candidate {
        name: "block steps 32x4 logsumexp",
        bytes: 18.0,
        build: codes::block_steps_all_tokens::<32, 4>,
    },
    Candidate { name: "block steps 16x4", bytes: 9.0, build: codes::block_steps::<16, 4> },
    Candidate {
        name: "block steps 16x4 logsumexp",
        bytes: 9.0,
        build: codes::block_steps_all_tokens::<16, 4>,
    },
    Candidate {
        name: "block steps 24x4 logsumexp",
        bytes: 13.5,
        build: codes::block_steps_all_tokens::<24, 4>,
    },
    Candidate { name: "block steps 32x2", bytes: 10.0, build: codes::block_steps::<32, 2> },
    Candidate {
        name: "block steps 32x2 logsumexp",
        bytes: 10.0,
        build: codes::block_steps_all_tokens::<32, 2>,
    },
    Candidate {
        name: "block steps 48x2 logsumexp",
        bytes: 15.0,
        build: codes::block_steps_all_tokens::<48, 2>,
    },
    Candidate {
        name: "block steps 64x2 logsumexp",
        bytes: 20.0,
        build: codes::block_steps_all_tokens::<64, 2>,
    },
    Candidate {
        name: "block steps 64x4 logsumexp",
        bytes: 36.0,
        build: codes::block_steps_all_tokens::<64, 4>,
    },
    Candidate { name: "codes 16x4 logsumexp", bytes: 8.0, build: codes::all_tokens::<16, 4> },
    Candidate { name: "coarse 16x2, then 32x4", bytes: 12.0, build: codes::coarse_first },
    Candidate { name: "hadamard signs", bytes: 18.0, build: summaries::signs },
    Candidate { name: "rank 8", bytes: 24.0, build: summaries::rank8 },
    Candidate { name: "min/max", bytes: 8.0, build: summaries::min_max::<64> },
    Candidate { name: "min/max of 16 tokens", bytes: 32.0, build: summaries::min_max::<16> },
    Candidate { name: "mean + 0 std", bytes: 8.0, build: mean_std::mean_std::<0, false> },
    Candidate { name: "mean + 0.5 std", bytes: 8.0, build: mean_std::mean_std::<2, false> },
    Candidate { name: "mean + 0.75 std", bytes: 8.0, build: mean_std::mean_std::<3, false> },
    Candidate { name: "mean + 1 std", bytes: 8.0, build: mean_std::mean_std::<4, false> },
    Candidate { name: "mean + 1.5 std", bytes: 8.0, build: mean_std::mean_std::<6, false> },
    Candidate { name: "mean + 2 std", bytes: 8.0, build: mean_std::mean_std::<8, false> },
    Candidate { name: "mean + 0.5 std by query", bytes: 8.0, build: mean_std::mean_std::<2, true> },
    Candidate { name: "mean + 1 std by query", bytes: 8.0, build: mean_std::mean_std::<4, true> },
    Candidate { name: "no level 1", bytes: 16.0, build: codes::every_block },
    Candidate { name: "oracle", bytes: 256.0, build: summaries::oracle },
];

fn option(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|a| a != name);
    arguments.next();
    arguments.next()
}

fn number(name: &str, default: u64) -> u64 {
    option(name).map_or(default, |text| text.parse().expect("a number"))
}

// What is asked of every prompt.
struct Asked {
    /// Steps whose recall is measured.
    steps: usize,
    /// Whether the KV heads of a layer have the same blocks.
    is_shared: bool,
}

#[derive(Default)]
struct Tally {
    found: Vec<f64>,
    shares: Vec<f64>,
}

fn main() {
    let length = number("--length", 4096) as u32;
    let (samples, seed) = (number("--samples", 10), number("--seed", 0));
    let is_shared = std::env::args().any(|argument| argument == "--shared");
    let asked = Asked { steps: number("--steps", 4) as usize, is_shared };
    let task =
        option("--task").map_or(Task::NiahSingle, |name| name.parse().expect("a task's name"));
    let seconds = number("--seconds", u64::MAX);
    let budgets = option("--budget").unwrap_or_else(|| "25%+256,12.5%+128".into());
    let only: Option<Vec<String>> =
        option("--only").map(|list| list.split(',').map(|name| name.trim().into()).collect());
    let is_wanted = |c: &&Candidate| only.as_ref().is_none_or(|o| o.iter().any(|n| n == c.name));
    let candidates: Vec<&Candidate> = CANDIDATES.iter().filter(is_wanted).collect();
    assert!(!candidates.is_empty(), "--only names no candidate");

    let model =
        option("--model").unwrap_or_else(|| ".models/SmolLM2-135M-Instruct.Q4_1.gguf".into());
    let file = ModelFile::open(Path::new(&model)).expect("the model: run tools/setup model");
    let tokenizer = file.tokenizer().expect("a tokenizer");
    let template = file.chat_template().expect("a template");
    let haystack = option("--text").map_or(Haystack::Noise, |path| {
        Haystack::Essay(std::fs::read_to_string(path).expect("a text").into())
    });
    let maker = Maker::new(&tokenizer, template, &haystack).expect("a haystack");
    let engine = load(&file, length + 256);
    for budget in budgets.split(',') {
        let (blocks, tokens) = parse_budget(budget).expect("a budget such as 25%+256");
        let budget = Budget { blocks, tokens, sink_blocks: 1, recent_blocks: 4, dense_below: 0 };
        let mut tallies: Vec<Tally> = candidates.iter().map(|_| Tally::default()).collect();
        let began = Instant::now();
        let mut judged = 0;
        for sample in 0..samples {
            if began.elapsed().as_secs() >= seconds {
                break;
            }
            judged += 1;
            let depth = (sample as f64 * 0.618_034) % 1.0;
            let spec = Spec { task, length, depth, seed: seed * 1000 + sample };
            let sample = maker.make(&spec).expect("a prompt");
            judge(&engine, &tokenizer, &sample, &budget, &candidates, &asked, &mut tallies);
        }
        for (candidate, tally) in candidates.iter().zip(&tallies) {
            println!(
                "{}",
                serde_json::json!({
                    "candidate": candidate.name, "bytes": candidate.bytes, "length": length,
                    "haystack": if haystack == Haystack::Noise { "noise" } else { "essay" },
                    "budget": format!("{blocks}+{tokens}"), "samples": judged,
                    "task": task.to_string(), "shared": is_shared,
                    "needles": mean(&tally.found), "share_of_oracle": mean(&tally.shares),
                    "share_of_oracle_p5": quantile(&tally.shares, 0.05),
                })
            );
        }
    }
}

fn load(file: &ModelFile, context: u32) -> Engine {
    let here = pollster::block_on(adapters());
    let request = std::env::var("ASYNCTLS_ADAPTER").ok();
    let adapter = Adapter::choose(&here, request.as_deref()).expect("an adapter");
    let disable = Disable::from_env().expect("ASYNCTLS_DISABLE");
    let options = GpuOptions { disable, ..GpuOptions::default() };
    let gpu = pollster::block_on(Gpu::open(&adapter, options)).expect("a device");
    let mut options = EngineOptions::new(&gpu, context);
    options.sessions = 2;
    options.total_tokens += 1024;
    pollster::block_on(Engine::load(gpu, file, options, &mut |_| ())).expect("a loaded model")
}

// One prompt under every candidate: the answer, and the recall of its first steps.
fn judge(
    engine: &Engine,
    tokenizer: &Tokenizer,
    sample: &Sample,
    budget: &Budget,
    candidates: &[&Candidate],
    asked: &Asked,
    tallies: &mut [Tally],
) {
    let shape = *engine.shape();
    let last = sample.tokens.len() - 1;
    let mut session = engine.session().expect("a session");
    pollster::block_on(engine.prefill(
        &mut session,
        &sample.tokens[..last],
        Want::Nothing,
        &mut |_| true,
    ))
    .expect("a prefill");
    let statistics = pollster::block_on(engine.statistics(&mut session)).expect("statistics");
    let prompt = pollster::block_on(engine.read_cache(&session)).expect("the cache");
    for (candidate, tally) in candidates.iter().zip(tallies) {
        let indices = build(&shape, candidate, &prompt, &statistics);
        let mut cache = prompt.clone();
        let mut fork = pollster::block_on(engine.fork(&mut session)).expect("a fork");
        let mut made: Vec<u32> = Vec::new();
        let mut token = sample.tokens[last];
        while made.len() < sample.answer_tokens as usize {
            let measures = made.len() < asked.steps;
            let mut shares = Vec::new();
            let mut select = |layer: usize, view: &LayerView, row: &RowBudget| {
                let choices = choose(&shape, &indices[layer], view, row, asked.is_shared);
                if measures {
                    shares.extend(recall(&shape, &cache[layer], view, row, &choices));
                }
                append(&mut cache[layer], view, &shape);
                choices
            };
            let step = engine.decode_selected(&mut fork, token, budget, &mut select, Want::Token);
            token = pollster::block_on(step).expect("a step").token().unwrap();
            tally.shares.extend(shares);
            if tokenizer.is_stop(token) {
                break;
            }
            made.push(token);
            // More text can only raise the score.
            if score(&tokenizer.decode(&made), &sample.references) == 1.0 {
                break;
            }
        }
        tally.found.push(score(&tokenizer.decode(&made), &sample.references));
    }
}

// Layer, KV head.
fn build(
    shape: &Shape,
    candidate: &Candidate,
    prompt: &[LayerCacheView],
    statistics: &[Vec<ChannelStats>],
) -> Vec<Vec<Box<dyn Index>>> {
    let layer = |cache: &LayerCacheView, stats: &[ChannelStats]| {
        let layer_stats = joint(stats);
        cache
            .keys
            .iter()
            .zip(stats)
            .map(|(rows, stats)| {
                let keys = Keys {
                    rows,
                    head_dim: shape.head_dim as usize,
                    scale: shape.scale(),
                    block: shape.block as usize,
                    interleaved: shape.rope_interleaved,
                    stats,
                    layer_stats: &layer_stats,
                };
                (candidate.build)(&keys)
            })
            .collect()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = prompt
            .iter()
            .zip(statistics)
            .map(|(cache, stats)| scope.spawn(move || layer(cache, stats)))
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("an index")).collect()
    })
}

// The extremes of all KV heads of a layer together.
fn joint(stats: &[ChannelStats]) -> ChannelStats {
    let mut all = stats[0].clone();
    for stats in &stats[1..] {
        for (to, from) in all.queries.iter_mut().zip(&stats.queries) {
            to.iter_mut().zip(from).for_each(|(t, f)| *t = t.max(*f));
        }
        all.keys.iter_mut().zip(&stats.keys).for_each(|(t, f)| *t = t.max(*f));
    }
    all
}

fn choose(
    shape: &Shape,
    indices: &[Box<dyn Index>],
    view: &LayerView,
    row: &RowBudget,
    is_shared: bool,
) -> Vec<Vec<u32>> {
    let (group, d, block) = (shape.group as usize, shape.head_dim as usize, shape.block);
    let eligible = row.sink as usize..row.recent_first as usize;
    let queries = |head: usize| -> Vec<&[f32]> {
        (0..group).map(|h| &view.queries[(head * group + h) * d..][..d]).collect()
    };
    // Of each eligible block; none where every block is kept.
    let scores = |head: usize| match indices[head].block_logits(&queries(head)) {
        Blocks::All => None,
        Blocks::Summed(scores) => Some(scores[eligible.clone()].to_vec()),
        Blocks::PerQuery(logits) => {
            let lists: Vec<&[f32]> = logits.iter().map(Vec::as_slice).collect();
            Some(softmax_mean(&lists)[eligible.clone()].to_vec())
        }
    };
    let mut ranks: Vec<Option<Vec<f64>>> = (0..indices.len()).map(scores).collect();
    if is_shared && let Some(all) = ranks.iter().cloned().collect::<Option<Vec<_>>>() {
        let sum = |block: usize| all.iter().map(|scores| scores[block]).sum();
        let sums: Vec<f64> = (0..eligible.len()).map(sum).collect();
        ranks.fill(Some(sums));
    }
    let of_head = |head: usize| {
        let index = &indices[head];
        let blocks: Vec<u32> = match &ranks[head] {
            None => (row.sink..row.recent_first).collect(),
            Some(scores) => best(scores, row.blocks, row.sink),
        };
        let tokens: Vec<u32> = blocks.iter().flat_map(|b| b * block..(b + 1) * block).collect();
        let logits: Vec<Vec<f32>> =
            queries(head).iter().map(|query| index.token_logits(query, &tokens)).collect();
        let lists: Vec<&[f32]> = logits.iter().map(Vec::as_slice).collect();
        let scores = if tokens.is_empty() { Vec::new() } else { softmax_mean(&lists) };
        top_k(&scores, row.tokens as usize).into_iter().map(|i| tokens[i]).collect()
    };
    (0..indices.len()).map(of_head).collect()
}

fn best(scores: &[f64], count: u32, first: u32) -> Vec<u32> {
    top_k(scores, count as usize).into_iter().map(|i| i as u32 + first).collect()
}

// Each query head's attended mass as a share of the oracle's.
fn recall(
    shape: &Shape,
    cache: &LayerCacheView,
    view: &LayerView,
    row: &RowBudget,
    choices: &[Vec<u32>],
) -> Vec<f64> {
    let mut shares = Vec::new();
    for (head, chosen) in choices.iter().enumerate() {
        let exact = Exact::new(shape, cache, view, head);
        let oracle = exact.best_tokens(row, shape.block, &exact.best_blocks(row, shape.block));
        for h in 0..shape.group as usize {
            let mass = |tokens: &[u32]| exact.attended(h, row, shape.block, tokens);
            shares.push(mass(chosen) / mass(&oracle));
        }
    }
    shares
}
