//! Losses of a text, token by token through the decode path, so that selection is what is measured.

use super::Method;
use crate::engine::{Engine, Output, Session, Want};
use crate::model::logits;
use crate::{Error, Result, subject};

/// The losses, in nats, of `tokens[prefill ..]` under each method: the first `prefill - 1` tokens are prefilled once, the
/// rest are given to the decode path one by one, each method on a fork of its own. `progress` is called with the tokens
/// done so far, of [`work`]; `None` where it returned false.
///
/// # Errors
/// [`Error::Argument`] for a text that is shorter than `prefill + 1` tokens or a prefill below 2, else as
/// [`Engine::decode`]. The engine needs a session for each method and one more.
pub async fn losses(
    engine: &Engine,
    tokens: &[u32],
    prefill: usize,
    methods: &[Method],
    progress: &mut (dyn FnMut(u64) -> bool + Send),
) -> Result<Option<Vec<Vec<f64>>>> {
    if prefill < 2 {
        return Err(Error::argument(subject::PREFILL, prefill, "at least 2 tokens are needed"));
    }
    if tokens.len() <= prefill {
        return Err(Error::argument(
            "the text",
            format!("{} tokens", tokens.len()),
            format!("{prefill} are prefilled and more must be left to score"),
        ));
    }
    let mut session = engine.session()?;
    let mut goes_on = true;
    let mut counted = |done: u32| {
        goes_on = progress(u64::from(done));
        goes_on
    };
    let prompt = &tokens[..prefill - 1];
    engine.prefill(&mut session, prompt, Want::Nothing, &mut counted).await?;
    if !goes_on {
        return Ok(None);
    }
    let mut forks = Vec::with_capacity(methods.len());
    for _ in methods {
        forks.push(engine.fork(&mut session).await?);
    }
    drop(session);
    let mut done = prompt.len() as u64;
    let mut losses = vec![Vec::with_capacity(tokens.len() - prefill); methods.len()];
    for pair in tokens[prefill - 1..].windows(2) {
        for ((method, fork), losses) in methods.iter().zip(&mut forks).zip(&mut losses) {
            let output = next(engine, fork, pair[0], method).await?;
            logits::check(&output.logits[0])?;
            losses.push(loss(&output.logits[0], pair[1]));
            done += 1;
            if !progress(done) {
                return Ok(None);
            }
        }
    }
    Ok(Some(losses))
}

/// Tokens that [`losses`] counts.
pub fn work(tokens: usize, prefill: usize, methods: usize) -> u64 {
    let scored = tokens.saturating_sub(prefill) * methods;
    (prefill.saturating_sub(1) + scored) as u64
}

/// The perplexity of these losses: the exponential of their mean.
pub fn perplexity(losses: &[f64]) -> f64 {
    (losses.iter().sum::<f64>() / losses.len() as f64).exp()
}

async fn next(
    engine: &Engine,
    session: &mut Session,
    token: u32,
    method: &Method,
) -> Result<Output> {
    let batch = &mut [(session, token)];
    Ok(engine.decode(batch, &method.attention, Want::Logits).await?.swap_remove(0))
}

/// The negative logarithm of the probability that these logits give to `token`.
pub fn loss(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_negative_log_probabilities() {
        let logits = [1.0f32, 2.0, 3.0];
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (token, logit) in logits.iter().enumerate() {
            let probability = f64::from(*logit).exp() / sum;
            assert!((loss(&logits, token as u32) + probability.ln()).abs() < 1e-12);
        }
        // Equal logits say nothing: the perplexity is their number.
        let even = vec![loss(&[7.0; 50], 3); 9];
        assert!((perplexity(&even) - 50.0).abs() < 1e-9);
        assert!(loss(&[-1e30, 0.0], 0) > 1e29);
    }

    #[test]
    fn work_is_the_prompt_once_and_the_rest_for_each_method() {
        assert_eq!(work(4096, 2048, 3), 2047 + 3 * 2048);
    }
}
