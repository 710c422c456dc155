//! Answers to retrieval tasks under several kinds of attention, from one prefill.

use super::Method;
use super::tasks::{Sample, score};
use crate::Result;
use crate::engine::{Engine, Session, Want};
use crate::model::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

/// One method's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The model's answer.
    pub text: String,
    /// Share of the references that it contains.
    pub score: f64,
    /// Tokens attended by the first step.
    pub attended: u32,
}

/// Answers a sample under each method: all but the prompt's last token are prefilled once, then each method goes on from a
/// fork of its own, so that the first token of the answer is made by the attention under test. `None` where `goes_on`
/// returned false, which is asked with the tokens done so far, of [`work`].
///
/// # Errors
/// As [`Engine::prefill`] and [`Engine::decode`]. The engine needs two sessions.
pub async fn answers(
    engine: &Engine,
    tokenizer: &Tokenizer,
    sample: &Sample,
    methods: &[Method],
    progress: &mut (dyn FnMut(u64) -> bool + Send),
) -> Result<Option<Vec<Answer>>> {
    let last = sample.tokens.len() - 1;
    let Some(mut session) = prefilled(engine, &sample.tokens[..last], progress).await? else {
        return Ok(None);
    };
    let mut done = last as u64;
    let mut answers = Vec::with_capacity(methods.len());
    for method in methods {
        let mut fork = engine.fork(&mut session).await?;
        let attended = engine.attended_tokens(&fork, &method.attention);
        let mut made: Vec<u32> = Vec::new();
        while made.len() < sample.answer_tokens as usize {
            let token = made.last().copied().unwrap_or(sample.tokens[last]);
            let batch = &mut [(&mut fork, token)];
            let next = engine.decode(batch, &method.attention, Want::Token).await?[0].token()?;
            done += 1;
            if !progress(done) {
                return Ok(None);
            }
            if tokenizer.is_stop(next) {
                break;
            }
            made.push(next);
            // More text can only raise the score, so nothing is left to learn.
            if score(&tokenizer.decode(&made), &sample.references) == 1.0 {
                break;
            }
        }
        let text = tokenizer.decode(&made);
        answers.push(Answer { score: score(&text, &sample.references), text, attended });
    }
    Ok(Some(answers))
}

/// Tokens that [`answers`] counts at most.
pub fn work(sample: &Sample, methods: usize) -> u64 {
    sample.tokens.len() as u64 - 1 + u64::from(sample.answer_tokens) * methods as u64
}

/// A session with these tokens; `None` where `progress` returned false.
pub(super) async fn prefilled(
    engine: &Engine,
    tokens: &[u32],
    progress: &mut (dyn FnMut(u64) -> bool + Send),
) -> Result<Option<Session>> {
    let mut session = engine.session()?;
    let mut goes_on = true;
    let mut counted = |done: u32| {
        goes_on = progress(u64::from(done));
        goes_on
    };
    engine.prefill(&mut session, tokens, Want::Nothing, &mut counted).await?;
    Ok(goes_on.then_some(session))
}
