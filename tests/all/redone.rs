//! Steps of the `lagged` rule that miss too much, and are done again by `exact`: whatever they sealed, fetched and counted before.

use crate::common::device::{decode, gpu, prefill, tiny_options};
use crate::common::steps::{assert_near, assert_same_steps, token, tolerance};
use asynctls::attention::{
    Attention, BlockScorer, Blocks, Budget, MostMissed, Timing, TokenScorer, TwoLevel,
};
use asynctls::engine::{
    Engine, EngineOptions, HostOptions, HostRule, OffloadStats, Session, SessionFormat, Want,
};
use asynctls::formats::KvType;
use asynctls::model::ModelFile;
use std::path::Path;

fn file(model: &str) -> ModelFile {
    ModelFile::open(&Path::new("tests/goldens/tiny").join(model)).expect("a model")
}

fn load(model: &str, change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let gpu = gpu();
    let mut options = tiny_options(&gpu, 640, 3, 100);
    change(&mut options);
    pollster::block_on(Engine::load(gpu, &file(model), options, &mut |_| ())).expect("an engine")
}

fn host(rule: (Timing, MostMissed)) -> HostOptions {
    let (timing, most_missed) = rule;
    // A ring so small that what a step fetches needs several slots.
    HostOptions { timing, most_missed, ring_bytes: 10 << 10, ..HostOptions::new(18, 0, 4096) }
}

const EXACT: (Timing, MostMissed) = (Timing::Exact, MostMissed::ALL);
const PAPERS: (Timing, MostMissed) = (Timing::Lagged, MostMissed::ALL);
const GUARDED: (Timing, MostMissed) = (Timing::Lagged, MostMissed::NONE);

fn share(text: &str) -> MostMissed {
    text.parse().expect("a share")
}

fn two_level(scorer: BlockScorer, recent_blocks: u32) -> Attention {
    let (blocks, sink_blocks) = (Blocks::Count(5), 1);
    let budget = Budget { blocks, tokens: 40, sink_blocks, recent_blocks, dense_below: 0 };
    let token_scorer = TokenScorer::Codes;
    Attention::TwoLevel(TwoLevel { budget, block_scorer: scorer, token_scorer })
}

fn prompt(tokens: u32) -> Vec<u32> {
    (0..tokens).map(|i| (i * 7 + i * i % 11) % 90 + 3).collect()
}

fn begun(engine: &Engine) -> Session {
    let mut session = engine.session().expect("a session");
    prefill(engine, &mut session, &prompt(330), Want::Nothing).expect("a prompt");
    session
}

fn stats(engine: &Engine) -> OffloadStats {
    pollster::block_on(engine.offload_stats()).expect("it offloads")
}

/// Keys and values of a session, as its file has them: of sealed blocks what the host holds.
fn saved(model: &str, engine: &Engine, session: &mut Session) -> Vec<Vec<f32>> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("talk.kv");
    let format = |engine: &Engine| {
        SessionFormat::new(&file(model), &engine.config, &engine.options).open(&path)
    };
    let mut kept = format(engine).expect("a file");
    pollster::block_on(engine.save(session, &mut kept, b"", &mut |_| ())).expect("saved");
    drop(kept);
    let scorers = engine.options.index.as_ref().expect("an index").block_scorers.clone();
    let whole = load(model, |options| {
        options.index.as_mut().expect("an index").block_scorers = scorers;
    });
    let kept = format(&whole).expect("a file");
    let back = pollster::block_on(whole.restore(&kept, &mut |_| ())).expect("restored").0;
    let layers = pollster::block_on(whole.read_cache(&back)).expect("a cache");
    layers.into_iter().flat_map(|layer| layer.keys.into_iter().chain(layer.values)).collect()
}

