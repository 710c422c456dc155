//! A chat that lives in a file between runs.

use super::{Chat, Framing, Turn};
use crate::engine::{Engine, Session, SessionFormat};
use crate::kv::SessionFile;
use crate::{Error, Result, subject};
use serde::{Deserialize, Serialize};

/// What is kept besides the session itself.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct State {
    pub(super) messages: Vec<Turn>,
    /// Whether they go to the model without a chat template.
    pub(super) raw: bool,
    /// The sampler's draws so far.
    pub(super) draws: u64,
    /// Of this seed, if there were any.
    #[serde(default)]
    pub(super) seed: Option<u64>,
}

/// A session file that holds a chat, or will.
#[derive(Debug)]
pub struct ChatFile {
    file: SessionFile,
    state: Option<State>,
}

impl ChatFile {
    /// Reads what was said from an open file.
    ///
    /// # Errors
    /// [`Error::File`] for a session that holds something else.
    pub fn new(file: SessionFile) -> Result<Self> {
        let state = match SessionFormat::callers_state(&file)? {
            [] => None,
            state => Some(serde_json::from_slice(state).map_err(|e| Error::File {
                path: file.path().to_owned(),
                offset: 0,
                problem: format!("the conversation is not as this program writes it: {e}"),
            })?),
        };
        Ok(Self { file, state })
    }

    /// Whether there is a chat in it.
    pub fn is_begun(&self) -> bool {
        !self.file.tokens().is_empty() || self.state.is_some()
    }

    /// Goes on with what was said there, if anything was.
    ///
    /// # Errors
    /// As [`Chat::resume`]; [`Error::Argument`] for a chat that was framed otherwise.
    pub fn resume(&self, chat: &mut Chat, framing: &Framing) -> Result<()> {
        let Some(state) = &self.state else { return Ok(()) };
        if state.raw != framing.is_raw() {
            let value = if state.raw { "not given" } else { "given" };
            let limit = format!("the session {} was begun otherwise", self.file.path().display());
            return Err(Error::argument(subject::RAW, value, limit));
        }
        chat.resume(state.messages.clone())
    }

    /// Draws of the sampler so far.
    pub fn draws(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.draws)
    }

    /// The seed of those draws.
    pub fn seed(&self) -> Option<u64> {
        self.state.as_ref().and_then(|state| state.seed)
    }

    /// The session's file.
    pub fn file(&self) -> &SessionFile {
        &self.file
    }

    /// The file alone: to be [made smaller](SessionFile::compact), say.
    pub fn into_file(self) -> SessionFile {
        self.file
    }

    pub(super) async fn save(
        &mut self,
        engine: &Engine,
        session: &mut Session,
        state: State,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<()> {
        let bytes = serde_json::to_vec(&state)
            .map_err(|e| Error::Write { path: self.file.path().to_owned(), source: e.into() })?;
        engine.save(session, &mut self.file, &bytes, progress).await?;
        self.state = Some(state);
        Ok(())
    }
}
