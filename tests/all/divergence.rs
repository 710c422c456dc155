//! `eval::divergence`, and the proof of what a method did, on tiny models: against the same numbers made another way.

use crate::common::device::{decode, gpu, prefill, step, tiny_options};
use crate::common::steps::tolerance;
use asynctls::Result;
use asynctls::attention::{
    Attention, BlockScorer, Blocks, Budget, MostMissed, RowBudget, Timing, TokenScorer,
};
use asynctls::engine::{Engine, EngineOptions, HostOptions, HostRule, LayerView, Want};
use asynctls::eval::divergence::{Compared, compare, divergence};
use asynctls::eval::perplexity::losses;
use asynctls::eval::{Engines, Method, plan};
use asynctls::formats::KvType;
use asynctls::gpu::Gpu;
use asynctls::model::{ModelConfig, ModelFile};
use std::collections::BTreeSet;
use std::path::Path;

const MODELS: [&str; 3] = ["llama/model", "qwen3/model.gguf", "glm4-moe-lite/model"];
/// Of 330 tokens 300 are prefilled; the last 30 are told by decode steps.
const PREFILL: usize = 300;

fn tokens() -> Vec<u32> {
    (0..330u32).map(|i| (i * 7 + i * i % 11) % 90 + 3).collect()
}

fn file(model: &str) -> ModelFile {
    ModelFile::open(&Path::new("tests/goldens/tiny").join(model)).expect("a model")
}

fn options(gpu: &Gpu) -> EngineOptions {
    tiny_options(gpu, 352, 2, 100)
}

fn load(model: &str, options: EngineOptions) -> Engine {
    pollster::block_on(Engine::load(gpu(), &file(model), options, &mut |_| ())).expect("an engine")
}

fn engines(model: &str, methods: &[Method], hot_blocks: Option<u32>) -> Engines {
    let gpu = gpu();
    let config = ModelConfig::read(&file(model)).expect("a config");
    let plans = plan(methods, &options(&gpu), &config, hot_blocks).expect("a plan");
    let first = load(model, plans[0].options.clone());
    pollster::block_on(Engines::new(first, &plans)).expect("engines")
}

fn compared(model: &str, methods: &[Method], hot_blocks: Option<u32>) -> Vec<Compared> {
    let mut engines = engines(model, methods, hot_blocks);
    let made = until(&mut engines, methods, (&tokens(), PREFILL), u64::MAX);
    made.expect("compared").expect("to the end")
}

/// Compares as long as fewer tokens are done.
fn until(
    engines: &mut Engines,
    methods: &[Method],
    (tokens, prefill): (&[u32], usize),
    most: u64,
) -> Result<Option<Vec<Compared>>> {
    pollster::block_on(compare(engines, tokens, prefill, methods, &mut |done| done < most))
}

fn codes(blocks: Blocks, tokens: u32) -> Method {
    Method::two_level(BlockScorer::Codes, TokenScorer::Codes, (blocks, tokens))
}

fn over(method: &Method, timing: Timing, kv_type: KvType) -> Method {
    // By the paper's rule every step stands.
    method.over_host(HostRule { timing, most_missed: MostMissed::ALL, kv_type })
}

