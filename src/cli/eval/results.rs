//! The results of every evaluation: parts are kept as they are finished, and all shown or written at the end.

use super::super::terminal::{note, print, print_json};
use super::super::{Outcome, interrupt};
use asynctls::Result;
use asynctls::engine::Engine;
use asynctls::eval::store::Store;
use asynctls::eval::table::Table;
use asynctls::eval::{Engines, Method};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where results go.
#[derive(Args, Debug)]
#[command(next_help_heading = "Results")]
pub struct ResultOptions {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Write the rows to this file as comma-separated values
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Draw a picture into this file
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Keep finished parts in this file, and go on from those that are there
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// What random choices are drawn from
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// All that results depend on and that every evaluation has.
#[derive(Debug, Serialize)]
pub struct Settings<'a, T: Serialize> {
    /// Which evaluation.
    pub evaluation: &'static str,
    /// The model's file.
    pub model: String,
    /// The adapter.
    pub adapter: String,
    /// The variant of kernels.
    pub kernels: &'static str,
    /// The methods that are compared.
    pub methods: Vec<&'a str>,
    /// Channels of the index.
    pub index_channels: u32,
    /// Bits of a code of the index.
    pub index_bits: u32,
    /// The name of the stored index channels, where they are used.
    pub stored_channels: Option<String>,
    /// Tokens in a block.
    pub block_size: u32,
    /// Slots of the hot cache, where a selection's KV cache is in CPU memory.
    pub hot_blocks: Option<u32>,
    /// The seed of random choices.
    pub seed: u64,
    /// The evaluation's own.
    #[serde(flatten)]
    pub own: &'a T,
}

impl<'a, T: Serialize> Settings<'a, T> {
    pub fn new(
        evaluation: &'static str,
        model: String,
        engine: &Engine,
        methods: &'a [Method],
        seed: u64,
        own: &'a T,
    ) -> Self {
        let stored = engine.options.index.as_ref().and_then(|index| index.stored.as_ref());
        let shape = engine.shape();
        Self {
            evaluation,
            model,
            adapter: engine.gpu.label().to_owned(),
            kernels: engine.gpu.tier().name,
            methods: methods.iter().map(|method| method.name.as_str()).collect(),
            index_channels: shape.index.channels,
            index_bits: shape.index.bits,
            stored_channels: stored.map(|set| set.id().to_string()),
            block_size: shape.block,
            hot_blocks: None,
            seed,
            own,
        }
    }

    /// Of an evaluation whose rows need these engines.
    pub fn of_engines(
        evaluation: &'static str,
        model: String,
        engines: &Engines,
        methods: &'a [Method],
        seed: u64,
        own: &'a T,
    ) -> Self {
        Self {
            hot_blocks: engines.hot_blocks(methods),
            ..Self::new(evaluation, model, engines.first(), methods, seed, own)
        }
    }
}

impl ResultOptions {
    /// Where finished parts are kept.
    pub fn store(&self, settings: &impl Serialize) -> Result<Store> {
        match &self.state {
            Some(path) => Store::open(path, settings),
            None => Ok(Store::memory()),
        }
    }

    /// Shows the results: as JSON, or as a table below its title.
    pub fn show(
        &self,
        command: &str,
        json: &impl Serialize,
        title: &str,
        table: &Table,
    ) -> Outcome<()> {
        match self.json {
            true => print_json(command, json),
            false => print(&format!("{title}\n\n{}", table.to_text())),
        }
    }

    /// How an interrupted run ends.
    pub fn interrupted(&self, done: usize, total: usize) -> ExitCode {
        let kept = match &self.state {
            Some(path) => {
                format!("they are in {}, and the same command goes on from there", path.display())
            }
            None => "with --state FILE they would have been kept".into(),
        };
        note(&format!("interrupted with {done} of {total} parts done: {kept}"));
        interrupt::exit_code()
    }
}
