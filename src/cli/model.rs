//! A model file, and the model loaded with room for given sequences.

use super::fit::Plan;
use super::line::Line;
use super::model_option::ModelOption;
use super::prompt;
use super::rope::beyond;
use super::start::{Machine, load};
use super::terminal::note;
use super::vain;
use asynctls::engine::{Engine, EngineOptions, Fit};
use asynctls::eval::{Engines, Method, plan};
use asynctls::formats::Quantise;
use asynctls::gpu::Gpu;
use asynctls::model::{ModelConfig, ModelFile, RopeChange, Tokenizer};
use asynctls::{Error, Result};
use std::path::Path;

/// A model file, read but not loaded.
pub struct Model {
    /// The file.
    pub file: ModelFile,
    /// Its shapes.
    pub config: ModelConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The type that weights that are floats become.
    quantise: Option<Quantise>,
    /// The rotary scaling in the place of the file's.
    rope: Option<RopeChange>,
}

/// The room that an engine must have.
pub struct Room {
    /// Tokens of the longest sequence.
    pub context: u32,
    /// How an error calls them.
    pub what: &'static str,
    /// Sequences at a time.
    pub sessions: u32,
    /// Tokens that each sequence but the first has for itself.
    pub own: u32,
}

/// The tokenizer of a model file; says what is odd about it.
pub fn tokenizer(file: &ModelFile) -> Result<Tokenizer> {
    let tokenizer = file.tokenizer()?;
    for warning in tokenizer.warnings() {
        note(&format!("note: {warning}"));
    }
    Ok(tokenizer)
}

impl Model {
    /// Reads the model, once it is here.
    pub fn open(option: &ModelOption) -> Result<Self> {
        let file = ModelFile::open(&option.path()?)?;
        let rope = option.rope()?;
        let config = ModelConfig::read_changed(&file, rope.as_ref())?;
        let tokenizer = tokenizer(&file)?;
        Ok(Self { file, config, tokenizer, quantise: option.quantise(), rope })
    }

    /// Refuses lengths that the model was not made for.
    pub fn check_length(&self, what: &str, length: u32) -> Result<()> {
        if length == 0 {
            return Err(Error::argument(what, length, "at least one token is needed"));
        }
        if length > self.config.context_length {
            let limit = beyond(&self.config, length.into());
            return Err(Error::argument(what, format!("{length} tokens"), limit));
        }
        Ok(())
    }

    /// Loads the model with room for these sequences, and what else `set_up` asks for.
    pub fn load(
        &self,
        line: &Line,
        room: &Room,
        set_up: impl FnOnce(&mut EngineOptions) -> Result<()>,
    ) -> Result<Engine> {
        let Machine { gpu, memory, .. } = Machine::open(line.adapter())?;
        let options = self.options(&gpu, room, set_up)?;
        let plan = self.plan(options, room);
        plan.check(memory.as_ref(), false)?;
        vain::warn(line, &plan.known()?);
        Ok(load(gpu, plan, false)?.engine)
    }

    /// The same with all engines that these methods need; hot caches of so many blocks, if that is said.
    pub fn load_engines(
        &self,
        line: &Line,
        room: &Room,
        (methods, hot_blocks): (&[Method], Option<u32>),
        set_up: impl FnOnce(&mut EngineOptions) -> Result<()>,
    ) -> Result<Engines> {
        let Machine { gpu, mut memory, .. } = Machine::open(line.adapter())?;
        let options = self.options(&gpu, room, set_up)?;
        let plans = plan(methods, &options, &self.config, hot_blocks)?;
        for one in &plans {
            one.options.check_host_memory(&self.file, &self.config)?;
            self.plan(one.options.clone(), room).check(memory.as_ref(), false)?;
            if let Some(memory) = &mut memory {
                // The weights are shared, the rest is not.
                let fit = Fit::new(&self.file, &self.config, &one.options)?;
                let own = fit.bytes_with(memory.is_shared) - fit.weight_bytes;
                memory.bytes = memory.bytes.saturating_sub(own);
                memory.whose = format!("beside the KV caches of other rows {}", memory.whose);
            }
        }
        let first = self.plan(plans[0].options.clone(), room);
        vain::warn(line, &first.known()?);
        pollster::block_on(Engines::new(load(gpu, first, false)?.engine, &plans))
    }

    fn options(
        &self,
        gpu: &Gpu,
        room: &Room,
        set_up: impl FnOnce(&mut EngineOptions) -> Result<()>,
    ) -> Result<EngineOptions> {
        let mut options = EngineOptions::new(gpu, room.context);
        options.quantise = self.quantise;
        options.rope = self.rope;
        options.sessions = room.sessions;
        options.total_tokens += u64::from(room.sessions - 1) * u64::from(room.own);
        set_up(&mut options)?;
        Ok(options)
    }

    fn plan<'a>(&'a self, options: EngineOptions, room: &Room) -> Plan<'a> {
        Plan { file: &self.file, config: &self.config, options, what: room.what, to_host: None }
    }

    /// All tokens of a text file, which must be at least `least`.
    pub fn text_tokens(&self, path: &Path, least: usize) -> Result<Vec<u32>> {
        let text = prompt::read_text("--text", path)?;
        let tokens = self.tokenizer.begin(self.tokenizer.encode(&text, false)?);
        if tokens.len() < least {
            let limit = format!("it has {} tokens where {least} are needed", tokens.len());
            return Err(Error::argument("--text", path.display(), limit));
        }
        Ok(tokens)
    }
}
