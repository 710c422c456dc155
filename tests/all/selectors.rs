//! Selectors in the engine, with the real model: what each scorer chooses against what the host computes from the same
//! keys, and what stored channels, host selections and failed steps leave behind.

use crate::common::model::{engine, gpu, prefill};
use asynctls::attention::softmax_mean;
use asynctls::attention::{Attention, BlockScorer, Blocks, Budget, TokenScorer, TwoLevel};
use asynctls::engine::{
    Engine, EngineOptions, IndexOptions, LayerCacheView, LayerView, Session, Want,
};
use asynctls::eval::recall::{Exact, append, measure};
use asynctls::reference::index::{BlockQuery, Range};
use asynctls::reference::select::{check_top_k, log_sum_exp};
use asynctls::reference::summary::SummaryTwin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

const TOKENS: usize = 700;
const BUDGET: Budget = Budget {
    blocks: Blocks::Count(2),
    tokens: 40,
    sink_blocks: 1,
    recent_blocks: 2,
    dense_below: 0,
};

/// One engine with everything that scorers need.
fn shared() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        engine(gpu(), 1024, |o| {
            // As many as all tests hold at once, for a machine with a thread for each.
            o.sessions = 14;
            o.total_tokens = 4 * 1024;
            with_index(o, |index| index.block_scorers = BlockScorer::all().collect());
        })
    })
}

fn with_index(options: &mut EngineOptions, change: impl FnOnce(&mut IndexOptions)) {
    let mut index = IndexOptions::default();
    change(&mut index);
    options.index = Some(index);
}

fn tokens() -> Vec<u32> {
    (0..TOKENS as u32 + 8).map(|i| 500 + i * 7919 % 30000).collect()
}

fn two_level(block_scorer: BlockScorer, token_scorer: TokenScorer) -> TwoLevel {
    TwoLevel { budget: BUDGET, block_scorer, token_scorer }
}

fn prompt(engine: &Engine, count: usize) -> Session {
    let mut session = engine.session().unwrap();
    prefill(engine, &mut session, &tokens()[..count], Want::Nothing).unwrap();
    session
}

/// A session of the shared engine after `TOKENS` tokens, which are prefilled once.
fn shared_prompt() -> Session {
    static PROMPT: OnceLock<Mutex<Session>> = OnceLock::new();
    let prompt = PROMPT.get_or_init(|| Mutex::new(prompt(shared(), TOKENS)));
    let mut prompt = prompt.lock().unwrap_or_else(PoisonError::into_inner);
    pollster::block_on(shared().fork(&mut prompt)).unwrap()
}

fn logits(engine: &Engine, session: &mut Session, token: u32, attention: &Attention) -> Vec<f32> {
    pollster::block_on(engine.decode(&mut [(session, token)], attention, Want::Logits)).unwrap()[0]
        .logits
        .remove(0)
}

// A step of a fork, seen from inside, with the cache before it.
fn observed(two_level: TwoLevel) -> (Vec<LayerCacheView>, Vec<LayerView>, Session) {
    let engine = shared();
    let mut session = shared_prompt();
    let cache = pollster::block_on(engine.read_cache(&session)).unwrap();
    let attention = Attention::TwoLevel(two_level);
    let (_, views) =
        pollster::block_on(engine.observe(&mut session, 77, &attention, Want::Nothing)).unwrap();
    (cache, views, session)
}

fn indices(of: &[u32], from: u32) -> Vec<usize> {
    of.iter().map(|&i| (i - from) as usize).collect()
}

