//! `asynctls bench`: what parts of the program gain, measured on their own.

mod attention;
mod churn;
mod measure;
mod offload;
mod random;
mod report;
#[cfg(feature = "server")]
mod serve;
mod shape;
mod throughput;
mod warm;

use super::Outcome;
use super::line::Line;
use asynctls::formats::TensorType;
use asynctls::model::RandomModel;
use asynctls::{Error, Result};
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Options of `asynctls bench`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Attention of decode steps alone: every selector beside dense, and beside another library
    Attention(attention::Options),
    /// Decode steps with the KV cache in CPU memory, beside steps with all of it on the GPU
    Offload(offload::Options),
    /// Many requests to a server of OpenAI's chats, our own or another one: how fast they are answered, and how many fail
    #[cfg(feature = "server")]
    Serve(Box<serve::Options>),
    /// Tokens a second of many sequences that decode together, in the same GPU memory
    Throughput(throughput::Options),
}

const EXAMPLES: &str = "\
Examples:
  asynctls bench attention --model-shape qwen3-8b --lengths 32768,98304 --batches 1,8
  asynctls bench attention --peer 'python3 benches/peers/attention.py' --csv attention.csv --plot attention.svg
  asynctls bench offload
  asynctls bench offload --model-shape qwen3-8b --weights f16,q4_0 --context 98304 --misses 3%,10% --steps 32
  asynctls bench offload --model-shape smollm2 --trace trace.safetensors --json
  asynctls bench offload --plot steps.svg --timeline step.svg
  asynctls bench serve --model model.gguf --clients 64 --parallel 64 --prompt-tokens 33000 --shared-prefix 32768 --one-by-one
  asynctls bench serve --url http://127.0.0.1:8000 --rate 4 --requests 200 --cancel 10% --json
  asynctls bench throughput --model-shape qwen3-8b --lengths 32768,98304 --gpu-memory 24G --batches 1,4";

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    match &options.command {
        Command::Attention(options) => attention::run(options, line),
        Command::Offload(options) => offload::run(options, line),
        #[cfg(feature = "server")]
        Command::Serve(options) => serve::run(options, line),
        Command::Throughput(options) => throughput::run(options, line),
    }
}

/// The model of random weights that `--model-shape` names.
fn named(shape: &str) -> Result<RandomModel> {
    RandomModel::named(shape).ok_or_else(|| {
        let known = format!("known are {}", RandomModel::NAMES.join(", "));
        Error::argument("--model-shape", shape, known)
    })
}

/// The type of weights that `--weights` names.
fn weights(name: &str) -> Result<TensorType> {
    let types = RandomModel::TYPES;
    let named = types.into_iter().find(|kind| kind.to_string().eq_ignore_ascii_case(name));
    named.ok_or_else(|| {
        let known = types.map(|kind| kind.to_string().to_lowercase()).join(", ");
        Error::argument("--weights", name, format!("known are {known}"))
    })
}
