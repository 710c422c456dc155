//! `--session FILE`: a conversation that lives in a file between runs.

use super::answer::Answerer;
use super::conversation::{Conversation, Said};
use super::progress::byte_bar;
use super::terminal::{note, size};
use asynctls::engine::{Engine, Session, SessionFormat};
use asynctls::kv::SessionFile;
use asynctls::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, Instant};

/// The command line's own state in the file.
#[derive(Debug, Deserialize, Serialize)]
struct State {
    messages: Vec<Said>,
    /// Whether they go to the model without a chat template.
    raw: bool,
    /// The sampler's draws so far.
    draws: u64,
    /// Of this seed, if there were any.
    #[serde(default)]
    seed: Option<u64>,
}

/// An open session file.
pub struct Saved {
    file: SessionFile,
    is_read_only: bool,
    /// Draws of a sampler that were made for it, and their seed.
    draws: u64,
    seed: Option<u64>,
    loaded: u32,
    load: Duration,
    written: u64,
}

/// The session's figures in `--json` and `--stats`.
#[derive(Debug, Serialize)]
pub struct SavedReport {
    /// Tokens that came from the file.
    pub loaded_tokens: u32,
    /// Seconds to load them.
    pub load_seconds: f64,
    /// Bytes that were written to the file.
    pub written_bytes: u64,
}

impl SavedReport {
    /// In one line.
    pub fn line(&self) -> String {
        format!(
            "session: {} tokens loaded in {:.2} s, {} written",
            self.loaded_tokens,
            self.load_seconds,
            size(self.written_bytes)
        )
    }
}

impl Saved {
    /// Opens the file, and takes the conversation up where it ends there. One that is only read stays as it is.
    pub fn open(
        path: &Path,
        is_read_only: bool,
        format: &SessionFormat,
        conversation: &mut Conversation<'_>,
    ) -> Result<Self> {
        let began = Instant::now();
        let file = if is_read_only { format.open_read_only(path) } else { format.open(path) }?;
        if file.torn_tail() > 0 {
            note(&format!(
                "note: {} ends in {} of a write that was cut off, which stay there but do not count; the conversation \
                 goes on from the {} tokens before them",
                path.display(),
                size(file.torn_tail()),
                file.tokens().len()
            ));
        }
        let mut saved = Self { is_read_only, ..Self::new(file) };
        if let Some(State { messages, raw, draws, seed }) = saved.state()? {
            if raw != conversation.is_raw() {
                let value = if raw { "not given" } else { "given" };
                let limit = format!("the session {} was begun otherwise", path.display());
                return Err(Error::argument("--raw", value, limit));
            }
            conversation.resume(messages)?;
            (saved.draws, saved.seed) = (draws, seed);
        }
        saved.load = began.elapsed();
        Ok(saved)
    }

    /// Begins a file for a conversation that is going on.
    ///
    /// # Errors
    /// [`Error::Argument`] for a file that holds one already.
    pub fn begin(path: &Path, format: &SessionFormat) -> Result<Self> {
        let saved = Self::new(format.open(path)?);
        if saved.tokens() > 0 || saved.state()?.is_some() {
            let limit = "there is a conversation in it: name a file that is not there yet";
            return Err(Error::argument("/save", path.display(), limit));
        }
        Ok(saved)
    }

    fn new(file: SessionFile) -> Self {
        let (loaded, load, written) = (0, Duration::ZERO, 0);
        Self { file, is_read_only: false, draws: 0, seed: None, loaded, load, written }
    }

    fn state(&self) -> Result<Option<State>> {
        let state = SessionFormat::callers_state(&self.file)?;
        if state.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(state).map(Some).map_err(|e| Error::File {
            path: self.file.path().to_owned(),
            offset: 0,
            problem: format!("the conversation is not as this program writes it: {e}"),
        })
    }

    /// Tokens in the file.
    pub fn tokens(&self) -> usize {
        self.file.tokens().len()
    }

    /// Draws of a sampler so far.
    pub fn draws(&self) -> u64 {
        self.draws
    }

    /// The seed of those draws.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The session, as far as its blocks are what was written.
    pub fn load(&mut self, engine: &Engine) -> Result<Session> {
        let began = Instant::now();
        let total = u64::from(self.file.blocks()) * self.file.block_bytes();
        let mut bar = byte_bar("session", total);
        let (session, damage) = pollster::block_on(engine.restore(&self.file, &mut bar))?;
        drop(bar);
        if let Some(damage) = damage {
            note(&format!(
                "note: {damage}; {} of {} tokens are taken from there, and the rest is computed again",
                session.len(),
                self.tokens()
            ));
        }
        self.load += began.elapsed();
        self.loaded = session.len();
        Ok(session)
    }

    /// Writes what was said since the last time, unless the file is only read.
    pub fn save(
        &mut self,
        engine: &Engine,
        answerer: &mut Answerer<'_>,
        conversation: &Conversation<'_>,
    ) -> Result<()> {
        if self.is_read_only {
            return Ok(());
        }
        let (session, draws, seed) = answerer.state();
        // A run that drew nothing leaves the seed of earlier draws.
        self.seed = seed.or(self.seed);
        let (messages, raw) = (conversation.messages().to_vec(), conversation.is_raw());
        let seed = self.seed;
        let state = serde_json::to_vec(&State { messages, raw, draws, seed });
        let state = state
            .map_err(|e| Error::Write { path: self.file.path().to_owned(), source: e.into() })?;
        let blocks = session.len().div_ceil(engine.shape().block);
        let before = self.file.bytes();
        let mut bar = byte_bar("saving the session", u64::from(blocks) * self.file.block_bytes());
        pollster::block_on(engine.save(session, &mut self.file, &state, &mut bar))?;
        self.written += self.file.bytes() - before;
        Ok(())
    }

    /// Writes what is left of the session after its device is lost, and says how to go on.
    pub fn rescue(
        &mut self,
        engine: &Engine,
        answerer: &mut Answerer<'_>,
        conversation: &Conversation<'_>,
    ) {
        // Where nothing is left the file holds what it held.
        if !self.is_read_only && self.save(engine, answerer, conversation).is_ok() {
            note(&format!(
                "note: {} holds the first {} tokens; ask again with --session to go on from there",
                self.file.path().display(),
                self.file.tokens().len()
            ));
        }
    }

    /// Ends the work on the file, which is made smaller if most of it no longer counts.
    pub fn close(self) -> SavedReport {
        let report = SavedReport {
            loaded_tokens: self.loaded,
            load_seconds: self.load.as_secs_f64(),
            written_bytes: self.written,
        };
        let path = self.file.path().to_owned();
        if let Err(error) = self.file.compact() {
            note(&format!("note: {} stays as large as it is: {error}", path.display()));
        }
        report
    }
}
