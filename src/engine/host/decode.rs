//! Decode steps over a hot cache. `exact` waits, layer by layer, for the blocks that it lacks; `lagged` and `resident` never
//! wait for the choice of their own step: what it chose is fetched for the next, a group of layers at a time.

use super::lag::{Lag, in_both, next_list, wanted};
use super::{GROUP_LAYERS, Host};
use crate::attention::{Reads, RowBudget, Timing, TwoLevel};
use crate::engine::forward::Over;
use crate::engine::layer::Stage;
use crate::engine::record::{Mode, Plan};
use crate::engine::{Engine, Output, Session, Want};
use crate::{Error, Result, subject};

// Blocks that a layer chose: row, KV head, logical blocks ascending.
type Lists = Vec<Vec<Vec<u32>>>;

// What a decode step has in common for all layers.
struct Decode<'a> {
    plan: Plan<'a>,
    /// Block table of each row.
    tables: Vec<&'a [u32]>,
    /// Budget of each row, and of the row that follows it.
    budgets: Vec<(RowBudget, RowBudget)>,
    /// Slot and next position of each row's session.
    next: Vec<(u32, u32)>,
}

impl Engine {
    pub(super) async fn decode_host(
        &self,
        host: &mut Host,
        batch: &[(&mut Session, &[u32])],
        selection: Option<&TwoLevel>,
        want: Want,
    ) -> Result<Output> {
        if let Some(two_level) = selection {
            self.check_host_selection(two_level)?;
        }
        let sessions: Vec<(&Session, u32)> =
            batch.iter().map(|(session, _)| (&**session, session.len())).collect();
        let rows: Vec<(u32, u32)> =
            sessions.iter().map(|(session, position)| (session.slot.index, *position)).collect();
        let timing = self.options.host.as_ref().map_or(Timing::Exact, |host| host.timing);
        let continues = timing != Timing::Exact
            && selection.is_some_and(|two_level| {
                host.lag.as_ref().is_some_and(|lag| lag.leads_to(&rows, two_level))
            });
        if !continues {
            self.finish_pending(host)?;
        }
        self.bring_window(host, &sessions)?;
        host.offload.begin_step();
        let windows: Vec<Vec<u32>> = sessions
            .iter()
            .map(|(session, _)| host.offload.window.table(session.table.blocks()))
            .collect();
        let mode = Mode::Decode(selection);
        let over = Over::Window(&windows, host.offload.epoch());
        let plan = Plan {
            timing: if continues { timing } else { Timing::Exact },
            ..self.plan(batch, mode, want, over)
        };
        let own = self.scratch.host.as_ref().ok_or_else(Self::no_host_ops)?;
        let over_window = plan.step.over_window();
        self.gpu.write(&own.append_step, 0, bytemuck::cast_slice(&over_window));
        let budget = selection.map(TwoLevel::effective_budget);
        let decode = Decode {
            plan,
            tables: sessions.iter().map(|(session, _)| session.table.blocks()).collect(),
            budgets: rows
                .iter()
                .filter_map(|&(_, position)| {
                    let row = |position| budget.map(|b| b.row(position, self.shape.block));
                    Some((row(position)?, row(position + 1)?))
                })
                .collect(),
            next: rows.iter().map(|&(slot, position)| (slot, position + 1)).collect(),
        };
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        match selection {
            None => self.decode_dense(host, &mut encoder, &decode, &rows)?,
            Some(two_level) => {
                let kept = decode.plan.step.blocks_kept * decode.plan.step.rows;
                self.check_hot_blocks(kept, "the blocks that level 1 keeps")?;
                if continues {
                    self.decode_behind(host, &mut encoder, &decode)?;
                } else {
                    self.decode_exact(host, &mut encoder, &decode, two_level, timing)?;
                }
            }
        }
        self.write_back(host, &mut encoder, &sessions)?;
        self.submit_host(host, &mut encoder)?;
        if want != Want::Nothing {
            let mut pass = self.gpu.pass(&mut encoder, "logits", 0);
            self.record_logits(&mut pass, &decode.plan.step);
            drop(pass);
        }
        let end = self.submit_wanted(encoder, &decode.plan.step)?;
        if self.options.host.as_ref().is_some_and(|host| !host.overlaps) {
            let output = self.read_wanted(end, &decode.plan.step).await?;
            self.bring_ahead(host, &decode)?;
            return Ok(output);
        }
        // While the GPU ends the step, the next one's blocks are gathered.
        self.gather_ahead(host, &decode)?;
        self.read_wanted(end, &decode.plan.step).await
    }

