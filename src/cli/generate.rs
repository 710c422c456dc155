//! `asynctls generate`: answers to a prompt or to questions one after the other.

use super::answer::{Answer, Answerer, Finish, Work};
use super::attention::{AttentionOptions, name, two_level};
use super::cache::CacheOptions;
use super::conversation::Conversation;
use super::fit::Plan;
use super::model_option::ModelOption;
use super::report::{Report, Settings, Timings, offload_line, summary};
use super::rope::beyond;
use super::saved::{Saved, SavedReport};
use super::start::{Loaded, Machine, Memory, load};
use super::terminal::{self, note, print, print_json};
use super::{Failure, Outcome, interrupt, is_input_error, prompt};
use asynctls::Error;
use asynctls::attention::Attention;
use asynctls::engine::{EngineOptions, SessionFormat};
use asynctls::gpu::Disable;
use asynctls::model::chat::ChatTemplate;
use asynctls::model::sampler::{Sampler, SamplerSettings};
use asynctls::model::tokenizer::Tokenizer;
use asynctls::model::{ModelConfig, ModelFile};
use clap::Args;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Options of `asynctls generate`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    /// The prompt
    #[arg(long, value_name = "TEXT", group = "source", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// A file with the prompt
    #[arg(long, value_name = "FILE", group = "source")]
    prompt_file: Option<PathBuf>,
    /// Read the prompt from standard input
    #[arg(value_name = "-", value_parser = ["-"], hide_possible_values = true, group = "source",
        conflicts_with = "interactive")]
    stdin: Option<String>,
    /// Keep asking: each line of standard input is a question in the same conversation
    #[arg(short, long)]
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
    /// Tokens to set memory aside for [default: prompt and --max-tokens; with -i, the model's context or what fits]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
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
    sampling: SamplingOptions,
}

/// How tokens are chosen.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
struct SamplingOptions {
    /// 0 takes the likeliest token, 1 draws from the model's distribution
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Draw among this many of the likeliest tokens; 0 sets no limit
    #[arg(long, value_name = "K", default_value_t = 0, allow_negative_numbers = true)]
    top_k: usize,
    /// Draw among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f32,
    /// The same seed gives the same draws
    #[arg(long, value_name = "S", default_value_t = 0, allow_negative_numbers = true)]
    seed: u64,
}

impl SamplingOptions {
    fn settings(&self) -> SamplerSettings {
        let Self { temperature, top_k, top_p, seed } = *self;
        SamplerSettings { temperature, top_k, top_p, seed }
    }
}

const EXAMPLES: &str = "\
Examples:
  asynctls generate --model model.gguf --prompt \"Why is the sky blue?\"
  asynctls generate --model model.gguf --prompt-file question.txt --max-tokens 64 --json
  asynctls generate --model model.gguf --raw --prompt \"Once upon a time\" --temperature 0.8 --top-p 0.95 --seed 7
  asynctls generate --model model.gguf --prompt-file book.txt --blocks 25% --tokens 512 --stats
  asynctls generate --model model.gguf --prompt-file book.txt --kv host --gpu-memory 4G --timing lagged
  git diff | asynctls generate --model model.gguf --system \"Summarise.\" -
  asynctls generate --model model.gguf -i
  asynctls generate --model model.gguf --session talk.kv --prompt \"And why is it red in the evening?\"

Ctrl-C, SIGTERM and SIGHUP end the answer and keep what was made so far.";

/// Runs it.
pub fn run(options: &Options, adapter: Option<&str>) -> Outcome<ExitCode> {
    let began = Instant::now();
    options.sampling.settings().validate()?;
    options.attention.check()?;
    options.cache.check()?;
    Disable::from_env()?;
    let rope = options.model.rope()?;
    let first = options.first_prompt()?;

    let reading = Instant::now();
    let file = ModelFile::open(&options.model.path()?)?;
    let config = ModelConfig::read_changed(&file, rope.as_ref())?;
    let attention = options.attention.of(config.context_length)?;
    let tokenizer = super::model::tokenizer(&file)?;
    let template = options.template(&file)?;
    let system = options.system.as_deref();
    let mut conversation =
        Conversation::new(template, &tokenizer, options.raw, system, options.no_think)?;
    if options.special_in_text {
        conversation.set_special_in_text();
    }
    let reading = reading.elapsed();

    let Machine { gpu, memory, time: open } = Machine::open(adapter)?;
    let mut engine_options = EngineOptions::new(&gpu, 1);
    engine_options.quantise = options.model.quantise();
    engine_options.rope = rope;
    options.attention.set_up(&attention, &mut engine_options)?;
    let saved = match &options.session {
        None => None,
        Some(path) => {
            let format = SessionFormat::new(&file, &config, &engine_options);
            Some(Saved::open(path, options.session_read_only, &format, &mut conversation)?)
        }
    };
    let there = saved.as_ref().map_or(0, Saved::tokens);
    let context = options.context(&config, &mut conversation, first.as_deref(), there)?;
    (engine_options.context, engine_options.total_tokens) = (context, context.into());
    let what = if options.context.is_some() { "--context" } else { "the context" };
    let there = memory.as_ref().map(|memory| memory.bytes);
    options.cache.set_up(&file, &config, &attention, there, &mut engine_options)?;
    let memory = options.cache.budget()?.map(Memory::allowed).or(memory);
    let mut plan = Plan { file: &file, config: &config, options: engine_options, what };
    if options.context.is_none() && options.interactive && plan.options.host.is_none() {
        plan.shorten(memory.as_ref())?;
    }
    plan.check(memory.as_ref(), options.stats)?;
    let loaded = load(gpu, plan, options.stats)?;
    Run { options, attention, open, load: reading + loaded.load, began, loaded }.answer(
        conversation,
        &tokenizer,
        first,
        saved,
    )
}

