//! Steps: prompts in chunks through dense prefill, and decode with dense or two-level attention.

use super::{Engine, Session};
use crate::attention::{Attention, Budget, Shape, Span, Step, StepSettings};
use crate::{Error, Result};

/// What a step should give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing: the step only extends the session.
    Nothing,
    /// The most likely next token.
    Token,
    /// The logits after the last token.
    Logits,
    /// The logits after every token.
    EveryLogits,
}

/// What a step gave back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The most likely token after each row that was asked for.
    pub tokens: Vec<u32>,
    /// Logits, a row a position.
    pub logits: Vec<Vec<f32>>,
}

#[derive(Clone, Copy)]
enum Mode<'a> {
    Prefill,
    Decode(Option<&'a Budget>),
}

// Work of one submission of a prompt, in floating-point operations: a quarter of a second on a slow integrated GPU, so
// that no desktop's watchdog (two seconds) fires.
const MOST_WORK: u64 = 1 << 36;

impl Engine {
    /// Appends a prompt to a session. `progress` is called with the tokens done so far; when it returns false the prompt
    /// ends there, and the session holds what was done.
    ///
    /// # Errors
    /// [`Error::Argument`] for no tokens, unknown tokens, or more than the context holds; else what the device answers.
    pub async fn prefill(
        &self,
        session: &mut Session,
        tokens: &[u32],
        want: Want,
        progress: &mut (dyn FnMut(u32) -> bool + Send),
    ) -> Result<Output> {
        self.check_tokens(session, tokens)?;
        let mut output = Output::default();
        let mut done = 0;
        while done < tokens.len() {
            let chunk = self.chunk(session.len(), want).min(tokens.len() - done);
            let last = done + chunk == tokens.len();
            let wanted = if last || want == Want::EveryLogits { want } else { Want::Nothing };
            let batch = &mut [(&mut *session, &tokens[done..done + chunk])];
            let made = self.step(batch, Mode::Prefill, wanted).await?;
            output.tokens.extend(made.tokens);
            output.logits.extend(made.logits);
            done += chunk;
            if !progress(done as u32) {
                break;
            }
        }
        Ok(output)
    }

    /// Appends one token to each session and attends as `attention` says: one step for all of them. Sessions at or below
    /// `dense_below` tokens are attended densely, in a step of their own.
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    pub async fn decode(
        &self,
        batch: &mut [(&mut Session, u32)],
        attention: &Attention,
        want: Want,
    ) -> Result<Vec<Output>> {
        let budget = match attention {
            Attention::Dense => None,
            Attention::TwoLevel(budget) => {
                budget.validate()?;
                if !self.options.indexed {
                    return Err(Error::argument(
                        "the attention",
                        "two-level",
                        "this engine was built without an index",
                    ));
                }
                Some(budget)
            }
        };
        let mut outputs = vec![Output::default(); batch.len()];
        // Decided before any step, since a step makes its sessions longer.
        let is_sparse: Vec<bool> = batch
            .iter()
            .map(|(session, _)| budget.is_some_and(|b| session.len() + 1 > b.dense_below))
            .collect();
        for sparse in [false, true] {
            let mut which = Vec::new();
            let mut members: Vec<(&mut Session, &[u32])> = Vec::new();
            for (i, (session, token)) in batch.iter_mut().enumerate() {
                if is_sparse[i] == sparse {
                    self.check_tokens(session, std::slice::from_ref(token))?;
                    which.push(i);
                    members.push((session, std::slice::from_ref(token)));
                }
            }
            if members.is_empty() {
                continue;
            }
            if sparse {
                for (session, _) in &mut members {
                    self.freeze(session).await?;
                }
            }
            let mut made =
                self.step(&mut members, Mode::Decode(budget.filter(|_| sparse)), want).await?;
            for (place, i) in which.into_iter().enumerate() {
                if !made.tokens.is_empty() {
                    outputs[i].tokens = vec![made.tokens[place]];
                }
                if !made.logits.is_empty() {
                    outputs[i].logits = vec![std::mem::take(&mut made.logits[place])];
                }
            }
        }
        Ok(outputs)
    }

    /// How many tokens a decode step attends that appends one token to `session`.
    pub fn attended_tokens(&self, session: &Session, attention: &Attention) -> u32 {
        match attention {
            Attention::TwoLevel(budget) if session.len() + 1 > budget.dense_below => {
                budget.row(session.len()).attended
            }
            _ => session.len() + 1,
        }
    }

    fn check_tokens(&self, session: &Session, tokens: &[u32]) -> Result<()> {
        self.check_owner(session)?;
        if tokens.is_empty() {
            return Err(Error::argument("the prompt", "empty", "at least one token is needed"));
        }
        if let Some(unknown) = tokens.iter().find(|t| **t >= self.config.vocabulary) {
            return Err(Error::argument(
                "a token id",
                unknown,
                format!("the vocabulary has {} tokens", self.config.vocabulary),
            ));
        }
        let total = session.len() as usize + tokens.len();
        if total > self.options.context as usize {
            return Err(Error::argument(
                "the context",
                format!("{total} tokens"),
                format!("{} were set aside for it", self.options.context),
            ));
        }
        Ok(())
    }

