//! Decode steps over a hot cache. `exact` waits, layer by layer, for the blocks that it lacks; `lagged` and `resident` never
//! wait for the choice of their own step: what it chose is fetched for the next, a group of layers at a time.

use super::lag::{Lag, Lists, Missed, in_both, next_list, wanted};
use super::{GROUP_LAYERS, HotBuffers, HotState, HotTurn};
use crate::attention::{Reads, RowBudget, Timing, TwoLevel};
use crate::engine::forward::Over;
use crate::engine::layer::Stage;
use crate::engine::record::{Mode, Plan};
use crate::engine::{Output, Session, Want};
use crate::kernels::NO_SLOT;
use crate::kv::{Policy, Wanted};
use crate::{Error, Result, subject};
use std::sync::atomic::{AtomicU64, Ordering};

// How many they are.
fn count(lists: &Lists) -> u64 {
    lists.iter().flatten().map(|list| list.len() as u64).sum()
}

// What a decode step has in common for all layers.
struct Decode<'a> {
    plan: Plan<'a>,
    /// Block table of each row.
    tables: Vec<&'a [u32]>,
    /// Budget of each row, and of the row that follows it.
    budgets: Vec<(RowBudget, RowBudget)>,
    /// Slot and next position of each row's session.
    next: Vec<(u32, u32)>,
    kv_heads: u32,
}

impl Decode<'_> {
    // The blocks that a layer chose.
    fn read_lists(&self, bytes: &[u8]) -> Lists {
        let (heads, kept) = (self.kv_heads as usize, self.plan.step.blocks_kept as usize);
        let (words, _) = bytes.as_chunks::<4>();
        let of_row = |((budget, _), row): (&(RowBudget, RowBudget), &[[u8; 4]])| {
            let of_head = |list: &[[u8; 4]]| {
                list[..budget.blocks as usize]
                    .iter()
                    .map(|word| u32::from_le_bytes(*word))
                    .collect()
            };
            row.chunks(kept).map(of_head).collect()
        };
        self.budgets.iter().zip(words.chunks(heads * kept)).map(of_row).collect()
    }

    // The shares of mass that a layer's rows missed.
    fn read_shares<'b>(&self, bytes: &'b [u8]) -> impl Iterator<Item = f32> + use<'b> {
        let (words, _) = bytes.as_chunks::<4>();
        let count = self.budgets.len() * self.kv_heads as usize;
        words.iter().take(count).map(|word| f32::from_le_bytes(*word))
    }

    // What a layer's lists want of a KV head.
    fn wanted(&self, lists: &Lists, head: usize) -> Vec<u32> {
        wanted(lists.iter().zip(&self.tables).map(|(row, table)| (&row[head][..], *table)))
    }

    // Blocks that a layer lists for a KV head, those that rows share counted for each.
    fn listed_blocks(&self) -> usize {
        (self.plan.step.rows * self.plan.step.blocks_kept) as usize
    }

    // Whether the next step keeps as many blocks of each row.
    fn keeps_budgets(&self) -> bool {
        self.budgets.iter().all(|(now, next)| now.blocks == next.blocks)
    }

    // Bytes of a layer's lists.
    fn list_bytes(&self) -> u64 {
        let step = &self.plan.step;
        u64::from(step.rows * self.kv_heads * step.blocks_kept) * 4
    }
}

