//! Whether a model with its context fits the GPU's memory.

use super::start::Memory;
use super::terminal::{note, size};
use super::vain::Known;
use asynctls::engine::{EngineOptions, Fit};
use asynctls::formats::Quantise;
use asynctls::model::{ModelConfig, ModelFile};
use asynctls::{Error, Result};

/// A context to plan for.
pub struct Plan<'a> {
    /// The model.
    pub file: &'a ModelFile,
    /// The model's shapes.
    pub config: &'a ModelConfig,
    /// The engine that will be loaded.
    pub options: EngineOptions,
    /// How errors call the context.
    pub what: &'a str,
    /// The option that keeps the KV cache in CPU memory, where the command has one.
    pub to_host: Option<&'static str>,
}

impl Plan<'_> {
    /// Makes the context as short as it must be to fit, with a tenth to spare for what else runs.
    pub fn shorten(&mut self, memory: Option<&Memory>) -> Result<()> {
        let Some(memory) = memory else { return Ok(()) };
        let room = (memory.bytes / 10 * 9, memory.is_shared);
        let largest = Fit::largest_context(self.file, self.config, &self.options, room)?;
        if let Some(largest) = largest.filter(|&largest| largest < self.options.context) {
            self.options.context = largest;
            self.options.total_tokens = largest.into();
        }
        Ok(())
    }

    /// Refuses what needs more memory than there is; where that is not known, the attempt will tell.
    pub fn check(&self, memory: Option<&Memory>, show: bool) -> Result<()> {
        let fit = Fit::new(self.file, self.config, &self.options)?;
        if show {
            let there =
                memory.map_or_else(|| "an unknown amount".into(), |memory| size(memory.bytes));
            note(&format!(
                "memory: {} needed (weights {}{}, KV cache {}, index {}, working memory {}), {there} there{}",
                size(fit.total_bytes()),
                size(fit.weight_bytes),
                match fit.expanded_bytes {
                    0 => String::new(),
                    bytes =>
                        format!(", of which {} quantised in the file and floats here", size(bytes)),
                },
                size(fit.kv_bytes),
                size(fit.index_bytes),
                size(fit.scratch_bytes),
                match &self.options.host {
                    None => String::new(),
                    Some(host) => format!(
                        "; {} of KV cache in CPU memory as {}, {} blocks a head hot on the GPU",
                        size(fit.host_bytes),
                        host.kv_type,
                        host.hot_blocks
                    ),
                }
            ));
        }
        let Some(memory) = memory.filter(|memory| fit.bytes_with(memory.is_shared) > memory.bytes)
        else {
            return Ok(());
        };
        let room = (memory.bytes, memory.is_shared);
        let largest = Fit::largest_context(self.file, self.config, &self.options, room)?;
        let ways = Ways {
            context: largest,
            quantise: self.smaller(room)?,
            to_host: self.to_host.filter(|_| {
                let may = self.options.index.is_some() && self.config.sliding_window().is_none();
                may && self.options.host.is_none() && !memory.is_shared
            }),
        };
        Err(refusal(&fit, self.what, self.options.context, memory, &ways))
    }

    /// The facts that decide which options change nothing.
    pub fn known(&self) -> Result<Known> {
        let Self { file, config, options, .. } = self;
        let bytes = |options| Fit::new(file, config, options).map(|fit| fit.weight_bytes);
        let kept = EngineOptions { quantise: None, ..options.clone() };
        let quantises = options.quantise.is_none() || bytes(options)? != bytes(&kept)?;
        let is_same = |own: ModelConfig| own.rope() == config.rope();
        Ok(Known {
            has_windows: config.sliding_window().is_some_and(|sliding| {
                sliding.tokens < options.context && !sliding.layers.contains(&false)
            }),
            is_on_gpu: options.host.is_none(),
            quantises,
            rescales: options.rope.is_none() || !ModelConfig::read(file).is_ok_and(is_same),
            ..Known::default()
        })
    }

    // The first quantisation of the weights with which the context would fit.
    fn smaller(&self, (memory, is_shared): (u64, bool)) -> Result<Option<(Quantise, u64)>> {
        for quantise in Quantise::ALL {
            let options = EngineOptions { quantise: Some(quantise), ..self.options.clone() };
            let bytes = Fit::new(self.file, self.config, &options)?.bytes_with(is_shared);
            if bytes <= memory {
                return Ok(Some((quantise, bytes)));
            }
        }
        Ok(None)
    }
}

