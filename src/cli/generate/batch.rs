//! `--batch`: the prompts of a file, several at a time, with a line of results for each.

mod lines;
mod results;

use super::{Model, Options};
use crate::cli::attention::is_short;
use crate::cli::fit::Plan;
use crate::cli::progress::bar;
use crate::cli::rope::beyond;
use crate::cli::start::{Machine, Memory, load};
use crate::cli::terminal::{note, one_line, size};
use crate::cli::vain::{self, Known};
use crate::cli::{Outcome, interrupt, is_input_error, line, option_names};
use asynctls::engine::{Engine, EngineOptions};
use asynctls::generate::{AnswerOptions, Framing};
use asynctls::serve::{BatchOptions, Batcher, Event, Events, PrefixCache, Request, Stats};
use asynctls::{Error, Result};
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use lines::Line;
use results::{Answered, Made, Results};
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Instant;

/// Lines that are answered at a time, if nobody says how many.
const PARALLEL: u32 = 8;

/// A line that is still to be answered.
struct Ahead {
    /// Its place among all lines.
    at: usize,
    line: Line,
    /// Its tokens, or why it has none.
    tokens: Result<Vec<u32>>,
    options: AnswerOptions,
}

/// Answers the prompts of a file.
pub fn run(options: &Options, given: &line::Line, prompts: &Path, out: &Path) -> Outcome<ExitCode> {
    let lines = lines::read(prompts)?;
    let mut results = Results::open(out, &lines)?;
    let (all, done) = (lines.len(), results.count());
    if done > 0 {
        note(&format!("note: {} has results of {done} of {all} prompts already", out.display()));
    }
    if done == all {
        return Ok(ended(results.failed, all, out));
    }
    let model = options.read()?;
    let sampling = options.sampling.settings(&model.suggested, None);
    let usual = AnswerOptions {
        max_tokens: options.max_tokens,
        stop: options.stop.clone(),
        grammar: model.grammar.clone(),
        ..AnswerOptions::new(sampling, model.attention)
    };
    let left = lines.into_iter().enumerate().filter(|(at, _)| !results.has(*at));
    let ahead: Vec<Ahead> = left.map(|(at, line)| ahead(at, line, &model, &usual)).collect();
    let (engine, framing, prefix_cache) = begin(options, given, model, &usual, &ahead)?;
    let began = Instant::now();
    let mut work = BatchOptions::new(&engine, usual.attention);
    work.running = (engine.options.sessions - 1).max(1);
    work.prefix_cache = prefix_cache;
    let running = work.running as usize;
    let gpu = engine.gpu.share();
    let (batcher, steps) = Batcher::new(engine, framing, work)?;
    let _keeping = interrupt::Keeping::new();
    let (failed, stats, seconds) = pollster::block_on(async {
        let answers = answer_all(batcher, ahead, 2 * running, &mut results);
        let (answers, seconds) = match select(pin!(answers), pin!(steps)).await {
            Either::Left((answers, steps)) => {
                let seconds = began.elapsed();
                // What prompts begin with is stored before the steps end.
                if !interrupt::asked() {
                    steps.await;
                }
                (answers, seconds)
            }
            // The answers say why: the steps told all of them.
            Either::Right(((), answers)) => (answers.await, began.elapsed()),
        };
        answers.map(|(failed, stats)| (failed, stats, seconds.as_secs_f64()))
    })?;
    note(&summary(&stats, seconds, gpu.allocated_bytes()));
    if interrupt::asked() {
        note(&format!("note: the same command does what {} lacks", out.display()));
        return Ok(interrupt::exit_code());
    }
    Ok(ended(results.failed + failed, all, out))
}

// How a run ends that has results of all lines, whichever run they are from.
fn ended(failed: usize, all: usize, out: &Path) -> ExitCode {
    if failed == 0 {
        return ExitCode::SUCCESS;
    }
    note(&format!("error: {failed} of {all} prompts failed: {} says why", out.display()));
    ExitCode::from(2)
}

fn ahead(at: usize, line: Line, model: &Model, usual: &AnswerOptions) -> Ahead {
    let tokens = line.tokens(&model.chat, &model.framing).and_then(|tokens| {
        let length = tokens.len();
        if length > model.config.context_length as usize {
            let limit = beyond(&model.config, length as u64);
            return Err(Error::argument("the prompt", format!("{length} tokens"), limit));
        }
        Ok(tokens)
    });
    Ahead { at, tokens, options: line.options(usual), line }
}

