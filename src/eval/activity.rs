//! Decode steps of one method, and the proof of what they did: what was attended, and what was not there.

use super::Method;
use crate::Result;
use crate::attention::Want;
use crate::engine::{Engine, OffloadStats, Output, Session};
use serde::{Deserialize, Serialize};

/// Counts over decode steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    /// Steps.
    pub steps: u64,
    /// Those that left tokens out.
    pub selecting: u64,
    /// Tokens attended.
    pub attended: u64,
    /// Tokens that there were.
    pub there: u64,
    /// Head-blocks that level 1 chose, where the KV cache is in CPU memory. The first step waits for its choice under every
    /// rule, and is not counted.
    pub chosen: u64,
    /// Of those, the ones that their own step did not attend: under `lagged` what the step before had not chosen, under `resident`
    /// what was not on the GPU; none of a step that was done again.
    pub missed: u64,
    /// Steps that were done again, because of what they missed.
    pub redone: u64,
}

impl Activity {
    /// Takes in what other steps did.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.selecting += other.selecting;
        self.attended += other.attended;
        self.there += other.there;
        self.chosen += other.chosen;
        self.missed += other.missed;
        self.redone += other.redone;
    }

    /// Tokens attended by a step, in the mean.
    pub fn attended_a_step(&self) -> Option<f64> {
        share(self.attended, self.steps)
    }

    /// The share of the tokens there that was attended.
    pub fn attended_share(&self) -> Option<f64> {
        share(self.attended, self.there)
    }

    /// The share of the chosen head-blocks that their step did not attend; none where the KV cache is all on the GPU.
    pub fn missed_share(&self) -> Option<f64> {
        share(self.missed, self.chosen)
    }

    /// The share of the steps that were done again.
    pub fn redone_share(&self) -> Option<f64> {
        share(self.redone, self.steps)
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The decode steps of a method, on a fork of its own.
pub(super) struct Steps<'e> {
    engine: &'e Engine,
    method: &'e Method,
    session: Session,
    activity: Activity,
    after_first: Option<OffloadStats>,
}

impl<'e> Steps<'e> {
    /// Forks a session for a method, with nothing on the GPU that the CPU holds: what other methods did before does not show, and
    /// what is stored as bytes is attended so from the first step on.
    pub(super) async fn begin(
        engine: &'e mut Engine,
        session: &mut Session,
        method: &'e Method,
    ) -> Result<Self> {
        if let Some(rule) = method.host {
            engine.begin_unloaded(&rule).await?;
        }
        let session = engine.fork(session).await?;
        let (activity, after_first) = (Activity::default(), None);
        Ok(Self { engine, method, session, activity, after_first })
    }

    /// The position of the next step.
    pub(super) fn position(&self) -> u32 {
        self.session.len()
    }

    /// A step.
    pub(super) async fn step(&mut self, token: u32, want: Want) -> Result<Output> {
        let attention = &self.method.attention;
        let (attended, there) =
            (self.engine.attended_tokens(&self.session, attention), self.session.len() + 1);
        let batch = &mut [(&mut self.session, token)];
        let output = self.engine.decode(batch, attention, want).await?.swap_remove(0);
        self.activity.steps += 1;
        self.activity.selecting += u64::from(attended < there);
        self.activity.attended += u64::from(attended);
        self.activity.there += u64::from(there);
        if self.activity.steps == 1 {
            self.after_first = self.engine.offload_stats().await;
        }
        Ok(output)
    }

    /// What they did.
    pub(super) async fn end(mut self) -> Activity {
        if let (Some(from), Some(_)) = (self.after_first, self.method.selection())
            && let Some(to) = self.engine.offload_stats().await
        {
            self.activity.chosen = to.chosen - from.chosen;
            self.activity.missed = to.unattended - from.unattended;
            self.activity.redone = to.redone - from.redone;
        }
        self.activity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_steps_together() {
        let one =
            Activity { steps: 2, selecting: 1, attended: 30, there: 40, ..Activity::default() };
        let other = Activity {
            steps: 2,
            selecting: 2,
            attended: 10,
            there: 60,
            chosen: 8,
            missed: 2,
            redone: 1,
        };
        let mut sum = one;
        sum.add(&other);
        assert_eq!((sum.steps, sum.selecting), (4, 3));
        assert_eq!((sum.attended_a_step(), sum.attended_share()), (Some(10.0), Some(0.4)));
        assert_eq!((sum.missed_share(), one.missed_share()), (Some(0.25), None));
        assert_eq!(sum.redone_share(), Some(0.25));
        assert_eq!(Activity::default().attended_a_step(), None);
    }
}
