//! Recall of a run of decode steps: what each head kept of dense attention, step by step.

use super::Method;
use super::recall::{HeadRecall, append, measure, turnover};
use super::retrieval::prefilled;
use crate::attention::softmax_mean;
use crate::attention::{Attention, Rank, RowBudget, Shape, TwoLevel};
use crate::engine::{Engine, LayerCacheView, LayerView, Want};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::num::NonZero;

/// A prompt and the steps to observe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// Tokens that follow the prompt, whatever the model would say; where they end, the model's own choice goes on.
    pub forced: Vec<u32>,
    /// Decode steps to observe, the one of the prompt's last token included.
    pub steps: u32,
    /// Positions whose attention tells which heads retrieve.
    pub needles: Vec<u32>,
}

/// One query head, a value a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeadSeries {
    /// Attention mass attended.
    pub recall: Vec<f32>,
    /// The oracle's at the same budget.
    pub oracle: Vec<f32>,
    /// The oracle's within the blocks that level 1 chose.
    pub oracle_tokens: Vec<f32>,
    /// Relative error of the output.
    pub error: Vec<f32>,
    /// Dense attention's mass on the needles.
    pub needle: Vec<f32>,
}

/// One KV head, a value a step after the first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockSeries {
    /// Share of blocks that were chosen in the step before too.
    pub overlap: Vec<f32>,
    /// Share of new blocks that rank in the lower half; nothing for steps without new blocks.
    pub at_cut_off: Vec<f32>,
}

/// The attention that one method kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Layer, query head.
    pub heads: Vec<Vec<HeadSeries>>,
    /// Layer, KV head.
    pub blocks: Vec<Vec<BlockSeries>>,
    /// The model's tokens, forced ones included.
    pub tokens: Vec<u32>,
}

/// Observes a run under each two-level method, from one prefill. `None` where `progress` returned false, which is asked
/// with the tokens done so far, of [`work`].
///
/// # Errors
/// [`Error::Argument`] for dense methods, a prompt below two tokens or needles outside it; else as [`Engine::observe`]. The
/// engine needs two sessions.
pub async fn observe(
    engine: &Engine,
    run: &Run,
    methods: &[Method],
    progress: &mut (dyn FnMut(u64) -> bool + Send),
) -> Result<Option<Vec<Observed>>> {
    let tokens = run.prompt.len();
    if tokens < 2 {
        let limit = "at least two tokens are needed";
        return Err(Error::argument("the prompt", format!("{tokens} tokens"), limit));
    }
    if let Some(needle) = run.needles.iter().find(|&&needle| needle as usize >= tokens) {
        let limit = format!("the prompt has {tokens} tokens");
        return Err(Error::argument("a needle's position", needle, limit));
    }
    let last = tokens - 1;
    let Some(mut session) = prefilled(engine, &run.prompt[..last], progress).await? else {
        return Ok(None);
    };
    let mut cache = engine.read_cache(&session).await?;
    let lengths = last * engine.shape().head_dim as usize;
    let mut done = last as u64;
    let mut all = Vec::with_capacity(methods.len());
    for method in methods {
        let Attention::TwoLevel(two_level) = &method.attention else {
            return Err(Error::argument(
                "the method",
                &method.name,
                "dense attention loses nothing",
            ));
        };
        let mut fork = engine.fork(&mut session).await?;
        let mut observed = Observed::new(engine.shape(), cache.len());
        let mut before: Vec<LayerView> = Vec::new();
        let mut token = run.prompt[last];
        for step in 0..run.steps as usize {
            let row = two_level.effective_budget().row(fork.len(), engine.shape().block);
            let (output, views) =
                engine.observe(&mut fork, token, &method.attention, Want::Token).await?;
            let measured = measure_layers(engine.shape(), &cache, &views, &row, &run.needles);
            observed.add(engine.shape(), &measured, &views, &before, &row, two_level);
            for (cache, view) in cache.iter_mut().zip(&views) {
                append(cache, view, engine.shape());
            }
            before = views;
            token = run.forced.get(step).map_or_else(|| output.token(), |&forced| Ok(forced))?;
            observed.tokens.push(token);
            done += 1;
            if !progress(done) {
                return Ok(None);
            }
        }
        all.push(observed);
        for layer in &mut cache {
            layer.keys.iter_mut().chain(&mut layer.values).for_each(|rows| rows.truncate(lengths));
        }
    }
    Ok(Some(all))
}

