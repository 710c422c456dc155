//! `asynctls generate`: answers to a prompt or to questions one after the other.

mod batch;
mod command;
mod documents;
mod ending;
mod questions;
pub mod sampling;
mod talk;

use super::attention::{AttentionOptions, is_short};
use super::cache::CacheOptions;
use super::fit::Plan;
use super::line::Line;
use super::model_option::ModelOption;
use super::prefix::PrefixOptions;
use super::rope::beyond;
use super::saved::Saved;
use super::start::{Machine, Memory, load};
use super::terminal::note;
use super::vain::{self, Known};
use super::{Outcome, prompt};
use asynctls::Error;
use asynctls::attention::Attention;
use asynctls::engine::{EngineOptions, SessionFormat};
use asynctls::generate::{Chat, Framing, Grammar};
use asynctls::gpu::{Disable, Gpu};
use asynctls::model::RopeChange;
use asynctls::model::SuggestedSampling;
use asynctls::model::{ChatTemplate, ModelConfig, ModelFile, Tokenizer};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use questions::Questions;
use sampling::SamplingOptions;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use talk::Talk;

/// Options of `asynctls generate`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    /// The prompt
    #[arg(long, value_name = "TEXT", group = "source", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// A file with the prompt; - is standard input
    #[arg(long, value_name = "FILE", group = "source")]
    prompt_file: Option<PathBuf>,
    /// A document to read before the prompt, which is the question; - is standard input. May be given several times
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    document: Vec<PathBuf>,
    /// Read the prompt from standard input
    #[arg(value_name = "-", value_parser = ["-"], hide_possible_values = true, group = "source",
        conflicts_with = "interactive")]
    stdin: Option<String>,
    /// Answer each line of this file, a JSON object with a prompt or messages, several at a time; - is standard input
    #[arg(long, value_name = "FILE", group = "source", requires = "out",
        conflicts_with_all = ["document", "session", "json", "context", "when_full"])]
    batch: Option<PathBuf>,
    /// The file that gets a line of JSON for each line of --batch, in the same order. It goes on where an earlier run ended
    #[arg(long, value_name = "FILE", requires = "batch")]
    out: Option<PathBuf>,
    /// Lines of --batch that are answered at a time [default: 8, or what fits]
    #[arg(long, value_name = "N", requires = "batch", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: Option<u32>,
    /// Keep asking: each line of standard input is a question in the same conversation; /help lists what else there is
    #[arg(short, long, conflicts_with = "batch")]
    interactive: bool,
    /// What the model is told before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw", allow_hyphen_values = true)]
    system: Option<String>,
    /// Give the prompt to the model as it is, without the chat template; control tokens that it spells out count
    #[arg(long)]
    raw: bool,
    /// A file with the chat template to use instead of the model's own
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    chat_template: Option<PathBuf>,
    /// Obey control tokens that the prompt and --system spell out, such as <|im_end|>; without this they are text
    #[arg(long, conflicts_with = "raw")]
    special_in_text: bool,
    /// Let the model answer without thinking first, where its chat template can turn that off
    #[arg(long, conflicts_with = "raw")]
    no_think: bool,
    /// End the answer after this many tokens
    #[arg(long, value_name = "N", default_value_t = 256, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// End the answer where this text comes, which is not shown. May be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true,
        value_parser = NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// A file with a JSON schema that every answer keeps to; what a model thinks first is free
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
    /// Tokens to set memory aside for [default: prompt and --max-tokens; with -i, the model's context or what fits]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// What to do where a conversation fills the context: stop, or drop-oldest: forget the oldest questions and their answers
    #[arg(long, value_enum, default_value_t = WhenFull::Stop)]
    when_full: WhenFull,
    /// Go on with the conversation in this file, and keep it there; a file that is absent or empty begins one
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
    /// Go on with the conversation of --session without writing to its file, which may be where nothing can be written
    #[arg(long, requires = "session")]
    session_read_only: bool,
    /// Print start-up times, memory and kernels to standard error
    #[arg(long)]
    stats: bool,
    /// Print one JSON object instead of streaming text
    #[arg(long, conflicts_with = "interactive")]
    json: bool,
    #[command(flatten)]
    attention: AttentionOptions,
    #[command(flatten)]
    cache: CacheOptions,
    #[command(flatten)]
    prefix: PrefixOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WhenFull {
    Stop,
    DropOldest,
}