    fn check_host_selection(&self, two_level: &TwoLevel) -> Result<()> {
        let options = self.options.host.as_ref().ok_or_else(Self::no_host_ops)?;
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
        let there = self.options.host.as_ref().map_or(0, |host| host.hot_blocks);
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
    fn decode_dense(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        decode: &Decode<'_>,
        rows: &[(u32, u32)],
    ) -> Result<()> {
        let block = self.shape.block;
        let mut all: Vec<u32> = decode
            .tables
            .iter()
            .zip(rows)
            .flat_map(|(table, (_, position))| &table[..(position / block) as usize])
            .copied()
            .filter(|&physical| host.offload.window.slot(physical).is_none())
            .collect();
        all.sort_unstable();
        all.dedup();
        self.check_hot_blocks(all.len() as u32, "the blocks of dense attention")?;
        let wanted = vec![all; self.shape.kv_heads as usize];
        let mut items = Vec::new();
        for layer in 0..self.layers.len() {
            host.offload.want(layer, &wanted, &mut items);
        }
        if host.offload.lacks(&items) {
            host.offload.complete_all(&self.gpu)?;
        }
        self.record_items(host, encoder, &mut items, false)?;
        let groups = self.layers.chunks(GROUP_LAYERS);
        for (i, group) in groups.enumerate() {
            {
                let mut pass = self.gpu.pass(encoder, "layers", i * GROUP_LAYERS);
                if i == 0 {
                    self.record_embedding(&mut pass, &decode.plan.step);
                }
                for layer in group {
                    layer.record(&mut pass, &decode.plan, ..);
                }
            }
            self.submit_host(host, encoder)?;
        }
        Ok(())
    }

    // Three parts a layer: A chooses blocks; B chooses their tokens and attends what is here, while the CPU gathers what is
    // not; C attends what arrived.
    fn decode_exact(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        decode: &Decode<'_>,
        two_level: &TwoLevel,
        timing: Timing,
    ) -> Result<()> {
        {
            let mut pass = self.gpu.pass(encoder, "choose", 0);
            self.record_embedding(&mut pass, &decode.plan.step);
            self.layers[0].record(&mut pass, &decode.plan, ..=Stage::SelectBlocks);
        }
        let mut slot = self.record_choice_back(host, encoder, 0, decode)?;
        self.submit_host(host, encoder)?;
        let mut lists = Vec::with_capacity(self.layers.len());
        let mut has_missed = false;
        for (number, layer) in self.layers.iter().enumerate() {
            {
                let mut pass = self.gpu.pass(encoder, "attend", number);
                layer.record(&mut pass, &decode.plan, Stage::SelectTokens..=Stage::Attend);
            }
            self.submit_host(host, encoder)?;
            // The GPU waits for the CPU from here on: what does not depend on the choice is ready before it comes.
            let mut rest = self.gpu.device.create_command_encoder(&Default::default());
            let following = self.layers.get(number + 1);
            {
                let what = if following.is_some() { "finish, choose" } else { "finish" };
                let mut pass = self.gpu.pass(&mut rest, what, number);
                layer.record(&mut pass, &decode.plan, Stage::SelectNext..);
                if let Some(following) = following {
                    following.record(&mut pass, &decode.plan, ..=Stage::SelectBlocks);
                }
            }
            let next = match following {
                None => None,
                Some(_) => Some(self.record_choice_back(host, &mut rest, number + 1, decode)?),
            };
            let rest = rest.finish();
            if has_missed {
                host.offload.stand_by();
            }
            host.selections.wait(&self.gpu, slot)?;
            let chosen = host.selections.read(slot, |bytes| Ok(self.read_lists(bytes, decode)))?;
            let mut items = Vec::new();
            let wanted = self.wanted(&chosen, decode);
            host.offload.want(number, &wanted, &mut items);
            has_missed = !items.is_empty();
            if host.offload.lacks(&items) {
                host.offload.complete_all(&self.gpu)?;
            }
            // The last slot of the ring is filled while the commands that use it are put together.
            let mut unfilled = self.load_next(host, encoder, &mut items)?;
            while let (false, Some(upload)) = (items.is_empty(), &unfilled) {
                self.record_upload(host, encoder, upload);
                host.offload.fill(upload, false, || ())?;
                unfilled = self.load_next(host, encoder, &mut items)?;
            }
            if let Some(upload) = &unfilled {
                self.record_arrival(host, encoder, upload);
            }
            {
                let mut pass = self.gpu.pass(encoder, "place, merge", number);
                if let Some(upload) = &unfilled {
                    self.record_place(&mut pass, upload);
                    layer.merge_arrived(&mut pass, &decode.plan);
                } else {
                    layer.record(&mut pass, &decode.plan, Stage::Merge..=Stage::Merge);
                }
            }
            self.submit_with(host, encoder, unfilled, rest)?;
            lists.push(chosen);
            slot = next.unwrap_or(slot);
        }
        self.note_lists(host, decode, two_level, timing, lists)
    }

    // Records the way of a layer's choice to the CPU: the slot it comes in.
    fn record_choice_back(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        layer: usize,
        decode: &Decode<'_>,
    ) -> Result<usize> {
        let own = self.scratch.host.as_ref().ok_or_else(Self::no_host_ops)?;
        let slot = self.take_selection_slot(host)?;
        let to = host.selections.buffer(slot);
        let list_bytes = self.list_words(decode) as u64 * 4;
        let at = layer as u64 * own.list_stride;
        encoder.copy_buffer_to_buffer(&own.wanted, at, to, 0, list_bytes);
        host.selections.send(slot, list_bytes, encoder);
        Ok(slot)
    }

    // What the step before chose is fetched by now, or is waited for; what this one chooses is read back while it runs on.
    fn decode_behind(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        decode: &Decode<'_>,
    ) -> Result<()> {
        let own = self.scratch.host.as_ref().ok_or_else(Self::no_host_ops)?;
        let list_bytes = self.list_words(decode) as u64 * 4;
        for (group, layers) in self.layers.chunks(GROUP_LAYERS).enumerate() {
            let first = group * GROUP_LAYERS;
            self.record_group(host, encoder, group)?;
            if decode.plan.timing == Timing::Lagged {
                self.write_lists(host, decode, first, layers.len())?;
            }
            {
                let mut pass = self.gpu.pass(encoder, "layers", first);
                if group == 0 {
                    self.record_embedding(&mut pass, &decode.plan.step);
                }
                for layer in layers {
                    layer.record(&mut pass, &decode.plan, ..);
                }
            }
            let slot = self.take_selection_slot(host)?;
            let to = host.selections.buffer(slot);
            let bytes = (layers.len() as u64 - 1) * own.list_stride + list_bytes;
            let at = first as u64 * own.list_stride;
            encoder.copy_buffer_to_buffer(&own.wanted, at, to, 0, bytes);
            host.selections.send(slot, bytes, encoder);
            host.groups[group].selection = Some(slot);
            self.submit_host(host, encoder)?;
        }
        if let Some(lag) = &mut host.lag {
            lag.rows.clone_from(&decode.next);
        }
        Ok(())
    }

    fn take_selection_slot(&self, host: &mut Host) -> Result<usize> {
        let none = || Error::Gpu("every slot for selections is in use".into());
        host.selections.take(&self.gpu)?.ok_or_else(none)
    }

    // Reads what level 1 chose for a group, and notes what has to be fetched.
    fn take_selection(&self, host: &mut Host, decode: &Decode<'_>, group: usize) -> Result<()> {
        let Some(slot) = host.groups[group].selection.take() else { return Ok(()) };
        host.selections.wait(&self.gpu, slot)?;
        let stride = self.scratch.host.as_ref().map_or(0, |own| own.list_stride as usize);
        let lists = host.selections.read(slot, |bytes| {
            let layers = bytes.chunks(stride);
            Ok(layers.map(|bytes| self.read_lists(bytes, decode)).collect::<Vec<_>>())
        })?;
        let timing = self.options.host.as_ref().map_or(Timing::Exact, |host| host.timing);
        for (i, chosen) in lists.into_iter().enumerate() {
            self.note_layer(host, decode, group * GROUP_LAYERS + i, chosen, timing)?;
        }
        Ok(())
    }

    // What a layer chose: the next step's lists, and what they lack on the GPU.
    fn note_layer(
        &self,
        host: &mut Host,
        decode: &Decode<'_>,
        layer: usize,
        chosen: Lists,
        timing: Timing,
    ) -> Result<()> {
        let mut next = chosen;
        for (row, (_, budget)) in next.iter_mut().zip(&decode.budgets) {
            for list in row {
                *list = next_list(list, budget);
            }
        }
        let wanted = self.wanted(&next, decode);
        let group = layer / GROUP_LAYERS;
        let is_patient = timing == Timing::Resident;
        host.offload.want_next(layer, &wanted, is_patient, &mut host.groups[group].items);
        if let Some(lag) = &mut host.lag {
            let before = std::mem::replace(&mut lag.lists[layer], next);
            let lists = before.iter().flatten().zip(lag.lists[layer].iter().flatten());
            host.offload.stats.kept += lists.map(|(a, b)| in_both(a, b)).sum::<u64>();
        }
        self.complete_items(host, group)
    }

    // A block that was sealed a moment ago may still be on its way to the host.
    fn complete_items(&self, host: &mut Host, group: usize) -> Result<()> {
        if host.offload.lacks(&host.groups[group].items) {
            host.offload.complete_all(&self.gpu)?;
        }
        Ok(())
    }

    // What an exact step chose, for a step that follows it by another rule.
    fn note_lists(
        &self,
        host: &mut Host,
        decode: &Decode<'_>,
        two_level: &TwoLevel,
        timing: Timing,
        lists: Vec<Lists>,
    ) -> Result<()> {
        if let Some(lag) = &host.lag
            && lag.lists.len() == lists.len()
        {
            let lists = lag.lists.iter().flatten().flatten().zip(lists.iter().flatten().flatten());
            host.offload.stats.kept += lists.map(|(a, b)| in_both(a, b)).sum::<u64>();
        }
        let rows = decode.next.clone();
        if timing == Timing::Exact {
            host.lag = Some(Lag { two_level: *two_level, rows, lists });
            return Ok(());
        }
        let nothing = vec![Vec::new(); self.layers.len()];
        host.lag = Some(Lag { two_level: *two_level, rows, lists: nothing });
        for (layer, chosen) in lists.into_iter().enumerate() {
            self.note_layer(host, decode, layer, chosen, timing)?;
        }
        Ok(())
    }

    // Notes what the next step wants, and gathers of it as much as the ring holds, the group that is due first first. What the
    // last group wants is known only when the GPU has hardly anything left to do: the next step gathers it, beside the groups
    // before.
    fn gather_ahead(&self, host: &mut Host, decode: &Decode<'_>) -> Result<()> {
        let mut is_full = false;
        let ahead = (host.groups.len() - 1).max(1);
        for group in 0..host.groups.len() {
            self.take_selection(host, decode, group)?;
            host.offload.poll(&self.gpu)?;
            is_full |= group == ahead;
            let group = &mut host.groups[group];
            while !is_full && !group.items.is_empty() {
                match host.offload.load(None, &mut group.items)? {
                    Some(upload) => {
                        host.offload.fill(&upload, true, || ())?;
                        group.uploads.push(upload);
                    }
                    None => is_full = true,
                }
            }
        }
        Ok(())
    }

    // Brings all that the next step wants, and waits until it is there.
    fn bring_ahead(&self, host: &mut Host, decode: &Decode<'_>) -> Result<()> {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for group in 0..host.groups.len() {
            self.take_selection(host, decode, group)?;
            self.record_group(host, &mut encoder, group)?;
            self.submit_host(host, &mut encoder)?;
        }
        self.gpu.wait(self.gpu.submit(encoder)?)
    }

