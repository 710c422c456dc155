//! `asynctls serve`: a model over HTTP.

use super::attention::{AttentionOptions, is_short};
use super::cache::{CacheOptions, parse_size};
use super::fit::Plan;
use super::generate::sampling::SamplingOptions;
use super::line::Line;
use super::model_option::ModelOption;
use super::prefix::PrefixOptions;
use super::rope::beyond;
use super::start::{Machine, Memory, load};
use super::terminal::note;
use super::vain::{self, Known};
use super::{Outcome, interrupt, prompt};
use asynctls::attention::Attention;
use asynctls::engine::{EngineOptions, Fit};
use asynctls::generate::Framing;
use asynctls::gpu::Disable;
use asynctls::model::{ChatTemplate, ModelConfig, ModelFile};
use asynctls::serve::{BatchOptions, Batcher};
use asynctls::server::{self, ServerOptions};
use asynctls::{Error, Result};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Options of `asynctls serve`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    /// The model's name, as requests say it [default: that of its file or folder]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    model_name: Option<String>,
    /// The address to listen at; 0.0.0.0 is every one of this machine
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// The port to listen at; 0 takes a free one, which is printed
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
    /// Requests that are answered at a time; others wait
    #[arg(long, value_name = "N", default_value_t = 4, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: u32,
    /// Requests that wait at most; one more is refused
    #[arg(long, value_name = "N", default_value_t = 256)]
    queue: usize,
    /// The most tokens of a prompt and its answer [default: the model's context or what fits]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Tokens of all requests and of kept conversations together to set memory aside for [default: --parallel times the context, or
    /// what fits]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u64).range(1..=u32::MAX.into()))]
    total_tokens: Option<u64>,
    /// A key that requests have to show. May be given several times
    #[arg(
        long,
        value_name = "KEY",
        env = "ASYNCTLS_API_KEY",
        hide_env_values = true,
        value_delimiter = ','
    )]
    api_key: Vec<String>,
    /// A file with such keys, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// An origin whose pages may ask, such as https://example.org; * is every one. May be given several times
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// The most bytes of a request
    #[arg(long, value_name = "SIZE", default_value = "32M", value_parser = bytes)]
    body_limit: usize,
    /// Seconds that a request's bytes may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    body_timeout: u32,
    /// Seconds that an answer may take, with the time that it waits
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
    /// Seconds that running answers have after Ctrl-C or SIGTERM; a second one ends at once
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u32,
    /// A file with the chat template to use instead of the model's own
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Let the model answer without thinking first, where its chat template can turn that off
    #[arg(long)]
    no_think: bool,
    /// Print start-up times, memory and kernels to standard error
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    attention: AttentionOptions,
    #[command(flatten)]
    cache: CacheOptions,
    #[command(flatten)]
    prefix: PrefixOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
}

const EXAMPLES: &str = "\
Examples:
  asynctls serve --model model.gguf
  asynctls serve --model model.gguf --host 0.0.0.0 --port 8000 --api-key-file keys.txt --parallel 8
  asynctls serve --model model.gguf --prefix-cache ~/.cache/asynctls --prefix-cache-size 200G
  asynctls serve --hf Qwen/Qwen3-8B --quantize q4_0 --context 32768 --cors-origin https://example.org
  curl localhost:8080/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}]}'

It speaks the interfaces of OpenAI (/v1/chat/completions, /v1/completions, /v1/responses, /v1/models) and of Anthropic
(/v1/messages); / is a page to ask from. What is chosen under Sampling is for requests that say nothing else. Ctrl-C and SIGTERM
take no more requests, and end with 0 once those that run are answered, or --grace is over.";