#[test]
fn steps_that_may_miss_nothing_are_those_of_exact() {
    let (codes, bounds) = (BlockScorer::Codes, BlockScorer::MinMax);
    // Scores of query heads, of a whole group and of latents, and blocks that are chosen right after they were sealed.
    let (grouped, latent) = ("qwen3/model.gguf", "glm4-moe-lite/model");
    for (model, scorer, recent) in
        [(grouped, codes, 4), (grouped, bounds, 4), (latent, codes, 4), ("llama/model", codes, 0)]
    {
        let what = format!("{model}, {scorer}, {recent} recent");
        let attention = two_level(scorer, recent);
        let engine = |rule| {
            load(model, |options| {
                options.host = Some(HostOptions { recent_blocks: recent, ..host(rule) });
                options.index.as_mut().expect("an index").block_scorers = vec![scorer];
            })
        };
        let engines = [EXACT, GUARDED].map(engine);
        let mut sessions = engines.each_ref().map(begun);
        let [exact, guarded] = &mut sessions;
        // So many that blocks which were sealed in steps that were done again leave the recent window.
        let steps = 110;
        assert_same_steps(&what, &attention, steps, [(&engines[0], exact), (&engines[1], guarded)]);
        let counts = stats(&engines[1]);
        assert!(counts.redone > 20 && counts.most_missed > 0.0, "{what}: {counts:?}");
        assert_eq!((counts.unattended, counts.left), (0, 0), "{what}");
        assert_eq!(
            (counts.steps, counts.chosen),
            (stats(&engines[0]).steps, stats(&engines[0]).chosen)
        );
        let [want, got] = [0, 1].map(|i| saved(model, &engines[i], &mut sessions[i]));
        // f16 of what is near.
        for (got, want) in got.iter().zip(&want) {
            let most = want.iter().fold(0f32, |most, v| most.max(v.abs())) * (tolerance() + 1e-3);
            let apart = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(got.len() == want.len() && apart <= most, "{what}: {apart} apart");
        }
        // The paper's rule attends other blocks.
        let papers = engine(PAPERS);
        let mut session = begun(&papers);
        for step in 0..20 {
            decode(&papers, &mut session, token(step), &attention);
        }
        let counts = stats(&papers);
        assert!(counts.unattended > 0 && counts.redone == 0, "{what}: {counts:?}");
    }
}

#[test]
fn steps_that_may_miss_nearly_all_are_those_of_the_papers_rule() {
    let attention = two_level(BlockScorer::Codes, 4);
    for model in ["qwen3/model.gguf", "glm4-moe-lite/model"] {
        let made = [MostMissed::ALL, share("99.99%")].map(|most| {
            let engine = load(model, |options| {
                options.host = Some(host((Timing::Lagged, most)));
            });
            let mut session = begun(&engine);
            let steps: Vec<_> =
                (0..60).map(|i| decode(&engine, &mut session, token(i), &attention)).collect();
            let counts = stats(&engine);
            assert_eq!(counts.redone, 0);
            assert!(counts.unattended > 0 && counts.most_missed < 0.9999, "{counts:?}");
            // What has no limit is not weighed.
            assert_eq!(counts.most_missed > 0.0, most.is_limit(), "{counts:?}");
            steps
        });
        assert!(made[0] == made[1], "{model}");
    }
}

#[test]
fn what_a_step_missed_decides_whether_it_stands() {
    let attention = two_level(BlockScorer::Codes, 4);
    for (model, most) in [("llama/model", "60%"), ("qwen3/model.gguf", "60%")] {
        let rule = |(timing, most_missed)| HostRule { timing, most_missed, kv_type: KvType::F16 };
        let guard = rule((Timing::Lagged, share(most)));
        let mut engine = load(model, |options| options.host = Some(host(GUARDED)));
        let mut session = begun(&engine);
        let (mut stood, mut was_redone) = (0, 0);
        for step in 0..40 {
            // The first step waits for its choice under every rule.
            pollster::block_on(engine.begin_unloaded(&guard)).expect("begun");
            decode(&engine, &mut session, token(2 * step), &attention);
            let before = stats(&engine);
            let got = decode(&engine, &mut session, token(2 * step + 1), &attention);
            let after = stats(&engine);
            if after.redone == before.redone {
                stood += u64::from(after.unattended > before.unattended);
                continue;
            }
            was_redone += after.redone - before.redone;
            assert_eq!(after.unattended, before.unattended);
            session.rewind(session.len() - 1).expect("taken back");
            pollster::block_on(engine.begin_unloaded(&rule(EXACT))).expect("begun");
            let want = decode(&engine, &mut session, token(2 * step + 1), &attention);
            assert_near(&format!("{model}, step {step}"), &[got], &[want]);
        }
        assert!(stood > 3 && was_redone > 3, "{model}: {stood} stood, {was_redone} did not");
    }
}

#[test]
fn batches_of_forks_are_done_again_together() {
    let attention = two_level(BlockScorer::Codes, 4);
    let [want, got] = [EXACT, GUARDED].map(|rule| {
        let engine = load("qwen3/model.gguf", |options| {
            options.host = Some(HostOptions { ring_slots: 1, ..host(rule) });
        });
        let mut first = begun(&engine);
        let mut second = pollster::block_on(engine.fork(&mut first)).expect("a fork");
        let mut third = pollster::block_on(engine.fork(&mut first)).expect("a fork");
        // Inside a block that is sealed, so that it opens again.
        third.rewind(200).expect("rewound");
        let mut all = Vec::new();
        for step in 0..40 {
            let batch = &mut [(&mut first, step % 90), (&mut second, step % 7), (&mut third, 3)];
            let made = pollster::block_on(engine.decode(batch, &attention, Want::Logits));
            all.extend(made.expect("a step").into_iter().flat_map(|output| output.logits));
        }
        assert_eq!(stats(&engine).redone > 20, rule == GUARDED);
        all
    });
    assert_near("three sessions", &got, &want);
}
