//! Sessions that forgot a part of their past: they are as if it had never been.

use crate::common::device::{decode, gpu, prefill, tiny_options};
use crate::common::steps::{assert_same_steps, token, tokens_kept};
use asynctls::attention::{Attention, Blocks, Budget, Timing, TwoLevel};
use asynctls::engine::{Engine, HostOptions, Session, SessionFormat, Want};
use asynctls::model::ModelFile;
use std::path::Path;

const CONTEXT: u32 = 640;
/// The tokens that index channels are chosen by.
const COUNTED: u32 = 100;
/// Tokens that an abandoned prompt and the one after it have in common.
const COMMON: usize = 20;

const PLACES: [(&str, bool); 4] = [
    ("llama/model", false),
    ("qwen3/model.gguf", false),
    ("qwen3/model.gguf", true),
    ("glm4-moe-lite/model", false),
];

fn model(name: &str) -> ModelFile {
    ModelFile::open(&Path::new("tests/goldens/tiny").join(name)).expect("a model")
}

fn load((name, is_on_host): (&str, bool)) -> Engine {
    let gpu = gpu();
    let mut options = tiny_options(&gpu, CONTEXT, 4, COUNTED);
    options.host = is_on_host.then(|| HostOptions {
        timing: Timing::Exact,
        ring_bytes: 32 << 10,
        ..HostOptions::new(9, 0, 4096)
    });
    pollster::block_on(Engine::load(gpu, &model(name), options, &mut |_| ()))
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A prompt; prompts of different seeds begin alike and go on differently.
fn prompt(seed: usize, tokens: usize) -> Vec<u32> {
    let token = |i: usize| if i < COMMON { i * 7 } else { i * (seed + 5) + i * i % (11 + seed) };
    (0..tokens).map(|i| (token(i) % 90 + 3) as u32).collect()
}

fn read(engine: &Engine, session: &mut Session, tokens: &[u32]) {
    prefill(engine, session, tokens, Want::Nothing).unwrap_or_else(|e| panic!("{e}"));
}

fn two_level() -> Attention {
    let (sink_blocks, recent_blocks) = (1, 2);
    let blocks = Blocks::Count(4);
    let tokens = tokens_kept(30);
    let budget = Budget { blocks, tokens, sink_blocks, recent_blocks, dense_below: 0 };
    Attention::TwoLevel(TwoLevel::new(budget))
}

/// Decode steps that select: the logits, with the index channels that they selected by.
fn answer(engine: &Engine, session: &mut Session) -> (String, Vec<Vec<f32>>) {
    let step = |step| decode(engine, session, token(step), &two_level());
    let logits = (0..8).map(step).collect();
    (channels(session), logits)
}

/// A session that never held anything else than these tokens.
fn fresh(engine: &Engine, tokens: &[u32]) -> Session {
    let mut session = engine.session().expect("a session");
    read(engine, &mut session, tokens);
    session
}

/// The same channels and the same answer, after which both are where they were.
fn assert_same(what: &str, engine: &Engine, got: &mut Session, want: &mut Session) {
    assert_eq!(got.tokens(), want.tokens(), "{what}");
    let length = got.len();
    assert_same_steps(what, &two_level(), 8, [(engine, &mut *got), (engine, &mut *want)]);
    assert_eq!(channels(got), channels(want), "{what}: other channels");
    for session in [got, want] {
        session.rewind(length).expect("taken back");
    }
}

fn channels(session: &Session) -> String {
    session.channel_set().expect("index channels").to_string()
}

/// Forgets all that the second prompt does not begin with, then reads it.
fn turn_to(engine: &Engine, session: &mut Session, kept: usize, tokens: &[u32]) {
    session.rewind(kept as u32).expect("rewound");
    assert_eq!(session.tokens(), &tokens[..kept]);
    read(engine, session, &tokens[kept..]);
    assert_eq!(session.tokens(), tokens);
}

#[test]
fn an_abandoned_prompt_leaves_no_trace() {
    for place in PLACES {
        let engine = load(place);
        let tokens = prompt(2, 300);
        let mut want = fresh(&engine, &tokens);
        let other = fresh(&engine, &prompt(1, 300));
        assert_ne!(channels(&want), channels(&other), "{place:?}: prompts tell apart");
        // Before channels are chosen, when they are, and by a step that needed them early.
        for (before, answers) in [(80, false), (300, false), (60, true)] {
            let mut session = fresh(&engine, &prompt(1, before));
            if answers {
                answer(&engine, &mut session);
            }
            turn_to(&engine, &mut session, COMMON, &tokens);
            let what = format!("{place:?}, after {before} other tokens");
            assert_same(&what, &engine, &mut session, &mut want);
        }
    }
}

#[test]
fn an_interrupted_prompt_leaves_no_trace() {
    let engine = load(PLACES[1]);
    let tokens = prompt(2, 300);
    let mut session = engine.session().expect("a session");
    let (other, stop) = (prompt(1, 300), &mut |_| false);
    pollster::block_on(engine.prefill(&mut session, &other, Want::Nothing, stop)).expect("a chunk");
    assert_eq!(session.len(), 64, "one chunk");
    turn_to(&engine, &mut session, COMMON, &tokens);
    let want = answer(&engine, &mut fresh(&engine, &tokens));
    assert!(answer(&engine, &mut session) == want, "not the same bits");
}

#[test]
fn a_prompt_that_ends_within_a_chunk_leaves_the_session_as_it_was() {
    for place in PLACES {
        let mut engine = load(place);
        // A layer at a time.
        engine.options.piece = 1;
        let (tokens, other) = (prompt(2, 300), prompt(1, 200));
        // From the beginning, in an open block, after channels are chosen, and where what is left has to be read again.
        for (before, kept) in [(0, 0), (70, 70), (150, 150), (150, COMMON)] {
            let mut session = engine.session().expect("a session");
            if before > 0 {
                read(&engine, &mut session, &tokens[..before]);
                session.rewind(kept as u32).expect("rewound");
            }
            let what = format!("{place:?}, {kept} tokens of {before}");
            for _ in 0..2 {
                let stop = &mut |done| {
                    assert_eq!(done, 0, "{what}: within the first chunk");
                    false
                };
                let made = engine.prefill(&mut session, &other, Want::Token, stop);
                assert!(pollster::block_on(made).expect("no error").tokens.is_empty(), "{what}");
                assert_eq!(session.tokens(), &tokens[..kept], "{what}");
            }
            read(&engine, &mut session, &tokens[kept..]);
            // In the same pieces: all is one where the first tokens are counted again.
            let is_counted_again = kept < before || kept < COUNTED as usize;
            let (first, rest) = tokens.split_at(if is_counted_again { 0 } else { kept });
            let mut want = engine.session().expect("a session");
            for piece in [first, rest].into_iter().filter(|piece| !piece.is_empty()) {
                read(&engine, &mut want, piece);
            }
            assert_same(&what, &engine, &mut session, &mut want);
        }
    }
}

#[test]
fn a_fork_forgets_for_itself() {
    for place in &PLACES[1..3] {
        let engine = load(*place);
        let (first, second) = (prompt(1, 300), prompt(2, 300));
        let mut session = fresh(&engine, &first);
        let mut fork = pollster::block_on(engine.fork(&mut session)).expect("a fork");
        turn_to(&engine, &mut fork, COMMON, &second);
        let what = format!("{place:?}: the fork");
        assert_same(&what, &engine, &mut fork, &mut fresh(&engine, &second));
        // A fork of what is still to be computed again, and of what was never more: both choose by what they share.
        fork.rewind(COMMON as u32).expect("rewound");
        let short = fresh(&engine, &second[..COMMON]);
        let [mut got, mut want] = [fork, short].map(|mut parent| {
            let mut fork = pollster::block_on(engine.fork(&mut parent)).expect("a fork");
            drop(parent);
            read(&engine, &mut fork, &second[COMMON..]);
            fork
        });
        assert_same(&format!("{place:?}: a fork of the fork"), &engine, &mut got, &mut want);
        drop((got, want));
        let what = format!("{place:?}: what it was forked from");
        assert_same(&what, &engine, &mut session, &mut fresh(&engine, &first));
    }
}

#[test]
fn a_resumed_session_forgets_as_one_that_was_never_away() {
    for place in &PLACES[1..3] {
        let engine = load(*place);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("talk.kv");
        let format = SessionFormat::new(&model(place.0), &engine.config, &engine.options);
        let tokens = prompt(2, 300);
        let mut want = fresh(&engine, &tokens);
        // Away before channels are chosen, after that, and between the rewind and the next prompt.
        for (before, kept) in [(80, 80), (300, 300), (300, COMMON)] {
            let mut file = format.open(&path).expect("a file");
            {
                let mut session = fresh(&engine, &prompt(1, before));
                session.rewind(kept as u32).expect("rewound");
                pollster::block_on(engine.save(&mut session, &mut file, &[], &mut |_| ()))
                    .expect("saved");
            }
            let mut session =
                pollster::block_on(engine.restore(&file, &mut |_| ())).expect("restored").0;
            let what = format!("{place:?}, away with {kept} tokens of {before}");
            turn_to(&engine, &mut session, COMMON, &tokens);
            assert_same(&what, &engine, &mut session, &mut want);
            answer(&engine, &mut session);
            // Saved again, over what the file had of the first prompt.
            pollster::block_on(engine.save(&mut session, &mut file, &[], &mut |_| ()))
                .expect("saved");
            drop(session);
            let mut session =
                pollster::block_on(engine.restore(&file, &mut |_| ())).expect("restored").0;
            session.rewind(300).expect("rewound");
            assert_same(&format!("{what}, and once more"), &engine, &mut session, &mut want);
        }
    }
}

#[test]
fn what_is_not_forgotten_keeps_its_channels() {
    let engine = load(PLACES[0]);
    let mut session = fresh(&engine, &prompt(1, 300));
    let chosen = channels(&session);
    session.rewind(COUNTED).expect("rewound");
    assert_eq!(channels(&session), chosen, "they follow from what is left");
    session.rewind(COUNTED - 1).expect("rewound");
    assert_eq!(session.channel_set(), None);
    // A step right after it, as its first.
    let want = answer(&engine, &mut fresh(&engine, &prompt(1, 99)));
    assert!(answer(&engine, &mut session) == want, "not the same bits");
}

#[test]
fn a_refused_step_changes_nothing() {
    let engine = load(PLACES[0]);
    let tokens = prompt(2, 300);
    let mut session = fresh(&engine, &prompt(1, 80));
    session.rewind(COMMON as u32).expect("rewound");
    for bad in [vec![3; 700], vec![1 << 20], vec![]] {
        assert!(prefill(&engine, &mut session, &bad, Want::Nothing).is_err());
        assert_eq!(session.tokens(), &tokens[..COMMON]);
    }
    let rows = prefill(&engine, &mut session, &tokens[COMMON..40], Want::EveryLogits);
    assert_eq!(rows.expect("a prompt").logits.len(), 40 - COMMON, "rows of what was asked alone");
    read(&engine, &mut session, &tokens[40..]);
    let mut want = fresh(&engine, &tokens[..40]);
    read(&engine, &mut want, &tokens[40..]);
    assert_same("in two pieces", &engine, &mut session, &mut want);
}
