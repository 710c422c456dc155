//! Decode steps seen from inside, and steps whose tokens the host selects: for measuring selectors, not for speed.

use super::forward::{Begun, Over};
use super::layer::Stage;
use super::record::{Mode, Plan};
use super::residency::{Residency, Whole};
use super::{Engine, Output, Session, Want, words};
use crate::attention::{Attention, Budget, RowBudget, TwoLevel, Values};
use crate::{Error, Result};
use half::f16;

/// One layer of an observed step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerView {
    /// Rotated queries: query head, dimension.
    pub queries: Vec<f32>,
    /// The token's rotated key, as cached: KV head, dimension.
    pub key: Vec<f32>,
    /// The token's value, as cached: KV head, dimension.
    pub value: Vec<f32>,
    /// The output of attention: query head, dimension. Latent attention gives latents, which are then taken to values.
    pub attended: Vec<f32>,
    /// Level 1's scores, of each query head's sealed blocks; empty where no block was ranked. The minmax scorer has one
    /// score a KV head, at its first query head.
    pub block_scores: Vec<Vec<f32>>,
    /// Blocks that level 1 chose, of each KV head; empty for dense attention.
    pub blocks: Vec<Vec<u32>>,
    /// Positions that level 2 chose, of each KV head; empty for dense attention.
    pub tokens: Vec<Vec<u32>>,
}

/// Keys and values of a session in one layer, as cached: KV head, token, dimension.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerCacheView {
    /// Keys.
    pub keys: Vec<Vec<f32>>,
    /// Values.
    pub values: Vec<Vec<f32>>,
}

/// Chooses the tokens that each KV head of a layer attends besides the sink and the recent blocks: given the layer's
/// number and its view (of which queries, key and value are known), as many positions a KV head as the row's budget has
/// tokens, ascending, between the sink and the recent window.
pub type HostSelector<'a> = dyn FnMut(usize, &LayerView, &RowBudget) -> Vec<Vec<u32>> + Send + 'a;

// Where the parts of a layer's view lie in what is read back, in words.
struct Places {
    qkv: u64,
    attended: u64,
    scores: u64,
    blocks: u64,
    tokens: u64,
    total: u64,
}

impl Engine {
    /// A decode step of one session as [`Engine::decode`] makes it, with what each layer computed.
    ///
    /// # Errors
    /// As [`Engine::decode`].
    pub async fn observe(
        &self,
        session: &mut Session,
        token: u32,
        attention: &Attention,
        want: Want,
    ) -> Result<(Output, Vec<LayerView>)> {
        let whole = self.selecting()?;
        self.check_tokens(session, &[token])?;
        self.recount(session).await?;
        let two_level = match attention {
            Attention::TwoLevel(two_level) => {
                self.check_selection(two_level)?;
                self.freeze(session).await?;
                Some(two_level).filter(|t| session.len() + 1 > t.budget.dense_below)
            }
            Attention::Dense => None,
        };
        let tokens = [token];
        let turn = self.runner.turn().await;
        self.gpu.check()?;
        let mut batch = [(&mut *session, &tokens[..])];
        let begun = self.begin(&mut batch)?;
        let Begun { batch, prepared } = &begun;
        let made = async {
            let plan = self.plan(batch, Mode::Decode(two_level), want, Over::Cache);
            let places = self.places(&plan);
            let bytes = places.total * 4 * whole.layers.len() as u64;
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let seen = self.gpu.lend("an observation", bytes, usage).await?;
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            self.record_copies(&mut encoder, whole, prepared);
            for (i, layer) in whole.layers.iter().enumerate() {
                let base = places.total * i as u64;
                {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    if i == 0 {
                        self.runner.record_embedding(&mut pass, &plan.step);
                    }
                    layer.record(&mut pass, &plan, ..=Stage::SelectBlocks);
                }
                self.copy_scores(&mut encoder, &seen, base + places.scores, &plan);
                {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    layer.record(&mut pass, &plan, Stage::SelectTokens..=Stage::Merge);
                }
                let scratch = &self.runner.scratch();
                for (from, to, end) in [
                    (&scratch.rows, places.qkv, places.attended),
                    (scratch.merged(), places.attended, places.scores),
                    (&scratch.chosen_blocks, places.blocks, places.tokens),
                    (&scratch.chosen_tokens, places.tokens, places.total),
                ] {
                    if end > to {
                        let bytes = (end - to) * 4;
                        encoder.copy_buffer_to_buffer(from, 0, &seen, (base + to) * 4, bytes);
                    }
                }
                let mut pass = encoder.begin_compute_pass(&Default::default());
                layer.record(&mut pass, &plan, Stage::Project..);
                if i + 1 == whole.layers.len() {
                    self.runner.record_logits(&mut pass, &plan.step);
                }
            }
            let output = self.runner.finish(encoder, &plan.step).await?;
            let data = words(&self.gpu.read(&seen, bytes).await?);
            let row =
                two_level.map(|t| t.effective_budget().row(batch[0].0.len(), self.shape.block));
            let views = data
                .chunks_exact(places.total as usize)
                .map(|layer| self.view(layer, &places, row.as_ref(), &plan));
            Ok((output, views.collect()))
        }
        .await;
        let made = made?;
        self.end(begun);
        drop(turn);
        Ok(made)
    }

