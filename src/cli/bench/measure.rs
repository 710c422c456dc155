//! One measurement: the same steps under one rule, timed, then traced.

use super::churn::Lists;
use super::warm::warm_up;
use asynctls::Result;
use asynctls::attention::{Attention, RowBudget, Timing, TwoLevel};
use asynctls::engine::{Engine, OffloadStats, Output, Session, Want};
use asynctls::gpu::TimeSpan;
use clap::ValueEnum;
use serde::Serialize;
use std::time::Instant;

/// Where the KV cache is, and when what is chosen of it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// All of them on the GPU
    Gpu,
    /// Fetched in the step after the one that chose them, during the step before; every step stands, whatever it misses
    Lagged,
    /// Fetched whenever they have come; steps attend the best of what is there, and every step stands
    Resident,
    /// Fetched before they are attended
    Exact,
    /// As lagged, but between steps: transfer, then compute
    NoOverlap,
}

impl Rule {
    /// The rule's name, as the option takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Lagged => "lagged",
            Self::Resident => "resident",
            Self::Exact => "exact",
            Self::NoOverlap => "no-overlap",
        }
    }

    /// Timing and overlap of an engine whose blocks come from the host.
    fn timing(self) -> (Timing, bool) {
        match self {
            Self::Gpu | Self::Exact => (Timing::Exact, true),
            Self::Lagged => (Timing::Lagged, true),
            Self::Resident => (Timing::Resident, true),
            Self::NoOverlap => (Timing::Lagged, false),
        }
    }
}

/// How many steps go before those that count, count, and are traced afterwards.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    pub warm: usize,
    pub timed: usize,
    pub traced: usize,
}

impl Steps {
    /// All of them.
    pub fn total(&self) -> usize {
        self.warm + self.timed + self.traced
    }
}

/// The figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Seconds of each timed step.
    pub seconds: Vec<f64>,
    /// Tokens that the timed steps chose.
    pub tokens: Vec<u32>,
    /// The traffic of the timed steps.
    pub moved: Option<OffloadStats>,
    /// Of the traced steps, where the device has a clock.
    pub traced: Option<Traced>,
    /// Whether the last step attended tokens of the blocks that it was to attend, and no others.
    pub is_faithful: bool,
}

/// The time stamps of a step, on average.
#[derive(Clone, Debug, Default)]
pub struct Traced {
    /// Seconds of the kernels of layers and logits.
    pub kernels: f64,
    /// Seconds in which blocks were gathered into mapped slots.
    pub gathering: f64,
    /// Of those, while the GPU worked.
    pub hidden: f64,
    /// Bytes gathered.
    pub bytes: f64,
    /// All that happened in one step, from its begin on.
    pub step: Vec<TimeSpan>,
}

/// Replays lists.
pub async fn measure(
    engine: &mut Engine,
    session: &mut Session,
    lists: &[Lists],
    two_level: &TwoLevel,
    (rule, steps): (Rule, Steps),
    progress: &mut impl FnMut(),
) -> Result<Measured> {
    let (timing, overlaps) = rule.timing();
    let attention = Attention::TwoLevel(*two_level);
    if let Some(first) = lists.first() {
        engine.steer(first)?;
        warm_up(engine, std::slice::from_mut(session), &attention).await?;
    }
    engine.begin_replay(timing, overlaps).await;
    let start = session.len();
    let mut measured = Measured::default();
    let mut stats = Vec::new();
    for (number, step) in lists.iter().enumerate() {
        if number == steps.warm || number == steps.warm + steps.timed {
            stats.push(engine.offload_stats().await);
        }
        if number == steps.warm + steps.timed {
            engine.gpu.start_clock();
        }
        engine.steer(step)?;
        let is_last = number + 1 == lists.len();
        let last_layer = step.len() - 1;
        let here = match rule {
            Rule::Resident if is_last => engine.resident_blocks(session, last_layer).await,
            _ => Vec::new(),
        };
        let budget = engine.next_budget(session, two_level);
        let began = Instant::now();
        let made = engine.decode(&mut [(&mut *session, 1)], &attention, Want::Token).await?;
        let seconds = began.elapsed().as_secs_f64();
        engine.gpu.note_time("step", began);
        if (steps.warm..steps.warm + steps.timed).contains(&number) {
            measured.seconds.push(seconds);
            let tokens = made.iter().map(Output::token).collect::<Result<Vec<_>>>()?;
            measured.tokens.extend(tokens);
        }
        if is_last {
            let expected = match rule {
                Rule::Gpu | Rule::Exact => &step[last_layer],
                Rule::Lagged | Rule::NoOverlap => &lists[number - 1][last_layer],
                Rule::Resident => &here,
            };
            let tokens = engine.chosen_tokens(&budget, two_level.budget.tokens).await?;
            measured.is_faithful = is_faithful(&tokens, expected, &budget, engine.shape().block);
        }
        progress();
    }
    let spans = engine.gpu.stop_clock().await?;
    stats.push(engine.offload_stats().await);
    if let [Some(before), Some(between), Some(after)] = stats[..] {
        measured.moved = Some(difference(&between, &before));
        let bytes = (after.bytes_up - between.bytes_up) as f64;
        measured.traced = traced(&spans, bytes, steps.traced);
    } else {
        measured.traced = traced(&spans, 0.0, steps.traced);
    }
    session.rewind(start)?;
    Ok(measured)
}

