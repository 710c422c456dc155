//! Questions and answers, one after the other.

use super::Options;
use super::command::{self, Command, Typed};
use super::questions::{Next, Questions};
use crate::cli::progress::bar;
use crate::cli::saved::Saved;
use crate::cli::terminal::{self, note, one_line, print};
use crate::cli::{Failure, Outcome, interrupt, is_input_error};
use asynctls::attention::Attention;
use asynctls::engine::{Engine, SessionFormat};
use asynctls::generate::{AnswerOptions, Chat, End, Framing, Generator, Grammar, Made, Work};
use asynctls::model::{SamplerSettings, SuggestedSampling};
use asynctls::{Error, subject};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A model that is ready to answer.
pub struct Talk<'a> {
    pub options: &'a Options,
    pub attention: Attention,
    pub suggested: SuggestedSampling,
    pub sampling: SamplerSettings,
    pub grammar: Option<Grammar>,
    pub format: SessionFormat,
    pub open: Duration,
    pub load: Duration,
    pub began: Instant,
    pub engine: Arc<Engine>,
}

/// The conversation and its work so far.
pub struct State {
    pub chat: Chat,
    pub generator: Generator,
    pub saved: Option<Saved>,
    pub work: Work,
    /// The latest answer.
    pub last: Option<Made>,
}