    /// A decode step of one session whose tokens `select` chooses, layer by layer: a submission and a wait a layer.
    ///
    /// # Errors
    /// [`Error::Argument`] for a choice that is not as [`HostSelector`] wants it, else as [`Engine::decode`].
    pub async fn decode_selected(
        &self,
        session: &mut Session,
        token: u32,
        budget: &Budget,
        select: &mut HostSelector<'_>,
        want: Want,
    ) -> Result<Output> {
        let whole = self.selecting()?;
        let two_level = TwoLevel::new(*budget);
        self.check_selection(&two_level)?;
        let tokens = [token];
        self.check_tokens(session, &tokens)?;
        self.recount(session).await?;
        let turn = self.runner.turn().await;
        self.gpu.check()?;
        let mut batch = [(&mut *session, &tokens[..])];
        let begun = self.begin(&mut batch)?;
        let Begun { batch, prepared } = &begun;
        let made = async {
            let plan = self.plan(batch, Mode::Decode(Some(&two_level)), want, Over::Cache);
            let row = budget.row(batch[0].0.len(), self.shape.block);
            let bytes = u64::from(self.shape.row_width()) * 4;
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            self.record_copies(&mut encoder, whole, prepared);
            for (i, layer) in whole.layers.iter().enumerate() {
                {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    if i == 0 {
                        self.runner.record_embedding(&mut pass, &plan.step);
                    }
                    layer.record(&mut pass, &plan, ..=Stage::Index);
                }
                let staging = &self.runner.scratch().staging;
                encoder.copy_buffer_to_buffer(&self.runner.scratch().rows, 0, staging, 0, bytes);
                self.gpu.submit(encoder)?;
                let qkv = words(&self.gpu.read(staging, bytes).await?);
                let chosen = select(i, &self.projections(&qkv), &row);
                self.check_choice(&chosen, &row)?;
                self.gpu.write(
                    &self.runner.scratch().chosen_tokens,
                    0,
                    bytemuck::cast_slice(&chosen.concat()),
                );
                encoder = self.gpu.device.create_command_encoder(&Default::default());
                let mut pass = encoder.begin_compute_pass(&Default::default());
                layer.record(&mut pass, &plan, Stage::Attend..);
                if i + 1 == whole.layers.len() {
                    self.runner.record_logits(&mut pass, &plan.step);
                }
            }
            self.runner.finish(encoder, &plan.step).await
        }
        .await;
        let output = made?;
        self.end(begun);
        drop(turn);
        Ok(output)
    }

    /// The keys and values of a session, layer by layer, read back from the cache.
    ///
    /// # Errors
    /// [`Error::Argument`] for another engine's session, else what the device answers.
    pub async fn read_cache(&self, session: &Session) -> Result<Vec<LayerCacheView>> {
        self.check_owner(session)?;
        let whole = self.whole()?;
        let _turn = self.runner.turn().await;
        let block_bytes = self.shape.block_bytes();
        let blocks = session.table.blocks();
        if session.lacks_cache() {
            return Err(Error::Gpu("a step failed that should have computed the session".into()));
        }
        let bytes = (blocks.len() as u64 * block_bytes).max(4);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let seen = self.gpu.lend("a copy of the cache", bytes, usage).await?;
        let layers = whole.kv.blocks().layers().len();
        let mut views = Vec::with_capacity(layers);
        for layer in 0..layers {
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            for (i, &block) in blocks.iter().enumerate() {
                let (buffer, from) = whole.kv.blocks().place(layer, block);
                let to = i as u64 * block_bytes;
                encoder.copy_buffer_to_buffer(buffer, from, &seen, to, block_bytes);
            }
            self.gpu.submit(encoder)?;
            let data = self.gpu.read(&seen, bytes).await?;
            views.push(self.unpack_cache(&data, session.len() as usize));
        }
        Ok(views)
    }

    // Observations read caches as they lie on the GPU.
    fn whole(&self) -> Result<&Whole> {
        let limit = "what is observed needs all of it on the GPU";
        match &self.residency {
            Residency::Whole(whole) => Ok(whole),
            Residency::Hot(_) => Err(Error::argument("the KV cache", "in CPU memory", limit)),
        }
    }

    // Of layers that select nothing there is no choice to observe.
    fn selecting(&self) -> Result<&Whole> {
        let whole = self.whole()?;
        if whole.layers.iter().all(|layer| layer.selects) {
            return Ok(whole);
        }
        let (context, limit) = (self.options.context, "layers that select are observed, and");
        let window = self.config.sliding_window().map_or(0, |sliding| sliding.tokens);
        Err(Error::argument(
            "the context",
            format!("{context} tokens"),
            format!("{limit} with more than {window} some of this model attend a sliding window"),
        ))
    }

