//! Texts through the decode path: each method is given the text's own tokens, one by one, from one prefill an engine.

use super::activity::{Activity, Steps};
use super::retrieval::prefilled;
use super::{Engines, Method};
use crate::attention::Want;
use crate::{Error, Result, subject};

/// What takes the logits after each step: the number of the method, that of the step, and the logits.
pub(super) type Scorer<'a> = dyn FnMut(usize, usize, Vec<f32>) -> Result<()> + Send + 'a;

/// The logits that tell of `tokens[prefill ..]` under each method, method after method in the order of their engines: the first
/// `prefill - 1` tokens are prefilled, all but the last of the rest are decode steps of a fork of each method's own.
/// `progress` is called with the tokens done so far, of [`work`]; `None` where it returned false.
///
/// # Errors
/// [`Error::Argument`] for a text that is shorter than `prefill + 1` tokens or a prefill below 2, [`Error::Model`] for logits
/// that are not numbers, what `score` returns; else as [`Engine::decode`](crate::engine::Engine::decode). Every engine
/// needs two sessions.
pub(super) async fn forced(
    engines: &mut Engines,
    tokens: &[u32],
    prefill: usize,
    methods: &[Method],
    score: &mut Scorer<'_>,
    progress: &mut (dyn FnMut(u64) -> bool + Send),
) -> Result<Option<Vec<Activity>>> {
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
    let (prompt, inputs) = (&tokens[..prefill - 1], &tokens[prefill - 1..tokens.len() - 1]);
    let mut activities = vec![Activity::default(); methods.len()];
    let mut done = 0;
    for (engine, own) in engines.each() {
        let mut of_prompt = |now| progress(done + now);
        let Some(mut session) = prefilled(engine, prompt, &mut of_prompt).await? else {
            return Ok(None);
        };
        done += prompt.len() as u64;
        for &number in own {
            let method = &methods[number];
            let mut steps = Steps::begin(engine, &mut session, method).await?;
            for (i, &token) in inputs.iter().enumerate() {
                let position = steps.position();
                let logits = steps.step(token, Want::Logits).await?.logits.swap_remove(0);
                check(&logits).map_err(|problem| {
                    Error::Model(format!("{}, position {position}: {problem}", method.name))
                })?;
                score(number, i, logits)?;
                done += 1;
                if !progress(done) {
                    return Ok(None);
                }
            }
            activities[number] = steps.end().await;
        }
    }
    Ok(Some(activities))
}

/// Tokens that [`forced`] counts.
pub(super) fn work(tokens: usize, prefill: usize, methods: usize, engines: usize) -> u64 {
    let scored = tokens.saturating_sub(prefill) * methods;
    (prefill.saturating_sub(1) * engines + scored) as u64
}

// Probabilities follow from logits that are numbers, of which one at least is above minus infinity.
fn check(logits: &[f32]) -> std::result::Result<(), String> {
    let is_bad = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
    if let Some(id) = logits.iter().position(is_bad) {
        return Err(format!("the logit of token {id} is {}", logits[id]));
    }
    match logits.iter().any(|logit| logit.is_finite()) {
        true => Ok(()),
        false => Err(format!("none of the {} logits is above minus infinity", logits.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_the_prompt_for_each_engine_and_the_rest_for_each_method() {
        assert_eq!(work(4096, 2048, 3, 1), 2047 + 3 * 2048);
        assert_eq!(work(4096, 2048, 3, 2), 2 * 2047 + 3 * 2048);
    }

    #[test]
    fn logits_that_are_not_numbers_are_named() {
        let least = f32::NEG_INFINITY;
        assert!(check(&[0.0, least]).is_ok());
        for (logits, problem) in [
            (&[1.0, f32::NAN][..], "the logit of token 1 is NaN"),
            (&[f32::INFINITY, 0.0], "the logit of token 0 is inf"),
            (&[least, least], "none of the 2 logits is above minus infinity"),
        ] {
            assert_eq!(check(logits).unwrap_err(), problem);
        }
    }
}