impl Options {
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

    fn first_prompt(&self) -> asynctls::Result<Option<String>> {
        Ok(Some(match (&self.prompt, &self.prompt_file, &self.stdin) {
            (Some(text), _, _) => prompt::from_argument(text)?,
            (_, Some(path), _) => prompt::from_file(path)?,
            (_, _, Some(_)) => prompt::from_stdin()?,
            _ if self.interactive => return Ok(None),
            _ => {
                return Err(Error::argument(
                    "the prompt",
                    "missing",
                    "--prompt TEXT, --prompt-file FILE, - (standard input) or -i is needed",
                ));
            }
        }))
    }

    // How many tokens to set memory aside for, of which a session's file has some.
    fn context(
        &self,
        config: &ModelConfig,
        conversation: &mut Conversation<'_>,
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
        conversation.ask(prompt);
        let tokens = conversation.tokens()?.len();
        conversation.take_back();
        if tokens > limit as usize {
            let limit = match self.context {
                Some(context) => format!("--context is {context} tokens"),
                None => beyond(config, tokens as u64 + u64::from(self.max_tokens)),
            };
            return Err(Error::argument("the prompt", format!("{tokens} tokens"), limit));
        }
        let needed = (tokens as u32).saturating_add(self.max_tokens).max(there as u32);
        Ok(self.context.unwrap_or(needed.min(longest)))
    }
}

// A model that is ready to answer.
struct Run<'a> {
    options: &'a Options,
    attention: Attention,
    open: Duration,
    load: Duration,
    began: Instant,
    loaded: Loaded,
}

