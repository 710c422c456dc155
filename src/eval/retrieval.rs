//! Answers to retrieval tasks under several kinds of attention, from one prefill an engine.

use super::activity::{Activity, Steps};
use super::tasks::{Sample, score};
use super::{Engines, Method};
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
    /// What its steps did.
    pub activity: Activity,
}

/// Answers a sample under each method: all but the prompt's last `decoded` tokens (one at least) are prefilled once an engine,
/// then each method goes on from a fork of its own, token by token, so that the first token of the answer is made by the
/// attention under test. `None` where `progress` returned false, which is asked with the tokens done so far, of
/// [`work`].
///
/// # Errors
/// As [`Engine::prefill`] and [`Engine::decode`]. Every engine needs two sessions.
pub async fn answers(
    engines: &mut Engines,
    tokenizer: &Tokenizer,
    sample: &Sample,
    decoded: u32,
    methods: &[Method],
    progress: &mut (dyn FnMut(u64) -> bool + Send),
) -> Result<Option<Vec<Answer>>> {
    let (prompt, question) = sample.tokens.split_at(prefilled_tokens(sample, decoded));
    let mut done = 0;
    let mut answers: Vec<Option<Answer>> = vec![None; methods.len()];
    for (engine, own) in engines.each() {
        let mut of_prompt = |now| progress(done + now);
        let Some(mut session) = prefilled(engine, prompt, &mut of_prompt).await? else {
            return Ok(None);
        };
        done += prompt.len() as u64;
        for &number in own {
            let mut steps = Steps::begin(engine, &mut session, &methods[number]).await?;
            let mut given = question.iter().copied();
            let mut made: Vec<u32> = Vec::new();
            while made.len() < sample.answer_tokens as usize {
                let Some(token) = given.next().or(made.last().copied()) else { break };
                let next = steps.step(token, Want::Token).await?.token()?;
                done += 1;
                if !progress(done) {
                    return Ok(None);
                }
                if given.len() > 0 {
                    continue;
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
            let score = score(&text, &sample.references);
            answers[number] = Some(Answer { score, text, activity: steps.end().await });
        }
    }
    Ok(Some(answers.into_iter().flatten().collect()))
}

/// Tokens that [`answers`] counts at most.
pub fn work(sample: &Sample, decoded: u32, methods: usize, engines: usize) -> u64 {
    let prompt = prefilled_tokens(sample, decoded);
    let steps = sample.tokens.len() - prompt + sample.answer_tokens as usize;
    (prompt * engines + steps * methods) as u64
}

// A token at least is prefilled, and one is left for the first step.
fn prefilled_tokens(sample: &Sample, decoded: u32) -> usize {
    sample.tokens.len().saturating_sub(decoded.max(1) as usize).max(1)
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
