//! One answer: the prompt's rest, then token after token.

use super::interrupt;
use super::progress::bar;
use super::stop::StopTexts;
use super::{Failure, Outcome};
use asynctls::Error;
use asynctls::attention::Attention;
use asynctls::engine::{Engine, Output, Session, Want};
use asynctls::model::sampler::{Past, Sampler};
use asynctls::model::tokenizer::Tokenizer;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended it, or a stop text came.
    Stop,
    /// It reached `--max-tokens` or the end of the context.
    Length,
    /// The user ended it, or nobody reads it.
    Interrupted,
}

/// An answer and what it took.
pub struct Answer {
    /// The text.
    pub text: String,
    /// Its tokens, without the one that ends it, but with those of a stop text.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens that the latest decode step attended, or the next one would.
    pub attended: u32,
    /// Work done.
    pub work: Work,
}

/// Tokens worked on, and how long that took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Tokens of prompts.
    pub prompt_tokens: u32,
    /// Time for them.
    pub prefill: Duration,
    /// Decode steps, a token each.
    pub steps: u32,
    /// Time for them.
    pub decode: Duration,
}

impl Work {
    /// Adds what another answer took.
    pub fn add(&mut self, other: &Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.prefill += other.prefill;
        self.steps += other.steps;
        self.decode += other.decode;
    }

    /// Speed of prompts.
    pub fn prompt_rate(&self) -> Option<f64> {
        rate(self.prompt_tokens, self.prefill)
    }

    /// Speed of decode steps.
    pub fn decode_rate(&self) -> Option<f64> {
        rate(self.steps, self.decode)
    }
}

fn rate(tokens: u32, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| f64::from(tokens) / time.as_secs_f64())
}

/// Answers prompts in one session.
pub struct Answerer<'a> {
    engine: &'a Engine,
    tokenizer: &'a Tokenizer,
    session: Session,
    attention: Attention,
    sampler: Sampler,
    want: Want,
    max_tokens: u32,
    stop: &'a [String],
}

impl<'a> Answerer<'a> {
    /// Goes on in a session.
    pub fn new(
        engine: &'a Engine,
        tokenizer: &'a Tokenizer,
        session: Session,
        attention: Attention,
        sampler: Sampler,
        max_tokens: u32,
        stop: &'a [String],
    ) -> Self {
        // The likeliest token is found on the GPU; for draws and penalties, the logits have to be read back.
        let settings = sampler.settings();
        let reads = settings.draws() || settings.penalises();
        let want = if reads { Want::Logits } else { Want::Token };
        Self { engine, tokenizer, session, attention, sampler, want, max_tokens, stop }
    }

    /// The session, how many draws were made for it, and with which seed.
    pub fn state(&mut self) -> (&mut Session, u64, Option<u64>) {
        let settings = self.sampler.settings();
        let seed = settings.draws().then_some(settings.seed);
        (&mut self.session, self.sampler.draws(), seed)
    }

    /// Tokens in the session.
    pub fn context(&self) -> u32 {
        self.session.len()
    }

    /// Answers `prompt`, all tokens from the beginning of the session on; what the session already holds of them is not
    /// computed again. `show` gets the text as it is made, and tells whether to go on.
    pub fn answer(
        &mut self,
        prompt: &[u32],
        show: &mut dyn FnMut(&str) -> bool,
    ) -> Outcome<Answer> {
        let most = self.check_length(prompt)?;
        let _keeping = interrupt::Keeping::new();
        let mut answer = Answer {
            text: String::new(),
            tokens: Vec::new(),
            finish: Finish::Interrupted,
            attended: 0,
            work: Work::default(),
        };
        let Some(mut next) = self.prefill(prompt, &mut answer.work)? else {
            answer.attended = self.attended();
            return Ok(answer);
        };
        answer.attended = self.attended();
        let began = Instant::now();
        let mut decoder = self.tokenizer.decoder(true);
        let mut stop = StopTexts::new(self.stop);
        let mut add = |text: &mut String, piece: &str| {
            text.push_str(piece);
            piece.is_empty() || show(piece)
        };
        answer.finish = loop {
            if self.tokenizer.is_stop(next) {
                break Finish::Stop;
            }
            answer.tokens.push(next);
            let passed = stop.push(&decoder.push(next));
            let goes_on = add(&mut answer.text, &passed.text);
            if passed.is_over {
                break Finish::Stop;
            }
            if answer.tokens.len() as u32 == most {
                break Finish::Length;
            }
            if !goes_on || interrupt::asked() {
                break Finish::Interrupted;
            }
            answer.attended = self.attended();
            let batch = &mut [(&mut self.session, next)];
            let made = pollster::block_on(self.engine.decode(batch, &self.attention, self.want))?;
            answer.work.steps += 1;
            next = self.pick(made.first(), prompt.len())?;
        };
        let last = stop.push(&decoder.finish());
        add(&mut answer.text, &last.text);
        add(&mut answer.text, &stop.finish());
        answer.work.decode = began.elapsed();
        Ok(answer)
    }

    // How many tokens the answer may have: the last one is not fed back, so it needs no room.
    fn check_length(&self, prompt: &[u32]) -> Outcome<u32> {
        let context = self.engine.options.context;
        let length = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        if length == 0 {
            return Err(Error::argument("the prompt", "no token", "at least one is needed").into());
        }
        if length > context {
            return Err(Error::argument(
                "the conversation",
                format!("{length} tokens"),
                format!(
                    "the context holds {context}: /clear forgets what was said, --when-full drop-oldest the oldest of it, \
                     and --context N sets more aside where the model allows it"
                ),
            )
            .into());
        }
        Ok(self.max_tokens.min(context - length + 1))
    }

    // The first token of the answer, unless the user ended the prompt before its end.
    fn prefill(&mut self, prompt: &[u32], work: &mut Work) -> Outcome<Option<u32>> {
        let common = self.session.tokens().iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is computed again even if it is there: what follows from it is not.
        let kept = common.min(prompt.len() - 1) as u32;
        self.session.rewind(kept)?;
        let rest = &prompt[kept as usize..];
        let bar = bar("prompt", rest.len() as u64, false);
        let began = Instant::now();
        let made = pollster::block_on(self.engine.prefill(
            &mut self.session,
            rest,
            self.want,
            &mut |done| {
                bar.set_position(done.into());
                !interrupt::asked()
            },
        ));
        drop(bar);
        let made = made?;
        work.prefill = began.elapsed();
        work.prompt_tokens = self.session.len() - kept;
        if self.session.len() as usize == prompt.len() {
            self.pick(Some(&made), prompt.len()).map(Some)
        } else {
            Ok(None)
        }
    }

    fn attended(&self) -> u32 {
        self.engine.attended_tokens(&self.session, &self.attention)
    }

    fn pick(&mut self, output: Option<&Output>, prompt: usize) -> Outcome<u32> {
        let nothing = || Failure::Error(Error::Gpu("a step gave nothing back".into()));
        let output = output.ok_or_else(nothing)?;
        if self.want == Want::Token {
            Ok(output.token()?)
        } else {
            let past = Past { tokens: self.session.tokens(), prompt };
            Ok(self.sampler.sample(output.logits.first().ok_or_else(nothing)?, past)?)
        }
    }
}