    // The blocks that a layer chose.
    fn read_lists(&self, bytes: &[u8], decode: &Decode<'_>) -> Lists {
        let (heads, kept) = (self.shape.kv_heads as usize, decode.plan.step.blocks_kept as usize);
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
        decode.budgets.iter().zip(words.chunks(heads * kept)).map(of_row).collect()
    }

    // What a layer's lists want of each KV head.
    fn wanted(&self, lists: &Lists, decode: &Decode<'_>) -> Vec<Vec<u32>> {
        (0..self.shape.kv_heads as usize)
            .map(|head| {
                let rows = lists.iter().zip(&decode.tables);
                wanted(rows.map(|(row, table)| (&row[head][..], *table)))
            })
            .collect()
    }

    fn list_words(&self, decode: &Decode<'_>) -> usize {
        let step = &decode.plan.step;
        (step.rows * self.shape.kv_heads * step.blocks_kept) as usize
    }

    // Lists the candidates of a group's layers, as the step before chose them.
    fn write_lists(
        &self,
        host: &Host,
        decode: &Decode<'_>,
        first: usize,
        layers: usize,
    ) -> Result<()> {
        let own = self.scratch.host.as_ref().ok_or_else(Self::no_host_ops)?;
        let lag = host.lag.as_ref().ok_or_else(Self::no_host_ops)?;
        let kept = decode.plan.step.blocks_kept as usize;
        let stride = own.list_stride as usize / 4;
        let mut data = vec![0u32; stride * layers];
        for (layer, data) in lag.lists[first..first + layers].iter().zip(data.chunks_mut(stride)) {
            let lists = layer.iter().flatten();
            for (list, data) in lists.zip(data.chunks_mut(kept.max(1))) {
                data[..list.len()].copy_from_slice(list);
            }
        }
        self.gpu.write(&own.listed, first as u64 * own.list_stride, bytemuck::cast_slice(&data));
        Ok(())
    }

    // Copies the blocks that this step seals to the host.
    fn write_back(
        &self,
        host: &mut Host,
        encoder: &mut wgpu::CommandEncoder,
        sessions: &[(&Session, u32)],
    ) -> Result<()> {
        let block = self.shape.block;
        let mut write_back = Vec::new();
        for (session, position) in sessions {
            if !(position + 1).is_multiple_of(block) {
                continue;
            }
            let physical = session.table.blocks()[(position / block) as usize];
            let slot = host.offload.window.slot(physical).ok_or_else(Self::no_host_ops)?;
            for layer in 0..self.layers.len() {
                let (buffer, at) = self.cache_place(layer, slot);
                write_back.push((buffer, at, physical, layer));
            }
        }
        self.record_write_back(host, encoder, &write_back)
    }
}
