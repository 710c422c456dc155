//! Steps of a batch, timed.

use super::super::churn::{Heads, churn};
use super::super::warm::{step, warm_up};
use super::ways::{Load, Way};
use asynctls::Result;
use asynctls::attention::Attention;
use asynctls::engine::{Engine, OffloadStats, Session};
use std::time::Instant;

/// How many steps there are, and what is new in each.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    pub warm: usize,
    pub timed: usize,
    /// Share of the chosen blocks that is new from step to step.
    pub misses: f64,
    pub seed: u64,
}

impl Steps {
    /// All of them.
    pub fn total(&self) -> usize {
        self.warm + self.timed
    }
}

/// What the timed steps took.
#[derive(Clone, Debug)]
pub struct Timed {
    /// Seconds of each, ascending.
    pub seconds: Vec<f64>,
    /// Head-blocks that were wanted of the hot cache, and those that had to come.
    pub wanted: u64,
    pub missed: u64,
    /// Bytes that came.
    pub bytes: u64,
}

/// Sequences that look as if each held a prompt.
///
/// # Errors
/// As [`Engine::pretend`].
pub async fn pretend(engine: &Engine, tokens: u32, batch: u32) -> Result<Vec<Session>> {
    let mut sessions = Vec::new();
    for _ in 0..batch {
        sessions.push(engine.pretend(tokens).await?);
    }
    Ok(sessions)
}

/// Takes steps with all sessions, which have as many tokens afterwards as before.
///
/// # Errors
/// Errors of the device.
pub async fn time(
    engine: &mut Engine,
    sessions: &mut [Session],
    (load, way): (&Load<'_>, Way),
    steps: &Steps,
    progress: &mut impl FnMut(),
) -> Result<Timed> {
    let start = sessions[0].len();
    let attention = match way {
        Way::Dense => Attention::Dense,
        _ => Attention::TwoLevel(load.kept.two_level),
    };
    let lists = match way.timing() {
        None => Vec::new(),
        Some(_) => {
            let heads = engine.shape().kv_heads as usize * sessions.len();
            let heads = Heads { layers: engine.config.layers as usize, kv_heads: heads };
            let row = engine.next_budget(&sessions[0], &load.kept.two_level);
            churn(heads, &row, steps.misses, steps.total(), steps.seed)
        }
    };
    if let Some(first) = lists.first() {
        engine.steer(first)?;
    }
    warm_up(engine, sessions, &attention).await?;
    if let Some(timing) = way.timing() {
        engine.begin_replay(timing, true).await;
    }
    let mut seconds = Vec::with_capacity(steps.timed);
    let mut before = None;
    for number in 0..steps.total() {
        if number == steps.warm {
            before = engine.offload_stats().await;
        }
        if let Some(lists) = lists.get(number) {
            engine.steer(lists)?;
        }
        let began = Instant::now();
        step(engine, sessions, &attention).await?;
        if number >= steps.warm {
            seconds.push(began.elapsed().as_secs_f64());
        }
        progress();
    }
    let after = engine.offload_stats().await;
    rewind(sessions, start)?;
    seconds.sort_by(f64::total_cmp);
    let count = |of: &dyn Fn(&OffloadStats) -> u64| match (&before, &after) {
        (Some(before), Some(after)) => of(after) - of(before),
        _ => 0,
    };
    Ok(Timed {
        seconds,
        wanted: count(&|stats| stats.hits + stats.misses),
        missed: count(&|stats| stats.misses),
        bytes: count(&|stats| stats.bytes_up),
    })
}

fn rewind(sessions: &mut [Session], tokens: u32) -> Result<()> {
    sessions.iter_mut().try_for_each(|session| session.rewind(tokens))
}
