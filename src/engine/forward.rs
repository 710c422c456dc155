//! Prompts in chunks, and what every step goes through: its plan, its layers, and what is read back.

use super::record::{Mode, Plan, Role};
use super::residency::{Residency, Whole};
use super::{Engine, Session};
use crate::attention::{
    Attended, Attention, Budget, Span, Step, StepSettings, Timing, TwoLevel, Want,
};
use crate::gpu::Gpu;
use crate::kv::Prepared;
use crate::model::logits;
use crate::{Error, Result, subject};

/// What a step gave back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The most likely token after each row that was asked for; none where a logit is not a number, or none is above minus
    /// infinity.
    pub tokens: Vec<Option<u32>>,
    /// Logits, a row a position.
    pub logits: Vec<Vec<f32>>,
}

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

impl Engine {
    /// Appends a prompt to a session, chunk by chunk. `progress` is called with the tokens done so far: after each chunk, and
    /// with the same number between the pieces of it that are submitted ([`EngineOptions::piece`](super::EngineOptions)).
    /// When it returns false the prompt ends there, and the session holds the chunks that were done. What
    /// [`Session::rewind`] left to be computed again comes first, as a part of the prompt of which no progress is told; it
    /// stays in the session whenever the prompt ends. Where nobody waits for it any more, its future being dropped, the session
    /// holds the chunks that were done too.
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
        let recounted = session.recounted();
        let again = recounted.left.len();
        // In one piece with the prompt, so that it is cut as it would be had it not been there before.
        let all = [&recounted.left, tokens].concat();
        let mut of_prompt = |done: u32| progress(done.saturating_sub(again as u32));
        let mut output = self.extend(recounted.session, &all, want, &mut of_prompt).await?;
        if want.is_of_every_row() {
            output.tokens.drain(..again.min(output.tokens.len()));
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
            let want = if last || want.is_of_every_row() { want } else { Want::Nothing };
            let batch = &mut [(&mut *session, &tokens[done..done + chunk])];
            let role = Role { attended: Attended::Prompt, want };
            let mut goes_on = || progress(done as u32);
            let made = self.take_step(batch, &[role], None, &mut goes_on).await?;
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

    /// How many tokens a decode step attends that appends one token to `session`: in layers without a sliding window, if there
    /// are any.
    pub fn attended_tokens(&self, session: &Session, attention: &Attention) -> u32 {
        let all = session.len() + 1;
        let windows = (0..self.config.layers).map(|i| self.options.window(&self.config, i));
        match attention {
            // Sliding windows of every layer.
            _ if windows.clone().all(|window| window.is_some()) => {
                windows.flatten().max().map_or(all, |window| window.min(all))
            }
            Attention::TwoLevel(two_level) if selects(session, Some(two_level)) => {
                two_level.effective_budget().row(session.len(), self.shape.block).attended
            }
            _ => all,
        }
    }

    pub(crate) fn check_selection(&self, two_level: &TwoLevel) -> Result<()> {
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
    pub(super) fn chunk(&self, position: u32, want: Want) -> usize {
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
        if want.is_of_every_row() {
            rows.min(self.options.logit_rows) as usize
        } else {
            rows as usize
        }
    }

    /// Makes room for the tokens of every session, or of none.
    pub(super) fn begin<'a, 's, 't>(
        &self,
        batch: &'a mut [(&'s mut Session, &'t [u32])],
    ) -> Result<Begun<'a, 's, 't>> {
        let mut begun = Begun { prepared: Vec::with_capacity(batch.len()), batch };
        for (session, tokens) in begun.batch.iter_mut() {
            let from = session.len();
            begun.prepared.push(session.table.prepare(from, from + tokens.len() as u32)?);
        }
        Ok(begun)
    }

    /// Ends a step that was computed: its sessions hold the tokens too.
    pub(super) fn end(&self, mut begun: Begun<'_, '_, '_>) {
        let prepared = std::mem::take(&mut begun.prepared);
        for ((session, tokens), prepared) in begun.batch.iter_mut().zip(prepared) {
            session.table.commit(prepared);
            self.advance(session, tokens);
        }
    }

    fn advance(&self, session: &mut Session, tokens: &[u32]) {
        session.tokens.extend_from_slice(tokens);
        if session.channels.is_some() {
            session.indexed = session.len() / self.shape.block;
        } else if let Some(index) = &self.options.index {
            session.counted = session.len().min(index.stats_tokens);
        }
    }

