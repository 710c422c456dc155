//! Where the questions of a conversation come from: lines of a pipe, or an editor on a terminal.

use crate::cli::keys::Keys;
use crate::cli::prompt;
use asynctls::{Error, Result};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Behavior, Config, Context, Editor, Helper};
use std::cell::Cell;
use std::io::{IsTerminal, stdin};

/// Where questions come from.
pub enum Questions {
    /// Standard input, a question a line.
    Lines,
    /// A terminal, with editing, history and pasted text as one question.
    Editor(Box<Editor<Watch, MemHistory>>, Option<Keys>),
}

/// The user's next wish.
pub enum Next {
    /// An answer to this.
    Question(String),
    /// The end.
    End,
    /// The end, with Ctrl-C.
    Interrupted,
}

impl Questions {
    /// Those of this process.
    ///
    /// # Errors
    /// When the terminal cannot be used.
    pub fn open() -> Result<Self> {
        if !stdin().is_terminal() {
            return Ok(Self::Lines);
        }
        // Answers and notes may go to files; questions are typed on the terminal all the same.
        let config = Config::builder().behavior(Behavior::PreferTerm).auto_add_history(true);
        let mut editor =
            Editor::with_history(config.build(), MemHistory::new()).map_err(problem)?;
        editor.set_helper(Some(Watch::default()));
        Ok(Self::Editor(Box::new(editor), Keys::keep()))
    }

    /// Whether somebody sits there, who goes on after Ctrl-C.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Editor(..))
    }

    /// The next question that is not blank.
    ///
    /// # Errors
    /// For what is no text, and for what cannot be read.
    pub fn next(&mut self) -> Result<Next> {
        let Self::Editor(editor, keys) = self else {
            return Ok(prompt::next_question()?.map_or(Next::End, Next::Question));
        };
        loop {
            let read = editor.readline("> ");
            if let Some(keys) = keys {
                keys.mark_pastes();
            }
            match read {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => return Ok(Next::Question(text)),
                Err(ReadlineError::Eof) => return Ok(Next::End),
                // The line typed so far is dropped first.
                Err(ReadlineError::Interrupted)
                    if editor.helper().is_some_and(|watch| watch.is_typed.get()) => {}
                Err(ReadlineError::Interrupted) => return Ok(Next::Interrupted),
                Err(error) => return Err(problem(error)),
            }
        }
    }
}

fn problem(error: ReadlineError) -> Error {
    let source = match error {
        ReadlineError::Io(source) => source,
        other => std::io::Error::other(other.to_string()),
    };
    Error::Io { path: "the terminal".into(), source }
}

/// Sees whether something is typed; hints are the one thing that is asked for after every key.
#[derive(Default)]
pub struct Watch {
    is_typed: Cell<bool>,
}

impl Hinter for Watch {
    type Hint = String;

    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.is_typed.set(!line.is_empty());
        None
    }
}

impl Completer for Watch {
    type Candidate = String;
}
impl Highlighter for Watch {}
impl Validator for Watch {}
impl Helper for Watch {}