#[test]
fn the_oracle_attends_what_the_host_finds_best() {
    let engine = shared();
    let (cache, views, _) = observed(two_level(BlockScorer::Oracle, TokenScorer::Oracle));
    let row = BUDGET.row(TOKENS as u32, 64);
    for (cache, view) in cache.iter().zip(&views) {
        for head in 0..3 {
            let exact = Exact::new(engine.shape(), cache, view, head);
            let importance = exact.block_importance(row.sealed, 64);
            let eligible = &importance[row.sink as usize..row.recent_first as usize];
            // Logits are f32 sums of 64 products on both sides, and exponentials of up to 90 are within 181 ulp.
            check_top_k(&indices(&view.blocks[head], row.sink), eligible, 2, 1e-3).unwrap();
        }
        // What the GPU found best is what the host finds best, so nothing is lost against it but near ties.
        for head in measure(engine.shape(), cache, view, &row, &[]) {
            assert!(head.recall >= head.oracle * (1.0 - 1e-3), "{head:?}");
            assert!(head.oracle_tokens >= head.oracle * (1.0 - 1e-3), "{head:?}");
        }
    }
}

#[test]
fn scorers_of_summaries_rank_blocks_as_their_twins_do() {
    for twin in BlockScorer::all().filter_map(SummaryTwin::of) {
        ranks_blocks_as(twin);
    }
}

fn ranks_blocks_as(twin: &SummaryTwin) {
    let (cache, views, _) = observed(two_level(twin.scorer, TokenScorer::Codes));
    let row = BUDGET.row(TOKENS as u32, 64);
    for (cache, view) in cache.iter().zip(&views) {
        for head in 0..3 {
            let queries: Vec<&[f32]> =
                (0..3).map(|h| &view.queries[(head * 3 + h) * 64..][..64]).collect();
            let scores: Vec<f64> = (row.sink..row.recent_first)
                .map(|block| {
                    let rows = (block * 64..(block + 1) * 64)
                        .map(|t| &cache.keys[head][t as usize * 64..][..64]);
                    twin.score(&queries, &twin.rows(&rows.collect::<Vec<_>>()))
                })
                .collect();
            // A summary may be rounded to either neighbour.
            check_top_k(&indices(&view.blocks[head], row.sink), &scores, 2, 1e-3).unwrap();
        }
    }
}

#[test]
fn codes_rank_blocks_and_tokens_as_the_host_does_from_the_same_channels() {
    let engine = shared();
    let (cache, views, mut session) = observed(two_level(BlockScorer::Codes, TokenScorer::Codes));
    let set = pollster::block_on(engine.channels(&mut session)).unwrap();
    assert_eq!(session.channel_set(), Some(set.id()));
    let format = engine.shape().index;
    let row = BUDGET.row(TOKENS as u32, 64);
    let mut same = 0;
    for ((cache, view), channels) in cache.iter().zip(&views).zip(&set.layers) {
        for (head, ids) in channels.iter().enumerate() {
            let key = |t: usize, id: u32| cache.keys[head][t * 64 + id as usize];
            let score = |h: usize, b: usize| {
                let query = &view.queries[(head * 3 + h) * 64..][..64];
                let query: Vec<f32> = ids.iter().map(|&id| query[id as usize]).collect();
                let tokens = b * 64..(b + 1) * 64;
                let range = |&id: &u32| Range::of(tokens.clone().map(|t| key(t, id)), format);
                let ranges: Vec<Range> = ids.iter().map(range).collect();
                let query = BlockQuery::new(&query, &ranges);
                let logit = |t: usize| {
                    let codes: Vec<u8> = ids
                        .iter()
                        .zip(&ranges)
                        .map(|(&id, range)| range.exact_code(key(t, id), format).round() as u8)
                        .collect();
                    query.logit(&codes, format) / 8.0
                };
                log_sum_exp(&tokens.clone().map(logit).collect::<Vec<_>>()) as f32
            };
            let blocks: Vec<Vec<f32>> =
                (0..3).map(|h| (0..row.sealed as usize).map(|b| score(h, b)).collect()).collect();
            let lists: Vec<&[f32]> = blocks.iter().map(Vec::as_slice).collect();
            let scores = softmax_mean(&lists);
            let eligible = &scores[row.sink as usize..row.recent_first as usize];
            // A query that lies on the edge between two codes may round to either, which moves a logit by one step.
            let chosen = indices(&view.blocks[head], row.sink);
            same += usize::from(check_top_k(&chosen, eligible, 2, 1e-3).is_ok());
            check_top_k(&chosen, eligible, 2, 0.2).unwrap();
        }
    }
    assert!(same >= 85, "{same} of 90 alike");
}

