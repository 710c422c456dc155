//! `asynctls calibrate`: index channels from a text, stored.

use super::line::Line;
use super::model::{Model, Room};
use super::model_option::ModelOption;
use super::progress::bar;
use super::terminal::{print, print_json};
use super::{Outcome, interrupt};
use asynctls::engine::{IndexOptions, Want};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `asynctls calibrate`.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    /// The text to choose channels by
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// How many of its tokens to use
    #[arg(long, value_name = "N", default_value_t = 4096, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(64..))]
    length: u32,
    /// Where the channels go, for --channels
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Channels of each key to choose, a multiple of 8 [default: a quarter of the head dimension; 48 of heads of 128 or more, 64 of latents]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    index_channels: Option<u32>,
}

#[derive(Serialize)]
struct Report {
    output: String,
    id: String,
    tokens: u32,
    channels: u32,
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    let model = Model::open(&options.model)?;
    model.check_length("--length", options.length)?;
    let tokens = model.text_tokens(&options.text, options.length as usize)?;
    let tokens = &tokens[..options.length as usize];
    let room = Room { context: options.length, what: "--length", sessions: 1, own: 0 };
    let engine = model.load(line, &room, |engine| {
        let stats_tokens = options.length;
        let channels = options.index_channels;
        engine.index = Some(IndexOptions { channels, stats_tokens, ..IndexOptions::default() });
        Ok(())
    })?;
    let _keeping = interrupt::Keeping::new();
    let bar = bar("reading", options.length.into(), false);
    let mut session = engine.session()?;
    let mut progress = |done: u32| {
        bar.set_position(done.into());
        !interrupt::asked()
    };
    pollster::block_on(engine.prefill(&mut session, tokens, Want::Nothing, &mut progress))?;
    drop(bar);
    if session.len() < options.length {
        return Ok(interrupt::exit_code());
    }
    let set = pollster::block_on(engine.channels(&mut session))?;
    set.write(&options.output)?;
    let report = Report {
        output: options.output.display().to_string(),
        id: set.id().to_string(),
        tokens: options.length,
        channels: set.channels(),
    };
    if options.json {
        print_json("calibrate", &report)?;
    } else {
        print(&format!(
            "{}: {} channels from {} tokens, set {}\n",
            report.output, report.channels, report.tokens, report.id
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