/// Probabilities by the definition, in f64.
fn probabilities(logits: &[f32]) -> Vec<f64> {
    let powers: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

fn defined(first: &[f32], other: &[f32]) -> f64 {
    let (first, other) = (probabilities(first), probabilities(other));
    first.iter().zip(&other).map(|(p, q)| p * (p / q).ln()).sum()
}

/// Logits of the scored tokens by a session of an engine of its own.
fn alone(mut engine: Engine, method: &Method) -> Vec<Vec<f32>> {
    let tokens = tokens();
    let mut session = engine.session().expect("a session");
    prefill(&engine, &mut session, &tokens[..PREFILL - 1], Want::Nothing).expect("a prompt");
    if let Some(rule) = method.host {
        pollster::block_on(engine.begin_unloaded(&rule)).expect("unloaded");
    }
    let inputs = &tokens[PREFILL - 1..tokens.len() - 1];
    inputs.iter().map(|&token| decode(&engine, &mut session, token, &method.attention)).collect()
}

/// Of logits that are all off by e at most, the divergence is (2 e)^2 / 8 at most (Hoeffding's lemma).
fn rounding(logits: &[Vec<f32>]) -> f64 {
    let scale = logits.iter().flatten().fold(0f32, |most, logit| most.max(logit.abs()));
    f64::from(tolerance() * scale).powi(2) / 2.0
}

#[test]
fn a_model_is_no_way_from_itself_and_all_tokens_are_dense() {
    for model in MODELS {
        let all = codes(Blocks::Percent(100.0), 352);
        let methods = [
            Method::dense(),
            Method::dense(),
            all.clone(),
            over(&all, Timing::Lagged, KvType::F16),
        ];
        let made = compared(model, &methods, None);
        for one in &made[..2] {
            assert_eq!(one.divergences, [0.0; 30], "{model}");
            assert_eq!(one.agrees, [true; 30], "{model}");
            assert_eq!(one.losses, made[0].losses, "{model}");
        }
        let dense = alone(load(model, options(&gpu())), &Method::dense());
        let most = rounding(&dense);
        for (method, one) in methods.iter().zip(&made).skip(2) {
            let largest = one.divergences.iter().fold(0f64, |most, &d| most.max(d));
            assert!(largest <= most, "{model}, {}: {largest}, but {most} is rounding", method.name);
            assert_eq!(one.activity.selecting, 0, "{model}, {}", method.name);
            assert_eq!(one.activity.attended, one.activity.there);
        }
    }
}

#[test]
fn divergences_of_forks_are_those_of_separate_runs() {
    for model in MODELS {
        let some = codes(Blocks::Count(3), 20);
        let methods = [
            Method::dense(),
            some.clone(),
            Method::two_level(BlockScorer::None, TokenScorer::Codes, (Blocks::Count(3), 9)),
            over(&some, Timing::Exact, KvType::F16),
            over(&some, Timing::Lagged, KvType::F16),
            over(&some, Timing::Resident, KvType::F16),
            over(&some, Timing::Lagged, KvType::Q8_0),
            over(&Method::dense(), Timing::Exact, KvType::Q8_0),
        ];
        let hot_blocks = 6;
        let made = compared(model, &methods, Some(hot_blocks));
        let tokens = tokens();
        let dense = alone(load(model, options(&gpu())), &Method::dense());
        for (method, one) in methods.iter().zip(&made) {
            let mut own = options(&gpu());
            let config = ModelConfig::read(&file(model)).expect("a config");
            own.host = method.host.map(|HostRule { timing, most_missed, kv_type }| {
                let hot_blocks = if method.selection().is_some() { hot_blocks } else { 22 };
                let own = own.host_options(&config, hot_blocks, kv_type);
                HostOptions { timing, most_missed, ..own }
            });
            let logits = alone(load(model, own), method);
            let mut swaps = 0;
            for (i, (dense, logits)) in dense.iter().zip(&logits).enumerate() {
                let (want, got) = (defined(dense, logits), one.divergences[i]);
                let loss = -probabilities(logits)[tokens[PREFILL + i] as usize].ln();
                let apart = (want - got).abs().max((loss - one.losses[i]).abs());
                // Over a hot cache sums are in another order in a fork, whose open block is copied; a choice may tip over.
                let most = if method.host.is_none() { 1e-9 } else { f64::from(tolerance()) };
                if apart > most * want.max(1.0) && method.host.is_some() {
                    swaps += 1;
                    continue;
                }
                let what = format!("{model}, {}, step {i}", method.name);
                assert!(apart <= most * want.max(1.0), "{what}: {apart} apart at {want}");
                let best = |logits: &[f32]| {
                    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
                };
                assert_eq!(one.agrees[i], best(dense) == best(logits), "{what}");
            }
            assert!(swaps <= 3, "{model}, {}: {swaps} of 30 steps are another's", method.name);
        }
        // What is left out shows, and what is stored in bytes.
        let mean = |one: &Compared| one.divergences.iter().sum::<f64>() / 30.0;
        let most = rounding(&dense);
        for (method, one) in methods.iter().zip(&made).skip(1) {
            assert!(mean(one) > most, "{model}, {}: {} is rounding", method.name, mean(one));
        }
        // `exact` attends what is attended where all of it is on the GPU.
        let apart = (mean(&made[3]) - mean(&made[1])).abs();
        assert!(apart <= 0.02 * mean(&made[1]), "{model}: {apart}");
    }
}

#[test]
fn rows_of_an_evaluation_do_not_depend_on_each_other() {
    let some = codes(Blocks::Count(3), 20);
    let lagged = over(&some, Timing::Lagged, KvType::F16);
    let resident = over(&some, Timing::Resident, KvType::F16);
    let bytes = [&lagged, &Method::dense(), &lagged].map(|of| {
        let (timing, most_missed) = (Timing::Lagged, MostMissed::ALL);
        of.over_host(HostRule { timing, most_missed, kv_type: KvType::Q8_0 })
    });
    let mut both = vec![Method::dense(), lagged.clone(), resident.clone(), lagged.clone()];
    both.extend(bytes);
    let made = compared("qwen3/model.gguf", &both, Some(6));
    assert_eq!((&made[1], &made[4]), (&made[3], &made[6]));
    let alone = compared("qwen3/model.gguf", &[Method::dense(), resident], Some(6));
    assert_eq!(made[2], alone[1]);
    // The losses are those of `eval perplexity`, which goes the same way.
    let mut engines = engines("qwen3/model.gguf", &both, Some(6));
    let tokens = tokens();
    let mut goes_on = |_| true;
    let scored = losses(&mut engines, &tokens, PREFILL, &both, &mut goes_on);
    let scored = pollster::block_on(scored).expect("scored").expect("to the end");
    for (scored, one) in scored.iter().zip(&made) {
        assert_eq!((&scored.losses, &scored.activity), (&one.losses, &one.activity));
    }
}

/// A selector that attends one block beside the sink and the recent ones, drawn at random, has as many outcomes as there are
/// blocks to draw from: its expected divergence is the mean of theirs, which the reference of `defined` makes from runs of
/// their own. The mean of its draws comes as near as their number lets it.
#[test]
fn a_random_selector_has_its_expected_divergence() {
    let engine = load("qwen3/model.gguf", options(&gpu()));
    let tokens = tokens();
    let budget = Budget {
        blocks: Blocks::Count(1),
        tokens: 16,
        sink_blocks: 1,
        recent_blocks: 4,
        dense_below: 0,
    };
    let row = budget.row(PREFILL as u32 - 1, 16);
    let eligible: Vec<u32> = (row.sink..row.recent_first).collect();
    assert!(eligible.len() > 8, "{row:?}");
    let input = tokens[PREFILL - 1];
    let mut session = engine.session().expect("a session");
    prefill(&engine, &mut session, &tokens[..PREFILL - 1], Want::Nothing).expect("a prompt");
    let dense = {
        let mut fork = pollster::block_on(engine.fork(&mut session)).expect("a fork");
        decode(&engine, &mut fork, input, &Attention::Dense)
    };
    let mut attend = |block: u32| {
        let mut fork = pollster::block_on(engine.fork(&mut session)).expect("a fork");
        let select = &mut |_: usize, view: &LayerView, _: &RowBudget| {
            let heads = view.key.len() / engine.shape().head_dim as usize;
            vec![(block * 16..(block + 1) * 16).collect(); heads]
        };
        let made = engine.decode_selected(&mut fork, input, &budget, select, Want::Logits);
        pollster::block_on(made).expect("a step").logits.remove(0)
    };
    let outcomes: Vec<f64> =
        eligible.iter().map(|&block| defined(&dense, &attend(block))).collect();
    let count = outcomes.len() as f64;
    let expected = outcomes.iter().sum::<f64>() / count;
    let variance = outcomes.iter().map(|d| (d - expected).powi(2)).sum::<f64>() / count;
    assert!(expected > 1e-4 && variance > 0.0, "{outcomes:?}");
    let draws = 60;
    // A generator of Lehmer's, from a seed.
    let mut state = 4711u64;
    let found: Vec<f64> = (0..draws)
        .map(|_| {
            state = state * 48_271 % 0x7fff_ffff;
            let block = eligible[(state as usize) % eligible.len()];
            divergence(&dense, &attend(block))
        })
        .collect();
    let mean = found.iter().sum::<f64>() / f64::from(draws);
    let error = (variance / f64::from(draws)).sqrt();
    assert!((mean - expected).abs() < 4.0 * error, "{mean} instead of {expected}, {error} apart");
    // It did draw.
    let distinct: BTreeSet<u64> = found.iter().map(|d| d.to_bits()).collect();
    assert!(distinct.len() > eligible.len() / 2, "{found:?}");
}

#[test]
fn the_proof_is_what_steps_did() {
    let model = "qwen3/model.gguf";
    let some = codes(Blocks::Count(3), 20);
    let timings = [Timing::Exact, Timing::Lagged, Timing::Resident];
    let methods: Vec<Method> = [Method::dense(), some.clone()]
        .into_iter()
        .chain(timings.map(|timing| over(&some, timing, KvType::F16)))
        .collect();
    let made = compared(model, &methods, Some(4));
    let tokens = tokens();
    let inputs = &tokens[PREFILL - 1..tokens.len() - 1];
    // Tokens attended, as the kernels list them.
    let engine = load(model, options(&gpu()));
    let shape = *engine.shape();
    let mut session = engine.session().expect("a session");
    prefill(&engine, &mut session, &tokens[..PREFILL - 1], Want::Nothing).expect("a prompt");
    let mut attended = 0;
    for &token in inputs {
        let position = session.len();
        let observed = engine.observe(&mut session, token, &some.attention, Want::Nothing);
        let (_, views) = pollster::block_on(observed).expect("a step");
        let always = 16 + position + 1 - (position / 16 - 4) * 16;
        let lists: BTreeSet<usize> =
            views.iter().flat_map(|view| view.tokens.iter().map(Vec::len)).collect();
        assert_eq!(lists.len(), 1, "{lists:?}");
        attended += u64::from(always) + *lists.first().expect("a list") as u64;
    }
    for (method, one) in methods.iter().zip(&made) {
        let activity = one.activity;
        let there: u64 = (PREFILL as u64..330).sum();
        assert_eq!((activity.steps, activity.there), (30, there), "{}", method.name);
        if method.selection().is_some() {
            assert_eq!((activity.selecting, activity.attended), (30, attended), "{}", method.name);
        } else {
            assert_eq!((activity.selecting, activity.attended), (0, there));
        }
    }
    // Head-blocks that a step chose and the one before had not, from the steps' own lists.
    let mut own = options(&gpu());
    let config = ModelConfig::read(&file(model)).expect("a config");
    let (timing, most_missed) = (Timing::Lagged, MostMissed::ALL);
    own.host =
        Some(HostOptions { timing, most_missed, ..own.host_options(&config, 4, KvType::F16) });
    let engine = load(model, own);
    let mut session = engine.session().expect("a session");
    prefill(&engine, &mut session, &tokens[..PREFILL - 1], Want::Nothing).expect("a prompt");
    let (mut chosen, mut missed) = (0, 0);
    let mut before: Vec<BTreeSet<u32>> = Vec::new();
    for &token in inputs {
        step(&engine, &mut session, token, &some.attention, Want::Nothing);
        let lists = pollster::block_on(engine.fetched_blocks()).expect("lists").concat();
        let lists: Vec<BTreeSet<u32>> =
            lists.into_iter().map(|list| list.into_iter().collect()).collect();
        for (now, before) in lists.iter().zip(&before) {
            chosen += now.len() as u64;
            missed += now.difference(before).count() as u64;
        }
        before = lists;
    }
    assert_eq!(chosen, 29 * 3 * u64::from(3 * shape.kv_heads));
    let counts: Vec<(u64, u64)> =
        made.iter().map(|one| (one.activity.chosen, one.activity.missed)).collect();
    assert_eq!(counts[..4], [(0, 0), (0, 0), (chosen, 0), (chosen, missed)]);
    assert!(missed > 0);
    let (chosen_there, missed_there) = counts[4];
    assert!(chosen_there == chosen && missed_there > 0 && missed_there < chosen, "{counts:?}");
}

#[test]
fn plans_are_one_engine_for_each_way_of_keeping_keys() {
    let gpu = gpu();
    let config = ModelConfig::read(&file("qwen3/model.gguf")).expect("a config");
    let some = codes(Blocks::Count(4), 20);
    let methods = [
        Method::dense(),
        over(&Method::dense(), Timing::Exact, KvType::Q8_0),
        some.clone(),
        over(&some, Timing::Exact, KvType::F16),
        over(&some, Timing::Lagged, KvType::F16),
        over(&some, Timing::Lagged, KvType::Q8_0),
    ];
    let plans = plan(&methods, &options(&gpu), &config, None).expect("a plan");
    let own: Vec<&[usize]> = plans.iter().map(|plan| &plan.methods[..]).collect();
    assert_eq!(own, [&[0, 2][..], &[1], &[3, 4], &[5]]);
    let hot =
        |number: usize| plans[number].options.host.map(|host| (host.hot_blocks, host.kv_type));
    assert_eq!(hot(0), None);
    // All 22 blocks; half as many again as are kept.
    assert_eq!(hot(1), Some((22, KvType::Q8_0)));
    assert_eq!((hot(2), hot(3)), (Some((6, KvType::F16)), Some((6, KvType::Q8_0))));
    let message = plan(&methods, &options(&gpu), &config, Some(3)).unwrap_err().to_string();
    assert!(message.contains("is 3 blocks, but level 1 keeps 4 blocks"), "{message}");
}

#[test]
fn an_interrupted_comparison_gives_nothing_and_short_texts_are_refused() {
    let methods = [Method::dense(), codes(Blocks::Count(3), 20)];
    let mut engines = engines("llama/model", &methods, None);
    let tokens = tokens();
    for most in [0, 310, 340] {
        let made = until(&mut engines, &methods, (&tokens, PREFILL), most);
        assert!(made.expect("no error").is_none(), "{most}");
    }
    for (count, prefill, part) in [(300, 300, "more must be left"), (300, 1, "at least 2")] {
        let made = until(&mut engines, &methods, (&tokens[..count], prefill), u64::MAX);
        let message = made.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    // The engines go on.
    let made = until(&mut engines, &methods, (&tokens, PREFILL), u64::MAX);
    assert!(made.expect("no error").is_some());
}