const EXAMPLES: &str = "\
Examples:
  asynctls generate --model model.gguf --prompt \"Why is the sky blue?\"
  asynctls generate --model model.gguf --prompt-file question.txt --max-tokens 64 --json
  asynctls generate --model model.gguf --raw --prompt \"Once upon a time\" --temperature 0.8 --top-p 0.95 --seed 7
  asynctls generate --model model.gguf --document book.txt --prompt \"Who is the narrator?\"
  asynctls generate --model model.gguf --prompt-file book.txt --blocks 25% --tokens 512 --stats
  asynctls generate --model model.gguf --prompt-file book.txt --kv host --gpu-memory 4G --timing lagged
  git diff | asynctls generate --model model.gguf --system \"Summarise.\" -
  asynctls generate --model model.gguf -i
  asynctls generate --model model.gguf --batch prompts.jsonl --out results.jsonl --parallel 16
  asynctls generate --model model.gguf --session talk.kv --prompt \"And why is it red in the evening?\"

Ctrl-C, SIGTERM and SIGHUP end the answer and keep what was made so far. With -i on a terminal the conversation goes on
after Ctrl-C; where nothing is typed it leaves with exit code 130, Ctrl-D or /bye with 0.";

/// What a run answers with, before there is a device.
struct Model {
    file: ModelFile,
    config: ModelConfig,
    rope: Option<RopeChange>,
    attention: Attention,
    suggested: SuggestedSampling,
    framing: Framing,
    grammar: Option<Grammar>,
    /// Without a question yet.
    chat: Chat,
    /// How long it took to read.
    reading: Duration,
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    let began = Instant::now();
    options.check_stdin()?;
    options.attention.check()?;
    options.cache.check()?;
    options.prefix.check()?;
    Disable::from_env()?;
    if let (Some(prompts), Some(out)) = (&options.batch, &options.out) {
        return batch::run(options, line, prompts, out);
    }
    options.prefix.refuse()?;
    let first = options.first_prompt()?;
    let documents = documents::read(&options.document)?;
    let model = options.read()?;
    let Machine { gpu, memory, time: open } = Machine::open(line.adapter())?;
    let mut engine_options = options.engine_options(&model, &gpu)?;
    let Model { file, config, attention, suggested, framing, grammar, mut chat, reading, .. } =
        model;
    let format = SessionFormat::new(&file, &config, &engine_options);
    let saved = match &options.session {
        None => None,
        Some(path) => {
            Some(Saved::open(path, options.session_read_only, &format, &mut chat, &framing)?)
        }
    };
    let seed = saved.as_ref().and_then(Saved::seed);
    let sampling = options.sampling.settings(&suggested, seed);
    if options.stats {
        note(&options.sampling.line(&suggested, &sampling));
    }
    for _ in 0..chat.give(&documents) {
        note("note: the conversation has this document already, so it is not read again");
    }
    let there = saved.as_ref().map_or(0, Saved::tokens);
    let context = options.context(&config, &mut chat, &framing, first.as_deref(), there)?;
    (engine_options.context, engine_options.total_tokens) = (context, context.into());
    let what = if options.context.is_some() { "--context" } else { "the context" };
    let there = memory.as_ref();
    let is_open = options.context.is_none() && options.interactive;
    let placed = options.cache.set_up(&file, &config, &attention, there, &mut engine_options);
    let to_host = Some("--kv host");
    if is_open && placed.is_err() {
        // A conversation takes what there is.
        let mut plan =
            Plan { file: &file, config: &config, options: engine_options, what, to_host };
        plan.shorten(there)?;
        engine_options = plan.options;
        options.cache.set_up(&file, &config, &attention, there, &mut engine_options)?;
    } else {
        placed?;
    }
    let memory = options.cache.budget()?.map(Memory::allowed).or(memory);
    let mut plan = Plan { file: &file, config: &config, options: engine_options, what, to_host };
    if is_open && plan.options.host.is_none() {
        plan.shorten(memory.as_ref())?;
    }
    plan.check(memory.as_ref(), options.stats)?;
    let known = Known {
        is_short: is_short(&attention, plan.options.context),
        draws: sampling.draws(),
        penalises: sampling.repetition_penalty != 1.0,
        ..plan.known()?
    };
    vain::warn(line, &known);
    // Who types ahead while the model is loaded is heard.
    let questions = options.interactive.then(Questions::open).transpose()?;
    let loaded = load(gpu, plan, options.stats)?;
    let load = reading + loaded.load;
    let engine = Arc::new(loaded.engine);
    let talk = Talk {
        options,
        attention,
        suggested,
        sampling,
        grammar,
        format,
        open,
        load,
        began,
        engine,
    };
    talk.run(framing, chat, first, saved, questions)
}

