//! Penalties: they make tokens that were said before less likely.

use super::{Past, SamplerSettings};

/// Kept between calls for its memory only.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    logits: Vec<f32>,
    counts: Vec<u32>,
}

impl Penalties {
    /// The logits with all penalties applied.
    pub(super) fn apply(
        &mut self,
        settings: &SamplerSettings,
        logits: &[f32],
        past: Past<'_>,
    ) -> &[f32] {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        let penalty = settings.repetition_penalty;
        if penalty != 1.0 {
            let window = settings.repetition_window.unwrap_or(usize::MAX);
            self.count(&past.tokens[past.tokens.len().saturating_sub(window)..]);
            for (logit, &count) in self.logits.iter_mut().zip(&self.counts) {
                if count > 0 {
                    *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
                }
            }
        }
        if settings.presence_penalty != 0.0 || settings.frequency_penalty != 0.0 {
            self.count(past.tokens.get(past.prompt..).unwrap_or_default());
            for (logit, &count) in self.logits.iter_mut().zip(&self.counts) {
                if count > 0 {
                    *logit -= settings.presence_penalty + count as f32 * settings.frequency_penalty;
                }
            }
        }
        &self.logits
    }

    // How often each token occurs.
    fn count(&mut self, tokens: &[u32]) {
        self.counts.clear();
        self.counts.resize(self.logits.len(), 0);
        for &token in tokens {
            if let Some(count) = self.counts.get_mut(token as usize) {
                *count += 1;
            }
        }
    }
}
