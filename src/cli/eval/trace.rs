//! `asynctls eval trace`.

use super::super::line::Line;
use super::super::model::{Model, Room};
use super::super::model_option::ModelOption;
use super::super::progress::bar;
use super::super::terminal::{note, size};
use super::super::{Outcome, interrupt};
use super::methods::MethodOptions;
use asynctls::Result;
use asynctls::engine::{Engine, Want};
use asynctls::eval::trace::{Recorded, Trace};
use clap::{Args, ValueEnum};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `asynctls eval trace`.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    model: ModelOption,
    /// The text that the steps follow
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of the text that are prefilled
    #[arg(long, value_name = "N", default_value_t = 4096, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    length: u32,
    /// Decode steps to record, each given the text's next token
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    steps: u32,
    /// What to record besides the blocks and tokens selected
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    with: Vec<Part>,
    /// Where the trace goes, a safetensors file
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    methods: MethodOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Level 1's scores
    Scores,
    /// Rotated queries
    Queries,
    /// Rotated keys, those of the prefilled text too
    Keys,
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    let model = Model::open(&options.model)?;
    let method = options.methods.selection(&model.config, line)?;
    let context = options.length.saturating_add(options.steps);
    model.check_length("--length and --steps together", context)?;
    let tokens = model.text_tokens(&options.text, context as usize)?;
    let room = Room { context, what: "--length", sessions: 1, own: 0 };
    let methods = [method];
    let engine = model.load(line, &room, |engine| options.methods.set_up(&methods, engine))?;
    let [method] = methods;
    let recorded = Recorded {
        scores: options.with.contains(&Part::Scores),
        queries: options.with.contains(&Part::Queries),
        keys: options.with.contains(&Part::Keys),
    };
    let (prompt, forced) = tokens[..context as usize].split_at(options.length as usize);
    let trace = pollster::block_on(record(&engine, prompt, forced, &method, recorded.keys))?;
    if trace.steps.is_empty() {
        // The user asked to end before there was anything to keep.
        return Ok(interrupt::exit_code());
    }
    let about = HashMap::from([
        ("model".to_owned(), options.model.to_string()),
        ("text".to_owned(), options.text.display().to_string()),
        ("method".to_owned(), method.name.clone()),
        ("adapter".to_owned(), engine.gpu.label().to_owned()),
        ("block_size".to_owned(), engine.shape().block.to_string()),
    ]);
    trace.write(&options.output, recorded, about)?;
    let bytes = std::fs::metadata(&options.output).map_or(0, |file| file.len());
    note(&format!(
        "{}: {} steps of {} in {}",
        options.output.display(),
        trace.steps.len(),
        method.name,
        size(bytes)
    ));
    Ok(interrupt::exit_code())
}

// Records the steps; those done are kept when the user asks to end.
async fn record(
    engine: &Engine,
    prompt: &[u32],
    forced: &[u32],
    method: &asynctls::eval::Method,
    wants_keys: bool,
) -> Result<Trace> {
    let _keeping = interrupt::Keeping::new();
    let bar = bar("recording", (prompt.len() + forced.len()) as u64, false);
    let mut trace = Trace::default();
    let mut session = engine.session()?;
    let mut progress = |done: u32| {
        bar.set_position(done.into());
        !interrupt::asked()
    };
    engine.prefill(&mut session, prompt, Want::Nothing, &mut progress).await?;
    if wants_keys {
        trace.prompt = engine.read_cache(&session).await?;
    }
    for &token in forced {
        if interrupt::asked() {
            break;
        }
        trace.inputs.push((token, session.len()));
        let (_, views) =
            engine.observe(&mut session, token, &method.attention, Want::Nothing).await?;
        trace.steps.push(views);
        bar.inc(1);
    }
    drop(bar);
    Ok(trace)
}
