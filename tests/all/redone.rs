//! Steps of the `lagged` and `resident` rules that miss too much, and are done again by `exact`: whatever they sealed, fetched and
//! counted before.

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

fn host(rule: Rule) -> HostOptions {
    let (timing, most_missed) = rule;
    // Of what was chosen before, most is gone: `resident` attends what is left.
    let hot_blocks = if timing == Timing::Resident { 7 } else { 18 };
    // A ring so small that what a step fetches needs several slots.
    let ring_bytes = 10 << 10;
    HostOptions { timing, most_missed, ring_bytes, ..HostOptions::new(hot_blocks, 0, 4096) }
}

/// When chosen blocks have to be there, and what a step may miss.
type Rule = (Timing, MostMissed);

const EXACT: Rule = (Timing::Exact, MostMissed::ALL);
/// The rules that do not wait.
const RULES: [Timing; 2] = [Timing::Lagged, Timing::Resident];

fn free(timing: Timing) -> Rule {
    (timing, MostMissed::ALL)
}

fn guarded(timing: Timing) -> Rule {
    (timing, MostMissed::NONE)
}

fn share(text: &str) -> MostMissed {
    text.parse().expect("a share")
}

fn two_level(scorer: BlockScorer, recent_blocks: u32) -> Attention {
    keeping(5, scorer, recent_blocks)
}

fn keeping(blocks: u32, scorer: BlockScorer, recent_blocks: u32) -> Attention {
    keeping_tokens((blocks, 40), scorer, recent_blocks)
}

fn keeping_tokens(
    (blocks, tokens): (u32, u32),
    scorer: BlockScorer,
    recent_blocks: u32,
) -> Attention {
    let (blocks, sink_blocks) = (Blocks::Count(blocks), 1);
    let budget = Budget { blocks, tokens, sink_blocks, recent_blocks, dense_below: 0 };
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
    // Scores of query heads, of a whole group and of latents; blocks that are chosen right after they were sealed; what comes as bytes.
    let (grouped, latent) = ("qwen3/model.gguf", "glm4-moe-lite/model");
    let ([lagged, resident], halves) = (RULES, KvType::F16);
    for (timing, model, scorer, recent, kv_type) in [
        (lagged, grouped, codes, 4, halves),
        (lagged, grouped, bounds, 4, halves),
        (lagged, latent, codes, 4, halves),
        (lagged, "llama/model", codes, 0, halves),
        (resident, grouped, bounds, 4, KvType::Q8_0),
        (resident, latent, codes, 4, halves),
        (resident, "llama/model", codes, 0, halves),
    ] {
        let what = format!("{timing:?}, {model}, {scorer}, {recent} recent, {kv_type}");
        let attention = two_level(scorer, recent);
        let engine = |rule| {
            load(model, |options| {
                let recent_blocks = recent;
                options.host = Some(HostOptions { recent_blocks, kv_type, ..host(rule) });
                options.index.as_mut().expect("an index").block_scorers = vec![scorer];
            })
        };
        let engines = [EXACT, guarded(timing)].map(engine);
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
        // f16 of what is near, or a byte of it: the next one, where it lies between two.
        let byte = if kv_type == KvType::Q8_0 { 1.0 / 127.0 } else { 0.0 };
        for (got, want) in got.iter().zip(&want) {
            let largest = want.iter().fold(0f32, |most, v| most.max(v.abs()));
            let most = largest * (tolerance() + 1e-3 + byte);
            let apart = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(got.len() == want.len() && apart <= most, "{what}: {apart} apart");
        }
        // Without a limit the rule attends other blocks.
        let free = engine(free(timing));
        let mut session = begun(&free);
        for step in 0..20 {
            decode(&free, &mut session, token(step), &attention);
        }
        let counts = stats(&free);
        assert!(counts.unattended > 0 && counts.redone == 0, "{what}: {counts:?}");
    }
}

