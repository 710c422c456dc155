//! Subcommands, exit codes and how errors are shown.

mod adapters;
mod attention;
mod bench;
mod cache;
mod calibrate;
mod conformance;
mod eval;
mod fit;
mod generate;
mod headless;
mod hub;
mod inspect;
mod interrupt;
mod keys;
mod line;
mod logits;
mod model;
mod model_option;
mod option_names;
mod prefix;
mod progress;
mod prompt;
mod report;
mod rope;
mod saved;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod served;
mod start;
mod terminal;
mod vain;

use asynctls::Error;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use line::Line;
use std::process::ExitCode;

/// Runs long-context language models with two-level sparse attention on any GPU.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    /// Adapter: its number or [backend:]part-of-name, as `asynctls adapters` lists them [default: the best usable one]
    #[arg(long, global = true, value_name = "ADAPTER", env = "ASYNCTLS_ADAPTER")]
    adapter: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer a prompt, or questions one after the other
    Generate(Box<generate::Options>),
    /// Answer over HTTP, many requests at a time
    #[cfg(feature = "server")]
    Serve(serve::Options),
    /// List what adapters are here, what each can do and which kernels it would run
    Adapters(adapters::Options),
    /// Show what is in a GGUF file or model folder, and whether it can run
    Inspect(inspect::Options),
    /// Print the logits after given token ids
    Logits(logits::Options),
    /// Measure what selections keep: perplexity, retrieval, recall
    Eval(eval::Options),
    /// Measure what parts of the program gain
    Bench(bench::Options),
    /// Choose index channels from a text and store them
    Calibrate(calibrate::Options),
    /// Tell whether adapters compute right: every kernel against its twin on the CPU
    Conformance(conformance::Options),
}

const EXAMPLES: &str = "\
Examples:
  asynctls adapters
  asynctls inspect model.gguf
  asynctls generate --model model.gguf --prompt \"Why is the sky blue?\"
  asynctls generate --model model.gguf --prompt-file question.txt --max-tokens 64 --stats
  asynctls generate --hf Qwen/Qwen3-0.6B -i

Environment:
  ASYNCTLS_ADAPTER    the adapter, where --adapter is not given
  ASYNCTLS_API_KEY    the keys of `asynctls serve`, with commas between them, where --api-key is not given
  ASYNCTLS_DISABLE    features to do without: subgroups, cooperative
  HF_HOME             where --hf keeps models [default: ~/.cache/huggingface]
  HF_TOKEN            the token for --hf, where a login has left none
  HF_ENDPOINT         the hub that --hf asks [default: https://huggingface.co]
  HF_HUB_OFFLINE      1 takes what --hf names from the cache alone
  RUST_LOG            what to log, such as warn or asynctls=debug [default: nothing]

Exit codes: 0 fine, 1 the GPU failed, 2 bad usage or input; 128 and the number of a signal that ended the program:
129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.";

/// Why a command ended early.
#[derive(Debug)]
enum Failure {
    /// Something to tell the user.
    Error(Error),
    /// Nobody reads standard output any more, which is no error.
    BrokenPipe,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// The result of a subcommand or a part of one.
type Outcome<T> = Result<T, Failure>;

/// Runs the command line.
pub fn main() -> ExitCode {
    headless::spare_device_selection();
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("off"));
    let matches = Cli::command().get_matches();
    let command = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command;
    let line = Line::new(matches);
    match interrupt::listen().map_err(Failure::from).and_then(|()| run(command, &line)) {
        Ok(code) => code,
        Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(Failure::Error(error)) => {
            terminal::error(&error);
            exit_code(&error)
        }
    }
}

fn run(command: Command, line: &Line) -> Outcome<ExitCode> {
    match command {
        Command::Generate(options) => generate::run(&options, line),
        #[cfg(feature = "server")]
        Command::Serve(options) => serve::run(&options, line),
        Command::Adapters(options) => adapters::run(&options, line),
        Command::Inspect(options) => inspect::run(&options, line),
        Command::Logits(options) => logits::run(&options, line),
        Command::Eval(options) => eval::run(&options, line),
        Command::Bench(options) => bench::run(&options, line),
        Command::Calibrate(options) => calibrate::run(&options, line),
        Command::Conformance(options) => conformance::run(&options, line),
    }
}

fn exit_code(error: &Error) -> ExitCode {
    ExitCode::from(if is_input_error(error) { 2 } else { 1 })
}

/// Whether other input would have helped, rather than another GPU.
fn is_input_error(error: &Error) -> bool {
    matches!(
        error,
        Error::Argument { .. }
            | Error::Io { .. }
            | Error::Write { .. }
            | Error::File { .. }
            | Error::Model(_)
            | Error::Adapter(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_calls_the_kv_cache_so() {
        let mut left = vec![Cli::command()];
        while let Some(mut command) = left.pop() {
            let help = command.render_long_help().to_string().to_lowercase();
            assert!(!help.contains("keys and values"), "{help}");
            left.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn gpu_failures_are_told_from_bad_input() {
        assert!(is_input_error(&Error::argument("the prompt", 0, "too few")));
        assert!(is_input_error(&Error::Adapter("none".into())));
        assert!(!is_input_error(&Error::DeviceLost("unplugged".into())));
        assert!(!is_input_error(&Error::Gpu("refused".into())));
    }
}
