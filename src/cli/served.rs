//! A model that is to be served: the options of it, and the batcher that answers.

use super::attention::{AttentionOptions, is_short};
use super::cache::CacheOptions;
use super::fit::Plan;
use super::line::Line;
use super::model_option::ModelOption;
use super::prefix::PrefixOptions;
use super::rope::beyond;
use super::start::{Machine, Memory, load};
use super::vain::{self, Known};
use asynctls::attention::Attention;
use asynctls::engine::{EngineOptions, Fit};
use asynctls::generate::Framing;
use asynctls::gpu::{Disable, Gpu};
use asynctls::model::{ChatTemplate, ModelConfig, ModelFile, RopeChange, SuggestedSampling};
use asynctls::serve::{BatchOptions, Batcher};
use asynctls::{Error, Result};
use clap::Args;
use std::future::Future;
use std::path::PathBuf;

/// Which model answers, how many requests at a time, and what it keeps of them.
#[derive(Args, Debug)]
pub struct ServedOptions {
    #[command(flatten)]
    model: ModelOption,
    /// Requests that are answered at a time; others wait
    #[arg(long, value_name = "N", default_value_t = 4, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub parallel: u32,
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
    /// A file with the chat template to use instead of the model's own
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Let the model answer without thinking first, where its chat template can turn that off
    #[arg(long)]
    no_think: bool,
    /// Print start-up times, memory and kernels to standard error
    #[arg(long)]
    pub stats: bool,
    #[command(flatten)]
    attention: AttentionOptions,
    #[command(flatten)]
    cache: CacheOptions,
    #[command(flatten)]
    prefix: PrefixOptions,
}

/// A model that was read, and not loaded.
pub struct Read {
    /// Its file or folder.
    pub path: PathBuf,
    /// The makers' choice of tokens.
    pub suggested: SuggestedSampling,
    file: ModelFile,
    config: ModelConfig,
    rope: Option<RopeChange>,
    attention: Attention,
    framing: Framing,
}

/// A model that answers while its steps are run.
pub struct Served<S> {
    /// What requests are given to.
    pub batcher: Batcher,
    /// The steps.
    pub steps: S,
    /// The device that they are taken on.
    pub gpu: Gpu,
}

impl ServedOptions {
    /// Checks what can be checked without a model.
    pub fn check(&self) -> Result<()> {
        self.attention.check()?;
        self.cache.check()?;
        self.prefix.check()?;
        Disable::from_env().map(drop)
    }

    /// Reads the model, once it is here.
    pub fn read(&self) -> Result<Read> {
        let rope = self.model.rope()?;
        let path = self.model.path()?;
        let file = ModelFile::open(&path)?;
        let config = ModelConfig::read_changed(&file, rope.as_ref())?;
        let attention = self.attention.of(config.context_length)?;
        let tokenizer = super::model::tokenizer(&file)?;
        let suggested = file.suggested_sampling()?;
        let framing = Framing::new(tokenizer, self.template(&file)?);
        Ok(Read { path, suggested, file, config, rope, attention, framing })
    }

    /// Loads it with room for its requests.
    pub fn load(
        &self,
        read: Read,
        line: &Line,
    ) -> Result<Served<impl Future<Output = ()> + Send + use<>>> {
        let Read { file, config, rope, attention, framing, .. } = read;
        let Machine { gpu, memory, .. } = Machine::open(line.adapter())?;
        let mut engine = EngineOptions::new(&gpu, 1);
        (engine.quantise, engine.rope) = (self.model.quantise(), rope);
        self.attention.set_up(&attention, &mut engine)?;
        let plan = self.plan(&file, &config, &attention, memory.as_ref(), engine)?;
        let memory = self.cache.budget()?.map(Memory::allowed).or(memory);
        plan.check(memory.as_ref(), self.stats)?;
        let known = Known {
            is_short: is_short(&attention, plan.options.context),
            // Requests choose.
            ..plan.known()?
        };
        vain::warn(line, &known);
        let prefix_cache = self.prefix.of(&file, &config, &plan.options)?;
        let engine = load(gpu, plan, self.stats)?.engine;
        let gpu = engine.gpu.share();
        let mut batch = BatchOptions::new(&engine, attention);
        batch.prefix_cache = prefix_cache;
        (batch.running, batch.queue) = (self.parallel, self.queue);
        let (batcher, steps) = Batcher::new(engine, framing, batch)?;
        Ok(Served { batcher, steps, gpu })
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