    // A chunk whose attention stays within the work of one submission, in whole tiles.
    fn chunk(&self, position: u32, want: Want) -> usize {
        let most = self.options.chunk;
        let a_row =
            4 * u64::from(position + most) * u64::from(self.config.q_heads * self.config.head_dim);
        // A chunk below one tile is the caller's choice, so the upper bound comes last.
        let rows =
            ((MOST_WORK / a_row.max(1)).min(u64::from(most)) as u32 / 64 * 64).max(64).min(most);
        if want == Want::EveryLogits {
            rows.min(self.options.logit_rows) as usize
        } else {
            rows as usize
        }
    }

    async fn step(
        &self,
        batch: &mut [(&mut Session, &[u32])],
        mode: Mode<'_>,
        want: Want,
    ) -> Result<Output> {
        let _turn = self.turn.lock().await;
        self.gpu.check()?;
        let mut copies = Vec::new();
        for (session, tokens) in batch.iter_mut() {
            let from = session.len();
            copies.extend(session.table.prepare(from, from + tokens.len() as u32)?);
        }
        let closing: Vec<Vec<u32>> = batch
            .iter()
            .map(|(session, tokens)| {
                let closed = (session.len() + tokens.len() as u32) / Shape::BLOCK;
                if session.frozen {
                    session.table.blocks()[session.indexed as usize..closed as usize].to_vec()
                } else {
                    Vec::new()
                }
            })
            .collect();
        let spans: Vec<Span<'_>> = batch
            .iter()
            .zip(&closing)
            .map(|((session, tokens), closing)| Span {
                slot: session.slot.index,
                position: session.len(),
                tokens,
                table: session.table.blocks(),
                closing,
            })
            .collect();
        let budget = match mode {
            Mode::Prefill => None,
            Mode::Decode(budget) => budget,
        };
        let step = self.plan(&spans, budget, want == Want::EveryLogits);
        let gathers_stats =
            self.options.indexed && spans.iter().any(|span| span.position < Shape::STATS_TOKENS);
        drop(spans);

        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let block_bytes = self.config.shape().block_bytes();
        for &copy in &copies {
            for cache in &self.caches {
                cache.copy_block(
                    &mut encoder,
                    &self.layout,
                    &self.scratch.moving,
                    block_bytes,
                    copy,
                );
            }
        }
        self.gpu.write(&self.scratch.step, 0, bytemuck::cast_slice(&step.words));
        let layers_at_once = match mode {
            Mode::Decode(_) => self.layers.len(),
            Mode::Prefill => self.layers_at_once(&step),
        };
        let groups: Vec<_> = self.layers.chunks(layers_at_once).collect();
        for (i, group) in groups.iter().enumerate() {
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                if i == 0 {
                    let units = self.config.hidden.div_ceil(32);
                    for embed in &self.ends.embed {
                        embed.record(&mut pass, units.div_ceil(8), step.rows, 1);
                    }
                }
                for layer in *group {
                    self.record_layer(&mut pass, layer, &step, mode, gathers_stats);
                }
                if i + 1 == groups.len() && want != Want::Nothing {
                    self.ends.output_norm.record(&mut pass, step.outputs, 1, 1);
                    self.ends.logits.record_few(&mut pass, step.outputs);
                    if want == Want::Token {
                        self.ends.arg_max.record(&mut pass, step.outputs, 1, 1);
                    }
                }
            }
            if i + 1 < groups.len() {
                let index = self.gpu.submit(encoder)?;
                self.gpu.wait(index)?;
                encoder = self.gpu.device.create_command_encoder(&Default::default());
            }
        }
        let output = self.finish(encoder, &step, want).await?;
        for (session, tokens) in batch.iter_mut() {
            session.tokens.extend_from_slice(tokens);
            if session.frozen {
                session.indexed = session.len() / Shape::BLOCK;
            }
        }
        drop(_turn);
        for (session, _) in batch.iter_mut() {
            if self.options.indexed && session.len() >= Shape::STATS_TOKENS {
                self.freeze(session).await?;
            }
        }
        Ok(output)
    }

    fn plan(&self, spans: &[Span<'_>], budget: Option<&Budget>, every_row: bool) -> Step {
        let settings =
            StepSettings { budget, target_workgroups: self.options.target_workgroups, every_row };
        Step::new(&self.config.shape(), spans, &settings, |position, out| {
            self.config.angles(position, out)
        })
    }

    fn layers_at_once(&self, step: &Step) -> usize {
        let c = &self.config;
        let [hidden, ffn, q, kv] =
            [c.hidden, c.ffn, c.q_heads * c.head_dim, c.kv_heads * c.head_dim].map(u64::from);
        let weights = hidden * (2 * q + 2 * kv + 3 * ffn);
        let context = u64::from(step.closed + 1) * u64::from(Shape::BLOCK);
        let work = u64::from(step.rows) * (2 * weights + 4 * context * q);
        (MOST_WORK / work.max(1)).clamp(1, u64::from(c.layers)) as usize
    }

    fn record_layer(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        layer: &super::ops::LayerOps,
        step: &Step,
        mode: Mode<'_>,
        gathers_stats: bool,
    ) {
        let shape = self.config.shape();
        let rows = step.rows;
        layer.attn_norm.record(pass, rows, 1, 1);
        layer.qkv.record(pass, rows);
        let mut segments: Vec<u32> =
            step.appended.iter().map(|&b| self.layout.place(b).0).collect();
        segments.sort_unstable();
        segments.dedup();
        for &segment in &segments {
            layer.rope_append[segment as usize].record(
                pass,
                shape.q_heads() + 2 * shape.kv_heads,
                rows,
                1,
            );
        }
        match mode {
            Mode::Prefill => {
                for prefill in &layer.prefill {
                    prefill.record(pass, shape.q_heads(), step.tiles, 1);
                }
            }
            Mode::Decode(budget) => {
                let split = match (budget, &layer.index) {
                    (Some(_), Some(index)) => {
                        self.record_selection(pass, index, step);
                        &index.sparse_split
                    }
                    _ => &layer.dense_split,
                };
                for split in split {
                    split.record(pass, step.splits, shape.kv_heads * shape.group.div_ceil(4), rows);
                }
                layer.merge.record(pass, shape.q_heads(), rows, 1);
            }
        }
        if let Some(index) = &layer.index {
            if gathers_stats {
                index.channel_stats.record(pass, shape.kv_heads, step.spans, 1);
            }
            for codes in &index.token_codes {
                codes.record(pass, shape.kv_heads, step.closing, 1);
            }
        }
        layer.output.record(pass, rows);
        layer.ffn_norm.record(pass, rows, 1, 1);
        layer.gate_up.record(pass, rows);
        layer.down.record(pass, rows);
    }

    fn record_selection(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        index: &super::ops::IndexOps,
        step: &Step,
    ) {
        let shape = self.config.shape();
        index.query_codes.record(pass, shape.q_heads(), step.rows, 1);
        for score in &index.block_score {
            score.record(pass, step.closed.div_ceil(4), shape.kv_heads, step.rows);
        }
        index.top_k_blocks.record(pass, shape.kv_heads, step.rows, 1);
        for score in &index.token_score {
            score.record(pass, step.blocks_kept.div_ceil(4), shape.kv_heads, step.rows);
        }
        index.top_k_tokens.record(pass, shape.kv_heads, step.rows, 1);
    }

    // Submits the step and reads back what is wanted.
    async fn finish(
        &self,
        mut encoder: wgpu::CommandEncoder,
        step: &Step,
        want: Want,
    ) -> Result<Output> {
        let staging = &self.scratch.staging;
        let (source, bytes) = match want {
            Want::Nothing => {
                let index = self.gpu.submit(encoder)?;
                self.gpu.wait(index)?;
                return Ok(Output::default());
            }
            Want::Token => (&self.scratch.winners, u64::from(step.outputs) * 4),
            Want::Logits | Want::EveryLogits => (
                &self.scratch.logits,
                u64::from(step.outputs) * u64::from(self.config.vocabulary) * 4,
            ),
        };
        encoder.copy_buffer_to_buffer(source, 0, staging, 0, bytes);
        self.gpu.submit(encoder)?;
        let data = self.gpu.read(staging, bytes).await?;
        let words = data.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(if want == Want::Token {
            Output { tokens: words.collect(), logits: Vec::new() }
        } else {
            let floats: Vec<f32> = words.map(f32::from_bits).collect();
            let logits =
                floats.chunks_exact(self.config.vocabulary as usize).map(<[f32]>::to_vec).collect();
            Output { tokens: Vec::new(), logits }
        })
    }

    /// Chooses a session's index channels from what was gathered so far, and builds the index of its closed blocks. Done
    /// once: at 1,024 tokens, at the first two-level step, or at the first fork.
    pub(super) async fn freeze(&self, session: &mut Session) -> Result<()> {
        if session.frozen {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let closed = session.len() / Shape::BLOCK;
        let span = Span {
            slot: session.slot.index,
            position: session.len(),
            tokens: &[],
            table: session.table.blocks(),
            closing: &session.table.blocks()[..closed as usize],
        };
        let step = self.plan(&[span], None, false);
        let mut maker = self.op_maker();
        let mut choices = Vec::new();
        for index in self.layers.iter().filter_map(|layer| layer.index.as_ref()) {
            choices.push((index, maker.choose_channels(index, session.slot.index).await?));
        }
        self.gpu.write(&self.scratch.step, 0, bytemuck::cast_slice(&step.words));
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            let kv_heads = self.config.kv_heads;
            for (index, choose) in &choices {
                choose.record(&mut pass, kv_heads, 1, 1);
                for codes in &index.token_codes {
                    codes.record(&mut pass, kv_heads, step.closing, 1);
                }
            }
        }
        self.gpu.submit(encoder)?;
        session.frozen = true;
        session.indexed = closed;
        Ok(())
    }
}
