//! Steps over any work: prompts, single tokens and drafts, mixed in one step, are what each is alone.

use crate::common::device::{gpu, prefill, tiny_options};
use crate::common::steps::{
    assert_near, assert_within, rounds_products, token, tolerance, tolerance_across_paths,
};
use asynctls::Result;
use asynctls::attention::{Attention, Blocks, Budget, Timing, TwoLevel};
use asynctls::engine::{
    Engine, EngineOptions, HostOptions, IndexOptions, Output, Session, Want, Work,
};
use asynctls::model::ModelFile;
use std::path::Path;

const CONTEXT: u32 = 640;
/// The tokens that index channels are chosen by.
const COUNTED: u32 = 100;

/// Grouped queries in two formats, latent attention, and sliding windows in some layers.
const MODELS: [&str; 4] =
    ["llama/model", "qwen3/model.gguf", "glm4-moe-lite/model", "qwen2-windows/model"];

fn load(model: &str, change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let file = ModelFile::open(&Path::new("tests/goldens/tiny").join(model)).expect("a model");
    let gpu = gpu();
    let mut options = tiny_options(&gpu, CONTEXT, 9, COUNTED);
    (options.decode_rows, options.logit_rows) = (12, 64);
    // Splits of one tile, whatever else is in a step: where products take the same path too, a token has the same bits.
    options.target_workgroups = 1 << 14;
    change(&mut options);
    pollster::block_on(Engine::load(gpu, &file, options, &mut |_| ()))
        .unwrap_or_else(|e| panic!("{model}: {e}"))
}

fn host() -> HostOptions {
    HostOptions { timing: Timing::Exact, ring_bytes: 32 << 10, ..HostOptions::new(24, 0, 4096) }
}

fn prompt(seed: u32, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|i| (i * (seed + 7) + i * i % (11 + seed)) % 90 + 3).collect()
}

fn two_level(blocks: Blocks, tokens: u32, always: (u32, u32), dense_below: u32) -> Attention {
    let (sink_blocks, recent_blocks) = always;
    let budget = Budget { blocks, tokens, sink_blocks, recent_blocks, dense_below };
    Attention::TwoLevel(TwoLevel::new(budget))
}

