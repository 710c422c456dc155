//! `--session FILE`: a conversation that lives in a file between runs.

use super::progress::byte_bar;
use super::terminal::{note, size};
use asynctls::engine::{Engine, SessionFormat};
use asynctls::generate::{Chat, ChatFile, Framing, Generator};
use asynctls::{Error, Result};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An open session file.
pub struct Saved {
    file: ChatFile,
    is_read_only: bool,
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
        chat: &mut Chat,
        framing: &Framing,
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
        let file = ChatFile::new(file)?;
        file.resume(chat, framing)?;
        Ok(Self { is_read_only, load: began.elapsed(), ..Self::new(file) })
    }

    /// Begins a file for a conversation that is going on.
    ///
    /// # Errors
    /// [`Error::Argument`] for a file that holds one already.
    pub fn begin(path: &Path, format: &SessionFormat) -> Result<Self> {
        let file = ChatFile::new(format.open(path)?)?;
        if file.is_begun() {
            let limit = "there is a conversation in it: name a file that is not there yet";
            return Err(Error::argument("/save", path.display(), limit));
        }
        Ok(Self::new(file))
    }

    fn new(file: ChatFile) -> Self {
        Self { file, is_read_only: false, loaded: 0, load: Duration::ZERO, written: 0 }
    }

    /// Tokens in the file.
    pub fn tokens(&self) -> usize {
        self.file.file().tokens().len()
    }

    /// The seed of the draws so far.
    pub fn seed(&self) -> Option<u64> {
        self.file.seed()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.file().path()
    }

    /// What goes on in the session, as far as its blocks are what was written.
    pub fn load(&mut self, engine: Arc<Engine>, framing: Framing) -> Result<Generator> {
        let began = Instant::now();
        let file = self.file.file();
        let mut bar = byte_bar("session", u64::from(file.blocks()) * file.block_bytes());
        let loaded = Generator::load(engine, framing, &self.file, &mut bar);
        let (generator, damage) = pollster::block_on(loaded)?;
        drop(bar);
        self.loaded = generator.session().len();
        if let Some(damage) = damage {
            note(&format!(
                "note: {damage}; {} of {} tokens are taken from there, and the rest is computed again",
                self.loaded,
                self.tokens()
            ));
        }
        self.load += began.elapsed();
        Ok(generator)
    }

    /// Writes what was said since the last time, unless the file is only read.
    pub fn save(&mut self, generator: &mut Generator, chat: &Chat) -> Result<()> {
        if self.is_read_only {
            return Ok(());
        }
        let blocks = generator.session().len().div_ceil(generator.engine().shape().block);
        let file = self.file.file();
        let before = file.bytes();
        let mut bar = byte_bar("saving the session", u64::from(blocks) * file.block_bytes());
        pollster::block_on(generator.save(chat, &mut self.file, &mut bar))?;
        self.written += self.file.file().bytes() - before;
        Ok(())
    }

    /// Writes what is left of the session after its device is lost, and says how to go on.
    pub fn rescue(&mut self, generator: &mut Generator, chat: &Chat) {
        // Where nothing is left the file holds what it held.
        if !self.is_read_only && self.save(generator, chat).is_ok() {
            note(&format!(
                "note: {} holds the first {} tokens; ask again with --session to go on from there",
                self.path().display(),
                self.tokens()
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
        let path = self.path().to_owned();
        if let Err(error) = self.file.into_file().compact() {
            note(&format!("note: {} stays as large as it is: {error}", path.display()));
        }
        report
    }
}