#[test]
fn scorers_that_keep_everything_attend_everything() {
    let engine = shared();
    let every = Attention::TwoLevel(two_level(BlockScorer::None, TokenScorer::None));
    let blocks = Attention::TwoLevel(two_level(BlockScorer::Codes, TokenScorer::None));
    let tokens = Attention::TwoLevel(two_level(BlockScorer::None, TokenScorer::Codes));
    let mut session = shared_prompt();
    let row = BUDGET.row(TOKENS as u32, 64);
    let always = row.attended - row.tokens;
    assert_eq!(engine.attended_tokens(&session, &every), TOKENS as u32 + 1);
    assert_eq!(engine.attended_tokens(&session, &blocks), always + 2 * 64);
    assert_eq!(engine.attended_tokens(&session, &tokens), row.attended);
    let mut fork = pollster::block_on(engine.fork(&mut session)).unwrap();
    let made = logits(engine, &mut session, 77, &every);
    let dense = logits(engine, &mut fork, 77, &Attention::Dense);
    let worst = made.iter().zip(&dense).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // The same tokens summed in another order.
    assert!(worst < 0.005, "{worst}");
    // The whole blocks, ascending.
    let (_, views, _) = observed(two_level(BlockScorer::Codes, TokenScorer::None));
    for view in views {
        for (blocks, tokens) in view.blocks.iter().zip(&view.tokens) {
            let all: Vec<u32> = blocks.iter().flat_map(|b| b * 64..(b + 1) * 64).collect();
            assert_eq!(*tokens, all);
        }
    }
}

#[test]
fn a_host_that_selects_what_the_gpu_selected_makes_the_same_logits() {
    let engine = shared();
    let attention = Attention::TwoLevel(two_level(BlockScorer::Codes, TokenScorer::Codes));
    let mut session = shared_prompt();
    let mut fork = pollster::block_on(engine.fork(&mut session)).unwrap();
    let (output, views) =
        pollster::block_on(engine.observe(&mut session, 77, &attention, Want::Logits)).unwrap();
    let select = &mut |layer: usize, _: &LayerView, _: &_| views[layer].tokens.clone();
    let step = engine.decode_selected(&mut fork, 77, &BUDGET, select, Want::Logits);
    assert_eq!(pollster::block_on(step).unwrap().logits, output.logits);
    assert_eq!(fork.len(), session.len());
    // And an observed step is the step itself.
    fork.rewind(TOKENS as u32).unwrap();
    assert_eq!(logits(engine, &mut fork, 77, &attention), output.logits[0]);
    // A selection that is none is refused and leaves the session as it was.
    let wrong = &mut |_: usize, _: &LayerView, _: &_| vec![vec![0u32; 40]; 3];
    let step = engine.decode_selected(&mut fork, 77, &BUDGET, wrong, Want::Logits);
    let message = pollster::block_on(step).unwrap_err().to_string();
    assert!(message.contains("the host's selection"), "{message}");
    assert_eq!(fork.len(), session.len());
    fork.rewind(TOKENS as u32).unwrap();
    assert_eq!(logits(engine, &mut fork, 77, &attention), output.logits[0]);
}