/// What each model is tried with: the first with everything, the others with what differs in them.
fn cases() -> [(&'static str, Vec<Attention>); 4] {
    let [dense, some, share, no_window] = attentions();
    [
        (MODELS[0], vec![dense, some, share, no_window]),
        (MODELS[1], vec![some]),
        (MODELS[2], vec![dense, share]),
        (MODELS[3], vec![some]),
    ]
}

/// Dense attention, and budgets of every kind.
fn attentions() -> [Attention; 4] {
    [
        Attention::Dense,
        two_level(Blocks::Count(4), 30, (1, 2), 40),
        // A share of the blocks is another number for every row.
        two_level(Blocks::Percent(25.0), 21, (0, 1), 0),
        two_level(Blocks::Percent(40.0), 33, (1, 0), 0),
    ]
}

fn begin(engine: &Engine, seed: u32, tokens: u32) -> Session {
    let mut session = engine.session().expect("a session");
    if tokens > 0 {
        prefill(engine, &mut session, &prompt(seed, tokens), Want::Nothing)
            .unwrap_or_else(|e| panic!("{e}"));
    }
    session
}

fn try_step(engine: &Engine, works: &mut [Work<'_>], attention: &Attention) -> Result<Vec<Output>> {
    pollster::block_on(engine.step(works, attention))
}

fn step(engine: &Engine, works: &mut [Work<'_>], attention: &Attention) -> Vec<Output> {
    try_step(engine, works, attention).unwrap_or_else(|e| panic!("{e}"))
}

fn alone(engine: &Engine, work: Work<'_>, attention: &Attention) -> Output {
    step(engine, &mut [work], attention).remove(0)
}

/// The logits after each of these tokens, in steps of their own.
fn singly(
    engine: &Engine,
    session: &mut Session,
    tokens: &[u32],
    attention: &Attention,
) -> Vec<Vec<f32>> {
    tokens
        .chunks(1)
        .flat_map(|token| {
            alone(engine, Work::decode(session, token, Want::Logits), attention).logits
        })
        .collect()
}

/// The most tokens of a step whose products go vector by vector; those of more go in tiles.
const FEW: usize = 4;

/// A session whose tokens stand beside another's few, so that their products go in tiles.
fn filler(engine: &Engine) -> Session {
    begin(engine, 9, 120)
}

/// A work in a step of its own, but for rows of a filler where its tokens are few.
fn beside(engine: &Engine, work: Work<'_>, filler: &mut Session, attention: &Attention) -> Output {
    if work.tokens.len() > FEW {
        return alone(engine, work, attention);
    }
    let length = filler.len();
    // The logits are a product too.
    let others = Work::decode(filler, &[5; 8], Want::EveryLogits);
    let made = step(engine, &mut [work, others], attention).remove(0);
    filler.rewind(length).expect("taken back");
    made
}

/// As [`singly`], each token beside a filler.
fn singly_beside(
    engine: &Engine,
    session: &mut Session,
    filler: &mut Session,
    tokens: &[u32],
    attention: &Attention,
) -> Vec<Vec<f32>> {
    let mut logits = Vec::new();
    for token in tokens.chunks(1) {
        let work = Work::decode(session, token, Want::Logits);
        logits.extend(beside(engine, work, filler, attention).logits);
    }
    logits
}

/// By what steps are compared whose products go in tiles on one side and vector by vector on the other. Where tiles round
/// operands, scores of blocks and tokens differ by more than nearly equal ones are apart, and another one of these is chosen, from
/// where on the two sides attend other tokens, which no bound covers: there the budget keeps all of them, and what is left is
/// the rounding itself. What is chosen is compared by [`beside`], where both sides round alike.
fn across_paths(attention: &Attention) -> Attention {
    match attention {
        Attention::TwoLevel(by) if rounds_products() => {
            let (blocks, tokens) = (Blocks::Count(CONTEXT), CONTEXT);
            let budget = Budget { blocks, tokens, ..by.budget };
            Attention::TwoLevel(TwoLevel { budget, ..*by })
        }
        _ => *attention,
    }
}

/// The most likely token of logits.
fn best(logits: &[f32]) -> Option<u32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&value| value == largest).map(|at| at as u32)
}

/// What the steps of a batch are about: a seed, tokens before, tokens now, whether they are a prompt's, and what is wanted.
type Item = (u32, u32, u32, bool, Want);

/// As many tokens as there were at the beginning, whose channels are those that were chosen, or none yet.
fn begin_again(engine: &Engine, session: &mut Session, seed: u32, tokens: u32) {
    if tokens > COUNTED {
        session.rewind(tokens).expect("rewound");
    } else {
        *session = begin(engine, seed, tokens);
    }
}

/// What one step over several works is compared with.
#[derive(Clone, Copy, PartialEq)]
enum Other {
    /// Each in a step of its own.
    Alone,
    /// The same, to the bit.
    AloneExactly,
    /// The same, where products of few tokens and of many go by other paths.
    AloneAcross,
    /// Each in a step of its own, whose products go in tiles too.
    Beside,
}

/// One step over all items, against each in another, on sessions that began alike.
fn compare(engine: &Engine, items: &[Item], attentions: &[Attention], other: Other) {
    let mut sessions: Vec<Session> =
        items.iter().map(|&(seed, before, ..)| begin(engine, seed, before)).collect();
    for attention in attentions {
        compare_with(engine, items, &mut sessions, attention, other);
    }
}

fn compare_with(
    engine: &Engine,
    items: &[Item],
    sessions: &mut [Session],
    attention: &Attention,
    other: Other,
) {
    let is_exact = other == Other::AloneExactly;
    let is_across = other == Other::AloneAcross;
    let most = if is_across { tolerance_across_paths() } else { tolerance() };
    let mut filler = (other == Other::Beside).then(|| filler(engine));
    let now: Vec<Vec<u32>> =
        items.iter().map(|&(seed, _, count, ..)| prompt(seed + 50, count)).collect();
    let mut run = |together: bool| {
        for (session, &(seed, before, ..)) in sessions.iter_mut().zip(items) {
            begin_again(engine, session, seed, before);
        }
        let mut works: Vec<Work<'_>> = sessions
            .iter_mut()
            .zip(items.iter().zip(&now))
            .map(|(session, (&(.., is_prompt, want), tokens))| Work {
                session,
                tokens,
                is_prompt,
                want,
            })
            .collect();
        let mut apart = |work| match &mut filler {
            Some(filler) => beside(engine, work, filler, attention),
            None => alone(engine, work, attention),
        };
        let outputs = match together {
            true => step(engine, &mut works, attention),
            false => works.into_iter().map(&mut apart).collect(),
        };
        // What they hold afterwards, by a step more.
        let more: Vec<_> =
            sessions.iter_mut().map(|one| singly(engine, one, &[7], attention)).collect();
        let lengths: Vec<u32> = sessions.iter().map(Session::len).collect();
        (outputs, more, lengths)
    };
    let (got, want) = (run(true), run(false));
    assert_eq!(got.2, want.2);
    if is_exact {
        assert!(run(false) == want, "{items:?} with {attention:?}: other bits when run again");
        assert!(run(true) == got, "{items:?} with {attention:?}: other bits together again");
    }
    for (i, item) in items.iter().enumerate() {
        let what = format!("{item:?} of {items:?} with {attention:?}");
        let (rows, every) = (item.2 as usize, item.4.is_of_every_row());
        let count = if item.4 == Want::Nothing {
            0
        } else if every {
            rows
        } else {
            1
        };
        let (got_output, want_output) = (&got.0[i], &want.0[i]);
        let is_token = item.4.is_token();
        assert_eq!(got_output.tokens.len(), if is_token { count } else { 0 }, "{what}");
        assert_eq!(got_output.logits.len(), if is_token { 0 } else { count }, "{what}");
        assert_eq!(got_output.tokens, want_output.tokens, "{what}");
        if is_exact {
            let same = [got_output == want_output, got.1[i] == want.1[i]];
            let logits = (&got_output.logits, &want_output.logits);
            assert_eq!(same, [true; 2], "{what}: other bits, now or afterwards: {logits:?}");
        }
        assert_within(most, &what, &got_output.logits, &want_output.logits);
        assert_within(most, &format!("{what}, afterwards"), &got.1[i], &want.1[i]);
    }
}

/// Of rounded logits the most likely token may be another.
fn logits_of(want: Want) -> Want {
    match want {
        Want::Token => Want::Logits,
        Want::EveryToken => Want::EveryLogits,
        _ => want,
    }
}

#[test]
fn a_mixed_step_is_each_work_alone() {
    let items = [
        // Chunks of prompts: of a new session, and within a block of a long one.
        (1, 0, 21, true, Want::Logits),
        (2, 197, 13, true, Want::EveryToken),
        // Single tokens: beside nothing, and beside a long context.
        (3, 1, 1, false, Want::Token),
        (4, 523, 1, false, Want::Logits),
        // Drafts over a block's end, and of a session that selects only at some budgets.
        (5, 286, 4, false, Want::EveryLogits),
        (6, 30, 2, false, Want::EveryToken),
        (7, 130, 1, false, Want::Nothing),
    ];
    for (model, attentions) in cases() {
        let engine = load(model, |_| ());
        compare(&engine, &items, &attentions, Other::Beside);
        // Alone a few tokens are multiplied vector by vector, together in tiles: other orders of the same sums, or rounded ones.
        let across: Vec<Attention> = attentions.iter().map(across_paths).collect();
        let items = items.map(|(seed, before, count, is_prompt, want)| {
            let want = if rounds_products() { logits_of(want) } else { want };
            (seed, before, count, is_prompt, want)
        });
        compare(&engine, &items, &across, Other::AloneAcross);
    }
}

#[test]
fn few_rows_have_the_same_bits_together_and_alone() {
    let few = [
        (4, 523, 1, false, Want::Logits),
        (3, 20, 1, false, Want::EveryLogits),
        (5, 286, 2, false, Want::EveryLogits),
    ];
    // A prompt's rows are multiplied in tiles with others and without.
    let prompts = [(2, 150, 37, true, Want::EveryLogits), (1, 0, 20, true, Want::Logits)];
    for (model, attentions) in cases() {
        let engine = load(model, |_| ());
        compare(&engine, &few, &attentions, Other::AloneExactly);
        compare(&engine, &prompts, &attentions[..1], Other::AloneExactly);
    }
}

/// How drafts are read.
enum Steps {
    /// All in one step.
    Together,
    /// Each in a step of its own.
    Alone,
    /// Each in a step of its own, whose products go in tiles.
    Beside,
}

#[test]
fn drafts_are_single_steps() {
    for (model, attentions) in cases() {
        let engine = load(model, |_| ());
        let mut base = begin(&engine, 3, 303);
        let mut filler = filler(&engine);
        for attention in attentions {
            let mut session = pollster::block_on(engine.fork(&mut base)).expect("a fork");
            // From a block's end, within a block, over its end, and over two.
            for (before, drafts) in [(303, 4), (290, 3), (286, 11), (271, 12)] {
                let tokens: Vec<u32> = (0..drafts).map(token).collect();
                let mut run = |how: Steps, attention: &Attention| {
                    session.rewind(before).expect("rewound");
                    let logits = match how {
                        Steps::Together => {
                            let work = Work::decode(&mut session, &tokens, Want::EveryLogits);
                            alone(&engine, work, attention).logits
                        }
                        Steps::Alone => singly(&engine, &mut session, &tokens, attention),
                        Steps::Beside => {
                            singly_beside(&engine, &mut session, &mut filler, &tokens, attention)
                        }
                    };
                    (logits, singly(&engine, &mut session, &[9], attention))
                };
                let what = format!("{model}, {drafts} tokens after {before}, {attention:?}");
                let got = run(Steps::Together, &attention);
                // Products take the same path.
                let same = if tokens.len() <= FEW { Steps::Alone } else { Steps::Beside };
                assert!(got == run(same, &attention), "{what}: not the same bits");
                // And another one.
                let across = across_paths(&attention);
                let got_across =
                    if across == attention { got.clone() } else { run(Steps::Together, &across) };
                let want = run(Steps::Alone, &across);
                let most = tolerance_across_paths();
                assert_within(most, &what, &got_across.0, &want.0);
                assert_within(most, &format!("{what}, afterwards"), &got_across.1, &want.1);
                let got = got.0;
                session.rewind(before).expect("taken back");
                let work = Work::decode(&mut session, &tokens, Want::EveryToken);
                let chosen = alone(&engine, work, &attention).tokens;
                assert_eq!(chosen, got.iter().map(|row| best(row)).collect::<Vec<_>>(), "{what}");
            }
        }
    }
}

#[test]
fn drafts_may_lie_on_both_sides_of_where_selection_begins() {
    for model in MODELS {
        let engine = load(model, |_| ());
        let attention = two_level(Blocks::Count(2), 9, (1, 1), 122);
        let tokens: Vec<u32> = (0..4).map(token).collect();
        let [mut first, mut second] = [4, 4].map(|seed| begin(&engine, seed, 120));
        let want = singly(&engine, &mut first, &tokens, &attention);
        let work = Work::decode(&mut second, &tokens, Want::EveryLogits);
        assert!(alone(&engine, work, &attention).logits == want, "{model}: not the same bits");
    }
}

/// Decodes these tokens in steps of several, of which some are wrong and taken back: the logits after the right ones, and
/// before which of them index channels were chosen.
fn speculate(
    engine: &Engine,
    session: &mut Session,
    tokens: &[u32],
    attention: &Attention,
) -> (Vec<Vec<f32>>, Vec<usize>) {
    let (mut logits, mut choices) = (Vec::new(), Vec::new());
    while logits.len() < tokens.len() {
        let left = &tokens[logits.len()..];
        // One, two or three are right, and what follows is not.
        let right = (1 + logits.len() % 3).min(left.len());
        let mut drafts = left[..right].to_vec();
        drafts.resize(4, 88);
        let had_channels = session.channel_set().is_some();
        let work = Work::decode(session, &drafts, Want::EveryLogits);
        let made = alone(engine, work, attention).logits;
        if !had_channels && session.channel_set().is_some() {
            choices.push(logits.len());
        }
        logits.extend(made.into_iter().take(right));
        session.rewind(session.len() - (drafts.len() - right) as u32).expect("taken back");
    }
    (logits, choices)
}

#[test]
fn drafts_that_were_refused_leave_no_trace() {
    for (model, attentions) in cases() {
        let engine = load(model, |_| ());
        for attention in attentions {
            // Past where channels are chosen; and before, where channels follow from what was drafted too.
            for (before, count) in [(180, 20), (30, 20), (90, 20)] {
                let tokens: Vec<u32> = (0..count).map(token).collect();
                let mut session = begin(&engine, 5, before);
                let (got, choices) = speculate(&engine, &mut session, &tokens, &attention);
                let what = format!("{model}, after {before}, {attention:?}");
                assert!(choices.len() <= 2, "{what}: channels chosen before {choices:?}");
                // Never drafted. What is counted is computed a second time where channels are chosen, as a prompt, and nowhere
                // else: with all of it to the bit.
                let ends = choices.iter().copied().filter(|&at| at > 0).chain([tokens.len()]);
                let (mut from, mut channels) = (0, None);
                for to in ends {
                    let past = [&prompt(5, before)[..], &tokens[..from]].concat();
                    let mut other = engine.session().expect("a session");
                    prefill(&engine, &mut other, &past, Want::Nothing).expect("a prompt");
                    let want = singly(&engine, &mut other, &tokens[from..to], &attention);
                    assert!(got[from..to] == want, "{what}, {from} to {to}: other bits");
                    (from, channels) = (to, other.channel_set());
                }
                assert_eq!(session.tokens()[before as usize..], tokens, "{what}");
                assert_eq!(session.channel_set(), channels, "{what}");
            }
        }
    }
}

#[test]
fn a_hot_cache_takes_any_work_in_parts() {
    let items = [
        (1, 0, 21, true, Want::Logits),
        (2, 197, 13, true, Want::Nothing),
        (4, 423, 1, false, Want::Logits),
        (5, 286, 4, false, Want::EveryLogits),
        (6, 30, 2, false, Want::EveryToken),
    ];
    for model in ["qwen3/model.gguf", "glm4-moe-lite/model"] {
        let engine = load(model, |options| options.host = Some(host()));
        let attention = two_level(Blocks::Count(4), 30, (1, 2), 40);
        compare(&engine, &items, &[attention], Other::Alone);
        // Drafts are single steps there too.
        let tokens: Vec<u32> = (0..5).map(token).collect();
        let mut session = begin(&engine, 3, 286);
        let want = singly(&engine, &mut session, &tokens, &attention);
        session.rewind(286).expect("taken back");
        let work = Work::decode(&mut session, &tokens, Want::EveryLogits);
        assert_near(model, &alone(&engine, work, &attention).logits, &want);
    }
}

#[test]
fn what_is_wrong_with_a_work_is_named_and_nothing_changes() {
    let engine = load(MODELS[0], |options| {
        (options.decode_rows, options.logit_rows, options.sessions) = (5, 6, 3);
    });
    let other = load(MODELS[0], |options| options.index = None::<IndexOptions>);
    let dense = Attention::Dense;
    let mut good = begin(&engine, 1, 70);
    let mut session = begin(&engine, 2, 637);
    let long = prompt(3, 65);
    for (tokens, is_prompt, want, message) in [
        (&[][..], false, Want::Token, "the tokens of a session in a step is 0, but"),
        (&[], true, Want::Token, "the tokens of a session in a step is 0, but"),
        (&[1 << 20], false, Want::Token, "a token id is 1048576, but the vocabulary has"),
        (&[5; 4], false, Want::Token, "the context is 641 tokens, but 640 were set aside"),
        (&[5; 4], true, Want::Token, "the context is 641 tokens, but"),
    ] {
        let works = &mut [
            Work::decode(&mut good, &[5], Want::Logits),
            Work { session: &mut session, tokens, is_prompt, want },
        ];
        let error = try_step(&engine, works, &dense).expect_err(message).to_string();
        assert!(error.starts_with(message), "{error}");
        assert_eq!((good.len(), session.len()), (70, 637));
    }
    session.rewind(100).expect("rewound");
    for (count, is_prompt, want, message) in [
        (5, false, Want::Token, "the tokens that decode in a step is 6, but"),
        (65, true, Want::Nothing, "the tokens of prompts in a step is 65, but"),
        (64, true, Want::Nothing, "the tokens of a step is 65, but"),
        (6, true, Want::EveryToken, "the rows whose logits are wanted is 7, but"),
    ] {
        let works = &mut [
            Work::decode(&mut good, &[5], Want::Logits),
            Work { session: &mut session, tokens: &long[..count], is_prompt, want },
        ];
        let error = try_step(&engine, works, &dense).expect_err(message).to_string();
        assert!(error.starts_with(message), "{error}");
        assert_eq!((good.len(), session.len()), (70, 100));
    }
    let mut stranger = begin(&other, 1, 70);
    let works = &mut [
        Work::decode(&mut good, &[5], Want::Logits),
        Work::decode(&mut stranger, &[5], Want::Logits),
    ];
    let error = try_step(&engine, works, &dense).expect_err("a stranger").to_string();
    assert!(error.contains("another engine's"), "{error}");
    let works = &mut [Work::decode(&mut stranger, &[5], Want::Logits)];
    let error = try_step(&other, works, &attentions()[1]).expect_err("no index").to_string();
    assert!(error.contains("built without an index"), "{error}");
    assert!(step(&engine, &mut [], &dense).is_empty());
    // All of it left no trace.
    let got = singly(&engine, &mut good, &[5], &dense);
    assert!(got == singly(&engine, &mut begin(&engine, 1, 70), &[5], &dense), "other bits");
}

// Memory for the tokens of all sessions ends where one of several, or of its drafts the third, needs a block more.
#[test]
fn a_step_that_fails_midway_leaves_every_session_as_it_was() {
    for is_on_host in [false, true] {
        let engine = load(MODELS[1], |options| {
            options.total_tokens = 300 + 160;
            options.sessions = 2;
            options.host = is_on_host.then(host);
        });
        let [mut first, mut second] = [(1, 300), (2, 190)].map(|(seed, n)| begin(&engine, seed, n));
        for attention in [Attention::Dense, two_level(Blocks::Count(4), 30, (1, 2), 40)] {
            if is_on_host && attention == Attention::Dense {
                continue;
            }
            let tokens = [5; 4];
            let works = &mut [
                Work::decode(&mut first, &tokens[..2], Want::Logits),
                Work::decode(&mut second, &tokens, Want::Logits),
            ];
            let error = try_step(&engine, works, &attention).expect_err("no room").to_string();
            assert!(error.contains("memory was set aside for"), "{error}");
            assert_eq!((first.len(), second.len()), (300, 190), "{error}");
            // And they go on.
            for (session, seed) in [(&mut first, 1), (&mut second, 2)] {
                let length = session.len();
                assert_eq!(session.tokens(), prompt(seed, length));
                let got = singly(&engine, session, &[5], &attention);
                session.rewind(length).expect("taken back");
                let again = singly(&engine, session, &[5], &attention);
                session.rewind(length).expect("taken back");
                assert_near("going on", &got, &again);
            }
        }
    }
}
