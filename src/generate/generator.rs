//! Answers in one session of an engine.

use super::file::State;
use super::{AnswerOptions, Chat, ChatFile, End, Framing, Piece, Sequence};
use crate::attention::Attention;
use crate::engine::{Engine, Session};
use crate::{Error, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Answers prompts in one session, of which each computes only what is new.
pub struct Generator {
    engine: Arc<Engine>,
    framing: Arc<Framing>,
    session: Session,
    /// The sampler's draws so far, and their seed if there were any.
    draws: u64,
    seed: Option<u64>,
}

/// Tokens worked on, and how long that took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Tokens of prompts that were computed.
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

    /// Tokens of prompts a second; `None` where there were none.
    pub fn prompt_rate(&self) -> Option<f64> {
        rate(self.prompt_tokens, self.prefill)
    }

    /// Decode steps a second; `None` where there were none.
    pub fn decode_rate(&self) -> Option<f64> {
        rate(self.steps, self.decode)
    }
}

fn rate(tokens: u32, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| f64::from(tokens) / time.as_secs_f64())
}

/// An answer that has ended, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// The text.
    pub text: String,
    /// Its tokens, without the one that ended it, but with those of a stop text.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub end: End,
    /// All tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, those that the session held already.
    pub reused_tokens: u32,
    /// Tokens that the latest decode step attended, or the next one would.
    pub attended: u32,
    /// Work done.
    pub work: Work,
}

/// Tells whether a prompt goes on, of which so many tokens are computed, of so many.
type Progress<'a> = &'a mut (dyn FnMut(u32, u32) -> bool + Send);

impl Generator {
    /// A generator in an empty session.
    ///
    /// # Errors
    /// As [`Engine::session`].
    pub fn new(engine: impl Into<Arc<Engine>>, framing: impl Into<Arc<Framing>>) -> Result<Self> {
        let (engine, framing) = (engine.into(), framing.into());
        let session = engine.session()?;
        Ok(Self { engine, framing, session, draws: 0, seed: None })
    }

    /// A generator that goes on where a file ends, and the error of the file's first damaged block if there is one: what
    /// follows it is computed again. `progress` is called with bytes as they are read.
    ///
    /// # Errors
    /// As [`Engine::restore`].
    pub async fn load(
        engine: impl Into<Arc<Engine>>,
        framing: impl Into<Arc<Framing>>,
        file: &ChatFile,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(Self, Option<Error>)> {
        let (engine, framing) = (engine.into(), framing.into());
        let (session, damage) = engine.restore(file.file(), progress).await?;
        let (draws, seed) = (file.draws(), file.seed());
        Ok((Self { engine, framing, session, draws, seed }, damage))
    }

    /// Writes the session, what was said and the draws to a file: what it does not hold yet. `progress` is called with
    /// bytes as they are written.
    ///
    /// # Errors
    /// As [`Engine::save`].
    pub async fn save(
        &mut self,
        chat: &Chat,
        file: &mut ChatFile,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<()> {
        let (raw, draws, seed) = (self.framing.is_raw(), self.draws, self.seed);
        let state = State { messages: chat.turns().to_vec(), raw, draws, seed };
        file.save(&self.engine, &mut self.session, state, progress).await
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// How prompts become tokens.
    pub fn framing(&self) -> &Framing {
        &self.framing
    }

    /// The session: all tokens of the latest prompt and its answer, but the answer's last.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Forgets the oldest questions of a chat where the engine's context has too little room for an answer of so many tokens:
    /// see [`Chat::make_room`].
    ///
    /// # Errors
    /// As [`Chat::make_room`].
    pub fn make_room(&self, chat: &mut Chat, max_tokens: u32) -> Result<usize> {
        chat.make_room(&self.framing, self.engine.options.context, max_tokens)
    }

    /// Begins the answer to a chat's latest question, which [`Answer::finish`] adds to the chat. The prompt is computed
    /// here, but for what the session holds of it; `progress` is called as by [`Engine::prefill`], with the tokens that are
    /// computed so far and all that are to be computed, and once before. Where it returns false, the answer is
    /// [cancelled](End::Cancelled).
    ///
    /// Where an answer fails or is dropped, the question stays the chat's latest: [`Chat::take_back`].
    ///
    /// # Errors
    /// As [`Chat::tokens`], [`Sequence::new`] and [`Engine::prefill`].
    pub async fn answer<'a>(
        &'a mut self,
        chat: &'a mut Chat,
        options: &AnswerOptions,
        progress: Progress<'_>,
    ) -> Result<Answer<'a>> {
        let prompt = chat.tokens(&self.framing)?;
        self.begin(prompt, Some(chat), options, progress).await
    }

    /// Begins what follows a prompt of these tokens: see [`Generator::answer`].
    ///
    /// # Errors
    /// As [`Generator::answer`].
    pub async fn complete(
        &mut self,
        prompt: Vec<u32>,
        options: &AnswerOptions,
        progress: Progress<'_>,
    ) -> Result<Answer<'_>> {
        self.begin(prompt, None, options, progress).await
    }