impl Talk<'_> {
    /// Answers the first question, and with `-i` those that follow.
    pub fn run(
        self,
        framing: Framing,
        chat: Chat,
        first: Option<String>,
        mut saved: Option<Saved>,
        mut questions: Option<Questions>,
    ) -> Outcome<ExitCode> {
        let engine = self.engine.clone();
        let generator = match &mut saved {
            None => Generator::new(engine, framing)?,
            Some(saved) => saved.load(engine, framing)?,
        };
        let mut state = State { chat, generator, saved, work: Work::default(), last: None };
        // Who sits at a terminal goes on after Ctrl-C.
        let goes_on = questions.as_ref().is_some_and(Questions::is_terminal);
        let mut next = first.map(Next::Question);
        let mut kept = Ok(());
        let is_left = loop {
            let asked = match (next.take(), &mut questions) {
                (Some(next), _) => next,
                (None, Some(questions)) => self.ask(questions, &mut state)?,
                (None, None) => Next::End,
            };
            let question = match asked {
                Next::Question(question) => question,
                Next::End => break false,
                Next::Interrupted => break true,
            };
            // Until the answer is saved, the user's wish to end does not lose it.
            let _keeping = interrupt::Keeping::new();
            let shown = match self.answer(&question, &mut state) {
                Ok((saved, shown)) => {
                    kept = saved;
                    shown
                }
                Err(failure) => {
                    self.go_on_after(failure)?;
                    continue;
                }
            };
            if goes_on {
                interrupt::forget();
            }
            if interrupt::asked() {
                break false;
            }
            if let Err(failure) = shown {
                kept?;
                return Err(failure);
            }
            if let Err(error) = &kept {
                if !self.can_wait(error) {
                    break false;
                }
                terminal::error(error);
                note("note: the answer is not saved yet, but will be with the next one");
            }
        };
        if let Err(error) = &kept
            && self.can_wait(error)
        {
            kept = self.save(&mut state);
        }
        self.finish(state)?;
        // The answer is shown even where it could not be saved.
        kept?;
        Ok(if is_left { interrupt::left() } else { interrupt::exit_code() })
    }

    // Whether a conversation goes on that could not be saved for this reason, and is tried to be saved again.
    fn can_wait(&self, error: &Error) -> bool {
        self.options.interactive && is_input_error(error)
    }

    // The next question; commands are obeyed.
    fn ask(&self, questions: &mut Questions, state: &mut State) -> Outcome<Next> {
        loop {
            let text = match questions.next() {
                Ok(Next::Question(text)) => text,
                Ok(end) => return Ok(end),
                Err(error) => {
                    self.go_on_after(error.into())?;
                    continue;
                }
            };
            match command::parse(&text) {
                Typed::Question(question) => return Ok(Next::Question(question)),
                Typed::Command(Command::Bye) => return Ok(Next::End),
                Typed::Command(command) => {
                    if let Err(failure) = self.obey(&command, state) {
                        self.go_on_after(failure)?;
                    }
                }
                Typed::Unknown(text) => note(&format!(
                    "note: {} is no command: /help lists them, and a question that begins with a slash is typed with two",
                    one_line(&text)
                )),
            }
        }
    }

    fn obey(&self, command: &Command, state: &mut State) -> Outcome<()> {
        match command {
            Command::Help => note(command::HELP),
            Command::Stats => self.show(state),
            Command::Clear => {
                state.chat.clear();
                if state.saved.is_some() {
                    self.save(state)?;
                }
                note("what was said is forgotten");
            }
            Command::Save(file) => {
                self.choose_file(file.as_deref(), state)?;
                self.save(state)?;
                if let Some(saved) = &state.saved {
                    note(&format!("the conversation is in {}", saved.path().display()));
                }
            }
            Command::Bye => {}
        }
        Ok(())
    }

    // Where the conversation is to be kept, which does not change once it is said.
    fn choose_file(&self, file: Option<&Path>, state: &mut State) -> asynctls::Result<()> {
        match (file, &state.saved) {
            (None, Some(_)) => {}
            (Some(file), Some(saved)) if file == saved.path() => {}
            (Some(file), Some(saved)) => {
                let limit =
                    format!("the conversation is kept in {} already", saved.path().display());
                return Err(Error::argument("/save", file.display(), limit));
            }
            (None, None) => {
                let limit = "the conversation is kept nowhere yet: /save FILE";
                return Err(Error::argument("/save", "without a file", limit));
            }
            (Some(file), None) => state.saved = Some(Saved::begin(file, &self.format)?),
        }
        Ok(())
    }

    fn save(&self, state: &mut State) -> asynctls::Result<()> {
        let Some(saved) = &mut state.saved else { return Ok(()) };
        let _keeping = interrupt::Keeping::new();
        saved.save(&mut state.generator, &state.chat)
    }

    // Answers, and tells whether what was said could be saved, and whether all of it could be shown.
    fn answer(
        &self,
        question: &str,
        state: &mut State,
    ) -> Outcome<(asynctls::Result<()>, Outcome<()>)> {
        state.chat.ask(question);
        match self.turn(state) {
            Ok((answer, shown)) => {
                if answer.tokens.is_empty() && answer.end == End::Cancelled {
                    state.chat.take_back();
                }
                state.work.add(&answer.work);
                state.last = Some(answer);
                Ok((self.save(state), shown))
            }
            Err(failure) => {
                state.chat.take_back();
                if let (Failure::Error(error), Some(saved)) = (&failure, &mut state.saved)
                    && error.is_loss()
                {
                    saved.rescue(&mut state.generator, &state.chat);
                }
                Err(failure)
            }
        }
    }

    // The answer, and whether all of it could be shown.
    fn turn(&self, state: &mut State) -> Outcome<(Made, Outcome<()>)> {
        let State { chat, generator, .. } = state;
        self.options.make_room(chat, generator.framing(), self.engine.options.context)?;
        let _keeping = interrupt::Keeping::new();
        let mut shown = Ok(());
        let mut is_begun = false;
        let answer = self.make(generator, chat, &mut |text| {
            if !self.options.json {
                is_begun = true;
                if shown.is_ok() {
                    shown = print(text);
                }
            }
            shown.is_ok()
        });
        // The next line, be it an error, begins on a line of its own.
        if is_begun && shown.is_ok() {
            shown = print("\n");
        }
        let answer = answer?;
        if answer.end == End::ContextFull {
            note(
                "note: the answer ends where the context does; --context N sets more aside where the model allows it",
            );
        }
        Ok((answer, shown))
    }

    // `show` gets the text as it is made, and tells whether to go on.
    fn make(
        &self,
        generator: &mut Generator,
        chat: &mut Chat,
        show: &mut dyn FnMut(&str) -> bool,
    ) -> asynctls::Result<Made> {
        let options = AnswerOptions {
            max_tokens: self.options.max_tokens,
            stop: self.options.stop.clone(),
            grammar: self.grammar.clone(),
            ..AnswerOptions::new(self.sampling, self.attention)
        };
        let bar = bar("prompt", 0, false);
        let mut read = |done: u32, all: u32| {
            bar.set_total(all.into());
            bar.set_position(done.into());
            !interrupt::asked()
        };
        let answer = pollster::block_on(generator.answer(chat, &options, &mut read));
        drop(bar);
        let mut answer = answer.map_err(|error| match error {
            Error::Argument { what, value, limit } if what == subject::CONVERSATION => {
                let ways = "/clear forgets what was said, --when-full drop-oldest the oldest of it, and --context N sets more \
                            aside where the model allows it";
                Error::argument(what, value, format!("{limit}: {ways}"))
            }
            other => other,
        })?;
        while let Some(piece) = pollster::block_on(answer.next())? {
            let goes_on = piece.text.is_empty() || show(&piece.text);
            if !goes_on || interrupt::asked() {
                answer.cancel();
            }
        }
        Ok(answer.finish())
    }

    // A question that cannot be answered does not end the conversation; a broken GPU does.
    fn go_on_after(&self, failure: Failure) -> Outcome<()> {
        match failure {
            Failure::Error(error)
                if self.options.interactive
                    && is_input_error(&error)
                    && !matches!(error, Error::Io { .. }) =>
            {
                terminal::error(&error);
                Ok(())
            }
            other => Err(other),
        }
    }
}