fn bytes(text: &str) -> std::result::Result<usize, String> {
    let bytes = parse_size("--body-limit", text).map_err(|error| match error {
        Error::Argument { limit, .. } => limit,
        other => other.to_string(),
    })?;
    usize::try_from(bytes).map_err(|_| "this machine has no memory as large".into())
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    options.attention.check()?;
    options.cache.check()?;
    options.prefix.check()?;
    Disable::from_env()?;
    let keys = options.keys()?;
    // Whoever has the port is known before a model is loaded.
    let listener = options.listen()?;
    let rope = options.model.rope()?;
    let path = options.model.path()?;
    let file = ModelFile::open(&path)?;
    let config = ModelConfig::read_changed(&file, rope.as_ref())?;
    let attention = options.attention.of(config.context_length)?;
    let tokenizer = super::model::tokenizer(&file)?;
    let suggested = file.suggested_sampling()?;
    let framing = Framing::new(tokenizer, options.template(&file)?);
    for line in &suggested.unused {
        note(&format!("note: {line}"));
    }
    let settings = options.sampling.settings(&suggested, None);
    if options.stats {
        note(&options.sampling.line(&suggested, &settings));
    }
    let mut server = ServerOptions::new(options.name(&path), settings);
    server.seed = options.sampling.fixed_seed();
    (server.keys, server.origins) = (keys, options.cors_origin.clone());
    server.body_bytes = options.body_limit;
    server.body_time = seconds(options.body_timeout);
    server.answer_time = seconds(options.timeout);
    server.grace = seconds(options.grace);
    server.validate()?;

    let Machine { gpu, memory, .. } = Machine::open(line.adapter())?;
    let mut engine = EngineOptions::new(&gpu, 1);
    (engine.quantise, engine.rope) = (options.model.quantise(), rope);
    options.attention.set_up(&attention, &mut engine)?;
    let plan = options.plan(&file, &config, &attention, memory.as_ref(), engine)?;
    let memory = options.cache.budget()?.map(Memory::allowed).or(memory);
    plan.check(memory.as_ref(), options.stats)?;
    let known = Known {
        is_short: is_short(&attention, plan.options.context),
        // Requests choose.
        ..plan.known()?
    };
    vain::warn(line, &known);
    let prefix_cache = options.prefix.of(&file, &config, &plan.options)?;
    let engine = load(gpu, plan, options.stats)?.engine;
    let mut batch = BatchOptions::new(&engine, attention);
    batch.prefix_cache = prefix_cache;
    (batch.running, batch.queue) = (options.parallel, options.queue);
    let (batcher, steps) = Batcher::new(engine, framing, batch)?;
    let address = listener.local_addr().map_err(|source| io(&options.host, source))?;
    let _keeping = interrupt::Keeping::new();
    note(&format!(
        "{} at http://{address}, {} requests of up to {} tokens at a time",
        server.model,
        options.parallel,
        batcher.context()
    ));
    server::serve(listener, batcher, steps, server, interrupt::asked)?;
    Ok(ExitCode::SUCCESS)
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

fn io(what: &str, source: std::io::Error) -> Error {
    Error::Io { path: what.into(), source }
}

impl Options {
    fn listen(&self) -> Result<TcpListener> {
        TcpListener::bind((self.host.as_str(), self.port)).map_err(|error| {
            let address = format!("{}:{}", self.host, self.port);
            let limit = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another program listens there: --port N takes another one, 0 any that is free"
                        .into()
                }
                std::io::ErrorKind::PermissionDenied => {
                    "it is not allowed: --port N of 1024 or more is for everybody".into()
                }
                _ => format!(
                    "that is none to listen at here ({error}): --host ADDRESS takes another one"
                ),
            };
            Error::argument("the address", address, limit)
        })
    }

    fn keys(&self) -> Result<Vec<String>> {
        let mut keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let text = prompt::read_text("--api-key-file", path)?;
            let before = keys.len();
            keys.extend(
                text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned),
            );
            // Whoever names a file wants nobody in without a key.
            if keys.len() == before {
                return Err(Error::argument(
                    "--api-key-file",
                    path.display(),
                    "there is no key in it",
                ));
            }
        }
        Ok(keys)
    }

    fn name(&self, path: &std::path::Path) -> String {
        let own = || {
            let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
            name.unwrap_or_default().to_string_lossy().into_owned()
        };
        self.model_name.clone().unwrap_or_else(own)
    }

    fn template(&self, file: &ModelFile) -> Result<Option<ChatTemplate>> {
        let mut template = match &self.chat_template {
            Some(path) => Some(ChatTemplate::from_file(path)?),
            None => file.chat_template()?,
        };
        if !self.no_think {
            return Ok(template);
        }
        let limit = match &mut template {
            None => "the model has no chat template that could take it",
            Some(own) => match own.set_thinking(false) {
                Ok(()) => return Ok(template),
                Err(_) => {
                    "the chat template does not mention enable_thinking, so it cannot turn thinking off"
                }
            },
        };
        Err(Error::argument("--no-think", "given", limit))
    }

    // An engine of as many tokens as were asked for, or as fit.
    fn plan<'a>(
        &self,
        file: &'a ModelFile,
        config: &'a ModelConfig,
        attention: &Attention,
        memory: Option<&Memory>,
        mut options: EngineOptions,
    ) -> Result<Plan<'a>> {
        let longest = config.context_length;
        if let Some(context) = self.context.filter(|context| *context > longest) {
            let limit = beyond(config, context.into());
            return Err(Error::argument("--context", format!("{context} tokens"), limit));
        }
        let context = self.context.unwrap_or(longest);
        // Beside those that are answered, as many conversations are kept.
        options.sessions = self.parallel.saturating_mul(2);
        options.context = context;
        options.total_tokens = match self.total_tokens {
            Some(total) => total,
            None => u64::from(context) * u64::from(self.parallel),
        };
        let place = |options: &mut EngineOptions| {
            self.cache.set_up(file, config, attention, memory, options)
        };
        let what = if self.context.is_some() { "--context" } else { "the context" };
        let to_host = Some("--kv host");
        let plan = |options| Plan { file, config, options, what, to_host };
        let budget = self.cache.budget()?.map(Memory::allowed);
        let memory = budget.as_ref().or(memory);
        let fits = |options: &EngineOptions| -> Result<bool> {
            let fit = Fit::new(file, config, options)?;
            Ok(memory
                .is_none_or(|memory| fit.bytes_with(memory.is_shared) <= memory.bytes / 10 * 9))
        };
        let mut tried = options.clone();
        if place(&mut tried).is_ok() && (self.total_tokens.is_some() || fits(&tried)?) {
            return Ok(plan(tried));
        }
        if self.total_tokens.is_none() {
            // Fewer requests of full length at a time, one at least.
            for share in (1..self.parallel).rev() {
                let mut tried = options.clone();
                tried.total_tokens = u64::from(context) * u64::from(share);
                if place(&mut tried).is_ok() && fits(&tried)? {
                    return Ok(plan(tried));
                }
            }
            options.total_tokens = context.into();
        }
        let placed = place(&mut options);
        if self.context.is_some() {
            placed?;
            return Ok(plan(options));
        }
        let mut shorter = plan(options);
        shorter.shorten(memory)?;
        place(&mut shorter.options)?;
        Ok(shorter)
    }
}