impl Options {
    fn read(&self) -> asynctls::Result<Model> {
        let reading = Instant::now();
        let rope = self.model.rope()?;
        let file = ModelFile::open(&self.model.path()?)?;
        let config = ModelConfig::read_changed(&file, rope.as_ref())?;
        let attention = self.attention.of(config.context_length)?;
        let tokenizer = super::model::tokenizer(&file)?;
        let suggested = file.suggested_sampling()?;
        let (framing, chat) = self.begin(tokenizer, self.template(&file)?)?;
        let grammar = self.grammar(&framing)?;
        for line in &suggested.unused {
            note(&format!("note: {line}"));
        }
        let reading = reading.elapsed();
        Ok(Model { file, config, rope, attention, suggested, framing, grammar, chat, reading })
    }

    fn grammar(&self, framing: &Framing) -> asynctls::Result<Option<Grammar>> {
        let Some(path) = &self.json_schema else { return Ok(None) };
        let text = prompt::read_text("--json-schema", path)?;
        let schema = serde_json::from_str(&text).map_err(|error| {
            let problem = format!("it is not JSON: {error}");
            Error::argument("--json-schema", path.display(), problem)
        })?;
        framing.json_schema(&schema).map(Some)
    }

    // Those of an engine whose context is still to be told.
    fn engine_options(&self, model: &Model, gpu: &Gpu) -> asynctls::Result<EngineOptions> {
        let mut options = EngineOptions::new(gpu, 1);
        options.quantise = self.model.quantise();
        options.rope = model.rope;
        self.attention.set_up(&model.attention, &mut options)?;
        Ok(options)
    }

    fn template(&self, file: &ModelFile) -> asynctls::Result<Option<ChatTemplate>> {
        match &self.chat_template {
            _ if self.raw => Ok(None),
            Some(path) => ChatTemplate::from_file(path).map(Some),
            None => file.chat_template().map_err(|error| match error {
                Error::Model(problem) => {
                    let way = "--chat-template FILE takes another one, and --raw none";
                    Error::Model(format!("{problem}; {way}"))
                }
                other => other,
            }),
        }
    }

    // An empty conversation, and how it is framed: by the chat template unless raw.
    fn begin(
        &self,
        tokenizer: Tokenizer,
        mut template: Option<ChatTemplate>,
    ) -> asynctls::Result<(Framing, Chat)> {
        let no_think = |limit: &str| Error::argument("--no-think", "given", limit);
        if let Some(template) = template.as_mut().filter(|_| self.no_think) {
            template.set_thinking(false).map_err(|_| {
                no_think("the chat template does not mention enable_thinking, so it cannot turn thinking off")
            })?;
        }
        let is_unframed = template.is_none() && !self.raw;
        let mut framing = match template {
            None if self.raw => Framing::raw(tokenizer),
            template => Framing::new(tokenizer, template),
        };
        if self.special_in_text {
            framing.set_special_in_text(true);
        }
        let chat = Chat::new(&framing, self.system.as_deref())?;
        if is_unframed {
            if self.no_think {
                return Err(no_think("the model has no chat template that could take it"));
            }
            note("note: the model has no chat template, so the prompt is used as it is");
        }
        Ok((framing, chat))
    }

    // Standard input can be read once.
    fn check_stdin(&self) -> asynctls::Result<()> {
        let files = self.document.iter().chain(&self.prompt_file);
        let mut readers: Vec<&str> =
            files.filter(|path| prompt::is_stdin(path)).map(|_| "-").collect();
        readers.extend(self.batch.as_ref().filter(|path| prompt::is_stdin(path)).map(|_| "-"));
        readers.extend(self.stdin.as_deref());
        readers.extend(self.interactive.then_some("-i"));
        if readers.len() > 1 && readers.contains(&"-") {
            let limit = "it can be read once, by one of --document -, --prompt-file -, - and -i";
            return Err(Error::argument("standard input", "asked for twice", limit));
        }
        Ok(())
    }