/// Tokens that [`observe`] counts.
pub fn work(run: &Run, methods: usize) -> u64 {
    run.prompt.len() as u64 - 1 + u64::from(run.steps) * methods as u64
}

// Layers are measured side by side: each is some hundred thousand dot products.
fn measure_layers(
    shape: &Shape,
    cache: &[LayerCacheView],
    views: &[LayerView],
    row: &RowBudget,
    needles: &[u32],
) -> Vec<Vec<HeadRecall>> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let share = views.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = cache
            .chunks(share)
            .zip(views.chunks(share))
            .map(|(cache, views)| {
                scope.spawn(move || {
                    let layers = cache.iter().zip(views);
                    layers
                        .map(|(cache, view)| measure(shape, cache, view, row, needles))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("arithmetic")).collect()
    })
}

impl Observed {
    fn new(shape: &Shape, layers: usize) -> Self {
        Self {
            heads: vec![vec![HeadSeries::default(); shape.q_heads() as usize]; layers],
            blocks: vec![vec![BlockSeries::default(); shape.kv_heads as usize]; layers],
            tokens: Vec::new(),
        }
    }

    fn add(
        &mut self,
        shape: &Shape,
        measured: &[Vec<HeadRecall>],
        views: &[LayerView],
        before: &[LayerView],
        row: &RowBudget,
        two_level: &TwoLevel,
    ) {
        for (series, heads) in self.heads.iter_mut().zip(measured) {
            for (series, head) in series.iter_mut().zip(heads) {
                series.recall.push(head.recall as f32);
                series.oracle.push(head.oracle as f32);
                series.oracle_tokens.push(head.oracle_tokens as f32);
                series.error.push(head.error as f32);
                series.needle.push(head.needle as f32);
            }
        }
        for ((series, view), before) in self.blocks.iter_mut().zip(views).zip(before) {
            for (head, series) in series.iter_mut().enumerate() {
                let best_first = best_first(shape, view, head, row, two_level);
                let Some(turnover) = turnover(&best_first, &before.blocks[head]) else { continue };
                series.overlap.push(turnover.overlap as f32);
                if !turnover.at_cut_off.is_nan() {
                    series.at_cut_off.push(turnover.at_cut_off as f32);
                }
            }
        }
    }
}

// The blocks of a KV head that level 1 chose, best first; in order where it ranked none.
fn best_first(
    shape: &Shape,
    view: &LayerView,
    head: usize,
    row: &RowBudget,
    two_level: &TwoLevel,
) -> Vec<u32> {
    let mut blocks = view.blocks[head].clone();
    let group = shape.group as usize;
    let Some(scores) = view.block_scores.get(head * group..(head + 1) * group) else {
        return blocks;
    };
    let sealed = |scores: &Vec<f32>| scores[..row.sealed as usize].to_vec();
    let ranks: Vec<f64> = match two_level.block_scorer.row().rank {
        Rank::Plain => sealed(&scores[0]).into_iter().map(f64::from).collect(),
        Rank::Softmax => {
            let heads: Vec<Vec<f32>> = scores.iter().map(sealed).collect();
            softmax_mean(&heads.iter().map(Vec::as_slice).collect::<Vec<_>>())
        }
    };
    blocks.sort_by(|&a, &b| ranks[b as usize].total_cmp(&ranks[a as usize]));
    blocks
}
