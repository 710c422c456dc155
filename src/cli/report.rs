//! The report of `asynctls generate` besides the text.

use super::saved::SavedReport;
use super::terminal::size;
use asynctls::engine::{HostOptions, OffloadStats};
use asynctls::generate::{End, Made, Work};
use serde::Serialize;
use std::time::Duration;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended it, or a stop text came.
    Stop,
    /// It reached `--max-tokens` or the end of the context.
    Length,
    /// The user ended it, or nobody reads it.
    Interrupted,
}

impl From<End> for Finish {
    fn from(end: End) -> Self {
        match end {
            End::StopToken | End::StopText => Self::Stop,
            End::Length | End::ContextFull => Self::Length,
            End::Cancelled => Self::Interrupted,
        }
    }
}

/// Where the time went, in seconds.
#[derive(Debug, Serialize)]
pub struct Timings {
    /// Finding and opening the adapter.
    pub open: f64,
    /// Reading the model and bringing it to the GPU.
    pub load: f64,
    /// Compiling kernels.
    pub compile: f64,
    /// The prompt.
    pub prefill: f64,
    /// The answer.
    pub decode: f64,
    /// All of it.
    pub total: f64,
}

impl Timings {
    /// The start-up in one line.
    pub fn line(&self) -> String {
        let Self { open, load, compile, prefill, decode, total } = self;
        format!(
            "time: open {open:.2} s, load {load:.2} s, compile pipelines {compile:.2} s, prefill {prefill:.2} s, \
             decode {decode:.2} s, total {total:.2} s"
        )
    }
}

/// All settings in effect.
#[derive(Debug, Serialize)]
pub struct Settings {
    /// The model file.
    pub model: String,
    /// The scaling of its rotary embedding.
    pub rope_scaling: String,
    /// The system message.
    pub system: Option<String>,
    /// Whether the prompt went without a chat template.
    pub raw: bool,
    /// Whether the model was told not to think.
    pub no_think: bool,
    /// The file of the chat template, where it is not the model's own.
    pub chat_template: Option<String>,
    /// Whether control tokens that messages spell out count.
    pub special_in_text: bool,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// Tokens that memory was set aside for.
    pub context: u32,
    /// Blocks that level 1 keeps.
    pub blocks: Option<String>,
    /// Tokens that level 2 keeps.
    pub tokens: Option<u32>,
    /// Blocks at the start that are always attended.
    pub sink_blocks: Option<u32>,
    /// Latest blocks that are always attended.
    pub recent_blocks: Option<u32>,
    /// Context up to which all tokens are attended.
    pub dense_below: Option<u32>,
    /// The rank of blocks in level 1.
    pub scorer: Option<&'static str>,
    /// The rank of tokens in level 2.
    pub token_scorer: Option<&'static str>,
    /// Channels of the index.
    pub index_channels: Option<u32>,
    /// Bits of a code of the index.
    pub index_bits: Option<u32>,
    /// The name of the stored index channels, where they are used.
    pub stored_channels: Option<String>,
    /// Tokens in a block.
    pub block_size: u32,
    /// Where the KV cache lives: `gpu` or `host`.
    pub kv: &'static str,
    /// How it lives in CPU memory.
    pub host: Option<HostOptions>,
    /// The sampler's temperature.
    pub temperature: f32,
    /// The sampler's number of candidates.
    pub top_k: usize,
    /// The sampler's share of the probability.
    pub top_p: f32,
    /// The sampler's share of the likeliest token's probability.
    pub min_p: f32,
    /// The sampler's penalty of tokens that occurred.
    pub repetition_penalty: f32,
    /// The latest tokens that it looks at, if not all.
    pub repetition_window: Option<usize>,
    /// The sampler's penalty of tokens that the answer has.
    pub presence_penalty: f32,
    /// The sampler's penalty of tokens for each time that the answer has them.
    pub frequency_penalty: f32,
    /// The sampler's seed, if anything was drawn.
    pub seed: Option<u64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// The variant of kernels.
    pub kernels: &'static str,
    /// Tokens of prompt worked on at a time.
    pub chunk: u32,
}

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// The text.
    pub text: &'a str,
    /// Its token ids.
    pub tokens: &'a [u32],
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens in the session at the end.
    pub context_tokens: u32,
    /// Tokens attended by the last step.
    pub attended_tokens: u32,
    /// `dense` or `two-level`.
    pub attention: &'static str,
    /// The adapter.
    pub adapter: &'a str,
    /// Speed of the prompt.
    pub prompt_tokens_per_second: Option<f64>,
    /// Speed of the answer.
    pub decode_tokens_per_second: Option<f64>,
    /// GPU memory.
    pub gpu_bytes: u64,
    /// Of that, what the KV cache and its index take.
    pub kv_gpu_bytes: u64,
    /// The offload engine's counts, where the KV cache lives in CPU memory.
    pub offload: Option<OffloadStats>,
    /// The tokens that came from a session's file and went there.
    pub session: Option<&'a SavedReport>,
    /// Settings.
    pub settings: Settings,
    /// Times.
    pub timings: Timings,
}

/// The offload engine's counts in one line.
pub fn offload_line(stats: &OffloadStats) -> String {
    let wanted = (stats.hits + stats.misses).max(1) as f64;
    let redone = match stats.most_missed > 0.0 || stats.redone > 0 {
        false => String::new(),
        true => format!(
            "; {} of {} steps were done again, {:.1}% of a head's attention was missed at most",
            stats.redone,
            stats.steps,
            100.0 * stats.most_missed
        ),
    };
    format!(
        "offload: {:.1}% of {} chosen blocks were not on the GPU, {} up and {} down, gathered {:.2} s beside the GPU's work \
         and {:.2} s while it waited, {} stalls of the ring; {} of KV cache in CPU memory{redone}",
        100.0 * stats.misses as f64 / wanted,
        stats.hits + stats.misses,
        size(stats.bytes_up),
        size(stats.bytes_down),
        stats.hidden_seconds,
        stats.exposed_seconds,
        stats.ring_stalls,
        size(stats.host_bytes)
    )
}

/// The last line.
pub fn summary(
    answer: &Made,
    work: &Work,
    context: u32,
    gpu_bytes: u64,
    seed: Option<u64>,
) -> String {
    let speed = |tokens: u32, time: Duration, rate: Option<f64>| match rate {
        Some(rate) => {
            format!("{tokens} tokens in {:.2} s ({rate:.1} tokens/s)", time.as_secs_f64())
        }
        None => format!("{tokens} tokens"),
    };
    let seed = seed.map_or_else(String::new, |seed| format!("; seed {seed}"));
    let interrupted = if answer.end == End::Cancelled { "interrupted; " } else { "" };
    format!(
        "{interrupted}prompt {}; decode {}; context {context} tokens; {} attended a step; {} of GPU memory{seed}",
        speed(work.prompt_tokens, work.prefill, work.prompt_rate()),
        speed(work.steps, work.decode, work.decode_rate()),
        answer.attended,
        size(gpu_bytes)
    )
}
