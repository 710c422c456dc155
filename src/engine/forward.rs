//! Steps: prompts in chunks through dense prefill, and decode with dense or two-level attention.

use super::record::{Mode, Plan};
use super::residency::{Residency, Whole};
use super::{Engine, Session, words};
use crate::attention::{Attention, Budget, Span, Step, StepSettings, Timing, TwoLevel};
use crate::gpu::Gpu;
use crate::kv::Prepared;
use crate::model::logits;
use crate::{Error, Result, subject};

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
    /// The most likely token after each row that was asked for; none where a logit is not a number, or none is above minus
    /// infinity.
    pub tokens: Vec<Option<u32>>,
    /// Logits, a row a position.
    pub logits: Vec<Vec<f32>>,
}

// What `arg_max` writes where no token can be chosen.
const NO_TOKEN: u32 = u32::MAX;

impl Output {
    /// The most likely next token.
    ///
    /// # Errors
    /// [`Error::Model`] where the logits are not numbers; [`Error::Gpu`] for the output of a step that was not asked for it.
    pub fn token(&self) -> Result<u32> {
        let nothing = || Error::Gpu("no token was asked of this step".into());
        self.tokens.last().ok_or_else(nothing)?.ok_or_else(logits::unusable)
    }
}

/// Where a step finds the keys and values of blocks.
#[derive(Clone, Copy)]
pub(super) enum Over<'a> {
    /// In the cache, each physical block at its number.
    Cache,
    /// In the buffer of a chunk, each logical block at its number.
    Chunk,
    /// In the window of the hot cache, of which each session has a table; and the step's epoch.
    Window(&'a [Vec<u32>], u32),
}

// Layers of a decode step that are submitted at a time: while the GPU works on them, the next are recorded.
const DECODE_LAYERS: usize = 6;