#[test]
fn stored_channels_make_the_index_that_chose_them() {
    let engine = shared();
    let attention = Attention::TwoLevel(two_level(BlockScorer::Codes, TokenScorer::Codes));
    let mut session = shared_prompt();
    let set = pollster::block_on(engine.channels(&mut session)).unwrap();
    let want = logits(engine, &mut session, 77, &attention);

    let with_set = self::engine(gpu(), 1024, |o| {
        with_index(o, |index| index.stored = Some(Arc::new(set.clone())));
    });
    let mut session = prompt(&with_set, TOKENS);
    assert_eq!(session.channel_set(), Some(set.id()));
    // Its blocks were indexed as they sealed, the other's all at once.
    assert_eq!(logits(&with_set, &mut session, 77, &attention), want);
    // It keeps no summaries of blocks.
    for scorer in BlockScorer::all() {
        let Some(summary) = scorer.summary() else { continue };
        let attention = Attention::TwoLevel(two_level(scorer, TokenScorer::Codes));
        let mut batch = [(&mut session, 1)];
        let step = with_set.decode(&mut batch, &attention, Want::Token);
        let message = pollster::block_on(step).unwrap_err().to_string();
        assert!(message.contains(&format!("without block {}", summary.name)), "{message}");
    }
}

#[test]
fn every_block_size_and_format_selects_from_all_and_keeps_what_dense_makes() {
    // What blocks of 64 make: the size of blocks changes no sum but its order.
    let mut session = shared_prompt();
    session.rewind(400).unwrap();
    let want = logits(shared(), &mut session, 77, &Attention::Dense);
    for (block, channels, bits) in [(16, 8, 4), (32, 32, 2), (128, 64, 8)] {
        let engine = engine(gpu(), 512, |o| {
            o.block = block;
            o.sessions = 2;
            o.total_tokens = 1024;
            with_index(o, |index| (index.channels, index.bits) = (Some(channels), Some(bits)));
        });
        let mut session = prompt(&engine, 400);
        let mut fork = pollster::block_on(engine.fork(&mut session)).unwrap();
        let dense = logits(&engine, &mut session, 77, &Attention::Dense);
        let all = Budget { blocks: Blocks::Percent(100.0), tokens: 4096, ..BUDGET };
        let made = logits(&engine, &mut fork, 77, &all.into());
        for other in [&dense, &want] {
            let worst = made.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 0.005, "{block}: {worst}");
        }
        fork.rewind(400).unwrap();
        let few = Budget { blocks: Blocks::Count(1), tokens: 8, recent_blocks: 1, ..BUDGET };
        assert!(engine.attended_tokens(&fork, &few.into()) <= 2 * block + 400 % block + 9);
        assert_ne!(logits(&engine, &mut fork, 77, &few.into()), dense);
    }
}

#[test]
fn a_batch_that_finds_no_room_leaves_every_session_as_it_was() {
    // Three blocks: two hold the prompt, and one is left where each of two forks needs a copy of the open one.
    let engine = engine(gpu(), 128, |o| {
        o.sessions = 2;
        o.total_tokens = 64;
    });
    let mut first = prompt(&engine, 84);
    let mut second = pollster::block_on(engine.fork(&mut first)).unwrap();
    let mut batch = [(&mut first, 77), (&mut second, 78)];
    let step = engine.decode(&mut batch, &Attention::Dense, Want::Token);
    let message = pollster::block_on(step).unwrap_err().to_string();
    assert!(message.contains("the context"), "{message}");
    assert_eq!((first.len(), second.len()), (84, 84));
    drop(second);
    let made = logits(&engine, &mut first, 77, &Attention::Dense);
    drop(first);
    let mut fresh = prompt(&engine, 84);
    assert_eq!(logits(&engine, &mut fresh, 77, &Attention::Dense), made);
}

#[test]
fn what_the_host_appends_is_what_the_cache_holds() {
    let engine = shared();
    let (mut cache, views, session) = observed(two_level(BlockScorer::Codes, TokenScorer::Codes));
    for (cache, view) in cache.iter_mut().zip(&views) {
        append(cache, view, engine.shape());
    }
    assert_eq!(pollster::block_on(engine.read_cache(&session)).unwrap(), cache);
}