    async fn begin<'a>(
        &'a mut self,
        prompt: Vec<u32>,
        chat: Option<&'a mut Chat>,
        options: &AnswerOptions,
        progress: Progress<'_>,
    ) -> Result<Answer<'a>> {
        let context = self.engine.options.context;
        let tokenizer = self.framing.tokenizer().clone();
        let mut sequence = Sequence::new(tokenizer, prompt, context, options, self.draws)?;
        if options.sampling.draws() {
            self.seed = Some(options.sampling.seed);
        }
        let reused = sequence.reuse(self.session.tokens());
        self.session.rewind(reused)?;
        let began = Instant::now();
        let (next, want) = (sequence.next_tokens(), sequence.want());
        let all = next.len() as u32;
        let made = if progress(0, all) {
            let mut goes_on = |done| progress(done, all);
            Some(self.engine.prefill(&mut self.session, next, want, &mut goes_on).await?)
        } else {
            None
        };
        let mut work = Work { prefill: began.elapsed(), ..Work::default() };
        work.prompt_tokens = self.session.len() - reused;
        let ready = match made {
            Some(made) if work.prompt_tokens == all => Some(sequence.accept(&made)?),
            _ => {
                sequence.cancel();
                None
            }
        };
        self.draws = sequence.draws();
        let attention = options.attention;
        let attended = self.engine.attended_tokens(&self.session, &attention);
        Ok(Answer { generator: self, chat, sequence, attention, ready, reused, attended, work })
    }
}

/// An answer in the making. Dropping it cancels it.
pub struct Answer<'a> {
    generator: &'a mut Generator,
    chat: Option<&'a mut Chat>,
    sequence: Sequence,
    attention: Attention,
    /// Made, and not yet asked for.
    ready: Option<Piece>,
    reused: u32,
    attended: u32,
    work: Work,
}

impl Answer<'_> {
    /// The next piece: a token, and what text can be shown now. `None` once the answer has ended.
    ///
    /// # Errors
    /// As [`Engine::decode`] and [`Sequence::accept`]. The answer ends with one.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        if let Some(piece) = self.ready.take() {
            return Ok(Some(piece));
        }
        let &[token] = self.sequence.next_tokens() else { return Ok(None) };
        let made = self.step(token).await;
        if made.is_err() {
            self.sequence.cancel();
        }
        made.map(Some)
    }

    async fn step(&mut self, token: u32) -> Result<Piece> {
        let Generator { engine, session, draws, .. } = &mut *self.generator;
        let began = Instant::now();
        self.attended = engine.attended_tokens(session, &self.attention);
        let batch = &mut [(session, token)];
        let made = engine.decode(batch, &self.attention, self.sequence.want()).await?;
        self.work.steps += 1;
        let nothing = || Error::Gpu("a step gave nothing back".into());
        let piece = self.sequence.accept(made.first().ok_or_else(nothing)?)?;
        *draws = self.sequence.draws();
        self.work.decode += began.elapsed();
        Ok(piece)
    }

    /// Ends the answer. The text that was held back is still to come.
    pub fn cancel(&mut self) {
        let rest = self.sequence.cancel();
        match &mut self.ready {
            Some(ready) => ready.text.push_str(&rest.text),
            None if rest.text.is_empty() => {}
            None => self.ready = Some(rest),
        }
    }

    /// Why it ended, once it has.
    pub fn end(&self) -> Option<End> {
        self.sequence.end()
    }

    /// Ends the answer, and adds it to its chat. One that was cancelled before its first token is none: the question stays
    /// the latest message.
    pub fn finish(mut self) -> Made {
        self.cancel();
        let made = Made {
            text: self.sequence.text().to_owned(),
            tokens: self.sequence.answer().to_vec(),
            end: self.sequence.end().unwrap_or(End::Cancelled),
            prompt_tokens: self.sequence.prompt_tokens(),
            reused_tokens: self.reused,
            attended: self.attended,
            work: self.work,
        };
        if let Some(chat) = self.chat
            && !(made.tokens.is_empty() && made.end == End::Cancelled)
        {
            chat.answer(&made.text);
        }
        made
    }
}