impl Engine {
    /// Appends a prompt to a session, chunk by chunk. `progress` is called with the tokens done so far: after each chunk, and
    /// with the same number between the pieces of it that are submitted ([`EngineOptions::piece`](super::EngineOptions)).
    /// When it returns false the prompt ends there, and the session holds the chunks that were done. What
    /// [`Session::rewind`] left to be computed again comes first, as a part of the prompt of which no progress is told; it
    /// stays in the session whenever the prompt ends.
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
        let left = session.take_miscounted();
        let again = left.len();
        // In one piece with the prompt, so that it is cut as it would be had it not been there before.
        let all = [&left, tokens].concat();
        let mut of_prompt = |done: u32| progress(done.saturating_sub(again as u32));
        let made = self.extend(session, &all, want, &mut of_prompt).await;
        let is_short = (session.len() as usize) < again;
        if again > 0 && (made.is_err() || is_short) {
            session.put_back(left);
        }
        let mut output = made?;
        if want == Want::EveryLogits {
            output.logits.drain(..again.min(output.logits.len()));
        }
        Ok(output)
    }

    /// Appends tokens to a session, chunk by chunk.
    pub(super) async fn extend(
        &self,
        session: &mut Session,
        tokens: &[u32],
        want: Want,
        progress: &mut (dyn FnMut(u32) -> bool + Send),
    ) -> Result<Output> {
        let mut output = Output::default();
        let mut done = 0;
        while done < tokens.len() {
            let chunk = self.chunk(session.len(), want).min(tokens.len() - done);
            let last = done + chunk == tokens.len();
            let wanted = if last || want == Want::EveryLogits { want } else { Want::Nothing };
            let batch = &mut [(&mut *session, &tokens[done..done + chunk])];
            let mut goes_on = || progress(done as u32);
            let made = self.step(batch, Mode::Prefill, wanted, &mut goes_on).await?;
            let Some(made) = made else { break };
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
        let selection = match attention {
            Attention::Dense => None,
            Attention::TwoLevel(two_level) => Some(two_level),
        };
        if let Some(two_level) = selection {
            self.check_selection(two_level)?;
        }
        for (session, token) in batch.iter_mut() {
            self.check_tokens(session, std::slice::from_ref(token))?;
            self.recount(session).await?;
        }
        let mut outputs = vec![Output::default(); batch.len()];
        // Decided before any step, since a step makes its sessions longer.
        let is_sparse: Vec<bool> =
            batch.iter().map(|(session, _)| selects(session, selection)).collect();
        for sparse in [false, true] {
            let mut which = Vec::new();
            let mut members: Vec<(&mut Session, &[u32])> = Vec::new();
            for (i, (session, token)) in batch.iter_mut().enumerate() {
                if is_sparse[i] == sparse {
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
            let mode = Mode::Decode(selection.filter(|_| sparse));
            let made = self.step(&mut members, mode, want, &mut || true).await?;
            let mut made = made.unwrap_or_default();
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
            Attention::TwoLevel(two_level) if selects(session, Some(two_level)) => {
                two_level.effective_budget().row(session.len(), self.shape.block).attended
            }
            _ => session.len() + 1,
        }
    }

    pub(super) fn check_selection(&self, two_level: &TwoLevel) -> Result<()> {
        two_level.budget.validate()?;
        let Some(index) = &self.options.index else {
            let limit = "this engine was built without an index";
            return Err(Error::argument("the attention", "two-level", limit));
        };
        let summary = two_level.block_scorer.summary();
        if let Some(summary) = summary.filter(|summary| !index.summaries().contains(summary)) {
            let limit = format!("this engine was built without block {}", summary.name);
            return Err(Error::argument(subject::BLOCK_SCORER, two_level.block_scorer, limit));
        }
        Ok(())
    }

    pub(super) fn check_tokens(&self, session: &Session, tokens: &[u32]) -> Result<()> {
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

    // A chunk whose attention stays within the work of one submission, in whole tiles. On a CPU all of a layer does, which
    // is as little as is submitted.
    fn chunk(&self, position: u32, want: Want) -> usize {
        let most = self.options.chunk;
        // What is in CPU memory comes piece by piece, each with a submission of its own.
        let before = match &self.residency {
            Residency::Whole(_) => u64::from(position),
            Residency::Hot(hot) => {
                let piece = hot.piece_blocks(&self.shape) * u64::from(self.shape.block);
                u64::from(position).min(piece)
            }
        };
        let attention = 4 * (before + u64::from(most)) * u64::from(self.config.attended());
        let a_row = attention + if self.gpu.is_cpu() { self.row_of_weights() } else { 0 };
        // A chunk below one tile is the caller's choice, so the upper bound comes last.
        let rows = ((self.gpu.tier.submission / a_row.max(1)).min(u64::from(most)) as u32 / 64
            * 64)
            .max(64)
            .min(most);
        if want == Want::EveryLogits {
            rows.min(self.options.logit_rows) as usize
        } else {
            rows as usize
        }
    }

    // `None` where `goes_on` told that it does not: the sessions are as they were.
    async fn step(
        &self,
        batch: &mut [(&mut Session, &[u32])],
        mode: Mode<'_>,
        want: Want,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Output>> {
        let turn = self.turn.lock().await;
        self.gpu.check()?;
        let prepared = self.prepare(batch)?;
        let made = self.run(batch, &prepared, mode, want, goes_on).await;
        settle(batch, prepared, matches!(made, Ok(Some(_))));
        let Some(output) = made? else { return Ok(None) };
        for (session, tokens) in batch.iter_mut() {
            self.advance(session, tokens);
        }
        drop(turn);
        for (session, _) in batch.iter_mut() {
            let enough = self.options.index.as_ref().map(|index| index.stats_tokens);
            if enough.is_some_and(|enough| session.len() >= enough) {
                self.freeze(session).await?;
            }
        }
        Ok(Some(output))
    }

    /// Makes room for the tokens of every session, or of none.
    pub(super) fn prepare(&self, batch: &mut [(&mut Session, &[u32])]) -> Result<Vec<Prepared>> {
        let mut prepared = Vec::with_capacity(batch.len());
        for i in 0..batch.len() {
            let (session, tokens) = &mut batch[i];
            let from = session.len();
            match session.table.prepare(from, from + tokens.len() as u32) {
                Ok(one) => prepared.push(one),
                Err(error) => {
                    settle(batch, prepared, false);
                    return Err(error);
                }
            }
        }
        Ok(prepared)
    }

    /// Notes that a session holds these tokens too.
    pub(super) fn advance(&self, session: &mut Session, tokens: &[u32]) {
        session.tokens.extend_from_slice(tokens);
        if session.channels.is_some() {
            session.indexed = session.len() / self.shape.block;
        } else if let Some(index) = &self.options.index {
            session.counted = session.len().min(index.stats_tokens);
        }
    }

    /// Plans a step over prepared sessions, and writes what it works on.
    pub(super) fn plan<'a>(
        &self,
        batch: &[(&mut Session, &[u32])],
        mode: Mode<'a>,
        every_row: bool,
        over: Over<'_>,
    ) -> Plan<'a> {
        let place = |i: usize, logical: u32, physical: u32| match over {
            Over::Cache => physical,
            Over::Chunk => logical,
            Over::Window(windows, _) => windows[i][logical as usize],
        };
        let sealing: Vec<Vec<[u32; 2]>> = batch
            .iter()
            .enumerate()
            .map(|(i, (session, tokens))| {
                let sealed = (session.len() + tokens.len() as u32) / self.shape.block;
                let sealing = session.indexed..sealed.max(session.indexed);
                let blocks = sealing.filter(|_| session.channels.is_some()).map(|logical| {
                    let physical = session.table.blocks()[logical as usize];
                    [physical, place(i, logical, physical)]
                });
                blocks.collect()
            })
            .collect();
        let spans: Vec<Span<'_>> = batch
            .iter()
            .zip(&sealing)
            .enumerate()
            .map(|(i, ((session, tokens), sealing))| Span {
                slot: session.slot.index,
                position: session.len(),
                tokens,
                table: session.table.blocks(),
                window: match over {
                    Over::Window(windows, _) => Some(&windows[i]),
                    Over::Cache | Over::Chunk => None,
                },
                sealing,
            })
            .collect();
        let budget = match mode {
            Mode::Prefill | Mode::Decode(None) => None,
            Mode::Decode(Some(two_level)) => Some(two_level.effective_budget()),
        };
        let epoch = if let Over::Window(_, epoch) = over { epoch } else { 0 };
        let step = self.step_of(&spans, budget.as_ref(), every_row, epoch);
        let layout = &self.residency.cache().layout;
        let mut segments: Vec<u32> = match over {
            // Each session appends to its open block.
            Over::Window(windows, _) => {
                let open = |(session, _): &(&mut Session, &[u32])| session.len() / self.shape.block;
                let places =
                    batch.iter().zip(windows).map(|(one, table)| table[open(one) as usize]);
                places.map(|slot| layout.place(slot).0).collect()
            }
            Over::Cache => step.appended.iter().map(|&b| layout.place(b).0).collect(),
            // All of it is one segment.
            Over::Chunk => Vec::new(),
        };
        segments.sort_unstable();
        segments.dedup();
        let gathers_stats = self.options.index.as_ref().is_some_and(|index| {
            index.stored.is_none() && spans.iter().any(|span| span.position < index.stats_tokens)
        });
        self.gpu.write(&self.scratch.step, 0, bytemuck::cast_slice(&step.words));
        if let (Mode::Prefill, Some(latent)) = (mode, &self.scratch.latent) {
            self.gpu.write(&latent.slab_tables, 0, bytemuck::cast_slice(&step.over_slabs()));
        }
        let is_chunk = matches!(over, Over::Chunk);
        Plan { step, mode, timing: Timing::Exact, is_chunk, segments, gathers_stats }
    }

    pub(super) fn record_copies(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        whole: &Whole,
        prepared: &[Prepared],
    ) {
        for copied in prepared.iter().filter_map(|prepared| prepared.copied) {
            whole.cache.copy_block(encoder, &self.scratch.moving, copied);
        }
    }

    async fn run(
        &self,
        batch: &[(&mut Session, &[u32])],
        prepared: &[Prepared],
        mode: Mode<'_>,
        want: Want,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Output>> {
        let whole = match &self.residency {
            Residency::Whole(whole) => whole,
            Residency::Hot(hot) => {
                let mut hot = hot.turn(self).await;
                return hot.step(batch, prepared, (mode, want), goes_on).await;
            }
        };
        let plan = self.plan(batch, mode, want == Want::EveryLogits, Over::Cache);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.record_copies(&mut encoder, whole, prepared);
        let layers_at_once = match mode {
            Mode::Decode(_) if self.gpu.is_cpu() => whole.layers.len(),
            Mode::Decode(_) => DECODE_LAYERS,
            Mode::Prefill => self.layers_at_once(&plan.step),
        };
        let groups: Vec<_> = whole.layers.chunks(layers_at_once).collect();
        let mut pieces = Pieces::new(&self.gpu, goes_on);
        for (i, group) in groups.iter().enumerate() {
            let is_last = i + 1 == groups.len();
            {
                let mut pass = self.gpu.pass(&mut encoder, "layers", i * layers_at_once);
                if i == 0 {
                    self.record_embedding(&mut pass, &plan.step);
                }
                for layer in *group {
                    layer.record(&mut pass, &plan, ..);
                }
                if is_last && want != Want::Nothing {
                    self.record_logits(&mut pass, &plan.step, want == Want::Token);
                }
            }
            if !is_last {
                let index = self.gpu.submit(encoder)?;
                if matches!(mode, Mode::Prefill) && !pieces.follow(index)? {
                    return Ok(None);
                }
                encoder = self.gpu.device.create_command_encoder(&Default::default());
            }
        }
        self.finish(encoder, &plan.step, want).await.map(Some)
    }

    pub(super) fn step_of(
        &self,
        spans: &[Span<'_>],
        budget: Option<&Budget>,
        every_row: bool,
        epoch: u32,
    ) -> Step {
        let target_workgroups = self.options.target_workgroups;
        let settings = StepSettings { budget, target_workgroups, every_row, epoch };
        Step::new(&self.shape, spans, &settings, |position, out| {
            self.model.rotations.append(position, out);
        })
    }

    /// Layers of a chunk that make a piece.
    pub(super) fn layers_at_once(&self, step: &Step) -> usize {
        let attention = 4 * u64::from(step.context) * u64::from(self.config.attended());
        let work = u64::from(step.rows) * (self.row_of_weights() + attention);
        let layers = u64::from(self.config.layers);
        (self.options.piece / work.max(1)).clamp(1, layers) as usize
    }

    // Floating-point operations of a layer's weights for one row.
    fn row_of_weights(&self) -> u64 {
        2 * self.config.active_weights() / u64::from(self.config.layers)
    }

    // Submits the step and reads back what is wanted.
    pub(super) async fn finish(
        &self,
        encoder: wgpu::CommandEncoder,
        step: &Step,
        want: Want,
    ) -> Result<Output> {
        let index = self.submit_wanted(encoder, step, want)?;
        self.read_wanted(index, step, want).await
    }

    // What is wanted, and its bytes.
    fn wanted_bytes(&self, step: &Step, want: Want) -> Option<(&wgpu::Buffer, u64)> {
        match want {
            Want::Nothing => None,
            Want::Token => Some((&self.scratch.winners, u64::from(step.outputs) * 4)),
            Want::Logits | Want::EveryLogits => Some((
                &self.scratch.logits,
                u64::from(step.outputs) * u64::from(self.config.vocabulary) * 4,
            )),
        }
    }

    /// Submits the end of a step.
    pub(super) fn submit_wanted(
        &self,
        mut encoder: wgpu::CommandEncoder,
        step: &Step,
        want: Want,
    ) -> Result<wgpu::SubmissionIndex> {
        if let Some((source, bytes)) = self.wanted_bytes(step, want) {
            encoder.copy_buffer_to_buffer(source, 0, &self.scratch.staging, 0, bytes);
        }
        self.gpu.submit(encoder)
    }

    /// Waits for the end of a step and reads what is wanted.
    pub(super) async fn read_wanted(
        &self,
        index: wgpu::SubmissionIndex,
        step: &Step,
        want: Want,
    ) -> Result<Output> {
        let Some((_, bytes)) = self.wanted_bytes(step, want) else {
            self.gpu.wait(index)?;
            return Ok(Output::default());
        };
        let words = words(&self.gpu.read(&self.scratch.staging, bytes).await?);
        Ok(if want == Want::Token {
            let token = |word: u32| (word != NO_TOKEN).then_some(word);
            Output { tokens: words.into_iter().map(token).collect(), logits: Vec::new() }
        } else {
            let floats: Vec<f32> = words.into_iter().map(f32::from_bits).collect();
            let logits =
                floats.chunks_exact(self.config.vocabulary as usize).map(<[f32]>::to_vec).collect();
            Output { tokens: Vec::new(), logits }
        })
    }
}

/// Tells whether work that takes long goes on.
pub(super) type GoesOn<'a> = &'a mut (dyn FnMut() -> bool + Send);

/// The pieces of a chunk: they are long, so one runs and one waits its turn, and between them is asked whether to go on.
pub(super) struct Pieces<'a> {
    gpu: &'a Gpu,
    before: Option<wgpu::SubmissionIndex>,
    goes_on: GoesOn<'a>,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(gpu: &'a Gpu, goes_on: GoesOn<'a>) -> Self {
        Self { gpu, before: None, goes_on }
    }

    /// Takes note of a piece that was submitted; whether there shall be another.
    pub(super) fn follow(&mut self, index: wgpu::SubmissionIndex) -> Result<bool> {
        if let Some(before) = self.before.replace(index) {
            self.gpu.wait(before)?;
        }
        Ok((self.goes_on)())
    }
}

// Whether the next token of a session is attended by selection.
fn selects(session: &Session, selection: Option<&TwoLevel>) -> bool {
    selection.is_some_and(|two_level| session.len() + 1 > two_level.budget.dense_below)
}

/// Keeps what was prepared, or takes it back.
pub(super) fn settle(batch: &mut [(&mut Session, &[u32])], prepared: Vec<Prepared>, is_done: bool) {
    for ((session, _), prepared) in batch.iter_mut().zip(prepared) {
        if is_done {
            session.table.commit(prepared);
        } else {
            session.table.undo(prepared);
            session.distrust_count();
        }
    }
}
