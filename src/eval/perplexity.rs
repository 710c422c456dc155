//! Losses of a text, token by token through the decode path, so that selection is what is measured.

use super::activity::Activity;
use super::divergence::loss;
use super::forced::{self, forced};
use super::{Engines, Method};
use crate::Result;
use serde::{Deserialize, Serialize};

/// What one method made of a text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The loss of each token, in nats.
    pub losses: Vec<f64>,
    /// What its steps did.
    pub activity: Activity,
}

/// The losses, in nats, of `tokens[prefill ..]` under each method: the first `prefill - 1` tokens are prefilled once an engine,
/// the rest are given to the decode path one by one, each method on a fork of its own. `progress` is called with the tokens
/// done so far, of [`work`]; `None` where it returned false.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) for a text that is shorter than `prefill + 1` tokens or a prefill below 2,
/// [`Error::Model`](crate::Error::Model) for logits that are not numbers; else as
/// [`Engine::decode`](crate::engine::Engine::decode). Every engine needs two sessions.
pub async fn losses(
    engines: &mut Engines,
    tokens: &[u32],
    prefill: usize,
    methods: &[Method],
    progress: &mut (dyn FnMut(u64) -> bool + Send),
) -> Result<Option<Vec<Scored>>> {
    let mut all = vec![Scored::default(); methods.len()];
    let mut score = |method: usize, step: usize, logits: Vec<f32>| {
        all[method].losses.push(loss(&logits, tokens[prefill + step]));
        Ok(())
    };
    let made = forced(engines, tokens, prefill, methods, &mut score, progress).await?;
    let Some(activities) = made else { return Ok(None) };
    for (one, activity) in all.iter_mut().zip(activities) {
        one.activity = activity;
    }
    Ok(Some(all))
}

/// Tokens that [`losses`] counts.
pub fn work(tokens: usize, prefill: usize, methods: usize, engines: usize) -> u64 {
    forced::work(tokens, prefill, methods, engines)
}

/// The perplexity of these losses: the exponential of their mean.
pub fn perplexity(losses: &[f64]) -> f64 {
    (losses.iter().sum::<f64>() / losses.len() as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_logits_the_perplexity_is_their_number() {
        let even = vec![loss(&[7.0; 50], 3); 9];
        assert!((perplexity(&even) - 50.0).abs() < 1e-9);
    }
}