impl HotTurn<'_> {
    pub(super) async fn decode(
        &mut self,
        batch: &[(&mut Session, &[u32])],
        selection: Option<&TwoLevel>,
        want: Want,
    ) -> Result<Output> {
        if let Some(two_level) = selection {
            self.check_selection(two_level)?;
        }
        let sessions: Vec<(&Session, u32)> =
            batch.iter().map(|(session, _)| (&**session, session.len())).collect();
        let rows: Vec<(u32, u32)> =
            sessions.iter().map(|(session, position)| (session.slot.index, *position)).collect();
        let timing = self.state.offload.rule.timing;
        let leads_here = |lag: &Lag| {
            timing != Timing::Exact && selection.is_some_and(|by| lag.leads_to(&rows, by))
        };
        let continued = self.state.lag.take().filter(leads_here);
        if continued.is_none() {
            self.finish_pending().await?;
        }
        self.bring_window(&sessions).await?;
        self.state.offload.residents.begin_step();
        let (output, stands) = self.pass(batch, &sessions, selection, want, continued).await?;
        if stands {
            return Ok(output);
        }
        // By `exact`, before anybody has the token.
        self.begin_again(&sessions).await?;
        self.pass(batch, &sessions, selection, want, None).await.map(|(output, _)| output)
    }

    // Takes back what a step left that does not stand. Keys, values and index are overwritten where they are.
    async fn begin_again(&mut self, sessions: &[(&Session, u32)]) -> Result<()> {
        self.finish_pending().await?;
        let sealed = self.sealed_blocks(sessions);
        if !sealed.is_empty() {
            self.state.offload.complete_all(&self.engine.gpu).await?;
        }
        for block in sealed {
            self.state.is_stale |= self.state.offload.reopen(block);
        }
        self.settle_slots().await?;
        self.state.offload.residents.begin_again();
        Ok(())
    }

    // The layers once; whether what they made stands.
    async fn pass(
        &mut self,
        batch: &[(&mut Session, &[u32])],
        sessions: &[(&Session, u32)],
        selection: Option<&TwoLevel>,
        want: Want,
        continued: Option<Lag>,
    ) -> Result<(Output, bool)> {
        let rows: Vec<(u32, u32)> =
            sessions.iter().map(|(session, position)| (session.slot.index, *position)).collect();
        let windows: Vec<Vec<u32>> = sessions
            .iter()
            .map(|(session, position)| {
                let kept = self.window_blocks(*position);
                self.state.offload.window.table(session.table.blocks(), &kept)
            })
            .collect();
        let mode = Mode::Decode(selection);
        let over = Over::Window(&windows, self.state.offload.residents.epoch());
        let rule = self.state.offload.rule;
        let plan = Plan {
            timing: if continued.is_some() { rule.timing } else { Timing::Exact },
            ..self.engine.plan(batch, mode, want, over)
        };
        // What keeps every block misses none.
        let weighs_missed = continued.is_some() && rule.weighs() && plan.step.ranks_blocks;
        let plan = Plan { weighs_missed, ..plan };
        let own = &self.hot.buffers;
        let over_window = plan.step.over_window();
        self.engine.gpu.write(&own.append_step, 0, bytemuck::cast_slice(&over_window));
        let budget = selection.map(TwoLevel::effective_budget);
        let decode = Decode {
            plan,
            tables: sessions.iter().map(|(session, _)| session.table.blocks()).collect(),
            budgets: rows
                .iter()
                .filter_map(|&(_, position)| {
                    let row = |position| budget.map(|b| b.row(position, self.engine.shape.block));
                    Some((row(position)?, row(position + 1)?))
                })
                .collect(),
            next: rows.iter().map(|&(slot, position)| (slot, position + 1)).collect(),
            kv_heads: self.engine.shape.kv_heads,
        };
        let mut encoder = self.engine.gpu.device.create_command_encoder(&Default::default());
        match selection {
            None => self.decode_dense(&mut encoder, &decode, &windows).await?,
            Some(two_level) => {
                let kept = decode.plan.step.blocks_kept * decode.plan.step.rows;
                self.check_hot_blocks(kept, "the blocks that level 1 keeps")?;
                match continued {
                    Some(lag) => self.decode_behind(&mut encoder, &decode, lag).await?,
                    None => self.decode_exact(&mut encoder, &decode, two_level).await?,
                }
            }
        }
        self.write_back(&mut encoder, sessions).await?;
        self.submit(&mut encoder)?;
        if want != Want::Nothing {
            let mut pass = self.engine.gpu.pass(&mut encoder, "logits", 0);
            self.engine.runner.record_logits(&mut pass, &decode.plan.step);
            drop(pass);
        }
        let end = self.engine.runner.submit_wanted(encoder, &decode.plan.step)?;
        if !rule.overlaps {
            let output = self.engine.runner.read_wanted(end, &decode.plan.step).await?;
            let stands = self.bring_ahead(&decode).await?;
            return Ok((output, stands));
        }
        // While the GPU ends the step, the next one's blocks are gathered.
        let stands = self.gather_ahead(&decode).await?;
        let output = self.engine.runner.read_wanted(end, &decode.plan.step).await?;
        Ok((output, stands))
    }

    fn check_selection(&self, two_level: &TwoLevel) -> Result<()> {
        let options = &self.hot.options;
        let limit = "exact logits need all keys on the GPU";
        if two_level.block_scorer.reads() == Reads::Keys {
            return Err(Error::argument(subject::BLOCK_SCORER, two_level.block_scorer, limit));
        }
        if two_level.token_scorer.reads() == Reads::Keys {
            return Err(Error::argument(subject::TOKEN_SCORER, two_level.token_scorer, limit));
        }
        let budget = two_level.budget;
        for (what, value, most) in [
            ("the sink", budget.sink_blocks, options.sink_blocks),
            ("the recent window", budget.recent_blocks, options.recent_blocks),
        ] {
            if value > most {
                let limit = format!("the window of the hot cache was made for {most}");
                return Err(Error::argument(what, format!("{value} blocks"), limit));
            }
        }
        Ok(())
    }

    fn check_hot_blocks(&self, needed: u32, what: &str) -> Result<()> {
        let there = self.hot.options.hot_blocks;
        if needed <= there {
            return Ok(());
        }
        Err(Error::argument(
            "the hot cache",
            format!("{there} blocks"),
            format!("{what} need {needed}: give it more GPU memory, or keep fewer blocks"),
        ))
    }

    // Dense attention: every block has to be on the GPU.
    async fn decode_dense(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        decode: &Decode<'_>,
        windows: &[Vec<u32>],
    ) -> Result<()> {
        // The last block of each is open, and in the window.
        let mut all: Vec<u32> = decode
            .tables
            .iter()
            .zip(windows)
            .flat_map(|(table, window)| table.iter().zip(window))
            .filter_map(|(&physical, &slot)| (slot == NO_SLOT).then_some(physical))
            .collect();
        all.sort_unstable();
        all.dedup();
        self.check_hot_blocks(all.len() as u32, "the blocks of dense attention")?;
        let mut items = Vec::new();
        let list = |_, _| all.clone();
        let wanted = Wanted { layers: 0..self.ops.layers.len(), list, blocks: all.len() };
        self.state.offload.want(wanted, &mut items);
        if self.state.offload.lacks(&items) {
            self.state.offload.complete_all(&self.engine.gpu).await?;
        }
        self.record_items(encoder, &mut items, false).await?;
        let groups = self.ops.layers.chunks(GROUP_LAYERS);
        for (i, group) in groups.enumerate() {
            {
                let mut pass = self.engine.gpu.pass(encoder, "layers", i * GROUP_LAYERS);
                if i == 0 {
                    self.engine.runner.record_embedding(&mut pass, &decode.plan.step);
                }
                for layer in group {
                    layer.record(&mut pass, &decode.plan, ..);
                }
            }
            self.submit(encoder)?;
        }
        Ok(())
    }

    // Three parts a layer: A chooses blocks; B chooses their tokens and attends what is here, while the CPU gathers what is
    // not; C attends what arrived.
    async fn decode_exact(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        decode: &Decode<'_>,
        two_level: &TwoLevel,
    ) -> Result<()> {
        {
            let mut pass = self.engine.gpu.pass(encoder, "choose", 0);
            self.engine.runner.record_embedding(&mut pass, &decode.plan.step);
            self.ops.layers[0].record(&mut pass, &decode.plan, ..=Stage::SelectBlocks);
        }
        let mut slot = self.record_choice_back(encoder, 0, decode).await?;
        self.submit(encoder)?;
        let mut lists = Vec::with_capacity(self.ops.layers.len());
        let mut has_missed = false;
        for (number, layer) in self.ops.layers.iter().enumerate() {
            {
                let mut pass = self.engine.gpu.pass(encoder, "attend", number);
                layer.record(&mut pass, &decode.plan, Stage::SelectTokens..=Stage::Attend);
            }
            self.submit(encoder)?;
            // The GPU waits for the CPU from here on: what does not depend on the choice is ready before it comes.
            let mut rest = self.engine.gpu.device.create_command_encoder(&Default::default());
            let following = self.ops.layers.get(number + 1);
            {
                let what = if following.is_some() { "finish, choose" } else { "finish" };
                let mut pass = self.engine.gpu.pass(&mut rest, what, number);
                layer.record(&mut pass, &decode.plan, Stage::Project..);
                if let Some(following) = following {
                    following.record(&mut pass, &decode.plan, ..=Stage::SelectBlocks);
                }
            }
            let next = match following {
                None => None,
                Some(_) => Some(self.record_choice_back(&mut rest, number + 1, decode).await?),
            };
            let rest = rest.finish();
            if has_missed {
                self.state.offload.uploads.stand_by();
            }
            self.state.selections.wait(&self.engine.gpu, slot).await?;
            let chosen = self.state.selections.read(slot, |bytes| Ok(decode.read_lists(bytes)))?;
            let mut items = Vec::new();
            let list = |_, head| decode.wanted(&chosen, head);
            let (layers, blocks) = (number..number + 1, decode.listed_blocks());
            self.state.offload.want(Wanted { layers, list, blocks }, &mut items);
            has_missed = !items.is_empty();
            if self.state.offload.lacks(&items) {
                self.state.offload.complete_all(&self.engine.gpu).await?;
            }
            // The last slot of the ring is filled while the commands that use it are put together.
            let mut unfilled = self.load_next(encoder, &mut items).await?;
            while let (false, Some(upload)) = (items.is_empty(), &unfilled) {
                self.record_upload(encoder, upload);
                self.state.offload.fill(upload, false, || ())?;
                unfilled = self.load_next(encoder, &mut items).await?;
            }
            if let Some(upload) = &unfilled {
                self.record_arrival(encoder, upload);
            }
            {
                let mut pass = self.engine.gpu.pass(encoder, "place, merge", number);
                if let Some(upload) = &unfilled {
                    self.record_place(&mut pass, upload);
                    layer.merge_arrived(&mut pass, &decode.plan);
                } else {
                    layer.record(&mut pass, &decode.plan, Stage::Merge..=Stage::Merge);
                }
            }
            self.submit_with(encoder, unfilled, rest)?;
            self.state.offload.residents.count_chosen(count(&chosen), 0);
            lists.push(chosen);
            slot = next.unwrap_or(slot);
        }
        self.note_lists(decode, two_level, lists).await
    }

    // Records the way of a layer's choice to the CPU: the slot it comes in.
    async fn record_choice_back(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        layer: usize,
        decode: &Decode<'_>,
    ) -> Result<usize> {
        let slot = self.take_selection_slot().await?;
        let to = self.state.selections.buffer(slot);
        let (wanted, bytes) = (&self.hot.buffers.wanted, decode.list_bytes());
        encoder.copy_buffer_to_buffer(&wanted.buffer, wanted.at(layer), to, 0, bytes);
        self.state.selections.send(slot, bytes, encoder);
        Ok(slot)
    }

    // What the step before chose is fetched by now, or is waited for; what this one chooses is read back while it runs on.
    async fn decode_behind(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        decode: &Decode<'_>,
        mut lag: Lag,
    ) -> Result<()> {
        let HotBuffers { wanted, listed, missed, .. } = &self.hot.buffers;
        let lists = decode.plan.timing == Timing::Lagged;
        for (group, layers) in self.ops.layers.chunks(GROUP_LAYERS).enumerate() {
            let first = group * GROUP_LAYERS;
            self.record_group(encoder, group).await?;
            if lists && lag.listed_by != Some(decode.plan.step.blocks_kept) {
                self.write_lists(&lag.lists[first..][..layers.len()], first, decode);
            }
            {
                let mut pass = self.engine.gpu.pass(encoder, "layers", first);
                if group == 0 {
                    self.engine.runner.record_embedding(&mut pass, &decode.plan.step);
                }
                for layer in layers {
                    layer.record(&mut pass, &decode.plan, ..);
                }
            }
            let slot = self.take_selection_slot().await?;
            let to = self.state.selections.buffer(slot);
            let mut bytes = wanted.at(layers.len() - 1) + decode.list_bytes();
            encoder.copy_buffer_to_buffer(&wanted.buffer, wanted.at(first), to, 0, bytes);
            if lists {
                let (from, to) = (wanted.at(first), listed.at(first));
                encoder.copy_buffer_to_buffer(&wanted.buffer, from, &listed.buffer, to, bytes);
            }
            if decode.plan.weighs_missed {
                let (shares, behind) = (missed.at(layers.len()), wanted.at(GROUP_LAYERS));
                encoder.copy_buffer_to_buffer(&missed.buffer, missed.at(first), to, behind, shares);
                bytes = behind + shares;
            }
            self.state.selections.send(slot, bytes, encoder);
            self.state.groups[group].selection = Some(slot);
            self.submit(encoder)?;
        }
        lag.rows.clone_from(&decode.next);
        let keeps = lists && decode.keeps_budgets();
        lag.listed_by = keeps.then_some(decode.plan.step.blocks_kept);
        self.state.lag = Some(lag);
        Ok(())
    }

    async fn take_selection_slot(&mut self) -> Result<usize> {
        let none = || Error::Gpu("every slot for selections is in use".into());
        self.state.selections.take(&self.engine.gpu).await?.ok_or_else(none)
    }

    // Reads what level 1 chose for a group, and notes what has to be fetched, and what was missed.
    async fn take_selection(
        &mut self,
        decode: &Decode<'_>,
        group: usize,
        missed_by_step: &mut Missed,
    ) -> Result<()> {
        let Some(slot) = self.state.groups[group].selection.take() else { return Ok(()) };
        self.state.selections.wait(&self.engine.gpu, slot).await?;
        self.state.offload.uploads.stand_by();
        let HotBuffers { wanted, missed, .. } = &self.hot.buffers;
        let weighs = decode.plan.weighs_missed;
        let lists = self.state.selections.read(slot, |bytes| {
            let (lists, shares) = if weighs {
                bytes.split_at(wanted.at(GROUP_LAYERS) as usize)
            } else {
                (bytes, &[][..])
            };
            let lists = lists.chunks(wanted.stride as usize);
            let lists = lists.map(|bytes| decode.read_lists(bytes)).collect::<Vec<_>>();
            for bytes in shares.chunks(missed.stride as usize) {
                let shares: Vec<f32> = decode.read_shares(bytes).collect();
                missed_by_step.add(&shares, decode.kv_heads as usize);
            }
            Ok(lists)
        })?;
        let of_group = self.ops.layers.chunks(GROUP_LAYERS).nth(group).unwrap_or_default();
        let lists = lists.into_iter().take(of_group.len()).collect();
        self.note_group(decode, group, lists).await
    }

    // Whether a step stands that missed this.
    fn stands(&mut self, missed: &Missed) -> bool {
        self.state.offload.residents.note_missed(missed.largest);
        missed.is_allowed(self.state.offload.rule.most_missed)
    }

    // What the layers of a group chose: the next step's lists, and what they lack on the GPU.
    async fn note_group(
        &mut self,
        decode: &Decode<'_>,
        group: usize,
        chosen: Vec<Lists>,
    ) -> Result<()> {
        let mut next = chosen;
        for layer in &mut next {
            for (row, (_, budget)) in layer.iter_mut().zip(&decode.budgets) {
                for list in row {
                    *list = next_list(std::mem::take(list), budget);
                }
            }
        }
        let first = group * GROUP_LAYERS;
        let HotState { offload, groups, lag, .. } = &mut *self.state;
        let kept = AtomicU64::new(0);
        let list = |layer: usize, head: usize| {
            let next = &next[layer - first];
            let before = lag.iter().flat_map(|lag| &lag.lists[layer]);
            let kept_of_row = |(before, next): (&Vec<Vec<u32>>, &Vec<Vec<u32>>)| {
                in_both(&before[head], &next[head])
            };
            kept.fetch_add(before.zip(next).map(kept_of_row).sum(), Ordering::Relaxed);
            decode.wanted(next, head)
        };
        let (layers, blocks) = (first..first + next.len(), decode.listed_blocks());
        let wanted = Wanted { layers, list, blocks };
        // A next step that keeps every block is not weighed: nothing would tell what it lacks.
        let is_weighed = decode.budgets.iter().any(|(_, next)| next.ranks_blocks());
        let policy = if is_weighed { offload.rule.ahead() } else { Policy::default() };
        let absent = offload.want_next(wanted, &policy, &mut groups[group].items);
        if !groups[group].items.is_empty() {
            offload.uploads.stand_by();
        }
        if let Some(lag) = lag {
            let kept = kept.into_inner();
            offload.residents.count_kept(kept);
            let chosen = next.iter().map(count).sum::<u64>();
            for (before, next) in lag.lists[first..].iter_mut().zip(next) {
                *before = next;
            }
            match decode.plan.timing {
                Timing::Exact => {}
                Timing::Lagged => offload.residents.count_chosen(chosen, chosen - kept),
                Timing::Resident => offload.residents.count_chosen(chosen, absent),
            }
        }
        self.complete_items(group).await
    }

    // A block that was sealed a moment ago may still be on its way to the host.
    async fn complete_items(&mut self, group: usize) -> Result<()> {
        if self.state.offload.lacks(&self.state.groups[group].items) {
            self.state.offload.complete_all(&self.engine.gpu).await?;
        }
        Ok(())
    }

    // What an exact step chose, for a step that follows it by another rule.
    async fn note_lists(
        &mut self,
        decode: &Decode<'_>,
        two_level: &TwoLevel,
        lists: Vec<Lists>,
    ) -> Result<()> {
        let rows = decode.next.clone();
        let lag = |lists| Lag { two_level: *two_level, rows, lists, listed_by: None };
        if self.state.offload.rule.timing == Timing::Exact {
            self.state.lag = Some(lag(lists));
            return Ok(());
        }
        self.state.lag = Some(lag(vec![Vec::new(); lists.len()]));
        let mut lists = lists.into_iter();
        for group in 0..self.state.groups.len() {
            let of_group = lists.by_ref().take(GROUP_LAYERS).collect();
            self.note_group(decode, group, of_group).await?;
        }
        Ok(())
    }

    // Notes what the next step wants, and gathers of it as much as the ring holds, the group that is due first first. What the
    // last group wants is known only when the GPU has hardly anything left to do: the next step gathers it, beside the groups
    // before.
    async fn gather_ahead(&mut self, decode: &Decode<'_>) -> Result<bool> {
        let (mut is_full, mut missed) = (false, Missed::default());
        let ahead = (self.state.groups.len() - 1).max(1);
        for group in 0..self.state.groups.len() {
            self.take_selection(decode, group, &mut missed).await?;
            self.state.offload.uploads.poll(&self.engine.gpu)?;
            is_full |= group == ahead;
            let HotState { offload, groups, .. } = &mut *self.state;
            let group = &mut groups[group];
            while !is_full && !group.items.is_empty() {
                match offload.uploads.load(None, &mut group.items).await? {
                    Some(upload) => {
                        offload.fill(&upload, true, || ())?;
                        group.uploads.push(upload);
                    }
                    None => is_full = true,
                }
            }
        }
        Ok(self.stands(&missed))
    }

    // Brings all that the next step wants, and waits until it is there.
    async fn bring_ahead(&mut self, decode: &Decode<'_>) -> Result<bool> {
        let mut missed = Missed::default();
        let mut encoder = self.engine.gpu.device.create_command_encoder(&Default::default());
        for group in 0..self.state.groups.len() {
            self.take_selection(decode, group, &mut missed).await?;
            self.record_group(&mut encoder, group).await?;
            self.submit(&mut encoder)?;
        }
        self.engine.gpu.wait(self.engine.gpu.submit(encoder)?).await?;
        Ok(self.stands(&missed))
    }

    // Lists the candidates of the layers from `first` on, as the step before chose them.
    fn write_lists(&self, layers: &[Lists], first: usize, decode: &Decode<'_>) {
        let listed = &self.hot.buffers.listed;
        let kept = decode.plan.step.blocks_kept as usize;
        let stride = listed.stride as usize / 4;
        let mut data = vec![0u32; stride * layers.len()];
        for (layer, data) in layers.iter().zip(data.chunks_mut(stride)) {
            let lists = layer.iter().flatten();
            for (list, data) in lists.zip(data.chunks_mut(kept.max(1))) {
                data[..list.len()].copy_from_slice(list);
            }
        }
        self.engine.gpu.write(&listed.buffer, listed.at(first), bytemuck::cast_slice(&data));
    }

    // The blocks that this step seals.
    fn sealed_blocks(&self, sessions: &[(&Session, u32)]) -> Vec<u32> {
        let block = self.engine.shape.block;
        let sealing = sessions.iter().filter(|(_, position)| (position + 1).is_multiple_of(block));
        let physical = |(session, position): &(&Session, u32)| {
            session.table.blocks()[(position / block) as usize]
        };
        sealing.map(physical).collect()
    }

    // Copies the blocks that this step seals to the host.
    async fn write_back(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        sessions: &[(&Session, u32)],
    ) -> Result<()> {
        let mut write_back = Vec::new();
        for physical in self.sealed_blocks(sessions) {
            let slot = self.window_slot(physical)?;
            for layer in 0..self.ops.layers.len() {
                let (buffer, at) = self.hot.cache.place(layer, slot);
                write_back.push((buffer, at, physical, layer));
            }
        }
        self.record_write_back(encoder, &write_back).await
    }
}
