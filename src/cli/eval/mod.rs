//! `asynctls eval`: what a selection keeps of attention, of a text's likelihood and of retrieval.

mod divergence;
mod grid;
mod methods;
mod perplexity;
mod places;
mod proof;
mod recall;
mod results;
mod retrieval;
mod trace;
mod windows;

use super::Outcome;
use super::line::Line;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Options of `asynctls eval`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Perplexity of a text, token by token through the decode path, beside dense attention
    Perplexity(perplexity::Options),
    /// How far each selection's distribution of the next token is from dense attention's, over texts
    Divergence(divergence::Options),
    /// RULER's retrieval tasks, the same prompts under dense attention and each selection
    Retrieval(retrieval::Options),
    /// How much of dense attention's mass a selection attends, head by head, against the oracle's
    Recall(recall::Options),
    /// Record what is selected, for replay
    Trace(trace::Options),
}

const EXAMPLES: &str = "\
Examples:
  asynctls eval perplexity --model model.gguf --text book.txt --length 4096 --budget 25%+256,50%+512
  asynctls eval retrieval --model model.gguf --text book.txt --lengths 2048,4096 --samples 20 --plot map.svg
  asynctls eval retrieval --model model.gguf --haystack noise --lengths 8192 --samples 50 --state noise.jsonl
  asynctls eval divergence --model model.gguf --text book.txt --lengths 8192,32768 --windows 8 --scorer codes,minmax
  asynctls eval divergence --model model.gguf --text book.txt --scorer codes --timing gpu,exact,lagged --kv-type f16,q8_0
  asynctls eval recall --model model.gguf --text book.txt --lengths 4096 --scorer codes,minmax --json
  asynctls eval trace --model model.gguf --text book.txt --length 4096 --steps 64 --output trace.safetensors

With --state FILE an interrupted run goes on where it stopped and ends with the same result.";

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    match &options.command {
        Command::Perplexity(options) => perplexity::run(options, line),
        Command::Divergence(options) => divergence::run(options, line),
        Command::Retrieval(options) => retrieval::run(options, line),
        Command::Recall(options) => recall::run(options, line),
        Command::Trace(options) => trace::run(options, line),
    }
}