    /// Plans a step over prepared sessions that are all attended alike.
    pub(super) fn plan<'a>(
        &self,
        batch: &[(&mut Session, &[u32])],
        mode: Mode<'a>,
        want: Want,
        over: Over<'_>,
    ) -> Plan<'a> {
        let (attended, selection) = match mode {
            Mode::Prefill => (Attended::Prompt, None),
            Mode::Decode(None) => (Attended::Dense, None),
            Mode::Decode(selection) => (Attended::Selected, selection),
        };
        self.plan_roles(batch, &vec![Role { attended, want }; batch.len()], selection, over)
    }

    /// Plans a step over prepared sessions in the order of [`Attended`], and writes what it works on.
    fn plan_roles<'a>(
        &self,
        batch: &[(&mut Session, &[u32])],
        roles: &[Role],
        selection: Option<&'a TwoLevel>,
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
            .zip(roles)
            .enumerate()
            .map(|(i, (((session, tokens), sealing), role))| Span {
                slot: session.slot.index,
                position: session.len(),
                tokens,
                table: session.table.blocks(),
                window: match over {
                    Over::Window(windows, _) => Some(&windows[i]),
                    Over::Cache | Over::Chunk => None,
                },
                sealing,
                attended: role.attended,
                want: role.want,
            })
            .collect();
        let budget = selection.map(TwoLevel::effective_budget);
        let epoch = if let Over::Window(_, epoch) = over { epoch } else { 0 };
        let step = self.step_of(&spans, budget.as_ref(), epoch);
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
        self.gpu.write(&self.runner.scratch().step, 0, bytemuck::cast_slice(&step.words));
        let latent = self.runner.scratch().latent.as_ref();
        if let Some(latent) = latent.filter(|_| step.prompt_tiles > 0) {
            self.gpu.write(&latent.slab_tables, 0, bytemuck::cast_slice(&step.over_slabs()));
        }
        let is_chunk = matches!(over, Over::Chunk);
        let selection = selection.filter(|_| step.selecting > 0);
        Plan {
            step,
            selection,
            timing: Timing::Exact,
            weighs_missed: false,
            is_chunk,
            segments,
            gathers_stats,
        }
    }

    pub(super) fn record_copies(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        whole: &Whole,
        prepared: &[Prepared],
    ) {
        for copied in prepared.iter().filter_map(|prepared| prepared.copied) {
            whole.kv.blocks().copy_block(encoder, &self.runner.scratch().moving, copied);
        }
    }

    /// Takes prepared sessions through the layers; nothing where `goes_on` told that it does not. Over a hot cache all roles are
    /// the same.
    pub(super) async fn run(
        &self,
        begun: &Begun<'_, '_, '_>,
        roles: &[Role],
        selection: Option<&TwoLevel>,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Output>> {
        let Begun { batch, prepared } = begun;
        let whole = match &self.residency {
            Residency::Whole(whole) => whole,
            Residency::Hot(hot) => {
                let mut hot = hot.turn(self).await;
                return hot.step(begun, roles, selection, goes_on).await;
            }
        };
        let plan = self.plan_roles(batch, roles, selection, Over::Cache);
        let reads_prompt = plan.step.prompt_tiles > 0;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.record_copies(&mut encoder, whole, prepared);
        let mut pieces = Pieces::new(&self.gpu, goes_on);
        let (mut done, layers) = (0, whole.layers.len());
        while done < layers {
            let at_once = match reads_prompt {
                true => self.layers_at_once(&plan.step),
                false if self.gpu.is_cpu() => layers,
                // While the GPU works on those that it has, as many are recorded.
                false => done.max(1),
            };
            let next = (done + at_once).min(layers);
            let is_last = next == layers;
            {
                let mut pass = self.gpu.pass(&mut encoder, "layers", done);
                if done == 0 {
                    self.runner.record_embedding(&mut pass, &plan.step);
                }
                for layer in &whole.layers[done..next] {
                    layer.record(&mut pass, &plan, ..);
                }
                if is_last {
                    self.runner.record_logits(&mut pass, &plan.step);
                }
            }
            if !is_last {
                let index = self.gpu.submit(encoder)?;
                if reads_prompt && !pieces.follow(index).await? {
                    return Ok(None);
                }
                encoder = self.gpu.device.create_command_encoder(&Default::default());
            }
            done = next;
        }
        self.runner.finish(encoder, &plan.step).await.map(Some)
    }

    pub(super) fn step_of(&self, spans: &[Span<'_>], budget: Option<&Budget>, epoch: u32) -> Step {
        let settings = StepSettings {
            budget,
            target_workgroups: self.options.target_workgroups,
            segments: self.residency.segments(),
            epoch,
        };
        Step::new(&self.shape, spans, &settings, |position, out| {
            self.runner.model().rotate(position, out);
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
    pub(super) async fn follow(&mut self, index: wgpu::SubmissionIndex) -> Result<bool> {
        if let Some(before) = self.before.replace(index) {
            self.gpu.wait(before).await?;
        }
        Ok((self.goes_on)())
    }
}

// Whether the next token of a session is attended by selection.
pub(super) fn selects(session: &Session, selection: Option<&TwoLevel>) -> bool {
    selection.is_some_and(|two_level| session.len() + 1 > two_level.budget.dense_below)
}

/// Sessions with room for the tokens of a step, which is taken back where the step fails, or nobody waits for it any more.
pub(super) struct Begun<'a, 's, 't> {
    pub(super) batch: &'a mut [(&'s mut Session, &'t [u32])],
    pub(super) prepared: Vec<Prepared>,
}

impl Drop for Begun<'_, '_, '_> {
    fn drop(&mut self) {
        for ((session, _), prepared) in self.batch.iter_mut().zip(self.prepared.drain(..)) {
            session.table.undo(prepared);
            session.distrust_count();
        }
    }
}