// An engine with room for as many of the longest as are answered at a time.
fn begin(
    options: &Options,
    given: &line::Line,
    model: Model,
    usual: &AnswerOptions,
    ahead: &[Ahead],
) -> Outcome<(Engine, Framing, Option<PrefixCache>)> {
    let Machine { gpu, memory, .. } = Machine::open(given.adapter())?;
    let engine = options.engine_options(&model, &gpu)?;
    let Model { file, config, attention, .. } = &model;
    let needs = |ahead: &Ahead| {
        let tokens = ahead.tokens.as_ref().map_or(1, Vec::len) as u32;
        tokens.saturating_add(ahead.options.max_tokens).min(config.context_length)
    };
    let mut needs: Vec<u32> = ahead.iter().map(needs).collect();
    needs.sort_unstable_by_key(|tokens| std::cmp::Reverse(*tokens));
    // One session more keeps what the next one may begin with.
    let plan_of = |parallel: u32| -> Result<Plan<'_>> {
        let mut options_of = EngineOptions { context: needs[0], ..engine.clone() };
        options_of.sessions = parallel + 1;
        let longest = needs.iter().take(parallel as usize);
        options_of.total_tokens = longest.map(|tokens| u64::from(*tokens)).sum();
        options.cache.set_up(file, config, attention, memory.as_ref(), &mut options_of)?;
        let what = "the longest prompt with its answer";
        let plan = Plan { file, config, options: options_of, what, to_host: Some("--kv host") };
        let allowed = options.cache.budget()?.map(Memory::allowed);
        plan.check(allowed.as_ref().or(memory.as_ref()), false)?;
        Ok(plan)
    };
    let mut parallel = options.parallel.unwrap_or(PARALLEL).min(ahead.len() as u32);
    let plan = loop {
        match plan_of(parallel) {
            Err(_) if options.parallel.is_none() && parallel > 1 => parallel /= 2,
            plan => break plan?,
        }
    };
    let draws = ahead.iter().any(|ahead| ahead.options.sampling.draws());
    let known = Known {
        is_short: is_short(attention, plan.options.context),
        draws,
        penalises: usual.sampling.repetition_penalty != 1.0,
        ..plan.known()?
    };
    vain::warn(given, &known);
    if options.stats {
        note(&options.sampling.line(&model.suggested, &usual.sampling));
    }
    let prefix_cache = options.prefix.of(file, config, &plan.options)?;
    let loaded = load(gpu, plan, options.stats)?;
    let Model { framing, .. } = model;
    Ok((loaded.engine, framing, prefix_cache))
}

// Answers lines, so many of them queued at a time, and writes what came of each in order; tells how many failed, and what was done. It
// ends early where the user wants it to.
async fn answer_all(
    batcher: Batcher,
    ahead: Vec<Ahead>,
    most: usize,
    results: &mut Results,
) -> Result<(usize, Stats)> {
    let bar = bar("answers", ahead.len() as u64, false);
    let (mut ahead, mut running) = (ahead.into_iter(), FuturesUnordered::new());
    let mut failed = 0;
    loop {
        while running.len() < most
            && !interrupt::asked()
            && let Some(Ahead { at, line, tokens, options }) = ahead.next()
        {
            let seed = options.sampling.draws().then_some(options.sampling.seed);
            let events = tokens.and_then(|prompt| batcher.submit(Request::new(prompt, options)));
            running.push(async move {
                let made = match events {
                    Ok(events) => answer(events, seed).await,
                    Err(error) => Err(error),
                };
                (at, line, made)
            });
        }
        let Some((at, line, answer)) = running.next().await else { break };
        let answer = match answer {
            Ok(Some(answer)) => answer,
            // It was asked to end.
            Ok(None) => break,
            Err(error) if is_input_error(&error) => {
                failed += 1;
                Made::Failed { error: one_line(&option_names::message(&error)) }
            }
            // A broken GPU is no answer: the next run may find a whole one.
            Err(error) => return Err(error),
        };
        let Line { number, id, checksum, .. } = line;
        results.add(at, &Answered { line: number, id, checksum, made: answer })?;
        bar.inc(1);
    }
    Ok((failed, batcher.stats()))
}

// `None` where the user wants no more.
async fn answer(mut events: Events, seed: Option<u64>) -> Result<Option<Made>> {
    let (mut text, mut tokens) = (String::new(), Vec::new());
    while let Some(event) = events.next().await {
        if interrupt::asked() {
            return Ok(None);
        }
        match event {
            Event::Prefill { .. } => {}
            Event::Piece(piece) => {
                text.push_str(&piece.text);
                tokens.extend(piece.tokens);
            }
            Event::Failed(error) => return Err(error),
            Event::End(ended) => {
                let finish = ended.end.into();
                let (prompt_tokens, reused_tokens) = (ended.prompt_tokens, ended.reused_tokens);
                return Ok(Some(Made::Answer {
                    text,
                    tokens,
                    finish,
                    prompt_tokens,
                    reused_tokens,
                    seed,
                }));
            }
        }
    }
    Err(Error::Gpu("an answer ended without an end".into()))
}

fn summary(stats: &Stats, seconds: f64, gpu_bytes: u64) -> String {
    let Stats { ended, prompt_tokens, reused_tokens, answer_tokens, steps, .. } = stats;
    format!(
        "{ended} answers in {seconds:.2} s; prompts {prompt_tokens} tokens, {reused_tokens} more there already; answers \
         {answer_tokens} tokens ({:.1} tokens/s); {steps} steps; {} of GPU memory",
        *answer_tokens as f64 / seconds.max(1e-9),
        size(gpu_bytes)
    )
}
