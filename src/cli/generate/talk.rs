//! Questions and answers, one after the other.

use super::Options;
use super::command::{self, Command, Typed};
use super::questions::{Next, Questions};
use crate::cli::answer::{Answer, Answerer, Finish, Work};
use crate::cli::conversation::Conversation;
use crate::cli::saved::Saved;
use crate::cli::start::Loaded;
use crate::cli::terminal::{self, note, one_line, print};
use crate::cli::{Failure, Outcome, interrupt, is_input_error};
use asynctls::Error;
use asynctls::attention::Attention;
use asynctls::engine::SessionFormat;
use asynctls::model::sampler::{Sampler, SamplerSettings, SuggestedSampling};
use asynctls::model::tokenizer::Tokenizer;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A model that is ready to answer.
pub struct Talk<'a> {
    pub options: &'a Options,
    pub attention: Attention,
    pub suggested: SuggestedSampling,
    pub sampling: SamplerSettings,
    pub format: SessionFormat,
    pub open: Duration,
    pub load: Duration,
    pub began: Instant,
    pub loaded: Loaded,
}

/// The conversation and its work so far.
pub struct State<'a> {
    pub conversation: Conversation<'a>,
    pub answerer: Answerer<'a>,
    pub saved: Option<Saved>,
    pub work: Work,
    /// The latest answer, and the tokens of its prompt.
    pub last: Option<(usize, Answer)>,
}

impl Talk<'_> {
    /// Answers the first question, and with `-i` those that follow.
    pub fn run(
        self,
        conversation: Conversation<'_>,
        tokenizer: &Tokenizer,
        first: Option<String>,
        mut saved: Option<Saved>,
        mut questions: Option<Questions>,
    ) -> Outcome<ExitCode> {
        let engine = &self.loaded.engine;
        let (session, draws) = match &mut saved {
            None => (engine.session()?, 0),
            Some(saved) => (saved.load(engine)?, saved.draws()),
        };
        let sampler = Sampler::after(self.sampling, draws)?;
        let (most, stop) = (self.options.max_tokens, &self.options.stop);
        let attention = self.attention;
        let answerer = Answerer::new(engine, tokenizer, session, attention, sampler, most, stop);
        let work = Work::default();
        let mut state = State { conversation, answerer, saved, work, last: None };
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
    fn ask(&self, questions: &mut Questions, state: &mut State<'_>) -> Outcome<Next> {
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

    fn obey(&self, command: &Command, state: &mut State<'_>) -> Outcome<()> {
        match command {
            Command::Help => note(command::HELP),
            Command::Stats => self.show(state),
            Command::Clear => {
                state.conversation.clear();
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
    fn choose_file(&self, file: Option<&Path>, state: &mut State<'_>) -> asynctls::Result<()> {
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

    fn save(&self, state: &mut State<'_>) -> asynctls::Result<()> {
        let Some(saved) = &mut state.saved else { return Ok(()) };
        let _keeping = interrupt::Keeping::new();
        saved.save(&self.loaded.engine, &mut state.answerer, &state.conversation)
    }

    // Answers, and tells whether what was said could be saved, and whether all of it could be shown.
    fn answer(
        &self,
        question: &str,
        state: &mut State<'_>,
    ) -> Outcome<(asynctls::Result<()>, Outcome<()>)> {
        state.conversation.ask(question);
        match self.turn(state) {
            Ok((prompt_tokens, answer, shown)) => {
                if answer.tokens.is_empty() && answer.finish == Finish::Interrupted {
                    state.conversation.take_back();
                } else {
                    state.conversation.answer(&answer.text);
                }
                state.work.add(&answer.work);
                state.last = Some((prompt_tokens, answer));
                Ok((self.save(state), shown))
            }
            Err(failure) => {
                state.conversation.take_back();
                if let (Failure::Error(error), Some(saved)) = (&failure, &mut state.saved)
                    && error.is_loss()
                {
                    saved.rescue(&self.loaded.engine, &mut state.answerer, &state.conversation);
                }
                Err(failure)
            }
        }
    }

    // The tokens of the prompt, the answer, and whether all of it could be shown.
    fn turn(&self, state: &mut State<'_>) -> Outcome<(usize, Answer, Outcome<()>)> {
        let context = self.loaded.engine.options.context;
        self.options.make_room(&mut state.conversation, context)?;
        let prompt = state.conversation.tokens()?;
        let mut shown = Ok(());
        if self.options.json {
            return Ok((prompt.len(), state.answerer.answer(&prompt, &mut |_| true)?, shown));
        }
        let mut is_begun = false;
        let answer = state.answerer.answer(&prompt, &mut |text| {
            is_begun = true;
            if shown.is_ok() {
                shown = print(text);
            }
            shown.is_ok()
        });
        // The next line, be it an error, begins on a line of its own.
        if is_begun && shown.is_ok() {
            shown = print("\n");
        }
        let answer = answer?;
        if answer.finish == Finish::Length && (answer.tokens.len() as u32) < self.options.max_tokens
        {
            note(
                "note: the answer ends where the context does; --context N sets more aside where the model allows it",
            );
        }
        Ok((prompt.len(), answer, shown))
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