    fn unpack_cache(&self, data: &[u8], tokens: usize) -> LayerCacheView {
        let (heads, d) = (self.shape.kv_heads as usize, self.shape.head_dim as usize);
        let (block, cached) = (self.shape.block as usize, self.shape.cached_rows() as usize);
        let rows = |which: usize, length: usize| {
            (0..heads)
                .map(|head| {
                    let mut rows = Vec::with_capacity(tokens * length);
                    for token in 0..tokens {
                        let part = (token / block * heads + head) * cached + which;
                        let at = (part * block + token % block) * d * 2;
                        let halves = data[at..at + 2 * length].chunks_exact(2);
                        rows.extend(halves.map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()));
                    }
                    rows
                })
                .collect()
        };
        LayerCacheView {
            keys: rows(0, d),
            // With one cached row, values lie in it.
            values: rows(cached - 1, self.shape.value_dim() as usize),
        }
    }

    fn places(&self, plan: &Plan<'_>) -> Places {
        let (q_heads, kv_heads) = (u64::from(self.shape.q_heads()), u64::from(self.shape.kv_heads));
        let step = &plan.step;
        let sealed = if step.ranks_blocks { u64::from(step.sealed) } else { 0 };
        let attended = u64::from(self.shape.row_width());
        let scores = attended + q_heads * u64::from(self.shape.value_dim());
        let blocks = scores + q_heads * sealed;
        let tokens = blocks + kv_heads * u64::from(step.blocks_kept);
        let total = tokens + kv_heads * u64::from(step.tokens_kept);
        Places { qkv: 0, attended, scores, blocks, tokens, total }
    }

    fn copy_scores(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        seen: &wgpu::Buffer,
        to: u64,
        plan: &Plan<'_>,
    ) {
        if !plan.step.ranks_blocks {
            return;
        }
        let bytes = u64::from(plan.step.sealed) * 4;
        let stride = self.shape.score_stride(self.options.context) * 4;
        for head in 0..u64::from(self.shape.q_heads()) {
            let scores = &self.runner.scratch().scores;
            encoder.copy_buffer_to_buffer(
                scores,
                head * stride,
                seen,
                to * 4 + head * bytes,
                bytes,
            );
        }
    }

    fn view(
        &self,
        data: &[u32],
        places: &Places,
        row: Option<&RowBudget>,
        plan: &Plan<'_>,
    ) -> LayerView {
        let part = |from: u64, to: u64| &data[from as usize..to as usize];
        let mut view = self.projections(part(places.qkv, places.attended));
        view.attended = floats(part(places.attended, places.scores));
        let (Some(row), Some(sealed)) = (row, usize::try_from(plan.step.sealed).ok()) else {
            return view;
        };
        let scores = floats(part(places.scores, places.blocks));
        if !scores.is_empty() {
            view.block_scores = scores.chunks_exact(sealed).map(<[f32]>::to_vec).collect();
        }
        let lists = |words: &[u32], kept: u32, chosen: u32| {
            (0..self.shape.kv_heads as usize)
                .map(|head| words[head * kept as usize..][..chosen as usize].to_vec())
                .collect()
        };
        view.blocks = lists(part(places.blocks, places.tokens), plan.step.blocks_kept, row.blocks);
        view.tokens = lists(part(places.tokens, places.total), plan.step.tokens_kept, row.tokens);
        view
    }

    // Queries, key and value of a row.
    fn projections(&self, qkv: &[u32]) -> LayerView {
        let d = self.shape.head_dim as usize;
        let (q, kv) = (self.shape.q_heads() as usize * d, self.shape.kv_heads as usize * d);
        let qkv = floats(qkv);
        let cached = |values: &[f32]| {
            let most = f16::MAX.to_f32();
            values.iter().map(|v| f16::from_f32(v.clamp(-most, most)).to_f32()).collect()
        };
        LayerView {
            queries: qkv[..q].to_vec(),
            key: cached(&qkv[q..q + kv]),
            value: match self.shape.values {
                Values::Own => cached(&qkv[q + kv..q + 2 * kv]),
                Values::OfKeys(length) => cached(&qkv[q..q + length as usize]),
            },
            ..LayerView::default()
        }
    }

    fn check_choice(&self, chosen: &[Vec<u32>], row: &RowBudget) -> Result<()> {
        let block = self.shape.block;
        let eligible = row.sink * block..row.recent_first * block;
        let right = |tokens: &Vec<u32>| {
            tokens.len() == row.tokens as usize
                && tokens.windows(2).all(|pair| pair[0] < pair[1])
                && tokens.iter().all(|token| eligible.contains(token))
        };
        if chosen.len() == self.shape.kv_heads as usize && chosen.iter().all(right) {
            return Ok(());
        }
        let lengths: Vec<usize> = chosen.iter().map(Vec::len).collect();
        Err(Error::argument(
            "the host's selection",
            format!("lists of {lengths:?} tokens"),
            format!(
                "{} KV heads each need {} ascending positions from {} to before {}",
                self.shape.kv_heads, row.tokens, eligible.start, eligible.end
            ),
        ))
    }
}

fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|&w| f32::from_bits(w)).collect()
}