#[test]
fn steps_that_may_miss_nearly_all_are_those_of_the_rule_without_a_limit() {
    let attention = two_level(BlockScorer::Codes, 4);
    let models = ["qwen3/model.gguf", "glm4-moe-lite/model"];
    for (timing, model) in RULES.into_iter().flat_map(|timing| models.map(|model| (timing, model)))
    {
        let made = [MostMissed::ALL, share("99.99%")].map(|most| {
            let engine = load(model, |options| options.host = Some(host((timing, most))));
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
        assert!(made[0] == made[1], "{timing:?}, {model}");
    }
}

#[test]
fn what_a_step_missed_decides_whether_it_stands() {
    let attention = two_level(BlockScorer::Codes, 4);
    let models = ["llama/model", "qwen3/model.gguf"];
    for (timing, model) in RULES.into_iter().flat_map(|timing| models.map(|model| (timing, model)))
    {
        let rule = |(timing, most_missed)| HostRule { timing, most_missed, kv_type: KvType::F16 };
        let guard = rule((timing, share("60%")));
        let mut engine = load(model, |options| options.host = Some(host(guarded(timing))));
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
            assert_near(&format!("{timing:?}, {model}, step {step}"), &[got], &[want]);
        }
        let what = format!("{timing:?}, {model}: {stood} stood, {was_redone} did not");
        assert!(stood > 3 && was_redone > 3, "{what}");
    }
}

#[test]
fn batches_of_forks_are_done_again_together() {
    let attention = keeping(3, BlockScorer::Codes, 4);
    let rules = [EXACT, guarded(Timing::Lagged), guarded(Timing::Resident)];
    let [want, lagged, resident] = rules.map(|rule| {
        let engine = load("qwen3/model.gguf", |options| {
            options.host = Some(HostOptions { ring_slots: 1, hot_blocks: 9, ..host(rule) });
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
        let redone = stats(&engine).redone;
        assert_eq!(redone > 20, rule != EXACT, "{rule:?}: {redone}");
        all
    });
    assert_near("three sessions, lagged", &lagged, &want);
    assert_near("three sessions, resident", &resident, &want);
}

#[test]
fn what_one_session_misses_is_done_again_for_the_others_too() {
    let attention = two_level(BlockScorer::Codes, 4);
    for timing in RULES {
        let [want, got] = [EXACT, guarded(timing)].map(|rule| {
            let engine = load("qwen3/model.gguf", |options| {
                options.host = Some(HostOptions { hot_blocks: 10, ..host(rule) });
            });
            let mut long = begun(&engine);
            // As many blocks as it keeps: it attends all, and misses none.
            let mut short = engine.session().expect("a session");
            prefill(&engine, &mut short, &prompt(130), Want::Nothing).expect("a prompt");
            let mut all = Vec::new();
            for step in 0..24 {
                let batch = &mut [(&mut long, token(step)), (&mut short, token(step + 7))];
                let made = pollster::block_on(engine.decode(batch, &attention, Want::Logits));
                all.extend(made.expect("a step").into_iter().flat_map(|output| output.logits));
            }
            assert_eq!(stats(&engine).redone > 5, rule != EXACT, "{:?}", stats(&engine));
            assert_eq!(stats(&engine).steps, 24);
            all
        });
        assert_near(&format!("{timing:?}"), &got, &want);
    }
}

#[test]
fn what_is_not_fetched_for_the_next_step_is_brought_by_the_one_that_is_done_again() {
    // A share of the blocks grows: of a list that does, one is nowhere.
    let (blocks, recent_blocks) = (Blocks::Percent(30.0), 1);
    let budget = Budget { blocks, tokens: 60, sink_blocks: 1, recent_blocks, dense_below: 0 };
    let attention = Attention::TwoLevel(TwoLevel::new(budget));
    let [want, got] = [EXACT, guarded(Timing::Resident)].map(|rule| {
        let engine = load("qwen3/model.gguf", |options| {
            let host = HostOptions { hot_blocks: 9, patience: u32::MAX, ..host(rule) };
            options.host = Some(host);
        });
        let mut session = begun(&engine);
        let steps: Vec<_> =
            (0..60).map(|i| decode(&engine, &mut session, token(i), &attention)).collect();
        let counts = stats(&engine);
        assert_eq!((counts.redone > 10, counts.unattended), (rule != EXACT, 0), "{counts:?}");
        steps
    });
    assert_near("nothing is fetched", &got, &want);
}

#[test]
fn a_step_that_keeps_every_block_attends_every_block_however_little_is_fetched() {
    // Blocks leave the recent window, or are sealed and chosen at once.
    for (recent, most_missed) in [(1, MostMissed::NONE), (0, MostMissed::default())] {
        let attention = keeping_tokens((40, 640), BlockScorer::Codes, recent);
        let (two, step_tokens) = (2, 60);
        let run = |host: Option<HostOptions>| {
            let engine = load("qwen3/model.gguf", |options| options.host = host);
            // Both seal their blocks in the same steps.
            let mut sessions = [begun(&engine), begun(&engine)];
            let mut all = Vec::new();
            for step in 0..step_tokens {
                let mut batch: Vec<_> =
                    (0..two).zip(&mut sessions).map(|(i, s)| (s, token(step + 7 * i))).collect();
                let made = pollster::block_on(engine.decode(&mut batch, &attention, Want::Logits));
                all.extend(made.expect("a step").into_iter().flat_map(|output| output.logits));
            }
            (all, pollster::block_on(engine.offload_stats()).map_or(0, |stats| stats.left))
        };
        let want = run(None).0;
        for (patience, most_fetched) in [(u32::MAX, u64::MAX), (3, u64::MAX), (1, 1)] {
            let own = HostOptions {
                hot_blocks: 80,
                recent_blocks: recent,
                ..host(free(Timing::Resident))
            };
            let host = HostOptions { patience, most_fetched, most_missed, ..own };
            let what = format!("{recent} recent, patience {patience}, {most_fetched} bytes");
            let (got, left) = run(Some(host));
            assert_near(&what, &got, &want);
            assert_eq!(left, 0, "{what}");
        }
    }
}

#[test]
fn patience_ends_after_so_many_steps() {
    let attention = two_level(BlockScorer::Codes, 4);
    let fetched = |patience| {
        let engine = load("qwen3/model.gguf", |options| {
            options.host = Some(HostOptions { patience, ..host(free(Timing::Resident)) });
        });
        let mut session = begun(&engine);
        // This one waits for its choice.
        decode(&engine, &mut session, token(0), &attention);
        let before = stats(&engine);
        for step in 1..60 {
            decode(&engine, &mut session, token(step), &attention);
        }
        let after = stats(&engine);
        (after.misses - before.misses) - (after.left - before.left)
    };
    let of = [1, 2, 3, u32::MAX].map(fetched);
    assert!(of.is_sorted_by(|more, fewer| more > fewer) && of[3] == 0, "{of:?}");
}

/// What was sealed a moment ago lies on the GPU as it was, and with the host as bytes: which of them a step attends must not
/// follow from when it was fetched, or when it was stored.
#[test]
fn where_no_block_is_recent_all_rules_attend_the_same_numbers() {
    // All tokens of the chosen blocks.
    let attention = keeping_tokens((5, 640), BlockScorer::Codes, 0);
    for (model, sessions) in [("qwen3/model.gguf", 1), ("llama/model", 3)] {
        for timing in RULES {
            let engines = [EXACT, guarded(timing)].map(|rule| {
                load(model, |options| {
                    let (recent_blocks, kv_type) = (0, KvType::Q8_0);
                    options.host = Some(HostOptions { recent_blocks, kv_type, ..host(rule) });
                    options.sessions = sessions;
                })
            });
            let what = format!("{timing:?}, {model}, {sessions} sessions");
            let mut sessions = engines.each_ref().map(begun);
            let [exact, guarded] = &mut sessions;
            assert_same_steps(
                &what,
                &attention,
                110,
                [(&engines[0], exact), (&engines[1], guarded)],
            );
        }
    }
}

/// What was sealed a moment ago lies on the GPU still, as it was, and with the host as bytes: how long it does, which follows from
/// the sessions that there is room for, is nothing that answers follow from.
#[test]
fn bytes_are_attended_as_such_once_a_block_is_no_longer_recent() {
    for (recent_blocks, blocks) in [(0, 5), (2, 5), (1, 40)] {
        let attention = keeping_tokens((blocks, 640), BlockScorer::Codes, recent_blocks);
        let engines = [1, 3].map(|sessions| {
            load("qwen3/model.gguf", |options| {
                let (hot_blocks, kv_type) = (40, KvType::Q8_0);
                let own = HostOptions { recent_blocks, hot_blocks, kv_type, ..host(EXACT) };
                (options.host, options.sessions) = (Some(own), sessions);
            })
        });
        let [mut one, mut other] = engines.each_ref().map(begun);
        let pair = [(&engines[0], &mut one), (&engines[1], &mut other)];
        assert_same_steps(&format!("{recent_blocks} recent, {blocks} kept"), &attention, 60, pair);
        // Dense attention takes them from where it finds them, too.
        let pair = [(&engines[0], &mut one), (&engines[1], &mut other)];
        assert_same_steps(&format!("{recent_blocks} recent, dense"), &Attention::Dense, 20, pair);
    }
}