fn is_faithful(tokens: &[Vec<u32>], blocks: &[Vec<u32>], budget: &RowBudget, block: u32) -> bool {
    let of_head = |(tokens, blocks): (&Vec<u32>, &Vec<u32>)| {
        tokens.len() == budget.tokens as usize
            && tokens.iter().all(|token| blocks.binary_search(&(token / block)).is_ok())
    };
    tokens.len() == blocks.len() && tokens.iter().zip(blocks).all(of_head)
}

fn difference(after: &OffloadStats, before: &OffloadStats) -> OffloadStats {
    OffloadStats {
        steps: after.steps - before.steps,
        hits: after.hits - before.hits,
        misses: after.misses - before.misses,
        left: after.left - before.left,
        kept: after.kept - before.kept,
        chosen: after.chosen - before.chosen,
        unattended: after.unattended - before.unattended,
        redone: after.redone - before.redone,
        bytes_up: after.bytes_up - before.bytes_up,
        bytes_down: after.bytes_down - before.bytes_down,
        hidden_seconds: after.hidden_seconds - before.hidden_seconds,
        exposed_seconds: after.exposed_seconds - before.exposed_seconds,
        ring_stalls: after.ring_stalls - before.ring_stalls,
        ..*after
    }
}

fn traced(spans: &[TimeSpan], bytes: f64, steps: usize) -> Option<Traced> {
    let is_kernel = |span: &&TimeSpan| span.is_gpu && !matches!(span.what, "arrive" | "place");
    let kernels: Vec<&TimeSpan> = spans.iter().filter(is_kernel).collect();
    if kernels.is_empty() || steps == 0 {
        return None;
    }
    let gathers: Vec<&TimeSpan> = spans.iter().filter(|span| span.what == "gather").collect();
    let busy = union(spans.iter().filter(|span| span.is_gpu));
    let a_step = |seconds: f64| seconds / steps as f64;
    // The one in the middle, as the first may still see the clock begin.
    let walls: Vec<&TimeSpan> = spans.iter().filter(|span| span.what == "step").collect();
    let wall = walls.get(walls.len() / 2)?;
    let within = spans
        .iter()
        .filter(|span| span.what != "step" && span.end > wall.begin && span.begin < wall.end);
    Some(Traced {
        kernels: a_step(kernels.iter().map(|span| span.end - span.begin).sum()),
        gathering: a_step(gathers.iter().map(|span| span.end - span.begin).sum()),
        hidden: a_step(gathers.iter().map(|span| covered(span, &busy)).sum()),
        bytes: bytes / steps as f64,
        step: within
            .map(|span| TimeSpan {
                begin: span.begin - wall.begin,
                end: span.end - wall.begin,
                ..*span
            })
            .collect(),
    })
}

// Intervals in which one of the spans goes on, ascending and apart.
fn union<'a>(spans: impl Iterator<Item = &'a TimeSpan>) -> Vec<(f64, f64)> {
    let mut all: Vec<(f64, f64)> = spans.map(|span| (span.begin, span.end)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut joined: Vec<(f64, f64)> = Vec::new();
    for (begin, end) in all {
        match joined.last_mut() {
            Some(last) if begin <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((begin, end)),
        }
    }
    joined
}

// How much of a span lies in these intervals.
fn covered(span: &TimeSpan, intervals: &[(f64, f64)]) -> f64 {
    let shared = |&(begin, end): &(f64, f64)| (end.min(span.end) - begin.max(span.begin)).max(0.0);
    intervals.iter().map(shared).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(what: &'static str, is_gpu: bool, begin: f64, end: f64) -> TimeSpan {
        TimeSpan { what, layer: 0, is_gpu, begin, end }
    }

    #[test]
    fn what_is_hidden_is_what_the_gpu_works_beside() {
        let spans = [
            span("step", false, 0.0, 10.0),
            span("layers", true, 1.0, 4.0),
            span("place", true, 3.0, 5.0),
            span("layers", true, 7.0, 9.0),
            span("gather", false, 4.5, 7.5),
            span("gather", false, 9.5, 11.0),
        ];
        let traced = traced(&spans, 30.0, 2).unwrap();
        assert_eq!((traced.kernels, traced.bytes), (2.5, 15.0));
        assert_eq!((traced.gathering, traced.hidden), (2.25, 0.5));
        assert_eq!(traced.step.len(), 5);
        assert!(super::traced(&spans[4..], 1.0, 2).is_none());
    }
}