    fn first_prompt(&self) -> asynctls::Result<Option<String>> {
        Ok(Some(match (&self.prompt, &self.prompt_file, &self.stdin) {
            (Some(text), _, _) => prompt::from_argument(text)?,
            (_, Some(path), _) => prompt::from_file("--prompt-file", path)?,
            (_, _, Some(_)) => prompt::from_stdin()?,
            _ if self.interactive => return Ok(None),
            _ => {
                return Err(Error::argument(
                    "the prompt",
                    "missing",
                    "--prompt TEXT, --prompt-file FILE, - (standard input), --batch FILE or -i is needed",
                ));
            }
        }))
    }

    // How many tokens to set memory aside for, of which a session's file has some.
    fn context(
        &self,
        config: &ModelConfig,
        chat: &mut Chat,
        framing: &Framing,
        prompt: Option<&str>,
        there: usize,
    ) -> asynctls::Result<u32> {
        let longest = config.context_length;
        if let Some(context) = self.context.filter(|&context| context > longest) {
            return Err(Error::argument(
                "--context",
                format!("{context} tokens"),
                beyond(config, context.into()),
            ));
        }
        let limit = self.context.unwrap_or(longest);
        let Some(prompt) = prompt.filter(|_| !self.interactive) else { return Ok(limit) };
        chat.ask(prompt);
        let tokens = self.make_room(chat, framing, limit).and_then(|()| chat.tokens(framing));
        chat.take_back();
        let tokens = tokens?.len();
        if tokens > limit as usize {
            let mut limit = match self.context {
                Some(context) => format!("--context is {context} tokens"),
                None => beyond(config, tokens as u64 + u64::from(self.max_tokens)),
            };
            if chat.is_begun() && self.when_full == WhenFull::Stop {
                limit += ": --when-full drop-oldest forgets what was said first";
            }
            return Err(Error::argument("the prompt", format!("{tokens} tokens"), limit));
        }
        let needed = (tokens as u32).saturating_add(self.max_tokens).max(there as u32);
        Ok(self.context.unwrap_or(needed.min(longest)))
    }

    // Forgets the oldest turns where the conversation fills a context of so many tokens, if that was asked for.
    fn make_room(&self, chat: &mut Chat, framing: &Framing, context: u32) -> asynctls::Result<()> {
        if self.when_full == WhenFull::DropOldest {
            let dropped = chat.make_room(framing, context, self.max_tokens)?;
            if dropped > 0 {
                let what = match dropped {
                    1 => "the oldest question and its answer are".into(),
                    _ => format!("the {dropped} oldest questions and their answers are"),
                };
                note(&format!(
                    "note: the context of {context} tokens is full, so {what} forgotten"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    const SWITCH: &str = "{% for m in messages %}{{ m.content }}{% endfor %}\
        {% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}";

    // What the model reads of a question.
    fn read(line: &[&str], template: Option<&str>) -> asynctls::Result<String> {
        let words = ["x", "--model", "m"].iter().chain(line);
        let command = Options::augment_args(clap::Command::new("x"));
        let options = Options::from_arg_matches(&command.get_matches_from(words)).unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tokenizers/qwen2");
        let template = template.map(|source| ChatTemplate::new(source).unwrap());
        let (framing, mut chat) =
            options.begin(Tokenizer::from_folder(folder.as_ref())?, template)?;
        chat.ask("Hi");
        Ok(framing.tokenizer().decode(&chat.tokens(&framing)?))
    }

    #[test]
    fn the_framing_is_as_options_say() {
        assert_eq!(read(&[], Some(SWITCH)).unwrap(), "Hi");
        assert_eq!(read(&["--no-think"], Some(SWITCH)).unwrap(), "Hi<think></think>");
        assert_eq!(read(&["--system", "Sing."], Some(SWITCH)).unwrap(), "Sing.Hi");
        assert_eq!(read(&[], None).unwrap(), "Hi");
        for (line, template, expected) in [
            (
                &["--no-think"][..],
                None,
                "--no-think is given, but the model has no chat template that could take it",
            ),
            (
                &["--no-think"],
                Some("x"),
                "--no-think is given, but the chat template does not mention enable_thinking",
            ),
            (
                &["--system", "Sing."],
                None,
                "--system is \"Sing.\", but the model has no chat template that could take it",
            ),
        ] {
            let error = crate::cli::option_names::message(&read(line, template).unwrap_err());
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
