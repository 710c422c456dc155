//! The words on the work once it is done.

use super::talk::{State, Talk};
use crate::cli::Outcome;
use crate::cli::attention::{name, two_level};
use crate::cli::report::{Report, Settings, Timings, offload_line, summary};
use crate::cli::saved::Saved;
use crate::cli::terminal::{note, print_json};
use asynctls::generate::Work;

impl Talk<'_> {
    /// Says how it went; nothing, where nothing was answered.
    pub fn finish(&self, state: State) -> Outcome<()> {
        let State { generator, saved, work, last, .. } = state;
        let saved = saved.map(Saved::close);
        let Some(answer) = last else { return Ok(()) };
        let context = generator.session().len();
        let gpu = &self.engine.gpu;
        let offload = pollster::block_on(self.engine.offload_stats());
        if self.options.stats {
            note(&self.timings(&work).line());
            if let Some(offload) = &offload {
                note(&offload_line(offload));
            }
            if let Some(saved) = &saved {
                note(&saved.line());
            }
        }
        if self.options.json {
            let report = Report {
                text: &answer.text,
                tokens: &answer.tokens,
                finish: answer.end.into(),
                prompt_tokens: answer.prompt_tokens,
                context_tokens: context,
                attended_tokens: answer.attended,
                attention: name(&self.attention),
                adapter: gpu.label(),
                prompt_tokens_per_second: work.prompt_rate(),
                decode_tokens_per_second: work.decode_rate(),
                gpu_bytes: gpu.allocated_bytes(),
                kv_gpu_bytes: self.engine.kv_gpu_bytes(),
                offload,
                session: saved.as_ref(),
                settings: self.settings(generator.framing().is_raw()),
                timings: self.timings(&work),
            };
            print_json("generate", &report)?;
        }
        note(&summary(&answer, &work, context, gpu.allocated_bytes(), self.seed()));
        Ok(())
    }

    /// Prints the lines of `/stats`.
    pub fn show(&self, state: &State) {
        note(&self.options.sampling.line(&self.suggested, &self.sampling));
        note(&self.timings(&state.work).line());
        if let Some(offload) = &pollster::block_on(self.engine.offload_stats()) {
            note(&offload_line(offload));
        }
        if let Some(saved) = &state.saved {
            note(&format!("session: {}", saved.path().display()));
        }
        if let Some(answer) = &state.last {
            let (context, bytes) =
                (state.generator.session().len(), self.engine.gpu.allocated_bytes());
            note(&summary(answer, &state.work, context, bytes, self.seed()));
        }
    }

    fn timings(&self, work: &Work) -> Timings {
        Timings {
            open: self.open.as_secs_f64(),
            load: self.load.as_secs_f64(),
            compile: self.engine.gpu.compile_time().as_secs_f64(),
            prefill: work.prefill.as_secs_f64(),
            decode: work.decode.as_secs_f64(),
            total: self.began.elapsed().as_secs_f64(),
        }
    }

    // Nothing is drawn without one.
    fn seed(&self) -> Option<u64> {
        self.sampling.draws().then_some(self.sampling.seed)
    }

    fn settings(&self, raw: bool) -> Settings {
        let engine = &self.engine;
        let two_level = two_level(&self.attention);
        let budget = two_level.map(|t| &t.budget);
        let index = engine.options.index.as_ref();
        let sampling = self.sampling;
        Settings {
            model: self.options.model.to_string(),
            rope_scaling: engine.config.rope().scaling.to_string(),
            system: self.options.system.clone(),
            raw,
            no_think: self.options.no_think,
            chat_template: self.options.chat_template.as_ref().map(|p| p.display().to_string()),
            special_in_text: self.options.special_in_text,
            max_tokens: self.options.max_tokens,
            context: engine.options.context,
            blocks: budget.map(|b| b.blocks.to_string()),
            tokens: budget.map(|b| b.tokens),
            sink_blocks: budget.map(|b| b.sink_blocks),
            recent_blocks: budget.map(|b| b.recent_blocks),
            dense_below: budget.map(|b| b.dense_below),
            scorer: two_level.map(|t| t.block_scorer.name()),
            token_scorer: two_level.map(|t| t.token_scorer.name()),
            index_channels: index.map(|_| engine.shape().index.channels),
            index_bits: index.map(|_| engine.shape().index.bits),
            stored_channels: index.and_then(|i| i.stored.as_ref()).map(|set| set.id().to_string()),
            block_size: engine.options.block,
            kv: if engine.options.host.is_some() { "host" } else { "gpu" },
            host: engine.options.host,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            repetition_window: sampling.repetition_window,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            seed: self.seed(),
            stop: self.options.stop.clone(),
            kernels: engine.gpu.tier().name,
            chunk: engine.options.chunk,
        }
    }
}