/// Ways to make a plan smaller.
struct Ways {
    /// The largest context that fits.
    context: Option<u32>,
    /// Weights as this, and what would be needed then.
    quantise: Option<(Quantise, u64)>,
    /// The option by which the KV cache, which is on the GPU, need not be.
    to_host: Option<&'static str>,
}

fn refusal(fit: &Fit, what: &str, context: u32, memory: &Memory, ways: &Ways) -> Error {
    let (part, bytes) = fit.parts(memory.is_shared)[0];
    let mut out = Vec::new();
    if let Some((quantise, bytes)) = ways.quantise {
        out.push(format!("with --quantize {quantise} it would need {}", size(bytes)));
    }
    if let Some(option) = ways.to_host.filter(|_| part == "the KV cache") {
        out.push(format!("{option} keeps the KV cache in CPU memory"));
    }
    if let Some(context) = ways.context {
        out.push(format!("the largest context that fits is {context} tokens"));
    }
    if out.is_empty() {
        out.push("use a smaller model or another adapter".into());
    }
    let limit = format!(
        "that needs {} of memory, {} of it for {part}, and {} {}: {}",
        size(fit.bytes_with(memory.is_shared)),
        size(bytes),
        memory.whose,
        size(memory.bytes),
        out.join("; ")
    );
    Error::argument(what, format!("{context} tokens"), limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(fit: &Fit, ways: Ways) -> String {
        let whose = "vulkan:x has".into();
        let memory = Memory { bytes: 8_000_000_000, whose, is_shared: false };
        refusal(fit, "--context", 128, &memory, &ways).to_string()
    }

    fn fit(weight_bytes: u64, kv_bytes: u64, scratch_bytes: u64) -> Fit {
        let (expanded_bytes, host_bytes, index_bytes) = (0, 0, 100_000_000);
        Fit { weight_bytes, expanded_bytes, kv_bytes, host_bytes, index_bytes, scratch_bytes }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_largest_part_and_what_shrinks_it() {
        let none = || Ways { context: None, quantise: None, to_host: None };
        assert_eq!(
            refused(&fit(9_000_000_000, 64_000_000, 10_000_000), none()),
            "--context is 128 tokens, but that needs 9.17 GB of memory, 9.00 GB of it for the weights, and vulkan:x has \
             8.00 GB: use a smaller model or another adapter"
        );
        let quantise = Some((Quantise::Q8_0, 5_000_000_000));
        let message = refused(&fit(9_000_000_000, 0, 0), Ways { quantise, ..none() });
        assert!(message.ends_with(": with --quantize q8_0 it would need 5.00 GB"), "{message}");
        let ways = Ways { context: Some(64), to_host: Some("--kv host"), ..none() };
        let message = refused(&fit(1_000_000_000, 9_000_000_000, 0), ways);
        let ends = "for the KV cache, and vulkan:x has 8.00 GB: --kv host keeps the KV cache in CPU memory; the largest \
                    context that fits is 64 tokens";
        assert!(message.ends_with(ends), "{message}");
        // An evaluation has no such option.
        let message =
            refused(&fit(1_000_000_000, 9_000_000_000, 0), Ways { context: Some(64), ..none() });
        assert!(
            message.ends_with("8.00 GB: the largest context that fits is 64 tokens"),
            "{message}"
        );
        // Short of what grows with the context, the weights are not to blame.
        let ways = Ways { context: Some(64), to_host: Some("--kv host"), ..none() };
        let message = refused(&fit(1_000_000, 2_000_000_000, 9_000_000_000), ways);
        assert!(message.contains("9.00 GB of it for working memory"), "{message}");
        assert!(message.ends_with(": the largest context that fits is 64 tokens"), "{message}");
    }
}
