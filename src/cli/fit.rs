//! Whether a model with its context fits the GPU's memory.

use super::terminal::{note, size};
use asynctls::engine::{EngineOptions, Fit};
use asynctls::model::quantise::Quantise;
use asynctls::model::{ModelConfig, ModelFile};
use asynctls::{Error, Result};

/// A context to plan for.
pub struct Plan<'a> {
    /// The model.
    pub file: &'a ModelFile,
    /// The model's shapes.
    pub config: &'a ModelConfig,
    /// What will be loaded.
    pub options: EngineOptions,
    /// How errors call the context.
    pub what: &'a str,
}

impl Plan<'_> {
    /// Makes the context as short as it must be to fit, with a tenth to spare for what else runs.
    pub fn shorten(&mut self, memory: Option<u64>) -> Result<()> {
        let Some(memory) = memory.map(|bytes| bytes / 10 * 9) else { return Ok(()) };
        let fit = Fit::new(self.file, self.config, &self.options)?;
        let largest = fit.largest_context(memory).min(u64::from(u32::MAX)) as u32;
        if fit.total_bytes() > memory && largest > 0 {
            self.options.context = self.options.context.min(largest);
            self.options.total_tokens = self.options.context.into();
        }
        Ok(())
    }

    /// Refuses what needs more memory than there is; where that is not known, the attempt will tell.
    pub fn check(&self, adapter: &str, memory: Option<u64>, show: bool) -> Result<()> {
        let fit = Fit::new(self.file, self.config, &self.options)?;
        if show {
            let there = memory.map_or_else(|| "an unknown amount".into(), size);
            note(&format!(
                "memory: {} needed (weights {}{}, keys and values {}, index {}, working memory {}), {there} there{}",
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
                        "; {} of keys and values in CPU memory as {}, {} blocks a head hot on the GPU",
                        size(fit.host_bytes),
                        host.kv_type,
                        host.hot_blocks
                    ),
                }
            ));
        }
        let Some(memory) = memory else { return Ok(()) };
        refuse(&fit, self.what, self.options.context, adapter, memory, || self.smaller(memory))
    }

    // The first quantisation of the weights with which the context would fit.
    fn smaller(&self, memory: u64) -> Result<Option<(Quantise, u64)>> {
        for quantise in Quantise::ALL {
            let options = EngineOptions { quantise: Some(quantise), ..self.options.clone() };
            let bytes = Fit::new(self.file, self.config, &options)?.total_bytes();
            if bytes <= memory {
                return Ok(Some((quantise, bytes)));
            }
        }
        Ok(None)
    }
}

fn refuse(
    fit: &Fit,
    what: &str,
    context: u32,
    adapter: &str,
    memory: u64,
    smaller: impl FnOnce() -> Result<Option<(Quantise, u64)>>,
) -> Result<()> {
    let needed = fit.total_bytes();
    if needed <= memory {
        return Ok(());
    }
    let largest = fit.largest_context(memory);
    let room = match (largest, smaller()?) {
        (_, Some((quantise, bytes))) => {
            format!("with --quantize {quantise} it would need {bytes} bytes")
        }
        (0, None) => format!(
            "the weights alone take {} bytes, so no context fits; use a smaller model or another adapter",
            fit.weight_bytes
        ),
        (largest, None) => format!("the largest context that fits is {largest} tokens"),
    };
    Err(Error::argument(
        what,
        format!("{context} tokens"),
        format!("that needs {needed} bytes of GPU memory and {adapter} has {memory} bytes: {room}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_all_figures() {
        let fit = Fit {
            weight_bytes: 1000,
            expanded_bytes: 0,
            kv_bytes: 6400,
            host_bytes: 0,
            index_bytes: 640,
            scratch_bytes: 100,
            block_bytes: 55 * 64,
            block_tokens: 64,
        };
        let refuse =
            |memory, smaller| refuse(&fit, "--context", 128, "vulkan:x", memory, || Ok(smaller));
        assert!(refuse(8140, None).is_ok());
        let message = refuse(8000, None).unwrap_err().to_string();
        assert_eq!(
            message,
            "--context is 128 tokens, but that needs 8140 bytes of GPU memory and vulkan:x has 8000 bytes: \
             the largest context that fits is 64 tokens"
        );
        let message = refuse(8000, Some((Quantise::Q8_0, 7500))).unwrap_err().to_string();
        assert!(message.ends_with("with --quantize q8_0 it would need 7500 bytes"), "{message}");
        let message = refuse(900, None).unwrap_err().to_string();
        assert!(message.ends_with("use a smaller model or another adapter"), "{message}");
    }
}