impl Run<'_> {
    fn answer(
        self,
        mut conversation: Conversation<'_>,
        tokenizer: &Tokenizer,
        first: Option<String>,
        mut saved: Option<Saved>,
    ) -> Outcome<ExitCode> {
        let settings = self.options.sampling.settings();
        let engine = &self.loaded.engine;
        let (session, draws) = match &mut saved {
            None => (engine.session()?, 0),
            Some(saved) => (saved.load(engine)?, saved.draws()),
        };
        let sampler = Sampler::after(settings, draws)?;
        let most = self.options.max_tokens;
        let mut answerer = Answerer::new(engine, tokenizer, session, self.attention, sampler, most);
        let mut work = Work::default();
        let mut next = first;
        let mut last = None;
        let mut kept = Ok(());
        loop {
            let question = match next.take() {
                Some(question) => question,
                None if self.options.interactive => match self.ask() {
                    Ok(Some(question)) => question,
                    Ok(None) => break,
                    Err(error) => {
                        self.go_on_after(error.into())?;
                        continue;
                    }
                },
                None => break,
            };
            conversation.ask(&question);
            // What is made is not lost before it is saved.
            let _keeping = interrupt::Keeping::new();
            match self.turn(&conversation, &mut answerer) {
                Ok((prompt_tokens, answer, shown)) => {
                    if answer.tokens.is_empty() && answer.finish == Finish::Interrupted {
                        conversation.take_back();
                    } else {
                        conversation.answer(&answer.text);
                    }
                    work.add(&answer.work);
                    last = Some((prompt_tokens, answer));
                    if let Some(saved) = &mut saved {
                        kept = saved.save(engine, &mut answerer, &conversation);
                    }
                    if interrupt::asked() {
                        break;
                    }
                    if let Err(failure) = shown {
                        kept?;
                        return Err(failure);
                    }
                    if let Err(error) = &kept {
                        if !self.can_wait(error) {
                            break;
                        }
                        terminal::error(error);
                        note("note: the answer is not saved yet, but will be with the next one");
                    }
                }
                Err(failure) => {
                    conversation.take_back();
                    if let (Failure::Error(Error::DeviceLost(_)), Some(saved)) =
                        (&failure, &mut saved)
                    {
                        saved.rescue(engine, &mut answerer, &conversation);
                    }
                    self.go_on_after(failure)?;
                }
            }
        }
        if let (Err(error), Some(saved)) = (&kept, &mut saved)
            && self.can_wait(error)
        {
            kept = saved.save(engine, &mut answerer, &conversation);
        }
        let saved = saved.map(Saved::close);
        let Some((prompt_tokens, answer)) = last else { return Ok(ExitCode::SUCCESS) };
        let context = answerer.context();
        let code = self.finish(&conversation, prompt_tokens, &answer, &work, context, saved)?;
        // The answer is shown even where it could not be saved.
        kept?;
        Ok(code)
    }

    // The tokens of the prompt, the answer, and whether all of it could be shown.
    fn turn(
        &self,
        conversation: &Conversation<'_>,
        answerer: &mut Answerer<'_>,
    ) -> Outcome<(usize, Answer, Outcome<()>)> {
        let prompt = conversation.tokens()?;
        let mut shown = Ok(());
        if self.options.json {
            return Ok((prompt.len(), answerer.answer(&prompt, &mut |_| true)?, shown));
        }
        let mut is_begun = false;
        let answer = answerer.answer(&prompt, &mut |text| {
            is_begun = true;
            if shown.is_ok() {
                shown = print(text);
            }
            shown.is_ok()
        });
        // What comes next, be it an error, begins on a line of its own.
        if is_begun && shown.is_ok() {
            shown = print("\n");
        }
        Ok((prompt.len(), answer?, shown))
    }

    // Whether a conversation goes on that could not be saved for this reason, and is tried to be saved again.
    fn can_wait(&self, error: &Error) -> bool {
        self.options.interactive && is_input_error(error)
    }

    fn ask(&self) -> asynctls::Result<Option<String>> {
        if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            use std::io::Write;
            let _ = write!(std::io::stderr(), "> ");
        }
        prompt::next_question()
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

    fn finish(
        &self,
        conversation: &Conversation<'_>,
        prompt_tokens: usize,
        answer: &Answer,
        work: &Work,
        context: u32,
        saved: Option<SavedReport>,
    ) -> Outcome<ExitCode> {
        let gpu = &self.loaded.engine.gpu;
        let timings = Timings {
            open: self.open.as_secs_f64(),
            load: self.load.as_secs_f64(),
            compile: gpu.compile_time().as_secs_f64(),
            prefill: work.prefill.as_secs_f64(),
            decode: work.decode.as_secs_f64(),
            total: self.began.elapsed().as_secs_f64(),
        };
        let offload = pollster::block_on(self.loaded.engine.offload_stats());
        if self.options.stats {
            note(&timings.line());
            if let Some(offload) = &offload {
                note(&offload_line(offload));
            }
            if let Some(saved) = &saved {
                note(&saved.line());
            }
        }
        if self.options.json {
            let report = Report {
                text: &answer.text,
                tokens: &answer.tokens,
                finish: answer.finish,
                prompt_tokens,
                context_tokens: context,
                attended_tokens: answer.attended,
                attention: name(&self.attention),
                adapter: gpu.label(),
                prompt_tokens_per_second: work.prompt_rate(),
                decode_tokens_per_second: work.decode_rate(),
                gpu_bytes: gpu.allocated_bytes(),
                kv_gpu_bytes: self.loaded.engine.kv_gpu_bytes(),
                offload,
                session: saved.as_ref(),
                settings: self.settings(conversation),
                timings,
            };
            print_json(&report)?;
        }
        note(&summary(answer, work, context, gpu.allocated_bytes()));
        Ok(interrupt::exit_code())
    }

    fn settings(&self, conversation: &Conversation<'_>) -> Settings {
        let engine = &self.loaded.engine;
        let two_level = two_level(&self.attention);
        let budget = two_level.map(|t| &t.budget);
        let index = engine.options.index.as_ref();
        let SamplerSettings { temperature, top_k, top_p, seed } = self.options.sampling.settings();
        Settings {
            model: self.options.model.to_string(),
            rope_scaling: engine.config.rope.scaling.to_string(),
            system: self.options.system.clone(),
            raw: conversation.is_raw(),
            no_think: self.options.no_think,
            chat_template: self
                .options
                .chat_template
                .as_ref()
                .map(|path| path.display().to_string()),
            special_in_text: self.options.special_in_text,
            max_tokens: self.options.max_tokens,
            context: engine.options.context,
            blocks: budget.map(|b| b.blocks.to_string()),
            tokens: budget.map(|b| b.tokens),
            sink_blocks: budget.map(|b| b.sink_blocks),
            recent_blocks: budget.map(|b| b.recent_blocks),
            dense_below: budget.map(|b| b.dense_below),
            scorer: two_level.map(|t| t.block_scorer.name()),
            token_scorer: two_level.map(|t| t.token_scorer.name()),
            index_channels: index.map(|_| engine.shape().index.channels),
            index_bits: index.map(|i| i.bits),
            stored_channels: index.and_then(|i| i.stored.as_ref()).map(|set| set.id().to_string()),
            block_size: engine.options.block,
            kv: if engine.options.host.is_some() { "host" } else { "gpu" },
            host: engine.options.host,
            temperature,
            top_k,
            top_p,
            seed,
            kernels: engine.gpu.tier.name,
            chunk: engine.options.chunk,
        }
    }
}
